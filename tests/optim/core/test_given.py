"""What a transform is given beside the gradient: whole, block by block, compiled, stacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from shoal.optim import AdamW, Param, Rule, Slot, Transform, chain
from shoal.optim.core import Scalars, State, rule


@dataclass(frozen=True)
class Scaled(Transform):
    """The update times a running sum of what is given."""

    factor: float = 2.0
    given: ClassVar[tuple[str, ...]] = ("weights",)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """A sum, whose name is that of what is given."""
        return (Slot("total"),)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Scale."""
        return u * s.total.add_(s.weights) * c.factor


Mine = chain(Scaled(), lr=0.1)


@pytest.mark.parametrize("compile", [False, True])
def test_it_reaches_the_transform_whole_in_blocks_and_compiled(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "BLOCK", 64)
    ps = [nn.Parameter(torch.ones(200, dtype=torch.float64)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = Mine([{"params": ps, "compile": compile}])
    total = [torch.zeros_like(p) for p in ps]
    expected = [p.detach().clone() for p in ps]
    for step in range(3):
        weights = [torch.linspace(0.5, 1.5 + step, p.numel(), dtype=torch.float64) for p in ps]
        for i, p in enumerate(ps):
            p.grad = torch.full_like(p, step + 1.0)
            total[i] += weights[i]
            expected[i] -= 0.1 * 2.0 * (step + 1.0) * total[i]
        optimizer.step(given={"weights": weights})
        for p, q in zip(ps, expected, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-12, atol=0)
    assert not any("weights" in state for state in optimizer.state.values())


def test_stacked_models_are_given_their_own() -> None:
    params = [Param("w", (3,))]
    made = Rule("mine", 0.1, (Scaled(),))
    start, weights = torch.ones(2, 3), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    memory = {"total": torch.zeros(2, 3)}
    t, lr = torch.ones(2, dtype=torch.float64), torch.tensor([0.1, 0.2], dtype=torch.float64)
    made.step(params, [start], [torch.ones(2, 3)], made.views(memory, params), t, lr, given=[{"weights": weights}])
    torch.testing.assert_close(start, 1.0 - 2.0 * lr.float()[:, None] * weights)
    assert list(made.given(params)) == ["weights"]
    assert AdamW.rule().given(params) == {}


def test_a_slot_of_the_same_name_is_kept_apart() -> None:
    @dataclass(frozen=True)
    class Kept(Transform):
        @property
        def slots(self) -> tuple[Slot, ...]:
            return (Slot("weights"),)

        def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
            return s.weights.add_(u)

    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    optimizer = chain(Kept(), Scaled(), lr=1.0)([p])
    optimizer.step(given={"weights": [torch.full((2,), 3.0)]})
    assert torch.equal(p.detach(), torch.full((2,), -6.0))
    assert torch.equal(optimizer.state[p]["weights_2"], torch.ones(2))
