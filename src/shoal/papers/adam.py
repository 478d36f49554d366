"""D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015 (arXiv 1412.6980).

Claimed: averages of the gradient and of its square, each with its bias removed, set a step for every parameter that is
about the learning rate in size, whatever the gradient's scale; training is as fast as with AdaGrad, RMSProp, AdaDelta
and Nesterov's SGD or faster, on sparse problems and in networks; without the removal of the bias training is unstable
where beta2 is near 1. The publication shows curves, and no figures in numbers.

Criteria, fixed before the run:

1. float64: 200 random gradients give the path of `torch.optim.Adam`, to 1e-12.
2. eps = 0: gradients times 1024 give the same path bit for bit, gradients times 1000.7 the same to 1e-12.
3. eps = 0: with a constant gradient every step is the learning rate, to 1e-12 of it. beta2 = 0.9999 without the
   removal of the bias: the first step is (1 - beta1) / sqrt(1 - beta2) = 10 times that, to 1e-9.
4. Logistic regression on sparse features, 200 steps: the training loss is at most 0.95 times that of Nesterov's SGD
   and at most 1.05 times AdaGrad's.
5. An MLP on images: the training loss at the end is at most 1.05 times the least of AdaGrad, RMSProp, AdaDelta and
   Nesterov's SGD.
6. beta2 = 0.9999, at the rate that suits Adam best: without the removal of the bias the test loss is at least 10%
   higher.

Rates are tuned alike on the loss of held-out data. Sparse features: 400 of them are 0 or 1, each in 10% down to 0.2% of
the samples, by a power law; labels come from a random linear model, noise flips 5%. Training losses are means over the
last quarter of the steps.

Note. SGD's rates are 30 times and AdaDelta's 300 times those of the others, where their usual values are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.data import Data, Dataset
from shoal.learning.models import logistic
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam, AdamScaling, Rule
from shoal.optim.adadelta import Adadelta
from shoal.optim.adagrad import Adagrad
from shoal.optim.core.scalars import Scalar
from shoal.optim.rmsprop import RMSProp
from shoal.papers.optimizers import SETTINGS, Setting, apart, outcome, path, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal


@dataclass(frozen=True)
class Biased(AdamScaling):
    """Adam's scaling of moments whose bias is left in them."""

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Both corrections are 1."""
        return {**super().derived(t, lr), "correction1": 1.0, "root2": 1.0}


def biased(lr: float, beta2: float = 0.9999, eps: float = 1e-8) -> Rule:
    """Adam without the removal of the bias."""
    return Rule("biased", lr, (Biased(0.9, beta2, eps),))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = SETTINGS[scale]
    figures: dict[str, float] = {}
    findings = [agreement(figures), scale_free(figures), sizes(figures)]
    words = compared(scale, sparse(), steps=200)
    record(words, figures, "sparse features")
    findings += as_fast_when_sparse(words)
    images = compared(scale)
    record(images, figures, "images")
    findings += [as_fast_as_the_best(images), bias_matters(scale, setting, figures)]
    published = {
        "sparse features (IMDB)": "as fast as AdaGrad, faster than Nesterov's SGD",
        "networks": "lowest training cost of all",
        "no removal of the bias, beta2 near 1": "instabilities",
    }
    return Result(findings, figures, published, setting.seeds)


# -- 1 to 3: exact properties ------------------------------------------------------------------------------------------


def agreement(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gradients = list(normal(key(0, "adam"), (200, 50), dtype=torch.float64))
    start = normal(key(1, "adam"), 50, dtype=torch.float64)
    torch_s = torch_path(torch.optim.Adam, gradients, start, lr=0.02)
    error = figures["distance from torch"] = apart(path(Adam.rule(0.02), gradients, start), torch_s)
    return Finding("the path of torch's Adam, to 1e-12", f"{error:.1e}", error <= 1e-12)


def scale_free(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    gradients = list(normal(key(2, "adam"), (200, 50), dtype=torch.float64))
    rule, start = Adam.rule(0.02, eps=0.0), torch.zeros(50, dtype=torch.float64)
    plain, double, other = (path(rule, [c * g for g in gradients], start) for c in (1.0, 1024.0, 1000.7))
    error = figures["gradients times 1000.7: distance"] = apart(plain, other)
    figures["gradients times 1024: distance"] = apart(plain, double)
    return Finding(
        "gradients times 1024: bit for bit; times 1000.7: to 1e-12",
        f"{apart(plain, double):.1e}, {error:.1e}",
        torch.equal(plain, double) and error <= 1e-12,
    )


def sizes(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 3."""
    g = normal(key(3, "adam"), 50, dtype=torch.float64)
    steps = path(Adam.rule(lr, betas=(0.9, 0.9999), eps=0.0), [g] * 100, torch.zeros_like(g)).diff(dim=0) / lr
    first = path(biased(lr, eps=0.0), [g], torch.zeros_like(g)).diff(dim=0).abs() / lr
    error = figures["constant gradient: distance of steps from the rate"] = apart(steps, -g.sign().expand_as(steps))
    tenfold = figures["first step over the rate, bias left in"] = float(first.mean())
    return Finding(
        "a constant gradient: steps are the rate to 1e-12 of it; bias left in: the first is 10 times that, to 1e-9",
        f"{error:.1e}; {tenfold:.9f} times",
        error <= 1e-12 and apart(first, torch.full_like(first, 10.0)) <= 1e-9,
    )


