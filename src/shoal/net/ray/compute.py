"""The batched compute of a simulated world on Ray workers: chunks of jobs go there, results come back.

What many jobs need (kernels, and objects of the types that are `shared`, such as data) goes to each worker once and
stays. Vectors travel with every job, both ways, so that this pays for jobs that compute for much longer than it takes
to copy them.
"""

from __future__ import annotations

import io
import itertools
import pickle
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ray.cloudpickle import CloudPickler
from torch import Tensor

from shoal.engine.compute import Job, Kernel, Work
from shoal.engine.errors import ShoalError
from shoal.net.ray.cluster import cpus_of_each, first_answers

AHEAD = 2  # chunks that a worker has at a time, so that it need not wait for the next one
DEATHS = 3  # of workers, after which a run is given up
LEAST = 4  # jobs of a chunk that may be halved, so that all workers have something to do


class Bundle(NamedTuple):
    """Something pickled, with its tensors beside it."""

    data: bytes
    buffers: list[NDArray[np.uint8]]


class _Pickler(CloudPickler):
    """Tensors go as buffers; for what `refer` knows, its number goes."""

    def __init__(self, file: io.BytesIO, refer: Callable[[Any], int | None], buffers: list[NDArray[np.uint8]]) -> None:
        keep = partial(_keep, buffers)
        super().__init__(file, protocol=5, buffer_callback=keep)  # type: ignore[no-untyped-call]
        self._refer = refer

    def persistent_id(self, obj: Any) -> int | None:
        return self._refer(obj)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.layout != torch.strided:
            return super().reducer_override(obj)  # type: ignore[no-untyped-call]
        flat = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        away = obj.device.type != "cpu"
        buffer = pickle.PickleBuffer(flat.data) if len(flat) else None
        return _tensor, (buffer, obj.dtype, tuple(obj.shape), obj.requires_grad, away)


def _keep(buffers: list[NDArray[np.uint8]], buffer: pickle.PickleBuffer) -> None:
    buffers.append(np.frombuffer(buffer.raw(), dtype=np.uint8))


class _Unpickler(pickle.Unpickler):
    def __init__(self, bundle: Bundle, known: dict[int, Any], copy: bool, device: torch.device) -> None:
        buffers = [b.copy() if copy else b for b in bundle.buffers]  # by numpy, which asks for large pages
        super().__init__(io.BytesIO(bundle.data), buffers=buffers)
        self._known, self._device = known, device

    def persistent_load(self, number: Any) -> Any:
        return self._known[number]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, "_tensor"):
            return self._tensor
        return super().find_class(module, name)

    def _tensor(self, buffer: Any, dtype: torch.dtype, shape: tuple[int, ...], grad: bool, away: bool) -> Tensor:
        made = _tensor(buffer, dtype, shape, grad, away)
        return made.to(self._device) if away else made


def _tensor(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...], grad: bool, away: bool) -> Tensor:
    if buffer is None:
        return torch.empty(shape, dtype=dtype, requires_grad=grad)
    made = torch.frombuffer(buffer, dtype=torch.uint8)
    return made.view(dtype).reshape(shape).requires_grad_(grad)


def dump(value: Any, refer: Callable[[Any], int | None]) -> Bundle:
    """Pickle something, functions of all kinds included.

    Args:
        value: what to pickle.
        refer: object -> the number under which the reader knows it, or None.
    """
    file, buffers = io.BytesIO(), list[NDArray[np.uint8]]()
    _Pickler(file, refer, buffers).dump(value)  # type: ignore[no-untyped-call]
    return Bundle(file.getvalue(), buffers)


def load(bundle: Bundle, known: dict[int, Any], *, copy: bool, device: torch.device) -> Any:
    """What was pickled.

    Args:
        bundle: as of `dump`.
        known: number -> object.
        copy: whether tensors get memory of their own; else they share the bundle's, and must not be changed.
        device: where tensors go that were not on a CPU.
    """
    return _Unpickler(bundle, known, copy, device).load()


class Worker:
    """Computes chunks; lives in a Ray actor.

    Args:
        device: torch device of the tensors.
    """

    def __init__(self, device: str) -> None:
        torch.set_num_threads(1)
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # data, which nobody changes
        self._device = torch.device(device)
        self._known: dict[int, Any] = {}

    def ready(self) -> bool:
        """It is there."""
        return True

    def run(self, fresh: dict[int, list[Any]], stale: list[int], kernel: int, inputs: Bundle) -> Bundle:
        """Results of a chunk.

        Args:
            fresh: number -> [reference to a bundle] of what is not known here yet, in an order in which each needs
                earlier ones only.
            stale: numbers of what nobody needs any more.
            kernel: number of the kernel.
            inputs: those of the jobs.
        """
        import ray

        for number in stale:
            self._known.pop(number, None)
        for number, [reference] in fresh.items():
            self._known[number] = load(ray.get(reference), self._known, copy=False, device=self._device)
        known: Kernel = self._known[kernel]
        jobs = [Job(known, each) for each in load(inputs, self._known, copy=True, device=self._device)]
        with torch.no_grad():
            known.run(jobs)
        return dump([job.result for job in jobs], lambda value: None)


class _Hand:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.knows: set[int] = set()
        self.stale: list[int] = []
        self.busy = 0


