"""The claim's own arithmetic: its exact criteria, and how races are judged."""

import pytest

from shoal.papers import soap as paper


def test_the_exact_criteria_hold() -> None:
    assert paper.turning({}, steps=30).holds
    assert paper.identity({}).holds
    assert paper.basis({}).holds


@pytest.mark.parametrize(("ratio", "holds"), [(1.3, True), (1.29, False), (0.0, False)])
def test_a_race_is_judged_by_steps(ratio: float, holds: bool) -> None:
    assert paper.faster("AdamW", ratio, "").holds is holds


@pytest.mark.parametrize(("seldom", "holds"), [(1.24, True), (1.26, False), (0.9, True)])
def test_a_seldom_refresh_may_cost_half_of_the_lead(seldom: float, holds: bool) -> None:
    assert paper.slowly(1.0, seldom, 1.5).holds is holds


def test_without_a_lead_nothing_may_be_lost() -> None:
    assert not paper.slowly(1.0, 1.01, 0.9).holds
