"""Element-wise chains in cache-sized blocks, and small parameters together: the same bits, wherever pieces end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal.optim.common import DecoupledDecay, Momentum, WeightDecay
from shoal.optim.core import Param, Scalars, Slot, State, Transform, stepping
from shoal.optim.core import stacked as stacked_steps
from shoal.optim.core.ops import ema_, plus_
from shoal.optim.core.plan import Plan
from shoal.optim.core.rule import Rule
from shoal.optim.core.stepping import Item, step_items

CHAIN = (DecoupledDecay(0.1), WeightDecay(0.2), Momentum(0.9, nesterov=True))
SMALL = 64


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "BLOCK", SMALL)


def stepped(p: Tensor, g: Tensor, *, steps: int = 3, negate: bool = False) -> list[Tensor]:
    plan = Plan(CHAIN, tuple(p.shape))
    p = p.clone()
    state = plan.fresh(p)
    for t in range(1, steps + 1):
        step_items([Item(plan, p, g * t, state, plan.scalars(float(t), 0.1), negate)])
    return [p, *state.values()]


def draws(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(sum(shape))
    return tuple(torch.randn(shape, generator=random).to(dtype) for _ in range(2))  # type: ignore[return-value]


@given(
    size=st.integers(0, 5 * SMALL),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    negate=st.booleans(),
)
def test_any_size_gives_the_bits_of_one_block(size: int, dtype: torch.dtype, negate: bool) -> None:
    p, g = draws((size,), dtype)
    blocks = stepped(p, g, negate=negate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "BLOCK", 1 << 40)
        whole = stepped(p, g, negate=negate)
    assert all(torch.equal(a, b) for a, b in zip(blocks, whole, strict=True))


@pytest.mark.parametrize("which", ["parameter", "gradient"])
def test_what_is_not_contiguous_is_taken_whole(which: str) -> None:
    p, g = draws((20, 30))
    expected = stepped(p, g)
    turned = stepped(
        p.t().contiguous().t() if which == "parameter" else p, g.t().contiguous().t() if which == "gradient" else g
    )
    assert all(torch.equal(a, b) for a, b in zip(turned, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [5, 2 * SMALL + 5])
@pytest.mark.parametrize("negate", [False, True])
def test_the_parameter_itself_goes_down_or_up_the_gradient(dtype: torch.dtype, size: int, negate: bool) -> None:
    plan = Plan((), (size,))
    p, g = torch.ones(size, dtype=dtype), torch.full((size,), 2.0, dtype=dtype)
    step_items([Item(plan, p, g, {}, plan.scalars(1.0, 0.25), negate)])
    assert p.unique().tolist() == [1.5 if negate else 0.5]


@dataclass(frozen=True)
class Sizes(Transform):
    """Notes how much it is given at once."""

    seen: tuple[list[int], ...] = ([],)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot("m"),)

    def __hash__(self) -> int:
        return 0

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        assert u.shape == p.shape == g.shape == s.m.shape
        self.seen[0].append(u.numel())
        return ema_(s.m, u, 0.5)


@pytest.mark.parametrize(("size", "expected"), [(SMALL, [SMALL]), (SMALL + 1, [SMALL, 1]), (3 * SMALL, [SMALL] * 3)])
def test_a_transform_sees_a_block_at_a_time(size: int, expected: list[int]) -> None:
    seen: list[int] = []
    plan = Plan((Sizes((seen,)),), (size,))
    p = torch.zeros(size)
    step_items([Item(plan, p, torch.ones(size), plan.fresh(p), plan.scalars(1.0, 1.0))])
    assert seen == expected
    assert p.unique().tolist() == [-0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("negate", [False, True])
def test_small_parameters_together_give_the_bits_of_each_alone(dtype: torch.dtype, negate: bool) -> None:
    """Whatever their shapes and layouts."""
    shapes = [(3, 5), (), (7,), (0,), (2, 3, 2), (5, 4)]
    pairs = [draws(shape, dtype) for shape in shapes]
    pairs[-1] = tuple(x.t().contiguous().t() for x in pairs[-1])  # type: ignore[assignment]
    own = [p.clone() for p, _ in pairs]
    plans = [Plan(CHAIN, p.shape) for p in own]
    states = [plan.fresh(p) for plan, p in zip(plans, own, strict=True)]
    for t in range(1, 4):
        scalars = plans[0].scalars(float(t), 0.1)
        step_items(
            [
                Item(plan, p, g * t, state, scalars, negate)
                for plan, p, (_, g), state in zip(plans, own, pairs, states, strict=True)
            ]
        )
    for (p, g), q, state in zip(pairs, own, states, strict=True):
        expected = stepped(p, g, negate=negate)
        assert all(torch.equal(a, b) for a, b in zip([q, *state.values()], expected, strict=True))


def together(sizes: list[int]) -> list[int]:
    """How much a transform is given at once of parameters of these sizes."""
    seen: list[int] = []
    chain = (Sizes((seen,)),)
    plans = [Plan(chain, (size,)) for size in sizes]
    ps = [torch.zeros(size) for size in sizes]
    shared = plans[0].scalars(1.0, 1.0)
    step_items([Item(plan, p, torch.ones_like(p), plan.fresh(p), shared) for plan, p in zip(plans, ps, strict=True)])
    assert all(p.unique().tolist() == [-0.5] for p in ps)
    return seen


def test_a_transform_sees_small_parameters_at_once_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert together([3, 5, 2]) == [10]
    assert together([3, SMALL + 1, 2]) == [SMALL, 1, 5]
    monkeypatch.setattr(stepping, "PACK", 10)
    assert together([3, 5, 4, 6, 7]) == [8, 10, 7]
    monkeypatch.setattr(stepping, "SMALL", 4)
    assert together([3, 5, 1]) == [5, 4]


def test_only_what_shares_its_numbers_goes_together() -> None:
    seen: list[int] = []
    plan = Plan((Sizes((seen,)),), (3,))
    ps = [torch.zeros(3) for _ in range(3)]
    one, other = plan.scalars(1.0, 1.0), plan.scalars(1.0, 2.0)
    step_items([Item(plan, p, torch.ones(3), plan.fresh(p), c) for p, c in zip(ps, (one, other, one), strict=True)])
    assert seen == [6, 3]
    assert [p.unique().item() for p in ps] == [-0.5, -1.0, -0.5]


def test_a_gradient_of_another_size_is_not_hidden_among_others() -> None:
    plans = [Plan((Sizes(),), (size,)) for size in (3, 4)]
    ps, scalars = [torch.zeros(3), torch.zeros(4)], plans[0].scalars(1.0, 1.0)
    with pytest.raises(AssertionError):
        step_items(
            [Item(plan, p, g, plan.fresh(p), scalars) for plan, p, g in zip(plans, ps, reversed(ps), strict=True)]
        )


@dataclass(frozen=True)
class WholeTensor(Sizes):
    granularity = "tensor"


def test_a_transform_that_looks_at_tensors_sees_all() -> None:
    seen: list[int] = []
    plan = Plan((WholeTensor((seen,)),), (4 * SMALL,))
    p = torch.zeros(4 * SMALL)
    step_items([Item(plan, p, torch.ones(4 * SMALL), plan.fresh(p), plan.scalars(1.0, 1.0))])
    assert seen == [4 * SMALL]


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_stay_as_they_were(dtype: torch.dtype, negate: bool) -> None:
    p, g = draws((3 * SMALL + 5,), dtype)
    plan = Plan(CHAIN, tuple(p.shape))
    kept = g.clone()
    step_items([Item(plan, p, g, plan.fresh(p), plan.scalars(1.0, 0.1), negate)])
    assert torch.equal(g, kept)


def rows_of(shape: tuple[int, ...], rows: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    for row in range(rows):
        random = torch.Generator().manual_seed(row)
        yield torch.randn(shape, generator=random), torch.randn(shape, generator=random)


@pytest.mark.parametrize("size", [10, 3 * SMALL + 1])
def test_large_parameters_of_stacked_peers_are_stepped_row_by_row_with_the_bits_of_one(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked_steps, "LARGE", 0)
    made = Rule("r", 0.1, CHAIN)
    param = Param("p", (size,))
    pairs = list(rows_of((size,)))
    stacked, gradients = (torch.stack(column) for column in zip(*pairs, strict=True))
    memory = {"momentum": torch.zeros(3, size)}
    t, lr = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    made.step([param], [stacked], [gradients], made.views(memory, [param]), t, lr)
    for row, (p, g) in enumerate(pairs):
        own = {"momentum": torch.zeros(size)}
        made.step([param], [p], [g], made.views(own, [param]), t[row].item(), lr[row].item())
        assert torch.equal(stacked[row], p)
        assert torch.equal(memory["momentum"][row], own["momentum"])


def test_an_update_may_be_a_slot_itself() -> None:
    """It is read for the step and not changed by it."""

    @dataclass(frozen=True)
    class Sum(Transform):
        @property
        def slots(self) -> tuple[Slot, ...]:
            return (Slot("sum"),)

        def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
            return plus_(s.sum, u, 1.0)

    plan = Plan((Sum(),), (SMALL + 1,))
    p = torch.zeros(SMALL + 1)
    state = plan.fresh(p)
    for t in (1.0, 2.0):
        step_items([Item(plan, p, torch.ones(SMALL + 1), state, plan.scalars(t, 0.5))])
    assert state["sum"].unique().tolist() == [2.0]
    assert p.unique().tolist() == [-1.5]
