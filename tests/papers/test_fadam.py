"""The claim's exact criteria, and how accuracies, losses and shocks are judged."""

import pytest
import torch

from shoal.learning import Task
from shoal.learning.models import mlp
from shoal.optim import Adam
from shoal.papers import fadam as paper
from shoal.papers.measures import some_of

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.first(figures).holds
    assert paper.fisher(figures).holds
    assert paper.plain(figures).holds


def test_adam_fails_the_criteria_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "FAdam", type("Other", (), {"rule": lambda lr, **h: Adam.rule(lr)}))
    assert not paper.first({}).holds
    assert not paper.plain({}).holds


@pytest.mark.parametrize(
    ("score", "last", "expected"),
    [(0.85, 0.4, [True, True]), (0.84, 0.3, [False, True]), (0.86, 0.41, [True, False])],
)
def test_accuracy_and_training_loss_are_judged_against_adamw(score: float, last: float, expected: list[bool]) -> None:
    curves = {"FAdam": (1.0, last), "AdamW": (1.0, 0.4), "Adam": (0.1, 0.1)}
    found = comparison({"FAdam": score, "AdamW": 0.85, "Adam": 0.9}, train_losses=curves)
    assert [finding.holds for finding in paper.better(found)] == expected


def test_the_loss_of_a_model_that_does_not_move_rises_little_and_that_of_one_that_is_shaken_much() -> None:
    digits = some_of("digits")
    task = Task("digits", mlp(digits, hidden=8), digits)
    assert abs(paper.rise(torch.optim.SGD, 0.0, 3, task)) < 0.05
    assert paper.rise(torch.optim.SGD, 0.1, 3, task) > 1.0


@pytest.mark.parametrize(("ours", "holds"), [([0.1, 0.2], True), ([0.1, 0.4], False)])
def test_every_seed_counts(ours: list[float], holds: bool) -> None:
    assert paper.calmer({"FAdam": ours, "Adam": [0.3, 0.4]}, {}).holds is holds
