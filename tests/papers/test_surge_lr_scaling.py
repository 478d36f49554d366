"""The claim's own arithmetic: its exact criteria, and how grids are judged."""

from __future__ import annotations

import math

import pytest

from shoal.papers import surge_lr_scaling as paper


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert [finding.holds for finding in paper.quadratic(figures)] == [True, True]
    assert 0.5 <= figures["quadratic: batch of the peak"] / figures["quadratic: B_noise"] <= 2.0


def test_the_best_rate_is_where_a_parabola_is_lowest() -> None:
    x = [0.0, 1.0, 2.0, 3.0]
    assert paper.vertex(x, [(v - 1.3) ** 2 for v in x]) == pytest.approx(math.exp(1.3))
    assert paper.vertex(x, x) == 1.0
    assert paper.vertex(x, [-v for v in x]) == pytest.approx(math.exp(3.0))


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ({8: 1.0, 64: 2.0, 512: 1.6}, [True, True]),
        ({8: 1.0, 64: 1.9, 512: 1.6}, [False, False]),
        ({8: 1.0, 64: 4.0}, [True, False]),
        ({8: math.nan, 64: 4.0, 512: 1.0}, [False, True]),
        ({8: 1.0, 64: 4.0, 512: math.nan}, [True, False]),
        ({8: math.nan, 64: math.nan}, [False, False]),
    ],
)
def test_a_surge_is_judged_from_its_peak(best: dict[int, float], expected: list[bool]) -> None:
    assert [finding.holds for finding in paper.rises_and_falls("Adam", best)] == expected


def test_a_batch_size_at_which_no_rate_arrives_has_no_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "steps_to", lambda task, rule, batch, seed, limit: limit if batch == 32 else 10.0)
    found = paper.grid("Adam", "check", {})
    assert math.isnan(found.pop(32))
    assert all(math.isfinite(rate) for rate in found.values())
