"""XGrad against its restatement, Nesterov's method, rates that change, and stacked peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.optim.adam import Adam
from shoal.optim.adamax import AdaMax
from shoal.optim.adamw import SGDW, AdamW
from shoal.optim.common import Momentum
from shoal.optim.core import Chain, Optimizer, Param, Rule
from shoal.optim.core.optimizer import Settings
from shoal.optim.rmsprop import RMSProp
from shoal.optim.sgd import SGD
from shoal.optim.velocity import Velocity
from shoal.optim.xgrad import XGrad, xgrad
from tests.optim.agreement import assert_compiles
from tests.optim.following import NETWORK_SHAPES, SHAPES, Gradients, missing, network, quadratic, starts
from tests.optim.stacking import assert_stacks
from tests.optim.wrapped import Wrapped
from tests.restatements.optimizers import adam as restated_adam
from tests.restatements.optimizers import adamw as restated_adamw
from tests.restatements.optimizers import xgrad as restated

MAKE: dict[str, tuple[Any, Any, Any]] = {
    "SGD": (lambda p: SGD(p, momentum=0.9, weight_decay=0.1), "SGD", restated.momentum_direction),
    "torch SGD": (
        lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.1),
        "SGD",
        restated.momentum_direction,
    ),
    "Adam": (Adam, "Adam", restated.adam_direction),
    "torch Adam": (torch.optim.Adam, "Adam", restated.adam_direction),
    "AdamW": (lambda p: AdamW(p, weight_decay=0.2), "AdamW", restated.adam_direction),
    "torch AdamW": (lambda p: torch.optim.AdamW(p, weight_decay=0.2), "AdamW", restated.adam_direction),
    "RMSProp": (lambda p: RMSProp(p, momentum=0.5), "RMSProp", restated.momentum_direction),
    "torch RMSprop": (lambda p: torch.optim.RMSprop(p, momentum=0.5), "RMSProp", restated.momentum_direction),
}
RESTATED: dict[str, Callable[..., Any]] = {
    "SGD": lambda p: restated.SGD(p, momentum=0.9, weight_decay=0.1),
    "Adam": restated_adam.Adam,
    "AdamW": lambda p: restated_adamw.AdamW(p, weight_decay=0.2, decay_times_lr=True),
    "RMSProp": lambda p: restated.RMSProp(p, momentum=0.5),
}


def follow_predictions(
    name: str, gradients: Gradients, rate: Callable[[int], float], ahead: float, shapes: Any = SHAPES, steps: int = 50
) -> None:
    """Assert that predicted and real weights are the restated ones; gradients are taken at each one's own."""
    ours, theirs, direction = MAKE[name]
    first = starts(shapes)
    parameters = [nn.Parameter(torch.from_numpy(p.copy())) for p in first]
    optimizer = XGrad(ours(parameters), prediction_steps=ahead)
    other = restated.XGrad(RESTATED[theirs](first), direction, prediction_steps=ahead)
    for step in range(steps):
        other.lr = rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.predict()
        assert_close(parameters, other.predicted())
        here = [p.detach().numpy().copy() for p in parameters]
        for p, g in zip(parameters, gradients(here, step), strict=True):
            p.grad = None if g is None else torch.from_numpy(np.array(g))
        optimizer.step()
        other.step(lambda ps, step=step: gradients(ps, step))  # type: ignore[misc]
        optimizer.eval()
        assert_close(parameters, other.params)
        optimizer.train()


def assert_close(parameters: list[nn.Parameter], expected: Any) -> None:
    for p, e in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), torch.from_numpy(np.asarray(e)), rtol=1e-8, atol=1e-9)


def path(rule: Rule) -> Tensor:
    """Where twelve steps of a rule lead."""
    p = torch.linspace(-1, 1, 5, dtype=torch.float64)
    params, memory = [Param("p", (5,))], rule.memory({"p": p})
    for step in range(12):
        g = torch.cos(torch.arange(5.0, dtype=torch.float64) * step) + p
        rule.step(params, [p], [g], rule.views(memory, params), step + 1.0, 0.1)
    return p


@pytest.mark.parametrize("name", MAKE)
@settings(max_examples=6)
@given(st.floats(1e-3, 0.03), st.floats(-0.5, 3.0))
def test_xgrad_goes_the_restated_way_while_gradients_are_missing_and_rates_change(
    name: str, lr: float, ahead: float
) -> None:
    follow_predictions(name, missing(quadratic(condition=10.0)), lambda step: lr * (1 + step % 3), ahead)


def test_a_network_is_trained_the_restated_way() -> None:
    follow_predictions("Adam", network(), lambda step: 0.02, 1.0, NETWORK_SHAPES)


