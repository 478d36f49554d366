"""Batched compute: what many peers want computed runs as one call over stacked rows.

A peer submits a `Job` to the pool of its world and sleeps until the virtual time at which the job ends. Jobs pile up
until a waking peer needs its result; then everything outstanding runs, grouped by kernel and cut into chunks that fit
the cache. How jobs meet in a batch never shows in the results: kernels are bit-equal under any grouping.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from shoal.engine.traced import Traced

LARGEST_CHUNK = 32


class Kernel(Protocol):
    """How one kind of job is computed. Jobs of one kernel have equal shapes.

    Attributes:
        name: what it computes, for the run's log.
        path: "batched" or "one by one".
        why: the reason for that path.
    """

    name: str
    path: str
    why: str

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """Cut jobs into chunks, each of which one thread runs; called on the main thread, may prepare kernels."""

    def run(self, chunk: list[Job]) -> None:
        """Compute a chunk and set `result` of each of its jobs."""


class Job:
    """One peer's request: `inputs` go in, `result` comes out."""

    __slots__ = ("done", "inputs", "kernel", "result")

    def __init__(self, kernel: Kernel, inputs: Any) -> None:
        self.kernel = kernel
        self.inputs = inputs
        self.result: Any = None
        self.done = False


Work = list[tuple[Kernel, list[Job]]]
Dispatch = Callable[[Work], None]
"""Runs all chunks of a batch, somewhere, and sets the result of each job, as `Kernel.run` would. Single-threaded torch,
as for threads; chunks may be cut further, since grouping never shows."""


