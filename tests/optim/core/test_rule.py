"""Rules of the chain machinery: memory, views, sums over parameters, and stacks of low precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal.optim.adamw import AdamW
from shoal.optim.common import Momentum, WeightDecay
from shoal.optim.core import Param, Rule, Scalars, Slot, State, Transform
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class Odd(Transform):
    """Slots of several shapes."""

    granularity: ClassVar[Granularity] = "tensor"

    @property
    def slots(self) -> tuple[Slot, ...]:
        rows = Slot("rows", shape=lambda s: s[:1], start=1.0)
        return Slot("m"), rows, Slot("seed", shape=lambda s: (), dtype=torch.int64, start="seed")


shapes = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=4)


@given(shapes=shapes, peers=st.sampled_from([(), (1,), (3,)]))
def test_views_are_the_slots_one_after_the_other_and_nothing_is_left(
    shapes: list[tuple[int, ...]], peers: tuple[int, ...]
) -> None:
    made = Rule("odd", 0.1, (Odd(),))
    params = [Param(f"p{i}", shape) for i, shape in enumerate(shapes)]
    memory = made.memory({p.name: torch.zeros(p.shape) for p in params})
    assert {name: flat.dtype for name, flat in memory.items()} == {
        "m": torch.float32,
        "rows": torch.float32,
        "seed": torch.int64,
    }
    memory = {
        name: torch.arange(math.prod(peers) * flat.numel()).view(*peers, -1).to(flat.dtype)
        for name, flat in memory.items()
    }
    views = made.views(memory, params)
    for own, param in zip(views, params, strict=True):
        assert tuple(own["m"].shape) == (*peers, *param.shape)
        assert tuple(own["rows"].shape) == (*peers, *param.shape[:1])
        assert tuple(own["seed"].shape) == peers
    for name, flat in memory.items():
        together = torch.cat([own[name].reshape(*peers, -1) for own in views], dim=-1)
        assert torch.equal(together, flat)
        for own in views:
            own[name].zero_()
        assert not flat.any()


def test_each_parameter_of_each_peer_draws_its_own_seed() -> None:
    made = Rule("odd", 0.1, (Odd(),), seed=5)
    tensors = {"a": torch.zeros(2), "b": torch.zeros(2)}
    seeds = [made.memory(tensors, seed=peer)["seed"].tolist() for peer in range(10)]
    assert len({seed for pair in seeds for seed in pair}) == 20
    assert made.memory(tensors)["seed"].tolist() == seeds[5]


def test_a_rule_may_be_lengthened() -> None:
    longer = Rule("r", 0.5, (WeightDecay(0.1),), seed=3).then(Momentum(0.9))
    assert (longer.name, longer.lr, longer.seed) == ("r", 0.5, 3)
    assert longer.plan(Param("p", (2,))).chain == (WeightDecay(0.1), Momentum(0.9))


def test_a_chain_may_depend_on_the_parameter_and_is_made_once_for_each() -> None:
    asked: list[Param] = []

    def links(param: Param) -> tuple[Transform, ...]:
        asked.append(param)
        return (Momentum(0.9),) if len(param.shape) > 1 else ()

    made = Rule("r", 1.0, links)
    params = [Param("w", (2, 2)), Param("b", (2,))]
    tensors = [torch.ones(2, 2), torch.ones(2)]
    memory = made.memory({p.name: t for p, t in zip(params, tensors, strict=True)})
    assert memory["momentum"].numel() == 4
    for t in (1.0, 2.0):
        made.step(params, tensors, [torch.ones(2, 2), torch.ones(2)], made.views(memory, params), t, 1.0)
    assert asked == params
    assert not made.by_vmap(params)
    assert tensors[0].unique().tolist() == pytest.approx([1.0 - 1.0 - 1.9])
    assert tensors[1].unique().tolist() == [-1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("links", [(), (Odd(),)], ids=["element", "tensor"])
def test_stacked_peers_of_low_precision_go_the_way_of_separate_ones(dtype: torch.dtype, links: Any) -> None:
    made = AdamW.rule(0.01).then(*links)
    param = Param("p", (3, 4))
    random = torch.Generator().manual_seed(0)
    stacked = torch.randn(3, 3, 4, generator=random).to(dtype)
    single = [row.clone() for row in stacked]
    memories = [made.memory({"p": row}) for row in single]
    assert memories[0]["m"].dtype == torch.float32
    memory = {name: torch.stack([m[name] for m in memories]) for name in memories[0]}
    t, lr = torch.tensor([1.0, 4.0, 900.0], dtype=torch.float64), torch.tensor([0.01, 0.02, 0.05], dtype=torch.float64)
    for step in range(5):
        g = torch.randn(3, 3, 4, generator=random).to(dtype)
        made.step([param], [stacked], [g], made.views(memory, [param]), t + step, lr)
        for row in range(3):
            views = made.views(memories[row], [param])
            made.step([param], [single[row]], [g[row]], views, float(t[row]) + step, float(lr[row]))
    for row in range(3):
        torch.testing.assert_close(memory["v"][row], memories[row]["v"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(stacked[row], single[row])


@dataclass(frozen=True)
class UnitNorm(Transform):
    """u over the norm of all updates."""

    granularity: ClassVar[Granularity] = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        return {"square": u.square().sum()}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        return u / c.square.sqrt()


PARAMS = [Param("a", (2,)), Param("b", ())]


@pytest.mark.parametrize("peers", [0, 3])
def test_sums_go_over_all_parameters_of_each_peer_and_of_no_other(peers: int) -> None:
    """Also twice in a chain: what is of norm 1 is twice as long after `Twice`, and of norm 1 again."""

    @dataclass(frozen=True)
    class Twice(Transform):
        def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
            return 2.0 * u

    made = Rule("unit", 1.0, (UnitNorm(), Twice(), UnitNorm()))
    assert made.by_vmap(PARAMS)
    scale = torch.arange(1.0, peers + 1.0) if peers else torch.ones(())
    gradients = [scale[..., None] * torch.tensor([2.0, 3.0]), scale * 6.0]
    tensors = [torch.zeros_like(g) for g in gradients]
    t, lr = (torch.ones(peers).double(), torch.ones(peers).double()) if peers else (1.0, 1.0)
    made.step(PARAMS, tensors, gradients, [{}, {}], t, lr)
    expected = -torch.tensor([2.0, 3.0, 6.0]) / 7.0
    found = torch.cat([tensors[0], tensors[1][..., None]], dim=-1)
    torch.testing.assert_close(found, expected.expand(found.shape))


def test_chains_with_sums_at_other_places_are_refused() -> None:
    made = Rule("mixed", 1.0, lambda param: (UnitNorm(),) if param.name == "a" else (WeightDecay(0.1), UnitNorm()))
    tensors = [torch.zeros(2), torch.zeros(())]
    with pytest.raises(ValueError, match=r"^links: transforms that sum over all parameters must stand at the same"):
        made.step(PARAMS, tensors, [torch.ones(2), torch.ones(())], [{}, {}], 1.0, 1.0)
