"""Lookahead against its restatement, its variance on a noisy quadratic, and stacked peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.adamw import SGDW, AdamW
from shoal.optim.common import DecayAfter, Momentum
from shoal.optim.core import Chain, Optimizer, Param
from shoal.optim.core.optimizer import Settings
from shoal.optim.lookahead import Lookahead, SlowWeights, lookahead
from shoal.optim.sgd import SGD
from shoal.optim.subset_norm import SubsetNorm
from shoal.optim.xgrad import XGrad, xgrad
from shoal.tensors.random import key, normal
from tests.optim.agreement import assert_compiles
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.optim.wrapped import Wrapped
from tests.restatements.optimizers import adam as restated_adam
from tests.restatements.optimizers import lookahead as restated
from tests.restatements.optimizers import xgrad as restated_sgd

ks = st.integers(1, 9)
alphas = st.floats(0.0, 1.0)
states = st.sampled_from(["keep", "reset", "interpolate"])
MAKE: dict[str, tuple[Any, Any, Sequence[str]]] = {
    "our Adam": (Adam, restated_adam.Adam, ("m",)),
    "torch Adam": (torch.optim.Adam, restated_adam.Adam, ("m",)),
    "torch SGD": (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), restated_sgd.SGD, ("b",)),
}


@pytest.mark.parametrize("name", MAKE)
@settings(max_examples=10)
@given(st.floats(1e-3, 0.1), ks, alphas, states)
def test_lookahead_goes_the_restated_way(name: str, lr: float, k: int, alpha: float, inner_state: Any) -> None:
    """Gradients are missing now and then, and k counts the steps of all parameters together."""
    ours, theirs, buffers = MAKE[name]
    follow(
        lambda p: Lookahead(ours(p, lr=lr), k=k, alpha=alpha, inner_state=inner_state),
        lambda p: restated.Lookahead(theirs(p, lr=lr), k=k, alpha=alpha, inner_state=inner_state, buffers=buffers),
        missing(quadratic()),
    )


def test_a_network_is_trained_the_restated_way_while_the_rate_changes() -> None:
    follow(
        lambda p: Lookahead(Adam(p), k=4, alpha=0.7),
        lambda p: restated.Lookahead(restated_adam.Adam(p), k=4, alpha=0.7),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.03 / (1 + step // 20),
    )


@pytest.mark.parametrize("make", [SGD, torch.optim.SGD])
def test_alpha_of_one_is_the_optimizer_and_k_of_one_is_sgd_at_another_rate(make: Any) -> None:
    def end(wrap: Any, **options: Any) -> torch.Tensor:
        p = nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64))
        optimizer = wrap(make([p], **options))
        for step in range(23):
            torch_gradients([p], quadratic(((9,),), seed=4), step)
            optimizer.step()
        return p.detach()

    momentum = {"lr": 0.05, "momentum": 0.8}
    assert torch.equal(end(lambda o: Lookahead(o, k=4, alpha=1.0), **momentum), end(lambda o: o, **momentum))
    slow = end(lambda o: Lookahead(o, k=1, alpha=0.3), lr=0.2)
    torch.testing.assert_close(slow, end(lambda o: o, lr=0.06), rtol=1e-12, atol=1e-12)


def test_slow_weights_are_those_before_the_first_step_and_are_shown() -> None:
    """Even where the parameters are loaded after the optimizer was made."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Lookahead(SGD([p], lr=1.0), k=2, alpha=0.25)
    start = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    p.data.copy_(start)
    shown = []
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.eval()
        shown.append(p.detach().clone())
        optimizer.train()
    for found, expected in zip(shown, (start, start - 0.5, start - 0.5), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-15, atol=0.0)
    torch.testing.assert_close(p.detach(), start - 1.5, rtol=1e-15, atol=0.0)


def test_the_variance_on_a_noisy_quadratic_is_the_published_one() -> None:
    """Loss a (x - c)^2 / 2 with c ~ N(0, 1), inner SGD: measured over many chains."""
    a, lr, k, alpha, chains = 1.0, 0.2, 4, 0.4, 40_000
    r = 1.0 - lr * a
    sgd = (lr * a) ** 2 / (1.0 - r**2)
    ratio = alpha**2 * (1 - r ** (2 * k))
    ratio /= alpha**2 * (1 - r ** (2 * k)) + 2 * alpha * (1 - alpha) * (1 - r**k)
    p = nn.Parameter(torch.zeros(chains, dtype=torch.float64))
    optimizer = Lookahead(SGD([p], lr=lr), k=k, alpha=alpha)
    for step in range(30 * k):
        p.grad = a * (p.detach() - normal(key(11, step), chains, dtype=torch.float64))
        optimizer.step()
    assert ratio < 0.6
    assert float(p.detach().var()) == pytest.approx(ratio * sgd, rel=0.04)


def test_asking_for_buffers_that_are_not_there_is_an_error() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimizer = Lookahead(SGD([p], momentum=0.9), k=1, inner_state="reset", buffers=("velocity",))
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"^buffers: got \('velocity',\).*momentum"):
        optimizer.step()


def test_a_prediction_keeps_its_distance_when_the_weights_return() -> None:
    """Around torch's SGD and around ours; the real weights are those without prediction at the same gradients."""
    for make in (SGD, torch.optim.SGD):
        p, q = (nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64)) for _ in range(2))
        ahead = Lookahead(XGrad(make([p], lr=0.1, momentum=0.9)), k=3)  # type: ignore[operator]
        plain = Lookahead(make([q], lr=0.1, momentum=0.9), k=3)  # type: ignore[operator]
        for step in range(10):
            p.grad = torch.sin(torch.arange(5.0, dtype=torch.float64) + step)
            q.grad = p.grad.clone()
            ahead.step()
            plain.step()
            momentum = next(v for k, v in plain.state[q].items() if k.startswith("momentum"))
            expected = q.detach() - 0.1 * momentum
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


class SlowSGD(Optimizer):
    """Slow weights in the chain."""

    lr: float = 0.1

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        return SlowWeights(3, 0.4), Momentum(0.9), DecayAfter(0.1)


def test_slow_weights_in_a_compiled_chain_agree() -> None:
    assert_compiles(SlowSGD)


@pytest.mark.parametrize("cls", [AdamW, SGDW])
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any) -> None:
    def slow(o: torch.optim.Optimizer) -> Lookahead:
        return Lookahead(o, k=3, alpha=0.3)

    wrapped: Any = Wrapped(cls, slow, lambda rule: lookahead(rule, 3, 0.3))
    assert_stacks(wrapped, {"lr": 0.02, "weight_decay": 0.1})
    for wrap_rule in (lambda rule: lookahead(xgrad(rule), 3, 0.3), lambda rule: xgrad(lookahead(rule, 3, 0.3))):
        both: Any = Wrapped(cls, lambda o: slow(XGrad(o)), wrap_rule)
        assert_stacks(both, {"lr": 0.02, "weight_decay": 0.1})


def test_slow_weights_follow_after_a_decay_that_comes_after_the_step() -> None:
    """In the chain as in the wrapper: the decay belongs to the fast weights."""
    wrapped: Any = Wrapped(SubsetNorm, lambda o: Lookahead(o, k=2), lambda rule: lookahead(rule, 2))
    assert_stacks(wrapped, {"lr": 0.05, "weight_decay": 0.5})


@pytest.mark.parametrize(
    ("name", "value"), [("k", 0), ("k", 1.5), ("alpha", -0.1), ("alpha", 1.1), ("inner_state", "pull")]
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        Lookahead(SGD([nn.Parameter(torch.zeros(1))]), **{name: value})
