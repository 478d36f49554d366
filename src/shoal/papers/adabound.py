"""L. Luo, Y. Xiong, Y. Liu, X. Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning Rate", ICLR 2019
(arXiv 1902.09843).

Claimed: Adam's rates, clipped into a band that narrows to one number, lead from Adam to SGD: as fast as Adam early, and
in the end as accurate as SGD with momentum, which is about 2 points above Adam on CIFAR-10 (from memory); where Adam
ends at the worst point of a convex problem, AdaBound converges.

Criteria, fixed before the run:

1. float64: with gamma = 1e9 the band is one number and the path is SGD's with an average as momentum, to 1e-6.
2. With gamma = 1e-12 it clips nothing: Adam's path with the eps of the code (beside the uncorrected root), to 1e-6.
3. beta1 = 0: each rate, step over gradient, lies in the published band at each of 300 steps, to 1e-9 of it.
4. Losses 4 x in the first of every 3 steps, -x in the others, on [-1, 1], rates over sqrt(t), beta1 = 0, beta2 = 1/17:
   after 20,000 steps Adam is above 0.99, the worst point, AdaBound below -0.95, near the best.
5. An MLP on images, rates times 0.1 for the last quarter: at a tenth of the steps AdaBound's training loss is at most
   1.05 times Adam's,
6. its final test accuracy is at most 0.5 points below that of SGD with momentum,
7. and at least 0.5 points above Adam's (a quarter of what is published).

Rates are tuned alike; SGD's are 30 times Adam's. final_lr is the published 0.1. gamma is 0.2 instead of 0.001, so that
gamma times the number of steps, which says how far the band has narrowed, is about that of 200 epochs of CIFAR-10.

Note. A final rate of 0.1 on an average of gradients is SGD's 0.01 with a momentum of 0.9, while the best rate of SGD
here is near 0.1. Runs of AdaBound with a final rate of 1 are therefore among the figures, but no criterion looks at
them: the publication says that the final rate hardly matters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam, Schedule, step_decay
from shoal.optim.adabound import AdaBound
from shoal.optim.amsgrad import Box
from shoal.papers.optimizers import SETTINGS, apart, inverse_root, outcome, path, points, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

GAMMA = 0.2


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [narrow(figures), wide(figures), inside(figures), worst_point(figures, 20_000)]
    found = compared(scale)
    record(found, figures)
    findings += [early(found, figures), *late(found)]
    published = {"CIFAR-10, final accuracy": "that of SGD with momentum, about 2 points above Adam (from memory)"}
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 to 4: exact properties ------------------------------------------------------------------------------------------


def gradients(number: int, steps: int = 300) -> list[Tensor]:
    """Random ones, [50] a step."""
    return list(normal(key(number, "adabound"), (steps, 50), dtype=torch.float64))


def narrow(figures: dict[str, float], beta1: float = 0.9, final_lr: float = 0.05) -> Finding:
    """Criterion 1."""
    given = gradients(0)
    found = path(
        AdaBound.rule(1e-3, betas=(beta1, 0.99), final_lr=final_lr, gamma=1e9), given, torch.zeros_like(given[0])
    )
    m, x = torch.zeros_like(given[0]), torch.zeros_like(given[0])
    for g in given:
        m = beta1 * m + (1.0 - beta1) * g
        x = x - final_lr * m
    error = figures["gamma = 1e9: distance from SGD"] = apart(found[-1], x)
    return Finding("gamma = 1e9: SGD with an average as momentum, to 1e-6", f"{error:.1e}", error <= 1e-6)


def wide(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 2; eps = 0 on both sides, where its place does not matter."""
    given = gradients(1)
    start = torch.zeros_like(given[0])
    ours = path(AdaBound.rule(lr, gamma=1e-12, eps=0.0), given, start)
    error = figures["gamma = 1e-12: distance from Adam"] = apart(ours, path(Adam.rule(lr, eps=0.0), given, start))
    return Finding("gamma = 1e-12: Adam without eps, to 1e-6", f"{error:.1e}", error <= 1e-6)


