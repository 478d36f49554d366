"""Layers as parametrised lenses, with reverse derivatives written out. Inputs are batches [B, ...]."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
import torch.nn.grad as gradients
from torch import Tensor

from shoal.lenses.lens import Back, Lens, lens
from shoal.lenses.para import Para, plain, sequence
from shoal.lenses.trees import Value
from shoal.tensors.random import key as key_of
from shoal.tensors.random import uniform

relu = lens(lambda x: x.clamp(min=0.0), lambda x, d: d * (x > 0))
"""max(x, 0); the derivative at 0 is 0."""


def _sigmoid(x: Tensor) -> tuple[Tensor, Back]:
    y = x.sigmoid()
    return y, lambda d: d * y * (1.0 - y)


def _tanh(x: Tensor) -> tuple[Tensor, Back]:
    y = x.tanh()
    return y, lambda d: d * (1.0 - y.square())


def _softmax(x: Tensor) -> tuple[Tensor, Back]:
    y = x.softmax(-1)
    return y, lambda d: y * (d - (d * y).sum(-1, keepdim=True))


sigmoid, tanh, softmax = Lens(_sigmoid), Lens(_tanh), Lens(_softmax)
flatten = lens(lambda x: x.flatten(1), lambda x, d: d.reshape(x.shape))


def _matmul(pair: Value) -> tuple[Tensor, Back]:
    w, x = pair
    return x @ w.T, lambda d: (d.reshape(-1, d.shape[-1]).T @ x.reshape(-1, x.shape[-1]), d @ w)


def _shift(pair: Value) -> tuple[Tensor, Back]:
    b, x = pair
    return x + b, lambda d: (d.reshape(-1, b.shape[0]).sum(0), d)


def _convolve(stride: int, padding: int) -> Lens:
    def run(pair: Value) -> tuple[Tensor, Back]:
        w, x = pair

        def back(d: Tensor) -> Value:
            return (
                gradients.conv2d_weight(x, w.shape, d, stride=stride, padding=padding),
                gradients.conv2d_input(x.shape, w, d, stride=stride, padding=padding),
            )

        return F.conv2d(x, w, stride=stride, padding=padding), back

    return Lens(run)


def _shift_channels(pair: Value) -> tuple[Tensor, Back]:
    b, x = pair
    return x + b[:, None, None], lambda d: (d.sum((0, 2, 3)), d)


def max_pool2d(size: int) -> Lens:
    """The largest of each square of `size` by `size`; [B, C, H, W] -> [B, C, H // size, W // size]."""

    def run(x: Tensor) -> tuple[Tensor, Back]:
        y, where = F.max_pool2d(x, size, return_indices=True)

        def back(d: Tensor) -> Tensor:
            flat = torch.zeros_like(x).flatten(2)
            return flat.scatter_add(2, where.flatten(2), d.flatten(2)).view(x.shape)

        return y, back

    return Lens(run)


def linear(inputs: int, outputs: int, *, key: int = 0, dtype: torch.dtype = torch.float32) -> Para:
    """x [..., inputs] -> x w^T, w [outputs, inputs], at first uniform in +-1 / sqrt(inputs).

    Raises:
        ValueError: a size below 1.
    """
    _sizes(inputs=inputs, outputs=outputs)
    return Para(Lens(_matmul), _start(key, (outputs, inputs), inputs, dtype))


def bias(size: int, *, key: int = 0, scale: float = 0.0, dtype: torch.dtype = torch.float32) -> Para:
    """x [..., size] -> x + b, b at first uniform in +-scale."""
    _sizes(size=size)
    return Para(Lens(_shift), scale * (2.0 * uniform(key, size, dtype=dtype) - 1.0))


def dense(
    inputs: int, outputs: int, activation: Lens | None = None, *, key: int = 0, dtype: torch.dtype = torch.float32
) -> Para:
    """linear >> bias >> activation: parameters ((), (b, w)), or (b, w) without one. Drawn as in `nn.Linear`."""
    scale = 1.0 / math.sqrt(inputs)
    layer = linear(inputs, outputs, key=key_of(key, "w"), dtype=dtype) >> bias(
        outputs, key=key_of(key, "b"), scale=scale, dtype=dtype
    )
    return layer if activation is None else layer >> plain(activation)


def conv2d(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    key: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Para:
    """Convolution, then a bias of each channel: [B, inputs, H, W] -> [B, outputs, H', W'], parameters (b, w).

    Raises:
        ValueError: a size below 1.
    """
    _sizes(inputs=inputs, outputs=outputs, size=size, stride=stride)
    fan = inputs * size * size
    w = _start(key_of(key, "w"), (outputs, inputs, size, size), fan, dtype)
    b = _start(key_of(key, "b"), (outputs,), fan, dtype)
    return Para(_convolve(stride, padding), w) >> Para(Lens(_shift_channels), b)


def mlp(*widths: int, activation: Lens = relu, key: int = 0, dtype: torch.dtype = torch.float32) -> Para:
    """Dense layers of these widths, with an activation between them.

    Raises:
        ValueError: fewer than two widths.
    """
    if len(widths) < 2:
        raise ValueError(f"widths: got {widths}; inputs and outputs at least are needed")
    last = len(widths) - 2
    return sequence(
        *(
            dense(a, b, None if i == last else activation, key=key_of(key, i), dtype=dtype)
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
    )


def _start(key: int, shape: tuple[int, ...], fan: int, dtype: torch.dtype) -> Tensor:
    return (2.0 * uniform(key, shape, dtype=dtype) - 1.0) / math.sqrt(fan)


def _sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}; at least 1 is allowed")
