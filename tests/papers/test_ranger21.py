"""The claim's exact criteria, and how accuracies and curves are judged."""

import pytest

from shoal.papers import ranger21 as paper

from .made import comparison

NAMES = ("Ranger21", "AdamW", "AdamW, same schedule")


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.all_off(figures).holds
    assert paper.schedule(figures).holds
    assert paper.flat(figures).holds


def test_a_part_that_is_on_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = paper.Ranger21.rule
    clipping = type("Clipping", (), {"rule": lambda *args, **h: usual(*args, **h | {"tau_clipping": 0.01})})
    monkeypatch.setattr(paper, "Ranger21", clipping)
    assert not paper.all_off({}).holds


@pytest.mark.parametrize(
    ("ranger", "scheduled", "expected"),
    [(0.806, 0.805, [True, True]), (0.804, 0.80, [False, True]), (0.81, 0.82, [True, False])],
)
def test_the_schedule_alone_is_a_baseline(ranger: float, scheduled: float, expected: list[bool]) -> None:
    found = comparison(dict(zip(NAMES, (ranger, 0.80, scheduled), strict=True)))
    assert [finding.holds for finding in paper.better(found)] == expected


@pytest.mark.parametrize(("late", "holds"), [((0.5, 0.4, 0.42), True), ((0.5, 0.7, 0.1), False)])
def test_only_rises_of_the_second_half_count(late: tuple[float, ...], holds: bool) -> None:
    curves = {
        "Ranger21": (1.0, 9.0, 1.0, *late),
        "AdamW": (1.0, 1.0, 1.0, 0.5, 0.4, 0.45),
        "AdamW, same schedule": (1.0,) * 6,
    }
    found = comparison(dict.fromkeys(NAMES, 0.8), train_losses=curves, evaluated=range(6))
    assert paper.smoother(found, {}).holds is holds
