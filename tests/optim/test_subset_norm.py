"""Subset-Norm, Subspace-Momentum and AdamSNSM against their restatements, their limits and the bytes of their state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.core import Optimizer
from shoal.optim.subset_norm import AdamSNSM, SubsetNorm, SubspaceMomentum, chunk_size
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import subset_norm as restated

SHAPES = ((6, 4), (3, 8), (5, 5), (5,), (3, 2, 2), ())
rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))
sizes = st.one_of(st.just("heuristics"), st.integers(-3, 30).filter(bool))
ranks = st.integers(1, 9)
gaps = st.integers(1, 20)


@settings(max_examples=25)
@given(rates, betas, st.floats(1e-10, 1e-2), sizes, st.booleans())
def test_subset_norm_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, size: int | str, correct: bool
) -> None:
    both = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.1, "subset_size": size, "correct_bias": correct}
    follow(
        lambda p: SubsetNorm(p, **both),  # type: ignore[arg-type]
        lambda p: restated.SubsetNorm(p, **both),  # type: ignore[arg-type]
        missing(quadratic(SHAPES)),
        shapes=SHAPES,
    )


@settings(max_examples=15)
@given(rates, st.floats(0, 0.99), ranks, gaps)
def test_subspace_momentum_goes_the_restated_way(lr: float, momentum: float, rank: int, gap: int) -> None:
    both = {"lr": lr, "momentum": momentum, "rank": rank, "update_proj_gap": gap, "weight_decay": 0.1}
    follow(
        lambda p: SubspaceMomentum(p, **both),  # type: ignore[arg-type]
        lambda p: restated.SubspaceMomentum(p, **both),  # type: ignore[arg-type]
        missing(quadratic(SHAPES)),
        shapes=SHAPES,
        rtol=1e-8,
    )


@settings(max_examples=15)
@given(rates, betas, ranks, gaps, sizes, st.booleans())
def test_adam_snsm_goes_the_restated_way(
    lr: float, betas: tuple[float, float], rank: int, gap: int, size: int | str, correct: bool
) -> None:
    both: dict[str, Any] = {"lr": lr, "betas": betas, "rank": rank, "update_proj_gap": gap, "subset_size": size}
    both |= {"correct_bias": correct, "weight_decay": 0.02}
    follow(
        lambda p: AdamSNSM(p, **both),
        lambda p: restated.AdamSNSM(p, **both),
        missing(quadratic(SHAPES)),
        shapes=SHAPES,
        rtol=1e-7,
    )


def test_a_network_is_trained_the_restated_way_while_the_rate_changes() -> None:
    follow(
        lambda p: AdamSNSM(p, rank=2, update_proj_gap=7),
        lambda p: restated.AdamSNSM(p, rank=2, update_proj_gap=7),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.05 / (1 + step // 15),
    )


def test_adagrad_sums_go_the_restated_way() -> None:
    both: dict[str, Any] = {"lr": 0.1, "betas": (0.5, 1.0), "correct_bias": False}
    follow(lambda p: SubsetNorm(p, **both), lambda p: restated.SubsetNorm(p, **both), quadratic())
    for shape in ((2,), (2, 2)):
        with pytest.raises(ValueError, match=r"^correct_bias: "):
            SubsetNorm([nn.Parameter(torch.zeros(shape))], betas=(0.5, 1.0))


def path(cls: type[Optimizer], shape: tuple[int, ...], settings: dict[str, Any], steps: int = 12) -> torch.Tensor:
    """Parameters after some steps of a quadratic."""
    p = nn.Parameter(torch.from_numpy(starts((shape,), seed=2)[0]))
    optimizer = cls([p], **settings)
    for step in range(steps):
        torch_gradients([p], quadratic((shape,), seed=2), step)
        optimizer.step()
    return p.detach()


def test_subsets_of_one_entry_without_eps_are_torchs_adam() -> None:
    p = nn.Parameter(torch.from_numpy(starts(((6, 4),), seed=2)[0]))
    theirs = torch.optim.Adam([p], lr=0.03, eps=0.0)
    for step in range(12):
        torch_gradients([p], quadratic(((6, 4),), seed=2), step)
        theirs.step()
    for size in (1, -1000):
        found = path(SubsetNorm, (6, 4), {"lr": 0.03, "eps": 0.0, "subset_size": size})
        torch.testing.assert_close(found, p.detach(), rtol=1e-12, atol=1e-12)


def test_one_subset_with_sums_and_no_momentum_is_adagrad_with_norms() -> None:
    shape, total, p = (4, 6), 0.0, torch.from_numpy(starts(((4, 6),), seed=2)[0])
    gradients = quadratic((shape,), seed=2)
    for step in range(12):
        g = torch.from_numpy(np.asarray(gradients([p.numpy()], step)[0]))
        total += float(g.square().sum())
        p = p - 0.2 * g / math.sqrt(total)
    settings = {"lr": 0.2, "betas": (0.0, 1.0), "eps": 0.0, "correct_bias": False, "subset_size": 24}
    torch.testing.assert_close(path(SubsetNorm, shape, settings), p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 4), (3, 7)])
def test_momentum_in_the_whole_space_is_plain_momentum(shape: tuple[int, int]) -> None:
    """The subspace of full rank is everything; with one subspace for ever, m is never reset."""
    whole = path(SubspaceMomentum, shape, {"lr": 0.05, "rank": 99, "update_proj_gap": 1000})
    plain = path(SubspaceMomentum, shape, {"lr": 0.05, "rank": None})
    torch.testing.assert_close(whole, plain, rtol=1e-10, atol=1e-12)
    scaled = {"lr": 0.05, "subset_size": 4}
    torch.testing.assert_close(
        path(AdamSNSM, shape, {**scaled, "rank": 99, "update_proj_gap": 1000}),
        path(SubsetNorm, shape, scaled),
        rtol=1e-10,
        atol=1e-12,
    )


@given(st.integers(1, 400), st.integers(-20, 500).filter(bool))
def test_chunks_divide_the_parameter_and_are_not_larger_than_wanted(entries: int, wanted: int) -> None:
    size = chunk_size(entries, wanted)
    limit = max(1, wanted if wanted > 0 else int(math.sqrt(entries) / -wanted))
    assert entries % size == 0
    assert size <= limit
    assert not any(entries % larger == 0 for larger in range(size + 1, min(limit, entries) + 1))


def test_the_state_holds_a_number_a_row_and_a_thin_momentum() -> None:
    for shape in ((40, 30), (30, 40)):
        p = nn.Parameter(torch.ones(shape))
        p.grad = torch.ones(shape)
        entries = {SubsetNorm: 1200 + 40, SubspaceMomentum: 5 * 70, AdamSNSM: 5 * 70 + 40}
        for cls, expected in entries.items():
            optimizer = cls([p]) if cls is SubsetNorm else cls([p], rank=5)  # type: ignore[call-arg]
            optimizer.step()
            assert optimizer.state_bytes() == 4 * expected, cls
    assert (5 * 70 + 40) / (2 * 1200) < 0.3  # of Adam's


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (SubsetNorm, {"subset_size": "heuristics"}),
        (SubsetNorm, {"subset_size": 4}),
        (SubspaceMomentum, {"rank": 2, "update_proj_gap": 4}),
        (AdamSNSM, {"rank": 2, "update_proj_gap": 4}),
    ],
)
def test_stacked_peers_go_the_way_of_separate_ones(cls: type[Optimizer], settings: dict[str, Any]) -> None:
    assert_stacks(cls, {**settings, "lr": 0.05, "weight_decay": 0.1}, shapes=SHAPES)


def test_compiled_steps_of_what_is_not_a_matrix_agree() -> None:
    ends = []
    for compiled in (False, True):
        p = nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = SubsetNorm([p], lr=0.03, weight_decay=0.1, compile=compiled)
        for step in range(20):
            p.grad = torch.sin(p.detach() * 3 + step)
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("subset_size", 0), ("subset_size", "rows"), ("betas", (0.9, 1.1)), ("betas", (1.0, 0.9))]
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        SubsetNorm([nn.Parameter(torch.zeros(2))], **{name: value})
