"""S. Taniguchi, K. Harada, G. Minegishi, Y. Oshima, S. C. Jeong, G. Nagahara, T. Iiyama, M. Suzuki, Y. Iwasawa,
Y. Matsuo, "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", NeurIPS 2024 (arXiv 2411.02853).

Claimed: Adam fails for small beta2 since it divides a gradient by a second moment that this gradient is part of. To
divide by the moment before it, and before the momentum, converges at the optimal rate for every beta2; in practice
ADOPT is at least as good as Adam (images, GPT-2, LLaMA-7B; curves and tables of small differences).

Criteria, fixed before the run:

1. float64: the first step moves nothing; with a constant gradient, step t + 1 is lr (1 - beta1^t) against its sign, to
   1e-12.
2. Slopes k^2 with probability 1/k, else -k, on [-1, 1], k = 8: the mean slope is 1 and the best point -1. For beta2 of
   0.2, 0.5 and 0.9, from 0, rates 0.02 / sqrt(1 + t / 100), 10 runs each: all runs of Adam end above 0.8,
3. and all of ADOPT below -0.8.
4. An MLP on images, both with beta2 of 0.1, 0.5, 0.9, 0.99 and 0.9999, rates tuned for each: the highest test loss over
   beta2 minus the lowest is smaller with ADOPT.
5. Each with its own beta2 (0.9999, Adam 0.999), rates tuned alike: ADOPT's mean accuracy is at most 0.3 points below
   Adam's.

"check": 20,000 steps of criterion 2, and the lowest and highest beta2 in criterion 4. "full": 100,000, and all five.
After 20,000 some runs of Adam are still on their way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import Adam, Optimizer, Rule
from shoal.optim.adopt import ADOPT
from shoal.optim.amsgrad import Box
from shoal.papers.optimizers import SETTINGS, apart, outcome, path, points, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

METHODS: tuple[tuple[str, type[Optimizer]], ...] = ("Adam", Adam), ("ADOPT", ADOPT)
SMALL = (0.2, 0.5, 0.9)
SWEEP = {"check": (0.1, 0.9999), "full": (0.1, 0.5, 0.9, 0.99, 0.9999)}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [exact(figures), *unlikely(100_000 if scale == "full" else 20_000, figures)]
    swept = race(
        {
            f"{name}, {beta2:g}": Contender(make, {"betas": (0.9, beta2)})
            for name, make in METHODS
            for beta2 in SWEEP[scale]
        },
        scale,
        metric="loss",
        extend=False,
    )
    record(swept, figures, "each beta2")
    own = race(dict(METHODS), scale)
    record(own, figures, "published beta2")
    findings += [insensitive(swept, figures), as_good(own)]
    published = {"toy problem, small beta2": "Adam fails, ADOPT converges", "training": "at least as good as Adam"}
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 to 3: exact properties and the toy problem ----------------------------------------------------------------------


def exact(figures: dict[str, float], lr: float = 0.02, beta1: float = 0.9, steps: int = 100) -> Finding:
    """Criterion 1."""
    g = normal(key(0, "adopt"), 50, dtype=torch.float64)
    taken = path(ADOPT.rule(lr, betas=(beta1, 0.99)), [g] * steps, torch.zeros_like(g)).diff(dim=0)
    t = torch.arange(steps, dtype=torch.float64)[:, None]
    error = figures["constant gradient: distance of steps"] = apart(taken, -lr * (1.0 - beta1**t) * g.sign())
    return Finding(
        "the first step is 0; with a constant gradient step t + 1 is lr (1 - beta1^t), to 1e-12",
        f"{float(taken[0].abs().max()):.0e}; {error:.1e}",
        bool((taken[0] == 0.0).all()) and error <= 1e-12,
    )


def slopes(steps: int, runs: int, k: float = 8.0) -> Tensor:
    """k^2 with probability 1/k, else -k; [steps, runs]."""
    uniform = torch.special.ndtr(normal(key(1, "adopt"), (steps, runs), dtype=torch.float64))
    return torch.where(uniform < 1.0 / k, k * k, -k)


def rate(step: float) -> float:
    """Of the toy problem."""
    return float(0.02 / (1.0 + step / 100.0) ** 0.5)


def last(rule: Rule, met: Tensor) -> Tensor:
    """Last points [runs] on the toy problem, for slopes [steps, runs]."""
    steps, start = len(met), torch.zeros_like(met[0])
    return path(rule.then(Box(-1.0, 1.0)), list(met), start, schedule=rate, every=steps)[-1]


def unlikely(steps: int, figures: dict[str, float], runs: int = 10) -> list[Finding]:
    """Criteria 2 and 3."""
    met = slopes(steps, runs)
    ends: dict[str, list[Tensor]] = {name: [] for name, _ in METHODS}
    for name, make in METHODS:
        for beta2 in SMALL:
            found = last(make.rule(betas=(0.9, beta2)), met)
            ends[name].append(found)
            figures[f"toy problem, beta2 = {beta2}, {name}: mean last point"] = float(found.mean())

    def told(name: str) -> str:
        shown = (f"{b}: {float(e.min()):.2f} to {float(e.max()):.2f}" for b, e in zip(SMALL, ends[name], strict=True))
        return f"after {steps}, beta2 " + ", ".join(shown)

    adam, ours = torch.stack(ends["Adam"]), torch.stack(ends["ADOPT"])
    return [
        Finding(
            "toy problem, small beta2: Adam ends above 0.8, the wrong side", told("Adam"), bool((adam > 0.8).all())
        ),
        Finding("toy problem, small beta2: ADOPT ends below -0.8", told("ADOPT"), bool((ours < -0.8).all())),
    ]


# -- 4 and 5: training -------------------------------------------------------------------------------------------------


def insensitive(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 4."""
    spread = {}
    for name, _ in METHODS:
        losses = [entry.mean for entry in found.entries if entry.name.startswith(f"{name},")]
        spread[name] = max(losses) - min(losses)
        if spread[name] < float("inf"):
            figures[f"highest minus lowest test loss over beta2, {name}"] = spread[name]
    return Finding(
        "highest minus lowest test loss over beta2: smaller than Adam's",
        f"ADOPT {spread['ADOPT']:.4f}, Adam {spread['Adam']:.4f} ({outcome(found)})",
        spread["ADOPT"] < spread["Adam"],
    )


def as_good(found: Comparison) -> Finding:
    """Criterion 5."""
    ours, adam = found["ADOPT"].mean, found["Adam"].mean
    return Finding(
        "published beta2: accuracy at most 0.3 points below Adam's",
        f"{points(ours, adam)} ({outcome(found)})",
        ours >= adam - 0.003,
    )
