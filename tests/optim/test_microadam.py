"""MicroAdam against its restatement, the whole-window limit, the error feedback and the bytes of its state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.microadam import MicroAdam, pack, unpack
from shoal.tensors.packing import pack_bits, unpack_bits
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import microadam as restated

SHAPES = ((6, 7), (5,), (3, 2, 3), ())


@settings(max_examples=8)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.integers(1, 8),
    st.floats(0.02, 1.0),
    st.one_of(st.none(), st.integers(1, 50)),
    st.integers(1, 60),
    st.sampled_from([2, 4, 8, None]),
)
def test_microadam_goes_the_restated_way(
    lr: float,
    betas: tuple[float, float],
    window: int,
    density: float,
    block: int | None,
    bucket: int,
    bits: int | None,
) -> None:
    both = {"lr": lr, "betas": betas, "weight_decay": 0.03, "window": window, "density": density}
    both |= {"topk_block_size": block, "quant_block_size": bucket, "quant_bits": bits}
    follow(
        lambda p: MicroAdam(p, **both, window_dtype="full"),  # type: ignore[arg-type]
        lambda p: restated.MicroAdam(p, **both),  # type: ignore[arg-type]
        missing(quadratic(SHAPES)),
        shapes=SHAPES,
    )


def test_microadam_trains_a_network_the_restated_way_while_the_rate_changes() -> None:
    both = {"density": 0.1, "window": 5, "quant_block_size": 16}
    follow(
        lambda p: MicroAdam(p, **both, topk_block_size=24, window_dtype="full"),  # type: ignore[arg-type]
        lambda p: restated.MicroAdam(p, **both, topk_block_size=24),  # type: ignore[arg-type]
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.03 / (1 + step // 20),
    )


def test_with_everything_sent_and_a_long_window_it_is_torchs_adamw_and_nothing_is_left() -> None:
    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts(seed=3)] for _ in range(2))
    mine = MicroAdam(ours, lr=0.03, weight_decay=0.2, density=1.0, window=40, window_dtype="full")
    other = torch.optim.AdamW(theirs, lr=0.03, weight_decay=0.2)
    for step in range(40):
        for parameters, optimizer in ((ours, mine), (theirs, other)):
            torch_gradients(parameters, quadratic(seed=3), step)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        assert not any(mine.state[p][name].any() for name in ("error", "low", "high"))


def test_what_is_sent_and_what_is_left_add_up_to_the_gradients() -> None:
    p = nn.Parameter(torch.zeros(40, dtype=torch.float64))
    optimizer = MicroAdam([p], density=0.05, quant_bits=None, window=30, window_dtype="full")
    total = torch.zeros(40, dtype=torch.float64)
    for step in range(30):
        p.grad = torch.from_numpy(np.random.default_rng((8, step)).normal(size=40))
        total += p.grad
        optimizer.step()
    state = optimizer.state[p]
    sent = torch.zeros_like(total).scatter_add(0, state["indices"].long().flatten(), state["values"].flatten())
    torch.testing.assert_close(sent + state["error"], total, rtol=1e-12, atol=1e-12)


def test_quantised_errors_are_off_by_half_a_step_at_most_and_codes_stay_in_their_range() -> None:
    p = nn.Parameter(torch.zeros(1001))
    optimizer = MicroAdam([p], density=0.01, quant_block_size=64)
    p.grad = torch.from_numpy(np.random.default_rng(5).normal(size=1001)).float()
    optimizer.step()
    state = optimizer.state[p]
    left = p.grad.clone()
    left[state["indices"][0].long()] = 0.0
    steps = ((state["high"] - state["low"]) / 15).repeat_interleave(64)[:1001]
    low = state["low"].repeat_interleave(64)[:1001]
    found = unpack(state["error"], 4, 1001) * steps + low
    assert float(((found - left).abs() / steps).max()) <= 0.5 + 1e-4


def test_with_error_feedback_every_coordinate_gets_its_turn() -> None:
    """Gradients c tanh(s p), one of ten sent: the weakest would wait for ever if the rest were thrown away."""
    weights = torch.linspace(0.5, 1.0, 10, dtype=torch.float64)
    p = nn.Parameter(torch.full((10,), 1.5, dtype=torch.float64))
    optimizer = MicroAdam([p], lr=0.02, density=0.1)
    for _ in range(900):
        p.grad = weights * torch.tanh(15.0 * p.detach())
        optimizer.step()
    assert float(p.detach().abs().max()) < 0.3


def test_entries_outside_the_window_do_not_move() -> None:
    p = nn.Parameter(torch.zeros(300))
    optimizer = MicroAdam([p], density=0.01, window=2)
    for step in range(9):
        before = p.detach().clone()
        p.grad = torch.from_numpy(np.random.default_rng((2, step)).normal(size=300)).float()
        optimizer.step()
        moved = set((p.detach() != before).nonzero().flatten().tolist())
        assert moved == set(optimizer.state[p]["indices"][: step + 1].long().flatten().tolist())
        assert len(moved) <= 6


def test_the_state_takes_nine_tenths_of_a_byte_a_parameter() -> None:
    p = nn.Parameter(torch.zeros(500, 400))
    optimizer = MicroAdam([p])
    p.grad = torch.ones(500, 400)
    optimizer.step()
    state = optimizer.state[p]
    kept = sum(-(-size // 100) for size in (*[1 << 15] * 6, 200_000 - 6 * (1 << 15)))
    assert (state["indices"].dtype, state["values"].dtype, state["error"].dtype) == (
        torch.int16,
        torch.bfloat16,
        torch.uint8,
    )
    assert optimizer.state_bytes() == 10 * kept * (2 + 2) + 100_000 + 2 * 2 * 4
    assert optimizer.state_bytes() / p.numel() == pytest.approx(0.9, abs=0.002)


def test_places_take_four_bytes_only_where_a_block_is_too_long() -> None:
    for size, expected in ((1 << 15, torch.int16), ((1 << 15) + 1, torch.int32)):
        p = nn.Parameter(torch.zeros(size))
        optimizer = MicroAdam([p], topk_block_size=None)
        p.grad = torch.zeros(size)
        p.grad[-1] = 1.0
        optimizer.step()
        assert optimizer.state[p]["indices"].dtype == expected
        assert int(p.detach().nonzero().squeeze()) == size - 1


@pytest.mark.parametrize("bits", [2, 4, 8])
@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_codes_are_packed_as_shoals_packing_does(bits: int, values: list[int]) -> None:
    codes = torch.tensor([v % (1 << bits) for v in values], dtype=torch.uint8)
    assert torch.equal(pack(codes, bits), pack_bits(codes, bits))
    assert torch.equal(unpack(pack(codes, bits), bits, len(codes)), unpack_bits(pack(codes, bits), bits, len(codes)))


@pytest.mark.parametrize("bits", [4, None])
def test_stacked_peers_go_the_way_of_separate_ones(bits: int | None) -> None:
    settings = {"lr": 0.05, "density": 0.3, "window": 3, "topk_block_size": 10, "quant_block_size": 7}
    assert_stacks(MicroAdam, {**settings, "quant_bits": bits, "weight_decay": 0.1, "window_dtype": "full"})


def test_a_state_loaded_goes_on_bit_for_bit() -> None:
    first, second = (nn.Parameter(torch.linspace(-1, 1, 77)) for _ in range(2))
    one, two = MicroAdam([first], lr=0.1), MicroAdam([second], lr=0.1)
    for step, (p, optimizer) in itertools.product(range(4), ((first, one),)):
        p.grad = torch.sin(torch.arange(77.0) * (step + 1))
        optimizer.step()
    second.data.copy_(first.data)
    two.load_state_dict(one.state_dict())
    for p, optimizer in ((first, one), (second, two)):
        p.grad = torch.cos(torch.arange(77.0))
        optimizer.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("density", 0.0),
        ("density", 1.5),
        ("topk_block_size", 0),
        ("quant_block_size", 0),
        ("quant_bits", 3),
        ("window_dtype", "float16"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        MicroAdam([nn.Parameter(torch.zeros(2))], **{name: value})  # type: ignore[arg-type]
