"""What an optimizer is, from its own words: the file's docstring, its arguments, its chain."""

from __future__ import annotations

import inspect
import math
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from shoal.entry import Method, Wrapping
from shoal.optimizers import WRAPPERS

LEFT_OUT = ("maximize", "compile")  # every class has them


def explain_optimizer(name: str, method: Method) -> None:
    """Print it."""
    from rich.console import Console

    cls = method.cls()
    console = Console(highlight=False, soft_wrap=True)
    plain: dict[str, Any] = {"markup": False}
    console.print(f"{cls.__name__} ({name}): {method.help}", style="bold", **plain)
    console.print(inspect.cleandoc(cls.__doc__ or "").strip() + "\n", **plain)
    module = sys.modules[cls.__module__]
    console.print(textwrap.indent(inspect.cleandoc(module.__doc__ or "").strip(), "  "), **plain)
    console.print("\narguments", style="bold")
    console.print(_arguments(cls))
    console.print("\nof every optimizer: maximize (go up the gradient), compile (step by one compiled kernel)", **plain)
    _made_of(console, cls, method)


def explain_wrapping(name: str, entry: Wrapping) -> None:
    """Print what goes around optimizers, or around models: what it is, its arguments, what it needs."""
    from rich.console import Console

    function = entry.load()
    module = sys.modules[function.__module__]
    called = {word.lower(): thing for word, thing in vars(module).items() if inspect.isclass(thing)}
    made = called.get(name.replace("-", ""), function)
    console = Console(highlight=False, soft_wrap=True)
    plain: dict[str, Any] = {"markup": False}
    console.print(f"{made.__name__} ({name}): {entry.help}", style="bold", **plain)
    console.print(re.split(r"\n\n\w+:\n", inspect.cleandoc(made.__doc__ or ""))[0] + "\n", **plain)
    console.print(textwrap.indent(inspect.cleandoc(module.__doc__ or "").strip(), "  "), **plain)
    meanings = _meanings(made)
    console.print(f"\narguments of {made.__name__} in Python", style="bold")
    console.print(_table(inspect.signature(made).parameters, meanings))
    if name in WRAPPERS:
        _before_names(console, name, function, meanings)
    needs = f"\nneeds {entry.needs}" if entry.needs else ""
    console.print(f"{needs}\npublication: {entry.paper} (shoal reproduce {entry.paper})", **plain)


def _before_names(console: Any, name: str, function: Any, meanings: dict[str, str]) -> None:
    """How it stands before an optimizer's name, or why it does not."""
    from shoal.optim import SGD

    try:
        function(SGD.rule(lr=0.1))
    except ValueError as error:
        console.print(f"\nnot in names, as in {name}+sgd: {error}", markup=False)
        return
    console.print(f"\narguments in names, as in {name}+sgd", style="bold", markup=False)
    _, *own = inspect.signature(function).parameters.items()
    console.print(_table(dict(own), {**meanings, **_meanings(function)}))


def _meanings(thing: Any) -> dict[str, str]:
    """Argument -> what its docstring says of it."""
    found: dict[str, str] = {}
    parts = re.split(r"\n\n(?=\w+:\n)", inspect.cleandoc(thing.__doc__ or ""))
    for part in parts:
        if part.startswith("Args:\n"):
            for text in re.split(r"\n    (?! )", part)[1:]:
                which, _, meaning = text.partition(": ")
                found |= dict.fromkeys(which.split(", "), " ".join(meaning.split()))
    return found


def _table(parameters: Mapping[str, inspect.Parameter], meanings: Mapping[str, str]) -> Any:
    """Default and meaning of each argument."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("name", "default", "meaning"):
        table.add_column(head, overflow="fold", no_wrap=head == "name")
    for name, parameter in parameters.items():
        default = "needed" if parameter.default is parameter.empty else repr(parameter.default)
        shown = "any" if parameter.kind is parameter.VAR_KEYWORD else default
        table.add_row(*map(Text, (name, shown, meanings.get(name, ""))))
    return table


def _arguments(cls: Any) -> Any:
    """Default, meaning and what is allowed of each argument."""
    from rich.table import Table
    from rich.text import Text

    from shoal.optim.core.arguments import SHARED

    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("name", "default", "meaning", "allowed"):
        table.add_column(head, overflow="fold", no_wrap=head == "name")
    for name, default in cls.arguments.items():
        if name in LEFT_OUT:
            continue
        about = cls.about.get(name) or SHARED.get(name)
        shown = "needed" if default is inspect.Parameter.empty else f"{default!r}"
        cells = (name, shown, about.help if about else "", about.allowed if about else "")
        table.add_row(*map(Text, cells))
    return table


def _made_of(console: Any, cls: Any, method: Method) -> None:
    """Chains of a matrix and of a vector, and bytes of state."""
    from shoal.optim import Param

    plain: dict[str, Any] = {"markup": False}
    try:
        rule = cls.rule(**_needed(cls, method))
    except NotImplementedError as error:
        console.print(f"\n{error}", **plain)
    else:
        console.print("\nchain", style="bold")
        matrix, vector = (rule.plan(Param(*which)).chain for which in (("mlp.weight", (64, 64)), ("mlp.bias", (64,))))
        same = list(matrix) == list(vector)
        for what, chain in (("", matrix),) if same else (("of a matrix: ", matrix), ("of a vector: ", vector)):
            console.print(what + (" -> ".join(map(repr, chain)) or "the gradient itself"), **plain)
    needs = f"; needs {method.needs}" if method.needs else ""
    size = f"{method.bytes_per_parameter:.3g} bytes of state a parameter (1024 x 1024, float32)"
    console.print(f"\n{size}{needs}", **plain)
    if method.paper:
        console.print(f"publication: {method.paper} (shoal reproduce {method.paper})", **plain)


def _needed(cls: Any, method: Method) -> dict[str, Any]:
    """Something for the arguments without a default."""
    missing = [name for name, default in cls.arguments.items() if default is inspect.Parameter.empty]
    return {name: method.lr or math.nan if name == "lr" else 1000 for name in missing}
