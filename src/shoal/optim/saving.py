"""Optimizer states as files: safetensors, written whole or not at all, read without pickle.

    save(optimizer, "optimizer.safetensors")
    load(optimizer, "optimizer.safetensors")     # an optimizer of the same class over the same parameters

A loaded optimizer continues bit for bit. The tensors of `state_dict()` lie in the file as they are; the rest (settings
of groups, step numbers) is JSON in its metadata, with {"tensor": name} where a tensor belongs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shoal.files import write_tensors

FORMAT = 1
KEY = "shoal.optim"


def save(optimizer: torch.optim.Optimizer, path: str | Path) -> None:
    """Write an optimizer's state, settings of its groups included.

    Args:
        optimizer: any whose state is tensors, numbers, text, None, and lists, tuples and dictionaries of these.
        path: file to write or to replace; missing folders are made.

    Raises:
        OSError: the file cannot be written, and why.
        ValueError: the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    about = {
        "format": FORMAT,
        "optimizer": _name(optimizer),
        "parameters": _shapes(optimizer),
        "state": _described(optimizer.state_dict(), "", tensors),
    }
    write_tensors(Path(path), tensors, {KEY: json.dumps(about)})


def load(optimizer: torch.optim.Optimizer, path: str | Path) -> None:
    """Give an optimizer the state that `save` wrote. On an error it stays as it was.

    Args:
        optimizer: of the class that was saved, over parameters of the same shapes in the same groups.
        path: file to read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one of `save`, is damaged, or belongs to another optimizer.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"path: {path} is not a whole safetensors file ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(
            f"path: {path} holds tensors, but no optimizer's state; files of shoal.optim.saving.save are allowed"
        )
    if about.get("format") != FORMAT:
        raise ValueError(f"path: {path} is of format {about.get('format')!r}; {FORMAT} is allowed")
    _fits(optimizer, about, path)
    try:
        state = _restored(about["state"], tensors)
        if not isinstance(state, dict) or not {"state", "param_groups"} <= state.keys():
            raise ValueError("no state of an optimizer")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: {path} is damaged ({type(error).__name__}: {error})") from None
    optimizer.load_state_dict(state)


def _fits(optimizer: torch.optim.Optimizer, about: dict[str, Any], path: Path) -> None:
    name = _name(optimizer)
    if about.get("optimizer") != name:
        raise ValueError(f"path: {path} holds the state of {about.get('optimizer')}; that of {name} is allowed")
    ours, theirs = _shapes(optimizer), about.get("parameters")
    if theirs == ours:
        return
    if not isinstance(theirs, list) or [len(group) for group in theirs] != [len(group) for group in ours]:
        counts = [[len(group) for group in groups] if isinstance(groups, list) else groups for groups in (theirs, ours)]
        raise ValueError(f"path: {path} is for groups of {counts[0]} parameters; {counts[1]} is allowed")
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for i, (shape, stored) in enumerate(zip(mine, other, strict=True)):
            if shape != stored:
                where = f"parameter {i} of group {number}"
                raise ValueError(f"path: {path}: {where} had shape {tuple(stored)}; {tuple(shape)} is allowed")


def _name(optimizer: torch.optim.Optimizer) -> str:
    """The class, and those that it wraps."""
    inner = getattr(optimizer, "inner", None)
    name = type(optimizer).__name__
    return f"{name}({_name(inner)})" if isinstance(inner, torch.optim.Optimizer) else name


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]


def _described(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON; its tensors go to `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        while where in tensors:  # "a.b" and b within a
            where += "'"
        tensors[where] = value.detach().to("cpu", copy=True).contiguous()  # a copy: none may share memory
        return {"tensor": where}
    if isinstance(value, list | tuple):
        inner = [_described(v, f"{where}.{i}" if where else str(i), tensors) for i, v in enumerate(value)]
        return inner if isinstance(value, list) else {"tuple": inner}
    if isinstance(value, dict) and all(isinstance(k, str | int) and not isinstance(k, bool) for k in value):
        pairs = [[k, _described(v, f"{where}.{k}" if where else str(k), tensors)] for k, v in value.items()]
        return {"dict": pairs}
    raise ValueError(
        f"optimizer: {where or 'its state'} is {value!r}; tensors, numbers, text, None and containers are allowed"
    )


def _restored(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "tuple":
        return tuple(_restored(v, tensors) for v in inner)
    if kind == "dict":
        return {k: _restored(v, tensors) for k, v in inner}
    raise ValueError(f"unknown kind {kind!r}")
