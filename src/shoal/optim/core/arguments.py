"""Arguments that optimizers share: what each means and which values are allowed, said once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.text import shown

if TYPE_CHECKING:
    from shoal.optim.core.optimizer import Optimizer


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        help: one line, for docstrings and lists.
        allowed: what may be given, in words.
        check: whether a value may be given.
    """

    help: str
    allowed: str
    check: Callable[[Any], bool]


def finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _fraction(value: Any) -> bool:
    return finite(value) and 0.0 <= value < 1.0


def fractions(count: int) -> Callable[[Any], bool]:
    """Whether a value is `count` numbers in [0, 1)."""
    return lambda value: isinstance(value, tuple | list) and len(value) == count and all(map(_fraction, value))


def at_least(low: float) -> Callable[[Any], bool]:
    """Whether a value is a finite number not below `low`."""
    return lambda value: finite(value) and value >= low


def above(low: float) -> Callable[[Any], bool]:
    """Whether a value is a finite number above `low`."""
    return lambda value: finite(value) and value > low


def whole(low: int) -> Callable[[Any], bool]:
    """Whether a value is a whole number not below `low`."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _rate(value: Any) -> bool:
    """A number, or a tensor of one, as torch's schedulers may set it."""
    return at_least(0.0)(value.item() if hasattr(value, "item") else value)


def flag(value: Any) -> bool:
    """Whether a value is True or False."""
    return isinstance(value, bool)


def plain(value: Any) -> Any:
    """Numbers of numpy as Python's, which every file format knows; all else as it is."""
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return value.item() if type(value).__module__ == "numpy" and not getattr(value, "ndim", 1) else value


SHARED: dict[str, Argument] = {
    "lr": Argument("learning rate", "a finite number >= 0", _rate),
    "betas": Argument("decay rates of the first and second moment", "two numbers in [0, 1)", fractions(2)),
    "eps": Argument("keeps divisions finite", "a finite number >= 0", at_least(0.0)),
    "weight_decay": Argument("strength of the decay", "a finite number >= 0", at_least(0.0)),
    "momentum": Argument("decay rate of the momentum", "a number in [0, 1)", _fraction),
    "dampening": Argument("how much less of the gradient enters the momentum", "a number in [0, 1)", _fraction),
    "nesterov": Argument("look ahead along the momentum", "True or False", flag),
    "amsgrad": Argument("divide by the maximum of the second moments", "True or False", flag),
    "rank": Argument("dimensions of the subspace", "a whole number >= 1", whole(1)),
    "update_proj_gap": Argument("steps between projections", "a whole number >= 1", whole(1)),
    "maximize": Argument("go up the gradient instead of down", "True or False", flag),
    "compile": Argument("step by one compiled kernel (a C++ compiler is needed)", "True or False", flag),
}


def check(cls: type[Optimizer], values: Mapping[str, Any]) -> None:
    """Refuse values that are not allowed.

    Raises:
        ValueError: names the argument, the value and what is allowed.
    """
    for name, value in values.items():
        argument = cls.about.get(name) or SHARED.get(name)
        if argument is None:
            continue
        number = isinstance(cls.arguments.get(name), float) or name == "lr"
        try:
            allowed = not (number and isinstance(value, str | bool)) and bool(argument.check(value))
        except (TypeError, ValueError, RuntimeError):  # of values that cannot be compared at all
            allowed = False
        if not allowed:
            are = "are" if "numbers" in argument.allowed else "is"
            raise ValueError(f"{name}: got {shown(value)}; {argument.allowed} {are} allowed")
