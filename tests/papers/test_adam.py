"""The claim's own arithmetic: its exact criteria, the sparse task, and how losses are judged."""

import math

import pytest
import torch

from shoal.papers import adam as paper
from shoal.papers.optimizers import path

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.agreement(figures).holds
    assert paper.scale_free(figures).holds
    assert paper.sizes(figures).holds


def test_without_correction_the_steps_are_those_of_the_raw_moments() -> None:
    g = torch.tensor([3.0], dtype=torch.float64)
    steps = path(paper.biased(1.0, beta2=0.99, eps=0.0), [g] * 30, torch.zeros_like(g)).diff(dim=0)[:, 0]
    t = torch.arange(1, 31, dtype=torch.float64)
    assert torch.allclose(-steps, (1.0 - 0.9**t) / (1.0 - 0.99**t).sqrt(), rtol=1e-9)


def test_sparse_features_are_rare_and_labels_are_not_all_alike() -> None:
    train = paper.sparse().dataset.train
    often = train.inputs.mean(0)
    assert 0.08 < float(often[0]) < 0.12
    assert float(often[-50:].mean()) < 0.003
    assert 0.3 < float(train.targets.float().mean()) < 0.7
    assert len(train) == 5000


@pytest.mark.parametrize(
    ("sgd", "adagrad", "expected"), [(0.6, 0.5, [True, True]), (0.52, 0.5, [False, True]), (0.6, 0.47, [True, False])]
)
def test_training_losses_are_judged_by_their_ratio(sgd: float, adagrad: float, expected: list[bool]) -> None:
    losses = {"Adam": 0.5, "SGD": sgd, "AdaGrad": adagrad}
    found = comparison([entry(name, [0.9], train=(2.0, loss)) for name, loss in losses.items()])
    assert [finding.holds for finding in paper.as_fast_when_sparse(found)] == expected


@pytest.mark.parametrize(("adam", "holds"), [(0.52, True), (0.53, False), (math.inf, False)])
def test_adam_has_to_be_as_fast_as_the_best_and_not_to_diverge(adam: float, holds: bool) -> None:
    ours = entry("Adam", [0.9], losses=[adam], train=(2.0, adam))
    others = [entry(name, [0.9], train=(2.0, loss)) for name, loss in (("SGD", 0.5), ("RMSProp", 0.7))]
    assert paper.as_fast_as_the_best(comparison([ours, *others])).holds is holds
