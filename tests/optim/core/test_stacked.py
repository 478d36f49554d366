"""Stacked transforms: what they get, alone, among equal shapes, as stacked peers, and in chains that cannot stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from shoal.optim.core import Optimizer, Param, Rule, Scalars, Slot, State, Transform
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import SMALL
from shoal.optim.core.transform import Granularity

SEEN: list[tuple[float, tuple[int, ...]]] = []


@dataclass(frozen=True)
class Remembered(Transform):
    """u times the largest entry of the gradient of every third step, from the first one on."""

    gap: int = 3
    granularity: ClassVar[Granularity] = "tensor"
    stacked: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """That entry."""
        return (Slot("largest", lambda shape: (), start=1.0),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Whether it is taken anew."""
        return {"anew": (t - 1.0) % self.gap == 0.0}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Look, and multiply."""
        assert u.shape == p.shape == g.shape
        assert type(c.t) is float
        SEEN.append((c.t, tuple(u.shape)))
        if c.anew:
            s.largest.copy_(u.flatten(1).max(1).values)
        return u * s.largest.view(-1, *(1,) * (u.dim() - 1))


@dataclass(frozen=True)
class Unit(Transform):
    """u over its length, of one tensor."""

    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Divide."""
        unit: Tensor = u / torch.linalg.vector_norm(u)
        return unit


@dataclass(frozen=True)
class ModelUnit(Transform):
    """u over the length of all."""

    granularity: ClassVar[Granularity] = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Squares."""
        return {"squares": u.square().sum()}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Divide."""
        unit: Tensor = u / c.squares.sqrt()
        return unit


class Remembering(Optimizer):
    """Remembered alone."""

    lr: float = 0.1

    @classmethod
    def links(cls, h: object, param: Param) -> tuple[Transform, ...]:
        """One transform."""
        return (Remembered(),)


PARAMS = [Param("a", (3, 2)), Param("b", (4, 3)), Param("c", (3, 2))]


@pytest.mark.parametrize("links", [(), (Unit(),), (ModelUnit(),)], ids=["alone", "with a tensor's", "with the model's"])
@pytest.mark.parametrize("before", [(0, 0, 0), (0, 1, 0), (2, 0, 1)], ids=str)
@pytest.mark.parametrize("equal", [True, False], ids=["one rate", "rates"])
def test_peers_go_the_separate_way(links: tuple[Transform, ...], before: tuple[int, ...], equal: bool) -> None:
    rule = Rule("remembered", 0.1, (Remembered(), *links))
    assert not rule.by_vmap(PARAMS)
    random = torch.Generator().manual_seed(0)
    rates = [0.1, 0.1, 0.1] if equal else [0.1, 0.05, 0.1]
    stacked = [torch.randn(3, *param.shape, generator=random, dtype=torch.float64) for param in PARAMS]
    alone = [[p[i].clone() for p in stacked] for i in range(3)]
    memories = [rule.memory(dict(zip("abc", own, strict=True))) for own in alone]
    memory = {key: torch.stack([m[key] for m in memories]) for key in memories[0]}
    for step in range(1, 8):
        gradients = [torch.randn(p.shape, generator=random, dtype=torch.float64) for p in stacked]
        t = torch.tensor([float(step + b) for b in before], dtype=torch.float64)
        rule.step(PARAMS, stacked, gradients, rule.views(memory, PARAMS), t, torch.tensor(rates, dtype=torch.float64))
        for i in range(3):
            own = [g[i] for g in gradients]
            rule.step(PARAMS, alone[i], own, rule.views(memories[i], PARAMS), float(t[i]), rates[i])
    for i in range(3):
        for p, q in zip(stacked, alone[i], strict=True):
            torch.testing.assert_close(p[i], q, rtol=1e-12, atol=1e-12)
        for key, slot in memory.items():
            torch.testing.assert_close(slot[i], memories[i][key], rtol=1e-12, atol=1e-12)


def test_peers_at_one_step_are_taken_together_and_others_apart() -> None:
    rule, param = Rule("remembered", 0.1, (Remembered(),)), PARAMS[0]
    p, state = torch.zeros(5, 3, 2), {"largest": torch.zeros(5)}
    rates = torch.full((5,), 0.1, dtype=torch.float64)
    for t, expected in (
        ([1.0] * 5, [(1.0, (5, 3, 2))]),
        ([2.0, 3.0, 2.0, 3.0, 3.0], [(2.0, (2, 3, 2)), (3.0, (3, 3, 2))]),
    ):
        SEEN.clear()
        rule.step([param], [p], [torch.ones_like(p)], [state], torch.tensor(t, dtype=torch.float64), rates)
        assert expected == SEEN


def test_small_parameters_of_one_shape_are_taken_together() -> None:
    large = (SMALL + 1, 1)
    ps = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (2, 3), (3, 2), large, large)]
    optimizer = Remembering(ps)
    for p in ps:
        p.grad = torch.ones_like(p)
    SEEN.clear()
    optimizer.step()
    assert sorted(SEEN) == sorted([(1.0, (2, 3, 2)), (1.0, (1, 2, 3)), *[(1.0, (1, *large))] * 2])
    ps[2].grad = None  # it is a step behind then
    optimizer.step()
    ps[2].grad = torch.ones(3, 2)
    SEEN.clear()
    optimizer.step()
    assert (2.0, (1, 3, 2)) in SEEN
    assert (3.0, (1, 3, 2)) in SEEN


def test_element_wise_rules_and_those_of_stacked_transforms_go_without_vmap() -> None:
    assert not Rule("plain", 0.1).by_vmap(PARAMS)
    assert not Rule("remembered", 0.1, (Remembered(), Unit())).by_vmap(PARAMS)
    assert Rule("unit", 0.1, (Unit(),)).by_vmap(PARAMS)
