"""What settings are refused for, in the words of all other refusals."""

from __future__ import annotations

import typing
from types import NoneType, UnionType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from shoal.text import shown

_KINDS: dict[Any, str] = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}
_LISTS: dict[Any, str] = {int: "a list of whole numbers", str: "a list of texts"}
_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


def refusal(model: type[BaseModel], error: ValidationError) -> str:
    """The first error in one line: the setting's name, the value, and what is allowed."""
    first = error.errors()[0]
    if not first["loc"]:  # of several fields together; the message names them
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0])
    return f"{name}: got {shown(first['input'])}; {allowed(model.model_fields[name])} is allowed"


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words."""
    kinds = [kind for kind in _union(field.annotation) if kind is not NoneType]
    words = " or ".join(map(_words, kinds))
    if any(getattr(extra, "allow_inf_nan", None) for extra in field.metadata):
        words = words.replace("a finite number", "a number")
    limits = [(sign, getattr(extra, name, None)) for name, sign in _BOUNDS for extra in field.metadata]
    bounds = [f"{sign} {value}" for sign, value in limits if value is not None]
    return f"{words} {' and '.join(bounds)}".rstrip()


def _union(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, UnionType) else (annotation,)


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        *others, last = map(repr, typing.get_args(kind))
        return f"{', '.join(others)} or {last}"
    if typing.get_origin(kind) is tuple:
        return _LISTS.get(typing.get_args(kind)[0], "a list")
    return _KINDS.get(kind, str(kind))
