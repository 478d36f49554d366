"""The claim's own arithmetic: its exact criterion, and how points and curves are judged."""

from types import SimpleNamespace
from typing import Any

import pytest

from shoal.instruments import Direction
from shoal.papers import directional_sharpness as paper


def test_the_exact_criterion_holds() -> None:
    assert paper.closed_form({}).holds


def points(*triples: tuple[float, float, float]) -> dict[int, dict[str, Direction]]:
    names = ("SGD", "clipped SGD", "Adam")
    return {i: {n: Direction(1.0, -1.0, s) for n, s in zip(names, t, strict=True)} for i, t in enumerate(triples)}


def test_sharpness_is_judged_at_every_point() -> None:
    good, flat, reverse = (5.1, 2.0, 1.0), (4.9, 2.0, 1.0), (6.0, 6.5, 1.0)
    assert paper.sharper(points(good, good)).holds
    assert not paper.sharper(points(good, flat)).holds
    assert paper.clipped(points(good, flat)).holds
    assert not paper.clipped(points(good, reverse)).holds


class Found(dict[str, Any]):
    """A comparison of curves."""

    steps, evaluated = 30, (10, 20, 30)


def entry(*curves: tuple[float, ...]) -> SimpleNamespace:
    mean = sum(curve[-1] for curve in curves) / len(curves)
    return SimpleNamespace(tests=[SimpleNamespace(curve=curve) for curve in curves], mean=mean)


@pytest.mark.parametrize(
    ("curves", "holds"),
    [
        ([(3.0, 1.9, 1.8), (3.0, 2.1, 2.0)], True),
        ([(3.0, 2.2, 1.8), (3.0, 2.1, 2.0)], False),
        ([(3.0, 2.2, 2.1)], False),
    ],
)
def test_clipped_sgd_has_to_be_there_before_the_end(curves: list[tuple[float, ...]], holds: bool) -> None:
    found: Any = Found(SGD=entry((3.0, 2.5, 2.0)))
    found["clipped SGD"] = entry(*curves)
    assert paper.faster(found).holds is holds


@pytest.mark.parametrize(("ours", "holds"), [((2.0, 3.0), True), ((1.0, 3.01), False)])
def test_clipped_adam_is_judged_by_every_seed(ours: tuple[float, ...], holds: bool) -> None:
    """The second is better in the mean."""
    found: Any = Found({"Adam": entry((4.0, 2.0), (4.0, 3.0)), "clipped Adam": entry(*((4.0, loss) for loss in ours))})
    assert paper.no_worse(found).holds is holds
