"""The claim's own arithmetic: its exact criteria, how memory is measured, and how losses are judged."""

from __future__ import annotations

import pytest

from shoal.optim import AdamW
from shoal.optim.adafactor import AdaFactor
from shoal.papers import adalomo as paper
from shoal.papers.optimizers import characters
from tests.papers.made import comparison


def test_the_exact_criteria_hold() -> None:
    assert paper.rank_one({}).holds
    assert paper.bounded({}).holds
    assert paper.memory(characters(), {}).holds
    assert paper.fused(characters(), {}).holds


def test_the_exact_criteria_fail_for_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "AdaLomo", AdamW)
    assert not paper.rank_one({}).holds
    assert not paper.bounded({}).holds
    assert not paper.memory(characters(), {}).holds


def test_an_optimizer_that_waits_for_all_gradients_has_them_all() -> None:
    task = characters()
    whole = sum(p.nbytes for p in task.initial(53).parameters())
    most, left, _ = paper.peak(AdaFactor, task, steps=1)
    assert (most, left) == (whole, whole)


@pytest.mark.parametrize(
    ("ours", "expected"), [(1.02, [True, True]), (1.05, [False, True]), (1.6, [False, False]), (0.9, [True, True])]
)
def test_losses_are_judged_against_adamw_and_lomo(ours: float, expected: list[bool]) -> None:
    found = comparison({"AdamW": 1.0, "AdaLomo": ours, "LOMO": 1.5})
    assert [finding.holds for finding in paper.contest(found)] == expected
