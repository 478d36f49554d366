"""Z. Nado, J. M. Gilmer, C. J. Shallue, R. Anil, G. E. Dahl, "A Large Batch Optimizer Reality Check: Traditional,
Generic Optimizers Suffice Across Batch Sizes", 2021 (arXiv 2102.06356).

Claimed: LARS and LAMB are not needed for large batches: tuned with the same budget, Nesterov's momentum and Adam do as
well. ResNet-50 on ImageNet, batch 32,768, 2,512 steps: Nesterov 75.92%, LARS's target 75.9%. BERT, batch 32,768: Adam
F1 91.58, LAMB 91.48 (from memory).

Criteria, fixed before the run:

1. float64, the first step of a matrix: LARS's, without momentum, is lr tau |w| |g + lam w| / (|g| + lam |w|) long, and
   LAMB's lr |w|, to 1e-9; neither ratio nor decay is applied to a bias.
2. The schedule is the publication's: peak t / t_w in warm-up, then a power of what is left, and the final rate at the
   last step, to 1e-12.
3. An MLP on images, a large batch, few steps; as many random draws for each from the same ranges of decay, warm-up,
   distance of the decay rates from 1, and from three decades of peak rates of its own: Nesterov's mean test accuracy
   is at most 0.5 points below that of LARS,
4. and Adam's at most 0.5 points below that of LAMB.
5. All four lie within 1.5 points.

"full": Fashion-MNIST, batch 2,048, 100 steps, 12 draws, three seeds. "check": digits, all 1,442 samples, 60 steps,
8 draws, two seeds. The decay after warm-up is linear, and its final rate 0, for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from shoal.learning import Task
from shoal.learning.contenders import Choices, Contender, Span
from shoal.learning.data import load
from shoal.learning.models import mlp
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam, Param, Rule
from shoal.optim.large_batch import LAMB, LARS, warmup_polynomial
from shoal.papers.optimizers import SETTINGS, fashion, outcome, points, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

CLOSE, ALL = 0.005, 0.015


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [first_steps(figures), schedule(figures)]
    found = compared(scale)
    record(found, figures)
    findings += [*as_good(found), together(found)]
    published = {
        "ImageNet, batch 32,768": "Nesterov 75.92%, LARS 75.9%",
        "SQuAD F1, batch 32,768": "Adam 91.58, LAMB 91.48 (from memory)",
    }
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 and 2: exact properties -----------------------------------------------------------------------------------------


def first_step(rule: Rule, w: Tensor, g: Tensor) -> Tensor:
    """What is taken off a parameter."""
    x, param = w.clone(), Param("x", tuple(w.shape))
    rule.step([param], [x], [g], rule.views(rule.memory({"x": x}), [param]), 1.0, rule.lr)
    return w - x


def first_steps(figures: dict[str, float], lr: float = 0.3, tau: float = 0.02, lam: float = 0.1) -> Finding:
    """Criterion 1."""
    w, g = (normal(key(i, "large batch"), (30, 20), dtype=torch.float64) for i in (0, 1))
    lars = LARS.rule(lr, momentum=0.0, trust_coefficient=tau, weight_decay=lam)
    lamb = LAMB.rule(lr, weight_decay=lam, eps=1e-12)
    long = {
        "LARS": first_step(lars, w, g).norm()
        * (g.norm() + lam * w.norm())
        / (g + lam * w).norm()
        / (lr * tau * w.norm()),
        "LAMB": first_step(lamb, w, g).norm() / (lr * w.norm()),
    }
    b, h = w[0], g[0]
    bare = {"LARS": first_step(lars, b, h) - lr * h, "LAMB": first_step(lamb, b, h) - lr * h.sign()}
    errors = {name: abs(float(long[name]) - 1.0) for name in long}
    biases = {name: float(bare[name].abs().max()) for name in bare}
    figures.update({f"length of the first step, {name}: relative error": value for name, value in errors.items()})
    return Finding(
        "first steps: LARS lr tau |w| |g + lam w| / (|g| + lam |w|) long, LAMB lr |w|; biases plain; all to 1e-9",
        ", ".join(f"{name} {errors[name]:.1e}, bias {biases[name]:.1e}" for name in errors),
        max(*errors.values(), *biases.values()) <= 1e-9,
    )


def schedule(figures: dict[str, float], steps: int = 50, warm: int = 7, power: float = 2.0) -> Finding:
    """Criterion 2."""
    rates = warmup_polynomial(0.7, steps=steps, warmup_steps=warm, final=0.01, power=power)
    expected = [0.7 * t / warm for t in range(1, warm + 1)]
    expected += [0.01 + 0.69 * ((steps - t) / (steps - warm)) ** power for t in range(warm + 1, steps + 1)]
    error = figures["distance of the schedule"] = max(abs(rates(t) - rate) for t, rate in enumerate(expected))
    return Finding(
        "rates are the publication's, the final one at the last step, to 1e-12", f"{error:.1e}", error <= 1e-12
    )


# -- 3 to 5: training --------------------------------------------------------------------------------------------------


def momentum(make: Callable[..., Rule], **fixed: Any) -> Callable[..., Rule]:
    """A rule with momentum, from what is searched."""

    def rule(lr: float, decay1: float, weight_decay: float) -> Rule:
        return make(lr, momentum=decay1, weight_decay=weight_decay, **fixed)

    return rule


def moments(make: Callable[..., Rule]) -> Callable[..., Rule]:
    """A rule with two moments, from what is searched."""

    def rule(lr: float, decay1: float, decay2: float, weight_decay: float) -> Rule:
        return make(lr, betas=(decay1, decay2), weight_decay=weight_decay)

    return rule


def contenders(steps: int) -> Mapping[str, Contender]:
    """Who takes part, and where its settings are looked for."""
    shared: dict[str, Choices] = {
        "decay1": Span(0.5, 0.99, "log of 1 - x"),
        "weight_decay": Span(1e-5, 1e-2),
        "warmup_steps": [max(1, steps * share // 100) for share in (5, 10, 20, 30)],
    }
    second: dict[str, Choices] = {"decay2": Span(0.9, 0.999, "log of 1 - x")}
    return {
        "Nesterov": Contender(momentum(SGD.rule, nesterov=True), rates=Span(3e-3, 3.0), search=shared),
        "LARS": Contender(momentum(LARS.rule, trust_coefficient=1.0), rates=Span(3e-4, 0.3), search=shared),
        "Adam": Contender(moments(Adam.rule), rates=Span(3e-4, 0.3), search=shared | second),
        "LAMB": Contender(moments(LAMB.rule), rates=Span(3e-4, 0.3), search=shared | second),
    }


def compared(scale: str) -> Comparison:
    """All four with equal budgets."""
    if scale == "full":
        task, steps, batch, draws = fashion(), 100, 2048, 12
    else:
        dataset = load("digits")
        task, steps, batch, draws = Task("digits/mlp", mlp(dataset, hidden=64), dataset), 60, None, 8
    return race(contenders(steps), scale, task, steps=steps, batch=batch, trials=draws, schedule=warmup_polynomial)


def as_good(found: Comparison) -> list[Finding]:
    """Criteria 3 and 4."""
    return [
        Finding(
            f"{plain}'s accuracy at most {100 * CLOSE:g} points below that of {layered}",
            f"{points(found[plain].mean, found[layered].mean)} ({outcome(found)})",
            found[plain].mean >= found[layered].mean - CLOSE,
        )
        for plain, layered in (("Nesterov", "LARS"), ("Adam", "LAMB"))
    ]


def together(found: Comparison) -> Finding:
    """Criterion 5."""
    means = [entry.mean for entry in found.entries]
    return Finding(
        f"all four within {100 * ALL:g} points",
        f"{100 * (max(means) - min(means)):.2f} points; {found.samples['train']} samples, {len(found.seeds)} seeds",
        max(means) - min(means) <= ALL,
    )
