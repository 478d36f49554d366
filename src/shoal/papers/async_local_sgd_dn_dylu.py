"""B. Liu, R. Chhaparia, A. Douillard, S. Kale, A. A. Rusu, J. Shen, A. Szlam, M. Ranzato, "Asynchronous Local-SGD
Training for Language Modeling", 2024 (arXiv 2401.09135).

Claimed: local SGD in which every worker's change is applied as it arrives suffers from the momentum of its outer
optimizer, not without momentum; with momentum applied every N arrivals only (delayed Nesterov, DN) and numbers of steps
by speed (DyLU) it is as good as synchronous training per step, and far faster in time.

Criteria, fixed before the run: four workers of 0.58, 0.75, 1.51 and 3.33 seconds a step, H = 20, AdamW (0.001) within,
an MLP on Fashion-MNIST (iid), about equal numbers of local steps; each method with its best outer rate out of four on
another seed, which for those with momentum (0.9) are 0.1, 0.2, 0.4 and 0.7, for those without 0.25, 0.5, 1 and 1.4:

1. One worker: DN is `torch.optim.SGD(nesterov=True)` for any c, to 1e-12; four arrivals with c = 0 are one Nesterov
   step along their mean.
2. DN with DyLU reaches the target loss on test data in less than half of the synchronous method's (simulated) time, in
   every seed.
3. Its final loss is at most that of the naive rule (Nesterov at each arrival, H steps for all), mean over seeds.
4. Without momentum, asynchrony costs at most 5% of the synchronous method's final loss, mean over seeds.
5. With the naive rule it costs more than that against synchronous DiLoCo.

"full": 8,000 images, 64 units, 1,600 local steps in all, a target of 0.6, three seeds. "check": half of the steps,
3,000 images, a target of 0.8, one seed, one rate for all with momentum and one for all without, not tuned.

Notes. The publication trains language models of 20 to 150 million parameters on C4. Rates are of the mean of N changes:
every rule here divides by N. Settings and target were fixed after a look at one run with another seed, the target as a
loss all methods get to. In the stored run the synchronous method and those without momentum chose the largest of their
four rates, and the naive rule the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shoal.engine import ShoalError
from shoal.engine.devices import given
from shoal.learning import Task
from shoal.learning.data import Dataset
from shoal.learning.models import mlp
from shoal.optim import AdamW
from shoal.papers.measures import average, some_of
from shoal.papers.result import Finding, Result
from shoal.protocols import AsyncLocalSGD, LocalSGD
from shoal.protocols.local.async_local_sgd import Outer, delayed_nesterov
from shoal.simulation import simulate
from shoal.tensors.random import normal

SECONDS, H, COST, FASTER = (0.58, 0.75, 1.51, 3.33), 20, 0.05, 0.5
HEAVY, LIGHT = (0.1, 0.2, 0.4, 0.7), (0.25, 0.5, 1.0, 1.4)
Protocol = LocalSGD | AsyncLocalSGD
METHODS: Mapping[str, Protocol] = {
    "DN and DyLU": AsyncLocalSGD(H),
    "naive": AsyncLocalSGD(H, outer="nesterov", pace="equal"),
    "synchronous": LocalSGD(H),
    "no momentum": AsyncLocalSGD(H, outer_momentum=0.0, outer="sgd", pace="equal"),
    "no momentum, synchronous": LocalSGD(H, outer_momentum=0.0),
}


@dataclass(frozen=True)
class Setting:
    """One scale; `rates` by method, of which a single one is taken as it is."""

    samples: int
    steps: int
    target: float
    seeds: Sequence[int]
    rates: Mapping[str, Sequence[float]]
    tuning_seed: int = 100


CHECK = Setting(3_000, 800, 0.8, (1,), {m: (0.2,) if p.outer_momentum else (1.0,) for m, p in METHODS.items()})
FULL = Setting(8_000, 1_600, 0.6, (1, 2, 3), {m: HEAVY if p.outer_momentum else LIGHT for m, p in METHODS.items()})


def claim(scale: str) -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    dataset = some_of("fashion-mnist", setting.samples)
    losses: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for method in METHODS:
        rate = best(setting, dataset, method, figures)
        outcomes = [train(setting, dataset, method, rate, seed) for seed in setting.seeds]
        losses[method], times[method] = [loss for loss, _ in outcomes], [time for _, time in outcomes]
        figures[f"final loss, {method}"] = average(losses[method])
        for seed, time in zip(setting.seeds, times[method], strict=True):
            figures[f"seconds to loss {setting.target}, {method}, seed {seed}"] = time if math.isfinite(time) else -1.0
    findings = [exact(figures), faster(times, setting.target), better(losses), *costs(losses)]
    return Result(findings, figures, {"perplexity, DN and DyLU against synchronous": "41.13, 41.35"}, setting.seeds)


def exact(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    gs = [normal(7 + t, 50, dtype=torch.float64) for t in range(8)]
    worst = 0.0
    for c in (0.0, 0.4, 1.0):
        p = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
        optimizer = torch.optim.SGD([p], lr=0.3, momentum=0.9, nesterov=True)
        for g in gs:
            p.grad = g
            optimizer.step()
        worst = max(worst, float((after(Outer(1, 0.3, 0.9, c), gs) - p.detach()).abs().max()))
    mean, pairs = torch.stack(gs).view(2, 4, 50).mean(1), after(Outer(4, 0.3, 0.9), gs)
    worst = max(worst, float((after(Outer(1, 0.3, 0.9), list(mean)) - pairs).abs().max()))
    figures["DN against Nesterov"] = worst
    return Finding("N = 1, and N arrivals with c = 0, are Nesterov's steps, to 1e-12", f"{worst:.1e}", worst <= 1e-12)


def after(outer: Outer, gs: Sequence[Tensor]) -> Tensor:
    """Where delayed Nesterov gets from 0."""
    theta, m, delta = (torch.zeros_like(gs[0]) for _ in range(3))
    for t, g in enumerate(gs):
        down, m, delta = delayed_nesterov(outer, t, g, m, delta)
        theta = theta - down
    return theta


def rounds_of(setting: Setting, protocol: Protocol) -> int:
    """How many rounds have about the setting's number of local steps."""
    if isinstance(protocol, LocalSGD):
        return setting.steps // (H * len(SECONDS))
    shares = [min(SECONDS) / s if protocol.pace == "dylu" else 1.0 for s in SECONDS]
    each = sum(math.floor(H * share) for share in shares) / len(SECONDS)
    return round(setting.steps / each)


