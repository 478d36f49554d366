"""What claims about optimizers share: tasks and settings of their comparisons, and rules that are fed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.learning import Task
from shoal.learning.comparison import compare
from shoal.learning.contenders import Contender
from shoal.learning.data import load
from shoal.learning.models import mlp, transformer
from shoal.learning.results import Comparison
from shoal.optim import Param, Rule, Schedule

Gradient = Callable[[int, Tensor], Tensor]
"""The gradient at step t = 0, 1, ... and point x."""


@dataclass(frozen=True)
class Setting:
    """How much is trained in a comparison.

    Attributes:
        steps, batch: of every run.
        rates: that every contender without its own tries, half a decade apart.
        seeds, tuning_seeds: of the tests, and of tuning.
    """

    steps: int
    batch: int
    rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seeds: Sequence[int] = (211,)


CHECK = Setting(150, 128, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (7, 8))
FULL = Setting(400, 128, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (7, 8, 9))
SETTINGS = {"check": CHECK, "full": FULL}


@cache
def fashion(depth: int = 1) -> Task:
    """Fashion-MNIST (the embedded digits where it is missing) and an MLP of `depth` hidden layers of 64."""
    dataset = load("fashion-mnist", fallback=True)
    return Task(f"{dataset.name}/mlp", mlp(dataset, hidden=64, depth=depth), dataset)


@cache
def characters(context: int = 32, width: int = 32, layers: int = 1) -> Task:
    """The next character of the built-in text, and a small transformer; its metric of interest is "loss"."""
    dataset = load("text", context=context)
    return Task("text/transformer", transformer(dataset, width, layers), dataset)


def race(
    contenders: Mapping[str, Contender | Callable[..., Any]],
    scale: str,
    task: Task | None = None,
    **changes: Any,
) -> Comparison:
    """`compare` at a scale, on one core.

    Args:
        contenders: name -> who takes part.
        scale: "check" or "full", which extends grids whose best rate is at an edge.
        task: `fashion()` unless given.
        changes: other arguments of `compare`, instead of those of the scale.
    """
    setting = SETTINGS[scale]
    how: dict[str, Any] = {
        "steps": setting.steps,
        "batch": setting.batch,
        "rates": setting.rates,
        "seeds": setting.seeds,
        "tuning_seeds": setting.tuning_seeds,
        "extend": scale == "full" and changes.get("trials") is None,
        "workers": 1,
    } | changes
    how.setdefault("evaluate_every", max(1, how["steps"] // 4))
    return compare(contenders, task or fashion(), **how)


def record(found: Comparison, figures: dict[str, float], label: str = "") -> None:
    """Add rates, scores and losses to a claim's figures, which are finite: a run that diverged has no loss there."""
    where = f" ({label})" if label else ""
    for entry in found.entries:
        figures[f"learning rate, {entry.name}{where}"] = entry.lr
        figures[f"diverged test runs, {entry.name}{where}"] = entry.diverged
        for test in entry.tests:
            figures[f"test {found.metric}, {entry.name}, seed {test.seed}{where}"] = test.score
            if not test.diverged and found.metric != "loss":
                figures[f"test loss, {entry.name}, seed {test.seed}{where}"] = test.loss


def outcome(found: Comparison) -> str:
    """All contenders in one line, the best first: "Adam 83.4 % at 0.003, SGD ..."."""
    accuracy = "accuracy" in found.metric
    shown = ((e.name, f"{100 * e.mean:.2f} %" if accuracy else f"{e.mean:.4f}", e.lr) for e in found.ranked())
    return ", ".join(f"{name} {score} at {lr:.3g}" for name, score, lr in shown)


def points(a: float, b: float) -> str:
    """The difference of two accuracies in words.

    >>> points(0.845, 0.85)
    '-0.50 points'
    """
    return f"{100 * (a - b):+.2f} points"


def path(
    rule: Rule,
    gradient: Gradient | Sequence[Tensor],
    start: Tensor,
    steps: int | None = None,
    schedule: Schedule | None = None,
    every: int = 1,
) -> Tensor:
    """Points [steps // every + 1, ...] of one parameter that a rule moves.

    Args:
        rule: what moves it. Element-wise rules see independent problems in the entries of `start`.
        gradient: of step and point, or all gradients in turn.
        start: first point; it is not changed.
        steps: number of steps; as many as there are gradients unless given.
        schedule: step, 0 at first -> learning rate; the rule's own unless given.
        every: steps from one point that is kept to the next.
    """
    if not callable(gradient):
        given = gradient
        gradient, steps = (lambda t, x: given[t]), len(given) if steps is None else steps
    if steps is None:
        raise ValueError("steps: got None; a number is needed where the gradient is a function")
    x = start.detach().clone()
    param = Param("x", tuple(x.shape))
    state = rule.views(rule.memory({"x": x}), [param])
    kept = [x.clone()]
    for t in range(steps):
        lr = rule.lr if schedule is None else schedule(t)
        rule.step([param], [x], [gradient(t, x)], state, float(t + 1), lr)
        if (t + 1) % every == 0:
            kept.append(x.clone())
    return torch.stack(kept)


def torch_path(
    make: Callable[..., torch.optim.Optimizer], gradients: Sequence[Tensor], start: Tensor, **settings: Any
) -> Tensor:
    """The same points [steps + 1, ...] of a torch optimizer that meets these gradients."""
    x = nn.Parameter(start.detach().clone())
    optimizer = make([x], **settings)
    kept = [x.detach().clone()]
    for g in gradients:
        x.grad = g.clone()
        optimizer.step()
        kept.append(x.detach().clone())
    return torch.stack(kept)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two paths."""
    return float((a - b).abs().max())


def inverse_root(lr: float) -> Schedule:
    """lr / sqrt(t), t = 1 at first: the rates of the analyses of online problems."""
    return partial(_inverse_root, lr)


def _inverse_root(lr: float, step: float) -> float:
    return float(lr / (step + 1.0) ** 0.5)
