"""What the arguments of an experiment stand for: names are built, objects checked, before anything runs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

from shoal import names
from shoal.compression import Codec
from shoal.engine.devices import Device
from shoal.engine.faults import KINDS
from shoal.engine.links import Link
from shoal.learning import Task
from shoal.learning.data import Data
from shoal.optim import Rule
from shoal.text import shown
from shoal.topology import Topology

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "none"}


def build(kind: str, text: str, *given: Any, **more: Any) -> Any:
    """Build what a specification such as `dirichlet:0.3` names.

    Args:
        kind: a key of `names.KINDS`.
        text: the specification.
        given: what comes before its arguments.
        more: keyword arguments; the specification's own come first.

    Raises:
        ValueError: an unknown name, an argument that it does not take, or a value that is not allowed; the message
            begins with `kind`.
    """
    spec = names.parse(kind, text)
    function = spec.entry.load()
    check_arguments(f"{kind}: {spec.name}", function, spec.arguments, taken=len(given))
    try:
        return names.call(spec, *given, **more)
    except ValueError as error:
        if type(error) is not ValueError or str(error).split(":")[0] in names.KINDS:
            raise
        raise ValueError(f"{kind}: {text}: {error}") from error


def build_task(text: str, model: str | None = None, **more: Any) -> Task:
    """Build the task that is named.

    Args:
        text: the task, with arguments.
        model: the name of its model; None: its own.
        more: as of `build`.

    Raises:
        ValueError: as of `build`, or the model does not fit the data.
    """
    task: Task = build("task", text, **more, **({"model": model} if model else {}))
    if model and task.players is None:
        try:
            made = task.initial(0)
        except Exception:  # refused where it is built for use
            return task
        task.check(made)
    return task


def separate(given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """What was given by name, and what as an object; None is neither.

    Raises:
        ValueError: an object that cannot stand for its argument.
    """
    objects = {name: value for name, value in given.items() if not isinstance(value, str | None)}
    for argument, value in objects.items():
        check_object(argument, value)
    return {name: value for name, value in given.items() if isinstance(value, str)}, objects


def check_arguments(what: str, function: Callable[..., Any], arguments: Mapping[str, Any], taken: int = 0) -> None:
    """Refuse arguments that a function does not take, or whose type is not the declared one.

    Args:
        what: how the message begins.
        function: a function or a class.
        arguments: name -> value, as `names.literal` reads it.
        taken: how many of the first parameters are not for users.

    Raises:
        ValueError: with the argument, the value, and what is allowed.
    """
    parameters = list(inspect.signature(function).parameters.values())[taken:]
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    allowed = dict.fromkeys(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    hints = _hints(function)
    for name, value in arguments.items():
        if name not in allowed and not free:
            told = names.suggestion(name, allowed) if allowed else "; it takes no arguments"
            raise ValueError(f"{what}: has no argument {name!r}{told}")
        wanted = _simple(hints.get(name, Any))
        if wanted and not any(_is(value, kind) for kind in wanted):
            raise ValueError(f"{what}: {name}: got {value!r}; {' or '.join(WORDS[k] for k in wanted)} is allowed")
    missing = [p.name for p in parameters if p.name in allowed and p.default is p.empty and p.name not in arguments]
    if missing and arguments.keys() <= allowed.keys() and not taken:
        raise ValueError(f"{what}: needs {missing[0]}, as in {what.split(': ')[-1]}:{missing[0]}=...")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # a type that is imported for type checkers only
        return {}


def _simple(hint: Any) -> list[type]:
    """The types of a hint that can be written as text; none if every value will do."""
    options = typing.get_args(hint) or (hint,)
    return [] if Any in options else [option for option in WORDS if option in options]


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


def check_object(name: str, value: Any) -> None:
    """Refuse an object that cannot be what the argument `name` of `simulate` stands for.

    Raises:
        ValueError: with the argument, the value, and what is allowed.
    """
    fits, allowed = _OBJECTS[name]
    if not fits(value):
        got = f"the class {value.__name__}" if isinstance(value, type) else shown(value)
        raise ValueError(f"{name}: got {got}; a name or {allowed} is allowed")


def _some(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, Iterable) and all(isinstance(each, kind) for each in value)

    return fits


def _is_partition(value: Any) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Data) and isinstance(value[1], Sequence)
    )


_OBJECTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "protocol": (
        lambda value: callable(value) and not isinstance(value, type),
        "a coroutine function `async def protocol(me)` (an instance, if it is a class)",
    ),
    "task": (lambda value: isinstance(value, Task), "a Task"),
    "topology": (lambda value: isinstance(value, Topology), "a Topology"),
    "optimizer": (
        lambda value: isinstance(value, Rule) or callable(value),
        "a Rule, or a function from parameters to a torch.optim.Optimizer,",
    ),
    "faults": (_some(tuple(KINDS.values())), f"a sequence of faults ({', '.join(k.__name__ for k in KINDS.values())})"),
    "partition": (_is_partition, "a pair (data, list of index tensors, one a peer)"),
    "devices": (_some(Device), "a sequence of Device, one a peer,"),
    "network": (_some(Link), "a sequence of Link, one a peer,"),
    "codec": (lambda value: isinstance(value, Codec), "a Codec"),
}