def inside(figures: dict[str, float], final_lr: float = 0.05, gamma: float = 0.01) -> Finding:
    """Criterion 3."""
    given = gradients(2)
    rule = AdaBound.rule(0.02, betas=(0.0, 0.99), final_lr=final_lr, gamma=gamma)
    rates = -path(rule, given, torch.zeros_like(given[0])).diff(dim=0) / torch.stack(given)
    t = torch.arange(1, len(given) + 1, dtype=torch.float64)[:, None]
    lower, upper = final_lr * (1.0 - 1.0 / (gamma * t + 1.0)), final_lr * (1.0 + 1.0 / (gamma * t))
    outside = float(torch.maximum(lower - rates, rates - upper).max() / final_lr)
    clipped = float(((rates - lower).abs() < 1e-9).double().mean() + ((rates - upper).abs() < 1e-9).double().mean())
    figures["farthest outside of the band"], figures["share of rates at its edges"] = outside, clipped
    return Finding(
        "every rate lies in the published band, to 1e-9 of it",
        f"farthest outside {max(0.0, outside):.1e}; {clipped:.0%} of the rates were clipped",
        outside <= 1e-9,
    )


def worst_point(figures: dict[str, float], steps: int, lr: float = 0.2) -> Finding:
    """Criterion 4."""
    slopes = [torch.tensor([s], dtype=torch.float64) for s in (4.0, -1.0, -1.0)]
    betas, box = (0.0, 1.0 / 17.0), Box(-1.0, 1.0)
    start = torch.zeros(1, dtype=torch.float64)

    def gradient(t: int, x: Tensor) -> Tensor:
        return slopes[t % 3]

    adam = float(path(Adam.rule(lr, betas=betas).then(box), gradient, start, steps, inverse_root(lr), every=steps)[-1])
    rule = AdaBound.rule(lr, betas=betas, final_lr=0.05, gamma=0.001, bias_correction=False, sqrt_decay=True).then(box)
    bound = float(path(rule, gradient, start, steps, every=steps)[-1])
    figures["last point, Adam"], figures["last point, AdaBound"] = adam, bound
    return Finding(
        "convex problem whose best point is -1: Adam ends above 0.99, AdaBound below -0.95",
        f"after {steps}: Adam {adam:.4f}, AdaBound {bound:.4f}",
        adam > 0.99 and bound < -0.95,
    )


# -- 5 to 7: training --------------------------------------------------------------------------------------------------


def decayed(peak: float, steps: int) -> Schedule:
    """A tenth of the rate for the last quarter."""
    return step_decay(peak, [steps * 3 // 4])


def compared(scale: str) -> Comparison:
    """AdaBound, Adam and SGD; and AdaBound with another final rate, for the figures."""
    setting = SETTINGS[scale]
    arms = {
        "AdaBound": Contender(AdaBound, {"gamma": GAMMA}),
        "Adam": Contender(Adam),
        "SGD": Contender(SGD, {"momentum": 0.9}, rates=[30 * lr for lr in setting.rates]),
        "AdaBound, final_lr 1": Contender(AdaBound, {"gamma": GAMMA, "final_lr": 1.0}),
    }
    return race(arms, scale, schedule=decayed, evaluate_every=setting.steps // 10)


def early(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 5."""
    losses = {entry.name: entry.train_losses[0] for entry in found.entries if entry.train_losses}
    figures.update({f"training loss, first tenth, {name}": loss for name, loss in losses.items()})
    return Finding(
        "training loss over the first tenth of the steps at most 1.05 times Adam's",
        ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()),
        "AdaBound" in losses and "Adam" in losses and losses["AdaBound"] <= 1.05 * losses["Adam"],
    )


def late(found: Comparison) -> list[Finding]:
    """Criteria 6 and 7."""
    bound, adam, sgd = (found[name].mean for name in ("AdaBound", "Adam", "SGD"))
    return [
        Finding(
            "final accuracy at most 0.5 points below SGD's",
            f"{points(bound, sgd)} ({outcome(found)})",
            bound >= sgd - 0.005,
        ),
        Finding(
            "final accuracy at least 0.5 points above Adam's",
            f"{points(bound, adam)} ({outcome(found)})",
            bound >= adam + 0.005,
        ),
    ]
