"""Small surfaces, and their Hessians written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from shoal.instruments import Surface
from shoal.learning.task import cross_entropy
from shoal.tensors.random import normal


def function(surface: Surface, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean cross entropy as a function of the vector, which torch.func can differentiate."""
    return lambda w: cross_entropy(
        torch.func.functional_call(surface.model, surface.split(w), (inputs,)), targets
    ).mean()


def network(chunk: int | None = None) -> tuple[Surface, Callable[[Tensor], Tensor]]:
    """A network of 43 weights in float64, and its loss for torch.func."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3, bias=False), nn.GELU(), nn.Linear(3, 2))
    model = model.double()
    inputs, targets = normal(1, (13, 3), dtype=torch.float64), torch.arange(13) % 2
    surface = Surface(model, cross_entropy, inputs, targets, chunk=chunk)
    return surface, function(surface, inputs, targets)


def hessian() -> tuple[Surface, Tensor]:
    """The network's surface and its Hessian [d, d]."""
    surface, f = network()
    found: Tensor = torch.func.hessian(f)(surface.vector())
    return surface, found
