"""ADOPT against its restatement, its closed forms, and the problem on which Adam goes the wrong way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.adopt import ADOPT
from shoal.optim.core import Optimizer
from tests.optim.agreement import assert_compiles, bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adopt as restated


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(1e-8, 1e-2),
    st.sampled_from([None, 0.0, 0.25, 0.6]),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_adopt_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, clip: float | None, weight_decay: float, decouple: bool
) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "betas": betas,
        "eps": eps,
        "weight_decay": weight_decay,
        "decouple": decouple,
    }
    bound = None if clip is None else lambda t: t**clip
    follow(
        lambda p: ADOPT(p, **options, clip=clip),
        lambda p: restated.ADOPT(p, **options, clip_lambda=bound),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
        rtol=1e-8,
    )


def test_adopt_trains_a_network_the_restated_way() -> None:
    follow(lambda p: ADOPT(p, lr=0.02), lambda p: restated.ADOPT(p, lr=0.02), network(), shapes=NETWORK_SHAPES)


@given(st.booleans())
def test_the_first_step_moves_nothing_even_with_decay(decouple: bool) -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([3.0, 0.0])
    optimizer = ADOPT([p], lr=0.5, weight_decay=0.25, decouple=decouple)
    optimizer.step()
    assert p.tolist() == [1.0, -2.0]


def test_a_constant_gradient_gives_an_average_of_its_sign() -> None:
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = ADOPT([p], lr=0.01, betas=(0.8, 0.9))
    for _ in range(41):
        p.grad = torch.tensor([7.0, -0.3, 2.0], dtype=torch.float64)
        optimizer.step()
    moved = 0.01 * sum(1 - 0.8**t for t in range(1, 41))
    assert torch.allclose(p, moved * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64), rtol=1e-12)


def test_after_a_zero_gradient_the_bound_holds_the_step() -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = ADOPT([p], lr=1.0, betas=(0.0, 0.999))
    for g in ([0.0, 0.0], [5.0, -5.0]):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    assert p.tolist() == [-1.0, 1.0]  # without the bound 5 / eps


def test_it_finds_the_optimum_where_adam_goes_the_other_way() -> None:
    def end(cls: type[Optimizer], **options: Any) -> float:
        x = nn.Parameter(torch.zeros(64, dtype=torch.float64))  # as many runs as entries
        optimizer = cls([x], lr=0.02, **options)
        draws = torch.Generator().manual_seed(17)
        for step in range(4000):
            rare = torch.rand(64, generator=draws, dtype=torch.float64) < 0.1
            x.grad = torch.where(rare, 100.0, -10.0).double()  # 1 on average: the optimum of [-1, 1] is -1
            optimizer.param_groups[0]["lr"] = 0.02 / math.sqrt(1 + 0.01 * step)
            optimizer.step()
            with torch.no_grad():
                x.clamp_(-1, 1)
        return float(x.detach().mean())

    assert end(Adam, betas=(0.9, 0.3)) > 0.7
    assert end(ADOPT, betas=(0.9, 0.3), clip=None) < -0.7  # with the bound it gets there when that is above 10


def test_state_is_two_buffers() -> None:
    assert bytes_per_entry(ADOPT) == 8


@pytest.mark.parametrize("decouple", [False, True])
def test_stacked_peers_go_the_way_of_separate_ones(decouple: bool) -> None:
    assert_stacks(ADOPT, {"lr": 0.05, "weight_decay": 0.1, "decouple": decouple})
    assert_stacks(ADOPT, {"lr": 0.05, "clip": None})


@pytest.mark.parametrize("clip", [0.25, None])
def test_one_compiled_loop_does_the_same(clip: float | None) -> None:
    assert_compiles(ADOPT, {"lr": 0.01, "weight_decay": 0.1, "decouple": True, "clip": clip})


@pytest.mark.parametrize(("name", "value"), [("clip", -0.5), ("eps", 0.0), ("decouple", 1)])
def test_what_is_not_allowed_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ADOPT([nn.Parameter(torch.ones(1))], **{name: value})  # type: ignore[arg-type]
