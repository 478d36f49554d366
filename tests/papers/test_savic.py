"""The claim's own arithmetic."""

import math

import pytest

from shoal.papers import savic as paper


def test_the_exact_criteria_hold() -> None:
    assert paper.plain({}).holds
    assert paper.bowl({}).holds


@pytest.mark.parametrize(
    ("ours", "theirs", "holds"),
    [([5.0], [6.0], True), ([6.0], [6.0], False), ([30.0], [math.inf], True), ([math.inf], [math.inf], False)],
)
def test_who_never_arrives_is_not_faster(ours: list[float], theirs: list[float], holds: bool) -> None:
    assert paper.faster("adam", {"adam": ours, "local SGD": theirs}, paper.FULL).holds is holds
