"""Rotations: orthogonal, keyed, mixing; optimizers in rotated coordinates against the same with R written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.optim.adafisher import AdaFisherW
from shoal.optim.adahessian import AdaHessian
from shoal.optim.adalomo import LOMO
from shoal.optim.adam import Adam
from shoal.optim.adamw import AdamW
from shoal.optim.cautious import Cautious, cautious
from shoal.optim.core import Param
from shoal.optim.lion import Lion
from shoal.optim.lookahead import Lookahead, lookahead
from shoal.optim.recombined import chain
from shoal.optim.rotated import Rotated, Rotation, rotated
from shoal.optim.sania import SANIA
from shoal.optim.sgd import SGD
from shoal.optim.soap import SOAP
from shoal.optim.ttur import ttur
from shoal.optim.xgrad import XGrad
from shoal.tensors.random import key, normal
from tests.optim.following import SHAPES, follow, quadratic
from tests.optim.stacking import assert_stacks
from tests.optim.wrapped import Wrapped
from tests.restatements.optimizers import blockwise_adam as restated

SIZES = [1, 2, 7, 16, 17, 50, 101, 300]


def matrix(rotation: Rotation) -> Tensor:
    """R written out, [n, n]."""
    return torch.stack([rotation(e) for e in torch.eye(rotation.n, dtype=torch.float64)], 1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("side", [1, 4, 16, 256])
def test_a_rotation_is_orthogonal_and_its_way_back_the_transpose(n: int, side: int) -> None:
    rotation = Rotation(n, 5, side)
    r = matrix(rotation)
    torch.testing.assert_close(r @ r.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    x = normal(1, n, dtype=torch.float64)
    torch.testing.assert_close(rotation.back(x), r.T @ x, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.back(rotation(x)), x, rtol=0, atol=1e-12)


def test_the_key_decides() -> None:
    x = normal(1, 30)
    assert torch.equal(Rotation(30, 5)(x), Rotation(30, 5)(x))
    assert not torch.allclose(Rotation(30, 5)(x), Rotation(30, 6)(x))


def test_every_coordinate_goes_into_as_many_others_as_there_are_in_its_stretch() -> None:
    r = matrix(Rotation(300, 2, 8)).abs() > 1e-12  # four stretches of 8 x 8, 6 x 7, and 2
    assert sorted(set(r.sum(0).tolist())) == [2, 42, 64]
    assert (matrix(Rotation(50, 2)).abs() > 1e-12).all()


def test_a_dense_rotation_is_spread_as_haars_measure_is() -> None:
    """Squares of an entry have mean 1 / n and, for n = 3, are those of a uniform number in [-1, 1]."""
    entries = torch.stack([matrix(Rotation(3, k)).flatten() for k in range(800)])
    assert float((entries.square().mean(0) - 1 / 3).abs().max()) < 0.04
    assert float((entries.abs() < 0.5).double().mean() - 0.5) == pytest.approx(0.0, abs=0.03)


def path(optimizer: Any, p: nn.Parameter, h: Tensor, steps: int = 30) -> Tensor:
    for _ in range(steps):
        p.grad = h @ p.detach()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("make", [Adam, Lion, torch.optim.Adam])
def test_a_rotated_optimizer_is_the_optimizer_on_the_rotated_loss(make: Any) -> None:
    n, h = 20, normal(3, (20, 20), dtype=torch.float64)
    h, start = h @ h.T, normal(4, 20, dtype=torch.float64)
    p, y = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = Rotated(make([p], lr=0.05), rotation_seed=9)
    r = matrix(Rotation(n, key(9, "rotation")))
    y.data.copy_(r @ start)
    ours = path(optimizer, p, h)
    theirs = r.T @ path(make([y], lr=0.05), y, r @ h @ r.T)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    plain = nn.Parameter(start.clone())
    assert not torch.allclose(ours, path(make([plain], lr=0.05), plain, h), atol=1e-2)


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_rotated_adam_goes_the_restated_way(weight_decay: float) -> None:
    n = sum(int(np.prod(shape)) for shape in SHAPES)
    turn = matrix(Rotation(n, key(4, "rotation"), 5)).T.numpy()
    both: dict[str, Any] = {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": weight_decay}
    follow(
        lambda p: Rotated(AdamW(p, **both), rotation_seed=4, side=5),
        lambda p: restated.rotated_adam(p, turn, **both),
        quadratic(),
        rtol=1e-8,
    )


@pytest.mark.parametrize("within", ["model", "tensor"])
def test_sgd_takes_the_same_steps(within: str) -> None:
    ends = []
    for wrap in (lambda o: o, lambda o: Rotated(o, within=within)):
        ps = [nn.Parameter(normal(i, 9, dtype=torch.float64)) for i in range(2)]
        optimizer = wrap(SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.2))
        for step in range(20):
            for i, p in enumerate(ps):
                p.grad = torch.cos(p.detach() + step + i)
            optimizer.step()
        ends.append(torch.cat([p.detach() for p in ps]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_within_the_model_a_missing_gradient_is_a_gradient_of_zero() -> None:
    ends = []
    for missing in (None, torch.zeros(4, dtype=torch.float64)):
        ps = [nn.Parameter(normal(i, 4, dtype=torch.float64)) for i in range(2)]
        optimizer = Rotated(Adam(ps, lr=0.1))
        for _ in range(3):
            ps[0].grad, ps[1].grad = torch.ones(4, dtype=torch.float64), missing
            optimizer.step()
        ends.append(torch.cat([p.detach() for p in ps]))
        assert ps[1].grad is missing
    assert torch.equal(*ends)


def test_slow_weights_are_shown_in_the_models_coordinates() -> None:
    """SGD does not feel the rotation, and so neither do its slow weights."""
    shown = []
    for wrap in (lambda o: o, Rotated):
        ps = [nn.Parameter(normal(i, 5, dtype=torch.float64)) for i in range(2)]
        optimizer: Any = wrap(Lookahead(SGD(ps, lr=0.1), k=3))  # type: ignore[operator]
        for step in range(8):
            for i, p in enumerate(ps):
                p.grad = torch.cos(p.detach() + step + i)
            optimizer.step()
        before = [p.detach().clone() for p in ps]
        optimizer.eval()
        shown.append(torch.cat([p.detach() for p in ps]))
        optimizer.train()
        assert all(torch.equal(p, q) for p, q in zip(ps, before, strict=True))
    torch.testing.assert_close(*shown, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("within", ["model", "tensor"])
@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, within: str) -> None:
    wrapped: Any = Wrapped(cls, lambda o: Rotated(o, within=within), lambda rule: rotated(rule, within=within))
    assert_stacks(wrapped, {"lr": 0.02, "weight_decay": 0.1})


def test_what_goes_around_a_rotated_rule_acts_in_its_coordinates() -> None:
    wrapped: Any = Wrapped(
        AdamW,
        lambda o: Rotated(Lookahead(Cautious(o), k=3)),
        lambda rule: lookahead(cautious(rotated(rule)), k=3),
    )
    assert_stacks(wrapped, {"lr": 0.02, "weight_decay": 0.1})


def test_what_does_not_go_together_is_refused() -> None:
    p = [nn.Parameter(torch.zeros(3))]
    for make, message in (
        (lambda: Rotated(XGrad(SGD(p))), "optimizer: got an XGrad"),
        (lambda: Cautious(Rotated(SGD(p))), "optimizer: got Rotated, around which nothing stands"),
        (lambda: Rotated(LOMO(p)), "optimizer: got LOMO, which steps one tensor at a time"),
        (lambda: rotated(rotated(SGD.rule())), "rule: got one in coordinates of its own"),
        (lambda: rotated(ttur(SGD.rule(), fast="max.")), 'within: got "model" for a rule with several rates'),
        (lambda: ttur(rotated(SGD.rule()), fast="max."), "got a rule in coordinates of its own"),
        (lambda: chain(rotated(SGD.rule())), "links: got Rule"),
        (lambda: Rotated(SGD(p), within="row"), "within: got 'row'"),
        (lambda: Rotated(SGD(p), rotation_seed=-1), "seed: got -1"),
        (lambda: rotated(SGD.rule(), side=0), "side: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    optimizer = Rotated(SGD(p, momentum=0.9))
    p[0].grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(ValueError, match="param_group: got one after the first step"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def test_stacked_peers_turn_a_rule_that_acts_at_some_steps_as_each_by_itself() -> None:
    rule = rotated(SOAP.rule(lr=0.01, precondition_frequency=3), rotation_seed=4)
    shapes = {"a": (4, 4), "b": (4,)}
    params = [Param(name, shape) for name, shape in shapes.items()]
    single = [
        {name: normal(key(5, name, i), shape, dtype=torch.float64) for name, shape in shapes.items()} for i in range(3)
    ]
    stack = [torch.stack([peer[name] for peer in single]) for name in shapes]
    memories = [rule.memory(peer) for peer in single]
    stacked = rule.views({k: torch.stack([m[k] for m in memories]) for k in memories[0]}, params)
    own = [rule.views(memory, params) for memory in memories]
    for t in range(1, 8):
        gradients = [normal(key(6, name, t), (3, *shape), dtype=torch.float64) for name, shape in shapes.items()]
        each = torch.ones(3, dtype=torch.float64)
        rule.step(params, stack, gradients, stacked, t * each, 0.01 * each)
        for i, peer in enumerate(single):
            rule.step(params, list(peer.values()), [g[i] for g in gradients], own[i], float(t), 0.01)
    for i, peer in enumerate(single):
        for together, alone in zip(stack, peer.values(), strict=True):
            torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [SGD.rule, Adam.rule, SOAP.rule, SANIA.rule])
def test_weights_that_a_turned_rule_leaves_stay_bit_for_bit(make: Any) -> None:
    rule, shape = rotated(make()), (8, 6)
    param = Param("a", shape)
    p, stack = normal(3, shape), normal(4, (3, *shape))
    before, stack_before = p.clone(), stack.clone()
    own = rule.views(rule.memory({"a": p}), [param])
    memories = [rule.memory({"a": row}) for row in stack]
    stacked = rule.views({k: torch.stack([m[k] for m in memories]) for k in memories[0]}, [param])
    each = torch.ones(3, dtype=torch.float64)
    for t in range(1, 5):
        rule.step([param], [p], [normal(key(5, t), shape)], own, float(t), 0.0, loss=1.0)
        rule.step([param], [stack], [normal(key(6, t), stack.shape)], stacked, t * each, 0.0 * each, loss=each)
    assert torch.equal(p, before)
    assert torch.equal(stack, stack_before)


@pytest.mark.parametrize("within", ["model", "tensor"])
def test_weights_that_the_optimizer_leaves_stay_bit_for_bit(within: str) -> None:
    p = [nn.Parameter(normal(i, (16, 16))) for i in range(2)]
    before = [x.detach().clone() for x in p]
    optimizer = Rotated(SGD(p, lr=0.0), within=within)
    for _ in range(50):
        for x in p:
            x.grad = torch.zeros_like(x)
        optimizer.step()
    for x, y in zip(p, before, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("make", "name", "what"),
    [
        (lambda p: AdaHessian(p), "AdaHessian", "curvature"),
        (lambda p: SANIA(p, preconditioner="newton"), "SANIA", "newton"),
        (lambda p: Cautious(SANIA(p, preconditioner="hutchinson")), "SANIA", "curvature"),
        (lambda p: AdaFisherW(p), "AdaFisherW", "inputs, outputs"),
    ],
)
def test_optimizers_that_need_more_than_the_gradient_are_refused(make: Any, name: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"optimizer: got {name}, which is given {what} in the model's own"):
        Rotated(make([nn.Parameter(torch.ones(3))]))


def test_an_optimizer_that_comes_to_need_more_than_the_gradient_is_refused_before_anything_is_turned() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = Rotated(SANIA([p]))
    optimizer.param_groups[0]["preconditioner"] = "newton"
    with pytest.raises(ValueError, match="optimizer: got SANIA, which is given newton"):
        optimizer.step(loss=p.square().sum())
    assert p.tolist() == [1.0, 2.0, 3.0]


def test_frozen_parameters_are_refused_where_they_would_be_mixed_and_stay_elsewhere() -> None:
    def made(within: str) -> tuple[list[nn.Parameter], Rotated]:
        ps = [nn.Parameter(normal(i, 5)) for i in range(2)]
        return ps, Rotated(SGD(ps, lr=0.1, weight_decay=0.1), within=within)

    ps, optimizer = made("model")
    ps[1].requires_grad_(False)
    ps[0].grad = torch.ones(5)
    before = [p.detach().clone() for p in ps]
    message = r'within: got "model" with a frozen parameter of shape \(5,\); "tensor" is allowed'
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert all(map(torch.equal, ps, before))
    with pytest.raises(ValueError, match=message):
        Rotated(SGD(ps))
    ps, optimizer = made("tensor")
    ps[1].requires_grad_(False)
    ps[0].grad = torch.ones(5)
    optimizer.step()
    assert not torch.equal(ps[0], before[0])
    assert torch.equal(ps[1], before[1])
