"""Rules against torch's own optimizers, and the same rule on one model and on a stack of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.optim import SGD, Adam, AdamW, DecoupledDecay, Momentum, Param, Rule, WeightDecay
from shoal.optim.core.stacked import LARGE
from shoal.tensors.random import key, normal

SHAPES = ((5, 3), (3,), ())
PARAMS = [Param(f"p{i}", shape) for i, shape in enumerate(SHAPES)]
Maker = Callable[[list[Tensor]], torch.optim.Optimizer]
PAIRS: dict[str, tuple[Rule, Maker]] = {
    "sgd": (SGD.rule(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "decay": (SGD.rule(0.1, weight_decay=0.3), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3)),
    "momentum": (SGD.rule(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "dampening": (
        SGD.rule(0.1, momentum=0.9, dampening=0.4),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    ),
    "nesterov": (
        SGD.rule(0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (Adam.rule(0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam, other rates": (
        Adam.rule(0.1, betas=(0.5, 0.7), eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.7), eps=1e-3),
    ),
    "adam without moments": (
        Adam.rule(0.1, betas=(0.0, 0.0), eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.0), eps=1e-3),
    ),
    "adam with coupled decay": (
        Adam.rule(0.01, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.2),
    ),
    "adamw": (AdamW.rule(0.01, weight_decay=0.2), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.2)),
}


def draws(name: str, step: int, shape: Sequence[int]) -> Tensor:
    return normal(key(1, name, step, len(shape)), tuple(shape), dtype=torch.float64)


class Walk:
    """One tensor under a rule."""

    def __init__(self, rule: Rule, p: Tensor, *, rows: bool = False) -> None:
        self.rule, self.p = rule, p
        self.param = Param("p", tuple(p.shape[1:] if rows else p.shape))
        self.memory = (
            rule.memory({"p": p})
            if not rows
            else {name: torch.stack([rule.memory({"p": r})[name] for r in p]) for name in rule.memory({"p": p[0]})}
        )

    def step(self, g: Tensor, t: float | Tensor, lr: float | Tensor | None = None) -> Tensor:
        rate = self.rule.lr if lr is None else lr
        self.rule.step([self.param], [self.p], [g], self.rule.views(self.memory, [self.param]), t, rate)
        return self.p


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_goes_the_way_of_torchs_optimizer(name: str) -> None:
    rule, make = PAIRS[name]
    ours = [draws("start", 0, shape) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.clone()) for p in ours]
    optimizer = make(theirs)  # type: ignore[arg-type]
    state = rule.views(rule.memory({p.name: tensor for p, tensor in zip(PARAMS, ours, strict=True)}), PARAMS)
    for t in range(1, 101):
        gradients = [draws("gradient", t, shape) for shape in SHAPES]
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
        rule.step(PARAMS, ours, gradients, state, float(t), rule.lr)
        for mine, p in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, p.detach(), rtol=1e-12, atol=1e-12)


def stacked_and_single(
    rule: Rule, rows: int, shape: tuple[int, ...], steps: Sequence[int], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """(Rows of a stack, each row in a stack of two) after a few steps; rows differ in rate and step number."""
    start = normal(key(2, "start"), (rows, *shape), dtype=torch.float64).to(dtype)
    rates = torch.linspace(0.5, 1.5, rows, dtype=torch.float64).mul_(rule.lr)
    first = torch.tensor(list(steps), dtype=torch.float64)

    def after(chosen: list[int]) -> Tensor:
        walk = Walk(rule, start[chosen].clone(), rows=True)
        for s in range(3):
            g = normal(key(3, "gradient", s), (rows, *shape), dtype=torch.float64).to(dtype)[chosen]
            walk.step(g, first[chosen] + s + 1, rates[chosen])
        return walk.p

    together = after(list(range(rows)))
    return list(together), [after([i, i])[0] for i in range(rows)]


@settings(max_examples=30)
@given(
    name=st.sampled_from(sorted(PAIRS)),
    steps=st.lists(st.integers(0, 3000), min_size=2, max_size=40),
    shape=st.sampled_from([(), (1,), (3,), (2, 5), (17,)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_row_of_a_stack_gets_the_bits_that_it_gets_elsewhere(
    name: str, steps: list[int], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    together, alone = stacked_and_single(PAIRS[name][0], len(steps), shape, steps, dtype)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", ["adamw", "nesterov"])
def test_a_row_of_a_stack_of_large_parameters_gets_its_bits_too(name: str) -> None:
    together, alone = stacked_and_single(PAIRS[name][0], 3, (LARGE + 77,), [0, 5, 2000], torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_the_first_step_of_adam_is_the_sign_of_the_gradient() -> None:
    """m^ / sqrt(v^) = g / |g| for t = 1, whatever the decay rates: to all digits, also for 1 - beta2 = 1e-9."""
    g = draws("gradient", 0, (40,))
    for betas in ((0.9, 0.999), (0.5, 1 - 1e-9), (0.0, 0.99)):
        p = Walk(Adam.rule(1.0, betas=betas, eps=1e-300), torch.zeros(40, dtype=torch.float64)).step(g, 1.0)
        torch.testing.assert_close(p, -g.sign(), rtol=1e-12, atol=0.0)


@given(mu=st.floats(0.0, 0.99), lam=st.floats(0.0, 1.0), lr=st.floats(0.0, 1.0))
def test_reductions(mu: float, lam: float, lr: float) -> None:
    """Without momentum or decay the chain is plain SGD; Nesterov's first step is (1 + mu) times the plain one."""
    start, g = draws("start", 0, (6,)), draws("gradient", 0, (6,))

    def first(rule: Rule) -> Tensor:
        return Walk(rule, start.clone()).step(g, 1.0)

    plain = start - lr * g
    for rule in (SGD.rule(lr), Rule("", lr, (Momentum(mu),)), Rule("", lr, (WeightDecay(0.0), DecoupledDecay(0.0)))):
        torch.testing.assert_close(first(rule), plain, rtol=1e-12, atol=1e-14)
    nesterov = first(Rule("", lr, (Momentum(mu, nesterov=True),)))
    torch.testing.assert_close(nesterov, start - lr * (1.0 + mu) * g, rtol=1e-12, atol=1e-14)
    decoupled = first(Rule("", lr, (DecoupledDecay(lam),)))
    torch.testing.assert_close(decoupled, (1.0 - lr * lam) * start - lr * g, rtol=1e-12, atol=1e-14)
    coupled = first(Rule("", lr, (WeightDecay(lam),)))
    torch.testing.assert_close(coupled, decoupled, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "steps"), [("momentum", 400), ("nesterov", 400), ("adam, other rates", 4000)])
