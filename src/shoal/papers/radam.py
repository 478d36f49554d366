"""L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao, J. Han, "On the Variance of the Adaptive Learning Rate and Beyond",
ICLR 2020 (arXiv 1908.03265).

Claimed: Adam needs warm-up because its adaptive rates have a large variance while few gradients have been seen; a
factor that holds this variance at its final value (RAdam) does what warm-up does, without its settings, and makes
training less sensitive to the learning rate. One Billion Word, LSTM: test perplexity 35.70, Adam 36.92 (from memory);
translation: as good as Adam with warm-up, where Adam without stalls.

Criteria, fixed before the run:

1. float64: 200 random gradients give the path of `torch.optim.RAdam`, to 1e-12.
2. beta1 = 0 and a constant gradient g show which branch was taken (steps of lr g or lr r): adaptive from the 5th step
   with the publication's threshold of 4, from the 6th with 5; the factors r are those of the closed form, to 1e-9.
3. beta2 = 0.6 never adapts: momentum with its bias removed, to 1e-12.
4. Gaussian gradients, beta1 = 0, 20,000 coordinates, t = 20 to 2,000: the variance of Adam's rate falls at least 10
   times, the highest variance of the rectified rate is at most 1.5 times the lowest.
5. A small transformer on characters: over one grid of rates the highest validation loss minus the lowest is smaller
   with RAdam than with Adam without warm-up.
6. Each at its best rate: RAdam's mean test loss is at most 1.01 times that of Adam with warm-up.
7. And below that of Adam without.

Warm-up is linear over the first fifth of the steps. Rates are tuned alike, and for the best ones the grid is extended
("full") where one lies at its edge; nothing else is tuned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import Adam, Schedule, constant, gradual_warmup
from shoal.optim.radam import RAdam
from shoal.papers.optimizers import SETTINGS, apart, characters, outcome, path, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STEPS = {"check": 40, "full": 300}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [agreement(figures), branches(figures), without_adaptation(figures), variances(figures)]
    found = compared(scale)
    record(found, figures)
    findings += [robust(found, figures), as_warm_up(found), better(found)]
    published = {
        "perplexity, One Billion Word": "RAdam 35.70, Adam 36.92 (from memory)",
        "translation": "RAdam as good as Adam with warm-up",
    }
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 to 4: exact properties, and variances ---------------------------------------------------------------------------


def agreement(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(0, "radam"), (200, 50), dtype=torch.float64))
    start = normal(key(1, "radam"), 50, dtype=torch.float64)
    torch_s = torch_path(torch.optim.RAdam, gradients, start, lr=0.02)
    error = figures["distance from torch"] = apart(path(RAdam.rule(0.02), gradients, start), torch_s)
    return Finding("the path of torch's RAdam, to 1e-12", f"{error:.1e}", error <= 1e-12)


def rho(t: int, beta2: float) -> float:
    """Length of the approximated average after t steps."""
    return 2.0 / (1.0 - beta2) - 1.0 - 2.0 * t * beta2**t / (1.0 - beta2**t)


def factor(t: int, beta2: float) -> float:
    """r of the publication."""
    now, limit = rho(t, beta2), 2.0 / (1.0 - beta2) - 1.0
    return math.sqrt((now - 4.0) * (now - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * now))


def branches(figures: dict[str, float], beta2: float = 0.999, g: float = 3.0, steps: int = 50) -> Finding:
    """Criterion 2."""
    gradients = [torch.full((1,), g, dtype=torch.float64)] * steps
    begun, worst = {}, 0.0
    for threshold in (4.0, 5.0):
        rule = RAdam.rule(1.0, betas=(0.0, beta2), eps=0.0, rho_threshold=threshold)
        sizes = -path(rule, gradients, torch.zeros_like(gradients[0])).diff(dim=0)[:, 0]
        first = next((t for t in range(1, steps + 1) if abs(float(sizes[t - 1]) - g) > 1e-9), steps + 1)
        begun[threshold] = figures[f"first adaptive step, threshold {threshold:g}"] = first
        worst = max([worst, *(abs(float(sizes[t - 1]) - factor(t, beta2)) for t in range(first, steps + 1))])
    figures["distance of r from the closed form"] = worst
    return Finding(
        "adaptive from step 5 with threshold 4, from step 6 with 5; r as in the closed form, to 1e-9",
        f"from {begun[4.0]} and {begun[5.0]}; {worst:.1e}",
        begun == {4.0: 5, 5.0: 6} and worst <= 1e-9,
    )


def without_adaptation(figures: dict[str, float], lr: float = 0.02, beta1: float = 0.9) -> Finding:
    """Criterion 3."""
    gradients = normal(key(2, "radam"), (100, 50), dtype=torch.float64)
    start = torch.zeros(50, dtype=torch.float64)
    found = path(RAdam.rule(lr, betas=(beta1, 0.6), rho_threshold=4.0), list(gradients), start)
    m, x = torch.zeros_like(start), start.clone()
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1.0 - beta1) * g
        x = x - lr * m / (1.0 - beta1**t)
    error = figures["beta2 = 0.6: distance from momentum"] = apart(found[-1], x)
    return Finding("beta2 = 0.6 is momentum with its bias removed, to 1e-12", f"{error:.1e}", error <= 1e-12)


def drawn(t: int, coordinates: int) -> Tensor:
    """The gradients of step t."""
    return normal(key(3, "radam", t), coordinates, dtype=torch.float64)


def variances(
    figures: dict[str, float], coordinates: int = 20_000, looked: Sequence[int] = (20, 50, 100, 200, 500, 1000, 2000)
) -> Finding:
    """Criterion 4: a step over its gradient is the rate."""
    ratio = {}
    for name, rule in (
        ("Adam", Adam.rule(1.0, betas=(0.0, 0.999))),
        ("RAdam", RAdam.rule(1.0, betas=(0.0, 0.999))),
    ):
        last = torch.zeros(coordinates, dtype=torch.float64)
        seen: dict[int, float] = {}

        def gradient(t: int, x: Tensor, name: str = name, last: Tensor = last, seen: dict[int, float] = seen) -> Tensor:
            if t in looked:  # x is the point after t steps
                rate = (last - x) / drawn(t - 1, coordinates)
                seen[t] = figures[f"variance of the rate, {name}, step {t}"] = float(rate.var())
            last.copy_(x)
            return drawn(t, coordinates)

        path(rule, gradient, last.clone(), looked[-1] + 1, every=looked[-1])
        ratio[name] = (max(seen.values()) / min(seen.values()), seen[looked[0]] / seen[looked[-1]])
    return Finding(
        "variance of the rate from step 20 to 2,000: Adam's falls at least 10 times, RAdam's stays within 1.5 times",
        f"Adam's falls {ratio['Adam'][1]:.0f} times, RAdam's highest is {ratio['RAdam'][0]:.2f} times its lowest",
        ratio["Adam"][1] >= 10.0 and ratio["RAdam"][0] <= 1.5,
    )


# -- 5 to 7: training --------------------------------------------------------------------------------------------------


def warm_up(peak: float, steps: int) -> Schedule:
    """Linear over the first fifth, then constant."""
    return gradual_warmup(constant(peak), start=0.0, steps=steps // 5)


def compared(scale: str) -> Comparison:
    """RAdam, Adam, and Adam with warm-up."""
    arms = {"RAdam": Contender(RAdam), "Adam": Contender(Adam), "Adam, warm-up": Contender(Adam, schedule=warm_up)}
    return race(arms, scale, characters(), metric="loss", steps=STEPS[scale], batch=16, rates=RATES)


def robust(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 5."""
    spread = {}
    for entry in found.entries:
        losses = [trial.mean for trial in entry.trials if trial.lr in RATES]
        spread[entry.name] = max(losses) - min(losses)
        figures.update({f"validation loss, {entry.name}, rate {t.lr:g}": t.mean for t in entry.trials})
    told = ", ".join(f"{name} {value:.3f}" for name, value in spread.items())
    return Finding(
        "highest minus lowest validation loss over the rates: smaller than Adam's",
        told,
        spread["RAdam"] < spread["Adam"],
    )


def as_warm_up(found: Comparison) -> Finding:
    """Criterion 6."""
    return Finding(
        "mean test loss at most 1.01 times that of Adam with warm-up",
        outcome(found),
        found["RAdam"].mean <= 1.01 * found["Adam, warm-up"].mean,
    )


def better(found: Comparison) -> Finding:
    """Criterion 7."""
    return Finding(
        "mean test loss below that of Adam without warm-up",
        outcome(found),
        found["RAdam"].mean < found["Adam"].mean,
    )
