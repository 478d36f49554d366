"""L. Ziyin, Z. T. Wang, M. Ueda, "LaProp: Separating Momentum and Adaptivity in Adam", 2020 (arXiv 2002.04839).

Claimed: Adam averages gradients and then divides by the root of the average of their squares, so that a step is bounded
only where mu < sqrt(nu); for faster adaptivity it diverges. To divide first and then average (LaProp) is stable for any
mu and nu, bounded by lr / sqrt(1 - nu), and at least as fast as Adam where Adam works.

Criteria, fixed before the run:

1. float64: mu = 0 is the path of `torch.optim.Adam` with beta1 = 0, to 1e-12.
2. One gradient of 1, then zeros, mu = 0.9, nu = 0.6, no eps: from the 40th step on Adam's steps grow by mu / sqrt(nu),
   LaProp's shrink by mu, both to 1e-6 (but for the factor that removes the bias of the average).
3. 2,000 gradients with rare large ones (Cauchy), nu = 0.9, for mu of 0, 0.5, 0.9, 0.99 and 0.999: no step of LaProp
   exceeds lr / sqrt(1 - nu), and the largest step of Adam with mu = 0.999 does.
4. An MLP on images, batch 16, nu = 0.4, at the rate that is best for each with nu = 0.999: in every seed Adam diverges
   or ends with 10 times LaProp's training loss.
5. There LaProp's mean accuracy is at most 3 points below its own with nu = 0.999.
6. nu = 0.999, rates tuned alike: LaProp's mean accuracy is at most 0.5 points below Adam's.

The publication shows curves: noisy Rosenbrock, translation, RoBERTa without warm-up, Atari.
"""

from __future__ import annotations

import math

import torch

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison, Entry
from shoal.optim import Adam, Optimizer
from shoal.optim.laprop import LaProp
from shoal.papers.optimizers import SETTINGS, apart, outcome, path, points, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

FAST, SLOW = 0.4, 0.999
METHODS: dict[str, type[Optimizer]] = {"Adam": Adam, "LaProp": LaProp}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [without_momentum(figures), spike(figures), bound(figures)]
    slow = race({name: Contender(make, {"betas": (0.9, SLOW)}) for name, make in METHODS.items()}, scale, batch=16)
    fast = race(
        {name: Contender(make, {"betas": (0.9, FAST)}, rates=[slow[name].lr]) for name, make in METHODS.items()},
        scale,
        batch=16,
        extend=False,
    )
    record(slow, figures, f"nu = {SLOW}")
    record(fast, figures, f"nu = {FAST}")
    findings += [diverges(fast), stays(slow, fast), as_good(slow)]
    published = {"mu > sqrt(nu)": "Adam diverges, LaProp does not", "elsewhere": "at least as fast as Adam"}
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 to 3: exact properties ------------------------------------------------------------------------------------------


def without_momentum(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(0, "laprop"), (200, 50), dtype=torch.float64))
    start = normal(key(1, "laprop"), 50, dtype=torch.float64)
    torch_s = torch_path(torch.optim.Adam, gradients, start, lr=0.02, betas=(0.0, 0.99))
    ours = path(LaProp.rule(0.02, betas=(0.0, 0.99), eps=1e-8), gradients, start)
    error = figures["mu = 0: distance from torch's Adam"] = apart(ours, torch_s)
    return Finding("mu = 0: the path of torch's Adam, to 1e-12", f"{error:.1e}", error <= 1e-12)


def spike(figures: dict[str, float], mu: float = 0.9, nu: float = 0.6, steps: int = 150, late: int = 40) -> Finding:
    """Criterion 2."""
    one = torch.ones(1, dtype=torch.float64)
    gradients = [one, *[torch.zeros_like(one)] * (steps - 1)]
    worst = {}
    for name, make, growth in (("Adam", Adam, mu / nu**0.5), ("LaProp", LaProp, mu)):
        sizes = path(make.rule(1.0, betas=(mu, nu), eps=1e-300), gradients, torch.zeros_like(one)).diff(dim=0)[:, 0]
        t = torch.arange(1, steps + 1, dtype=torch.float64)
        sizes = sizes * (1.0 - mu**t)  # what removes the bias of the average goes on changing for long
        ratios = sizes[late:] / sizes[late - 1 : -1]
        figures[f"growth of the step after a spike, {name}"] = float(ratios[-1])
        worst[name] = float((ratios - growth).abs().max())
    return Finding(
        f"after a spike, bias left in: Adam's steps grow by {mu / nu**0.5:.4f}, LaProp's shrink by {mu}, to 1e-6",
        f"within {worst['Adam']:.1e} and {worst['LaProp']:.1e}",
        max(worst.values()) <= 1e-6,
    )


def bound(figures: dict[str, float], nu: float = 0.9, lr: float = 0.02) -> Finding:
    """Criterion 3."""
    a, b = (normal(key(i, "laprop"), (2000, 50), dtype=torch.float64) for i in (2, 3))
    gradients, limit = list(a / b), lr / (1.0 - nu) ** 0.5
    largest = {}
    for mu in (0.0, 0.5, 0.9, 0.99, 0.999):
        for name, make in METHODS.items():
            moved = path(make.rule(lr, betas=(mu, nu)), gradients, torch.zeros_like(gradients[0])).diff(dim=0)
            largest[name, mu] = figures[f"largest step over the bound, {name}, mu = {mu}"] = (
                float(moved.abs().max()) / limit
            )
    ours = max(value for (name, _), value in largest.items() if name == "LaProp")
    return Finding(
        "no step of LaProp above lr / sqrt(1 - nu); Adam's largest above, mu = 0.999",
        f"LaProp at most {ours:.3f} of it, Adam {largest['Adam', 0.999]:.1f} times",
        ours <= 1.0 + 1e-9 and largest["Adam", 0.999] > 1.0,
    )


# -- 4 to 6: training --------------------------------------------------------------------------------------------------


def final_losses(entry: Entry) -> list[float]:
    """The training loss at the end of each test run; infinite if it diverged."""
    return [math.inf if test.diverged else test.train_losses[-1] for test in entry.tests]


def diverges(fast: Comparison) -> Finding:
    """Criterion 4."""
    pairs = list(zip(final_losses(fast["Adam"]), final_losses(fast["LaProp"]), strict=True))
    return Finding(
        f"nu = {FAST}: Adam diverges or ends with 10 times LaProp's training loss, in every seed",
        "; ".join(f"Adam {adam:.3g}, LaProp {ours:.3g}" for adam, ours in pairs),
        all(ours < math.inf and adam >= 10.0 * ours for adam, ours in pairs),
    )


def stays(slow: Comparison, fast: Comparison) -> Finding:
    """Criterion 5."""
    before, after = slow["LaProp"].mean, fast["LaProp"].mean
    return Finding(
        f"nu = {FAST}: LaProp's accuracy at most 3 points below that with nu = {SLOW}",
        f"{points(after, before)} ({outcome(fast)})",
        after >= before - 0.03,
    )


def as_good(slow: Comparison) -> Finding:
    """Criterion 6."""
    ours, adam = slow["LaProp"].mean, slow["Adam"].mean
    return Finding(
        f"nu = {SLOW}: accuracy at most 0.5 points below Adam's",
        f"{points(ours, adam)} ({outcome(slow)})",
        ours >= adam - 0.005,
    )
