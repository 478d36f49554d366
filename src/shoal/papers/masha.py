"""A. Beznosikov, P. Richtarik, M. Diskin, M. Ryabinin, A. Gasnikov, "Distributed Methods with Compressed Communication
for Solving Variational Inequalities, with Theoretical Guarantees", 2021 (arXiv 2110.03313).

Claimed: MASHA, a variance-reduced extragradient with compression both ways, converges linearly on strongly monotone
problems and with fewer transmitted bits than uncompressed extragradient, where naively compressed descent-ascent stalls
or diverges.

Criteria, fixed before the run, on quadratic games in float64, ten devices, x and y in R^10, eigenvalues of A_m and C_m
in [0.01, 1], singular values of B_m in [0, 1]; |z - z*|^2 / |z*|^2 when a device has sent about the budget of numbers;
each method with its best step of four on another seed; in every seed:

1. Without compression and with tau = 0 it is extragradient, to 1e-12.
2. MASHA1 with rand-k (k = 2 of d = 20, tau = 0.9) is closer than extragradient.
3. MASHA2 with top-k and error feedback (the same k and tau) is closer than extragradient.
4. Descent-ascent with rand-k of k = 2 is above 1e-3.

"full": a budget of 2,000 numbers, three seeds. "check": 400 numbers, one seed, the steps that "full" chose.

Notes. Counted are entries that a device sends, places not, whole operators too: extragradient sends 2 d in a round,
MASHA k + (1 - tau) d on average and d at the start. The naive method compresses what is sent up only, which is better
for it. In the stored run MASHA2 and the naive method chose steps at an edge of their four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shoal.compression import Codec, ErrorFeedback, RandK, TopK
from shoal.engine import ShoalError
from shoal.learning import Task
from shoal.learning.games import quadratic_game
from shoal.optim import SGD
from shoal.papers.result import Finding, Result
from shoal.protocols import MASHA1, MASHA2, Extragradient, ParallelSGD
from shoal.simulation import Run, simulate

DEVICES, D, K, TAU, FAR = 10, 20, 2, 0.9, 1e-3
SENT = {"extragradient": 2.0 * D, "MASHA1": K + (1 - TAU) * D, "MASHA2": K + (1 - TAU) * D, "naive": float(K)}
"""Numbers that a device sends a round."""


@dataclass(frozen=True)
class Setting:
    """One scale; steps to choose from by method."""

    seeds: Sequence[int]
    budget: int
    steps: Mapping[str, Sequence[float]]
    tuning_seed: int = 100


CHECK = Setting((3,), 400, {"extragradient": (1.0,), "MASHA1": (0.2,), "MASHA2": (0.4,), "naive": (0.01,)})
FULL = Setting(
    (3, 4, 5),
    2_000,
    {
        "extragradient": (0.3, 0.6, 1.0, 1.4),
        "MASHA1": (0.05, 0.1, 0.2, 0.4),
        "MASHA2": (0.05, 0.1, 0.2, 0.4),
        "naive": (0.01, 0.03, 0.1, 0.2),
    },
)


def claim(scale: str) -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    for method, steps in setting.steps.items():
        scores = {g: distance(method, g, setting, setting.tuning_seed) for g in steps} if len(steps) > 1 else {}
        for gamma, value in scores.items():
            figures[f"tuning, {method}, step {gamma}"] = value
        gamma = min(steps, key=lambda g: scores.get(g, 0.0))
        figures[f"step, {method}"] = gamma
        found[method] = [distance(method, gamma, setting, seed) for seed in setting.seeds]
        for seed, value in zip(setting.seeds, found[method], strict=True):
            figures[f"distance, {method}, seed {seed}"] = value
    findings = [exact(setting.seeds[0], figures), closer("MASHA1", found), closer("MASHA2", found), stalls(found)]
    return Result(findings, figures, {"bits": "fewer than extragradient, by up to about sqrt(M)"}, setting.seeds)


def game(seed: int) -> Task:
    """The game of a seed."""
    return quadratic_game(DEVICES, dimension=D // 2, seed=seed, dtype=torch.float64)


def played(method: str, gamma: float, rounds: int, seed: int) -> Run:
    """A run of a method."""
    protocols: dict[str, tuple[Any, Codec | None]] = {
        "extragradient": (Extragradient(gamma), None),
        "MASHA1": (MASHA1(gamma, TAU), RandK(K / D)),
        "MASHA2": (MASHA2(gamma, TAU), ErrorFeedback(TopK(K / D))),
        "naive": (ParallelSGD(), RandK(K / D)),
        "MASHA1, whole": (MASHA1(gamma, 0.0), None),
    }
    protocol, codec = protocols[method]
    given: dict[str, Any] = {"optimizer": SGD.rule(gamma)} if method == "naive" else {}
    return simulate(
        protocol,
        task=game(seed),
        codec=codec,
        peers=DEVICES,
        partition="contiguous",
        rounds=rounds,
        batch=0,
        network="ideal",
        evaluate=max(1, rounds),
        seed=seed,
        workers=1,
        **given,
    )


def distance(method: str, gamma: float, setting: Setting, seed: int) -> float:
    """Distance to the saddle point when the budget is spent; 1e30 if it diverged."""
    try:
        return min(played(method, gamma, round(setting.budget / SENT[method]), seed).final("distance"), 1e30)
    except ShoalError:
        return 1e30


def exact(seed: int, figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    a, b = (model(played(method, 0.5, 20, seed)) for method in ("MASHA1, whole", "extragradient"))
    off = figures["MASHA1 without compression against extragradient"] = float((a - b).norm() / b.norm())
    return Finding("without compression and with tau = 0 it is extragradient, to 1e-12", f"{off:.1e}", off <= 1e-12)


def model(run: Run) -> Tensor:
    """The server's."""
    (vector,) = run.models.values()
    return vector


def closer(method: str, found: Mapping[str, Sequence[float]]) -> Finding:
    """Criteria 2 and 3."""
    pairs = list(zip(found[method], found["extragradient"], strict=True))
    return Finding(
        f"{method} is closer than extragradient after as many numbers sent",
        "; ".join(f"{a:.1e} against {b:.1e}" for a, b in pairs),
        all(a < b for a, b in pairs),
    )


def stalls(found: Mapping[str, Sequence[float]]) -> Finding:
    """Criterion 4."""
    values = found["naive"]
    return Finding(
        f"compressed descent-ascent is above {FAR}", ", ".join(f"{v:.1e}" for v in values), min(values) > FAR
    )
