"""M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule", ICML 2023
(arXiv 2302.12022).

Claimed: SGD whose step is the distance travelled over the root of the summed squared gradients needs no learning rate
and comes close to tuned SGD; with one step size a layer (L-DoG) it generally beats tuned SGD. What is evaluated is the
average of the iterates with polynomial decay. (No single number is published.)

Criteria, fixed before the run:

1. float64, eps = 0: a loss 1,000 times as large gives the same path of 50 steps, to 1e-9 of its size.
2. Softmax regression on images, mean over seeds: averaged DoG is at most 1 point below SGD at the best of seven
   constant rates, 1e-3 to 1, half a decade apart (the rate is chosen on another seed).
3. DoG's accuracy over r_rel of 1e-8, 1e-6 and 1e-4 spreads by less than 1 point, and by less than a third of the
   spread of SGD's over its rates.
4. An MLP with one hidden layer of 64: averaged L-DoG is at least as accurate as SGD at its best rate.

"check": 300 steps of batch 128, one seed. "full": 1,500 steps, three seeds. Rates, steps and r_rel were not tried
before the criteria were written. If Fashion-MNIST is not there, the embedded digits stand in.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from shoal.learning import Task
from shoal.learning.models import logistic
from shoal.optim import DoG, LDoG, polynomial_average
from shoal.papers.loops import best, trained
from shoal.papers.optimizers import apart, fashion, path, points
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
FIRST = (1e-8, 1e-6, 1e-4)
STEPS = {"check": 300, "full": 1500}
SEEDS = {"check": (61,), "full": (61, 62, 63)}
TUNING_SEED = 160
BATCH = 128


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    dataset = fashion().dataset
    soft = Task("softmax regression", logistic(dataset), dataset)
    findings = [scale_free(figures)]
    sgd, spread = tuned_sgd("softmax regression", soft, scale, figures)
    dog = {r: averaged(DoG, soft, scale, r) for r in FIRST}
    figures |= {f"DoG, r_rel {r:g}: accuracy": a for r, a in dog.items()}
    findings += [near(dog[1e-6], sgd), insensitive(max(dog.values()) - min(dog.values()), spread)]
    layered = averaged(LDoG, fashion(), scale, 1e-6)
    figures["L-DoG, MLP: accuracy"] = layered
    findings.append(layers(layered, tuned_sgd("MLP", fashion(), scale, figures)[0]))
    published: dict[str, float | str] = {"DoG": "close to tuned SGD", "L-DoG": "generally beats tuned SGD"}
    return Result(findings, figures, published, SEEDS[scale])


def scale_free(figures: dict[str, float], cls: type[DoG] = DoG) -> Finding:
    """Criterion 1."""
    curvature = torch.logspace(-2, 1, 20, dtype=torch.float64)
    start = normal(key(0, "dog"), 20, dtype=torch.float64)

    def gradient(factor: float, t: int, x: Tensor) -> Tensor:
        return factor * curvature * x

    plain, scaled = (path(cls.rule(eps=0.0), partial(gradient, f), start, 50) for f in (1.0, 1000.0))
    error = figures["loss times 1,000: distance of paths"] = apart(plain, scaled)
    return Finding("a loss 1,000 times as large gives the same path, to 1e-9", f"{error:.1e}", error <= 1e-9)


def tuned_sgd(name: str, task: Task, scale: str, figures: dict[str, float]) -> tuple[float, float]:
    """Mean accuracy at the rate that is best on the tuning seed, and the spread over all rates there."""

    def run(rate: float, seed: int) -> float:
        make = partial(torch.optim.SGD, lr=rate)
        return trained(task, make, steps=STEPS[scale], batch=BATCH, seed=seed)["accuracy"]

    tried = {rate: run(rate, TUNING_SEED) for rate in RATES}
    rate, _ = best(tried)
    figures |= {f"SGD, {name}, lr {r:g}: accuracy on the tuning seed": a for r, a in tried.items()}
    found = sum(run(rate, seed) for seed in SEEDS[scale]) / len(SEEDS[scale])
    figures[f"SGD, {name}: accuracy at its best rate"] = found
    figures[f"SGD, {name}: best rate"] = rate
    return found, max(tried.values()) - min(tried.values())


def averaged(cls: type[DoG] | type[LDoG], task: Task, scale: str, first: float) -> float:
    """Mean accuracy of the averaged model over the seeds."""

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return cls(parameters, reps_rel=first)

    runs = [
        trained(task, make, steps=STEPS[scale], batch=BATCH, seed=seed, average=polynomial_average())["accuracy"]
        for seed in SEEDS[scale]
    ]
    return sum(runs) / len(runs)


def near(dog: float, sgd: float) -> Finding:
    """Criterion 2."""
    return Finding(
        "softmax regression: averaged DoG at most 1 point below SGD at its best rate",
        f"{100 * dog:.2f} % against {100 * sgd:.2f} %: {points(dog, sgd)}",
        dog >= sgd - 0.01,
    )


def insensitive(ours: float, theirs: float) -> Finding:
    """Criterion 3; both are spreads."""
    return Finding(
        "over r_rel of 1e-8 to 1e-4 DoG spreads by less than 1 point, and a third of SGD's spread over its rates",
        f"{100 * ours:.2f} points, SGD {100 * theirs:.2f}",
        ours < 0.01 and ours < theirs / 3.0,
    )


def layers(ours: float, sgd: float) -> Finding:
    """Criterion 4."""
    return Finding(
        "MLP: averaged L-DoG at least as accurate as SGD at its best rate",
        f"{100 * ours:.2f} % against {100 * sgd:.2f} %: {points(ours, sgd)}",
        ours >= sgd,
    )