class RayWorkers:
    """A `Dispatch` to Ray actors.

    Args:
        ray: the module, connected.
        workers: number of actors.
        shared: types of objects that go to each worker once. Whoever changes such an object makes a new one.
        device: where the tensors live; on a GPU, each worker has one of its own.
    """

    def __init__(self, ray: Any, workers: int, shared: tuple[type, ...], device: torch.device) -> None:
        self._ray, self._shared, self._device = ray, shared, device
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        gpu = device.type != "cpu"
        if gpu and ray.cluster_resources().get("GPU", 0.0) < workers:
            raise ValueError(f"compute: {workers} workers need a GPU each, which this cluster does not have")
        self._options = {"num_cpus": min(1.0, cpus_of_each(workers, nodes)), "num_gpus": int(gpu)}
        self._numbers = itertools.count(1)
        self._known: dict[int, tuple[int, Any]] = {}  # by id: number, and what removes it
        self._needs: dict[int, tuple[int, ...]] = {}  # number -> the numbers that it refers to
        self._references: dict[int, Any] = {}
        self._deaths = 0
        self._hands = [self._make() for _ in range(workers)]
        try:
            first_answers(ray, [hand.actor.ready.remote() for hand in self._hands], "compute")
        except BaseException:
            self.close()
            raise

    def _make(self) -> _Hand:
        actor: Any = self._ray.remote(Worker).options(scheduling_strategy="SPREAD", **self._options)
        return _Hand(actor.remote("cpu" if self._device.type == "cpu" else "cuda"))

    def __call__(self, work: Work) -> None:
        """Run all chunks; see `Dispatch`."""
        waiting = deque(spread(work, len(self._hands)))
        flying: dict[Any, tuple[_Hand, Kernel, list[Job]]] = {}
        while waiting or flying:
            while waiting and (hand := min(self._hands, key=lambda hand: hand.busy)).busy < AHEAD:
                kernel, chunk = waiting.popleft()
                flying[self._send(hand, kernel, chunk)] = (hand, kernel, chunk)
            for reference in self._ray.wait(list(flying), num_returns=1)[0]:
                hand, kernel, chunk = flying.pop(reference)
                hand.busy -= 1
                if not self._take(reference, hand, chunk):
                    waiting.appendleft((kernel, chunk))

    def _send(self, hand: _Hand, kernel: Kernel, chunk: list[Job]) -> Any:
        needed: set[int] = set()
        number = self._number(kernel)
        self._need(number, needed)

        def refer(value: Any) -> int | None:
            if not isinstance(value, self._shared):
                return None
            found = self._number(value)
            self._need(found, needed)
            return found

        inputs = dump([job.inputs for job in chunk], refer)
        fresh = {n: [self._references[n]] for n in sorted(needed - hand.knows)}
        stale, hand.stale = hand.stale, []
        hand.knows |= needed
        hand.busy += 1
        return hand.actor.run.remote(fresh, stale, number, inputs)

    def _take(self, reference: Any, hand: _Hand, chunk: list[Job]) -> bool:
        """Set a chunk's results; False if its worker died."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            bundle = self._ray.get(reference)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            if hand in self._hands:
                self._deaths += 1
                if self._deaths > DEATHS:
                    raise ShoalError(f"compute: {self._deaths} Ray workers died, the last: {error}") from error
                self._hands[self._hands.index(hand)] = self._make()
            return False
        for job, result in zip(chunk, load(bundle, {}, copy=True, device=self._device), strict=True):
            job.result = result
        return True

    # -- what workers know -----------------------------------------------------------------------------------

    def _need(self, number: int, needed: set[int]) -> None:
        if number not in needed:
            needed.add(number)
            for inner in self._needs[number]:
                self._need(inner, needed)

    def _number(self, value: Any) -> int:
        """The number of a shared object; at first it is stored for the workers."""
        found = self._known.get(id(value))
        if found is not None:
            return found[0]
        inner: list[int] = []

        def refer(part: Any) -> int | None:
            if part is value or not isinstance(part, self._shared):
                return None
            inner.append(self._number(part))
            return inner[-1]

        bundle = dump(value, refer)
        number = next(self._numbers)  # after the inner ones: workers load in order
        self._needs[number], self._references[number] = tuple(dict.fromkeys(inner)), self._ray.put(bundle)
        guard = weakref.finalize(value, self._forget, id(value), number)
        guard.atexit = False
        self._known[id(value)] = (number, guard)
        return number

    def _forget(self, identity: int, number: int) -> None:
        """A shared object is gone, and its address may be another's."""
        self._known.pop(identity, None)
        self._references.pop(number, None)
        for hand in self._hands:
            if number in hand.knows:
                hand.stale.append(number)

    def close(self) -> None:
        """End the workers."""
        for _, guard in self._known.values():
            guard.detach()
        for hand in self._hands:
            self._ray.kill(hand.actor)


def spread(work: Work, workers: int) -> list[tuple[Kernel, list[Job]]]:
    """The work in at least as many chunks as there are workers, where that is possible; the largest ones are halved."""
    chunks = list(work)
    while len(chunks) < workers:
        largest = max(range(len(chunks)), key=lambda i: len(chunks[i][1]), default=None)
        if largest is None or len(chunks[largest][1]) < LEAST:
            break
        kernel, jobs = chunks[largest]
        half = len(jobs) // 2
        chunks[largest : largest + 1] = [(kernel, jobs[:half]), (kernel, jobs[half:])]
    return chunks
