"""What peers ask to have computed, and what they get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shoal.learning.batches import Schedule, Shard


@dataclass(eq=False, slots=True)
class TrainInputs:
    """One peer's training request.

    Attributes:
        vector: model to start from [d].
        shard, schedule: which samples each step sees.
        lr: learning rate, or one for each step.
        key: for randomness inside the model; step number `first_step + s` is mixed in.
        first_step: steps this optimizer has done before.
        memory: the optimizer's state: flat buffers by name, or what a torch optimizer keeps.
        extras: further tensors of the objective.
    """

    vector: Tensor
    shard: Shard
    schedule: Schedule
    lr: float | Sequence[float]
    key: int
    first_step: int = 0
    memory: Any = None
    extras: tuple[Tensor, ...] = ()

    def rate(self, step: int) -> float:
        """Learning rate of a step of the request, 0 at first."""
        return self.lr if isinstance(self.lr, int | float) else float(self.lr[step])

    def part(self, first: int, until: int) -> TrainInputs:
        """The steps from `first` to before `until` of the request, from the same vector and memory."""
        schedule = self.schedule._replace(steps=until - first, skip=self.schedule.skip + first)
        lr = self.lr if isinstance(self.lr, int | float) else self.lr[first:until]
        return replace(self, schedule=schedule, lr=lr, first_step=self.first_step + first)


@dataclass(eq=False, slots=True)
class Trained:
    """What training gives: the new vector, the optimizer's state, and the mean loss over its steps."""

    vector: Tensor
    memory: Any
    loss: float


@dataclass(eq=False, slots=True)
class GradientInputs:
    """One peer's gradient request: at `vector`, on given samples with weights that sum to 1."""

    vector: Tensor
    inputs: Tensor
    targets: Tensor
    weights: Tensor
    key: int
    extras: tuple[Tensor, ...] = ()


def rates_of(rows: Sequence[TrainInputs]) -> Tensor:
    """Learning rates [steps, n], float64; [1, n] if none changes. Rows that are done keep their last one."""
    if all(isinstance(row.lr, int | float) for row in rows):
        return torch.tensor([[row.lr for row in rows]], dtype=torch.float64)
    last = [max(0, row.schedule.steps - 1) for row in rows]
    table = [[row.rate(min(s, end)) for row, end in zip(rows, last, strict=True)] for s in range(max(last) + 1)]
    return torch.tensor(table, dtype=torch.float64)
