"""A `torch.distributed` group: acts of all processes, which block in a thread of their own and name who is gone."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from shoal.engine.errors import PeerLost, ShoalError
from shoal.net.meeting import agree_on_session
from shoal.net.pulse import Pulse
from shoal.tensors.payload import Content, decode, encode

T = TypeVar("T")
TIMEOUT, DEAD = 600.0, 10.0  # seconds, see `Group.join`
WASTE = 1.25  # what comes in different sizes is padded to one if that makes it at most so many times as much


class GroupFailed(ShoalError):
    """The processes of a group could not do something together, and all of them live."""


class Group:
    """The processes that torchrun started, or whoever sets the same environment variables.

    Attributes:
        rank, size: of this process, and of the group.
        device: where tensors must lie to be sent: a GPU with NCCL, the CPU with gloo.
        broken: whether something went wrong, after which the group can do nothing any more.
    """

    def __init__(self, store: Any, rank: int, size: int, device: torch.device, timeout: float, dead: float) -> None:
        self.rank, self.size, self.device, self.timeout = rank, size, device, timeout
        self.broken = False
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        limit = timedelta(seconds=timeout)
        try:
            session = agree_on_session(PrefixStore("shoal/meeting", store), rank, size, timeout)
        except TimeoutError as error:
            raise GroupFailed(str(error)) from None
        store = PrefixStore(f"shoal/{session}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        own = store.clone() if hasattr(store, "clone") else store
        self.pulse = Pulse(PrefixStore("pulse", own), rank, size, dead)
        self.pulse.on_lost = self._lost
        self._thread = _Thread()
        self._acting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.pulse.start()

    @staticmethod
    def join(
        device: torch.device | None = None, timeout: float = TIMEOUT, dead: float = DEAD, meeting: str = "env://"
    ) -> Group:
        """Meet the others, as RANK and WORLD_SIZE in the environment say.

        Args:
            device: where this process computes; default: the CPU.
            timeout: seconds that processes may be apart when they come to an act.
            dead: seconds without a sign of life after which a process counts as gone.
            meeting: where: "env://" (at MASTER_ADDR and MASTER_PORT of the environment) or "file:///path".

        Raises:
            ValueError: this process was not started by torchrun, or a number is impossible.
        """
        for name, seconds in (("timeout", timeout), ("dead", dead)):
            if not isinstance(seconds, int | float) or not 0 < seconds < 1e7:
                raise ValueError(f"{name}: got {seconds!r}; a number of seconds above 0 is allowed")
        if not all(name in os.environ for name in ("RANK", "WORLD_SIZE")):
            raise ValueError(
                "on: torch needs processes that torchrun has started, as in "
                "`torchrun --nproc-per-node 4 -m shoal run gossip --on torch`"
            )
        if not dist.is_available():
            raise ValueError("on: this build of torch has no torch.distributed")
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store, _, _ = next(iter(rendezvous(meeting, rank, size, timeout=timedelta(seconds=timeout))))
        return Group(store, rank, size, device or torch.device("cpu"), timeout, dead)

    def leave(self) -> None:
        """End this process's part in the group; at the end of the process, which it may take with it if it is stuck."""
        self.pulse.stop()
        if self._thread.busy:  # stuck in a collective that nobody can end; its destructor would wait for the timeout
            _end_at_once()
        self._thread.stop()
        dist.destroy_process_group()

    # -- acts ------------------------------------------------------------------------------------------------

    async def act(self, what: str, fn: Callable[..., T], *arguments: Any) -> T:
        """Call a function that all processes call, in the thread that waits for the others.

        Args:
            what: is done; for errors.
            fn: calls collectives of `torch.distributed`.

        Raises:
            PeerLost: a process is gone.
            GroupFailed: it went wrong, or took longer than the timeout, though all processes live.
        """
        if self.broken:
            raise GroupFailed(f"{what}: the group is broken")
        lost = asyncio.Event()
        self._acting = asyncio.get_running_loop(), lost
        if self.pulse.lost:
            lost.set()
        self.pulse.entered += 1
        work = asyncio.wrap_future(self._thread.submit(fn, *arguments))
        noticed = asyncio.ensure_future(lost.wait())
        try:
            both: set[asyncio.Future[Any]] = {work, noticed}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and work.exception() is None:
                return work.result()
            self.broken = True
            raise await asyncio.to_thread(self._reason, what, work.exception() if work.done() else None)
        finally:
            noticed.cancel()
            self._acting = None

    def _lost(self) -> None:
        if (acting := self._acting) is not None:
            acting[0].call_soon_threadsafe(acting[1].set)

    def _reason(self, what: str, error: BaseException | None) -> BaseException:
        """What to say of an act that failed with a collective's error, or that a loss cut short."""
        if error is not None and not isinstance(error, RuntimeError):
            return error
        for rank, why in self.pulse.wait_for_loss().items():
            return PeerLost(rank, why)
        words = (str(error).splitlines() or [""])[0][:300]
        behind = ", ".join(map(str, self.pulse.behind()))
        late = f"; not there yet within {self.timeout:g} s: rank {behind}" if behind else ""
        return GroupFailed(f"{what} failed, and all processes live{late} ({words})")

    async def share(self, what: str, content: Content) -> list[Any]:
        """What every process brings to this act, by rank."""
        return await self.act(what, self._share, content)

    def _share(self, content: Content) -> list[Any]:
        own = self.buffer(encode(content))
        lengths = self.table([own.numel()])[:, 0].tolist()
        return [decode(part.cpu().numpy().data, limit=part.numel()) for part in self.gather(own, lengths)]

    async def collect(self, what: str, content: Content) -> list[Any]:
        """At rank 0 what every process brings, by rank; elsewhere nothing. Nobody goes on before rank 0 has it all."""
        return await self.act(what, self._collect, content)

    def _collect(self, content: Content) -> list[Any]:
        own = self.buffer(encode(content))
        lengths = self.table([own.numel()])[:, 0].tolist()
        found = [content]
        if self.rank == 0:
            for rank in range(1, self.size):
                data = self.swap(None, [], {rank: lengths[rank]})[rank]
                found.append(decode(data.cpu().numpy().data, limit=data.numel()))
        else:
            self.swap(own, [0], {})
        self.table([0])
        return found if self.rank == 0 else []

    # -- collectives; called within an act ---------------------------------------------------------------------

    def buffer(self, data: bytes | bytearray) -> Tensor:
        """Bytes as a tensor that can be sent."""
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)

    def table(self, row: list[int]) -> Tensor:
        """A row of whole numbers of each process: int64 [size, len(row)], on the CPU."""
        rows = torch.empty((self.size, len(row)), dtype=torch.int64, device=self.device)
        dist.all_gather(list(rows.unbind()), torch.tensor(row, dtype=torch.int64, device=self.device))
        return rows.cpu()

    def gather(self, own: Tensor, lengths: list[int]) -> list[Tensor]:
        """The bytes of all processes, of these lengths: uint8 tensors by rank."""
        longest = max(lengths)
        if longest * self.size > WASTE * sum(lengths):
            others = [rank for rank in range(self.size) if rank != self.rank]
            got = self.swap(own, others, {rank: lengths[rank] for rank in others})
            return [own if rank == self.rank else got[rank] for rank in range(self.size)]
        padded = own if own.numel() == longest else torch.cat([own, own.new_zeros(longest - own.numel())])
        rows = torch.empty((self.size, longest), dtype=torch.uint8, device=self.device)
        dist.all_gather(list(rows.unbind()), padded)
        return [rows[rank, :length] for rank, length in enumerate(lengths)]

    def swap(self, own: Tensor | None, to: list[int], lengths: Mapping[int, int]) -> dict[int, Tensor]:
        """Send bytes to some processes, and get the bytes of some, of these lengths."""
        got = {rank: torch.empty(lengths[rank], dtype=torch.uint8, device=self.device) for rank in sorted(lengths)}
        ops = [] if own is None else [dist.P2POp(dist.isend, own, rank) for rank in sorted(to)]
        ops += [dist.P2POp(dist.irecv, buffer, rank) for rank, buffer in got.items()]
        for work in dist.batch_isend_irecv(ops) if ops else []:
            work.wait()
        return got


class _Thread:
    """One thread that calls functions in order, and that a process does not wait for at its end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="shoal-group", daemon=True)
        self._thread.start()
        self.busy = False

    def submit(self, fn: Callable[..., T], *arguments: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # who gives up must not leave the others waiting
        self._queue.put((future, lambda: fn(*arguments)))
        return future

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, call = item
            self.busy = True
            try:
                result = call()
            except BaseException as error:
                self.busy = False
                future.set_exception(error)
            else:
                self.busy = False
                future.set_result(result)


def _end_at_once() -> None:
    """The process has failed, and said so; what would wait in torch's destructors is not waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