# -- 4 to 6: training --------------------------------------------------------------------------------------------------


@cache
def sparse(samples: int = 6000, features: int = 400) -> Task:
    """Logistic regression on features that are rare, some more than others."""
    uniform = torch.rand(samples, features, generator=torch.Generator().manual_seed(5))
    often = 0.1 * torch.arange(1, features + 1).float().pow(-math.log(50.0) / math.log(features))
    inputs = (uniform < often).float()
    labels = inputs @ (normal(key(5, "words"), features) * 2.0) > 0.0
    flipped = normal(key(6, "noise"), samples) > 1.645
    targets = (labels ^ flipped).long()
    cut = samples * 5 // 6
    parts = Data(inputs[:cut], targets[:cut]), Data(inputs[cut:], targets[cut:])
    dataset = Dataset("sparse", *parts, classes=2, source="generated")
    return Task("sparse/logistic", logistic(dataset), dataset)


def contenders(rates: tuple[float, ...]) -> Mapping[str, Contender]:
    """Who takes part, and how its rates are found from Adam's."""
    return {
        "Adam": Contender(Adam),
        "AdaGrad": Contender(Adagrad),
        "RMSProp": Contender(RMSProp),
        "AdaDelta": Contender(Adadelta, rates=[300 * lr for lr in rates]),
        "SGD": Contender(SGD, {"momentum": 0.9, "nesterov": True}, rates=[30 * lr for lr in rates]),
    }


def compared(scale: str, task: Task | None = None, **changes: int) -> Comparison:
    """All of them, tuned on the loss."""
    return race(contenders(tuple(SETTINGS[scale].rates)), scale, task, metric="loss", **changes)


def final(found: Comparison) -> dict[str, float]:
    """Training loss over the last quarter; infinite if a run diverged."""
    return {e.name: math.inf if e.diverged else e.train_losses[-1] for e in found.entries}


def as_fast_when_sparse(found: Comparison) -> list[Finding]:
    """Criterion 4."""
    losses = final(found)
    told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return [
        Finding(
            f"sparse features: training loss at most {limit:g} times {name}'s",
            told,
            losses["Adam"] <= limit * losses[name],
        )
        for name, limit in (("SGD", 0.95), ("AdaGrad", 1.05))
    ]


def as_fast_as_the_best(found: Comparison) -> Finding:
    """Criterion 5."""
    losses = final(found)
    best = min(loss for name, loss in losses.items() if name != "Adam")
    return Finding(
        "images: training loss at most 1.05 times the least of the others",
        ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()) + f"; tests: {outcome(found)}",
        losses["Adam"] <= 1.05 * best,
    )


def bias_matters(scale: str, setting: Setting, figures: dict[str, float]) -> Finding:
    """Criterion 6."""
    slow = Contender(Adam, {"betas": (0.9, 0.9999)})
    rate = race({"Adam": slow}, scale, metric="loss")["Adam"].lr
    found = race({"removed": slow, "left in": Contender(biased)}, scale, metric="loss", rates=[rate], extend=False)
    record(found, figures, "beta2 = 0.9999, the same rate")
    removed, left = found["removed"].loss, found["left in"].loss
    return Finding(
        "beta2 = 0.9999, Adam's best rate: test loss at least 10% higher with the bias left in",
        f"{left:.4f} against {removed:.4f} at {rate:g}, seeds {list(setting.seeds)}",
        left >= 1.1 * removed,
    )
