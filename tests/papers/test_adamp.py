"""The claim's exact criteria, and how norms and accuracies are judged."""

import pytest
import torch

from shoal.optim import SGD
from shoal.papers import adamp as paper

from .made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.orthogonal(figures).holds
    assert paper.slower(figures).holds
    assert paper.not_invariant(figures).holds


def test_steps_with_a_radial_part_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprojected:
        @staticmethod
        def rule(lr: float, momentum: float = 0.0, eps: float = 0.0) -> object:
            return SGD.rule(lr, momentum=momentum)

    monkeypatch.setattr(paper, "SGDP", Unprojected)
    assert not paper.orthogonal({}).holds
    assert not paper.slower({}).holds


def test_the_gradient_is_that_of_the_normalised_product() -> None:
    w, gradient = paper.pulled(6)
    w.requires_grad_()
    c = paper.normal(paper.key(4, "direction"), (1, 6), dtype=torch.float64)
    (-(w * c).sum() / w.norm()).backward()
    assert w.grad is not None
    assert gradient(0, w.detach()).numpy() == pytest.approx(w.grad.numpy(), abs=1e-14)


@pytest.mark.parametrize(("adam", "holds"), [(0.3, True), (0.149, False)])
def test_each_layer_counts(monkeypatch: pytest.MonkeyPatch, adam: float, holds: bool) -> None:
    table = {"Adam": [0.9, adam], "AdamP": [0.1, 0.1]}
    monkeypatch.setattr(paper, "growth", lambda kind, task, seed, steps: table[kind.__name__])
    figures: dict[str, float] = {}
    task = paper.normalised(paper.some_of("digits"))
    assert paper.norms(figures, task, [3], 10).holds is holds
    assert figures["growth of 4.weight, Adam over AdamP, seed 3"] == pytest.approx(adam / 0.1)


@pytest.mark.parametrize(("adamp", "holds"), [(0.8521, True), (0.8519, False)])
def test_a_gain_is_at_least_a_fifth_of_a_point(adamp: float, holds: bool) -> None:
    assert paper.better(comparison({"AdamW": 0.85, "AdamP": adamp})).holds is holds
