"""Surfaces against torch.func's gradients and dense Hessians, which go another way (forward over reverse)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from shoal.instruments import Surface
from shoal.learning.task import cross_entropy, squared_error
from tests.learning.small import task

from .small import network


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_value_gradient_and_products_are_those_of_torch_func(chunk: int | None) -> None:
    surface, f = network(chunk=chunk)
    at = surface.vector() + 0.1
    v = torch.linspace(-1.0, 1.0, surface.size, dtype=torch.float64)
    assert surface.value(at) == pytest.approx(float(f(at)), rel=1e-12)
    torch.testing.assert_close(surface.gradient(at), torch.func.grad(f)(at), rtol=1e-10, atol=1e-12)
    hessian = torch.func.hessian(f)(at)
    torch.testing.assert_close(surface.hvp(v, at), hessian @ v, rtol=1e-10, atol=1e-12)
    both = torch.stack([v, v.square()])
    torch.testing.assert_close(surface.hvp(both, at), both @ hessian, rtol=1e-10, atol=1e-12)


def test_attention_is_differentiated_twice() -> None:
    surface = Surface.of(task("characters"), task("characters").initial(0).double(), size=3)
    at, v = surface.vector(), torch.linspace(-1.0, 1.0, surface.size, dtype=torch.float64)
    h = 1e-5
    slope = (surface.gradient(at + h * v) - surface.gradient(at - h * v)) / (2 * h)
    torch.testing.assert_close(surface.hvp(v), slope, rtol=1e-5, atol=1e-6)


class Odd(nn.Module):
    """Dropout, batch norm, a frozen part, an unused one, and one weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm, self.drop, self.unused = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.drop(self.norm(self.second(torch.tanh(self.first(self.frozen(x))))))


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = Odd().double()
    model.norm.eval()
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0) if p.requires_grad else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    surface = Surface(model, squared_error, torch.randn(6, 4).double(), torch.randn(6, 4).double(), chunk=4)
    assert list(surface.shapes) == ["unused", "first.weight", "first.bias", "second.bias", "norm.weight", "norm.bias"]
    products = surface.hvp(torch.eye(surface.size).double())
    torch.testing.assert_close(products, products.T, rtol=1e-10, atol=1e-12)
    assert torch.equal(surface.hvp(torch.ones(surface.size))[:2], torch.zeros(2).double())
    assert surface.value() == surface.value()
    surface.gradient(surface.vector() + 1.0)
    assert model.training
    assert not model.norm.training
    assert model.drop.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.full_like(p, 7.0)) for p in model.parameters() if p.grad is not None)


def test_a_loss_without_curvature_has_products_of_zero() -> None:
    model = nn.Linear(3, 1, bias=False)
    surface = Surface(model, lambda out, _: out[:, 0], torch.ones(4, 3), torch.zeros(4))
    assert torch.equal(surface.gradient(), torch.ones(3))
    assert torch.equal(surface.hvp(torch.ones(3)), torch.zeros(3))


def test_a_task_gives_its_samples_without_repetition() -> None:
    images = task("logistic")
    model = images.initial(0)
    whole, part = Surface.of(images, model), Surface.of(images, model, size=10, seed=3)
    assert len(whole) == len(images.dataset.train)
    assert len(part) == 10
    assert set(part.losses().tolist()) <= set(whole.losses().tolist())
    assert len(set(part.losses().tolist())) == 10
    assert whole.value() == pytest.approx(float(whole.losses().mean()))
    assert len(Surface.of(images, model, split="test")) == len(images.dataset.test)


def test_half_precision_models_give_vectors_of_their_own_kind() -> None:
    model = nn.Linear(3, 2).bfloat16()
    x, y = torch.ones(4, 3).bfloat16(), torch.zeros(4, dtype=torch.int64)
    surface = Surface(model, cross_entropy, x, y)
    assert surface.gradient().dtype == surface.hvp(torch.ones(surface.size)).dtype == torch.bfloat16


def test_wrong_arguments_are_named() -> None:
    model, x, y = nn.Linear(3, 2), torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="inputs, targets: got 4 and 3"):
        Surface(model, cross_entropy, x, y[:3])
    with pytest.raises(ValueError, match="chunk: got 0"):
        Surface(model, cross_entropy, x, y, chunk=0)
    with pytest.raises(ValueError, match="model: got no trainable"):
        Surface(nn.Linear(3, 2).requires_grad_(False), cross_entropy, x, y)
    with pytest.raises(ValueError, match="one loss a sample"):
        Surface(model, nn.CrossEntropyLoss(), x, y).value()
    with pytest.raises(ValueError, match=r"v: got the shape \(3,\)"):
        Surface(model, cross_entropy, x, y).hvp(torch.ones(3))
    with pytest.raises(ValueError, match="split: got 'val'"):
        Surface.of(task("logistic"), task("logistic").initial(0), split="val")
    with pytest.raises(ValueError, match="size: got 0"):
        Surface.of(task("logistic"), task("logistic").initial(0), size=0)
