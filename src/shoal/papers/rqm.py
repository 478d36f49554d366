"""Y. Youn, Z. Hu, J. Ziani, J. Abernethy, "Randomized Quantization is All You Need for Differential Privacy in
Federated Learning", 2023 (arXiv 2306.11913).

Claimed: to leave out quantisation levels at random gives differential privacy without added noise, and a better
trade-off of privacy and accuracy than the Poisson binomial mechanism (PBM) at the same bits.

Criteria, fixed before the run; m = 16 levels, and (Delta / c, q) = (1, 0.42), (2.33, 0.42), (0.66, 0.57):

1. Probabilities add up to 1 and decode to x on average, to 1e-13.
2. No two inputs differ by more than log(2 (1 + c / Delta)) + (m - 2) log(1 / (1 - q)) in any log-probability, also for
   q = 0.2 and 0.9.
3. PBM with 15 coins (4 bits as well) and the same variance at 0; 40 clients, of whom one holds c or -c and the others
   c: the Renyi divergence of order 2 between the sums is lower for RQM in all three settings.
4. Fashion-MNIST, logistic regression, one gradient of each of 40 clients a step ("check": 20), PBM with theta such that
   this divergence is that of RQM with (1, 0.42): RQM's test accuracy is no more than half a point below PBM's,
5. and it is above PBM's, in the mean over seeds.

"full": 6,000 samples, 120 steps, three seeds, each mechanism with its best of four rates on another seed. "check":
2,000 samples, 40 steps, one seed and rate.

Notes. EMNIST and the publication's network are not repeated. Gradients are clipped entry by entry to 0.02, for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression import RQM, Codec, Memory, Use
from shoal.compression.codec import stacked_field
from shoal.compression.rqm import Quantised
from shoal.learning import Task
from shoal.learning.data import Dataset
from shoal.learning.models import logistic
from shoal.papers.measures import most_accurate, some_of
from shoal.papers.result import Finding, Result
from shoal.privacy import PBM, RQMLaw, renyi_of_sum
from shoal.simulation import Run, simulate
from shoal.tensors import Layout, uniform
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content

SETTINGS = ((1.0, 0.42), (2.33, 0.42), (0.66, 0.57))
CLIP, WITHIN = 0.02, 0.005


@dataclass(frozen=True)
class Coins(Codec):
    """PBM as a codec, for comparison: unbiased for entries in [-clip, clip].

    Attributes:
        law: its settings; at most 255 coins.
    """

    law: PBM
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")
    unbiased: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Numbers of heads, by one uniform draw and the binomial distribution of each entry."""
        t, c = self.law.trials, self.law.clip
        p = 0.5 + self.law.theta * rows.double().clamp(-c, c) / c
        u = uniform(keys, layout.size, dtype=torch.float64)
        heads, below = torch.zeros_like(u, dtype=torch.uint8), torch.zeros_like(u)
        for z in range(t):
            below += math.comb(t, z) * p**z * (1.0 - p) ** (t - z)
            heads += u >= below
        return [Quantised(row) for row in pack_bits(heads, t.bit_length())], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """What the heads stand for."""
        bits = self.law.trials.bit_length()
        size = packed_bits_size(layout.size, bits)
        packed = stacked_field(payloads, Quantised, "levels", torch.uint8, [size])
        heads = unpack_bits(packed, bits, layout.size).double()
        law = self.law
        return ((heads - law.trials / 2.0) * (law.clip / (law.trials * law.theta))).to(layout.dtype)


@dataclass(frozen=True)
class Setting:
    """One scale of criteria 4 and 5; a single rate is taken as it is."""

    samples: int
    clients: int
    steps: int
    rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seed: int = 90


CHECK = Setting(2_000, 20, 40, (0.5,), (91,))
FULL = Setting(6_000, 40, 120, (0.1, 0.3, 1.0, 3.0), (91, 92, 93))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    dataset = some_of("fashion-mnist", setting.samples)
    findings = [exact(figures), bound(figures), divergences(figures), *training(setting, dataset, figures)]
    return Result(findings, figures, {"privacy and accuracy, EMNIST": "better than PBM"}, setting.seeds)


# -- laws --------------------------------------------------------------------------------------------------------


