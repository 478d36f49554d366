"""What several claims measure, and the data they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from shoal.learning.data import Data, Dataset, load
from shoal.simulation import Run


def rounds_to(run: Run, accuracy: float) -> float:
    """The first evaluated round in which the peers' mean test accuracy is at least `accuracy`; infinite if none is."""
    for number, value in run.curve():
        if value >= accuracy:
            return float(number)
    return math.inf


def most_accurate(rates: Sequence[float], run: Callable[[float], Run]) -> float:
    """The rate whose run, on a tuning seed, ends with the best test accuracy; a single one is taken as it is."""
    if len(rates) == 1:
        return rates[0]
    ends = {lr: float(run(lr).curve()[-1, 1]) for lr in rates}
    return max(ends, key=lambda lr: ends[lr])


def average(values: Sequence[float]) -> float:
    """The mean; infinite if a value is."""
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.inf


def number(rounds: float, budget: int) -> float:
    """Rounds for a figure: the budget plus 1 if it was not enough (JSON has no infinity)."""
    return rounds if math.isfinite(rounds) else budget + 1.0


def in_words(rounds: Sequence[float], budget: int) -> str:
    """Rounds of several seeds, as "12, 15, never in 40".

    >>> in_words([12.0, math.inf], 40)
    '12, never in 40'
    """
    return ", ".join(f"{r:.0f}" if math.isfinite(r) else f"never in {budget}" for r in rounds)


def some_of(name: str, samples: int | None = None) -> Dataset:
    """A dataset with the first `samples` of its training data; the embedded digits where an image set is missing."""
    whole = load(name, fallback=True)
    train = whole.train if samples is None else whole.train[:samples]
    return Dataset(whole.name, train, whole.test, classes=whole.classes, source=whole.source)


def in_float64(dataset: Dataset) -> Dataset:
    """The same samples, with inputs in float64."""
    train, test = (Data(part.inputs.double(), part.targets) for part in (dataset.train, dataset.test))
    return Dataset(dataset.name, train, test, classes=dataset.classes, source=dataset.source)


def standardised(dataset: Dataset) -> Dataset:
    """The same samples, with inputs of mean 0 and variance 1 over the training data."""
    mean, std = dataset.train.inputs.mean(), dataset.train.inputs.std()
    train, test = (Data((part.inputs - mean) / std, part.targets) for part in (dataset.train, dataset.test))
    return Dataset(dataset.name, train, test, classes=dataset.classes, source=dataset.source)
