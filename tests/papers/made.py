"""Comparisons with results that are given, to see how claims judge them."""

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.learning.results import Comparison, Entry, Tested, Trial


def comparison(
    scores: Mapping[str, float],
    *,
    losses: Mapping[str, float] | None = None,
    curves: Mapping[str, Sequence[float]] | None = None,
    train_losses: Mapping[str, Sequence[float]] | None = None,
    trials: Mapping[str, Mapping[float, float]] | None = None,
    steps: int = 80,
    evaluated: Sequence[int] = (),
) -> Comparison:
    """A comparison with one seed in which each contender has this test accuracy."""

    def of(values: Mapping[str, Any] | None, name: str, default: Any) -> Any:
        return default if values is None else values[name]

    entries = []
    for name, score in scores.items():
        loss = of(losses, name, 1.0)
        curve, train = tuple(of(curves, name, ())), tuple(of(train_losses, name, ()))
        tried = of(trials, name, {0.01: score})
        found = tuple(Trial(lr, scores=(value,), losses=(1.0,)) for lr, value in tried.items())
        best = max(range(len(found)), key=lambda i, found=found: found[i].mean)  # type: ignore[misc]
        tests = (Tested(1, score, loss, False, train, curve),)
        entries.append(Entry(name, trials=found, best=best, tests=tests))
    return Comparison(
        "task", "made", "accuracy", steps, 128, "constant", (1,), (2,), {}, 10, tuple(evaluated), tuple(entries)
    )
