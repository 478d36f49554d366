"""M. Elsayed, A. R. Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning", 2024
(arXiv 2404.00781).

Claimed: gradient steps and noise that are both scaled down by each weight's utility keep useful weights and move
useless ones. On streams of one sample at a time whose labels are permuted again and again, this alone goes on
improving over hundreds of tasks, while SGD, perturbed and shrunken SGD, EWC, MAS, SI and Adam fall off or stall.

Criteria, fixed before the run:

1. No noise, no decay: where all utilities are 0 (weights of 0) the step is SGD's, to 1e-15.
2. No memory of utility: the most useful weight moves 2 (1 - sigmoid(1)) times as far as by SGD, a weight of 0 as far,
   to 1e-12.
3. No gradient: weights of 0 move by noise of standard deviation lr sigma, within 3% over 10,000 of them.
4. Fashion-MNIST pooled to 8 x 8, an MLP 64-32-16-10, labels permuted every 200 samples, online accuracy: UPGD is no
   lower over the last quarter of the tasks than over the first, in the mean over seeds.
5. SGD's falls by at least 5 points from the first quarter to the last.
6. Over the last quarter UPGD is at least 5 points above SGD.

Both take the best of the same rates, by the accuracy over all tasks on another seed. Noise 0.05, decay 0.01, utilities
over 1,000 steps. "full": 80 tasks, three seeds; "check": 16 tasks, one seed.

Notes. All weights are one tensor here, which changes nothing: the largest utility is that of all weights in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.learning.data import load
from shoal.optim import SGD
from shoal.optim.upgd import UPGD
from shoal.papers.optimizers import apart, path
from shoal.papers.result import Finding, Result
from shoal.tensors import flatten_module
from shoal.tensors.random import key, normal, permutation

SIZES = ((32, 64), (32,), (16, 32), (16,), (10, 16), (10,))
MARGIN = 0.05
Make = Callable[[list[nn.Parameter], float, int], torch.optim.Optimizer]
METHODS: dict[str, Make] = {
    "SGD": lambda params, lr, seed: SGD(params, lr=lr),
    "UPGD": lambda params, lr, seed: UPGD(params, lr=lr, sigma=0.05, weight_decay=0.01, beta_utility=0.999, seed=seed),
}


@dataclass(frozen=True)
class Stream:
    """How long streams are, and what is tried."""

    tasks: int
    tuning_tasks: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    samples: int = 200
    tuning_seed: int = 311


CHECK = Stream(16, 4, (0.01, 0.04), (41,))
FULL = Stream(80, 40, (0.01, 0.02, 0.04), (41, 42, 43))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    stream = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    findings = [like_sgd(figures), most_useful(figures), noise(figures)]
    curves: dict[str, list[list[float]]] = {}
    for name, make in METHODS.items():
        tried = {lr: online(make, lr, stream.tuning_seed, stream.tuning_tasks, stream.samples) for lr in stream.rates}
        lr = figures[f"learning rate, {name}"] = max(tried, key=lambda lr: math.fsum(tried[lr]))
        curves[name] = [online(make, lr, seed, stream.tasks, stream.samples) for seed in stream.seeds]
    findings += plasticity(curves, figures)
    published = {"UPGD": "goes on improving over hundreds of tasks", "SGD and others": "fall off or stall in some"}
    return Result(findings, figures, published, stream.seeds)


def like_sgd(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    g, zero = normal(key(23, "gradient"), 50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    ours = path(UPGD.rule(0.03, sigma=0.0, weight_decay=0.0), [g], zero)
    figures["no utility, against SGD"] = error = apart(ours, path(SGD.rule(0.03), [g], zero))
    return Finding("utilities of 0: SGD's step, to 1e-15", f"{error:.1e}", error <= 1e-15)


def most_useful(figures: dict[str, float], lr: float = 0.03) -> Finding:
    """Criterion 2."""
    w = torch.tensor([0.5, 0.0, -0.25, 2.0], dtype=torch.float64)
    g = torch.tensor([-2.0, 3.0, 1.0, -1.5], dtype=torch.float64)  # utilities 1, 0, 1/4, 3
    moved = path(UPGD.rule(lr, sigma=0.0, weight_decay=0.0, beta_utility=0.0), [g], w)[1] - w
    shares = moved / (-lr * g)
    expected = 2.0 / (1.0 + math.e)
    error = max(abs(float(shares[3]) - expected), abs(float(shares[1]) - 1.0))
    figures["how far the most useful weight moves"], figures["error"] = float(shares[3]), error
    return Finding(
        "the most useful weight moves 2 (1 - sigmoid(1)) as far as by SGD, one of 0 as far, to 1e-12",
        f"{float(shares[3]):.4f}, {float(shares[1]):.4f}; {error:.1e}",
        error <= 1e-12,
    )


def noise(figures: dict[str, float], lr: float = 0.03, sigma: float = 0.2) -> Finding:
    """Criterion 3."""
    zero = torch.zeros(10_000, dtype=torch.float64)
    moved = path(UPGD.rule(lr, sigma=sigma, weight_decay=0.0, seed=5), [zero], zero)[1]
    figures["noise over lr sigma"] = ratio = float(moved.std()) / (lr * sigma)
    return Finding("without gradient: noise of lr sigma, within 3%", f"{ratio:.4f}", abs(ratio - 1.0) <= 0.03)


@cache
def pooled() -> tuple[Tensor, Tensor]:
    """Images [N, 64] and labels; the embedded digits, which are 8 x 8 already, where Fashion-MNIST is missing."""
    train = load("fashion-mnist", fallback=True).train[:20_000]
    side = math.isqrt(train.inputs[0].numel())
    images = F.adaptive_avg_pool2d(train.inputs.reshape(-1, 1, side, side), 8).flatten(1)
    return (images - images.mean()) / images.std(), train.targets


def first_weights(seed: int) -> Tensor:
    """All weights of a fresh network, one after the other in the order of `SIZES`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 10))
    return flatten_module(layers)[0]


