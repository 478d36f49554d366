"""Z. Yao, A. Gholami, S. Shen, M. Mustafa, K. Keutzer, M. W. Mahoney, "ADAHESSIAN: An Adaptive Second Order Optimizer
for Machine Learning", AAAI 2021 (arXiv 2006.00719).

Claimed: with the averaged diagonal of the Hessian in the place of the squared gradient Adam becomes more accurate (1.5
to 5.5 points on images, 0.1 to 0.3 BLEU, 1 to 2.7 perplexity) and less sensitive to its learning rate, for about two
gradients a step.

Criteria, fixed before the run:

1. f = sum h x^2 / 2 with h even in the logarithm from 1 to kappa = 1, 1e2, ..., 1e8, float64: the first step with
   beta1 = 0, eps = 0, lr = 1 leaves |x| below 1e-12 of the start for each kappa.
2. An MLP on images, batch 128: the CPU time of a training step is at most 2.5 times that of plain SGD's.
3. The same MLP, rates within a factor of ten of the default (0.15; for Adam 1e-3), half a decade apart, mean over
   seeds: AdaHessian's best accuracy is at least Adam's,
4. and the mean training loss of its last tenth of steps, at its best, is not above Adam's;
5. its accuracy spreads over the rates no more than Adam's does over its own.
6. A transformer on text, the same rates: AdaHessian's best training loss of the last tenth is not above Adam's.

Changed after a review: criterion 1 also asked that Adam's first step at the best of nine rates leave more than a tenth
from kappa = 1e2 on. It left 0.29 for every kappa, 1 included: Adam's steps ignore the scales of the coordinates, so
this said nothing of curvature, and was dropped. That h is diagonal here is what makes the step land.

"check": 100 steps (text 25), every other rate, one seed. "full": 800 steps (text 400), three seeds (text two). If
Fashion-MNIST is not there, the embedded digits stand in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from shoal.learning import Task
from shoal.optim import AdaHessian
from shoal.papers.loops import Sweep, accuracies, around, best, relative_cost, swept
from shoal.papers.optimizers import characters, fashion, points
from shoal.papers.result import Finding, Result

STEPS = {"check": (100, 25), "full": (800, 400)}
SEEDS = {"check": (131,), "full": (131, 132, 133)}
BATCH = 128
MIDDLES: dict[str, tuple[Callable[..., Any], float]] = {
    "AdaHessian": (AdaHessian, 0.15),
    "Adam": (torch.optim.Adam, 1e-3),
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [lands(figures), cost(figures)]
    every = 2 if scale == "check" else 1
    image_steps, text_steps = STEPS[scale]
    images = both(fashion(), every, image_steps, SEEDS[scale])
    text = both(characters(), every, text_steps, SEEDS[scale][:2])
    for where, scores in (("images", images), ("text", text)):
        for name, found in scores.items():
            for rate, score in found.items():
                figures |= {f"{where}, {name}, lr {rate:.3g}: {what}": x for what, x in score.items() if x == x}
    findings += [as_accurate(images), lower("images", images), flat(images), lower("text", text)]
    published: dict[str, float | str] = {
        "accuracy over Adam's": "+1.5 to +5.5 points",
        "perplexity": "1 to 2.7 lower",
        "cost": "about 2 gradients a step",
    }
    return Result(findings, figures, published, SEEDS[scale])


def lands(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    left = []
    for power in (0, 2, 4, 6, 8):
        h = torch.logspace(0, power, 20, dtype=torch.float64)
        x = nn.Parameter(torch.linspace(0.5, 1.5, 20, dtype=torch.float64))
        start = float(x.detach().norm())
        optimizer = AdaHessian([x], lr=1.0, betas=(0.0, 0.999), eps=0.0)
        optimizer.step(loss=0.5 * (h * x.square()).sum())
        left.append(float(x.detach().norm()) / start)
        figures[f"condition 1e{power}: distance left by the first step"] = left[-1]
    return Finding(
        "diagonal quadratics: the first step lands, to 1e-12, for every condition",
        f"{max(left):.1e}",
        max(left) < 1e-12,
    )


def cost(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    ratio = relative_cost(fashion(), AdaHessian, partial(torch.optim.SGD, lr=1e-3), batch=BATCH)
    figures["CPU time of a step over plain SGD's"] = ratio
    return Finding("a step costs at most 2.5 of plain SGD's", f"{ratio:.2f}", ratio <= 2.5)


def both(task: Task, every: int, steps: int, seeds: Sequence[int]) -> dict[str, Sweep]:
    """Sweeps of the two optimizers, over every one or every so many of the rates."""
    return {
        name: swept(task, make, around(middle, 2, every), steps=steps, batch=BATCH, seeds=seeds)
        for name, (make, middle) in MIDDLES.items()
    }


def lowest(scores: Sweep) -> tuple[float, float]:
    """(rate, loss) of the lowest loss of those that did not diverge."""
    losses = {rate: -score["loss"] for rate, score in scores.items() if score["loss"] == score["loss"]}
    rate, loss = best(losses)
    return rate, -loss


def as_accurate(scores: dict[str, Sweep]) -> Finding:
    """Criterion 3."""
    (r, a), (q, b) = best(accuracies(scores["AdaHessian"])), best(accuracies(scores["Adam"]))
    return Finding(
        "images: AdaHessian's best accuracy is at least Adam's",
        f"{100 * a:.2f} % at {r:.3g}, Adam {100 * b:.2f} % at {q:.3g}: {points(a, b)}",
        a >= b,
    )


def lower(where: str, scores: dict[str, Sweep]) -> Finding:
    """Criteria 4 and 6."""
    (r, a), (q, b) = lowest(scores["AdaHessian"]), lowest(scores["Adam"])
    return Finding(
        f"{where}: AdaHessian's best training loss is not above Adam's",
        f"{a:.4f} at {r:.3g}, Adam {b:.4f} at {q:.3g}",
        a <= b,
    )


def flat(scores: dict[str, Sweep]) -> Finding:
    """Criterion 5."""
    spreads = {name: max(found := accuracies(s).values()) - min(found) for name, s in scores.items()}
    return Finding(
        "images: its accuracy spreads over its rates no more than Adam's",
        ", ".join(f"{name} {100 * spread:.2f} points" for name, spread in spreads.items()),
        spreads["AdaHessian"] <= spreads["Adam"],
    )
