"""What an optimizer is, from its own words: the file's docstring, its arguments, its chain."""

from __future__ import annotations

import inspect
import math
import sys
import textwrap
from typing import Any

from shoal.entry import Method

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


def _arguments(cls: Any) -> Any:
    """Default, meaning and what is allowed of each argument."""
    from rich.table import Table
    from rich.text import Text

    from shoal.optim.core.arguments import SHARED

    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("name", "default", "meaning", "allowed"):
        table.add_column(head, overflow="fold")
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
