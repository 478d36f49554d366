"""A training request under way: what to show if somebody looks before it ends, and how it goes on if the model is set.

On a virtual clock it is one job, whose steps end at times that are known beforehand. On a wall clock it is computed
piece by piece, each of about `PIECE` seconds, and what is shown are the steps of the finished pieces.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shoal.engine.compute import Job, Kernel
from shoal.learning.requests import Trained, TrainInputs

if TYPE_CHECKING:
    from shoal.learning.learner import Learner

PIECE = 0.1  # wall seconds


@dataclass(eq=False)
class Training:
    """Training on a virtual clock.

    Attributes:
        peer: who trains.
        kernel: how it is computed.
        inputs: the steps since the model was last set.
        before: steps before that.
        losses: the sum of their losses.
    """

    peer: Learner
    kernel: Kernel
    inputs: TrainInputs
    before: int = 0
    losses: float = 0.0
    _ends: list[float] = field(init=False)
    _job: Job = field(init=False)

    def __post_init__(self) -> None:
        self._ends = self.peer.finish_times(self.inputs)
        self._job = Job(self.kernel, self.inputs)

    async def finish(self) -> Trained:
        """Train to the end; gives the result of `inputs`."""
        peer = self.peer
        while True:
            job = self._job
            end = self._ends[-1] if self._ends else peer.now()
            trained: Trained = await peer._world.perform(peer, job, end - peer.now())
            if self._job is job:  # else the model was set meanwhile, and what is left is another job
                return trained

    @property
    def steps_done(self) -> int:
        """Steps of `inputs` that have ended by now."""
        now = self.peer.now()
        return sum(end <= now for end in self._ends)

    def so_far(self) -> Trained:
        """The result of the steps that have ended by now, recomputed from the start."""
        done = self.steps_done
        if done == 0:
            return Trained(self.inputs.vector, self.inputs.memory, 0.0)
        return _compute_now(self.kernel, self.inputs.part(0, done))

    def rebase(self, vector: Tensor) -> None:
        """The model was replaced: the steps that are left go on from there."""
        done, so_far = self.steps_done, self.so_far()
        self._count(done, so_far.loss)
        self.inputs = rest(self.inputs, done, vector, so_far.memory)
        self._ends = self._ends[done:]
        self._job = Job(self.kernel, self.inputs)

    def _count(self, steps: int, loss: float) -> None:
        self.before += steps
        self.losses += loss * steps

    def mean_loss(self, trained: Trained) -> float:
        """Over all steps, of which `trained` are those of `inputs`."""
        steps = self.inputs.schedule.steps
        return (self.losses + trained.loss * steps) / max(1, self.before + steps)


class PacedTraining(Training):
    """Training on a wall clock. A piece that is computed while the model is set is computed anew."""

    def __post_init__(self) -> None:
        self._steps = self.peer.pace

    async def finish(self) -> Trained:
        """Train to the end; gives the result of `inputs`, which are the last piece by then."""
        peer = self.peer
        while True:
            inputs = self.inputs
            left = inputs.schedule.steps
            steps = min(self._steps, left)
            began = time.monotonic()
            trained: Trained = await peer._world.perform(peer, Job(self.kernel, inputs.part(0, steps)), 0.0)
            self._adapt(steps, time.monotonic() - began)
            if self.inputs is not inputs:
                continue
            if steps == left:
                return trained
            self._count(steps, trained.loss)
            self.inputs = rest(inputs, steps, trained.vector, trained.memory)

    def _adapt(self, steps: int, seconds: float) -> None:
        wanted = int(steps * PIECE / max(seconds, 1e-9))
        self._steps = self.peer.pace = max(1, min(wanted, 4 * steps))

    @property
    def steps_done(self) -> int:
        """None of `inputs`: what is done is in its vector."""
        return 0

    def rebase(self, vector: Tensor) -> None:
        """The model was replaced: the steps that are left go on from there."""
        self.inputs = replace(self.inputs, vector=vector)


def rest(inputs: TrainInputs, steps: int, vector: Tensor, memory: Any) -> TrainInputs:
    """What is left of a request after some steps, which led to this vector and memory."""
    return replace(inputs.part(steps, inputs.schedule.steps), vector=vector, memory=memory)


def _compute_now(kernel: Kernel, inputs: TrainInputs) -> Trained:
    job = Job(kernel, inputs)
    with torch.no_grad():
        for chunk in kernel.chunks([job]):
            kernel.run(chunk)
    result: Trained = job.result
    return result
