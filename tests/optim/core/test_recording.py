"""Chains written down as C++: each operation gives torch's values, and what cannot be written is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal.optim.core import Scalars, Slot, State, Transform
from shoal.optim.core.compiled import Kernel
from shoal.optim.core.plan import Plan
from shoal.optim.core.recording import CONSTANTS, EXPRESSIONS, Untranslatable, source
from shoal.optim.core.stepping import Item, step_items

Operation = Callable[[Tensor, Tensor, Scalars], Tensor]

OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "_to_copy": (lambda x, y, c: (x > y).to(x.dtype),),
    "abs": (lambda x, y, c: x.abs(), lambda x, y, c: x.clone().abs_()),
    "add": (
        lambda x, y, c: x + y,
        lambda x, y, c: x.add(y, alpha=2.5),
        lambda x, y, c: x + 1,
        lambda x, y, c: 0.5 + x,
        lambda x, y, c: x + (y > 0),
    ),
    "addcdiv": (lambda x, y, c: torch.addcdiv(x, y, y, value=-0.5), lambda x, y, c: torch.addcdiv(x, y, x)),
    "addcmul": (lambda x, y, c: torch.addcmul(x, y, y, value=0.3), lambda x, y, c: x.clone().addcmul_(y, x)),
    "atan": (lambda x, y, c: torch.atan(x),),
    "atan2": (lambda x, y, c: torch.atan2(x, y),),
    "bitwise_and": (lambda x, y, c: ((x > 0) & (y > 0)).to(x.dtype), lambda x, y, c: x * ((x > 0) & c.flag)),
    "bitwise_not": (lambda x, y, c: x * ~(y > 0),),
    "bitwise_or": (lambda x, y, c: x * ((x > 0) | (y > 0)),),
    "ceil": (lambda x, y, c: x.ceil(),),
    "clamp": (
        lambda x, y, c: x.clamp(-1.0, 0.5),
        lambda x, y, c: x.clamp(max=0.5),
        lambda x, y, c: torch.clamp(x, -y.abs(), y.abs()),
        lambda x, y, c: x.clone().clamp_(min=c.half),
    ),
    "clamp_max": (lambda x, y, c: x.clamp_max(0.5),),
    "clamp_min": (lambda x, y, c: x.clamp_min(0.5), lambda x, y, c: torch.clamp_min(x, y)),
    "clone": (lambda x, y, c: x.clone().add_(y) + x,),
    "copy": (lambda x, y, c: x.clone().copy_(y),),
    "copysign": (lambda x, y, c: torch.copysign(x, y),),
    "cos": (lambda x, y, c: x.clamp(-9, 9).cos(),),
    "div": (lambda x, y, c: x / y, lambda x, y, c: x / 3, lambda x, y, c: x.clone().div_(c.half)),
    "eq": (lambda x, y, c: (x == y).to(x.dtype), lambda x, y, c: (x == 0).to(x.dtype)),
    "exp": (lambda x, y, c: x.exp(),),
    "expm1": (lambda x, y, c: x.expm1(),),
    "fill": (lambda x, y, c: x.clone().fill_(0.25),),
    "floor": (lambda x, y, c: x.floor(),),
    "full_like": (lambda x, y, c: torch.full_like(x, 0.75), lambda x, y, c: torch.full_like(x, -math.inf)),
    "ge": (lambda x, y, c: (x >= y).to(x.dtype),),
    "gt": (lambda x, y, c: (x > 0.5).to(x.dtype),),
    "le": (lambda x, y, c: (x <= y).to(x.dtype),),
    "lerp": (lambda x, y, c: torch.lerp(x, y, 0.3), lambda x, y, c: x.lerp(y, 0.8), lambda x, y, c: x.lerp(y, c.half)),
    "log": (lambda x, y, c: x.log(),),
    "log1p": (lambda x, y, c: x.log1p(),),
    "logical_and": (lambda x, y, c: torch.logical_and(x > 0, y > 0).to(x.dtype),),
    "logical_not": (lambda x, y, c: x * torch.logical_not(y > 0),),
    "logical_or": (
        lambda x, y, c: torch.logical_or(x > 0, y > 0).to(x.dtype),
        lambda x, y, c: torch.logical_or(x > 0, torch.tensor(False)).to(x.dtype),
    ),
    "lt": (lambda x, y, c: (x < y).to(x.dtype),),
    "masked_fill": (lambda x, y, c: x.masked_fill(y > 0, 0.25),),
    "maximum": (lambda x, y, c: torch.maximum(x, y),),
    "minimum": (lambda x, y, c: torch.minimum(x, y),),
    "mul": (lambda x, y, c: x * y, lambda x, y, c: x * (y > 0), lambda x, y, c: x.clone().mul_(c.half)),
    "ne": (lambda x, y, c: (x != y).to(x.dtype),),
    "neg": (lambda x, y, c: -x,),
    "ones_like": (lambda x, y, c: torch.ones_like(x) + x,),
    "pow": (lambda x, y, c: x.pow(3), lambda x, y, c: x.abs().pow(c.half), lambda x, y, c: 2.0 ** x.clamp(-9, 9)),
    "reciprocal": (lambda x, y, c: 1 / x,),
    "relu": (lambda x, y, c: x.relu(),),
    "round": (lambda x, y, c: x.round(),),
    "rsqrt": (lambda x, y, c: x.rsqrt(),),
    "rsub": (lambda x, y, c: 1 - x, lambda x, y, c: torch.rsub(x, y, alpha=2)),
    "sgn": (lambda x, y, c: x.sgn(),),
    "sigmoid": (lambda x, y, c: x.sigmoid(),),
    "sign": (lambda x, y, c: x.sign(),),
    "sin": (lambda x, y, c: x.clamp(-9, 9).sin(),),
    "sqrt": (lambda x, y, c: x.sqrt(), lambda x, y, c: x.abs().sqrt_()),
    "square": (lambda x, y, c: x.square(),),
    "sub": (lambda x, y, c: x - y, lambda x, y, c: x.clone().sub_(y, alpha=0.1), lambda x, y, c: x - 1.0),
    "tanh": (lambda x, y, c: x.tanh(),),
    "where": (
        lambda x, y, c: torch.where(x > y, x, y),
        lambda x, y, c: torch.where(x > 0, x, 1.0),
        lambda x, y, c: torch.where(x > 0, 0.0, y),
        lambda x, y, c: torch.where(c.flag, x, y),
        lambda x, y, c: torch.where(x > 0, x, math.nan),
    ),
    "zeros_like": (lambda x, y, c: torch.zeros_like(x) - x,),
}
VALUES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 0.3, -7.1, 1e-30, 3e8, -1e-3]


@dataclass(frozen=True)
class EachInASlot(Transform):
    """The result of each operation, in a slot of its own."""

    half: float = 0.5

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(Slot(f"{name}{i}") for name, forms in OPERATIONS.items() for i in range(len(forms)))

    def derived(self, t: Any, lr: Any) -> dict[str, Any]:
        return {"flag": t > 1.0}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        for name, forms in OPERATIONS.items():
            for i, form in enumerate(forms):
                getattr(s, f"{name}{i}").copy_(form(u, p, c))
        return u


def numbers_of(plan: Plan, t: float, lr: float, dtype: torch.dtype) -> list[Scalars]:
    """Scalars as tensors, as the recorder has them."""
    scalars = plan.scalars(t, lr)
    for part in scalars:
        for name, value in vars(part).items():
            setattr(part, name, torch.tensor(value, dtype=torch.bool if isinstance(value, bool) else dtype))
    return scalars


def test_every_operation_is_tried() -> None:
    assert OPERATIONS.keys() == EXPRESSIONS.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_each_operation_gives_torchs_values(dtype: torch.dtype) -> None:
    """For each pair of values, infinities, NaN and both zeros among them."""
    x = torch.tensor([a for a in VALUES for _ in VALUES], dtype=dtype)
    y = torch.tensor([b for _ in VALUES for b in VALUES], dtype=dtype)
    plan = Plan((EachInASlot(),), tuple(x.shape))
    eager, compiled = plan.fresh(x), plan.fresh(x)
    step_items([Item(plan, y.clone(), x.clone(), eager, numbers_of(plan, 3.0, 0.1, dtype))])
    Kernel(plan, dtype)([Item(plan, y.clone(), x.clone(), compiled, plan.scalars(3.0, 0.1))])
    rtol = 3e-6 if dtype == torch.float32 else 1e-14
    for key, expected in eager.items():
        torch.testing.assert_close(
            compiled[key], expected, rtol=rtol, atol=rtol * 1e-1, equal_nan=True, msg=lambda m, key=key: f"{key}: {m}"
        )


@dataclass(frozen=True)
class Doing(Transform):
    """Any function of the update, the parameter, the slots and the scalars."""

    f: Callable[..., Tensor]
    slot: Slot | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        return () if self.slot is None else (self.slot,)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        return self.f(u, p, s, c)


def plan_of(f: Callable[..., Tensor], slot: Slot | None = None) -> Plan:
    return Plan((Doing(f, slot),), (2,))


@pytest.mark.parametrize(
    ("f", "named"),
    [
        (lambda u, p, s, c: u.cumsum(0), "cumsum"),
        (lambda u, p, s, c: u / u.sum(), "sum"),
        (lambda u, p, s, c: torch.div(u, p, rounding_mode="floor"), "'floor' is no number"),
        (lambda u, p, s, c: torch.add(u, p, out=torch.empty_like(u)), "empty_like"),
        (lambda u, p, s, c: u * torch.rand(()), "rand"),
        (lambda u, p, s, c: u * u.to(torch.int32), "int32"),
        (lambda u, p, s, c: u * u.to(torch.float64).to(u.dtype), "float64"),
        (lambda u, p, s, c: u * torch.arange(2.0), "arange"),
        (lambda u, p, s, c: u if u[0] > 0 else p, "select"),
        (lambda u, p, s, c: u if c.t > 1 else p, "scalar"),
        (lambda u, p, s, c, kept=torch.ones(2): u * kept, "tensor from outside"),  # noqa: B008
    ],
)
def test_what_cannot_be_written_is_refused_by_name(f: Callable[..., Tensor], named: str) -> None:
    with pytest.raises(Untranslatable, match=named):
        source(plan_of(f), torch.float32)


def test_the_arctangent_is_exact_to_two_units_in_the_last_place() -> None:
    """Beside numpy's in float64."""
    random = torch.Generator().manual_seed(0)
    sizes = torch.randn(200_000, generator=random)
    values = torch.cat([torch.linspace(-3.0, 3.0, 100_001), sizes, torch.exp(20.0 * sizes), -torch.exp(3.0 * sizes)])
    p, plan = torch.zeros_like(values), plan_of(lambda u, p, s, c: torch.atan(u))
    Kernel(plan, torch.float32)([Item(plan, p, values, {}, plan.scalars(1.0, -1.0))])
    exact = np.arctan(values.double().numpy())
    assert float(np.max(np.abs(p.double().numpy() - exact) / np.spacing(np.abs(exact).astype(np.float32)))) <= 2.0
    special = [0.0, -0.0, math.inf, -math.inf, 1e-45, -1e-38]
    p, g = torch.zeros(len(special)), torch.tensor(special)
    Kernel(plan, torch.float32)([Item(plan, p, g, {}, plan.scalars(1.0, -1.0))])
    assert p.tolist() == torch.atan(g).tolist()


