"""M. Alimohammadi, I. Markov, E. Frantar, D. Alistarh, "L-GreCo: Layerwise-Adaptive Gradient Compression for Efficient
and Accurate Deep Learning", 2022 (arXiv 2210.17357).

Claimed: a compression level for each layer, chosen by a knapsack from the error that each level makes there, gives up
to 5 times more compression than one level for all at full accuracy, for PowerSGD, QSGD and top-k.

Criteria, fixed before the run:

1. 5 layers, 6 levels, random tables: the choice has no more error and no more bytes than the uniform level in any of
   them, and no more bytes than the best of all 6^5 combinations with an error smaller by the rounding (5 buckets of
   10,000), unless the uniform level is chosen.
2. Fashion-MNIST, four workers, PowerSGD with error feedback: with ranks by L-GreCo from 2 to 8 the test accuracy is no
   more than half a point below that of rank 4 everywhere,
3. at fewer bytes from the workers.

"full": 6,000 samples, MLP 784-64-64-10, 400 steps, three seeds, each arm with its best of four rates on another seed.
"check": 2,000 samples, 784-32-32-10, 60 steps, one seed and rate. Ranks are chosen every 50 ("check": 15) messages.

Notes. The networks of the publication (ResNet, Transformer-XL) are not repeated, and no times are measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from shoal.compression import Codec, ErrorFeedback, l_greco
from shoal.compression.l_greco import choose
from shoal.learning import Task
from shoal.learning.data import Dataset
from shoal.learning.models import mlp
from shoal.papers.measures import most_accurate, some_of
from shoal.papers.result import Finding, Result
from shoal.simulation import Run, simulate
from shoal.tensors import key, uniform

WORKERS, WITHIN = 4, 0.005


@dataclass(frozen=True)
class Setting:
    """One scale of criteria 2 and 3; a single rate is taken as it is."""

    samples: int
    hidden: int
    steps: int
    every: int
    rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seed: int = 50


CHECK = Setting(2_000, 32, 60, 15, (0.2,), (51,))
FULL = Setting(6_000, 64, 400, 50, (0.05, 0.1, 0.2, 0.4), (51, 52, 53))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    dataset = some_of("fashion-mnist", setting.samples)
    findings = [tables(figures), *training(setting, dataset, figures)]
    published = {"compression against uniform levels": "up to 5 times", "training": "up to 2.5 times faster"}
    return Result(findings, figures, published, setting.seeds)


def tables(figures: dict[str, float], count: int = 20, buckets: int = 10_000) -> Finding:
    """Criterion 1."""
    kept, saved = 0, []
    for seed in range(count):
        draws = uniform(key(54, seed), (2, 5, 6)).double().numpy()
        errors, sizes = np.cumsum(draws[0], 1)[:, ::-1], np.cumsum(draws[1], 1)
        places = np.arange(5), np.array(choose(errors, sizes, 3, 1.0, buckets))
        error, size, budget = errors[places].sum(), sizes[places].sum(), errors[:, 3].sum()
        best = smallest(errors, sizes, (1.0 - 5.0 / buckets) * budget)
        uniform_size = float(sizes[:, 3].sum())
        kept += bool(error <= budget * (1 + 1e-12) and size <= uniform_size and (size <= best or size == uniform_size))
        saved.append(float(size) / uniform_size)
    figures["bytes against uniform, random tables, mean"] = sum(saved) / count
    return Finding("error and bytes are within those promised", f"in {kept} of {count} tables", kept == count)


def smallest(errors: np.ndarray, sizes: np.ndarray, budget: float) -> float:
    """The least size of all combinations within a budget."""
    layers = np.arange(len(errors))
    combinations = np.array(list(itertools.product(range(errors.shape[1]), repeat=len(errors))))
    fits = errors[layers, combinations].sum(1) <= budget
    return float(sizes[layers, combinations].sum(1)[fits].min(initial=np.inf))


def training(setting: Setting, dataset: Dataset, figures: dict[str, float]) -> list[Finding]:
    """Criteria 2 and 3."""
    chosen = l_greco("powersgd", every=setting.every)
    arms = {"rank 4": ErrorFeedback(chosen.levels[chosen.default]), "L-GreCo": ErrorFeedback(chosen)}
    accuracy, sent = {}, {}
    for name, codec in arms.items():
        lr = most_accurate(setting.rates, partial(run_with, setting, dataset, codec, seed=setting.tuning_seed))
        runs = [run_with(setting, dataset, codec, lr, seed) for seed in setting.seeds]
        accuracy[name] = sum(float(run.curve()[-1, 1]) for run in runs) / len(runs)
        sent[name] = float(sum(sum(run.info["bytes"]["by_peer"][:WORKERS]) for run in runs)) / len(runs)
        figures[f"test accuracy, {name}"], figures[f"learning rate, {name}"] = accuracy[name], lr
        figures[f"bytes from the workers, {name}"] = sent[name]
    return judge(accuracy, sent, dataset.name)


def judge(accuracy: dict[str, float], sent: dict[str, float], data: str) -> list[Finding]:
    """The findings of criteria 2 and 3."""
    own, other = accuracy["L-GreCo"], accuracy["rank 4"]
    return [
        Finding(
            f"{data}: no more than half a point less accurate than rank 4", f"{own:.2%} against {other:.2%}",
            own >= other - WITHIN,
        ),
        Finding(
            "fewer bytes from the workers", f"{sent['rank 4'] / sent['L-GreCo']:.2f} times fewer",
            sent["L-GreCo"] < sent["rank 4"],
        ),
    ]  # fmt: skip


def run_with(setting: Setting, dataset: Dataset, codec: Codec, lr: float, seed: int) -> Run:
    """SGD along the mean of the workers' encoded gradients."""
    return simulate(
        "parallel-sgd",
        task=Task("images", mlp(dataset, setting.hidden, 2), dataset),
        peers=WORKERS,
        codec=codec,
        lr=lr,
        batch=32,
        seed=seed,
        rounds=setting.steps,
        network="ideal",
        evaluate=setting.steps,
        eval_samples=10_000,
    )
