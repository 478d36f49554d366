"""Values of lenses: a tensor, or a tuple of values; `()` is the value of the unit object.

Real objects hold floating tensors. Objects over Z2 hold tensors of bool, whose sum is exclusive or.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Value = Any
"""A Tensor, or a tuple of values."""


def tree_map(function: Callable[..., Any], first: Value, *others: Value) -> Value:
    """The function of corresponding tensors of values of one form.

    Raises:
        ValueError: the forms differ.
    """
    if isinstance(first, Tensor):
        if not all(isinstance(x, Tensor) for x in others):
            raise ValueError(f"values: got a tensor beside {form(others)}; values of one form are allowed")
        return function(first, *others)
    if not isinstance(first, tuple):
        raise ValueError(f"values: got {type(first).__name__}; tensors and tuples of values are allowed")
    if not all(isinstance(x, tuple) and len(x) == len(first) for x in others):
        raise ValueError(f"values: got {form(first)} beside {form(others)}; values of one form are allowed")
    return tuple(tree_map(function, *some) for some in zip(first, *others, strict=True))


def leaves(value: Value) -> Iterator[Tensor]:
    """The tensors of a value, from left to right."""
    if isinstance(value, Tensor):
        yield value
        return
    if not isinstance(value, tuple):
        raise ValueError(f"values: got {type(value).__name__}; tensors and tuples of values are allowed")
    for part in value:
        yield from leaves(part)


def filled(value: Value, tensors: Iterator[Tensor]) -> Value:
    """A value of the same form with other tensors, from left to right."""
    return tree_map(lambda _: next(tensors), value)


def form(value: Value) -> str:
    """How tuples nest, for messages: "(2x3, ())"."""
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape)) or "number"
    return f"({', '.join(map(form, value))})" if isinstance(value, tuple) else type(value).__name__


def plus(a: Value, b: Value) -> Value:
    """The sum; over Z2 exclusive or."""
    return tree_map(lambda x, y: x ^ y if x.dtype == torch.bool else x + y, a, b)


def zero(value: Value) -> Value:
    """The zero of the same form."""
    return tree_map(torch.zeros_like, value)
