"""Ours beside an independent restatement: the same gradients, step by step, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
Gradients = Callable[[Sequence[Array], int], list[Array | None]]
"""(parameters, number of the step from 0) -> a gradient for each, or None."""
Losses = Callable[[Sequence[Array], int], float]
"""(parameters, number of the step from 0) -> the loss of that step's batch."""
SHAPES: tuple[tuple[int, ...], ...] = ((6, 4), (5,), (3, 2, 2), ())


def quadratic(shapes: Sequence[tuple[int, ...]] = SHAPES, *, condition: float = 1e4, seed: int = 0) -> Gradients:
    """Gradients of a quadratic whose curvatures spread over `condition`, with noise."""
    curvatures, optima = _quadratic(shapes, condition, seed)

    def gradients(ps: Sequence[Array], step: int) -> list[Array | None]:
        noise = np.random.default_rng((seed, step))
        triples = zip(ps, curvatures, optima, strict=True)
        return [h * (p - o) + 0.1 * noise.normal(size=p.shape) for p, h, o in triples]

    return gradients


def quadratic_loss(
    shapes: Sequence[tuple[int, ...]] = SHAPES, *, condition: float = 1e4, seed: int = 0, lowest: float = 1.0
) -> Losses:
    """The loss that `quadratic` has the gradients of; `lowest` at the optimum, but for the noise."""
    curvatures, optima = _quadratic(shapes, condition, seed)

    def loss(ps: Sequence[Array], step: int) -> float:
        noise = np.random.default_rng((seed, step))
        ways = [p - o for p, o in zip(ps, optima, strict=True)]
        tilts = [0.1 * noise.normal(size=way.shape) for way in ways]
        parts = (float(np.sum(0.5 * h * w**2 + n * w)) for w, h, n in zip(ways, curvatures, tilts, strict=True))
        return lowest + sum(parts)

    return loss


def _quadratic(shapes: Sequence[tuple[int, ...]], condition: float, seed: int) -> tuple[list[Array], list[Array]]:
    """Curvatures and optima."""
    rng = np.random.default_rng(seed)
    curvatures = [np.asarray(condition ** -rng.uniform(0, 1, shape)) for shape in shapes]
    return curvatures, [np.asarray(rng.normal(size=shape)) for shape in shapes]


NETWORK_SHAPES: tuple[tuple[int, ...], ...] = ((8, 6), (8,), (3, 8), (3,))


def network(*, seed: int = 0) -> Gradients:
    """Gradients of a small network's cross entropy on batches of random data (`NETWORK_SHAPES`)."""

    def gradients(ps: Sequence[Array], step: int) -> list[Array | None]:
        weights = [torch.from_numpy(np.array(p)).requires_grad_() for p in ps]
        return [g.numpy() for g in torch.autograd.grad(_cross_entropy(weights, seed, step), weights)]

    return gradients


def network_loss(*, seed: int = 0) -> Losses:
    """The loss that `network` has the gradients of."""
    return lambda ps, step: float(_cross_entropy([torch.from_numpy(np.array(p)) for p in ps], seed, step))


def _cross_entropy(weights: Sequence[Tensor], seed: int, step: int) -> Tensor:
    rng = np.random.default_rng((seed, step))
    x, y = torch.from_numpy(rng.normal(size=(16, 6))), torch.from_numpy(rng.integers(0, 3, 16))
    w1, b1, w2, b2 = weights
    return nn.functional.cross_entropy(torch.tanh(x @ w1.T + b1) @ w2.T + b2, y)


def missing(gradients: Gradients, *, every: int = 3) -> Gradients:
    """The same, but each tensor lacks a gradient now and then, each at other times."""

    def some(ps: Sequence[Array], step: int) -> list[Array | None]:
        return [None if (step + i) % every == 0 else g for i, g in enumerate(gradients(ps, step))]

    return some


def starts(shapes: Sequence[tuple[int, ...]] = SHAPES, *, seed: int = 0) -> list[Array]:
    """Parameters to start from."""
    rng = np.random.default_rng(seed + 1000)
    return [rng.normal(size=shape) for shape in shapes]


def follow(
    ours: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    theirs: Callable[[list[Array]], Any],
    gradients: Gradients,
    *,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    steps: int = 60,
    seed: int = 0,
    rtol: float = 1e-9,
    rates: Callable[[int], float] | None = None,
    losses: Losses | None = None,
) -> None:
    """Assert that both take the same path.

    Args:
        ours: parameters -> optimizer.
        theirs: arrays -> restatement with `params`, `lr` and `step(gradients)`.
        gradients: taken at the restatement's parameters, given to both.
        rtol: relative to the largest entry of each parameter; also absolute for small ones.
        rates: number of the step from 0 -> learning rate, set before that step on both.
        losses: told to both: `step(loss=loss)` here and `step(gradients, loss)` there.
    """
    first = starts(shapes, seed=seed)
    parameters = [nn.Parameter(torch.from_numpy(p.copy())) for p in first]
    optimizer, restated = ours(parameters), theirs([p.copy() for p in first])
    for step in range(steps):
        if rates is not None:
            restated.lr = rates(step)
            for group in optimizer.param_groups:
                group["lr"] = rates(step)
        current = gradients([np.asarray(p) for p in restated.params], step)
        for p, g in zip(parameters, current, strict=True):
            p.grad = None if g is None else torch.from_numpy(np.array(g))
        told = [] if losses is None else [losses([np.asarray(p) for p in restated.params], step)]
        optimizer.step(**({"loss": told[0]} if told else {}))
        restated.step(current, *told)
        for i, (p, expected) in enumerate(zip(parameters, restated.params, strict=True)):
            scale = max(1.0, float(np.abs(expected).max()))
            difference = float(np.abs(p.detach().numpy() - expected).max())
            assert difference <= rtol * scale, f"step {step + 1}, tensor {i}: {difference / scale:.3g} apart"


def torch_gradients(ps: Sequence[Tensor], gradients: Gradients, step: int) -> None:
    """Set the gradients of torch parameters."""
    for p, g in zip(ps, gradients([p.detach().double().numpy() for p in ps], step), strict=True):
        p.grad = None if g is None else torch.from_numpy(np.array(g)).to(p.dtype)
