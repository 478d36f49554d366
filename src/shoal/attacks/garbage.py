"""Payloads that are none for whoever gets them: of another type, shape, dtype or range, from one that would be."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from shoal.tensors.payload import MalformedPayload, Payload, decode, encode

NUMBERS = (0, -1, 1, 255, 2**31, 2**48 + 1, 2**63, 2**64 - 1, -(2**63), 0.5, -1.0, 1e300, float("inf"), float("nan"))
OTHERS: tuple[Any, ...] = (
    None,
    True,
    "text",
    "",
    b"",
    bytes(8),
    [],
    (),
    {},
    {"model": None, "round": "0"},
    [None] * 100,
    [[[[[[[[]]]]]]]],
    torch.tensor(0.0),
    torch.empty(0),
    torch.empty(0, 5, 0),
    torch.ones(3),
    torch.zeros(4, dtype=torch.bool),
)
DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
)  # fmt: skip


def spoilt(payload: Any, key: int) -> Any:
    """Something else than a payload, drawn by a key. It can be encoded and decoded, so that it travels.

    Floating-point tensors never keep form and type with other finite numbers in them: to send wrong numbers is what
    other attacks do.
    """
    rng = random.Random(key)
    for _ in range(20):
        made = _spoil(payload, rng)
        try:
            return decode(encode(made))
        except (MalformedPayload, ValueError, TypeError):
            continue
    return None


def _spoil(x: Any, rng: random.Random) -> Any:
    kinds = [_other, _number, _wrapped]
    if isinstance(x, Tensor):
        kinds += [_tensor] * 6
    if isinstance(x, Payload) and fields(x):
        kinds += [_field] * 6
    if isinstance(x, dict) and x:
        kinds += [_entry] * 3
    return rng.choice(kinds)(x, rng)


def _other(x: Any, rng: random.Random) -> Any:
    return rng.choice(OTHERS)


def _number(x: Any, rng: random.Random) -> Any:
    return rng.choice([number for number in NUMBERS if type(number) is not type(x) or number != x])


def _wrapped(x: Any, rng: random.Random) -> Any:
    return rng.choice([[x], (x, x), {"payload": x}, {"": x}])


def _field(x: Any, rng: random.Random) -> Any:
    """The same struct with one field spoilt."""
    name = rng.choice([f.name for f in fields(x) if f.init])
    try:
        return replace(x, **{name: _spoil(getattr(x, name), rng)})
    except Exception:  # whatever the class objects to
        return None


def _entry(x: dict[str, Any], rng: random.Random) -> Any:
    name = rng.choice(list(x))
    return {**x, name: _spoil(x[name], rng)}


def _tensor(x: Tensor, rng: random.Random) -> Tensor:
    """Another shape or dtype; of numbers that are not floating-point, perhaps only others; or NaN."""
    flat = x.reshape(-1)
    made: list[Tensor] = [
        torch.cat([flat, flat[:1]]) if len(flat) else torch.ones(1),
        flat[:-1].clone() if len(flat) else torch.ones(2),
        x[None],
        torch.empty(0, dtype=x.dtype),
        x.to(rng.choice([dtype for dtype in DTYPES if dtype != x.dtype])),
    ]
    if x.is_floating_point():
        made.append(torch.full_like(x, rng.choice([float("nan"), float("inf"), -float("inf")])))
    elif x.dtype == torch.uint8:
        made += [torch.full_like(x, rng.randrange(256)), 255 - x] * 2
    return rng.choice(made)
