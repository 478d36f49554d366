"""The claim's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.papers import l_greco as paper


def test_the_exact_criterion_holds() -> None:
    figures: dict[str, float] = {}
    assert paper.tables(figures).holds
    assert 0.3 < figures["bytes against uniform, random tables, mean"] < 1.0


def test_the_exact_criterion_fails_for_levels_that_are_always_the_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "choose", lambda errors, *rest: [0] * len(errors))
    assert not paper.tables({}).holds


def test_the_smallest_of_all_combinations() -> None:
    errors, sizes = np.array([[2.0, 1.0], [3.0, 0.0]]), np.array([[1.0, 4.0], [1.0, 9.0]])
    assert [paper.smallest(errors, sizes, budget) for budget in (5.0, 4.0, 2.0, 0.5)] == [2.0, 5.0, 10.0, np.inf]


@pytest.mark.parametrize(
    ("own", "sent", "expected"), [(0.8, 90.0, [True, True]), (0.796, 101.0, [True, False]), (0.79, 50.0, [False, True])]
)
def test_accuracies_and_bytes_are_judged(own: float, sent: float, expected: list[bool]) -> None:
    found = paper.judge({"L-GreCo": own, "rank 4": 0.8}, {"L-GreCo": sent, "rank 4": 100.0}, "data")
    assert [finding.holds for finding in found] == expected


def test_rates_are_tuned_on_another_seed() -> None:
    for setting in (paper.CHECK, paper.FULL):
        assert setting.tuning_seed not in setting.seeds
