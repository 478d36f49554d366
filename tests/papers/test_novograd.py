"""The claim's exact criteria, and how accuracies, rates and shocks are judged."""

import pytest
import torch

from shoal.learning import Task
from shoal.learning.models import mlp
from shoal.optim import Adam
from shoal.papers import novograd as paper
from shoal.papers.measures import some_of

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.state(figures).holds
    assert paper.invariance(figures).holds
    assert paper.unit_steps(figures).holds


def test_methods_with_other_state_and_other_steps_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "NovoGrad", type("Other", (), {"rule": lambda lr=0.01, **h: Adam.rule(lr)}))
    assert not paper.state({}).holds
    assert not paper.invariance({}).holds
    assert not paper.unit_steps({}).holds


@pytest.mark.parametrize(("ours", "holds"), [(0.848, True), (0.846, False)])
def test_the_best_of_three_is_the_baseline(ours: float, holds: bool) -> None:
    found = comparison({"NovoGrad": ours, "SGD": 0.80, "Adam": 0.85, "AdamW": 0.84})
    assert paper.on_par(found).holds is holds


def test_rates_near_the_own_best_are_counted() -> None:
    tried = {"NovoGrad": {0.1: 0.80, 0.2: 0.81, 0.4: 0.75}, "SGD": {0.1: 0.90, 0.2: 0.87, 0.4: 0.1}}
    figures: dict[str, float] = {}
    assert paper.robust(comparison({"NovoGrad": 0.8, "SGD": 0.9}, trials=tried), figures).holds
    assert list(figures.values()) == [2, 1]


@pytest.mark.parametrize(
    ("novograd", "sgd", "holds"),
    [([0.0, 0.09], [0.2, 0.3], True), ([0.0, 0.11], [0.2, 0.3], False), ([0.0, 0.0], [0.2, 0.05], False)],
)
def test_every_seed_counts(novograd: list[float], sgd: list[float], holds: bool) -> None:
    assert paper.survives({"NovoGrad": novograd, "SGD": sgd}, {}).holds is holds


def test_a_model_that_does_not_move_loses_nothing_in_the_shock() -> None:
    digits = some_of("digits")
    task = Task("digits", mlp(digits, hidden=8), digits)
    still = paper.shock(lambda params, lr: torch.optim.SGD(params, lr=0.0), 0.1, 3, task)
    shaken = paper.shock(lambda params, lr: torch.optim.SGD(params, lr=lr), 0.1, 3, task)
    assert still == 0.0
    assert shaken > 0.2
