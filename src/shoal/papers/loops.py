"""What claims about optimizers with closures and averages share: the training loop that everybody writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from shoal.learning import Task
from shoal.optim import Schedule

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Average = Callable[[Tensor, Tensor, Tensor | int], Tensor]


def trained(
    task: Task,
    make: Make,
    *,
    steps: int,
    batch: int,
    seed: int,
    average: Average | None = None,
    schedule: Schedule | None = None,
) -> dict[str, float]:
    """Train a fresh model, and measure it.

    Args:
        task: what is learned.
        make: from parameters to the optimizer; one that needs the loss is told it.
        steps, batch, seed: of the run; samples are drawn with replacement.
        average: of the iterates, see `torch.optim.swa_utils`; the mean model is measured then.
        schedule: step, 0 at first -> factor of the optimizer's rate; constant unless given.

    Returns:
        "accuracy" on the test set, and "loss", the mean over the last tenth of the steps; NaN and 0 if it diverged.
    """
    model = task.initial(seed)
    mean = None if average is None else AveragedModel(model, avg_fn=average, use_buffers=True)
    optimizer: Any = make(list(model.parameters()))
    rates = None if schedule is None else LambdaLR(optimizer, schedule)
    data, random = task.dataset.train, torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(data), (batch,), generator=random)
        loss = task.loss(model(data.inputs[rows]), data.targets[rows]).mean()
        if not math.isfinite(loss.item()):
            return {"accuracy": 0.0, "loss": math.nan}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(**({"loss": loss.item()} if getattr(optimizer, "needs_loss", False) else {}))
        losses.append(loss.item())
        if rates is not None:
            rates.step()
        if mean is not None:
            mean.update_parameters(model)
    last = losses[-max(1, steps // 10) :]
    return {"accuracy": accuracy(mean or model, task), "loss": sum(last) / len(last)}


@torch.no_grad()
def accuracy(model: nn.Module, task: Task) -> float:
    """Share of test samples that are classified correctly."""
    model.eval()
    test = task.dataset.test
    guessed = model(test.inputs).argmax(1)
    return float((guessed == test.targets).double().mean())


def best(scores: dict[float, float]) -> tuple[float, float]:
    """(rate, score) of the highest score; of equal ones the lowest rate."""
    rate = max(sorted(scores), key=lambda r: scores[r])
    return rate, scores[rate]
