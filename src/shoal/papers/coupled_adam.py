"""F. Stollenwerk, T. Stollenwerk, "Better Embeddings with Coupled Adam", 2025 (arXiv 2502.08441).

Claimed: embeddings of language models are anisotropic, far from the origin in a common direction, because Adam gives
each token a second moment of its own; one second moment for all tokens (Coupled Adam) leaves their mean near zero and
their isotropy near 1, at a loss that is as good, and better on much data (models of 125M to 2.6B parameters).

Criteria, fixed before the run:

1. float64, softmax regression from random features to Zipf-distributed tokens, 400 steps, no decay: gradients of the
   output embedding sum to 0 over tokens; the mean embedding moves by at most 1e-12 of the mean norm with Coupled Adam,
   and by at least 1% of it with Adam.
2. To keep the mean second moment is the same as to take the mean of a full one at each step, to 1e-12.
3. A small transformer on characters, both at the best of the same rates: the norm of the mean output embedding over the
   mean norm is at most half of Adam's, in every seed.
4. The isotropy of output embeddings, least over largest partition function along their principal directions, is above
   Adam's in every seed.
5. The mean test loss is at most 1% above Adam's.

The output layer is not tied to the input and its bias is kept. beta2 = 0.95 and decay 0.1 as published, in both arms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.learning.task import Task
from shoal.optim import AdamW, Rule
from shoal.optim.coupled_adam import CoupledAdam, embedding_groups
from shoal.papers.optimizers import SETTINGS, apart, characters, outcome, path, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal, permutation

EMBEDDINGS = ("embed.weight", "out.weight")
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
STEPS = {"check": 50, "full": 300}
COMMON: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.1}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [drift(figures), linear(figures)]
    task = characters()
    found = compared(scale, task)
    record(found, figures)
    shapes = {
        entry.name: [shape(trained(task, entry.name, entry.lr, STEPS[scale], seed)) for seed in found.seeds]
        for entry in found.entries
    }
    for name, seeds in shapes.items():
        for seed, (offset, isotropy) in zip(found.seeds, seeds, strict=True):
            figures[f"offset of embeddings, {name}, seed {seed}"] = offset
            figures[f"isotropy of embeddings, {name}, seed {seed}"] = isotropy
    findings += [*better_shape(shapes), as_good(found)]
    published = {
        "isotropy": "near 1, Adam far lower",
        "mean embedding": "near 0",
        "loss": "equal, or better on much data",
    }
    return Result(findings, figures, published, SETTINGS[scale].seeds)


# -- 1 and 2: exact properties -----------------------------------------------------------------------------------------


def drift(figures: dict[str, float], tokens: int = 60, width: int = 12, steps: int = 400) -> Finding:
    """Criterion 1."""
    often = 1.0 / torch.arange(1, tokens + 1, dtype=torch.float64)
    edges = (often / often.sum()).cumsum(0)
    start = normal(key(0, "coupled"), (tokens, width), dtype=torch.float64) * 0.1
    sums = 0.0

    def gradient(t: int, e: Tensor) -> Tensor:
        nonlocal sums
        features = normal(key(1, "coupled", t), (64, width), dtype=torch.float64)
        uniform = torch.special.ndtr(normal(key(2, "coupled", t), 64, dtype=torch.float64))
        drawn = torch.searchsorted(edges, uniform).clamp_max(tokens - 1)
        wrong = (features @ e.T).softmax(-1) - nn.functional.one_hot(drawn, tokens)
        g = wrong.T @ features / len(features)
        sums = max(sums, float(g.sum(0).abs().max()))
        return g

    moved = {}
    for name, rule in (
        ("Adam", AdamW.rule(0.01, betas=(0.9, 0.95), weight_decay=0.0)),
        ("Coupled Adam", CoupledAdam.rule(0.01, weight_decay=0.0, embedding=True)),
    ):
        end = path(rule, gradient, start, steps, every=steps)[-1]
        moved[name] = float((end.mean(0) - start.mean(0)).norm() / end.norm(dim=1).mean())
        figures[f"drift of the mean over the mean norm, {name}"] = moved[name]
    figures["largest sum of gradients over tokens"] = sums
    return Finding(
        "gradients sum to 0 over tokens, to 1e-12; the mean drifts at most 1e-12, with Adam at least 1%",
        f"sums {sums:.1e}; {moved['Coupled Adam']:.1e}, Adam {moved['Adam']:.1%}",
        sums <= 1e-12 and moved["Coupled Adam"] <= 1e-12 and moved["Adam"] >= 0.01,
    )


def linear(figures: dict[str, float], lr: float = 0.02, beta1: float = 0.9, beta2: float = 0.95) -> Finding:
    """Criterion 2."""
    gradients = normal(key(3, "coupled"), (100, 20, 8), dtype=torch.float64)
    start = normal(key(4, "coupled"), (20, 8), dtype=torch.float64)
    rule = CoupledAdam.rule(lr, betas=(beta1, beta2), weight_decay=0.0, embedding=True, eps=1e-8)
    m, v, e = torch.zeros_like(start), torch.zeros_like(start), start.clone()
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g.square()
        e = e - lr * m / (1.0 - beta1**t) / ((v.mean(0) / (1.0 - beta2**t)).sqrt() + 1e-8)
    error = figures["mean kept against mean taken: distance"] = apart(path(rule, list(gradients), start)[-1], e)
    return Finding("the mean kept is the mean of a full moment, to 1e-12", f"{error:.1e}", error <= 1e-12)


# -- 3 to 5: training --------------------------------------------------------------------------------------------------


def coupled(lr: float) -> Rule:
    """Coupled Adam with both embeddings of the transformer."""
    return CoupledAdam.rule(lr, **COMMON, embedding=EMBEDDINGS)


def compared(scale: str, task: Task) -> Comparison:
    """Both, tuned on the loss."""
    arms = {"Coupled Adam": Contender(coupled), "Adam": Contender(AdamW, COMMON)}
    return race(arms, scale, task, metric="loss", steps=STEPS[scale], batch=16, rates=RATES)


def trained(task: Task, name: str, lr: float, steps: int, seed: int, batch: int = 16) -> Tensor:
    """Output embeddings [V, H] after training."""
    model, data = task.initial(seed), task.dataset.train
    out = model.get_submodule("out")
    optimizer: torch.optim.Optimizer
    if name == "Adam":
        optimizer = AdamW(model.parameters(), lr, **COMMON)
    else:
        optimizer = CoupledAdam(embedding_groups(model, also=[out]), lr, **COMMON)
    for t in range(steps):
        chosen = permutation(key(seed, "samples", t), len(data))[:batch]
        optimizer.zero_grad()
        task.loss(model(data.inputs[chosen]), data.targets[chosen]).mean().backward()
        optimizer.step()
    return model.get_parameter("out.weight").detach().double()


def shape(e: Tensor) -> tuple[float, float]:
    """(Norm of the mean embedding over the mean norm; isotropy), of embeddings [V, H]."""
    offset = float(e.mean(0).norm() / e.norm(dim=1).mean())
    directions = torch.linalg.eigh(e.T @ e).eigenvectors
    along = e @ torch.cat([directions, -directions], dim=1)
    partition = along.exp().sum(0)
    return offset, float(partition.min() / partition.max())


def better_shape(shapes: dict[str, list[tuple[float, float]]]) -> list[Finding]:
    """Criteria 3 and 4."""
    pairs = list(zip(shapes["Coupled Adam"], shapes["Adam"], strict=True))
    return [
        Finding(
            "norm of the mean embedding over the mean norm: at most half of Adam's, in every seed",
            "; ".join(f"{a[0]:.3f} against {b[0]:.3f}" for a, b in pairs),
            all(a[0] <= 0.5 * b[0] for a, b in pairs),
        ),
        Finding(
            "isotropy above Adam's in every seed",
            "; ".join(f"{a[1]:.3f} against {b[1]:.3f}" for a, b in pairs),
            all(a[1] > b[1] for a, b in pairs),
        ),
    ]


def as_good(found: Comparison) -> Finding:
    """Criterion 5."""
    return Finding(
        "mean test loss at most 1% above Adam's",
        outcome(found),
        found["Coupled Adam"].mean <= 1.01 * found["Adam"].mean,
    )