def test_a_quadratic_is_minimised(name: str, steps: int) -> None:
    """1/2 x' diag(a) x + decay: the optimum is 0."""
    rule = PAIRS[name][0]
    curvature = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    walk = Walk(rule, torch.ones(3, dtype=torch.float64))
    for t in range(1, steps + 1):
        walk.step(curvature * walk.p, float(t), rule.lr * min(1.0, 50.0 / t))
    assert float(walk.p.norm()) < 1e-3


def test_memory_holds_each_slot_of_all_parameters_one_after_the_other() -> None:
    tensors = {p.name: torch.ones(p.shape) for p in PARAMS}
    assert SGD.rule().memory(tensors) == {}
    assert SGD.rule(momentum=0.9, weight_decay=0.1).memory(tensors).keys() == {"momentum"}
    memory = AdamW.rule(weight_decay=0.1).memory(tensors)
    assert {name: (tuple(m.shape), m.dtype) for name, m in memory.items()} == {
        "m": ((19,), torch.float32),
        "v": ((19,), torch.float32),
    }
    views = AdamW.rule().views(memory, PARAMS)
    assert [tuple(own["v"].shape) for own in views] == list(SHAPES)
    views[1]["v"].fill_(2.0)
    assert memory["v"].tolist() == [0.0] * 15 + [2.0] * 3 + [0.0]


def test_two_transforms_of_a_kind_keep_their_state_apart() -> None:
    rule = Rule("twice", 1.0, (Momentum(0.5), Momentum(0.25)))
    walk = Walk(rule, torch.zeros(2, dtype=torch.float64))
    walk.step(torch.ones(2, dtype=torch.float64), 1.0)
    walk.step(torch.ones(2, dtype=torch.float64), 2.0)
    assert walk.memory.keys() == {"momentum", "momentum_2"}
    assert walk.memory["momentum"].tolist() == [1.5, 1.5]
    assert walk.memory["momentum_2"].tolist() == [1.75, 1.75]


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (SGD, {"lr": -0.1}, "lr"),
        (SGD, {"lr": float("nan")}, "lr"),
        (SGD, {"lr": float("inf")}, "lr"),
        (SGD, {"momentum": 1.0}, "momentum"),
        (SGD, {"momentum": -0.1}, "momentum"),
        (SGD, {"weight_decay": -1.0}, "weight_decay"),
        (Adam, {"betas": (1.0, 0.9)}, "betas"),
        (Adam, {"eps": float("nan")}, "eps"),
        (Adam, {"speed": 1.0}, "speed"),
    ],
)
def test_bad_settings_are_named(make: type[SGD] | type[Adam], options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make.rule(**options)


def test_nesterov_without_momentum_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="nesterov"):
        SGD([torch.nn.Parameter(torch.zeros(2))], nesterov=True)
