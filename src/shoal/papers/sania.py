"""F. Abdukhakimov, C. Xiang, D. Kamzolov, R. M. Gower, M. Takac, "SANIA: Polyak-type Optimization Framework Leads to
Scale Invariant Stochastic Algorithms" (arXiv 2312.17369, 2023).

Claimed: preconditioned steps whose length Polyak's model gives need no learning rate; with AdaGrad's or Adam's squares
without the root they do not depend on the scale of the features; they match or beat tuned Adam and AdaGrad on logistic
regression and non-linear least squares. (Figures only.)

Criteria, fixed before the run, on scikit-learn's breast-cancer data (569 x 30, standardised; it can nearly be
separated, so that f* = 0 is near the truth), batch 32; "scaled" multiplies each feature by its own exp(u), u even in
[-6, 6]:

1. AdaGrad-SQR and Adam-SQR without a floor, logistic loss, float64: the losses of all steps on the data and on the
   scaled data agree to 1e-6 of their size.
2. Adam at the best of nine rates, 1e-4 to 1, ends more than 1.5 times as high on the scaled data.
3. Logistic loss: SANIA (AdaGrad-SQR, floor 1e-8) ends at most 1.1 times as high as tuned Adam and tuned AdaGrad on the
   data, and lower than both on the scaled data; mean over seeds.
4. The same with non-linear least squares, (sigmoid(x w) - y)^2.
5. Newton without a floor, batch 256, 20 steps, conjugate gradients to the precision of float64: on features multiplied
   by a random matrix of condition 10 the losses agree to 1e-6 of their size; those of AdaGrad-SQR differ by more than
   1e-2.
6. Logistic loss on the data: Hutchinson (floor 0.1, as in the published code) ends at most 1.1 times as high as tuned
   Adam and tuned AdaGrad; mean over seeds.

"check": 300 steps, one seed. "full": 2,000 steps, five seeds. Rates are tuned on another seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.optim import SANIA
from shoal.papers.loops import stepped
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

RATES = tuple(10.0 ** (-4 + 0.5 * i) for i in range(9))
STEPS = {"check": 300, "full": 2000}
SEEDS = {"check": (91,), "full": (91, 92, 93, 94, 95)}
TUNING_SEED = 190
FLOOR = 1e-8
Loss = Callable[[Tensor, Tensor], Tensor]
RIVALS: dict[str, Any] = {"Adam": torch.optim.Adam, "AdaGrad": torch.optim.Adagrad}


def logistic(z: Tensor, y: Tensor) -> Tensor:
    """log(1 + exp(-y z)), mean, for y of -1 and 1."""
    return nn.functional.softplus(-y * z).mean()


def squares(z: Tensor, y: Tensor) -> Tensor:
    """(sigmoid(z) - y)^2, mean, for y taken to 0 and 1."""
    return (torch.sigmoid(z) - (y + 1.0) / 2.0).square().mean()


LOSSES: dict[str, Loss] = {"logistic": logistic, "least squares": squares}


@cache
def data(scaled: bool) -> tuple[Tensor, Tensor]:
    """Features [569, 30] and labels of -1 and 1, float64."""
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    x = torch.from_numpy((X - X.mean(0)) / X.std(0))
    scale = torch.exp(torch.linspace(-6.0, 6.0, 30, dtype=torch.float64)) if scaled else 1.0
    return x * scale, torch.from_numpy(2.0 * y - 1.0)


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [invariant(kind, scale, figures) for kind in ("adagrad-sqr", "adam-sqr")]
    ends: dict[tuple[str, str, bool], float] = {}
    for name, loss in LOSSES.items():
        for scaled in (False, True):
            where = f"{name}, {'scaled' if scaled else 'plain'} features"
            for rival, make in RIVALS.items():
                ends[name, rival, scaled] = tuned(make, loss, scaled, scale)
                figures[f"{where}: last loss, tuned {rival}"] = ends[name, rival, scaled]
            ends[name, "SANIA", scaled] = mean(partial(SANIA, eps=FLOOR), loss, scaled, scale)
            figures[f"{where}: last loss, SANIA"] = ends[name, "SANIA", scaled]
    figures["logistic, plain features: last loss, SANIA by Hutchinson"] = by_hutchinson = mean(
        partial(SANIA, preconditioner="hutchinson"), logistic, False, scale
    )
    findings.append(suffers(ends["logistic", "Adam", False], ends["logistic", "Adam", True]))
    for name in LOSSES:
        findings += judged(name, {(who, scaled): end for (n, who, scaled), end in ends.items() if n == name})
    findings += [*affine(SEEDS[scale][0], figures), hutchinson(by_hutchinson, ends)]
    published: dict[str, float | str] = {"training": "matches or beats tuned Adam and AdaGrad", "scale": "no effect"}
    return Result(findings, figures, published, SEEDS[scale])


def run(
    make: Callable[..., Any], loss: Loss, scaled: bool, steps: int, seed: int, batch: int = 32, by: Tensor | None = None
) -> list[float]:
    """Losses of the batches, and in the end of all samples; the last is infinite if it diverged.

    Args:
        make: from parameters to the optimizer.
        loss: what falls.
        scaled: whether features are.
        steps, seed, batch: of the run.
        by: matrix that features are multiplied by.
    """
    x, y = data(scaled)
    x = x if by is None else x @ by
    w = nn.Parameter(torch.zeros(x.shape[1], dtype=torch.float64))
    optimizer, random = make([w]), torch.Generator().manual_seed(seed)
    found: list[float] = []
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=random)
        value = loss(x[rows] @ w, y[rows])
        if not math.isfinite(value.item()):
            return [*found, math.inf]
        stepped(optimizer, value)
        found.append(value.item())
    return [*found, loss(x @ w.detach(), y).item()]


def mean(make: Callable[..., Any], loss: Loss, scaled: bool, scale: str) -> float:
    """Last loss, mean over the seeds."""
    return sum(run(make, loss, scaled, STEPS[scale], seed)[-1] for seed in SEEDS[scale]) / len(SEEDS[scale])


def tuned(make: Callable[..., Any], loss: Loss, scaled: bool, scale: str) -> float:
    """The same at the rate that is best on the tuning seed."""
    tried = {r: run(partial(make, lr=r), loss, scaled, STEPS[scale], TUNING_SEED)[-1] for r in RATES}
    return mean(partial(make, lr=min(tried, key=lambda r: tried[r])), loss, scaled, scale)


def invariant(kind: str, scale: str, figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    make = partial(SANIA, preconditioner=kind, eps=0.0)
    plain, other = (run(make, logistic, scaled, STEPS[scale], SEEDS[scale][0]) for scaled in (False, True))
    same_length = len(plain) == len(other)
    error = max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(plain, other, strict=True)) if same_length else math.inf
    if error < math.inf:
        figures[f"{kind}: largest distance of losses"] = error
    return Finding(
        f"{kind}, no floor: the losses on scaled features agree to 1e-6", f"{error:.1e}", bool(error <= 1e-6)
    )


def affine(seed: int, figures: dict[str, float]) -> list[Finding]:
    """Criterion 5."""
    left, right = (torch.linalg.qr(normal(key(i, "sania"), (30, 30), dtype=torch.float64))[0] for i in (0, 1))
    by = left @ torch.diag(torch.logspace(0, 1, 30, dtype=torch.float64)) @ right
    apart = {}
    for kind in ("newton", "adagrad-sqr"):
        make = partial(SANIA, preconditioner=kind, eps=0.0, cg_steps=300)
        plain, other = (run(make, logistic, False, 20, seed, 256, matrix) for matrix in (None, by))
        same_length = len(plain) == len(other)
        apart[kind] = (
            max(abs(a - b) / max(1.0, abs(a)) for a, b in zip(plain, other, strict=True)) if same_length else math.inf
        )
        if apart[kind] < math.inf:
            figures[f"{kind}: largest distance of losses under a linear map"] = apart[kind]
    return [
        Finding(
            "Newton: the losses on linearly mapped features agree to 1e-6",
            f"{apart['newton']:.1e}",
            apart["newton"] <= 1e-6,
        ),
        Finding(
            "those of AdaGrad-SQR differ by more than 1e-2", f"{apart['adagrad-sqr']:.1e}", apart["adagrad-sqr"] > 1e-2
        ),
    ]


def hutchinson(end: float, ends: dict[tuple[str, str, bool], float]) -> Finding:
    """Criterion 6."""
    others = {who: ends["logistic", who, False] for who in RIVALS}
    return Finding(
        "logistic: SANIA by Hutchinson ends at most 1.1 times as high as tuned Adam and AdaGrad",
        ", ".join([f"SANIA {end:.4f}", *(f"{who} {x:.4f}" for who, x in others.items())]),
        all(end <= 1.1 * x for x in others.values()),
    )


def suffers(plain: float, scaled: float) -> Finding:
    """Criterion 2."""
    return Finding(
        "tuned Adam ends more than 1.5 times as high on scaled features",
        f"{scaled:.4f} against {plain:.4f}",
        scaled > 1.5 * plain,
    )


def judged(name: str, ends: dict[tuple[str, bool], float]) -> list[Finding]:
    """Criteria 3 and 4."""
    told = {s: ", ".join(f"{who} {ends[who, s]:.4f}" for who in ("SANIA", *RIVALS)) for s in (False, True)}
    return [
        Finding(
            f"{name}: SANIA ends at most 1.1 times as high as tuned Adam and AdaGrad",
            told[False],
            all(ends["SANIA", False] <= 1.1 * ends[who, False] for who in RIVALS),
        ),
        Finding(
            f"{name}, scaled features: SANIA ends lower than both",
            told[True],
            all(ends["SANIA", True] < ends[who, True] for who in RIVALS),
        ),
    ]
