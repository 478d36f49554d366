"""Directional sharpness, lines and shadow states, against closed forms, dense Hessians and restatements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.instruments import Shadows, Surface, directional_sharpness, directions, line, line_search, usual_rules
from shoal.instruments.stepping import Stepper
from shoal.learning.task import cross_entropy
from shoal.optim import SANIA, AdaFisher, AdaHessian, Adam, MoMo, Rule
from shoal.tensors.random import normal
from tests.restatements.instruments import directional_sharpness as restated
from tests.restatements.optimizers import adam as restated_adam
from tests.restatements.optimizers import clipping, lion

from .small import hessian, network


class Diagonal(nn.Module):
    """f = x' diag(h) x / 2."""

    def __init__(self, h: Tensor, x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.clone())
        self.register_buffer("h", h)

    def forward(self, inputs: Tensor) -> Tensor:
        return (0.5 * self.h * self.x.square()).sum().expand(len(inputs))


def diagonal(h: Tensor, x: Tensor) -> Surface:
    return Surface(Diagonal(h, x), lambda out, _: out, torch.zeros(2), torch.zeros(2))


def test_on_a_diagonal_quadratic_all_is_in_closed_form() -> None:
    h, x, u = (normal(k, 30, dtype=torch.float64) for k in range(3))
    h = h.abs() + 0.1
    surface = diagonal(h, x)
    s = float((h * u.square()).sum() / u.square().sum())
    assert directional_sharpness(surface, 1e6 * u) == pytest.approx(s, rel=1e-12)
    steepest = directions(surface, {"down": -h * x})["down"]
    g = h * x
    best = float(g.square().sum() ** 2 / (h * g.square()).sum() / 2)
    assert steepest.length == pytest.approx(float(g.norm()), rel=1e-12)
    assert steepest.best_decrease == pytest.approx(best, rel=1e-12)
    found = line(surface, -g, [0.0, steepest.best_step])
    assert found.losses[0] - found.losses[1] == pytest.approx(best, rel=1e-10)


def test_directions_of_a_network_are_restated_from_its_dense_hessian() -> None:
    surface, h = hessian()
    g = surface.gradient()
    updates = {"down": -0.1 * g, "up": g, "other": normal(7, surface.size, dtype=torch.float64)}
    for name, found in directions(surface, updates).items():
        u = [part.numpy() for part in surface.split(updates[name]).values()]
        flat = updates[name].numpy()

        def hvp(v: list[Any], shapes: Any = u) -> list[Any]:
            whole = h.numpy() @ np.concatenate([x.ravel() for x in v])
            cuts = np.cumsum([x.size for x in shapes])[:-1]
            return [part.reshape(x.shape) for part, x in zip(np.split(whole, cuts), shapes, strict=True)]

        sharpness = restated.directional_sharpness(hvp, u)
        slope = restated.slope([part.numpy() for part in surface.split(g).values()], u)
        assert found.sharpness == pytest.approx(sharpness, rel=1e-9)
        assert found.slope == pytest.approx(slope, rel=1e-9)
        assert found.length == pytest.approx(np.linalg.norm(flat), rel=1e-12)
        if slope < 0 < sharpness:
            assert (found.best_step, found.best_decrease) == pytest.approx(restated.best_step(slope, sharpness))


def test_uphill_concave_and_empty_directions() -> None:
    x = torch.tensor([1.0, 1.0]).double()
    surface = diagonal(torch.tensor([1.0, -1.0]).double(), x)
    up, down, none = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.zeros(2)
    found = directions(surface, {"up": up, "down": down, "none": none})
    assert (found["up"].best_step, found["up"].best_decrease) == (0.0, 0.0)
    assert (found["down"].best_step, found["down"].best_decrease) == (math.inf, math.inf)
    assert (found["none"].length, found["none"].sharpness, found["none"].best_decrease) == (0.0, 0.0, 0.0)
    assert directions(surface, {}) == {}
    with pytest.raises(ValueError, match=r"update: got one of length 0\.0"):
        line(surface, none, [1.0])


