"""I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019 (arXiv 1711.05101).

Claimed: L2 regularisation is not weight decay where rates are adaptive: Adam divides the penalty's gradient away with
the rest. Decay applied to the weights themselves (AdamW) makes the best decay nearly independent of the learning rate,
and generalises better: on CIFAR-10 and ImageNet32x32 test errors are about 15% lower, relatively, than Adam's with L2.

Criteria, fixed before the run:

1. float64: 200 random gradients give the path of `torch.optim.AdamW`, to 1e-12.
2. Zero gradients: AdamW leaves (1 - lr lam)^t of a weight, to 1e-12. Adam with L2 moves it by the same in 20 steps with
   lam = 2 as with lam = 0.002, to 1e-4 of that, although the penalties differ 1000 times.
3. Without momentum SGD with L2 of lam / lr is SGDW with lam, to 1e-12.
4. Five learning rates, each with five decays a decade apart ("check": three and three): over the rates whose best
   accuracy is within 3 points of the best of all, the best decay varies over fewer decades in AdamW than in Adam with
   L2.
5. The best of these settings of either, tested: AdamW's mean error is at least 5% lower, relatively.

Decays are the publication's: not multiplied by the rate, but by the schedule, which is half a cosine down to 0. An MLP
784-64-10 on 2,000 images, of which half are held out for tuning; they are few so that regularisation matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.models import mlp
from shoal.learning.results import Comparison, Trial
from shoal.optim import SGD, SGDW, Adam, AdamW
from shoal.optim.adamw import warm_restarts
from shoal.papers.measures import some_of
from shoal.papers.optimizers import SETTINGS, apart, outcome, path, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

DECAYS = {"check": (1e-4, 1e-3, 1e-2), "full": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
RATES = {"check": (1e-3, 3e-3, 1e-2), "full": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
USEFUL, LOWER = 0.03, 0.05


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [agreement(figures), zero_gradients(figures), same_without_momentum(figures)]
    found = compared(scale)
    record(found, figures)
    findings += [separable(found, figures), generalises(found, figures)]
    published = {"test error, AdamW against Adam with L2": "about 15% lower, relatively"}
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 to 3: exact properties ------------------------------------------------------------------------------------------


def agreement(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(0, "adamw"), (200, 50), dtype=torch.float64))
    start = normal(key(1, "adamw"), 50, dtype=torch.float64)
    torch_s = torch_path(torch.optim.AdamW, gradients, start, lr=0.02, weight_decay=0.3)
    ours = path(AdamW.rule(0.02, weight_decay=0.3), gradients, start)
    error = figures["distance from torch"] = apart(ours, torch_s)
    return Finding("the path of torch's AdamW, to 1e-12", f"{error:.1e}", error <= 1e-12)


def zero_gradients(figures: dict[str, float], lr: float = 2e-3, steps: int = 20) -> Finding:
    """Criterion 2."""
    start = 1.0 + normal(key(2, "adamw"), 50, dtype=torch.float64).abs()
    zeros = [torch.zeros_like(start)] * steps
    ends = path(AdamW.rule(lr, weight_decay=0.5), zeros, start)[-1]
    error = figures["no gradients: distance of AdamW"] = apart(ends, start * (1.0 - lr * 0.5) ** steps)
    moved = [start - path(Adam.rule(lr, weight_decay=lam), zeros, start)[-1] for lam in (0.002, 2.0)]
    differ = figures["no gradients: relative difference of Adam's moves with 1000 times the L2"] = float(
        ((moved[0] - moved[1]).abs() / moved[1]).max()
    )
    return Finding(
        "no gradients: AdamW leaves (1 - lr lam)^t, to 1e-12; Adam moves alike with 1000 times the L2, to 1e-4",
        f"{error:.1e}; {differ:.1e}",
        error <= 1e-12 and differ <= 1e-4,
    )


def same_without_momentum(figures: dict[str, float], lr: float = 0.05, lam: float = 0.02) -> Finding:
    """Criterion 3."""
    gradients = list(normal(key(3, "adamw"), (100, 50), dtype=torch.float64))
    start = normal(key(4, "adamw"), 50, dtype=torch.float64)
    coupled = path(SGD.rule(lr, weight_decay=lam / lr), gradients, start)
    decoupled = path(SGDW.rule(lr, momentum=0.0, weight_decay=lam, decay_times_lr=False), gradients, start)
    error = figures["SGD with L2 against SGDW: distance"] = apart(coupled, decoupled)
    return Finding("no momentum: SGD with L2 of lam / lr is SGDW, to 1e-12", f"{error:.1e}", error <= 1e-12)


# -- 4 and 5: training -------------------------------------------------------------------------------------------------


def compared(scale: str) -> Comparison:
    """Both with every rate and decay."""
    dataset = some_of("fashion-mnist", 2000)
    steps = SETTINGS[scale].steps
    arms = {
        "AdamW": Contender(AdamW, {"decay_times_lr": False}, search={"weight_decay": DECAYS[scale]}),
        "Adam": Contender(Adam, search={"weight_decay": DECAYS[scale]}),
    }
    return race(
        arms,
        scale,
        Task(f"2,000 of {dataset.name}/mlp", mlp(dataset, hidden=64), dataset),
        rates=RATES[scale],
        tuning_seeds=(211, 212) if scale == "full" else (211,),
        schedule=partial(warm_restarts, first_period=steps),
        validation=0.5,
        extend=False,
    )


def best_decays(trials: Sequence[Trial]) -> dict[float, float]:
    """Learning rate -> best decay, for rates that are of use."""
    top = max(trial.mean for trial in trials)
    result = {}
    for rate in sorted({trial.lr for trial in trials}):
        best = max((t for t in trials if t.lr == rate), key=lambda t: (t.mean, -t.loss))
        if best.mean >= top - USEFUL:
            result[rate] = float(best.settings["weight_decay"])
    return result


def decades(decays: Sequence[float]) -> float:
    """How far decays lie apart.

    >>> decays = [0.001, 0.1, 0.01]
    >>> round(decades(decays), 9)
    2.0
    """
    return math.log10(max(decays) / min(decays))


def separable(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 4."""
    best = {entry.name: best_decays(entry.trials) for entry in found.entries}
    spread = {name: decades(list(chosen.values())) for name, chosen in best.items()}
    figures.update({f"decades of best decays, {name}": value for name, value in spread.items()})
    figures.update({f"best decay, {name}, rate {lr:g}": lam for name, c in best.items() for lr, lam in c.items()})
    told = "; ".join(f"{name} " + ", ".join(f"{lr:g}: {lam:g}" for lr, lam in c.items()) for name, c in best.items())
    return Finding(
        "over learning rates the best decay varies over fewer decades in AdamW",
        f"{spread['AdamW']:.0f} against {spread['Adam']:.0f} ({told})",
        spread["AdamW"] < spread["Adam"],
    )


def generalises(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 5."""
    errors = {entry.name: 1.0 - entry.mean for entry in found.entries}
    lower = figures["relative reduction of the test error"] = 1.0 - errors["AdamW"] / errors["Adam"]
    return Finding(
        "mean test error at least 5% lower, relatively",
        f"{100 * lower:+.1f}% lower ({outcome(found)})",
        lower >= LOWER,
    )
