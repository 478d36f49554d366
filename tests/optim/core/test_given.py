"""What a transform is given beside the gradient: whole, block by block, compiled, stacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from shoal.optim import SANIA, SOAP, AdaFisher, AdaHessian, Adam, AdamW, Param, Rule, Slot, Transform, chain
from shoal.optim.core import Scalars, State, stepping
from shoal.optim.rotated import rotated


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
    monkeypatch.setattr(stepping, "BLOCK", 64)
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


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (AdaHessian.rule(), "adahessian, which is given curvature"),
        (SANIA.rule(preconditioner="newton"), "sania, which is given newton"),
        (AdaFisher.rule(), "adafisher, which is given inputs, outputs"),
        (chain(AdaHessian.rule(), SOAP.rule()).rule(), "chained, which is given curvature"),
    ],
)
@pytest.mark.parametrize("within", ["model", "tensor"])
def test_rules_that_are_given_more_than_the_gradient_have_no_other_coordinates(
    made: Rule, named: str, within: str
) -> None:
    """Nobody turns what they are given: the diagonal of R H R' is not that of H."""
    turned, param = rotated(made, within=within), Param("w", (3, 3))
    for ask in (lambda: turned.memory({"w": torch.zeros(3, 3)}), lambda: turned.given([param])):
        with pytest.raises(ValueError, match=f"^frame: got one for {named} .* allowed"):
            ask()
    assert rotated(Adam.rule(), within=within).memory({"w": torch.zeros(3, 3)}).keys() == {"m", "v"}


@pytest.mark.parametrize("where", ["first", "last"])
def test_parameters_of_one_shape_are_given_their_own_where_they_are_stepped_as_one_stack(where: str) -> None:
    """As if each were another model's."""
    links = [AdaHessian.rule(average="none"), SOAP.rule(precondition_frequency=2)]
    Mine = chain(*(links if where == "first" else reversed(links)), lr=0.01)
    random = torch.Generator().manual_seed(0)
    starts = [torch.randn(3, 3, generator=random, dtype=torch.float64) for _ in range(3)]
    together, alone = ([nn.Parameter(p.clone()) for p in starts] for _ in range(2))
    optimizers = [Mine(together), *(Mine([p]) for p in alone)]
    for _ in range(6):
        further = [torch.rand(3, 3, generator=random, dtype=torch.float64) for _ in starts]
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn(3, 3, generator=random, dtype=torch.float64)
            q.grad = p.grad.clone()
        before = [x.clone() for x in further]
        optimizers[0].step(given={"curvature": further})
        for optimizer, x in zip(optimizers[1:], further, strict=True):
            optimizer.step(given={"curvature": [x]})
        assert all(torch.equal(x, y) for x, y in zip(further, before, strict=True))
    for p, q, start in zip(together, alone, starts, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
        assert float((p.detach() - start).abs().max()) > 1e-3


def test_those_that_are_given_nothing_are_apart_from_those_that_are() -> None:
    @dataclass(frozen=True)
    class Times(Transform):
        stacked: ClassVar[bool] = True
        given: ClassVar[tuple[str, ...]] = ("weights",)

        def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
            return u if s.weights is None else u * s.weights

    ps = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
    for p in ps:
        p.grad = torch.ones(2)
    chain(Times(), lr=1.0)(ps).step(given={"weights": [torch.full((2,), 2.0), None, torch.full((2,), 3.0), None]})
    assert [p[0].item() for p in ps] == [-2.0, -1.0, -3.0, -1.0]


@pytest.mark.parametrize("kind", ["hutchinson", "newton"])
def test_settings_that_change_what_is_asked_for_count_from_the_next_step_on(kind: str) -> None:
    p, q = (nn.Parameter(torch.linspace(0.5, 2.0, 5, dtype=torch.float64)) for _ in range(2))
    changed, fresh = SANIA([p]), SANIA([q], preconditioner=kind)
    changed.param_groups[0]["preconditioner"] = kind
    for step in range(2):
        changed.step(loss=(p**4).sum())
        fresh.step(loss=(q**4).sum())
        assert changed.state[p]["step"] == step + 1
        assert torch.equal(p, q)
    changed.param_groups[0]["preconditioner"] = "adagrad-sqr"
    assert not changed.needs_graph
    p.grad = torch.ones_like(p)
    changed.step(loss=1.0)


@pytest.mark.parametrize(
    ("make", "wrong", "message"),
    [
        (AdaHessian, {"curvature": [torch.tensor(1.0)]}, r"got curvature \(\) for parameter 0; .* \(2, 3\) is allowed"),
        (AdaHessian, {"curvature": [torch.ones(3)]}, r"got curvature \(3,\) for parameter 0; .* \(2, 3\) is allowed"),
        (AdaHessian, {"curvature": [2.0]}, r"got curvature 2.0 for parameter 0; a tensor of shape \(2, 3\) is allowed"),
        (AdaHessian, {"curvature": [torch.full((2, 3), torch.nan)]}, "got curvature with NaN or inf for parameter 0"),
        (AdaHessian, {"curvature": [torch.full((2, 3), torch.inf)]}, "got curvature with NaN or inf for parameter 0"),
        (AdaHessian, {"curvature": []}, "got 0 of curvature; one for each of 1 parameters is allowed"),
        (AdaHessian, {"newton": [torch.ones(2, 3)]}, "got 'newton' for AdaHessian; curvature is allowed"),
        (Adam, {"curvatur": [torch.ones(2, 3)]}, "got 'curvatur' for Adam; nothing is allowed"),
        (AdaFisher, {"input": [torch.ones(3)]}, "got 'input' for AdaFisher; inputs or outputs is allowed"),
        (AdaFisher, {"inputs": [torch.ones(2)]}, r"got inputs \(2,\) for parameter 0; .* \(3,\) is allowed"),
        (AdaFisher, {"outputs": [torch.ones(3)]}, r"got outputs \(3,\) for parameter 0; .* \(2,\) is allowed"),
    ],
)
def test_what_is_given_is_looked_at(make: Any, wrong: dict[str, Any], message: str) -> None:
    p = nn.Parameter(torch.zeros(2, 3))
    p.grad = torch.ones(2, 3)
    optimizer = make([p])
    with pytest.raises(ValueError, match=f"^given: {message}"):
        optimizer.step(given=wrong)
    assert torch.equal(p, torch.zeros(2, 3))
    assert not optimizer.state
