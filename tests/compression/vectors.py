"""Vectors and messages for the tests of single codecs."""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.compression import Codec
from shoal.tensors import Layout, key, normal
from shoal.tensors.payload import Content

NETWORK = {"0.weight": (40, 30), "0.bias": (40,), "1.weight": (7, 40), "1.bias": (7,)}


def wide(shapes: dict[str, tuple[int, ...]] = NETWORK) -> Layout:
    """A layout in float64, so that tests may compare with restatements in float64."""
    return Layout.from_shapes(shapes, dtype=torch.float64)


def flat(d: int) -> Layout:
    return wide({"x": (d,)})


def vector(layout: Layout, seed: int = 1) -> Tensor:
    """A vector [d] whose entries differ much in size."""
    spread = normal(key(seed, "size"), layout.size, dtype=torch.float64).exp()
    return (normal(key(seed, "value"), layout.size, dtype=torch.float64) * spread).to(layout.dtype)


def sent(codec: Codec, x: Tensor, layout: Layout, draw: int = 5) -> tuple[Content, Tensor]:
    """The payload of a first message, and what it decodes to."""
    payload, _ = codec.encode(x, codec.start(layout), draw, layout)
    return payload, codec.decode(payload, layout)


def spread_of(codec: Codec, x: Tensor, layout: Layout, n: int = 4000) -> float:
    """Mean of |decoded - x|^2 over so many keys."""
    keys = torch.arange(n) * 7919
    payloads, _ = codec.encode_rows(x.expand(n, -1).contiguous(), {}, keys, layout)
    return float((codec.decode_rows(payloads, layout) - x).square().sum(1).mean())
