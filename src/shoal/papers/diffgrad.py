"""S. R. Dubey, S. Chakraborty, S. K. Roy, S. Mukherjee, S. K. Singh, B. B. Chaudhuri, "diffGrad: An Optimization
Method for Convolutional Neural Networks", 2019 (arXiv 1909.11015).

Claimed: Adam's step times a friction, the sigmoid of the change of the gradient since the step before, does not run
past good minima of non-convex functions, as Adam does, and gives the best or nearly the best accuracy on CIFAR-10 and
-100 among seven optimizers (by about a point; from memory).

Criteria, fixed before the run:

1. Each step lies between 1/2 and 1 times Adam's for the same gradients (eps 0; to 1e-12).
2. A constant gradient: friction 1/2 from the second step on, so Adam's steps at half the rate, to 1e-12.
3. Wells of one variable, 200 starts and two rates: diffGrad runs past the first minimum no further than Adam at the
   same rate, in the mean.
4. And no further than Adam at half the rate.
5. Fashion-MNIST, rates tuned alike: mean test accuracy at least 0.3 points above Adam's.
6. And at least 0.3 points above Adam's whose rates are half of diffGrad's: friction that is mostly 1/2 would show
   here.

Notes. The well is f(x) = (x^2 - 1)^2 + x / 4, from starts in [-2.5, -1.5]; the run past is max(x) - x* with x* its
lower minimum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import Adam, Rule
from shoal.optim.diffgrad import DiffGrad
from shoal.papers.optimizers import SETTINGS, apart, outcome, path, points, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors.random import key, normal, uniform

GAIN = 0.003
RATES = (0.02, 0.2)


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    rates = SETTINGS[scale].rates
    contenders = {
        "diffGrad": Contender(DiffGrad),
        "Adam": Contender(Adam),
        "Adam, half rates": Contender(Adam, rates=[lr / 2 for lr in rates]),
    }
    found = race(contenders, scale)
    record(found, figures)
    findings = [between(figures), constant(figures), *past(figures), *better(found)]
    published = {"CIFAR-10, CIFAR-100": "best or nearly best of seven, by about a point (from memory)"}
    return Result(findings, figures, published, found.seeds)


def between(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(16, "gradients"), (80, 40), dtype=torch.float64) * 2.0)
    zero = torch.zeros(40, dtype=torch.float64)
    ours, adams = (path(kind.rule(0.01, eps=0.0), gradients, zero) for kind in (DiffGrad, Adam))
    shares = (ours[1:] - ours[:-1]) / (adams[1:] - adams[:-1])
    low, high = float(shares.min()), float(shares.max())
    figures["least share of Adam's step"], figures["largest share of Adam's step"] = low, high
    return Finding(
        "steps are 1/2 to 1 times Adam's", f"{low:.4f} to {high:.4f}", low >= 0.5 - 1e-12 and high <= 1.0 + 1e-12
    )


def constant(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    gradients = [normal(key(16, "constant"), 40, dtype=torch.float64)] * 30
    zero = torch.zeros(40, dtype=torch.float64)
    ours = path(DiffGrad.rule(0.02, eps=0.0), gradients, zero)
    adams = path(Adam.rule(0.01, eps=0.0), gradients, zero)
    figures["constant gradient, against half of Adam"] = error = apart(ours[1:] - ours[1], adams[1:] - adams[1])
    return Finding("constant gradient: Adam at half the rate from step 2, to 1e-12", f"{error:.1e}", error <= 1e-12)


def slope(t: int, x: Tensor) -> Tensor:
    """Derivative of (x^2 - 1)^2 + x / 4."""
    return 4.0 * x * (x * x - 1.0) + 0.25


def lower_minimum() -> float:
    """The root of `slope` near -1, by Newton's method."""
    x = -1.0
    for _ in range(20):
        x -= (4.0 * x * (x * x - 1.0) + 0.25) / (12.0 * x * x - 4.0)
    return x


def run_past(rule: Rule, steps: int = 600) -> float:
    """How far the starts run past the lower minimum, in the mean."""
    starts = -1.5 - uniform(key(16, "starts"), 200, dtype=torch.float64)
    walked = path(rule, slope, starts, steps)
    return float((walked.max(0).values - lower_minimum()).clamp_min(0.0).mean())


def past(figures: dict[str, float]) -> list[Finding]:
    """Criteria 3 and 4."""
    table = [(run_past(DiffGrad.rule(lr)), run_past(Adam.rule(lr)), run_past(Adam.rule(lr / 2))) for lr in RATES]
    for lr, row in zip(RATES, table, strict=True):
        for name, value in zip(("diffGrad", "Adam", "Adam at half the rate"), row, strict=True):
            figures[f"run past the minimum, {name}, rate {lr}"] = value
    ours, adam, half = (math.fsum(column) / len(table) for column in zip(*table, strict=True))
    return [
        Finding("runs past the first minimum no further than Adam", f"{ours:.3f} against {adam:.3f}", ours <= adam),
        Finding("and no further than Adam at half the rate", f"{ours:.3f} against {half:.3f}", ours <= half),
    ]


def better(found: Comparison) -> list[Finding]:
    """Criteria 5 and 6."""
    ours, adam, half = (found[name].mean for name in ("diffGrad", "Adam", "Adam, half rates"))
    return [
        Finding(
            f"test accuracy at least {100 * GAIN:.1f} points above Adam's",
            f"{outcome(found)}; {points(ours, adam)}",
            ours >= adam + GAIN,
        ),
        Finding(f"and {100 * GAIN:.1f} above Adam's at half the rates", points(ours, half), ours >= half + GAIN),
    ]
