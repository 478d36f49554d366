"""Functions of step numbers and rates that take floats (one model) and float64 tensors (one number a stacked peer)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Scalar = float | Tensor


def one_minus_power(beta: float, t: Scalar) -> Scalar:
    """1 - beta^t for beta in [0, 1], to the last digits."""
    if isinstance(t, Tensor):  # torch's own power rounds a row differently by where it stands in a stack
        return -torch.expm1(t * _log(beta)) if beta < 1.0 else torch.zeros_like(t)
    return -math.expm1(t * _log(beta)) if beta < 1.0 else 0.0


def power(beta: float, t: Scalar) -> Scalar:
    """beta^t for beta >= 0."""
    if isinstance(t, Tensor):
        return torch.exp(t * _log(beta))
    return math.exp(t * _log(beta)) if beta else float(t == 0)


def _log(beta: float) -> float:
    return math.log(beta) if beta else -math.inf


def _both(on_float: Callable[..., float], on_tensor: Callable[..., Tensor]) -> Callable[..., Any]:
    def function(*args: Scalar) -> Scalar:
        if any(isinstance(a, Tensor) for a in args):
            like = next(a for a in args if isinstance(a, Tensor))
            return on_tensor(*(a if isinstance(a, Tensor) else torch.full_like(like, a) for a in args))
        return on_float(*args)

    return function


sqrt = _both(math.sqrt, torch.sqrt)
exp = _both(math.exp, torch.exp)
log = _both(math.log, torch.log)
floor = _both(lambda x: float(math.floor(x)), torch.floor)
minimum = _both(min, torch.minimum)
maximum = _both(max, torch.maximum)


def where(condition: bool | Tensor, yes: Scalar, no: Scalar) -> Any:
    """`yes` where the condition holds, else `no`. Both are worked out, so neither may fail."""
    if isinstance(condition, Tensor):
        like = torch.zeros_like(condition, dtype=torch.float64)  # two floats would come out in single precision
        return torch.where(condition, *(x if isinstance(x, Tensor) else like + x for x in (yes, no)))
    return yes if condition else no
