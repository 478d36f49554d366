"""The claim's own arithmetic: its exact criteria, and how losses are judged."""

from __future__ import annotations

import functools

import pytest

from shoal.optim import AdamW
from shoal.optim.apollo import APOLLO, APOLLOMini
from shoal.papers import apollo as paper
from shoal.papers.optimizers import characters
from tests.papers.made import comparison


def test_the_exact_criteria_hold() -> None:
    assert paper.first_step({}).holds
    assert paper.same_scales({}).holds
    assert paper.limited({}).holds
    assert paper.counted({}).holds


def test_the_exact_criteria_fail_for_one_scale_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "APOLLO", functools.partial(APOLLOMini, scale=1.0))
    assert not paper.first_step({}).holds


def test_the_exact_criteria_fail_without_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unlimited(APOLLO):
        norm_growth: float | None = None

    monkeypatch.setattr(paper, "APOLLO", Unlimited)
    assert not paper.limited({}).holds
    assert not paper.counted({}).holds


def test_state_of_matrices_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    task = characters()
    entries = sum(p.numel() for p in task.initial(0).parameters() if p.dim() == 2)
    assert paper.matrix_bytes(AdamW, task) == 8 * entries
    assert paper.share_of_matrices(task, {}).holds
    monkeypatch.setattr(paper, "APOLLOMini", AdamW)
    assert not paper.share_of_matrices(task, {}).holds


@pytest.mark.parametrize(
    ("channels", "mini", "sgd", "expected"),
    [
        (0.9, 1.0, 1.1, [True, True, True]),
        (1.1, 0.9, 1.5, [False, True, True]),
        (0.9, 1.01, 1.05, [True, False, False]),
    ],
)
def test_losses_are_judged_against_adamw_and_sgd(
    channels: float, mini: float, sgd: float, expected: list[bool]
) -> None:
    found = comparison({"AdamW": 1.0, "APOLLO": channels, "APOLLO-Mini": mini, "SGD": sgd})
    assert [finding.holds for finding in paper.contest(found)] == expected