def exact(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    worst = 0.0
    for ratio, q in SETTINGS:
        law = RQMLaw(1.0, ratio, q=q)
        for x in torch.linspace(-1.0, 1.0, 41, dtype=torch.float64).tolist():
            p = law.pmf(x)
            worst = max(worst, abs(float(p.sum()) - 1.0), abs(float(p @ law.values()) - x))
    figures["error of sums and means of probabilities"] = worst
    return Finding("probabilities add up to 1, and the mean is x, to 1e-13", f"{worst:.1e}", worst <= 1e-13)


def bound(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    words, holds = [], True
    for ratio, q in (*SETTINGS, (1.0, 0.2), (1.0, 0.9)):
        law = RQMLaw(1.0, ratio, q=q)
        figures[f"epsilon, Delta = {ratio} c, q = {q}"] = law.epsilon()
        words.append(f"{law.epsilon():.2f} <= {law.epsilon_bound():.2f}")
        holds = holds and law.epsilon() <= law.epsilon_bound()
    return Finding("pure epsilon is within the closed bound", ", ".join(words), holds)


def order_two(law: RQMLaw | PBM, clients: int) -> float:
    """D_2 between the sums in which one client holds c and -c, and the others c."""
    c = law.clip
    return renyi_of_sum(law.pmf(c), law.pmf(-c), [law.pmf(c)] * (clients - 1), 2.0)


def divergences(figures: dict[str, float], clients: int = 40) -> Finding:
    """Criterion 3."""
    words, holds = [], True
    for ratio, q in SETTINGS:
        law = RQMLaw(1.0, ratio, q=q)
        coins = PBM.of_variance(law.variance(0.0), 1.0)
        own, other = order_two(law, clients), order_two(coins, clients)
        figures[f"D_2, Delta = {ratio} c, q = {q}, RQM"], figures[f"D_2, Delta = {ratio} c, q = {q}, PBM"] = own, other
        words.append(f"{own:.3f} against {other:.3f}")
        holds = holds and own < other
    return Finding("at equal variance D_2 is lower than PBM's", ", ".join(words), holds)


def as_private(law: RQMLaw, clients: int) -> PBM:
    """The coins with the same D_2, by bisection: it grows with theta."""
    target, low, high = order_two(law, clients), 1e-4, 0.4999
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if order_two(PBM(law.clip, middle), clients) < target else (low, middle)
    return PBM(law.clip, low)


# -- training ----------------------------------------------------------------------------------------------------


def training(setting: Setting, dataset: Dataset, figures: dict[str, float]) -> list[Finding]:
    """Criteria 4 and 5."""
    law = RQMLaw(CLIP, CLIP)
    coins = as_private(law, setting.clients)
    figures["theta of PBM that is as private"] = coins.theta
    figures["standard deviation of an entry at 0 / c, RQM"] = law.variance(0.0) ** 0.5 / CLIP
    figures["standard deviation of an entry at 0 / c, PBM"] = coins.variance(0.0) ** 0.5 / CLIP
    scores = {}
    for name, codec in {"RQM": RQM(CLIP), "PBM": Coins(coins)}.items():
        lr = most_accurate(setting.rates, partial(run_with, setting, dataset, codec, seed=setting.tuning_seed))
        runs = [run_with(setting, dataset, codec, lr, seed) for seed in setting.seeds]
        scores[name] = sum(float(run.curve()[-1, 1]) for run in runs) / len(runs)
        figures[f"test accuracy, {name}"], figures[f"learning rate, {name}"] = scores[name], lr
    return judge(scores["RQM"], scores["PBM"], dataset.name)


def judge(own: float, other: float, data: str) -> list[Finding]:
    """The findings of criteria 4 and 5."""
    words = f"{own:.2%} against {other:.2%}"
    return [
        Finding(f"{data}, as private as PBM: no more than half a point less accurate", words, own >= other - WITHIN),
        Finding("and more accurate", words, own > other),
    ]


def run_with(setting: Setting, dataset: Dataset, codec: Codec, lr: float, seed: int) -> Run:
    """SGD along the mean of all clients' private gradients."""
    return simulate(
        "parallel-sgd",
        task=Task("images", logistic(dataset), dataset),
        peers=setting.clients,
        codec=codec,
        lr=lr,
        batch=32,
        seed=seed,
        rounds=setting.steps,
        network="ideal",
        evaluate=setting.steps,
        eval_samples=10_000,
    )
