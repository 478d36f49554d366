"""K. Everett, L. Xiao, M. Wortsman, A. A. Alemi, R. Novak, P. J. Liu, I. Gur, J. Sohl-Dickstein, L. P. Kaelbling, J.
Lee, J. Pennington, "Scaling Exponents Across Parameterizations and Optimizers", 2024 (arXiv 2407.05872).

Claimed: with the right learning rate for each layer as the width n grows (Adam, standard parameterization: constant
for the first layer, 1/n for hidden layers and readout) the best rate of a narrow network is that of a wide one, in
every parameterization, and the standard one is the best up to 26.8B parameters; Adam's eps harms wide networks, whose
gradients are small, and Adam-atan2, which has none, does not care for the scale of the gradient.

Criteria, fixed before the run:

1. Gradients times 2^-52: Adam-atan2 passes the same points, bit for bit; Adam (eps 1e-8) moves by less than 1% of its
   way.
2. No step is longer than lr pi / 2, and where |m^| = sqrt(v^) it is lr pi / 4, to 1e-12.
3. Digits, an MLP with two hidden tanh layers of 32, 128 and 512 units, one rate for all layers: the best rate (lowest
   training loss of a grid of factor 2) falls by at least 4 from the narrowest to the widest.
4. With rates 1, 32/n, 32/n for the layers: it changes by at most 2.
5. The narrowest network's best rate, used for the widest: with rates by layer the loss is at most that with one rate.

Notes. Training loss decides, as the claim is about optimisation; best rates are means (of logarithms) over seeds;
batch 128, 60 steps. That the standard parameterization is the best of four is not tested.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.data import Dataset, load
from shoal.learning.models import mlp
from shoal.optim import Adam, Rule
from shoal.optim.adam_atan2 import AdamAtan2
from shoal.papers.optimizers import SETTINGS, path, race
from shoal.papers.result import Finding, Result
from shoal.tensors.random import key, normal

NARROW, WIDE = 32, 512
RATES = tuple(2.0**-k for k in range(10, 1, -1))
Losses = dict[tuple[str, int], list[list[float]]]
"""(kind, width) -> for each seed the loss at each rate."""


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    widths = (NARROW, 128, WIDE) if scale == "full" else (NARROW, WIDE)
    seeds = list(SETTINGS[scale].seeds) if scale == "full" else [7]
    found: Losses = {(kind, n): losses(kind, n, seeds) for kind in ("one rate", "by layer") for n in widths}
    findings = [scales(figures), bounded(figures), *transfer(found, figures)]
    published = {
        "hidden and readout, full alignment": "lr ~ 1/n",
        "rates by layer": "the best rate is that of all widths",
    }
    return Result(findings, figures, published, seeds)


def scales(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gradients = normal(key(21, "gradients"), (200, 30), dtype=torch.float64)
    zero = torch.zeros(30, dtype=torch.float64)
    small = gradients * 2.0**-52
    walked = [path(AdamAtan2.rule(0.02), list(g), zero) for g in (gradients, small)]
    moved = [float(path(Adam.rule(0.02), list(g), zero)[-1].norm()) for g in (gradients, small)]
    same, left = bool((walked[0] == walked[1]).all()), moved[1] / moved[0]
    figures["Adam's way with small gradients, as a share"] = left
    return Finding(
        "gradients times 2^-52: Adam-atan2 the same, bit for bit; Adam under 1% of its way",
        f"{'the same' if same else 'different'}; {left:.1e}",
        same and left < 0.01,
    )


def bounded(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 2."""
    wild = list(normal(key(21, "wild"), (100, 30), dtype=torch.float64).exp() * torch.logspace(-9, 9, 100)[:, None])
    zero = torch.zeros(30, dtype=torch.float64)

    def steps(gradients: list[Tensor]) -> Tensor:
        walked = path(AdamAtan2.rule(lr), gradients, zero)
        return (walked[1:] - walked[:-1]).abs() / lr

    longest, even = float(steps(wild).max()), float((steps([wild[3]] * 40) - math.pi / 4).abs().max())
    figures["longest step over lr"], figures["constant gradient: error"] = longest, even
    return Finding(
        "no step over lr pi / 2; lr pi / 4 where |m^| = sqrt(v^), to 1e-12",
        f"{longest:.3f} lr; {even:.1e}",
        longest <= math.pi / 2 and even <= 1e-12,
    )


@cache
def digits() -> Dataset:
    """Training data on both sides: only the training loss is of interest."""
    whole = load("digits")
    return Dataset(whole.name, whole.train, whole.train, classes=whole.classes)


def by_layer(lr: float, width: int) -> Rule:
    """Adam-atan2 with 1, NARROW / n, NARROW / n times the rate for the three layers; biases go with the first."""
    shares = {"3.weight": NARROW / width, "5.weight": NARROW / width}
    return Rule("by layer", lr, lambda p: AdamAtan2.rule(lr, a=shares.get(p.name, 1.0)).plan(p).chain)


def losses(kind: str, width: int, seeds: list[int], steps: int = 60) -> list[list[float]]:
    """For each seed the training loss at each of `RATES`; infinite where training diverged."""
    dataset = digits()
    task = Task("digits", mlp(dataset, hidden=width, depth=2, activation="tanh"), dataset)

    def make(lr: float) -> Rule:
        return by_layer(lr, width) if kind == "by layer" else AdamAtan2.rule(lr)

    contenders = {f"{lr}": Contender(make, rates=(lr,)) for lr in RATES}
    found = race(contenders, "check", task, steps=steps, seeds=seeds, metric="loss", evaluate_every=steps)
    return [[found[f"{lr}"].tests[i].loss for lr in RATES] for i in range(len(seeds))]


def best(runs: list[list[float]]) -> float:
    """The best rate's logarithm to base 2, in the mean over seeds."""
    return math.fsum(math.log2(RATES[run.index(min(run))]) for run in runs) / len(runs)


def transfer(found: Losses, figures: dict[str, float]) -> list[Finding]:
    """Criteria 3 to 5."""
    for (kind, width), runs in found.items():
        figures[f"best rate, {kind}, width {width}"] = 2.0 ** best(runs)
        figures[f"loss at the best rate, {kind}, width {width}"] = math.fsum(map(min, runs)) / len(runs)
    drifts = {kind: best(found[kind, NARROW]) - best(found[kind, WIDE]) for kind in ("one rate", "by layer")}
    kept = {kind: taken_over(found, kind) for kind in drifts}
    figures.update(
        {f"loss of the widest at the narrowest's best rate, {kind}": x for kind, x in kept.items() if x < 1e9}
    )
    return [
        Finding(
            f"one rate: the best falls by at least 4 from width {NARROW} to {WIDE}",
            f"by {2.0 ** drifts['one rate']:.2f}",
            drifts["one rate"] >= 2.0,
        ),
        Finding(
            "rates by layer: it changes by at most 2",
            f"by {2.0 ** drifts['by layer']:.2f}",
            abs(drifts["by layer"]) <= 1.0,
        ),
        Finding(
            "the narrowest's best rate for the widest: the loss with rates by layer is at most that with one",
            f"{kept['by layer']:.4f} against {kept['one rate']:.4f}",
            kept["by layer"] <= kept["one rate"],
        ),
    ]


def taken_over(found: Losses, kind: str) -> float:
    """Mean loss of the widest network at the narrowest's best rate (the nearest of the grid)."""
    middle = best(found[kind, NARROW])
    i = min(range(len(RATES)), key=lambda i: abs(math.log2(RATES[i]) - middle))
    return math.fsum(run[i] for run in found[kind, WIDE]) / len(found[kind, WIDE])
