"""BAdam against its restatement, what is frozen meanwhile, and how blocks are made and taken."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.optim.adamw import AdamW
from shoal.optim.badam import BAdam, Order, block_of, order_of_blocks
from tests.optim.following import (
    NETWORK_SHAPES,
    SHAPES,
    follow,
    missing,
    network,
    quadratic,
    starts,
    torch_gradients,
)
from tests.restatements.optimizers import badam as restated

orders: Any = st.sampled_from(["random", "ascending", "descending"])


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(0, 0.5),
    st.integers(1, 12),
    orders,
    st.integers(0, 1000),
    st.booleans(),
)
def test_it_goes_the_restated_way(
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    every: int,
    order: Order,
    seed: int,
    pairs: bool,
) -> None:
    options: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "switch_block_every": every}

    def ours(p: list[nn.Parameter]) -> BAdam:
        groups: list[dict[str, Any]] = [{"params": p[:2], "block": "a"}, {"params": p[2:], "block": "b"}]
        return BAdam(groups if pairs else p, **options, block_order=order, seed=seed)

    follow(
        ours,
        lambda p: restated.BAdam(
            p,
            **options,
            blocks=[[0, 1], [2, 3]] if pairs else None,
            block_order=lambda epoch, blocks: order_of_blocks(order, blocks, epoch, seed),
        ),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
    )


def test_it_trains_a_network_the_restated_way() -> None:
    names = "0.weight", "0.bias", "2.weight", "2.bias"
    follow(
        lambda p: BAdam(zip(names, p, strict=True), lr=0.02, switch_block_every=7, block_order="descending"),
        lambda p: restated.BAdam(
            p, lr=0.02, switch_block_every=7, blocks=[[0, 1], [2, 3]], block_order=restated.descending
        ),
        network(),
        shapes=NETWORK_SHAPES,
    )


@pytest.mark.parametrize("compile", [False, True])
def test_one_block_for_ever_is_adamw_bit_by_bit(compile: bool) -> None:
    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts()] for _ in range(2))
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "compile": compile}
    badam = BAdam([{"params": ours, "block": 0}], **options, switch_block_every=math.inf)
    adamw = AdamW(theirs, **options)
    for step in range(130):
        torch_gradients(theirs, quadratic(), step)
        for p, q in zip(ours, theirs, strict=True):
            p.grad = q.grad
        badam.step()
        adamw.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def model() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def loss_of(net: nn.Module, step: int) -> Tensor:
    draws = torch.Generator().manual_seed(step)
    return net(torch.randn(8, 6, generator=draws)).square().mean()  # type: ignore[no-any-return]


def test_outside_the_active_block_no_bit_no_gradient_and_no_state() -> None:
    net = model()
    parameters = list(net.parameters())
    optimizer = BAdam(net.named_parameters(), lr=0.01, switch_block_every=3, seed=5)
    largest = max(sum(p.numel() for p in block) for block in optimizer.blocks)
    assert [len(block) for block in optimizer.blocks] == [2, 2, 2, 2]
    visited = []
    for step in range(24):
        active = optimizer.active
        before = {p: p.detach().clone() for p in parameters}
        for p in parameters:
            inside = any(p is q for q in active)
            assert p.requires_grad == inside
            assert p.grad is None or inside
        loss_of(net, step).backward()
        assert [p for p in parameters if p.grad is not None] == active or len(active) == len(parameters)
        optimizer.step()
        assert all(torch.equal(p, before[p]) != any(p is q for q in active) for p in parameters)
        assert optimizer.state_bytes() <= 4 * 2 * largest
        if optimizer.steps_in_block:
            assert set(optimizer.state) == set(active)
        else:
            assert not optimizer.state
            assert all(p.grad is None for p in active if not p.requires_grad)
            visited.append(next(i for i, block in enumerate(optimizer.blocks) if block[0] is active[0]))
    assert sorted(visited[:4]) == sorted(visited[4:]) == [0, 1, 2, 3]
    assert visited == order_of_blocks("random", 4, 0, 5) + order_of_blocks("random", 4, 1, 5)


def test_gradients_from_elsewhere_do_not_move_what_is_frozen() -> None:
    ps = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = BAdam(ps, lr=0.1, switch_block_every=1, block_order="ascending")
    for step in range(3):
        for p in ps:
            p.grad = torch.ones(2)
        optimizer.step()
        assert [bool((p == 1).all()) for p in ps] == [i > step for i in range(3)]
        assert all(p.grad is None for p in ps)


def test_every_block_starts_anew_with_its_full_number_of_steps() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    other = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = BAdam([p, other], lr=0.25, switch_block_every=2, block_order="ascending", eps=0.0)
    path = []
    for g in (3.0, 3.0, 1.0, 1.0, -1e6, -1e6):
        for q in (p, other):
            q.grad = torch.full_like(q, g)
        optimizer.step()
        path.append((p.item(), other.item()))
    expected = [(-0.25, 0), (-0.5, 0), (-0.5, -0.25), (-0.5, -0.5), (-0.25, -0.5), (0, -0.5)]
    assert path == [pytest.approx(pair, abs=1e-12) for pair in expected]


@given(st.integers(1, 30), st.integers(0, 50), st.integers(0, 50), orders)
def test_a_block_epoch_takes_every_block_once(blocks: int, epoch: int, seed: int, order: Order) -> None:
    assert sorted(order_of_blocks(order, blocks, epoch, seed)) == list(range(blocks))


def test_random_orders_differ_by_epoch_and_seed() -> None:
    made = {tuple(order_of_blocks("random", 20, epoch, seed)) for epoch in range(5) for seed in range(5)}
    assert len(made) == 25


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("transformer.h.11.attention.0.weight", "transformer.h.11"),
        ("0.weight", "0"),
        ("layer1.1.bias", "layer1.1"),
        ("head.weight", "head"),
        ("scale", "scale"),
    ],
)
def test_layers_are_found_by_name(name: str, block: str) -> None:
    assert block_of(name) == block


def test_what_was_frozen_before_stays_so_and_release_frees_the_rest() -> None:
    net = model()
    net[0].requires_grad_(False)
    optimizer = BAdam(net.named_parameters(), switch_block_every=1, lr=0.1)
    assert len(optimizer.blocks) == 3
    first = next(net[0].parameters()).detach().clone()
    for step in range(7):
        loss_of(net, step).backward()
        optimizer.step()
    assert torch.equal(next(net.parameters()), first)
    optimizer.release()
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True, True, True, True, True]
    assert optimizer.state_bytes() == 0
    for p in net.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="params"):
        BAdam(net.parameters())


def test_a_group_that_comes_later_waits_for_the_next_block_epoch() -> None:
    ps = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = BAdam(ps[:2], lr=1.0, switch_block_every=1, block_order="ascending")
    optimizer.add_param_group({"params": ps[2]})
    taken = []
    for _ in range(5):
        taken.append([p.requires_grad for p in ps].index(True))
        optimizer.step()
    assert taken == [0, 1, 0, 1, 2]


def test_saved_in_the_middle_of_a_block_it_goes_on_bit_by_bit() -> None:
    ours = model()
    optimizer = BAdam(ours.named_parameters(), lr=0.02, switch_block_every=4, seed=9)
    for step in range(6):
        loss_of(ours, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    state, theirs = copy.deepcopy(optimizer.state_dict()), model()
    theirs.load_state_dict(ours.state_dict())
    loaded = BAdam(theirs.named_parameters(), lr=0.02, switch_block_every=4, seed=9)
    loaded.load_state_dict(state)
    copied_model, copied = copy.deepcopy((ours, optimizer))
    for net, own in ((ours, optimizer), (theirs, loaded), (copied_model, copied)):
        for step in range(6, 25):
            loss_of(net, step).backward()
            own.step()
            own.zero_grad()
    for other in (theirs, copied_model):
        for p, q in zip(ours.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
            assert p.requires_grad == q.requires_grad


def test_low_precision_has_a_wide_copy_while_its_block_is_active() -> None:
    first = [torch.full((8,), 1.0), torch.full((8,), -2.0)]
    low = [nn.Parameter(x.bfloat16()) for x in first]
    wide = [nn.Parameter(x.clone()) for x in first]
    options: dict[str, Any] = {"lr": 1e-4, "switch_block_every": 200, "block_order": "ascending"}
    rounded, exact = BAdam(low, **options), BAdam(wide, **options)
    for _ in range(200):
        for p, q in zip(low, wide, strict=True):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        if rounded.steps_in_block == 100:
            assert rounded.state_bytes() == 8 * 4 * 3
            assert exact.state_bytes() == 8 * 4 * 2
        rounded.step()
        exact.step()
    assert torch.equal(low[0], wide[0].bfloat16())
    assert low[0][0] < 0.99  # each single step is below what bfloat16 can tell from 1
    assert not rounded.state


def test_a_missing_gradient_still_counts_for_the_block() -> None:
    p, q = (nn.Parameter(torch.zeros(s)) for s in SHAPES[:2])
    optimizer = BAdam([p, q], switch_block_every=3, block_order="ascending")
    for _ in range(3):
        assert optimizer.active[0] is p
        optimizer.step()
    assert optimizer.active[0] is q


def test_there_is_no_rule_for_stacked_peers() -> None:
    with pytest.raises(NotImplementedError, match="BAdam"):
        BAdam.rule(lr=0.1)


@pytest.mark.parametrize(("name", "value"), [("switch_block_every", 0), ("block_order", "up"), ("block", 1.5)])
def test_what_is_not_allowed_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        BAdam([nn.Parameter(torch.ones(1))], **{name: value})
