"""J. Ding, X. Ren, R. Luo, X. Sun, "An Adaptive and Momental Bound Method for Stochastic Learning", 2019
(arXiv 1910.12249).

Claimed: Adam's rates are extreme early in training; held below their own running average, which starts at 0, they are
not, and networks that Adam cannot train without warm-up (Transformers) train without. Final scores are above Adam's.

Criteria, fixed before the run:

1. float64: beta3 = 0 is the path of `torch.optim.Adam`, to 1e-12 (the printed form).
2. The first step is 1 - beta3 times Adam's, to 1e-12 of it.
3. beta1 = 0, 400 random gradients: every rate, step over gradient, is the smaller of Adam's and the average of Adam's,
   to 1e-9 of it.
4. With the published constants the highest rate of the first 50 steps is at most a tenth of Adam's.
5. A small transformer on characters at a rate that is too high for Adam, 0.1: AdaMod's mean validation loss is at least
   10% lower than Adam's, both without warm-up.
6. Each at its best rate: AdaMod's mean test loss is at most 1.01 times that of Adam with warm-up.
7. And below that of Adam without.

Warm-up is linear over the first fifth of the steps. beta3 is 0.99 in training, an average over a third of the 300 steps
("check": more than all of 40), instead of the published 0.999, which would not have risen by the end of so few.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import Adam, Rule, Schedule, constant, gradual_warmup
from shoal.optim.adamod import AdaMod
from shoal.papers.optimizers import SETTINGS, apart, characters, outcome, path, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
HIGH = 1e-1
STEPS = {"check": 40, "full": 300}
BETA3 = 0.99


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [agreement(figures), first_step(figures), bounded(figures), extremes(figures)]
    found = compared(scale)
    record(found, figures)
    findings += [high_rate(found, figures), *best_rates(found)]
    published = {"Transformers without warm-up": "AdaMod trains, Adam diverges", "final scores": "above Adam's"}
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 to 4: exact properties ------------------------------------------------------------------------------------------


def gradients(number: int, steps: int = 200) -> list[Tensor]:
    """Random ones, [50] a step."""
    return list(normal(key(number, "adamod"), (steps, 50), dtype=torch.float64))


def agreement(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    given, start = gradients(0), normal(key(1, "adamod"), 50, dtype=torch.float64)
    ours = path(AdaMod.rule(0.02, beta3=0.0, paper_form=True), given, start)
    error = figures["beta3 = 0: distance from torch's Adam"] = apart(
        ours, torch_path(torch.optim.Adam, given, start, lr=0.02)
    )
    return Finding("beta3 = 0: the path of torch's Adam, to 1e-12", f"{error:.1e}", error <= 1e-12)


def first_step(figures: dict[str, float], beta3: float = 0.98) -> Finding:
    """Criterion 2."""
    given = gradients(2, steps=1)
    start = torch.zeros_like(given[0])
    ours, adam = (
        path(rule, given, start)[-1] for rule in (AdaMod.rule(0.02, beta3=beta3, paper_form=True), Adam.rule(0.02))
    )
    error = figures["first step: relative distance"] = float((ours / adam / (1.0 - beta3) - 1.0).abs().max())
    return Finding("the first step is 1 - beta3 times Adam's, to 1e-12 of it", f"{error:.1e}", error <= 1e-12)


def rates_of(rule: Rule, given: list[Tensor]) -> Tensor:
    """Steps over gradients."""
    return -path(rule, given, torch.zeros_like(given[0])).diff(dim=0) / torch.stack(given)


def bounded(figures: dict[str, float], beta3: float = 0.9) -> Finding:
    """Criterion 3."""
    given = gradients(3, steps=400)
    adam = rates_of(Adam.rule(0.02, betas=(0.0, 0.9)), given)
    ours = rates_of(AdaMod.rule(0.02, betas=(0.0, 0.9), beta3=beta3, paper_form=True), given)
    average, expected = torch.zeros_like(given[0]), []
    for rate in adam:
        average = beta3 * average + (1.0 - beta3) * rate
        expected.append(torch.minimum(rate, average))
    error = figures["rates: relative distance"] = float((ours / torch.stack(expected) - 1.0).abs().max())
    return Finding(
        "every rate is the smaller of Adam's and the average of Adam's, to 1e-9 of it", f"{error:.1e}", error <= 1e-9
    )


def extremes(figures: dict[str, float], steps: int = 50) -> Finding:
    """Criterion 4."""
    given = gradients(4, steps)
    highest = {
        name: float(rates_of(rule, given).max())
        for name, rule in (("Adam", Adam.rule(betas=(0.0, 0.999))), ("AdaMod", AdaMod.rule(betas=(0.0, 0.999))))
    }
    figures.update({f"highest rate of {steps} steps, {name}": rate for name, rate in highest.items()})
    return Finding(
        f"highest rate of the first {steps} steps at most a tenth of Adam's",
        ", ".join(f"{name} {rate:.2e}" for name, rate in highest.items()),
        highest["AdaMod"] <= 0.1 * highest["Adam"],
    )


# -- 5 to 7: training --------------------------------------------------------------------------------------------------


def warm_up(peak: float, steps: int) -> Schedule:
    """Linear over the first fifth, then constant."""
    return gradual_warmup(constant(peak), start=0.0, steps=steps // 5)


def compared(scale: str) -> Comparison:
    """AdaMod, Adam, and Adam with warm-up."""
    arms = {
        "AdaMod": Contender(AdaMod, {"beta3": BETA3}),
        "Adam": Contender(Adam),
        "Adam, warm-up": Contender(Adam, schedule=warm_up),
    }
    return race(
        arms,
        scale,
        characters(),
        metric="loss",
        steps=STEPS[scale],
        batch=16,
        rates=RATES,
        tuning_seeds=(231, 232) if scale == "full" else (231,),
    )


def high_rate(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 5."""
    losses = {}
    for entry in found.entries:
        figures.update({f"validation loss, {entry.name}, rate {t.lr:g}": t.mean for t in entry.trials})
        losses[entry.name] = next(t.mean for t in entry.trials if t.lr == HIGH)
    return Finding(
        f"rate {HIGH:g}, no warm-up: validation loss at least 10% below Adam's",
        ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()),
        losses["AdaMod"] <= 0.9 * losses["Adam"],
    )


def best_rates(found: Comparison) -> list[Finding]:
    """Criteria 6 and 7."""
    ours, adam, warm = (found[name].mean for name in ("AdaMod", "Adam", "Adam, warm-up"))
    told = outcome(found)
    return [
        Finding("mean test loss at most 1.01 times that of Adam with warm-up", told, ours <= 1.01 * warm),
        Finding("mean test loss below that of Adam without warm-up", told, ours < adam),
    ]
