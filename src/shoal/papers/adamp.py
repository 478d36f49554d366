"""B. Heo, S. Chun, S. J. Oh, D. Han, S. Yun, G. Kim, Y. Uh, J.-W. Ha, "AdamP: Slowing Down the Slowdown for Momentum
Optimizers on Scale-invariant Weights", 2020 (arXiv 2006.08217).

Claimed: momentum lengthens weights whose scale does not matter (those before a normalisation) far more than gradient
descent does, so that their effective step decays too soon; to take the radial part out of each update stops this, and
SGDP and AdamP are uniformly better than SGD and AdamW on 13 benchmarks (a few tenths to 2 points on ImageNet).

Criteria, fixed before the run:

1. f(w) = -<w, c> / |w|: every step of SGDP without decay and eps is orthogonal to w, and |w|^2 grows by exactly the
   squared length of the step; both to 1e-12 of |w|^2, and to 1e-6 with the default eps.
2. On the same problem SGD with momentum ends with |w|^2 grown at least twice as much.
3. f(w) = sum h w^2 / 2, h in [1, 3], which no scaling leaves alone (cosine of gradient and weights at least 0.86): the
   path of AdamP is that of AdamW, with decay, to 1e-12.
4. Fashion-MNIST, a normalised MLP, Adam's steps with and without projection at the same rate: the norms of normalised
   weights grow at least 1.5 times as much with Adam, in each layer and seed.
5. There, rates tuned alike: mean test accuracy of AdamP at least 0.2 points above that of AdamW.

Notes. Normalisation is by the layer (without gains), not by the batch: then the whole matrix is scale-invariant, which
is the second view that AdamP tries; criterion 1 uses the first. Growth is that of the norm above its initial value.
The published eps is added to the norms by which the radial part is divided, so that a little of it is left.
Orthogonality is measured against |w|^2 and not against the step: close to the optimum steps are a small rest of a
momentum that is mostly radial, and the rounding of the latter is 8e-12 of the former (5e-7 with eps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from shoal.learning import Task
from shoal.learning.data import Dataset
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam, AdamW
from shoal.optim.adamp import SGDP, AdamP
from shoal.papers.measures import some_of
from shoal.papers.optimizers import SETTINGS, apart, outcome, path, points, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors.random import key, normal, permutation, uniform

GROWTH, GAIN = 1.5, 0.002
WEIGHTS = ("1.weight", "4.weight")


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    task = normalised(some_of("fashion-mnist"))
    seeds = SETTINGS[scale].seeds
    findings = [orthogonal(figures), slower(figures), not_invariant(figures)]
    findings.append(norms(figures, task, seeds, SETTINGS[scale].steps))
    found = race({"AdamW": AdamW, "AdamP": AdamP}, scale, task)
    record(found, figures)
    findings.append(better(found))
    published = {"13 benchmarks": "uniform gains", "ImageNet, over AdamW": "some tenths to 2 points (from memory)"}
    return Result(findings, figures, published, tuple(seeds))


def pulled(dim: int = 40) -> tuple[Tensor, Callable[[int, Tensor], Tensor]]:
    """Start and gradient of f(w) = -<w, c> / |w|."""
    c = normal(key(4, "direction"), (1, dim), dtype=torch.float64)

    def gradient(t: int, w: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(w)
        downhill: Tensor = (c - w * (c * w).sum() / length**2) / length
        return -downhill

    return normal(key(4, "start"), (1, dim), dtype=torch.float64), gradient


def orthogonal(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    exact, usual = radial_part(0.0), radial_part(1e-8)
    figures["SGDP: radial part of steps, without eps"], figures["SGDP: radial part of steps"] = exact, usual
    return Finding(
        "steps of SGDP are orthogonal to w, |w|^2 grows by |step|^2, to 1e-12 of |w|^2; with the default eps to 1e-6",
        f"{exact:.1e}, {usual:.1e}",
        exact <= 1e-12 and usual <= 1e-6,
    )


def radial_part(eps: float) -> float:
    """The largest |<step, w>|, or error of the growth of |w|^2 if that is larger, relative to |w|^2."""
    start, gradient = pulled()
    walked = path(SGDP.rule(0.07, momentum=0.9, eps=eps), gradient, start, 150)[:, 0]
    moves, before = walked[1:] - walked[:-1], walked[:-1]
    squares = walked.square().sum(1)
    radial = (moves * before).sum(1).abs() / squares[:-1]
    growth = (squares[1:] - squares[:-1] - moves.square().sum(1)).abs() / squares[:-1]
    return max(float(radial.max()), float(growth.max()))


def slower(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    start, gradient = pulled()
    grown = []
    for kind in (SGDP, SGD):
        walked = path(kind.rule(0.07, momentum=0.9), gradient, start, 150)
        grown.append(float(walked[-1].square().sum() / start.square().sum()) - 1.0)
    figures["growth of the squared norm, SGDP"], figures["growth of the squared norm, SGD with momentum"] = grown
    return Finding(
        "|w|^2 grows at least twice as much with SGD with momentum",
        f"by {grown[1]:.3f} of its start against {grown[0]:.3f}",
        grown[1] >= 2.0 * grown[0],
    )


def not_invariant(figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    h = 1.0 + 2.0 * uniform(key(4, "curvature"), (6, 5), dtype=torch.float64)
    start = normal(key(4, "weights"), (6, 5), dtype=torch.float64)
    paths = [path(kind.rule(0.01, weight_decay=0.1), lambda t, w: h * w, start, 60) for kind in (AdamP, AdamW)]
    figures["weights that are not invariant: AdamP against AdamW"] = error = apart(*paths)
    return Finding("without scale-invariance AdamP is AdamW, to 1e-12", f"{error:.1e}", error <= 1e-12)


def normalised(dataset: Dataset) -> Task:
    """Two hidden layers of 64, each normalised without gains, and no biases before."""
    inputs, classes = dataset.train.inputs[0].numel(), dataset.classes or 2

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for width in (inputs, 64):
            linear = nn.Linear(width, 64, bias=False)
            layers += [linear, nn.LayerNorm(64, elementwise_affine=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(64, classes))

    return Task("normalised", build, dataset)


def norms(figures: dict[str, float], task: Task, seeds: Sequence[int], steps: int) -> Finding:
    """Criterion 4."""
    ratios = []
    for seed in seeds:
        grown = {kind.__name__: growth(kind, task, seed, steps) for kind in (Adam, AdamP)}
        for i, weight in enumerate(WEIGHTS):
            for name, values in grown.items():
                figures[f"norm of layer {i + 1} grown, {name}, seed {seed}"] = values[i]
            ratios.append(grown["Adam"][i] / grown["AdamP"][i] if grown["AdamP"][i] > 0 else 1.0)
            figures[f"growth of {weight}, Adam over AdamP, seed {seed}"] = ratios[-1]
    return Finding(
        f"norms of normalised weights grow at least {GROWTH} times as much with Adam, in each layer and seed",
        f"{min(ratios):.2f} to {max(ratios):.2f} times",
        min(ratios) >= GROWTH,
    )


def growth(kind: type[torch.optim.Optimizer], task: Task, seed: int, steps: int, lr: float = 3e-3) -> list[float]:
    """By how much the norm of each normalised layer grew, relative to its start."""
    model, train = task.initial(seed), task.dataset.train
    weights = [dict(model.named_parameters())[name] for name in WEIGHTS]
    before = [float(w.detach().norm()) for w in weights]
    optimizer = kind(model.parameters(), lr=lr)  # type: ignore[call-arg]
    order = permutation(key(seed, "batches"), len(train))
    for t in range(steps):
        batch = train[order[torch.arange(128 * t, 128 * t + 128) % len(order)]]
        optimizer.zero_grad()
        task.loss(model(batch.inputs), batch.targets).mean().backward()
        optimizer.step()
    return [float(w.detach().norm()) / b - 1.0 for w, b in zip(weights, before, strict=True)]


def better(found: Comparison) -> Finding:
    """Criterion 5."""
    ours, baseline = found["AdamP"].mean, found["AdamW"].mean
    return Finding(
        f"test accuracy at least {100 * GAIN:.1f} points above AdamW's, rates tuned alike",
        f"{outcome(found)}; {points(ours, baseline)}",
        ours >= baseline + GAIN,
    )
