"""Opposing signals: groups by hand, the path against torch's SGD, the toy against a restatement."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from shoal.instruments.opposing import alignment, full_batch_path, jump, opposing_groups
from shoal.learning import squared_error
from shoal.learning.data import TwoLayerLinear, opposing, opposing_signals
from shoal.optim import SGD, MoMo
from shoal.tensors.random import normal
from tests.restatements.instruments import opposing_signals as restated


def test_groups_are_the_samples_that_change_most() -> None:
    before = torch.zeros(6)
    found = opposing_groups(before, torch.tensor([0.5, -3.0, 4.0, 0.1, -0.2, 2.2]), 2)
    assert found.up.tolist() == [2, 5]
    assert found.down.tolist() == [1, 4]
    assert found.share == pytest.approx(9.4 / 10.0)
    assert opposing_groups(before, before, 1).share == 0.0


@pytest.mark.parametrize("count", [0, 4])
def test_too_small_or_large_groups_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count: got {count}; 1 to half of the 6"):
        opposing_groups(torch.zeros(6), torch.zeros(6), count)
    with pytest.raises(ValueError, match="before, after: got shapes"):
        opposing_groups(torch.zeros(6), torch.zeros(5), 1)


def test_the_jump_is_the_largest_rise_or_what_cancels_most() -> None:
    rising = torch.tensor([[1.0, 1.0], [0.9, 0.9], [0.5, 2.0], [0.4, 1.0]])
    assert jump(rising) == 1
    falling = torch.tensor([[4.0, 4.0], [3.0, 3.0], [1.0, 4.0], [0.9, 0.0]])
    assert jump(falling) == 1
    with pytest.raises(ValueError, match="got 1 rows"):
        jump(torch.zeros(1, 4))


@pytest.mark.parametrize("rule", [SGD.rule(0.01, momentum=0.9), MoMo.rule(0.5)], ids=["momentum", "momo"])
def test_the_path_is_that_of_the_torch_optimizer(rule) -> None:
    data = opposing(40, seed=2, alpha=1.0, p=0.2, dtype=torch.float64).train
    torch.manual_seed(0)
    model, other = (TwoLayerLinear(40, torch.float64) for _ in range(2))
    other.load_state_dict(model.state_dict())
    path = full_batch_path(model, squared_error, data.inputs, data.targets, rule, 15, sharpness=lambda m: 1.0, every=5)
    cls = SGD(other.parameters(), 0.01, momentum=0.9) if "sgd" in rule.name else MoMo(other.parameters(), 0.5)
    for losses in path.losses:
        own = squared_error(other(data.inputs), data.targets)
        torch.testing.assert_close(losses, own.detach())
        cls.zero_grad()
        own.mean().backward()
        cls.step(**({"loss": float(own.mean())} if cls.needs_loss else {}))
    assert path.losses.shape == (16, 40)
    assert path.outputs.shape == (16, 40, 1)
    assert path.marks == (0, 5, 10, 15)


def test_a_path_that_diverges_ends_early() -> None:
    data = opposing(40, seed=2).train
    path = full_batch_path(TwoLayerLinear(40), squared_error, data.inputs, data.targets, SGD.rule(1e3), 60)
    assert path.diverged
    assert len(path.losses) < 60
    assert bool(torch.isfinite(path.losses).all())


def test_groups_whose_targets_oppose_each_other_have_opposite_gradients() -> None:
    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    inputs = torch.ones(4, 3)
    targets = torch.tensor([[1.0], [2.0], [-1.0], [-1.0]])
    groups = opposing_groups(torch.zeros(4), torch.tensor([2.0, 1.0, -1.0, -2.0]), 2)
    assert alignment(model, squared_error, inputs, targets, groups) == pytest.approx(-1.0)
    assert math.isnan(alignment(model, squared_error, inputs, torch.zeros(4, 1), groups))


# -- the toy -----------------------------------------------------------------------------------------------------------


def test_the_population_is_the_restated_one() -> None:
    toy = opposing_signals(5, 4, norm=2.0, alpha=30.0, p=0.1, seed=3)
    b, c = normal(1, 9, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    beta, u = toy.beta.numpy(), toy.u.numpy()
    other = restated.Toy(beta, u, 30.0, 0.1, b[:5].numpy(), b[5:].numpy(), 0.7)
    assert float(toy.population_loss(c, b)) == pytest.approx(other.excess_loss(), rel=1e-12)
    assert [float(x) for x in toy.outlier_losses(c, b)] == pytest.approx(other.outlier_losses(), rel=1e-12)
    gradient, matrix = toy.population_slope(c, b)
    own, outlier, slope_c = other.gradient()
    np.testing.assert_allclose(gradient.numpy(), np.concatenate([[slope_c], own, outlier]), rtol=1e-12)
    order = [9, *range(9)]  # c comes last there
    np.testing.assert_allclose(matrix.numpy(), other.hessian()[np.ix_(order, order)], rtol=1e-12, atol=1e-14)


def test_samples_have_the_losses_of_the_population() -> None:
    toy, data = opposing_signals(seed=6), opposing(50_000, seed=6, dtype=torch.float64).train
    model = TwoLayerLinear(40, torch.float64)
    with torch.no_grad():
        model.c.fill_(1.3)
        model.b.copy_(0.3 * normal(2, 40, dtype=torch.float64))
        measured = float(squared_error(model(data.inputs), data.targets).mean())
        expected = float(toy.population_loss(model.c, model.b)) + toy.alpha / 8
    assert measured == pytest.approx(expected, rel=0.03)
    along = data.inputs[:, 20:] @ toy.u
    outliers = along != 0
    assert int(outliers.sum()) == 1000
    assert float(along.sum()) == pytest.approx(0.0, abs=1e-6)
    assert float(along[outliers].abs().mean()) == pytest.approx(toy.signal)


@pytest.mark.parametrize(("argument", "value"), [("samples", 1), ("alpha", 0.0), ("p", 1.5), ("dimension", 0)])
def test_wrong_numbers_are_refused(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument}.*got"):
        opposing(**{argument: value})  # type: ignore[arg-type]
