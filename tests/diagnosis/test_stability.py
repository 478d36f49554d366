"""The edge of stability: closed forms, and the edge that steps of the rules themselves show on a quadratic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shoal.diagnosis.stability import stability
from shoal.instruments.stepping import Stepper
from shoal.optim import SGD, SGDW, Adam, Lion, Rule

MODEL = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("rule", "edge", "formula"),
    [
        (SGD.rule(0.1), 20.0, "2 / lr"),
        (SGD.rule(0.1, momentum=0.9), 38.0, "2 (1 + 0.9) / lr"),
        (SGD.rule(0.1, momentum=0.9, nesterov=True), 38.0 / 2.8, "2 (1 + 0.9) / ((1 + 1.8) lr)"),
        (SGD.rule(0.1, momentum=0.5, dampening=0.5), 60.0, "2 (1 + 0.5) / lr / 0.5"),
        (SGD.rule(0.1, weight_decay=0.5), 19.5, "2 / lr - 0.5"),
    ],
)
def test_the_edge_is_that_of_the_closed_forms(rule: Rule, edge: float, formula: str) -> None:
    found = stability(rule, MODEL)
    assert found.edge == pytest.approx(edge)
    assert found.formula == formula


@pytest.mark.parametrize(
    "rule",
    [
        SGD.rule(0.1),
        SGD.rule(0.1, momentum=0.9),
        SGD.rule(0.1, momentum=0.9, nesterov=True),
        SGD.rule(0.1, momentum=0.5, dampening=0.3),
        SGD.rule(0.1, momentum=0.9, weight_decay=1.5),
        SGDW.rule(0.1, momentum=0.9, weight_decay=0.5),
    ],
    ids=["gd", "heavy ball", "nesterov", "dampening", "decay", "decoupled"],
)
def test_steps_of_the_rule_shrink_below_the_edge_and_grow_above_it(rule: Rule) -> None:
    edge = stability(rule, MODEL).edge
    assert edge is not None
    assert size(rule, 0.97 * edge) < 1e-2
    assert size(rule, 1.03 * edge) > 1e2


def size(rule: Rule, curvature: float) -> float:
    """How far 500 full-batch steps lead from 1 on curvature x^2 / 2."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    stepper = Stepper(model, lambda output, target: 0.5 * curvature * output[:, 0].square(), rule)
    one = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(500):
        stepper.step(one, one)
    return abs(model.weight.item()) if stepper.finite else math.inf


@pytest.mark.parametrize(("rule", "word"), [(Adam.rule(0.1), "adam"), (Lion.rule(0.1), "lion")])
def test_adaptive_and_sign_like_rules_have_no_such_edge(rule: Rule, word: str) -> None:
    found = stability(rule, MODEL)
    assert found.edge is None
    assert found.formula == f"the steps of {word} are not in proportion to gradients"
