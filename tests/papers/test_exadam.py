"""The claim's exact criteria, and how speed and accuracies are judged."""

import pytest

from shoal.optim import Adam
from shoal.papers import exadam as paper

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.first(figures).holds
    assert paper.limit(figures).holds
    assert figures["first step over lr"] == pytest.approx(11 * 1.999 / 1.9**0.5)


def test_steps_of_another_length_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    other = type("Other", (), {"rule": lambda lr, dynamic_step_size=False, **h: Adam.rule(lr, **h)})
    monkeypatch.setattr(paper, "EXAdam", other)
    assert not paper.first({}).holds
    assert not paper.limit({}).holds


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ((0.7, 0.8, 0.8, 0.82), [True, True]),
        ((0.7, 0.79, 0.8, 0.808), [False, False]),
        ((0.8, 0.8, 0.79, 0.79), [True, False]),
        ((0.7, 0.7, 0.7, 0.7), [False, False]),
    ],
)
def test_the_first_evaluation_at_adams_final_accuracy_counts(curve: tuple[float, ...], expected: list[bool]) -> None:
    curves = {"EXAdam": curve, "Adam": (0.5, 0.6, 0.7, 0.8)}
    scores = {"EXAdam": curve[-1], "Adam": 0.8}
    found = comparison(scores, curves=curves, evaluated=(20, 40, 60, 80), steps=80)
    assert [finding.holds for finding in paper.faster(found, "published rate", {})] == expected


@pytest.mark.parametrize(("twice", "holds"), [(0.8, True), (0.81, False)])
def test_longer_steps_of_adam_are_a_baseline(twice: float, holds: bool) -> None:
    assert paper.not_length(comparison({"EXAdam": 0.8, "Adam": 0.7, "Adam, twice": twice})).holds is holds
