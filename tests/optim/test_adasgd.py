"""AdaSGD against its restatement, Adam where the two are one, its sums written out, and turned coordinates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from shoal.optim.adasgd import AdaSGD
from shoal.tensors.random import normal
from tests.optim.following import NETWORK_SHAPES, follow, network, quadratic
from tests.restatements.optimizers import blockwise_adam as restated


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_it_goes_the_restated_way(weight_decay: float) -> None:
    both: dict[str, Any] = {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": weight_decay}
    follow(lambda p: AdaSGD(p, **both), lambda p: restated.AdaSGD(p, **both), quadratic())
    follow(
        AdaSGD, restated.AdaSGD, network(), shapes=NETWORK_SHAPES, rates=lambda step: 0.03 / (1 + step // 20), steps=40
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_where_all_gradients_are_of_one_size_it_is_torchs_adamw(weight_decay: float) -> None:
    start = normal(0, 12, dtype=torch.float64)
    ends = []
    for make in (AdaSGD, torch.optim.AdamW):
        p = nn.Parameter(start.clone())
        optimizer = make([p], lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=weight_decay)  # type: ignore[operator]
        for step in range(15):
            p.grad = torch.cos(torch.tensor(1.7 * step)) * torch.sign(normal(step + 1, 12, dtype=torch.float64))
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_the_second_moment_is_the_mean_over_the_model_of_what_has_a_gradient() -> None:
    """Written out: sums over the gradients so far, nothing kept from step to step."""
    shapes, lr, b1, b2 = ((3, 2), (5,)), 0.1, 0.7, 0.9
    ps = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    optimizer = AdaSGD([{"params": [ps[0]]}, {"params": [ps[1]], "lr": 0.5 * lr}], lr=lr, betas=(b1, b2), eps=0.0)
    seen: list[list[torch.Tensor]] = [[], []]
    squares: list[float] = []
    expected = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    for step in range(7):
        there = [i for i in range(2) if (step + i) % 3]
        for i, p in enumerate(ps):
            p.grad = normal(10 * step + i, shapes[i], dtype=torch.float64) if i in there else None
        flat = torch.cat([ps[i].grad.flatten() for i in there])  # type: ignore[union-attr]
        squares.append(float(flat.square().mean()))
        v = sum((1 - b2) * b2 ** (len(squares) - 1 - j) * s for j, s in enumerate(squares)) / (1 - b2 ** len(squares))
        optimizer.step()
        for i in there:
            seen[i].append(ps[i].grad)  # type: ignore[arg-type]
            n = len(seen[i])
            m = sum(((1 - b1) * b1 ** (n - 1 - j) * g for j, g in enumerate(seen[i])), torch.zeros(())) / (1 - b1**n)
            expected[i] -= (lr, 0.5 * lr)[i] * m / math.sqrt(v)
    for p, value in zip(ps, expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-12, atol=1e-14)


def test_turning_the_coordinates_turns_the_path() -> None:
    turn = torch.linalg.qr(normal(3, (20, 20), dtype=torch.float64)).Q
    curvature = torch.logspace(-2, 2, 20, dtype=torch.float64)
    start = normal(4, 20, dtype=torch.float64)
    ends = []
    for matrix in (torch.eye(20, dtype=torch.float64), turn):
        p = nn.Parameter(matrix @ start)
        optimizer = AdaSGD([p], lr=0.03)
        for _ in range(40):
            p.grad = matrix @ (curvature * (matrix.T @ p.detach()))
            optimizer.step()
        ends.append(matrix.T @ p.detach())
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)
