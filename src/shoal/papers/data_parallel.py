"""What claims about data-parallel methods share: a race on Fashion-MNIST, with accuracies and bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.engine import ShoalError
from shoal.learning import Task
from shoal.learning.models import mlp
from shoal.optim import Rule
from shoal.papers.measures import average, some_of
from shoal.protocols import ParallelSGD
from shoal.simulation import Run, simulate


@dataclass(frozen=True)
class Arm:
    """A contender.

    Attributes:
        make: learning rate -> protocol.
        rates: to choose from; a single one is taken as it is.
        rule: the run's optimizer, for protocols that use it.
    """

    make: Callable[[float], Any]
    rates: Sequence[float]
    rule: Rule | None = None


@dataclass(frozen=True)
class Race:
    """Setting: an MLP 784-`hidden`-10, iid data; a round is a step.

    Attributes:
        evaluate: every so many rounds.
        target: accuracy at which bytes are counted.
    """

    samples: int
    rounds: int
    seeds: Sequence[int]
    hidden: int = 64
    peers: int = 4
    batch: int = 32
    evaluate: int = 10
    target: float = 0.8
    tuning_seed: int = 100


@dataclass(frozen=True)
class Outcome:
    """An arm's test runs.

    Attributes:
        lr: its rate.
        accuracy: final, by seed.
        up: bytes that one worker sent in a step, the mean.
        to_target: bytes that all sent until the target was reached, by seed; infinite if it was not.
    """

    lr: float
    accuracy: Sequence[float]
    up: float
    to_target: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean final accuracy."""
        return average(self.accuracy)


CHECK = Race(4_000, 150, (1,), hidden=32)
FULL = Race(12_000, 400, (1, 2, 3))
SMALL = (1e-4, 3e-4, 1e-3, 3e-3)
LARGE = (0.05, 0.1, 0.2, 0.4)
RACES = {"check": CHECK, "full": FULL}


def dense(rule: Rule, rates: Sequence[float]) -> Arm:
    """The mean of gradients in full precision, and an optimizer."""
    return Arm(lambda lr: ParallelSGD(), rates, rule)


def run(race: Race, arm: Arm, lr: float, seed: int) -> Run | None:
    """One run; None if it diverged."""
    dataset = some_of("fashion-mnist", race.samples)
    own: dict[str, Any] = {} if arm.rule is None else {"optimizer": arm.rule, "lr": lr}
    try:
        return simulate(
            arm.make(lr),
            task=Task("images", mlp(dataset, race.hidden), dataset),
            peers=race.peers,
            topology="complete",
            network="ideal",
            batch=race.batch,
            rounds=race.rounds,
            seed=seed,
            evaluate=race.evaluate,
            eval_samples=2_000,
            eval_peers=1,
            workers=1,
            **own,
        )
    except ShoalError:
        return None


def contest(race: Race, arms: Mapping[str, Arm], figures: dict[str, float]) -> dict[str, Outcome]:
    """Each arm with the rate that is best on the tuning seed, by final accuracy; figures are added."""
    outcomes = {}
    for name, arm in arms.items():
        lr = arm.rates[0]
        if len(arm.rates) > 1:
            lr = max(arm.rates, key=lambda rate: final(run(race, arm, rate, race.tuning_seed)))
        found = [run(race, arm, lr, seed) for seed in race.seeds]
        sent = [0.0 if r is None else sum(r.info["bytes"]["by_peer"][: race.peers]) for r in found]
        reached = [to_target(r, race.target) for r in found]
        outcome = Outcome(lr, [final(r) for r in found], average(sent) / race.rounds / race.peers, reached)
        outcomes[name] = outcome
        figures[f"learning rate, {name}"] = lr
        figures[f"bytes up a worker and step, {name}"] = outcome.up
        for seed, accuracy, size in zip(race.seeds, outcome.accuracy, reached, strict=True):
            figures[f"accuracy, {name}, seed {seed}"] = accuracy
            if math.isfinite(size):
                figures[f"MB to {race.target:.0%}, {name}, seed {seed}"] = size / 1e6
    return outcomes


def final(found: Run | None) -> float:
    """Final test accuracy; 0 for a run that diverged."""
    return 0.0 if found is None else found.final()


def to_target(found: Run | None, target: float) -> float:
    """Bytes sent by all when the test accuracy first was at least `target`; infinite if it never was."""
    if found is None:
        return math.inf
    curve = found.curve(against="bytes")
    reached = np.flatnonzero(curve[:, 1] >= target)
    return float(curve[reached[0], 0]) if len(reached) else math.inf


def shown(outcomes: Mapping[str, Outcome]) -> str:
    """Accuracies in one line."""
    return ", ".join(f"{name} {100 * o.mean:.2f}% at {o.lr:g}" for name, o in outcomes.items())


def megabytes(outcomes: Mapping[str, Outcome]) -> str:
    """Bytes to the target in one line."""
    sizes = {name: average(o.to_target) / 1e6 for name, o in outcomes.items()}
    return ", ".join(
        f"{name} {size:.2f} MB" if math.isfinite(size) else f"{name} never" for name, size in sizes.items()
    )