def online(make: Make, lr: float, seed: int, tasks: int, samples: int) -> list[float]:
    """Accuracy in each task, of predictions before the step that learns from the sample."""
    images, labels = pooled()
    w = nn.Parameter(first_weights(seed))
    optimizer = make([w], lr, seed)
    order = permutation(key(seed, "stream"), len(images))
    accuracies = []
    for task in range(tasks):
        renamed = permutation(key(seed, "labels", task), 10)
        right = 0
        for i in range(samples):
            which = int(order[(task * samples + i) % len(order)])
            target = renamed[labels[which]].reshape(1)
            parts = w.split([math.prod(shape) for shape in SIZES])
            x = images[which : which + 1]
            for layer in range(3):
                x = F.linear(x, parts[2 * layer].view(SIZES[2 * layer]), parts[2 * layer + 1])
                x = x.relu() if layer < 2 else x
            right += int(x.argmax()) == int(target)
            (w.grad,) = torch.autograd.grad(F.cross_entropy(x, target), w)
            optimizer.step()
        accuracies.append(right / samples)
    return accuracies


def plasticity(curves: dict[str, list[list[float]]], figures: dict[str, float]) -> list[Finding]:
    """Criteria 4 to 6."""
    ends = {}
    for name, runs in curves.items():
        quarter = max(1, len(runs[0]) // 4)
        parts = [math.fsum(math.fsum(run[part]) for run in runs) / (len(runs) * quarter) for part in _ends(quarter)]
        ends[name] = figures[f"accuracy, {name}, first quarter"], figures[f"accuracy, {name}, last quarter"] = parts
    (sgd_first, sgd), (first, last) = ends["SGD"], ends["UPGD"]
    return [
        Finding("UPGD is no lower in the last quarter than in the first", f"{first:.1%}, {last:.1%}", last >= first),
        Finding(
            f"SGD falls by at least {100 * MARGIN:.0f} points",
            f"{sgd_first:.1%}, {sgd:.1%}",
            sgd <= sgd_first - MARGIN,
        ),
        Finding(
            f"in the last quarter UPGD is at least {100 * MARGIN:.0f} points above SGD",
            f"{last:.1%} against {sgd:.1%}",
            last >= sgd + MARGIN,
        ),
    ]


def _ends(quarter: int) -> tuple[slice, slice]:
    return slice(0, quarter), slice(-quarter, None)