class Pool:
    """Collects jobs and runs them.

    Args:
        workers: threads that run chunks; each runs torch single-threaded.
        device: where the tensors live, e.g. "cpu" or "cuda:0". On a GPU one worker serves it.
        dispatch: runs chunks instead of the threads.
    """

    def __init__(self, workers: int = 1, device: str | torch.device = "cpu", dispatch: Dispatch | None = None) -> None:
        if workers < 1:
            raise ValueError(f"workers: got {workers}; at least 1 is allowed")
        self.device = torch.device(device)
        self.workers = workers if self.device.type == "cpu" else 1
        self._dispatch = dispatch
        self.computed = 0
        self._outstanding: dict[Kernel, list[Job]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self.used: dict[str, Kernel] = {}

    def submit(self, job: Job) -> Job:
        """Add a job to the next batch."""
        waiting = self._outstanding.get(job.kernel)
        if waiting is None:
            self._outstanding[job.kernel] = [job]
        else:
            waiting.append(job)
        return job

    def finish(self, job: Job) -> Any:
        """The job's result; if it is not there yet, everything outstanding runs now."""
        if not job.done:
            self.flush()
        return job.result

    def flush(self) -> None:
        """Run everything outstanding."""
        groups, self._outstanding = self._outstanding, {}
        work: Work = []
        for kernel, jobs in groups.items():
            self.used.setdefault(kernel.name, kernel)
            self.computed += len(jobs)
            work += [(kernel, chunk) for chunk in kernel.chunks(jobs)]
        if self._dispatch is not None:
            self._dispatch(work)
            for _, chunk in work:
                for job in chunk:
                    job.done = True
            return
        if self.workers == 1 or len(work) == 1:
            for kernel, chunk in work:
                _run(kernel, chunk)
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(
                self.workers - 1, thread_name_prefix="shoal", initializer=torch.set_num_threads, initargs=(1,)
            )
        queue = iter(work)
        lock = threading.Lock()
        helpers = [self._executor.submit(_drain, queue, lock) for _ in range(min(self.workers, len(work)) - 1)]
        try:
            _drain(queue, lock)
        finally:
            for helper in helpers:
                helper.result()

    def discard(self, job: Job) -> None:
        """Forget a job that nobody needs any more."""
        waiting = self._outstanding.get(job.kernel)
        if waiting is not None and job in waiting:
            waiting.remove(job)
            if not waiting:
                del self._outstanding[job.kernel]

    def close(self) -> None:
        """End the worker threads."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def report(self) -> list[dict[str, str]]:
        """Which kernels ran, on which path, and why."""
        return [{"kernel": k.name, "path": k.path, "why": k.why} for k in self.used.values()]


def _run(kernel: Kernel, chunk: list[Job]) -> None:
    with torch.no_grad():
        kernel.run(chunk)
    for job in chunk:
        job.done = True


def _drain(queue: Iterator[tuple[Kernel, list[Job]]], lock: threading.Lock) -> None:
    while True:
        with lock:
            item = next(queue, None)
        if item is None:
            return
        _run(*item)


def chunk_sizes(rows: int, largest: int = LARGEST_CHUNK) -> list[int]:
    """Cut `rows` into powers of two, largest first.

    Few distinct sizes mean few traces, and no size is ever 1, which would take another path through the
    matrix product and round differently. What is left in the end may be less than the last size: up to an eighth of
    `largest` is filled up with copies (`filled`), which costs less than to run one more chunk.

    >>> chunk_sizes(77), chunk_sizes(73), chunk_sizes(65)
    ([32, 32, 16], [32, 32, 8, 2], [32, 32, 2])
    """
    sizes = [largest] * (rows // largest)
    rest = rows % largest
    while rest > 0:
        size = filled_size(rest)
        if size - rest > max(1, largest // 8):
            size //= 2
        sizes.append(size)
        rest -= size
    return sizes


def filled_size(rows: int) -> int:
    """The smallest power of two that holds the rows, at least 2."""
    return max(2, 1 << (rows - 1).bit_length())


def cut(jobs: list[Job], largest: int = LARGEST_CHUNK) -> list[list[Job]]:
    """Jobs in chunks of `chunk_sizes`; the last chunk may hold less than its size, to be filled up by `filled`."""
    result, start = [], 0
    for size in chunk_sizes(len(jobs), largest):
        result.append(jobs[start : start + size])
        start += size
    return result


def pad(rows: Sequence[Any]) -> list[Any]:
    """At least two rows: a single one is doubled."""
    return [*rows, *rows] if len(rows) == 1 else list(rows)


def filled(rows: Sequence[Any]) -> list[Any]:
    """As many rows as `filled_size` says: the last one is repeated."""
    return [*rows, *[rows[-1]] * (filled_size(len(rows)) - len(rows))]


class MapKernel:
    """`fn` mapped over rows by `torch.func.vmap`, or one by one where vmap cannot take it."""

    def __init__(self, fn: Callable[..., Any], static: dict[str, Any], largest: int = LARGEST_CHUNK) -> None:
        self.name = f"compute {getattr(fn, '__qualname__', type(fn).__name__)}"
        self.path, self.why = "batched", "vmap takes it"
        self._fn: Callable[..., Any] = lambda *row: fn(*row, **static)
        self._traced = Traced(torch.func.vmap(self._fn))
        self._largest = largest
        self._tried = False

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """Cut by `chunk_sizes`, and find out at the first use whether vmap can take the function."""
        if not self._tried:
            self._tried = True
            try:
                self._traced(*_stack([job.inputs for job in jobs[:2]]))
            except Exception as error:
                self.path, self.why = "one by one", f"vmap cannot take it: {first_line(error)}"
        return cut(jobs, self._largest)

    def run(self, chunk: list[Job]) -> None:
        """Compute a chunk."""
        if self.path != "batched":
            for job in chunk:
                job.result = self._fn(*job.inputs)
            return
        result = self._traced(*_stack([job.inputs for job in chunk]))
        flat, spec = pytree.tree_flatten(result)
        for job, *parts in zip(chunk, *(own_rows(part) for part in flat), strict=False):
            job.result = pytree.tree_unflatten(parts, spec)


def _stack(rows: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*filled(rows), strict=True)]


def own_rows(stacked: Tensor) -> list[Tensor]:
    """The rows of a stacked result: they share its memory, but each has a version counter of its own."""
    if stacked.stride(0) == 0:  # the same for all: one row's memory
        stacked = stacked.contiguous()
    return [row.data for row in stacked.unbind(0)]


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 160 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
