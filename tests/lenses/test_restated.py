"""Lenses against their restatement in NumPy (tests/restatements/lenses.py), in float64 to 1e-10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from shoal.lenses import (
    Para,
    Update,
    adagrad,
    adam,
    conv2d,
    cross_entropy,
    descent,
    dream,
    learning_rate,
    mlp,
    momentum,
    mse,
    nesterov,
    step,
    tanh,
    whole_loss,
    xor,
)
from shoal.lenses.boolean import bits, difference, lookup
from shoal.lenses.trees import leaves
from tests.restatements import lenses as restated

F64 = torch.float64
EMPTY = np.zeros(0)


def model() -> Para:
    return mlp(4, 5, 3, activation=tanh, key=6, dtype=F64)


def theirs() -> restated.Lens:
    """The same net, put together in the same order, with parameters ((b2, w2), ((), (b1, w1))) as ours."""
    layers = [
        restated.compose_parametric(restated.linear, restated.bias),
        restated.unparametrised(restated.tanh),
    ]
    first = restated.compose_parametric(*layers)
    return restated.compose_parametric(first, restated.compose_parametric(restated.linear, restated.bias))


def numpy(value: Any) -> Any:
    return tuple(map(numpy, value)) if isinstance(value, tuple) else value.numpy().copy()


def on_each(update: restated.Lens) -> restated.Lens:
    """An update of one tensor for nested parameters, whose states are in a parallel nest."""

    def fwd(x: Any) -> Any:
        s, p = x
        return tuple(fwd(pair) for pair in zip(s, p, strict=True)) if isinstance(p, tuple) else update.fwd((s, p))

    def rev(x: Any, change: Any) -> Any:
        s, p = x
        if not isinstance(p, tuple):
            return update.rev((s, p), change)
        found = [rev(pair, d) for pair, d in zip(zip(s, p, strict=True), change, strict=True)]
        return tuple(a for a, _ in found), tuple(b for _, b in found)

    return restated.Lens(fwd, rev)


def states(p: Any, make: Callable[[Any], Any]) -> Any:
    return tuple(states(part, make) for part in p) if isinstance(p, tuple) else make(p)


def moments(p: Any) -> Any:
    return np.zeros_like(p), np.zeros_like(p), 0


UPDATES: dict[str, tuple[Update, restated.Lens, Callable[[Any], Any], float]] = {
    "descent": (descent, restated.descent, lambda p: EMPTY, 0.3),
    "momentum": (momentum(0.8), restated.momentum(0.8), np.zeros_like, 0.1),
    "nesterov": (nesterov(0.8), restated.nesterov(0.8), np.zeros_like, 0.1),
    "adagrad": (adagrad(0.1, 0.0), restated.adagrad(0.0, 0.1), np.zeros_like, 1.0),  # where eps stands does not matter
    "adam": (adam(0.05, 0.7, 0.9, 1e-3), restated.adam(0.7, 0.9, 1e-3, 0.05), moments, 0.5),  # it does not cancel
}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(7, 4, generator=random, dtype=F64)
    return x, torch.randn(7, 3, generator=random, dtype=F64).softmax(-1)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("name", UPDATES)
def test_supervised_steps_are_the_restatements(name: str, loss: str) -> None:
    """Their losses are sums over the batch, ours are one a sample: a cap of eta / 7 is theirs."""
    ours, other, start, eta = UPDATES[name]
    x, y = data()
    net = model()
    learner = step(net, mse if loss == "mse" else cross_entropy, ours, learning_rate(eta))
    here = learner.start
    whole = restated.learner(on_each(other), theirs(), getattr(restated, loss), restated.cap(eta / 7))
    p = numpy(net.start)
    s = states(p, start)
    for _ in range(8):
        here = learner(here, x, y)
        s, p = restated.step(whole, s, p, x.numpy(), y.numpy())
        for found, expected in zip(leaves(here[1]), leaves(torch_of(p)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def torch_of(value: Any) -> Any:
    return tuple(map(torch_of, value)) if isinstance(value, tuple) else torch.from_numpy(np.asarray(value))


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_dreams_are_the_restatements(name: str) -> None:
    ours, other, start, eta = UPDATES[name]
    x, y = data()
    net = model()
    found = dream(net, net.start, x, y, mse, ours, learning_rate(eta), 5)
    whole = restated.dream(other, theirs(), restated.mse, restated.cap(eta / 7))
    p, here = numpy(net.start), (start(x.numpy()), x.numpy())
    for _ in range(5):
        (_, here), _ = whole.rev(((p, here), y.numpy()), ())
    torch.testing.assert_close(found, torch_of(here[1]), rtol=1e-10, atol=1e-11)


def test_a_convolution_is_the_restatements() -> None:
    layer = conv2d(2, 3, 3, key=1, dtype=F64)
    random = torch.Generator().manual_seed(5)
    x = torch.randn(4, 2, 6, 7, generator=random, dtype=F64)
    d = torch.randn(4, 3, 4, 5, generator=random, dtype=F64)
    b, w = layer.start
    expected = restated.correlate.fwd((w.numpy(), x.numpy())) + b.numpy()[:, None, None]
    torch.testing.assert_close(layer.fwd(layer.start, x), torch_of(expected), rtol=1e-10, atol=1e-10)
    (found_b, found_w), found_x = layer.rev(layer.start, x, d)
    expected_w, expected_x = restated.correlate.rev((w.numpy(), x.numpy()), d.numpy())
    torch.testing.assert_close(found_w, torch_of(expected_w), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found_x, torch_of(expected_x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found_b, d.sum((0, 2, 3)), rtol=1e-10, atol=1e-10)


def test_tables_learn_as_the_restatements_do() -> None:
    """Bit by bit over words in random order with random, also contradicting, answers."""
    learner = step(lookup(3), difference, xor, whole_loss)
    model = restated.lookup
    whole = restated.learner(restated.xor, model, restated.boolean_difference, restated.boolean_cap)
    here, s, p = learner.start, (), np.zeros(8, dtype=bool)
    random = np.random.default_rng(2)
    for _ in range(30):
        word, answer = int(random.integers(8)), bool(random.integers(2))
        here = learner(here, bits(3)[word], torch.tensor([answer]))
        s, p = restated.step(whole, s, p, np.arange(8) == word, np.bool_(answer))
        assert here[1][:, 0].tolist() == p.tolist()
