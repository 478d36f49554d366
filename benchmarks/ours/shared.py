"""The work as Shoal takes it, and a protocol that ticks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import torch

from benchmarks.rivals.common import MODELS, Work, images, shard_indices, tick
from shoal.learning import Learner, Task
from shoal.learning.data import Data, Dataset
from shoal.protocols import Needs


class Ticked:
    """A protocol that marks where its rounds end: the server's, or (without one) whenever `peers` of them have."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.needs: Needs = getattr(protocol, "needs", Needs())
        self.ended = 0

    async def __call__(self, me: Learner) -> None:
        if me.server is None or me.is_server:
            together = 1 if me.is_server else me.peers
            me.rounds = self._ticking(me.rounds, together)  # type: ignore[method-assign,assignment]
        await self.protocol(me)

    def _ticking(self, rounds: Callable[..., Any], together: int) -> Callable[..., AsyncIterator[int]]:
        async def ticking(*arguments: Any, **options: Any) -> AsyncIterator[int]:
            if not self.ended:
                self.ended = 1
                tick("start")
            async for r in rounds(*arguments, **options):
                yield r
                self.ended += 1
                if (self.ended - 1) % together == 0:
                    tick("round")

        return ticking


def begin() -> Work:
    """Settle threads and read the work, as `rivals.common.begin` does for the others."""
    work = Work.from_environment()
    torch.set_num_threads(work.threads)
    return work


def task_of(work: Work) -> Task:
    """Model and data of the work."""
    dataset = Dataset("fashion-mnist", Data(*images(work.data, "train")), Data(*images(work.data, "t10k")), 10, "disk")
    return Task(f"fashion-mnist/{work.model}", MODELS[work.model], dataset)


def settings_of(work: Work, task: Task) -> dict[str, Any]:
    """Arguments of `simulate`: evaluation at the end only, of one peer, on one thread."""
    from shoal.optim import SGD

    return {
        "task": task,
        "partition": (task.dataset.train, [torch.from_numpy(i) for i in shard_indices(work)]),
        "optimizer": SGD.rule(work.lr, momentum=work.momentum),
        "peers": work.peers,
        "rounds": work.rounds,
        "batch": work.batch,
        "seed": work.seed,
        "network": "ideal",
        "workers": work.threads,
        "evaluate": work.rounds,
        "eval_peers": 1,
        "eval_samples": 1000,
    }
