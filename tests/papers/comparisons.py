"""Comparisons as they might have come out, for judging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.learning.results import Comparison, Entry, Tested, Trial


def entry(
    name: str,
    scores: Sequence[float],
    *,
    lr: float = 0.01,
    losses: Sequence[float] | None = None,
    train: Sequence[float] = (1.0,),
    trials: Sequence[Trial] = (),
) -> Entry:
    """A contender with these test scores, one a seed; a loss of infinity is a run that diverged."""
    losses = [1.0] * len(scores) if losses is None else losses
    tests = tuple(
        Tested(seed, score, loss, math.isinf(loss), () if math.isinf(loss) else tuple(train), (score,))
        for seed, (score, loss) in enumerate(zip(scores, losses, strict=True))
    )
    return Entry(name, trials=tuple(trials) or (Trial(lr),), best=0, tests=tests)


def comparison(entries: Sequence[Entry] | Mapping[str, float], metric: str = "accuracy") -> Comparison:
    """What was found; a mapping has one score for each name, in three seeds."""
    if isinstance(entries, Mapping):
        entries = [entry(name, [score] * 3) for name, score in entries.items()]
    seeds = tuple(range(len(entries[0].tests)))
    how: dict[str, Any] = {"steps": 1, "batch": 1, "schedule": "constant", "tuning_seeds": (100,)}
    samples = {"train": 1, "validation": 1, "test": 1}
    return Comparison(
        "made",
        "made",
        metric,
        seeds=seeds,
        samples=samples,
        parameters=1,
        evaluated=(1,),
        entries=tuple(entries),
        **how,
    )
