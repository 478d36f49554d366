"""Tensor operations whose numbers are floats (one model, fast) or tensors that broadcast (stacked peers, compiled)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Number = Any  # float, bool or Tensor


def _mapped(weight: Tensor) -> bool:
    """Whether it is one number a peer under `torch.func.vmap`, which has no rule for `lerp_` and `addcmul`."""
    return torch._C._functorch.is_batchedtensor(weight)


def ema_(average: Tensor, x: Tensor, weight: Number) -> Tensor:
    """average <- average + weight (x - average), in place."""
    if isinstance(weight, Tensor) and _mapped(weight):
        return average.copy_(torch.lerp(average, x, weight))
    return average.lerp_(x, weight)


def ema_square_(average: Tensor, x: Tensor, beta: Number, weight: Number) -> Tensor:
    """average <- beta average + weight x x, in place."""
    return ema_product_(average, x, x, beta, weight)


def ema_product_(average: Tensor, x: Tensor, y: Tensor, beta: Number, weight: Number) -> Tensor:
    """average <- beta average + weight x y, in place."""
    if not isinstance(weight, Tensor):
        return average.mul_(beta).addcmul_(x, y, value=weight)
    return plus_(average.mul_(beta), x * y, weight)


def plus(x: Tensor, y: Tensor, weight: Number) -> Tensor:
    """x + weight y, a new tensor."""
    if not isinstance(weight, Tensor):
        return torch.add(x, y, alpha=weight)
    return x + y * weight if _mapped(weight) else torch.addcmul(x, y, weight)


def plus_(x: Tensor, y: Tensor, weight: Number) -> Tensor:
    """x <- x + weight y, in place."""
    if not isinstance(weight, Tensor):
        return x.add_(y, alpha=weight)
    return x.add_(y * weight) if _mapped(weight) else x.addcmul_(y, weight)


def minus_(x: Tensor, y: Tensor, weight: Number) -> Tensor:
    """x <- x - weight y, in place."""
    if not isinstance(weight, Tensor):
        return x.sub_(y, alpha=weight)
    return x.sub_(y * weight) if _mapped(weight) else x.addcmul_(y, weight, value=-1.0)


def select(condition: Number, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` where the condition holds, else `no`; one of the two itself where the condition is a Python number."""
    if isinstance(condition, Tensor):
        return torch.where(condition != 0 if condition.dtype != torch.bool else condition, yes, no)
    return yes if condition else no


def choose(condition: Number, yes: Callable[[], Tensor], no: Callable[[], Tensor]) -> Tensor:
    """`yes()` where the condition holds, else `no()`; where it is a Python number only that one is worked out."""
    if isinstance(condition, Tensor):
        return select(condition, yes(), no())
    return yes() if condition else no()


def clip(x: Tensor, low: Number, high: Number) -> Tensor:
    """x between low and high, which are two numbers or two tensors."""
    return torch.clamp(x, low, high)


def clip_(x: Tensor, low: Number, high: Number) -> Tensor:
    """The same in x's place."""
    return torch.clamp(x, low, high) if _mapped(x) else x.clamp_(low, high)


def over(x: Tensor, y: Tensor) -> Tensor:
    """x / y, which takes y's place: no third stretch of memory is touched. No gradient goes through."""
    return x / y if _mapped(y) or _mapped(x) else torch.div(x, y, out=y)


def under(number: Number, y: Tensor) -> Tensor:
    """number / y, which takes y's place."""
    x = number if isinstance(number, Tensor) else y.new_full((), number)
    return over(x, y)


def square_plus(x: Tensor, number: Number, out: Tensor | None = None) -> Tensor:
    """x x + number, a new tensor unless there is one for it."""
    if isinstance(number, Tensor):
        return (x * x).add_(number)
    return torch.addcmul(x.new_full((), number), x, x, out=out)


def plus_ratio(x: Tensor, y: Tensor, z: Tensor, weight: Number) -> Tensor:
    """x + weight y / z, which takes z's place."""
    if isinstance(weight, Tensor) or _mapped(z):
        return over(y, z).mul_(weight).add_(x)
    return torch.addcdiv(x, y, z, value=weight, out=z)


def smaller(x: Tensor, y: Tensor) -> Tensor:
    """The minimum of x and y, which takes x's place."""
    return torch.minimum(x, y) if _mapped(x) or _mapped(y) else torch.minimum(x, y, out=x)


def may_hold(condition: Tensor) -> bool:
    """False where a condition does not hold and a look at it costs nothing: a number on the CPU, of one model."""
    free = condition.is_cpu and not _mapped(condition) and not torch.compiler.is_compiling()
    return not free or bool(condition)


def root_mean_square(x: Tensor) -> Tensor:
    """sqrt(mean(x^2)) of a whole tensor, 0-dim."""
    return x.square().mean().sqrt()


def divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is 0: for rules without an eps, whose entries stay until they have seen a gradient."""
    return torch.where(y == 0, 0.0, x / y)


def divide_parts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of `divide(x, y)`."""
    unseen = y == 0
    return torch.where(unseen, 0.0, x), torch.where(unseen, 1.0, y)
