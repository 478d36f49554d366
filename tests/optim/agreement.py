"""Ours beside torch's own optimizers, compiled beside plain, and what state is held."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.optim.core import Optimizer
from shoal.optim.core.compiled import compiler
from tests.optim.following import Gradients, missing, quadratic, starts, torch_gradients


def assert_as_torch(
    ours: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    theirs: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    gradients: Gradients | None = None,
    *,
    steps: int = 60,
    tolerance: float = 1e-12,
    rates: Callable[[int], float] | None = None,
) -> None:
    """Assert that both take the same path in float64; gradients are taken at torch's parameters.

    Args:
        ours, theirs: parameters -> optimizer.
        gradients: of a noisy quadratic, now and then missing, by default.
        tolerance: relative to the largest entry of each parameter, or to 1.
        rates: number of the step from 0 -> learning rate of that step.
    """
    gradients = gradients or missing(quadratic(seed=3))
    a, b = ([nn.Parameter(torch.from_numpy(p.copy())) for p in starts(seed=3)] for _ in range(2))
    first, second = ours(a), theirs(b)
    for step in range(steps):
        if rates is not None:
            for group in (*first.param_groups, *second.param_groups):
                group["lr"] = rates(step)
        torch_gradients(b, gradients, step)
        for p, q in zip(a, b, strict=True):
            p.grad = None if q.grad is None else q.grad.clone()
        first.step()
        second.step()
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            apart = float((p - q).detach().abs().max()) / max(1.0, float(q.detach().abs().max()))
            assert apart <= tolerance, f"step {step + 1}, tensor {i}: {apart:.3g} apart"


def assert_compiles(cls: type[Optimizer], settings: dict[str, Any] | None = None, *, steps: int = 20) -> None:
    """Assert that one compiled loop takes the path of the plain steps in float32, up to rounding."""
    if compiler() is None:
        pytest.skip("no C++ compiler")
    shapes, made = ((6, 4), (37,), ()), []
    for compiled in (False, True):
        parameters = [nn.Parameter(torch.from_numpy(p).float()) for p in starts(shapes, seed=5)]
        optimizer = cls(parameters, **(settings or {}), compile=compiled)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # falling back is a warning
            for step in range(steps):
                noise = [np.random.default_rng((5, step, i)).normal(size=shape) for i, shape in enumerate(shapes)]
                for p, g in zip(parameters, noise, strict=True):
                    p.grad = torch.from_numpy(np.asarray(g)).float()
                optimizer.step()
        made.append([p.detach() for p in parameters])
    for plain, fast, start in zip(*made, starts(shapes, seed=5), strict=True):
        assert float((plain - torch.from_numpy(np.asarray(start))).abs().max()) > 0
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def bytes_per_entry(cls: type[Optimizer], settings: dict[str, Any] | None = None) -> float:
    """Bytes of state that a float32 parameter of 1000 entries costs for each of them, after two steps."""
    p = nn.Parameter(torch.linspace(-1.0, 1.0, 1000).reshape(40, 25))
    optimizer = cls([p], **(settings or {}))
    for _ in range(2):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return optimizer.state_bytes() / p.numel()


def path(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], start: Sequence[float], gradients: Sequence[Any]
) -> list[Tensor]:
    """Where one vector of parameters (float64) goes under given gradients: its values at first and after each step.

    Args:
        make: parameters -> optimizer.
        start: first values.
        gradients: one for each step; a number is the same for all entries.
    """
    p = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, values = make([p]), [p.detach().clone()]
    for g in gradients:
        p.grad = torch.as_tensor(g, dtype=torch.float64).expand_as(p).clone()
        optimizer.step()
        values.append(p.detach().clone())
    return values
