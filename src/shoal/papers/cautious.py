"""K. Liang, L. Chen, B. Liu, Q. Liu, "Cautious Optimizers: Improving Training with One Line of Code", 2024 (arXiv
2411.16085).

Claimed: to leave out the entries of an update whose sign is not that of the current gradient, and to enlarge the rest,
makes every optimizer with momentum better without new tuning, and keeps its guarantees: Llama 1B learns with 1.47
(C-AdamW) and 1.28 (C-Lion) times fewer samples.

Criteria, fixed before the run:

1. Of AdamW and Lion with the mask, no entry moves against its gradient, in any step (decay apart).
2. With beta1 = 0 nothing is masked: AdamW's steps times d / (d + 1) for a tensor of d entries, to 1e-12.
3. Momentum on a quadratic with eigenvalues 1 and 20 ("the loss falls all the time"): the loss rises in at most 2% of
   300 steps with the mask, and in at least 20% without it.
4. Fashion-MNIST, MLP, each with its best rate: C-AdamW first has AdamW's final test loss after at most 1 / 1.2 of the
   steps after which AdamW first has it.
5. C-Lion has Lion's after at most 1 / 1.1 of Lion's.
6. Without new tuning (the best rate of the optimizer without mask) C-AdamW's final test loss is lower than AdamW's, and
7. C-Lion's is lower than Lion's.

Notes. 1.2 and 1.1 are about half of the published gains in excess of 1. "After so many steps" interpolates between
evaluations; losses are means over seeds. If it is never reached, the ratio counts as 0.
The theorem behind 3 is one of continuous time: after the run, at rates a half, a quarter and a tenth as high, the loss
was seen to rise in 2.0%, 0.8% and 0.0% of the steps with the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import SGD, AdamW, Rule
from shoal.optim.cautious import cautious
from shoal.optim.lion import Lion
from shoal.papers.optimizers import apart, outcome, path, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

FASTER = {"AdamW": 1.2, "Lion": 1.1}
BASES: dict[str, type[AdamW] | type[Lion]] = {"AdamW": AdamW, "Lion": Lion}
CHANGES: dict[str, dict[str, Any]] = {
    "check": {"steps": 80, "rates": (3e-4, 1e-3, 3e-3, 1e-2), "seeds": (7,), "metric": "loss", "evaluate_every": 4},
    "full": {"rates": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "metric": "loss", "evaluate_every": 10},
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [never_against(figures), nothing_masked(figures), falling(figures), *contest(scale, figures)]
    published = {"Llama 1B, C-AdamW": "1.47 times fewer samples", "Llama 1B, C-Lion": "1.28 times fewer samples"}
    return Result(findings, figures, published, (7, 8, 9) if scale == "full" else (7,))


def never_against(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 1."""
    gradients = normal(key(13, "gradients"), (60, 50), dtype=torch.float64)
    start = torch.zeros(50, dtype=torch.float64)
    for name, make in BASES.items():
        moves = -path(cautious(make.rule(lr, weight_decay=0.0)), list(gradients), start).diff(dim=0)
        figures[f"entries against their gradient, C-{name}"] = float((moves * gradients < 0.0).sum())
    counts = [figures[f"entries against their gradient, C-{name}"] for name in BASES]
    told = f"{counts[0]:.0f}, {counts[1]:.0f} of {gradients.numel()}"
    return Finding("no entry moves against its gradient (C-AdamW, C-Lion)", told, not any(counts))


def nothing_masked(figures: dict[str, float], lr: float = 0.02, entries: int = 50) -> Finding:
    """Criterion 2."""
    gradients = list(normal(key(14, "gradients"), (40, entries), dtype=torch.float64))
    rule, start = AdamW.rule(lr, betas=(0.0, 0.99), weight_decay=0.0), torch.zeros(entries, dtype=torch.float64)
    masked, plain = path(cautious(rule), gradients, start), path(rule, gradients, start)
    error = figures["beta1 = 0: distance"] = apart(masked, plain * entries / (entries + 1))
    return Finding("beta1 = 0: AdamW's steps times d / (d + 1), to 1e-12", f"{error:.1e}", error <= 1e-12)


def falling(figures: dict[str, float], lr: float = 0.02, mu: float = 0.9, steps: int = 300) -> Finding:
    """Criterion 3."""
    values = torch.tensor([1.0, 20.0], dtype=torch.float64)

    def rises(rule: Rule) -> float:
        points: Tensor = path(rule, lambda t, x: values * x, torch.ones(2, dtype=torch.float64), steps)
        return float(((points.square() @ values).diff() > 0.0).double().mean())

    rule = SGD.rule(lr, momentum=mu)
    masked, plain = rises(cautious(rule)), rises(rule)
    figures |= {"steps that raise the loss, masked": masked, "steps that raise the loss, momentum": plain}
    return Finding(
        "the loss rises in at most 2% of steps with the mask, at least 20% without",
        f"{masked:.1%}, {plain:.1%}",
        masked <= 0.02 and plain >= 0.2,
    )


def contest(scale: str, figures: dict[str, float]) -> list[Finding]:
    """Criteria 4 to 7."""
    contenders: dict[str, Contender] = {}
    for name, make in BASES.items():
        contenders[name] = Contender(make)
        contenders[f"C-{name}"] = Contender(lambda lr, make=make: cautious(make.rule(lr)))
    found = race(contenders, scale, **CHANGES[scale])
    record(found, figures)
    rates = {f"C-{name}": Contender(contenders[f"C-{name}"].make, rates=(found[name].lr,)) for name in BASES}
    untuned = race(rates, scale, **(CHANGES[scale] | {"extend": False}))
    record(untuned, figures, "rate not tuned")
    ratios = {name: speedup(found, f"C-{name}", name) for name in BASES}
    figures |= {f"{name}: ratio of steps to its final loss": value for name, value in ratios.items()}
    return [
        *faster(ratios, outcome(found)),
        *(lower(name, untuned[f"C-{name}"].mean, found[name].mean) for name in BASES),
    ]


def speedup(found: Comparison, other: str, name: str) -> float:
    """Steps to the final test loss of the contender `name`: its own over those of the other; 0 if one never has it."""
    own, its = (steps_to(found.evaluated, found[n].curve, found[name].mean) for n in (name, other))
    return own / its if math.isfinite(own) and math.isfinite(its) else 0.0


def steps_to(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    """Steps until a loss is reached, between two evaluations on a straight line; infinite if it never is.

    >>> steps_to([10, 20], [3.0, 1.0], 2.0)
    15.0
    """
    for i, (step, loss) in enumerate(zip(steps, losses, strict=False)):
        if loss <= target:
            if i == 0:
                return float(step)
            return steps[i - 1] + (step - steps[i - 1]) * (losses[i - 1] - target) / (losses[i - 1] - loss)
    return math.inf


def faster(ratios: Mapping[str, float], told: str) -> list[Finding]:
    """Criteria 4 and 5."""
    return [
        Finding(
            f"C-{name} has {name}'s final test loss with {FASTER[name]} times fewer steps",
            f"{value:.2f} times" + (f"; {told}" if name == "AdamW" else ""),
            value >= FASTER[name],
        )
        for name, value in ratios.items()
    ]


def lower(name: str, masked: float, plain: float) -> Finding:
    """Criteria 6 and 7."""
    return Finding(f"C-{name} at {name}'s best rate: lower test loss", f"{masked:.4f} for {plain:.4f}", masked < plain)
