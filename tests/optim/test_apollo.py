"""APOLLO and APOLLO-Mini against their restatements, the limits of their scales and the bytes of their state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.apollo import APOLLO, APOLLOMini, projection
from shoal.tensors.random import key
from tests.optim.following import NETWORK_SHAPES, Array, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import apollo as restated

SHAPES = ((6, 4), (3, 8), (5, 5), (5,), (3, 2, 2), ())


def projections(seed: int, gap: int) -> Any:
    """What the restatement asks for, drawn as ours is."""

    def drawn(i: int, t: int, shape: tuple[int, int]) -> Array:
        own = torch.tensor(key(seed, "optimizer", i))
        rank, matrix = _matrix(shape, i)
        return np.asarray(projection(own, torch.tensor((t - 1) // gap), rank, matrix, torch.float64).numpy())

    def _matrix(shape: tuple[int, int], i: int) -> tuple[int, tuple[int, int]]:
        whole = shapes[i]
        return (shape[0], whole) if whole[0] >= whole[1] else (shape[1], whole)

    shapes: dict[int, Any] = {}

    def remember(parameters: list[Array]) -> Any:
        shapes.update(dict(enumerate(p.shape for p in parameters)))
        return drawn

    return remember


def follow_restated(cls: Any, both: dict[str, Any], gradients: Any, **options: Any) -> None:
    seed, gap = both.pop("seed", 0), both.get("update_proj_gap", 200)
    other = getattr(restated, cls.__name__)
    follow(
        lambda p: cls(p, **both, seed=seed),
        lambda p: other(p, **both, projection=projections(seed, gap)(p)),
        gradients,
        **options,
    )


@pytest.mark.parametrize("cls", [APOLLO, APOLLOMini])
@settings(max_examples=10)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(1e-10, 1e-2),
    st.integers(1, 9),
    st.integers(1, 20),
    st.floats(0.1, 100.0),
    st.one_of(st.none(), st.floats(1.0, 1.5)),
    st.integers(0, 9),
)
def test_both_go_the_restated_way(
    cls: Any,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    rank: int,
    gap: int,
    scale: float,
    growth: float | None,
    seed: int,
) -> None:
    both = {"lr": lr, "betas": betas, "eps": eps, "rank": rank, "update_proj_gap": gap, "scale": scale}
    both |= {"norm_growth": growth, "weight_decay": 0.05, "seed": seed}
    follow_restated(cls, both, missing(quadratic(SHAPES)), shapes=SHAPES)


@pytest.mark.parametrize("cls", [APOLLO, APOLLOMini])
def test_a_network_is_trained_the_restated_way_while_the_rate_changes(cls: Any) -> None:
    both = {} if cls is APOLLOMini else {"rank": 3}
    rate = 0.02 if cls is APOLLO else 0.004
    follow_restated(cls, both, network(), shapes=NETWORK_SHAPES, rates=lambda step: rate / (1 + step // 15))


def test_projections_keep_lengths_on_average_and_change_with_epoch_and_parameter() -> None:
    draws = [
        projection(torch.tensor(key(seed)), torch.tensor(epoch), 50, (400, 300), torch.float64)
        for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))
    ]
    assert torch.equal(draws[0], draws[3])
    for p in draws[:3]:
        assert p.shape == (50, 300)
        assert float(p.square().mean()) * 50 == pytest.approx(1.0, abs=0.05)
    for other in draws[1:3]:
        assert abs(float((draws[0] * other).mean())) * 50 < 0.05
    wide = projection(torch.tensor(1), torch.tensor(0), 50, (300, 400), torch.float64)
    assert wide.shape == (300, 50)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_the_first_update_is_the_gradient_scaled_along_the_longer_side(shape: tuple[int, int]) -> None:
    """Each row (or column) goes along its gradient; Mini's whole matrix does."""
    g = torch.from_numpy(starts((shape,), seed=4)[0])
    for cls, axes in ((APOLLO, 1 if shape[0] > shape[1] else 0), (APOLLOMini, (0, 1))):
        p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        p.grad = g.clone()
        cls([p], rank=3).step()  # type: ignore[operator]
        ratio = -p.detach() / g
        spread = ratio.amax(axes) - ratio.amin(axes)
        assert float(ratio.min()) > 0.0
        assert float(spread.max()) < 1e-12
        assert float(ratio.max() - ratio.min()) < 1e-12 or cls is APOLLO


@pytest.mark.parametrize("cls", [APOLLO, APOLLOMini])
def test_updates_grow_by_the_limit_at_most(cls: Any) -> None:
    p = nn.Parameter(torch.zeros(6, 5, dtype=torch.float64))
    optimizer = cls([p], rank=4, betas=(0.0, 0.0), norm_growth=1.03, lr=1.0)
    lengths = []
    for step in range(10):
        before = p.detach().clone()
        p.grad = torch.from_numpy(starts(((6, 5),), seed=step)[0]) * 3.0**step
        optimizer.step()
        lengths.append(float((p.detach() - before).norm()))
    ratios = np.array(lengths[1:]) / np.array(lengths[:-1])
    assert ratios.max() == pytest.approx(1.03, rel=1e-6)


def test_parameters_that_are_not_matrices_and_groups_without_rank_get_adam() -> None:
    shapes = ((5,), (3, 2, 2), ())
    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts(shapes)] for _ in range(2))
    mine = APOLLO([{"params": ours}], lr=0.03, eps=0.0)
    other = torch.optim.Adam(theirs, lr=0.03, eps=0.0)
    for step in range(15):
        for parameters, optimizer in ((ours, mine), (theirs, other)):
            torch_gradients(parameters, quadratic(shapes), step)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    matrix = nn.Parameter(torch.ones(3, 4))
    matrix.grad = torch.ones(3, 4)
    plain = APOLLO([{"params": [matrix], "rank": None}])
    plain.step()
    assert set(plain.state[matrix]) == {"step", "m", "v"}


def test_the_state_is_two_thin_moments_a_seed_and_a_norm() -> None:
    for shape in ((40, 30), (30, 40)):
        for cls, given_rank, rank in ((APOLLO, {"rank": 6}, 6), (APOLLOMini, {}, 1)):
            p = nn.Parameter(torch.ones(shape))
            p.grad = torch.ones(shape)
            optimizer = cls([p], **given_rank)  # type: ignore[operator]
            optimizer.step()
            assert optimizer.state_bytes() == 4 * 2 * 40 * rank + 8 + 4
    assert (4 * 2 * 40 + 12) / (4 * 2 * 1200) < 0.05  # Mini's, of Adam's


@pytest.mark.parametrize(("cls", "growth"), [(APOLLO, 1.01), (APOLLO, None), (APOLLOMini, 1.2)])
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, growth: float | None) -> None:
    settings = {"lr": 0.01, "rank": 2, "update_proj_gap": 3, "norm_growth": growth, "weight_decay": 0.1, "seed": 7}
    assert_stacks(cls, settings, shapes=SHAPES)


@pytest.mark.parametrize(
    ("name", "value"), [("rank", 0), ("scale", 0.0), ("norm_growth", 0.9), ("update_proj_gap", 0), ("seed", -1)]
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        APOLLO([nn.Parameter(torch.zeros(2))], **{name: value})
