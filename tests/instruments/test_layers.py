"""Gradients layer by layer against a restatement in NumPy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shoal.instruments.layers import layer_gradients, layers
from tests.restatements.instruments.layer_norms import layer_norms


class Positioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).double()
        self.head = nn.Linear(4, 2).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x + self.position))  # type: ignore[no-any-return]


def trained() -> Positioned:
    torch.manual_seed(0)
    model = Positioned()
    model(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
    return model


def test_norms_are_those_of_the_joined_tensors() -> None:
    model = trained()
    named = dict(model.named_parameters())
    groups = {
        "position": ["position"],
        "inner.0": ["inner.0.weight", "inner.0.bias"],
        "inner.1": ["inner.1.weight", "inner.1.bias"],
        "head": ["head.weight", "head.bias"],
    }
    assert layers(model) == groups
    arrays = [
        {layer: [value(named[name]) for name in names] for layer, names in groups.items()}
        for value in (lambda p: p.grad.numpy(), lambda p: p.detach().numpy())
    ]
    theirs = layer_norms(*arrays)
    found = layer_gradients(model)
    assert [layer.layer for layer in found] == list(groups)
    for layer in found:
        expected = theirs[layer.layer]
        assert (layer.norm, layer.per_root, layer.relative) == pytest.approx(
            (expected.norm, expected.per_root_size, expected.relative), rel=1e-12
        )
        assert layer.size == sum(named[name].numel() for name in groups[layer.layer])


def test_gradients_may_be_given_and_grouped() -> None:
    model = trained()
    given = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    (only,) = layer_gradients(model, given, {"all": list(given)})
    assert only.norm == pytest.approx(math.sqrt(only.size))
    assert only.per_root == pytest.approx(1.0)


def test_weights_of_zero_have_an_infinite_relative_gradient() -> None:
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    model.weight.grad = torch.ones(2, 2)
    assert [layer.relative for layer in layer_gradients(model, None, {"w": ["weight"]})] == [math.inf]


def test_frozen_layers_have_no_entry() -> None:
    model = trained()
    model.head.requires_grad_(False)
    model.zero_grad()
    model(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
    assert [layer.layer for layer in layer_gradients(model)] == ["position", "inner.0", "inner.1"]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="model: got no gradients"):
        layer_gradients(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="gradients: got 'w'"):
        layer_gradients(nn.Linear(2, 2), {"w": torch.ones(2)})
    with pytest.raises(ValueError, match="groups: got 'w'"):
        layer_gradients(trained(), None, {"layer": ["w"]})
