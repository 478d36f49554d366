"""The claim's own arithmetic: its exact criteria, the shape of embeddings, and how they are judged."""

import math

import pytest
import torch

from shoal.papers import coupled_adam as paper
from shoal.papers.optimizers import characters
from shoal.tensors import normal

from .comparisons import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.drift(figures, steps=150).holds
    assert paper.linear(figures).holds


def test_embeddings_of_the_task_are_those_that_are_named() -> None:
    names = dict(characters().initial(0).named_parameters())
    assert all(names[name].shape[0] == characters().dataset.classes for name in paper.EMBEDDINGS)


def test_a_symmetric_cloud_is_isotropic_and_a_shifted_one_is_not() -> None:
    e = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    assert paper.shape(e) == pytest.approx((0.0, 1.0))
    shifted = e + torch.tensor([2.0, 0.0, 0.0, 0.0])
    offset, isotropy = paper.shape(shifted)
    assert offset == pytest.approx(2.0 / float(shifted.norm(dim=1).mean()))
    ahead = 6 * math.exp(2) + math.exp(3) + math.exp(1)
    behind = 6 * math.exp(-2) + math.exp(-3) + math.exp(-1)
    assert isotropy == pytest.approx(behind / ahead)


def test_the_shape_does_not_depend_on_the_basis() -> None:
    e = normal(3, (30, 5), dtype=torch.float64) + 0.3
    turned = e @ torch.linalg.qr(normal(4, (5, 5), dtype=torch.float64)).Q
    assert paper.shape(turned) == pytest.approx(paper.shape(e), rel=1e-9)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [((0.1, 0.9), [True, True]), ((0.16, 0.9), [False, True]), ((0.1, 0.4), [True, False])],
)
def test_every_seed_has_to_have_the_better_shape(ours: tuple[float, float], expected: list[bool]) -> None:
    shapes = {"Coupled Adam": [(0.05, 0.95), ours], "Adam": [(0.3, 0.5), (0.3, 0.5)]}
    assert [finding.holds for finding in paper.better_shape(shapes)] == expected


@pytest.mark.parametrize(("loss", "holds"), [(1.009, True), (1.011, False)])
def test_the_loss_may_be_one_percent_higher(loss: float, holds: bool) -> None:
    found = comparison({"Coupled Adam": loss, "Adam": 1.0}, metric="loss")
    assert paper.as_good(found).holds is holds
