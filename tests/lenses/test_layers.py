"""Hand-written reverse derivatives of layers and losses against torch's autograd, in float64 to 1e-10."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.lenses import (
    Para,
    ascent_rate,
    bias,
    conv2d,
    cross_entropy,
    dense,
    dot,
    flatten,
    learning_rate,
    linear,
    load_into,
    max_pool2d,
    mlp,
    mse,
    para_of_module,
    plain,
    relu,
    sequence,
    sigmoid,
    softmax,
    tanh,
    whole_loss,
)
from shoal.lenses.trees import leaves

F64 = torch.float64


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def assert_derivative(function: Any, arrow: Any, at: Any) -> None:
    """Forwards the function, backwards autograd's gradient along a random change."""
    inputs = [x.clone().requires_grad_() for x in leaves(at)]
    rebuilt = inputs[0] if isinstance(at, Tensor) else tuple(inputs)
    y = function(rebuilt)
    change = random(99, *y.shape)
    expected = torch.autograd.grad(y, inputs, change)
    torch.testing.assert_close(arrow.fwd(at), y.detach(), rtol=1e-12, atol=1e-12)
    for found, wanted in zip(leaves(arrow.rev(at, change)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("function", "arrow", "at"),
    [
        (torch.relu, relu, random(1, 5, 4)),
        (torch.relu, relu, torch.zeros(3, dtype=F64)),
        (torch.sigmoid, sigmoid, random(1, 5, 4)),
        (torch.tanh, tanh, random(1, 5, 4)),
        (lambda x: x.softmax(-1), softmax, random(1, 5, 4)),
        (lambda x: x.flatten(1), flatten, random(1, 5, 4, 2)),
        (lambda x: F.max_pool2d(x, 2), max_pool2d(2), random(1, 3, 2, 5, 6)),
        (lambda x: F.linear(x[1], x[0]), linear(4, 3).arrow, (random(1, 3, 4), random(2, 5, 4))),
        (lambda x: F.linear(x[1], x[0]), linear(4, 3).arrow, (random(1, 3, 4), random(2, 4))),
        (lambda x: F.linear(x[1], x[0]), linear(4, 3).arrow, (random(1, 3, 4), random(2, 2, 6, 4))),
        (lambda x: x[1] + x[0], bias(4).arrow, (random(1, 4), random(2, 5, 4))),
        (lambda x: 0.5 * (x[0] - x[1]).square().sum(-1), mse, (random(1, 5, 4), random(2, 5, 4))),
        (lambda x: 0.5 * (x[0] - x[1]).square().sum(-1), mse, (random(1, 4), random(2, 4))),
        (lambda x: -(x[1] * x[0].log_softmax(-1)).sum(-1), cross_entropy, (random(1, 5, 4), random(2, 5, 4))),
        (lambda x: (x[0] * x[1]).sum(-1), dot, (random(1, 5, 4), random(2, 5, 4))),
    ],
)
def test_reverse_derivatives(function: Any, arrow: Any, at: Any) -> None:
    assert_derivative(function, arrow, at)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_convolution(stride: int, padding: int) -> None:
    layer = conv2d(2, 3, 3, stride=stride, padding=padding, dtype=F64)
    b, w = layer.start
    assert_derivative(
        lambda x: F.conv2d(x[2], x[1], x[0], stride=stride, padding=padding),
        _flat(layer),
        (b, w, random(4, 2, 2, 7, 6)),
    )


def _flat(layer: Para) -> Any:
    from shoal.lenses import lens

    return lens(lambda x: ((x[0], x[1]), x[2]), lambda x, d: (*d[0], d[1])) >> layer.arrow


def conv_net(key: int = 0) -> tuple[Para, Any]:
    """A net, and the same in torch: a function of its parameters from left to right."""
    net = sequence(
        conv2d(1, 3, 3, padding=1, key=key, dtype=F64),
        plain(relu),
        plain(max_pool2d(2)),
        plain(flatten),
        dense(48, 5, key=key + 1, dtype=F64),
    )

    def theirs(p: list[Tensor], x: Tensor) -> Tensor:
        b2, w2, b1, w1 = p
        return F.linear(F.max_pool2d(F.relu(F.conv2d(x, w1, b1, padding=1)), 2).flatten(1), w2, b2)

    return net, theirs


def test_gradients_of_nets_are_autograds() -> None:
    """A dense and a convolutional net with cross entropy, the whole way from cap to parameters and input."""
    dense_net = mlp(6, 7, 5, activation=tanh, key=3, dtype=F64)

    def dense_theirs(p: list[Tensor], x: Tensor) -> Tensor:
        b2, w2, b1, w1 = p
        return F.linear(F.linear(x, w1, b1).tanh(), w2, b2)

    for (net, theirs), x in (((dense_net, dense_theirs), random(1, 8, 6)), (conv_net(), random(1, 8, 1, 8, 8))):
        y = torch.arange(8) % 5
        target = F.one_hot(y, 5).to(F64)
        loss = cross_entropy >> learning_rate(1.0)
        value, back = net.arrow.run((net.start, x))
        change = loss.rev((value, target), ())[0]
        found, found_x = back(change)
        p = [t.clone().requires_grad_() for t in leaves(net.start)]
        inputs = x.clone().requires_grad_()
        expected = torch.autograd.grad(F.cross_entropy(theirs(p, inputs), y), [*p, inputs])
        for ours, wanted in zip([*leaves(found), found_x], expected, strict=True):
            torch.testing.assert_close(-ours, wanted, rtol=1e-10, atol=1e-10)


def test_starts_are_those_of_torchs_layers_in_law() -> None:
    b, w = dense(400, 300, key=5).start
    bound = 1.0 / 20.0
    for x in (b, w):
        assert float(x.abs().max()) <= bound
        assert float(x.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not torch.equal(dense(4, 3, key=1).start[1], dense(4, 3, key=2).start[1])


def test_a_module_is_a_lens_and_takes_its_parameters_back() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    para = para_of_module(module)
    x = random(1, 5, 4)
    assert torch.equal(para.fwd(para.start, x), module(x))
    changes, _ = para.rev(para.start, x, torch.ones(5, 2, dtype=F64))
    for found, wanted in zip(changes, torch.autograd.grad(module(x).sum(), list(module.parameters())), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    load_into(module, tuple(torch.zeros_like(p) for p in module.parameters()))
    assert float(module(x).detach().abs().sum()) == 0.0
    assert float(para.fwd(para.start, x).abs().sum()) > 0.0
    with pytest.raises(ValueError, match="parameters: got shapes"):
        load_into(module, para.start[:2])


def test_caps() -> None:
    loss = torch.tensor([1.0, 3.0], dtype=F64)
    assert learning_rate(0.5).fwd(loss) == ()
    assert torch.equal(learning_rate(0.5).rev(loss, ()), torch.tensor([-0.25, -0.25], dtype=F64))
    assert float(learning_rate(0.5).rev(loss[0], ())) == -0.5
    assert torch.equal(ascent_rate(0.5).rev(loss, ()), torch.tensor([0.25, 0.25], dtype=F64))
    assert torch.equal(whole_loss.rev(loss, ()), loss)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="inputs: got 0"):
        linear(0, 3)
    with pytest.raises(ValueError, match="stride: got 0"):
        conv2d(1, 1, 1, stride=0)
    with pytest.raises(ValueError, match=r"widths: got \(3,\)"):
        mlp(3)
    with pytest.raises(ValueError, match="parts: got none"):
        sequence()
    with pytest.raises(ValueError, match="eta: got nan"):
        learning_rate(float("nan"))
    with pytest.raises(ValueError, match=r"^eta: got -0\.1; a finite number >= 0 is allowed; `ascent_rate` climbs$"):
        learning_rate(-0.1)
    with pytest.raises(ValueError, match=r"^eta: got -0\.1; a finite number >= 0 is allowed$"):
        ascent_rate(-0.1)
