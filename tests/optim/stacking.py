"""A rule on stacked peers beside as many separate optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shoal.optim.core import Optimizer, Param
from tests.optim.catalogue import given
from tests.optim.following import SHAPES, Gradients, quadratic, starts


def assert_stacks(
    cls: type[Optimizer],
    settings: dict[str, Any] | None = None,
    *,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    names: tuple[str, ...] | None = None,
    steps: int = 8,
    rtol: float = 1e-9,
) -> None:
    """Three stacked peers, each with a learning rate and a number of earlier steps of its own, go the separate way.

    Args:
        cls, settings: the optimizer and its arguments (`lr` is varied).
        shapes, names: of the parameters.
        steps: taken together, after 0, 1 and 5 steps alone.
        rtol: relative to the largest entry of each parameter.
    """
    settings = dict(settings or {})
    base = float(settings.pop("lr", 0.01))
    earlier, rates = [0, 1, 5], [base, 0.5 * base, 2.0 * base]
    names = names or tuple(f"p{i}" for i in range(len(shapes)))
    params = [Param(name, shape) for name, shape in zip(names, shapes, strict=True)]
    rule = cls.rule(**settings, lr=base)
    asked = list(rule.given(params))
    noise = [quadratic(shapes, seed=peer) for peer in range(3)]
    ours: list[list[Tensor]] = [[torch.from_numpy(p) for p in starts(shapes, seed=peer)] for peer in range(3)]
    theirs = [[nn.Parameter(p.clone()) for p in own] for own in ours]
    memories = [rule.memory(dict(zip(names, own, strict=True))) for own in ours]
    optimizers = [cls(zip(names, own, strict=True), **settings, lr=lr) for own, lr in zip(theirs, rates, strict=True)]

    for peer in range(3):
        for t in range(earlier[peer]):
            gradients = _gradients(noise[peer], theirs[peer], t)
            told = {"loss": 1.0 + peer} if rule.needs_loss(params) else {}
            _step_alone(optimizers[peer], theirs[peer], gradients, _by_name(asked, gradients), **told)
            views = rule.views(memories[peer], params)
            further = _by_parameter(asked, gradients)
            rule.step(params, ours[peer], gradients, views, float(t + 1), rates[peer], **told, given=further)
    stacked = [torch.stack(column) for column in zip(*ours, strict=True)]
    memory = {key: torch.stack([m[key] for m in memories]) for key in memories[0]}
    for step in range(steps):
        gradients3 = [_gradients(noise[peer], theirs[peer], earlier[peer] + step) for peer in range(3)]
        for peer in range(3):
            told = {"loss": 1.0 + peer} if rule.needs_loss(params) else {}
            _step_alone(optimizers[peer], theirs[peer], gradients3[peer], _by_name(asked, gradients3[peer]), **told)
        further3 = [_by_parameter(asked, gradients) for gradients in gradients3]
        losses = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        rule.step(
            params,
            stacked,
            [torch.stack(column) for column in zip(*gradients3, strict=True)],
            rule.views(memory, params),
            torch.tensor([float(e + step + 1) for e in earlier], dtype=torch.float64),
            torch.tensor(rates, dtype=torch.float64),
            losses if rule.needs_loss(params) else None,
            [
                {name: torch.stack([one[name] for one in column]) for name in asked}
                for column in zip(*further3, strict=True)
            ],
        )
        for column, *single in zip(stacked, *theirs, strict=True):
            for peer in range(3):
                scale = max(1.0, float(single[peer].detach().abs().max()))
                difference = float((column[peer] - single[peer].detach()).abs().max())
                assert difference <= rtol * scale, f"peer {peer}, step {step + 1}: {difference / scale:.3g} apart"


def _gradients(gradients: Gradients, parameters: list[nn.Parameter], step: int) -> list[Tensor]:
    found = gradients([p.detach().numpy() for p in parameters], step)
    return [torch.from_numpy(np.array(g)) for g in found]


def _by_name(names: list[str], gradients: list[Tensor]) -> dict[str, Any]:
    return {"given": given(names, gradients)} if names else {}


def _by_parameter(names: list[str], gradients: list[Tensor]) -> list[dict[str, Any]]:
    found = given(names, gradients)
    return [{name: found[name][i] for name in names} for i in range(len(gradients))]


def _step_alone(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    gradients: list[Tensor],
    further: dict[str, Any],
    **told: float,
) -> None:
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step(**told, **further)