@pytest.mark.parametrize("first", [1e-4, 0.3, 50.0])
def test_a_line_search_ends_between_two_higher_losses(first: float) -> None:
    surface = diagonal(torch.full((4,), 2.0).double(), torch.full((4,), 1.5).double())  # lowest at a length of 3
    found = line_search(surface, -torch.ones(4), first=first)
    length, loss = found.best
    assert 1.5 <= length <= 6.0
    at = found.lengths.index(length)
    assert 0 < at < len(found.lengths) - 1
    assert loss < min(found.losses[at - 1], found.losses[at + 1])
    assert len(line_search(surface, torch.ones(4), first=first, points=7).lengths) == 8  # uphill: 0 stays the best
    assert line_search(surface, torch.ones(4), first=first, points=7).best[0] == 0.0


def test_the_shadow_of_the_optimizer_that_walks_takes_its_steps() -> None:
    surface, _ = network()
    optimizer = Adam(surface.model.parameters(), lr=0.05)
    shadows = Shadows(surface, {"Adam": Adam.rule(0.05)})
    for _ in range(8):
        g, before = surface.gradient(), surface.vector()
        update = shadows.feed(g)["Adam"]
        for p, part in zip(surface.model.parameters(), surface.split(g).values(), strict=True):
            p.grad = part.clone()
        optimizer.step()
        torch.testing.assert_close(surface.vector(), before + update, rtol=1e-12, atol=1e-14)


def test_shadows_are_the_restated_optimizers_put_back_on_the_trajectory() -> None:
    surface, _ = network()
    shapes = list(surface.shapes.values())
    zeros = [np.zeros(shape) for shape in shapes]
    theirs: dict[str, Any] = {
        "Adam": restated_adam.Adam(zeros, lr=1e-3),
        "clipped SGD": clipping.ClippedSGD(zeros, lr=1e-3, rho=0.2),
        "clipped Adam": clipping.ClippedAdam(zeros, lr=1e-3, rho=0.2),
        "Lion": lion.Lion(zeros, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0),
    }
    shadows = Shadows(surface, usual_rules(rho=0.2))
    for step in range(6):
        at = surface.vector() + 0.3 * normal(step, surface.size, dtype=torch.float64)
        gradient = surface.gradient(at)
        updates = shadows.feed(gradient, at)
        for name, other in theirs.items():
            other.params = [part.numpy().copy() for part in surface.split(at).values()]
            other.step([part.numpy() for part in surface.split(gradient).values()])
            expected = np.concatenate([p.ravel() for p in other.params]) - at.numpy()
            np.testing.assert_allclose(updates[name].numpy(), expected, rtol=1e-9, atol=1e-15)
    assert set(updates["sign"].abs().mul(1e3).round().tolist()) <= {0.0, 1.0}
    for part in surface.split(updates["normalised SGD"]).values():
        assert float(part.norm()) == pytest.approx(1e-3 * part.numel() ** 0.5, rel=1e-12)
    momentum = surface.split(updates["SGD"])
    for name, part in surface.split(updates["normalised SGD"]).items():
        cosine = float((part * momentum[name]).sum() / part.norm() / momentum[name].norm())
        assert cosine == pytest.approx(1.0, rel=1e-12)


def test_rules_that_need_the_loss_are_refused() -> None:
    with pytest.raises(ValueError, match="rules: got momo"):
        Shadows(network()[0], {"momo": MoMo.rule()})


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (AdaHessian.rule(), "curvature"),
        (AdaFisher.rule(), "inputs, outputs"),
        (SANIA.rule(preconditioner="newton"), "newton"),
    ],
)
def test_rules_that_need_more_than_the_gradient_are_refused(rule: Rule, what: str) -> None:
    surface, _ = network()
    if not rule.name.startswith("sania"):
        with pytest.raises(ValueError, match=f"rules: got mine, whose steps need {what}; rules of gradients"):
            Shadows(surface, {"Adam": Adam.rule(), "mine": rule})
    with pytest.raises(ValueError, match=f"rule: got {rule.name}, whose steps need {what}; rules of gradients"):
        Stepper(surface.model, cross_entropy, rule)
