"""What claims about optimizers with closures and averages share: the training loop that everybody writes."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from shoal.learning import Task
from shoal.learning.data import Data
from shoal.optim import Schedule, second_derivatives

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Average = Callable[[Tensor, Tensor, Tensor | int], Tensor]
Scores = dict[float, float]
"""Learning rate -> accuracy, a share."""
Sweep = dict[float, dict[str, float]]
"""Learning rate -> "accuracy" and "loss", as of `trained`."""


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
        make: from parameters to the optimizer; one that needs the loss, its graph or the model is given it.
        steps, batch, seed: of the run; samples are drawn with replacement.
        average: of the iterates, see `torch.optim.swa_utils`; the mean model is measured then.
        schedule: step, 0 at first -> factor of the optimizer's rate; constant unless given.

    Returns:
        "accuracy" on the test set, and "loss", the mean over the last tenth of the steps; NaN and 0 if it diverged.
    """
    model = task.initial(seed)
    mean = None if average is None else AveragedModel(model, avg_fn=average, use_buffers=True)
    optimizer: Any = make(list(model.parameters()))
    update = None if mean is None else partial(mean.update_parameters, model)
    how: dict[str, Any] = {"steps": steps, "batch": batch, "seed": seed, "schedule": schedule}
    loss = descend(model, optimizer, task, **how, after=update)
    if math.isnan(loss):
        return {"accuracy": 0.0, "loss": math.nan}
    return {"accuracy": accuracy(mean or model, task), "loss": loss}


def descend(
    model: nn.Module,
    optimizer: Any,
    task: Task,
    *,
    steps: int,
    batch: int,
    seed: int,
    schedule: Schedule | None = None,
    after: Callable[[], Any] | None = None,
) -> float:
    """Train a model, in place.

    Args:
        model: what is trained.
        optimizer: of the model; one that needs the loss, its graph or the model is given it.
        task: its training data and loss.
        steps, batch, seed: of the run; samples are drawn with replacement.
        schedule: step, 0 at first -> factor of the learning rates that the optimizer began with.
        after: called after each step.

    Returns:
        The mean loss over the last tenth of the steps; NaN if the run diverged.
    """
    if hasattr(optimizer, "watch"):
        optimizer.watch(model)
    data, random = task.dataset.train, torch.Generator().manual_seed(seed)
    scheduler = None if schedule is None else LambdaLR(optimizer, schedule)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(data), (batch,), generator=random)
        loss = loss_of(task, model, data[rows], optimizer)
        if not math.isfinite(loss.item()):
            return math.nan
        stepped(optimizer, loss)
        losses.append(loss.item())
        if scheduler is not None:
            scheduler.step()
        if after is not None:
            after()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def loss_of(task: Task, model: nn.Module, batch: Data, optimizer: Any) -> Tensor:
    """The mean loss of a batch, in a form that the optimizer can use."""
    with second_derivatives() if getattr(optimizer, "needs_graph", False) else contextlib.nullcontext():
        return task.loss(model(batch.inputs), batch.targets).mean()


def stepped(optimizer: Any, loss: Tensor) -> None:
    """One step along the gradient of a loss."""
    if getattr(optimizer, "needs_graph", False):
        optimizer.step(loss=loss)
        return
    optimizer.zero_grad()
    loss.backward()
    optimizer.step(**({"loss": loss.item()} if getattr(optimizer, "needs_loss", False) else {}))


def relative_cost(task: Task, make: Make, other: Make, *, batch: int, steps: int = 20, rounds: int = 9) -> float:
    """CPU time of a training step, forward pass included, over that of another optimizer: median of `rounds` ratios.

    Args:
        task: what is learned.
        make, other: from parameters to the optimizers.
        batch: samples of a step.
        steps: of each measurement, after as many before all of them. The two optimizers take turns.
    """
    data = task.dataset.train[torch.arange(batch)]
    arms = []
    for build in (make, other):
        model = task.initial(0)
        optimizer: Any = build(list(model.parameters()))
        if hasattr(optimizer, "watch"):
            optimizer.watch(model)
        arms.append((model, optimizer))

    def seconds(model: nn.Module, optimizer: Any) -> float:
        start = time.thread_time()
        for _ in range(steps):
            stepped(optimizer, loss_of(task, model, data, optimizer))
        return time.thread_time() - start

    for arm in arms:
        seconds(*arm)
    return statistics.median(seconds(*arms[0]) / seconds(*arms[1]) for _ in range(rounds))


@torch.no_grad()
def accuracy(model: nn.Module, task: Task) -> float:
    """Share of test samples that are classified correctly."""
    model.eval()
    test = task.dataset.test
    guessed = model(test.inputs).argmax(-1)
    return float((guessed == test.targets).double().mean())


def swept(
    task: Task, make: Callable[..., Any], rates: Iterable[float], *, steps: int, batch: int, seeds: Sequence[int]
) -> Sweep:
    """Rate -> what `trained` measures, means over the seeds.

    Args:
        task: what is learned.
        make: from parameters and `lr` to the optimizer.
        rates: that are tried.
        steps, batch: of each run.
        seeds: of the runs at each rate; at least one.
    """
    found: Sweep = {}
    for rate in rates:
        runs = [trained(task, partial(make, lr=rate), steps=steps, batch=batch, seed=seed) for seed in seeds]
        found[rate] = {what: sum(run[what] for run in runs) / len(runs) for what in ("accuracy", "loss")}
    return found


def accuracies(found: Sweep) -> Scores:
    """The accuracies of a sweep."""
    return {rate: score["accuracy"] for rate, score in found.items()}


def around(middle: float, reach: int, every: int = 1) -> list[float]:
    """Rates half a decade apart, up to `reach` of them on both sides of the middle; of these, each `every`-th."""
    return [middle * 10.0 ** (i / 2) for i in range(-reach, reach + 1, every)]


def best(scores: Scores) -> tuple[float, float]:
    """(rate, score) of the highest score; of equal ones the lowest rate."""
    rate = max(sorted(scores), key=lambda r: scores[r])
    return rate, scores[rate]


def good_rates(ours: Scores, theirs: Scores, within: float = 0.02) -> tuple[int, int]:
    """How many rates of each are `within` the better of the two best scores."""
    least = max(best(ours)[1], best(theirs)[1]) - within
    mine, other = (sum(score >= least for score in scores.values()) for scores in (ours, theirs))
    return mine, other
