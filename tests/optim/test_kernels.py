"""Steps by torch's fused kernels beside the same chains taken operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from shoal import optim
from shoal.optim import Cautious, XGrad
from shoal.optim.core import Optimizer, stepping
from shoal.optim.core import optimizer as core
from shoal.optim.core.stepping import Item
from tests.optim.catalogue import advance, parameters

SHAPES = {"large": (30, 70), "layer": (6, 4), "bias": (6,), "conv": (3, 2, 2, 2), "scale": (), "middle": (200,)}
BLOCK = 512
CASES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (optim.ADOPT, {}),
    (optim.ADOPT, {"decouple": True, "clip": None}),
    (optim.AMSBound, {"gamma": 0.1}),
    (optim.AMSGrad, {}),
    (optim.AdaBound, {"final_lr": 0.01, "gamma": 0.1}),
    (optim.AdaBound, {"final_lr": 0.0}),
    (optim.AdaBound, {"bias_correction": False, "sqrt_decay": True}),
    (optim.AdaMod, {"beta3": 0.9}),
    (optim.AdaMod, {"beta3": 0.9, "paper_form": True}),
    (optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    (optim.Adam, {}),
    (optim.AdamAtan2, {"a": 2.0, "b": 0.5}),
    (optim.AdamNC, {"beta1_decay": 0.9}),
    (optim.AdamP, {"delta": 0.5}),
    (optim.AdamW, {}),
    (optim.AdamW, {"amsgrad": True}),
    (optim.DiffGrad, {}),
    (optim.EXAdam, {"dynamic_step_size": True}),
    (optim.LaProp, {}),
    (optim.LaProp, {"amsgrad": True}),
    (optim.NAdam, {}),
    (optim.NAdam, {"decoupled_weight_decay": True}),
    (optim.RAdam, {}),
    (optim.RAdam, {"decoupled_weight_decay": True}),
    (optim.RMSProp, {"v0": 0.1}),
]
every = pytest.mark.parametrize(
    ("cls", "settings"), CASES, ids=[f"{cls.__name__}-{'-'.join(settings)}" for cls, settings in CASES]
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "BLOCK", BLOCK)


@contextmanager
def by(take: Callable[[Sequence[Item]], list[Item]]) -> Iterator[None]:
    """Steps with another idea of what kernels leave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "not_fused", take)
        yield


@contextmanager
def watched() -> Iterator[list[int]]:
    """How many parameters kernels leave at each step."""
    left: list[int] = []

    def take(items: Sequence[Item]) -> list[Item]:
        rest = stepping.not_fused(items)
        left.append(len(rest))
        return rest

    with by(take):
        yield left


def grouped(cls: type[Optimizer], settings: dict[str, Any], params: dict[str, Any]) -> Optimizer:
    """With weight decay, and the last three in a group of their own that goes up, without."""
    pairs = list(params.items())
    own = {"lr": 0.003, "weight_decay": 0.0, "maximize": True}
    made: Any = cls
    return made([{"params": pairs[:3]}, {"params": pairs[3:], **own}], **{"lr": 0.01, "weight_decay": 0.1, **settings})  # type: ignore[no-any-return]