def test_a_slot_of_another_dtype_is_refused() -> None:
    plan = plan_of(lambda u, p, s, c: u, Slot("code", dtype=torch.int8))
    with pytest.raises(Untranslatable, match=r"slot code is kept as torch\.int8"):
        source(plan, torch.float32)


def adding(name: str) -> Plan:
    """A chain with a slot of this name."""

    def f(u: Tensor, p: Tensor, s: State, c: Scalars) -> Tensor:
        slot: Tensor = getattr(s, name)
        return slot.add_(u * 2.0) * c.t + p

    return plan_of(f, Slot(name))


@pytest.mark.parametrize("name", ["c0", "p", "g", "i", "new", "float", "lerp", "step", "tensors", "T", "up"])
def test_a_slot_may_have_any_name(name: str) -> None:
    """Also those of the loop's own variables and C++'s words: all are written in the same way."""
    text, scalars = source(adding(name), torch.float64)
    assert scalars == [(0, "t"), (1, "lr")]
    assert text.replace(f"s_{name}", "s_v0") == source(adding("v0"), torch.float64)[0]


def test_a_slot_named_like_an_intermediate_result_keeps_its_own_values() -> None:
    plan = adding("v0")
    p, g = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, -4.0], dtype=torch.float64)
    state = plan.fresh(p)
    Kernel(plan, torch.float64)([Item(plan, p, g, state, plan.scalars(5.0, 0.5))])
    assert state["v0"].tolist() == [6.0, -8.0]
    assert p.tolist() == [1.0 - 0.5 * (30.0 + 1.0), 2.0 - 0.5 * (-40.0 + 2.0)]


def test_only_scalars_that_are_used_become_arguments() -> None:
    _, scalars = source(plan_of(lambda u, p, s, c: u), torch.float32)
    assert scalars == [(1, "lr")]


def test_constants_are_not_mistaken_for_draws() -> None:
    assert not {name for name in CONSTANTS if "rand" in name or "empty" in name or "normal" in name}


def test_the_gradient_is_read_only() -> None:
    text, _ = source(plan_of(lambda u, p, s, c: u * 2.0), torch.float32)
    assert "at_g[i] = " not in text
    assert text.count("at_p[i] = ") == 1
