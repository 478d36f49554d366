"""Trajectories of lenses against torch.optim and shoal.optim, learning as one composition, and dreaming."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal import lenses, optim
from shoal.lenses import (
    Para,
    adagrad,
    adam,
    ascent_rate,
    cross_entropy,
    descent,
    dot,
    dream,
    learning_rate,
    mlp,
    momentum,
    mse,
    nesterov,
    para_of_module,
    step,
    tanh,
)
from shoal.lenses.trees import leaves

F64 = torch.float64
EXAMPLE = Path(__file__).parents[2] / "examples" / "lenses.py"


def data() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(4)
    x = torch.randn(12, 5, generator=random, dtype=F64)
    return x, torch.randn(12, 3, generator=random, dtype=F64)


def theirs(make: Any, model: Para, steps: int, loss: Any) -> list[list[Tensor]]:
    """Parameters after each step of a torch optimizer on the same net."""
    b2, w2, b1, w1 = p = [nn.Parameter(t.clone()) for t in leaves(model.start)]
    optimizer, (x, y), path = make(p), data(), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(F.linear(F.linear(x, w1, b1).tanh(), w2, b2), y).backward()
        optimizer.step()
        path.append([t.detach().clone() for t in p])
    return path


def half_square(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * (a - b).square().sum(-1).mean()


@pytest.mark.parametrize(
    ("update", "eta", "make"),
    [
        (descent, 0.1, lambda p: torch.optim.SGD(p, 0.1)),
        (momentum(0.8), 0.1, lambda p: torch.optim.SGD(p, 0.1, momentum=0.8)),
        (nesterov(0.8), 0.1, lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True)),
        (adagrad(0.1), 1.0, lambda p: torch.optim.Adagrad(p, 0.1)),
        (adam(0.03, 0.8, 0.95), 1.0, lambda p: torch.optim.Adam(p, 0.03, betas=(0.8, 0.95))),
        (optim.Lion.rule(0.01), 1.0, lambda p: optim.Lion(p, 0.01)),
        (optim.AdamW.rule(0.01, weight_decay=0.1), 1.0, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    ],
    ids=["descent", "momentum", "nesterov", "adagrad", "adam", "rule lion", "rule adamw"],
)
def test_trajectories_are_torchs(update: Any, eta: float, make: Any) -> None:
    """Twelve steps, to 1e-10: what the model is asked at (for Nesterov the point ahead, as torch keeps it)."""
    model = mlp(5, 4, 3, activation=tanh, key=2, dtype=F64)
    learner = step(model, mse, update, learning_rate(eta))
    here = learner.start
    for expected in theirs(make, model, 12, half_square):
        here = learner(here, *data())
        asked = learner.update.lens.fwd(here)
        for found, wanted in zip(leaves(asked), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_the_step_is_the_formula_and_leaves_its_arguments_alone() -> None:
    """One sample, one weight: p - eta (p x - y) x, by hand."""
    model = Para(lenses.linear(1, 1).arrow, torch.tensor([[2.0]], dtype=F64))
    learner = step(model, mse, descent, learning_rate(0.1))
    start, x, y = learner.start, torch.tensor([3.0], dtype=F64), torch.tensor([1.0], dtype=F64)
    _, p = learner(start, x, y)
    assert p.item() == pytest.approx(2.0 - 0.1 * (6.0 - 1.0) * 3.0)
    assert start[1].item() == 2.0


@pytest.mark.parametrize("update", [adam(0.1), optim.Adam.rule(0.1)])
def test_steps_are_pure(update: Any) -> None:
    model = mlp(5, 3, key=1, dtype=F64)
    learner = step(model, mse, update)
    one = learner(learner.start, *data())
    before = [t.clone() for t in leaves(one)]
    first, second = learner(one, *data()), learner(one, *data())
    assert all(torch.equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(leaves(one), before, strict=True))


def test_a_module_learns_as_in_its_own_loop() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    learner = step(para_of_module(module), cross_entropy, optim.Adam.rule(0.02))
    x, y = data()[0], torch.arange(12) % 3
    here, optimizer = learner.start, torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(5):
        here = learner(here, x, F.one_hot(y, 3).to(F64))
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    for found, p in zip(here[1], module.parameters(), strict=True):
        torch.testing.assert_close(found, p.detach(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(learner.predict(here, x), module(x).detach(), rtol=1e-9, atol=1e-10)


def test_dreaming_moves_the_input_along_its_gradient() -> None:
    """Ascent of one output of a linear map: a + steps eta w, with parameters as they were."""
    model = lenses.linear(4, 3, key=7, dtype=F64)
    a, direction = torch.zeros(4, dtype=F64), torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    found = dream(model, model.start, a, direction, dot, descent, ascent_rate(0.5), steps=6)
    torch.testing.assert_close(found, 3.0 * model.start[1], rtol=1e-12, atol=1e-12)
    assert torch.equal(dream(model, model.start, a, direction, dot, descent, learning_rate(1.0), steps=0), a)


def test_a_dream_with_momentum_is_torchs() -> None:
    model = mlp(5, 4, 3, activation=tanh, key=2, dtype=F64)
    b2, w2, b1, w1 = leaves(model.start)
    x, y = data()
    a = nn.Parameter(x.clone())
    optimizer = torch.optim.SGD([a], 0.3, momentum=0.7)
    for _ in range(6):
        optimizer.zero_grad()
        half_square(F.linear(F.linear(a, w1, b1).tanh(), w2, b2), y).backward()
        optimizer.step()
    found = dream(model, model.start, x, y, mse, momentum(0.7), learning_rate(0.3), steps=6)
    torch.testing.assert_close(found, a.detach(), rtol=1e-10, atol=1e-10)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="gamma: got 1"):
        momentum(1.0)
    with pytest.raises(ValueError, match="betas: got"):
        adam(beta2=1.5)
    with pytest.raises(ValueError, match="rate: got -1"):
        adagrad(rate=-1.0)
    with pytest.raises(ValueError, match=r"^rule: momo needs the loss"):
        step(mlp(2, 2), mse, optim.MoMo.rule())
    with pytest.raises(ValueError, match="steps: got -1"):
        dream(mlp(2, 2), mlp(2, 2).start, torch.zeros(2), torch.zeros(2), mse, descent, learning_rate(1.0), -1)


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        (optim.AdaHessian.rule(), "adahessian needs curvature"),
        (optim.AdaFisher.rule(), "adafisher needs"),
        (optim.AdaFisherW.rule(), "adafisherw needs"),
    ],
)
def test_rules_that_are_given_more_than_the_gradient_are_refused(rule: Any, needs: str) -> None:
    with pytest.raises(ValueError, match=f"^rule: {needs}.*; rules that step by gradients alone are allowed"):
        step(mlp(2, 3, 2), mse, rule)
    with pytest.raises(ValueError, match=f"^rule: {needs}"):
        lenses.rule(rule).state(mlp(2, 3, 2).start)


@pytest.mark.parametrize("update", [descent, momentum(), nesterov(), lenses.xor])
def test_without_a_rate_nothing_is_learned_by_accident(update: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^cap: got none, .*; learning_rate\(eta\), or whole_loss over bits, is allowed"
    ):
        step(mlp(2, 2), mse, update)


@pytest.mark.parametrize("update", [adagrad(0.1), adam(0.1), lenses.rule(optim.SGD.rule(0.1, 0.9, nesterov=True))])
def test_a_rate_of_ones_own_needs_no_cap(update: Any) -> None:
    model = mlp(5, 3, key=1, dtype=F64)
    one, other = (step(model, mse, update, cap) for cap in (None, learning_rate(1.0)))
    for a, b in zip(leaves(one(one.start, *data())), leaves(other(other.start, *data())), strict=True):
        assert torch.equal(a, b)


def test_the_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("example_lenses", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    out = capsys.readouterr().out
    assert float(out.split("Iris: accuracy ")[1].split()[0]) > 0.95
    assert "majority of three: 8 of 8" in out
