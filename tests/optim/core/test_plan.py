"""What a chain of transforms becomes for one parameter: slots, granularity, scalars, and the order of its phases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal.optim.core import Product, Quotient, Scalars, Slot, State, Transform
from shoal.optim.core.plan import Plan, compute_dtype
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import Item, step_items
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class Traced(Transform):
    """Notes what is called, and with which update."""

    name: str
    notes: list[Any]

    def __hash__(self) -> int:
        return hash(self.name)

    def before(self, p: Tensor, s: State, c: Scalars) -> None:
        self.notes.append(("before", self.name, p.item()))
        p.add_(1.0)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        self.notes.append(("apply", self.name, u.item(), p.item(), g.item()))
        return u * 2.0

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        self.notes.append(("after", self.name, u.item(), p.item()))
        p.add_(0.25)


def test_phases_come_in_order() -> None:
    """before: first to last; apply: first to last on what the earlier gave; the step; after: last to first."""
    notes: list[Any] = []
    plan = Plan((Traced("a", notes), Traced("b", notes)), ())
    p, g = torch.tensor(10.0), torch.tensor(1.0)
    step_items([Item(plan, p, g, {}, plan.scalars(1.0, 0.5))])
    assert notes == [
        ("before", "a", 10.0),
        ("before", "b", 11.0),
        ("apply", "a", 1.0, 12.0, 1.0),
        ("apply", "b", 2.0, 12.0, 1.0),
        ("after", "b", 4.0, 10.0),
        ("after", "a", 4.0, 10.25),
    ]
    assert p.item() == 10.5


@dataclass(frozen=True)
class Rated(Transform):
    rated: ClassVar[bool] = True


def test_an_update_that_includes_the_rate_is_not_multiplied_again() -> None:
    for chain, expected in (((), 0.5), ((Rated(),), 0.0)):
        plan = Plan(chain, ())
        p = torch.tensor(1.0)
        step_items([Item(plan, p, torch.tensor(1.0), {}, plan.scalars(1.0, 0.5))])
        assert p.item() == expected


@dataclass(frozen=True)
class Same(Transform):
    """u."""


@dataclass(frozen=True)
class Share(Quotient):
    """u over (1 + |u|)."""

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        return u, 1.0 + u.abs()


class Doubled(Share):
    """Twice as much."""

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        return 2.0 * super().apply(u, p, g, s, c)


@pytest.mark.parametrize("chain", [(Share(),), (Share(), Same()), (Same(), Share())], ids=str)
def test_a_fraction_is_taken_or_written_down_to_the_same_end(chain: tuple[Transform, ...]) -> None:
    """-1, 1 and 3 over 2, 2 and 4, at a rate of 1/2: all of it exact."""
    p, g = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([-1.0, 1.0, 3.0])
    plan = Plan(chain, (3,))
    step_items([Item(plan, p, g, {}, plan.scalars(1.0, 0.5))])
    assert p.tolist() == [1.25, 0.75, 0.625]


def test_a_fraction_whose_subclass_changes_the_update_is_not_taken_past_it() -> None:
    p, plan = torch.tensor([1.0]), Plan((Doubled(),), (1,))
    step_items([Item(plan, p, torch.tensor([1.0]), {}, plan.scalars(1.0, 0.5))])
    assert p.item() == 0.5


@dataclass(frozen=True)
class Squared(Product):
    """u |u|."""

    def factors(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        return u, u.abs()


class WithRate(Squared):
    """Which has the learning rate in it already, as 1."""

    rated: ClassVar[bool] = True


@pytest.mark.parametrize("chain", [(Squared(),), (Squared(), Same()), (Same(), Squared())], ids=str)
def test_a_product_is_taken_or_written_down_to_the_same_end(chain: tuple[Transform, ...]) -> None:
    p, g = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([-1.0, 1.0, 3.0])
    plan = Plan(chain, (3,))
    step_items([Item(plan, p, g, {}, plan.scalars(1.0, 0.5))])
    assert p.tolist() == [1.5, 0.5, -3.5]


@pytest.mark.parametrize("chain", [(WithRate(),), (WithRate(), Same())], ids=str)
def test_a_product_may_include_the_rate(chain: tuple[Transform, ...]) -> None:
    p, plan = torch.tensor([1.0]), Plan(chain, (1,))
    step_items([Item(plan, p, torch.tensor([2.0]), {}, plan.scalars(1.0, 0.5))])
    assert p.item() == -3.0


@dataclass(frozen=True)
class Coarse(Transform):
    grain: Granularity
    own: tuple[Slot, ...] = ()

    @property
    def granularity(self) -> Granularity:  # type: ignore[override]
        return self.grain

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.own


ORDER = ["element", "tensor", "model"]


@given(st.lists(st.sampled_from(ORDER), max_size=5))
def test_the_coarsest_transform_decides(grains: list[Any]) -> None:
    expected = max(grains, key=ORDER.index, default="element")
    assert Plan(tuple(Coarse(grain) for grain in grains), (2,)).granularity == expected


def test_a_slot_with_a_shape_of_its_own_makes_a_chain_tensor_wise() -> None:
    assert Plan((Coarse("element", (Slot("a"),)),), (2, 3)).granularity == "element"
    assert Plan((Coarse("element", (Slot("a", shape=lambda s: s[:1]),)),), (2, 3)).granularity == "tensor"


def test_slots_of_the_same_name_are_numbered() -> None:
    twice = Coarse("element", (Slot("m"), Slot("v")))
    plan = Plan((twice, Coarse("element", (Slot("m"),)), twice), (2,))
    assert [key for key, *_ in plan.slots] == ["m", "v", "m_2", "m_3", "v_2"]
    assert plan.keys == {"m", "v", "m_2", "m_3", "v_2"}
    bound = plan.bind({key: torch.tensor(float(i)) for i, (key, *_) in enumerate(plan.slots)})
    assert [{name: t.item() for name, t in vars(own).items()} for own in bound] == [
        {"m": 0.0, "v": 1.0},
        {"m": 2.0},
        {"m": 3.0, "v": 4.0},
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_slots_begin_as_they_say(dtype: torch.dtype) -> None:
    """As wide as the computation unless they say otherwise; a copy of the parameter is contiguous and its own."""
    slots = (
        Slot("zero"),
        Slot("two", start=2.0, shape=lambda s: (s[1],)),
        Slot("copy", start="parameter"),
        Slot("code", dtype=torch.uint8, start=7),
        Slot("seed", shape=lambda s: (), dtype=torch.int64, start="seed"),
    )
    plan = Plan((Coarse("tensor", slots),), (2, 3))
    p = torch.arange(6.0).view(3, 2).t().to(dtype)
    fresh = plan.fresh(p, seed=2**62 + 3)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert compute_dtype(dtype) == wide
    assert {name: (tuple(x.shape), x.dtype) for name, x in fresh.items()} == {
        "zero": ((2, 3), wide),
        "two": ((3,), wide),
        "copy": ((2, 3), wide),
        "code": ((2, 3), torch.uint8),
        "seed": ((), torch.int64),
    }
    assert fresh["two"].tolist() == [2.0] * 3
    assert fresh["code"].unique().tolist() == [7]
    assert fresh["seed"].item() == 2**62 + 3
    assert torch.equal(fresh["copy"], p.to(wide))
    assert fresh["copy"].is_contiguous()
    p.zero_()
    assert fresh["copy"].any()


@dataclass(frozen=True)
class Numbers(Transform):
    a: float = 0.5
    rank: int = 3
    fast: bool = True
    form: str = "x"
    none: float | None = None

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        return {"b": self.a * t, "late": t > 2.0, "a": 7.0}


def test_scalars_are_the_numbers_and_what_is_derived_which_wins() -> None:
    own, step = Plan((Numbers(),), (2,)).scalars(3.0, 0.1)
    assert vars(own) == {"a": 7.0, "rank": 3.0, "t": 3.0, "lr": 0.1, "pace": 0.1, "b": 1.5, "late": True}
    assert vars(step) == {"lr": 0.1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_numbers_of_stacked_peers_are_as_precise_as_the_computation(dtype: torch.dtype) -> None:
    t, lr = torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([0.1, 0.2], dtype=torch.float64)
    own, _ = Plan((Numbers(),), (2,)).numbers(t, lr, dtype)
    assert own["late"].tolist() == [False, True]
    assert own["late"].dtype == torch.bool
    assert {own[name].dtype for name in ("a", "t", "lr", "b")} == {compute_dtype(dtype)}
    assert own["b"].tolist() == [0.5, 1.5]
    torch.testing.assert_close(own["lr"].double(), lr, rtol=1e-7, atol=0.0)
