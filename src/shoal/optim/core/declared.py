"""Annotated attributes of a class as arguments of its constructor: in which order, and with which defaults."""

from __future__ import annotations

import inspect
from typing import Any, Literal, dataclass_transform

MISSING: Any = inspect.Parameter.empty


def option(*, default: Any = MISSING, kw_only: Literal[True] = True) -> Any:
    """A keyword-only argument of an optimizer class."""
    return _Option(default)


class _Option:
    def __init__(self, default: Any) -> None:
        self.default = default


@dataclass_transform(field_specifiers=(option,))
class Declared:
    """Tells type checkers that annotated attributes are arguments of the constructor."""


def declared(cls: type, root: type) -> tuple[dict[str, Any], inspect.Signature]:
    """What a class below `root` declares, with what its bases do.

    Args:
        cls: its annotated attributes are arguments, but for `params` and class variables.
        root: the first class that is looked at.

    Returns:
        Arguments with their defaults, keyword-only ones (`option`) last, and the signature, which begins with `params`.
    """
    found: dict[str, Any] = {}
    keyword: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, root):
            continue
        for name, kind in inspect.get_annotations(base).items():
            if name == "params" or "ClassVar" in str(kind):
                continue
            value = base.__dict__.get(name, MISSING)
            if isinstance(value, _Option):
                keyword[name] = value.default
            else:
                found[name] = value
    named, only = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("params", named)]
    parameters += [inspect.Parameter(name, named, default=value) for name, value in found.items()]
    parameters += [inspect.Parameter(name, only, default=value) for name, value in keyword.items()]
    return found | keyword, inspect.Signature(parameters)
