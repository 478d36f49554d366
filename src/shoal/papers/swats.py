"""N. S. Keskar, R. Socher, "Improving Generalization Performance by Switching from Adam to SGD", 2017 (arXiv
1712.07628).

Claimed: to begin with Adam and to switch to SGD once the rate that SGD would need (from the projection of Adam's step)
has settled keeps Adam's quick start and closes its gap in generalisation to SGD on CIFAR-10 and -100 and
Tiny-ImageNet, with no further hyper-parameter; the switch comes within about 20 epochs.

Criteria, fixed before the run:

1. Random steps p and gradients g: -gamma g projected onto p, gamma = <p, p> / -<p, g>, is p, to 1e-12.
2. A constant gradient g of d entries: the switch comes at step 2, to the rate lr d / |g|_1, to 1e-6 of it.
3. From the switch on, steps are those of torch's SGD with momentum beta1 and (1 - beta1) times that rate, to 1e-12.
4. Float64, the published rate 1e-3 and tolerance 1e-9: a switch to a finite rate above 0, in every seed. "full":
   within 20 epochs of Fashion-MNIST, batch 128, MLP 784-64-10; "check": within 20 epochs of digits, batch 64.
5. The same with tolerance 1e-5.
6. Fashion-MNIST, rates tuned alike, tolerance 1e-5: mean test accuracy of SWATS at most 0.3 points below the better of
   Adam and SGD with momentum 0.9.
7. There, SGD is at least 0.3 points above Adam (the gap that the publication starts from) and SWATS closes at least
   half of it. Without such a gap this does not hold.

Notes. 1e-5 is our choice; the published test compares an average with its newest entry, absolutely, to 1e-9. A first
version of criterion 4 had digits at both scales; but an epoch of theirs is 22 steps, and the average looks back 1,000.
The runs of criteria 6 and 7 are a few hundred steps long: where none switches in them, SWATS there is Adam with its
own eps, and the difference is one of the rates that were chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.data import load
from shoal.learning.models import mlp
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam
from shoal.optim.swats import SWATS
from shoal.papers.optimizers import SETTINGS, apart, fashion, outcome, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors.random import key, normal, permutation

WITHIN, EPOCHS = 0.003, 20


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [projection(figures), switch(figures), afterwards(figures)]
    seeds = SETTINGS[scale].seeds
    task, batch = (fashion(), 128) if scale == "full" else (digits(), 64)
    loose = [switching(task, batch, seed, 1e-5) for seed in seeds]
    strict = [  # who does not switch with the larger tolerance does not with the smaller one: until then all is equal
        switching(task, batch, seed, 1e-9) if found[1] else found for seed, found in zip(seeds, loose, strict=True)
    ]
    findings += [switches(figures, task.name, strict, 1e-9), switches(figures, task.name, loose, 1e-5)]
    contenders = {
        "SWATS": Contender(SWATS, {"tolerance": 1e-5}),
        "Adam": Contender(Adam),
        "SGD": Contender(SGD, {"momentum": 0.9}),
    }
    found = race(contenders, scale)
    record(found, figures)
    findings += gap(found)
    published = {"gap to SGD": "closed on CIFAR-10, CIFAR-100, Tiny-ImageNet", "switch": "within about 20 epochs"}
    return Result(findings, figures, published, tuple(seeds))


def projection(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    p, g = normal(key(6, "projection"), (2, 50, 20), dtype=torch.float64)
    gamma = (p * p).sum(1) / -(p * g).sum(1)
    onto = p * ((-gamma[:, None] * g * p).sum(1) / (p * p).sum(1))[:, None]
    figures["projection: error"] = error = apart(onto, p)
    return Finding("-gamma g projected onto p is p, to 1e-12", f"{error:.1e}", error <= 1e-12)


def constant_gradient(lr: float = 0.02) -> tuple[Tensor, SWATS, Tensor, Tensor]:
    """Gradient, optimizer after two steps, and the rates that it had found after each."""
    g = normal(key(6, "constant"), 30, dtype=torch.float64)
    p = torch.nn.Parameter(torch.zeros_like(g))
    optimizer, rates = SWATS([p], lr=lr), []
    for _ in range(2):
        p.grad = g.clone()
        optimizer.step()
        rates.append(optimizer.sgd_lr)
    return g, optimizer, p, torch.tensor(rates, dtype=torch.float64)


def switch(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 2."""
    g, _, _, rates = constant_gradient(lr)
    expected = lr * len(g) / float(g.abs().sum())
    figures["rate found: relative error"] = error = abs(float(rates[1]) / expected - 1.0)
    return Finding(
        "constant gradient: no switch at step 1, at step 2 to lr d / |g|_1, to 1e-6",
        f"{float(rates[0]):.0f}, then {float(rates[1]):.6f} for {expected:.6f}, {error:.1e}",
        float(rates[0]) == 0.0 and error <= 1e-6,
    )


