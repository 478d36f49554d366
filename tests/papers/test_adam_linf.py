"""The claim's own arithmetic: its exact criteria, and how losses are judged."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shoal.optim import SGD
from shoal.papers import adam_linf as paper
from shoal.tensors import key, normal


def test_the_estimator_finds_the_norm() -> None:
    assert paper.estimator({}).holds


def test_the_best_rate_of_sgd_on_a_quadratic_is_found() -> None:
    """One step of a linear schedule is one step at the full rate: with one curvature, 1 / h ends at 0."""
    h, start = torch.full((4,), 100.0).double(), normal(key(3, "test"), 4, dtype=torch.float64)
    rate, loss = paper.ended(SGD.rule, h, start, steps=1)
    assert rate == pytest.approx(0.01)
    assert loss < 1e-20


def means(**losses: float) -> Any:
    return {name.replace("_", " "): SimpleNamespace(mean=loss, lr=1.0) for name, loss in losses.items()}


@pytest.mark.parametrize(("turned", "holds"), [(1.96, True), (1.94, False)])
def test_rotated_adam_has_to_be_worse_by_a_margin(turned: float, holds: bool) -> None:
    assert paper.worse(means(Adam=1.9, rotated_Adam=turned)).holds is holds


@pytest.mark.parametrize(("sgd", "adasgd", "holds"), [(2.01, 2.09, True), (2.03, 2.1, False), (2.0, 2.13, False)])
def test_rotated_sgd_and_adasgd_have_to_be_where_the_plain_ones_are(sgd: float, adasgd: float, holds: bool) -> None:
    found, turned = means(SGD=2.0, AdaSGD=2.1), means(rotated_SGD=sgd, rotated_AdaSGD=adasgd)
    assert paper.unchanged(found, turned).holds is holds
