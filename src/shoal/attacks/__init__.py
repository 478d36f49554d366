"""Attacks: what Byzantine peers send. Each builder gives (share of Byzantine peers, attack) for an `Adversary`.

An attack maps a payload and an occasion to a payload; the ones here change every floating-point tensor in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal.attacks.garbage import spoilt
from shoal.tensors.random import normal


class Occasion(Protocol):
    """What these attacks look at: a key for draws."""

    @property
    def key(self) -> int:
        """Key of this message."""


Attack = Callable[[Any, Any], Any]


def none() -> tuple[float, Attack | None]:
    """Nobody is Byzantine."""
    return 0.0, None


def sign_flip(share: float = 0.2, scale: float = 1.0) -> tuple[float, Attack]:
    """Send -scale times what the protocol would send; of what is packed and knows its opposite (votes), that."""

    def attack(payload: Any, occasion: Occasion) -> Any:
        negated: Callable[[], Any] | None = getattr(payload, "negated", None)
        return on_tensors(lambda x: x * -scale, payload) if negated is None else negated()

    return _share(share), attack


def noise(share: float = 0.2, scale: float = 1.0) -> tuple[float, Attack]:
    """Send Gaussian noise of standard deviation `scale`."""

    def attack(payload: Any, occasion: Occasion) -> Any:
        return on_tensors(lambda x: (scale * normal(occasion.key, tuple(x.shape))).to(x.dtype), payload)

    return _share(share), attack


def zero(share: float = 0.2) -> tuple[float, Attack]:
    """Send zeros."""
    return _share(share), lambda payload, occasion: on_tensors(torch.zeros_like, payload)


def nan(share: float = 0.2) -> tuple[float, Attack]:
    """Send NaN; receivers drop such messages."""
    return _share(share), lambda payload, occasion: on_tensors(lambda x: torch.full_like(x, torch.nan), payload)


def garbage(share: float = 0.2) -> tuple[float, Attack]:
    """Send something of another type, shape, dtype or range than the protocol does, another thing each time.

    No honest peer may fail by that: what others send is checked before it is used, dropped and logged.
    """
    return _share(share), lambda payload, occasion: spoilt(payload, occasion.key)


def on_tensors(change: Callable[[Tensor], Tensor], payload: Any) -> Any:
    """A copy of a payload with every floating-point tensor changed."""
    if isinstance(payload, Tensor):
        return change(payload) if payload.is_floating_point() else payload
    if isinstance(payload, dict):
        return {name: on_tensors(change, value) for name, value in payload.items()}
    if isinstance(payload, list | tuple):
        return type(payload)(on_tensors(change, value) for value in payload)
    if is_dataclass(payload) and not isinstance(payload, type):
        return replace(payload, **{f.name: on_tensors(change, getattr(payload, f.name)) for f in fields(payload)})
    return payload


def _share(share: float) -> float:
    if not 0.0 <= share < 1.0:
        raise ValueError(f"attack: got a share of {share}; a number in [0, 1) is allowed")
    return share
