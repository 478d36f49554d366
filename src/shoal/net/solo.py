"""What a world does for the one peer of a process, whatever connects it with the others: its work and its tasks."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from shoal.engine.compute import Job
from shoal.engine.errors import PeerFailed
from shoal.engine.peer import Peer, current
from shoal.engine.world import World


class SoloWorld(World):
    """A world with one peer in it, on the wall clock. Who derives from it makes the attributes.

    Attributes:
        id: of the peer that lives here.
    """

    wall_clock = True
    forgiving = True
    id: int
    _failed: asyncio.Future[None]  # raises what a task of the peer raised
    _tasks: set[asyncio.Task[Any]]
    _executor: ThreadPoolExecutor  # of one thread, which computes

    async def perform(self, peer: Peer, job: Job, seconds: float) -> Any:
        """Compute a job in the thread that computes; how long that takes is what it takes."""
        return await self.off_loop(_compute, job)

    async def off_loop(self, fn: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the thread that computes, after what was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, fn, *arguments)

    async def compute(
        self,
        peer: Peer,
        fn: Callable[..., Any],
        tensors: tuple[Tensor, ...],
        seconds: float,
        static: dict[str, Any],
    ) -> Any:
        """See `Peer.compute`."""
        return await self.off_loop(_apply, fn, tensors, static)

    def spawn(self, peer: Peer, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task of the peer."""
        task = self._launch(peer, coroutine)
        task.add_done_callback(self._must_succeed)
        return task

    def _launch(self, peer: Peer, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        context = contextvars.copy_context()
        context.run(current.set, peer)
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _must_succeed(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            failure = PeerFailed(self.id, self.now(), error)
            failure.__cause__ = error
            self._failed.set_exception(failure)

    async def _until_failure(self, work: Any) -> None:
        """Await something, unless a task of the peer fails before."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            try:
                await task
            except asyncio.CancelledError:
                raise
            except Exception as error:
                raise PeerFailed(self.id, self.now(), error) from error
        finally:
            task.cancel()


def _compute(job: Job) -> Any:
    with torch.no_grad():
        for chunk in job.kernel.chunks([job]):
            job.kernel.run(chunk)
    return job.result


def _apply(fn: Callable[..., Any], tensors: tuple[Tensor, ...], static: dict[str, Any]) -> Any:
    with torch.no_grad():
        return fn(*tensors, **static)


def everybody(peers: int) -> Callable[[int, int], tuple[int, ...]]:
    """Neighbours for a world in which every one of `peers` peers sends to all others."""

    def others(peer: int, round: int) -> tuple[int, ...]:
        return tuple(j for j in range(peers) if j != peer)

    return others