@pytest.mark.parametrize("make", [SGD, torch.optim.SGD])
def test_momentum_steps_ahead_are_nesterovs_method(make: Any) -> None:
    p, q = (nn.Parameter(torch.linspace(-2, 1, 8, dtype=torch.float64)) for _ in range(2))
    ours = XGrad(make([p], lr=0.03, momentum=0.85), prediction_steps=0.85)
    theirs = torch.optim.SGD([q], lr=0.03, momentum=0.85, nesterov=True)
    curvature = torch.linspace(0.5, 20, 8, dtype=torch.float64)
    for _ in range(60):
        for x, optimizer in ((p, ours), (q, theirs)):
            x.grad = curvature * x.detach()
            optimizer.step()
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [SGD, AdamW, AdaMax, torch.optim.AdamW, torch.optim.SGD])
def test_nothing_ahead_is_the_optimizer(make: Any) -> None:
    """Torch's bit for bit; ours but for the rounding of fused kernels."""
    ends = []
    for wrap in (lambda o: o, lambda o: XGrad(o, prediction_steps=0.0)):
        p = nn.Parameter(torch.linspace(-1, 1, 33, dtype=torch.float64))
        optimizer = wrap(make([p], lr=0.1, weight_decay=0.1))  # type: ignore[no-untyped-call]
        for step in range(15):
            p.grad = torch.sin(p.detach() * 5 + step)
            optimizer.step()
        ends.append(p.detach())
    rounding = 0.0 if make.__module__.startswith("torch") else 1e-11
    torch.testing.assert_close(*ends, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("cls", [SGDW, AdamW, AdaMax])
def test_a_rule_with_nothing_ahead_is_the_rule_bit_for_bit(cls: Any) -> None:
    rule = cls.rule(weight_decay=0.1)
    assert torch.equal(path(xgrad(rule, 0.0)), path(rule))


@pytest.mark.parametrize("make", [Adam, torch.optim.Adam])
def test_real_weights_come_back_exactly(make: Any) -> None:
    """Whatever is done to the prediction meanwhile: a step of rate 0 leaves the real weights as they were."""
    p = nn.Parameter(torch.linspace(-1, 1, 50) * 1e4)
    optimizer = XGrad(make([p], lr=1e-3), prediction_steps=3.0)
    for step in range(5):
        p.grad = torch.sin(torch.arange(50.0) + step)
        optimizer.step()
    optimizer.eval()
    real = p.detach().clone()
    optimizer.train()
    assert not torch.equal(p.detach(), real)
    p.data.add_(0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(p.detach(), real)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.predict()  # the last update is not known any more
    assert torch.equal(p.detach(), real)


def test_predicting_again_is_refused_while_the_real_weights_are_shown() -> None:
    optimizer = XGrad(SGD([nn.Parameter(torch.zeros(1))]))
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"^predict: "):
        optimizer.predict()


def test_real_weights_of_half_precision_are_kept_in_single_precision() -> None:
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = XGrad(SGD([p], lr=1e-3, momentum=0.0))
    for _ in range(20):
        p.grad = torch.ones_like(p)
        optimizer.step()
    real = optimizer.real(p)
    assert real is not None
    torch.testing.assert_close(real, torch.full((4,), 0.98), rtol=1e-5, atol=0.0)


def test_an_update_that_includes_the_rate_is_not_multiplied_by_it_again() -> None:
    """At a constant rate, momentum with the rate inside is momentum."""
    inside, outside = (path(xgrad(Rule("", 0.1, (kind(0.9),)), 2.0)) for kind in (Velocity, Momentum))
    torch.testing.assert_close(inside, outside, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(outside, path(Rule("", 0.1, (Momentum(0.9),))))


class Mixed(Optimizer):
    """Momentum with the rate inside or outside, by the parameter's name."""

    lr: float = 0.1

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        return (Velocity(0.5),) if param.name == "rated" else (Momentum(0.5),)


def test_each_parameter_is_predicted_by_its_own_chain() -> None:
    pairs = [(name, nn.Parameter(torch.ones(3, dtype=torch.float64))) for name in ("rated", "plain")]
    optimizer = XGrad(Mixed(pairs))
    for step in range(6):
        for _, p in pairs:
            p.grad = p.detach() + step
        optimizer.step()
    torch.testing.assert_close(pairs[0][1], pairs[1][1], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("cls", [AdamW, SGDW])
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any) -> None:
    wrapped: Any = Wrapped(cls, lambda o: XGrad(o, prediction_steps=1.5), lambda rule: xgrad(rule, 1.5))
    assert_stacks(wrapped, {"lr": 0.02, "weight_decay": 0.3})


@pytest.mark.parametrize("cls", [AdamW, SGDW])
def test_compiled_steps_agree(cls: Any) -> None:
    wrapped: Any = Wrapped(cls, XGrad)
    assert_compiles(wrapped, {"lr": 0.02, "weight_decay": 0.3})


def test_predictions_are_not_predicted_again() -> None:
    with pytest.raises(ValueError, match=r"^optimizer: got one that predicts already"):
        XGrad(XGrad(SGD([nn.Parameter(torch.zeros(1))])))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True])
def test_other_distances_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^prediction_steps: got "):
        XGrad(SGD([nn.Parameter(torch.zeros(1))]), prediction_steps=value)
