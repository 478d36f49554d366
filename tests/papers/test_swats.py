"""The claim's exact criteria, and how switches and accuracies are judged."""

import math

import pytest

from shoal.papers import swats as paper

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.projection(figures).holds
    assert paper.switch(figures).holds
    assert paper.afterwards(figures).holds


def test_a_tolerance_above_all_changes_switches_at_the_second_step_and_one_of_zero_never_does() -> None:
    task = paper.digits()
    per_epoch = len(task.dataset.train) // 64
    epoch, rate = paper.switching(task, 64, 5, 1e9, epochs=1)
    assert round(epoch * per_epoch) >= 2
    assert 0.0 < rate < math.inf
    assert paper.switching(task, 64, 5, 0.0, epochs=1) == (math.inf, 0.0)


@pytest.mark.parametrize(
    ("runs", "holds"),
    [([(3.0, 0.1), (19.5, 2.0)], True), ([(3.0, 0.1), (math.inf, 0.0)], False), ([(3.0, math.inf)], False)],
)
def test_every_run_must_switch(runs: list[tuple[float, float]], holds: bool) -> None:
    figures: dict[str, float] = {}
    assert paper.switches(figures, "made", runs, 1e-9).holds is holds
    assert all(math.isfinite(epoch) for name, epoch in figures.items() if "epoch" in name)


@pytest.mark.parametrize(
    ("swats", "adam", "sgd", "expected"),
    [
        (0.85, 0.84, 0.852, [True, True]),
        (0.845, 0.84, 0.852, [False, False]),
        (0.86, 0.85, 0.852, [True, False]),
        (0.849, 0.85, 0.80, [True, False]),
    ],
)
def test_there_must_be_a_gap_to_close(swats: float, adam: float, sgd: float, expected: list[bool]) -> None:
    found = paper.gap(comparison({"SWATS": swats, "Adam": adam, "SGD": sgd}))
    assert [finding.holds for finding in found] == expected