def afterwards(figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    _, optimizer, p, rates = constant_gradient()
    gradients, start, walked = normal(key(6, "later"), (60, 30), dtype=torch.float64), p.detach().clone(), []
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
        walked.append(p.detach().clone())
    sgd = torch_path(torch.optim.SGD, list(gradients), start, lr=0.1 * float(rates[1]), momentum=0.9)
    figures["after the switch, against SGD"] = error = apart(torch.stack(walked), sgd[1:])
    return Finding("after the switch SWATS is SGD with momentum, to 1e-12", f"{error:.1e}", error <= 1e-12)


def digits() -> Task:
    """A small network for small images."""
    dataset = load("digits")
    return Task("digits", mlp(dataset, hidden=32), dataset)


def switching(task: Task, batch: int, seed: int, tolerance: float, epochs: int = EPOCHS) -> tuple[float, float]:
    """(Epoch of the switch, or infinity; the rate that was found), in float64."""
    train = task.dataset.train
    inputs = train.inputs.double()
    model = task.initial(seed).double()
    optimizer = SWATS(model.parameters(), tolerance=tolerance)
    per_epoch = len(train) // batch
    for epoch in range(epochs):
        order = permutation(key(seed, "epoch", epoch), len(train))
        for i in range(per_epoch):
            chosen = order[batch * i : batch * (i + 1)]
            optimizer.zero_grad()
            task.loss(model(inputs[chosen]), train.targets[chosen]).mean().backward()
            optimizer.step()
            if optimizer.sgd_lr:
                return epoch + (i + 1) / per_epoch, optimizer.sgd_lr
    return math.inf, 0.0


def switches(figures: dict[str, float], task: str, runs: list[tuple[float, float]], tolerance: float) -> Finding:
    """Criteria 4 and 5."""
    for i, (epoch, rate) in enumerate(runs):
        if math.isfinite(epoch):
            figures[f"tolerance {tolerance:g}, run {i}: epoch of the switch"] = epoch
            figures[f"tolerance {tolerance:g}, run {i}: rate found"] = rate
    shown = (f"{e:.1f} (rate {r:.3g})" if math.isfinite(e) else f"never in {EPOCHS}" for e, r in runs)
    return Finding(
        f"{task}, tolerance {tolerance:g}: a switch within {EPOCHS} epochs in every seed, to a rate above 0",
        f"epoch {', '.join(shown)}",
        all(math.isfinite(e) and 0.0 < r < math.inf for e, r in runs),
    )


def gap(found: Comparison) -> list[Finding]:
    """Criteria 6 and 7."""
    ours, adam, sgd = (found[name].mean for name in ("SWATS", "Adam", "SGD"))
    return [
        Finding(
            f"{found.task}: at most {100 * WITHIN:.1f} points below the better of Adam and SGD",
            outcome(found),
            ours >= max(adam, sgd) - WITHIN,
        ),
        Finding(
            f"SGD at least {100 * WITHIN:.1f} points above Adam, and SWATS closes half of the gap",
            f"gap {100 * (sgd - adam):+.2f} points, of which SWATS closes {100 * (ours - adam):+.2f}",
            sgd >= adam + WITHIN and ours >= (adam + sgd) / 2,
        ),
    ]
