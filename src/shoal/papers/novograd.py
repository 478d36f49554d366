"""B. Ginsburg, P. Castonguay, O. Hrinchuk, O. Kuchaiev, V. Lavrukhin, R. Leary, J. Li, H. Nguyen, Y. Zhang, J. M.
Cohen, "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks", 2019 (arXiv
1905.11286).

Claimed: momentum of gradients that are divided by a moving norm, one number a layer, performs on par with or better
than well-tuned SGD with momentum, Adam and AdamW in image classification, speech, translation and language modelling;
it is robust to the learning rate and to initialisation and needs half of Adam's memory.

Criteria, fixed before the run:

1. State: one momentum and one number for each tensor, exactly.
2. eps = 0: to multiply all gradients of a layer by a constant changes no bit of the path (constants 2^12 and 2^-9);
   with 3000 and 0.004 it changes it by less than 1e-10. SGD leaves its path by more than 1%.
3. beta1 = beta2 = 0, no decay: each step of each tensor has the length lr, to 1e-12.
4. Fashion-MNIST, no warm-up, rates fall to 0 in a straight line, rates tuned alike: mean test accuracy at most 0.3
   points below the best of SGD with momentum, Adam and AdamW.
5. Robust: at least as many rates of the grid as for SGD reach 2 points below the own best validation accuracy.
6. In the middle of training, one batch's loss times 10,000: after that step NovoGrad has lost less than 10 points of
   training accuracy in every seed; SGD with momentum loses more than 10 in every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import SGD, Adam, AdamW, Param, Rule, Schedule
from shoal.optim.novograd import NovoGrad
from shoal.papers.optimizers import SETTINGS, fashion, outcome, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors.random import key, normal, permutation

WITHIN, NEAR, LOST = 0.003, 0.02, 0.1
SHAPES = ((8, 5), (8,))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    seeds = SETTINGS[scale].seeds
    contenders = {
        "NovoGrad": Contender(NovoGrad),
        "SGD": Contender(SGD, {"momentum": 0.9}),
        "Adam": Contender(Adam),
        "AdamW": Contender(AdamW),
    }
    found = race(contenders, scale, schedule=to_zero)
    record(found, figures)
    findings = [state(figures), invariance(figures), unit_steps(figures), on_par(found), robust(found, figures)]
    losses = {name: [shock(make, found[name].lr, seed) for seed in seeds] for name, make in SHOCKED.items()}
    findings.append(survives(losses, figures))
    published = {"against SGD, Adam, AdamW": "on par or better on 4 kinds of tasks", "memory": "half of Adam's"}
    return Result(findings, figures, published, tuple(seeds))


def to_zero(lr: float, steps: int) -> Schedule:
    """A straight line to 0."""
    return lambda step: lr * (1.0 - step / steps)


def walk(rule: Rule, factors: Sequence[float], steps: int = 50) -> list[list[Tensor]]:
    """Points of two tensors on a curved problem whose gradients are multiplied by these factors, one a tensor."""
    targets = [normal(key(12, "target", i), shape, dtype=torch.float64) for i, shape in enumerate(SHAPES)]
    params = [Param(f"p{i}", shape) for i, shape in enumerate(SHAPES)]
    x = [torch.zeros_like(target) for target in targets]
    views = rule.views(rule.memory({param.name: p for param, p in zip(params, x, strict=True)}), params)
    points = []
    for t in range(steps):
        both = x[0].sum() - x[1].sum()
        gradients = [
            c * (torch.tanh(p - target) + 0.1 * both) for p, target, c in zip(x, targets, factors, strict=True)
        ]
        rule.step(params, x, gradients, views, t + 1.0, rule.lr)
        points.append([p.clone() for p in x])
    return points


def far(a: list[list[Tensor]], b: list[list[Tensor]]) -> float:
    """The largest difference of two paths, relative to the largest entry of the first."""
    pairs = [(p, q) for one, other in zip(a, b, strict=True) for p, q in zip(one, other, strict=True)]
    return max(float((p - q).abs().max()) for p, q in pairs) / max(float(p.abs().max()) for p, _ in pairs)


def state(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    tensors = {f"p{i}": torch.zeros(shape) for i, shape in enumerate(SHAPES)}
    numbers = sum(slot.numel() for slot in NovoGrad.rule().memory(tensors).values())
    expected = sum(p.numel() for p in tensors.values()) + len(tensors)
    figures["numbers of state beyond the momentum, per tensor"] = 1 + (numbers - expected) / len(tensors)
    return Finding("state: a momentum and one number a tensor", f"{numbers} for {expected}", numbers == expected)


def invariance(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    rule = NovoGrad.rule(0.03, eps=0.0, weight_decay=0.01)
    plain = walk(rule, (1.0, 1.0))
    exact, near = far(plain, walk(rule, (2.0**12, 2.0**-9))), far(plain, walk(rule, (3000.0, 0.004)))
    sgd = SGD.rule(0.003, momentum=0.9)
    other = far(walk(sgd, (1.0, 1.0)), walk(sgd, (3.0, 0.4)))
    figures.update({"scaled by powers of 2": exact, "scaled by 3000 and 0.004": near, "SGD scaled by 3 and 0.4": other})
    return Finding(
        "layers' gradients scaled: the same bits for powers of 2, else to 1e-10; SGD over 1% away",
        f"{exact:.0e}, {near:.1e}; SGD {other:.0%}",
        exact == 0.0 and near <= 1e-10 and other > 0.01,
    )


def unit_steps(figures: dict[str, float], lr: float = 0.03) -> Finding:
    """Criterion 3."""
    walked = walk(NovoGrad.rule(lr, betas=(0.0, 0.0), eps=0.0), (1.0, 7.0))
    lengths = [float((q - p).norm()) for a, b in pairwise(walked) for p, q in zip(a, b, strict=True)]
    figures["length of steps over lr: error"] = error = max(abs(length / lr - 1.0) for length in lengths)
    return Finding("without averages each tensor's step is lr long, to 1e-12", f"{error:.1e}", error <= 1e-12)


def on_par(found: Comparison) -> Finding:
    """Criterion 4."""
    best = max(found[name].mean for name in ("SGD", "Adam", "AdamW"))
    return Finding(
        f"test accuracy at most {100 * WITHIN:.1f} points below the best of SGD, Adam and AdamW",
        outcome(found),
        found["NovoGrad"].mean >= best - WITHIN,
    )


def robust(found: Comparison, figures: dict[str, float]) -> Finding:
    """Criterion 5."""
    counts = {}
    for name in ("NovoGrad", "SGD"):
        entry = found[name]
        counts[name] = sum(trial.mean >= entry.chosen.mean - NEAR for trial in entry.trials)
        figures[f"rates within 2 points of the best, {name}"] = counts[name]
    return Finding(
        "at least as many rates within 2 points of the best as for SGD",
        f"{counts['NovoGrad']} against {counts['SGD']} of {len(found['SGD'].trials)}",
        counts["NovoGrad"] >= counts["SGD"],
    )


SHOCKED: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "NovoGrad": NovoGrad,
    "SGD": lambda params, lr: SGD(params, lr=lr, momentum=0.9),
}


def shock(make: Callable[..., torch.optim.Optimizer], lr: float, seed: int, task: Task | None = None) -> float:
    """Training accuracy that is lost in a step with 10,000 times the loss, after 100 steps."""
    task = task or fashion()
    train, model = task.dataset.train, task.initial(seed)
    order, probe = permutation(key(seed, "shock"), len(train)), train[:2000]
    optimizer = make(model.parameters(), lr=lr)

    def accuracy() -> float:
        with torch.no_grad():
            return float((model(probe.inputs).argmax(1) == probe.targets).float().mean())

    before = 0.0
    for t in range(101):
        batch = train[order[torch.arange(128 * t, 128 * t + 128) % len(order)]]
        optimizer.zero_grad()
        before = accuracy() if t == 100 else before
        loss = task.loss(model(batch.inputs), batch.targets).mean() * (1e4 if t == 100 else 1.0)
        loss.backward()
        optimizer.step()
    return before - accuracy()


def survives(losses: dict[str, list[float]], figures: dict[str, float]) -> Finding:
    """Criterion 6."""
    figures.update({f"accuracy lost, {name}, run {i}": x for name, xs in losses.items() for i, x in enumerate(xs)})
    shown = {name: ", ".join(f"{100 * x:.1f}" for x in xs) for name, xs in losses.items()}
    return Finding(
        "one loss times 10,000: NovoGrad loses less than 10 points of accuracy, SGD more, in every seed",
        f"NovoGrad {shown['NovoGrad']}; SGD {shown['SGD']} points",
        max(losses["NovoGrad"]) < LOST < min(losses["SGD"]),
    )