def train(setting: Setting, dataset: Dataset, method: str, rate: float, seed: int) -> tuple[float, float]:
    """Final loss on test data, and seconds until it was first at the target; infinite if never, or diverged."""
    protocol = replace(METHODS[method], outer_lr=rate)
    rounds = rounds_of(setting, protocol)
    try:
        run = simulate(
            protocol,
            task=Task("images", mlp(dataset, 64), dataset),
            peers=len(SECONDS),
            rounds=rounds,
            devices=given(SECONDS),
            optimizer=AdamW.rule(0.001, weight_decay=0.0),
            network="ideal",
            evaluate=max(1, rounds // 40),
            eval_samples=2_000,
            seed=seed,
            workers=1,
        )
    except ShoalError:
        return math.inf, math.inf
    curve = run.curve("loss", "time")
    arrived = curve[curve[:, 1] <= setting.target, 0]
    return run.final("loss"), float(arrived[0]) if len(arrived) else math.inf


def best(setting: Setting, dataset: Dataset, method: str, figures: dict[str, float]) -> float:
    """The outer rate with the least final loss on the tuning seed."""
    rates = setting.rates[method]
    scores = {r: train(setting, dataset, method, r, setting.tuning_seed)[0] for r in rates} if len(rates) > 1 else {}
    for rate, loss in scores.items():
        figures[f"tuning, {method}, outer rate {rate}"] = loss
    chosen = min(rates, key=lambda rate: scores.get(rate, 0.0))
    figures[f"outer rate, {method}"] = chosen
    return chosen


def faster(times: Mapping[str, Sequence[float]], target: float) -> Finding:
    """Criterion 2."""
    pairs = list(zip(times["DN and DyLU"], times["synchronous"], strict=True))
    return Finding(
        f"loss {target} in less than half of the synchronous method's time, in every seed",
        "; ".join(f"{a:.0f} s against {b:.0f} s" for a, b in pairs),
        all(math.isfinite(a) and a < FASTER * b for a, b in pairs),
    )


def better(losses: Mapping[str, Sequence[float]]) -> Finding:
    """Criterion 3."""
    ours, naive = (average(losses[method]) for method in ("DN and DyLU", "naive"))
    return Finding("final loss of DN and DyLU at most the naive rule's", f"{ours:.4f}, {naive:.4f}", ours <= naive)


def costs(losses: Mapping[str, Sequence[float]]) -> list[Finding]:
    """Criteria 4 and 5."""
    mean = {method: average(values) for method, values in losses.items()}
    light = mean["no momentum"] / mean["no momentum, synchronous"] - 1.0
    heavy = mean["naive"] / mean["synchronous"] - 1.0
    return [
        Finding(f"without momentum asynchrony costs at most {COST:.0%}", f"{light:+.1%}", light <= COST),
        Finding(f"with the naive rule more than {COST:.0%}", f"{heavy:+.1%}", heavy > COST),
    ]