def run(optimizer: Optimizer, params: dict[str, Any], steps: range) -> None:
    """Steps with missing gradients, and two without a learning rate."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in steps:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = 0.0 if step in (7, 8) else rate / (1.0 + 0.02 * step)
        advance(optimizer, params, range(step, step + 1), skip=lambda step, i: (step + i) % 5 == 4)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def close(a: dict[str, Tensor], b: dict[str, Tensor], dtype: torch.dtype) -> None:
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    for name in a:
        scale = max(1.0, float(b[name].detach().abs().max()))
        assert float((a[name] - b[name]).detach().abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@every
def test_a_kernel_takes_the_steps_of_the_chain(cls: Any, settings: dict[str, Any], dtype: torch.dtype) -> None:
    kernels, plain = (parameters(dtype, shapes=SHAPES) for _ in range(2))
    first, second = grouped(cls, settings, kernels), grouped(cls, settings, plain)
    with watched() as left:
        run(first, kernels, range(55))
    assert left.count(0) >= 45, left
    with by(list):
        run(second, plain, range(55))
    close(kernels, plain, dtype)
    for p, q in zip(kernels.values(), plain.values(), strict=True):
        slots = [name for name, value in first.state[p].items() if isinstance(value, Tensor)]
        assert first.state[p].keys() == second.state[q].keys()
        close({n: first.state[p][n] for n in slots}, {n: second.state[q][n] for n in slots}, dtype)


@every
def test_either_goes_on_with_the_state_of_the_other(cls: Any, settings: dict[str, Any]) -> None:
    ends = []
    for halves in ((list, stepping.not_fused), (stepping.not_fused, list), (list, list)):
        params = parameters(shapes=SHAPES)
        optimizer = grouped(cls, settings, params)
        with by(halves[0]):
            run(optimizer, params, range(15))
        again = grouped(cls, settings, params)
        again.load_state_dict(optimizer.state_dict())
        with by(halves[1]):
            run(again, params, range(15, 30))
        ends.append(params)
    *others, plain = ends
    for other in others:
        close(other, plain, torch.float64)


@every
def test_low_precision_is_left_to_the_chain(cls: Any, settings: dict[str, Any]) -> None:
    params = parameters(torch.bfloat16, shapes=SHAPES)
    optimizer = grouped(cls, settings, params)
    with watched() as left:
        advance(optimizer, params, range(8))
    assert left == [len(params)] * 8


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (optim.ADOPT, {"betas": (0.0, 0.999)}),
        (optim.AMSGrad, {"sqrt_decay": True}),
        (optim.Adagrad, {"eps": 0.0}),
        (optim.Adam, {"v0": 0.1}),
        (optim.AdamAtan2, {"b": 4.0, "betas": (0.1, 0.999)}),
        (optim.AdamNC, {"eps": 0.0}),
        (optim.AdamNC, {"box": (-1.0, 1.0)}),
        (optim.AdamP, {"nesterov": True}),
        (optim.LaProp, {"centered": True}),
        (optim.LaProp, {"lr": 0.0}),
        (optim.RMSProp, {"centered": True}),
        (optim.RMSProp, {"eps_in_root": True}),
        (optim.RMSProp, {"momentum": 0.9}),
    ],
)
def test_what_no_kernel_does_is_left_to_the_chain(cls: Any, settings: dict[str, Any]) -> None:
    params = parameters(shapes=SHAPES)
    optimizer = cls(params.values(), **settings)
    with watched() as left:
        advance(optimizer, params, range(8))
    assert left == [len(params)] * 8


@pytest.mark.parametrize("wrap", [Cautious, XGrad])
@pytest.mark.parametrize("cls", [optim.AdaBound, optim.AdamW, optim.LaProp, optim.RMSProp])
def test_wrapped_chains_are_taken_operation_by_operation(cls: Any, wrap: Any) -> None:
    params = parameters(shapes=SHAPES)
    optimizer = wrap(cls(params.values(), weight_decay=0.1))
    with watched() as left:
        advance(optimizer, params, range(8))
    assert left == [len(params)] * 8


@every
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_its_entry(cls: Any, settings: dict[str, Any], bad: float) -> None:
    """Scratch carries nothing from one block to the next."""
    spoilt, sound = (parameters(torch.float32, shapes=SHAPES) for _ in range(2))
    for params, value in ((spoilt, bad), (sound, 0.5)):
        optimizer = cls(params.values(), **settings)
        for step in range(8):
            random = torch.Generator().manual_seed(step)
            for p in params.values():
                p.grad = torch.randn(p.shape, generator=random)
            params["large"].grad[3, 4] = params["layer"].grad[1, 1] = value  # type: ignore[index]
            optimizer.step()
    for name, p in spoilt.items():
        touched = torch.zeros(p.shape, dtype=torch.bool)
        if name in ("large", "layer"):
            touched[(3, 4) if name == "large" else (1, 1)] = True
            assert not torch.isfinite(p[touched]).any() or cls is optim.ADOPT
        if cls is optim.AdamP and touched.any():  # which looks at the whole tensor
            continue
        assert torch.equal(p[~touched], sound[name][~touched])


@every
def test_gradients_stay_as_they_are(cls: Any, settings: dict[str, Any]) -> None:
    params = parameters(torch.float32, shapes=SHAPES)
    optimizer = grouped(cls, settings, params)
    for step in range(8):
        random = torch.Generator().manual_seed(step)
        given = [torch.randn(p.shape, generator=random) for p in params.values()]
        for p, g in zip(params.values(), given, strict=True):
            p.grad = g.clone()
        optimizer.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(params.values(), given, strict=True))  # type: ignore[arg-type]
