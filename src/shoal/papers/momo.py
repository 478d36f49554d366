"""F. Schaipp, R. Ohana, M. Eickenberg, A. Defazio, R. M. Gower, "MoMo: Momentum Models for Adaptive Learning Rates",
ICML 2024 (arXiv 2305.07583).

Claimed: with the step size from a truncated model of the loss, SGD with momentum and Adam reach the same best accuracy
as before, but over a much wider range of learning rates, which become mere caps.

Criteria, fixed before the run:

1. float64: without momentum, decay and cap, the step is Polyak's, (f - f*) / |g|^2, to 1e-12 over 20 steps.
2. Least squares with a solution (200 x 30, batch 20, 500 steps), rates 0.1 to 1,000 by decades: SGD with momentum
   diverges for the upper two, and MoMo ends below 1e-6 for all.
3. An MLP on images, nine rates half a decade apart, mean over seeds: MoMo's best accuracy is at most half a point below
   that of SGD with momentum, and the rates within 2 points of the better best are at least two more.
4. The same of MoMoAdam against Adam.

"check": 200 steps and every other rate, one seed; one more rate is enough there. "full": 800 steps, three seeds. Ranges
of rates were written down before any run: 1e-2 to 1e2 for SGD, 1e-4 to 1 for Adam.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from shoal.optim import MoMo, MoMoAdam
from shoal.papers.loops import Scores, accuracies, best, good_rates, swept
from shoal.papers.optimizers import fashion, points
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

STEPS = {"check": 200, "full": 800}
SEEDS = {"check": (71,), "full": (71, 72, 73)}
MORE = {"check": 1, "full": 2}
BATCH = 128


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [polyak(figures), *interpolation(figures)]
    every = 2 if scale == "check" else 1
    for name, plain, adaptive, low in (
        ("SGD with momentum", partial(torch.optim.SGD, momentum=0.9, dampening=0.9), MoMo, -2.0),
        ("Adam", torch.optim.Adam, MoMoAdam, -4.0),
    ):
        rates = [10.0 ** (low + 0.5 * i) for i in range(0, 9, every)]
        how: dict[str, Any] = {"steps": STEPS[scale], "batch": BATCH, "seeds": SEEDS[scale]}
        theirs, ours = (accuracies(swept(fashion(), make, rates, **how)) for make in (plain, adaptive))
        for label, scores in ((name, theirs), (adaptive.__name__, ours)):
            figures |= {f"{label}, lr {rate:.3g}: accuracy": score for rate, score in scores.items()}
        findings += [
            as_good(name, adaptive.__name__, ours, theirs),
            wider(adaptive.__name__, ours, theirs, MORE[scale]),
        ]
    published: dict[str, float | str] = {"best accuracy": "the same", "range of good rates": "much wider"}
    return Result(findings, figures, published, SEEDS[scale])


def polyak(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    curvature = torch.logspace(-1, 1, 15, dtype=torch.float64)
    x = nn.Parameter(normal(key(0, "momo"), 15, dtype=torch.float64))
    optimizer, worst = MoMo([x], lr=1e15, beta=0.0, lb=-1.0), 0.0
    for _ in range(20):
        optimizer.zero_grad()
        loss = 0.5 * (curvature * x.square()).sum() - 1.0
        loss.backward()
        g = curvature * x.detach()
        expected = x.detach() - (loss.item() + 1.0) / float(g @ g) * g
        optimizer.step(loss=loss.item())
        worst = max(worst, float((x.detach() - expected).abs().max()))
    figures["distance from Polyak's steps"] = worst
    return Finding("without momentum and cap the step is Polyak's, to 1e-12", f"{worst:.1e}", worst <= 1e-12)


def least_squares(make: Callable[..., Any], rate: float) -> float:
    """Loss over all rows after 500 steps; infinite if it diverged."""
    A = normal(key(1, "momo"), (200, 30), dtype=torch.float64)
    b = A @ normal(key(2, "momo"), 30, dtype=torch.float64)
    x = nn.Parameter(torch.zeros(30, dtype=torch.float64))
    optimizer, random = make([x], lr=rate), torch.Generator().manual_seed(3)
    for _ in range(500):
        rows = torch.randint(200, (20,), generator=random)
        loss = 0.5 * (A[rows] @ x - b[rows]).square().mean()
        if not math.isfinite(loss.item()):
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(**({"loss": loss.item()} if isinstance(optimizer, MoMo) else {}))
    return float(0.5 * (A @ x.detach() - b).square().mean())


def interpolation(figures: dict[str, float]) -> list[Finding]:
    """Criterion 2."""
    rates = (0.1, 1.0, 10.0, 100.0, 1000.0)
    sgd = {r: least_squares(partial(torch.optim.SGD, momentum=0.9, dampening=0.9), r) for r in rates}
    ours = {r: least_squares(MoMo, r) for r in rates}
    figures |= {f"least squares, MoMo, lr {r:g}: loss": loss for r, loss in ours.items()}
    figures |= {f"least squares, SGD, lr {r:g}: loss": loss for r, loss in sgd.items() if loss < 1e3}  # else diverged
    return [
        Finding(
            "least squares: SGD with momentum diverges for rates of 100 and 1,000",
            ", ".join(f"{r:g}: {loss:.0e}" for r, loss in sgd.items()),
            all(not sgd[r] < 1e3 for r in rates[-2:]),
        ),
        Finding(
            "least squares: MoMo ends below 1e-6 for all rates from 0.1 to 1,000",
            ", ".join(f"{r:g}: {loss:.0e}" for r, loss in ours.items()),
            all(loss < 1e-6 for loss in ours.values()),
        ),
    ]


def as_good(name: str, ours_name: str, ours: Scores, theirs: Scores) -> Finding:
    """Criteria 3 and 4, the best."""
    (r, a), (q, b) = best(ours), best(theirs)
    return Finding(
        f"{ours_name}'s best accuracy at most half a point below that of {name}",
        f"{100 * a:.2f} % at {r:.3g}, {name} {100 * b:.2f} % at {q:.3g}: {points(a, b)}",
        a >= b - 0.005,
    )


def wider(ours_name: str, ours: Scores, theirs: Scores, more: int) -> Finding:
    """Criteria 3 and 4, the range."""
    mine, other = good_rates(ours, theirs)
    return Finding(
        f"{ours_name}: at least {more} more of {len(ours)} rates are within 2 points of the better best",
        f"{mine} against {other}",
        mine >= other + more,
    )
