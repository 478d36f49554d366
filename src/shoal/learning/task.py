"""A task: model, data, loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.learning.data import Dataset
from shoal.optim.ttur import PlayersRule
from shoal.text import cut, shown

Loss = Callable[[Tensor, Tensor], Tensor]

RESERVED = ("loss", "consensus")
"""What every run measures by these names, beside the task's metrics."""


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Per-sample cross entropy. output [B, C] with target [B], or output [B, T, C] with target [B, T] (mean over T)."""
    losses = -F.log_softmax(output, -1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Per-sample half squared error, summed over all dimensions but the first."""
    return 0.5 * (output - target).square().flatten(1).sum(1)


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Per-sample share of right predictions, [B]; output [B, (T,) C]."""
    right = (output.argmax(-1) == target).float()
    return right if right.dim() == 1 else right.flatten(1).mean(1)


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        name: for logs and reports.
        model: builds a fresh module; drawn under a seed by `initial`.
        dataset: train and test data.
        loss: `loss(output, target) -> [B]`, one loss a sample.
        metrics: name -> `metric(output, target) -> [B]`; the first is the main one.
        players: of a game, what the names of either player's parameters begin with; None: it is none.

    Raises:
        ValueError: the model is a module instead of what makes one, the dataset is no `Dataset`, or a metric is called
            "loss" or "consensus", under which every run records values of its own.
    """

    name: str
    model: Callable[[], nn.Module]
    dataset: Dataset
    loss: Loss = cross_entropy
    metrics: Mapping[str, Loss] = field(default_factory=lambda: {"accuracy": accuracy})
    players: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module) or not callable(self.model):
            raise ValueError(
                f"model: got {shown(self.model)}; a function that makes a fresh module, as in "
                "`lambda: nn.Linear(4, 2)`, is allowed"
            )
        if not isinstance(self.dataset, Dataset):
            raise ValueError(
                f"dataset: got {shown(self.dataset)}; a shoal.learning.data.Dataset is allowed; `from_torch` and "
                "`from_hugging_face` make data of others"
            )
        for name in RESERVED:
            if name in self.metrics:
                raise ValueError(f"metrics: got one called {name!r}; every run records a {name} of its own")

    def initial(self, seed: int) -> nn.Module:
        """A module initialised under `seed`; torch's global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model()

    def check(self, model: nn.Module) -> Any:
        """See that model, data, loss and metrics fit, by the scores of two samples.

        Args:
            model: on the data's device.

        Returns:
            What the model puts out for them.

        Raises:
            ValueError: they do not.
        """
        some = self.dataset.train[:2]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                output = model.eval()(some.inputs)
                losses = self.loss(output, some.targets)
        except Exception as error:
            raise ValueError(f"task: {self.name}: model, data and loss do not fit: {_reason(error)}") from error
        if losses.shape != (len(some),):
            raise ValueError(
                f"loss: got a result of shape {tuple(losses.shape)} for {len(some)} samples; one loss a sample "
                '(reduction="none") is needed'
            )
        for name, metric in self.metrics.items():
            try:
                with torch.no_grad():
                    values = metric(output, some.targets)
            except Exception as error:
                raise ValueError(f"metrics: {name} does not fit the model's output: {_reason(error)}") from error
            check_score(name, values, len(some))
        return output


def check_score(name: str, values: object, samples: int) -> None:
    """See that a metric gave one value a sample: sums of anything else would be no means.

    Raises:
        ValueError: it did not.
    """
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape != (samples,):
        raise ValueError(
            f"metrics: {name}: got a result of shape {shape} for {samples} samples; one value a sample is needed"
        )


def _reason(error: Exception) -> str:
    return cut(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)


def check_players(task: Task, optimizer: object) -> None:
    """See that a rule with rates for two players gets a game.

    Raises:
        ValueError: it gets another task, where it would do nothing but for names that happen to begin alike.
    """
    if isinstance(optimizer, PlayersRule) and task.players is None:
        raise ValueError(
            f"optimizer: got {optimizer.name}, which gives two players a rate each, for {task.name}, which is no game; "
            "game, gan and tasks that say which their `players` are, are allowed"
        )
