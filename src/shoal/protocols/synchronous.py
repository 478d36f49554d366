"""Synchronous data-parallel SGD: k workers with n samples each take the step that one machine takes with kn.

Each epoch, one shuffle of the whole set is cut into k parts, and each worker goes through its own in batches of n. The
step follows the mean of the workers' mean gradients, which is the mean over all kn samples. P. Goyal et al., "Accurate,
Large Minibatch SGD: Training ImageNet in 1 Hour", 2017 (arXiv 1706.02677).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.learning import Learner, Shard
from shoal.optim.schedules import Schedule
from shoal.protocols.needs import Needs
from shoal.tensors.random import shuffled


@dataclass(frozen=True)
class SynchronousSGD:
    """Each round is one step of all workers; `rounds` counts steps.

    Every worker can read the whole set: give the world `partition=(train, [torch.arange(len(train))] * k)` and
    `topology="complete"`. What does not fill a batch for each worker is left out of an epoch.

    Attributes:
        batch: samples n that a worker takes a step.
        schedule: number of the step -> learning rate; None: the optimizer's own rate.
        shuffle: seed of the shuffles, which the workers share.
    """

    batch: int = 32
    schedule: Schedule | None = None
    shuffle: int = 0
    needs: ClassVar[Needs] = Needs(reliable_links=True, packs="gradient")

    async def __call__(self, me: Learner) -> None:
        """What one worker does."""
        if len(me.neighbours) != me.peers - 1:
            raise ValueError(f"topology: peer {me.id} does not hear from all workers; complete is needed")
        drawn, part = -1, torch.empty(0, dtype=torch.int64)
        async for t in me.rounds():
            epoch, step = divmod(t, self.steps_in_epoch(me))
            if epoch != drawn:
                drawn, part = epoch, self.part(me, epoch)
            g = await me.gradient(data=_rows(me, part[step * self.batch : (step + 1) * self.batch]), size=None)
            lr = None if self.schedule is None else self.schedule(t)
            me.step(await me.average(g, t), lr=lr)

    def steps_in_epoch(self, me: Learner) -> int:
        """How often the workers together can take their batches from one shuffle of the set."""
        steps = me.samples // me.peers // self.batch
        if steps == 0:
            raise ValueError(f"batch: got {self.batch} for {me.peers} workers; {me.samples} samples do not suffice")
        return steps

    def part(self, me: Learner, epoch: int) -> Tensor:
        """This worker's part of the epoch's shuffle: positions in its data, int64 [samples // workers]."""
        share = me.samples // me.peers
        return shuffled(self.shuffle, epoch, torch.arange(me.id * share, (me.id + 1) * share), me.samples)[0]


def _rows(me: Learner, positions: Tensor) -> Shard:
    assert me.shard is not None  # or it would have no samples
    return Shard(me.shard.data, me.shard.indices[positions])
