"""The coordinate check at a terminal: models of several widths by name, with muP and without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from shoal import names
from shoal.cli.writing import writing
from shoal.entry import Method
from shoal.instruments.coordinates import CoordinateCheck, coordinate_check
from shoal.optim import mup
from shoal.report.coordinates import write_coordinates
from shoal.report.units import MISSING
from shoal.simulation.given import build

WIDTHS = {"mlp": "hidden", "cnn": "channels", "transformer": "width", "vit": "width"}
"""Which argument of a model is its width."""
ATTENTION = ("transformer", "vit")


def run_check(
    optimizer: str, out: Path, *, task: str, model: str, widths: str, steps: int, seeds: int, batch: int
) -> None:
    """Check a model with and without muP, print a table of each, write the folder.

    Args:
        optimizer, task, model: names with settings.
        out: folder.
        widths: numbers with commas between them; the first is the base.
        steps, seeds, batch: of `coordinate_check`.

    Raises:
        ValueError: something cannot be.
    """
    for name, value in (("seeds", seeds), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; at least 1 is allowed")
    chosen = _numbers(widths)
    method, settings = _optimizer(optimizer)
    built = build("task", task)
    data = built.dataset.train[:batch]
    usual = partial(_model, model, built.dataset)
    makes = {"muP": partial(usual, base=chosen[0]), "standard": usual}
    base = usual(chosen[0])
    replace(built, name=f"{built.name.partition('/')[0]}/{model}").check(base)
    ways = {
        "muP": lambda made: mup(made, base, method, **settings),
        "standard": lambda made: method(made.named_parameters(), **settings),
    }
    found = {
        name: coordinate_check(
            makes[name], chosen, way, data.inputs, data.targets, built.loss, steps=steps, seeds=range(seeds)
        )
        for name, way in ways.items()
    }
    with writing(out):
        path = write_coordinates(found, out)
    _print(found)
    Console(highlight=False, soft_wrap=True).print(f"plot: {path}", markup=False)


def _print(found: Mapping[str, CoordinateCheck]) -> None:
    console = Console(highlight=False)
    for name, check in found.items():
        console.print(f"{name}: mean movement after {check.steps} steps")
        table = Table(box=None)
        table.add_column("layer")
        for width in check.widths:
            table.add_column(str(width), justify="right")
        table.add_column("exponent", justify="right")
        for layer in check.layers:
            moved = [f"{value:.3g}" for value in check.moved(layer)]
            exponent = check.exponent(layer)
            table.add_row(layer, *moved, MISSING if math.isnan(exponent) else f"{exponent:+.2f}")
        console.print(table)
        if check.diverged:
            whole = check.diverged == check.widths
            which = "every width" if whole else f"width {', '.join(map(str, check.diverged))}"
            console.print(f"{name}: training diverged at {which}; a smaller learning rate may not", style="bold")


def _model(text: str, dataset: Any, width: int, base: int | None = None) -> nn.Module:
    spec = names.parse("model", text)
    if spec.name not in WIDTHS:
        raise ValueError(f"model: got {spec.name}; {', '.join(WIDTHS)} are allowed, which have a width")
    if WIDTHS[spec.name] in spec.arguments:
        raise ValueError(f"model: {text} has a width of its own; --widths says which are tried")
    arguments = {**spec.arguments, WIDTHS[spec.name]: width}
    if base is not None and spec.name in ATTENTION:
        arguments["base_width"] = base
    made: nn.Module = build("model", f"{spec.name}:{','.join(f'{k}={v}' for k, v in arguments.items())}", dataset)()
    return made


def _optimizer(text: str) -> tuple[Any, dict[str, Any]]:
    """An optimizer's class, and its settings, the learning rate among them."""
    spec = names.parse("optimizer", text)
    if not isinstance(spec.entry, Method):
        raise ValueError(f"optimizer: {text!r} is made of several; one that muP knows is allowed, such as adam")
    method: Any = spec.entry.cls()
    own = spec.entry.lr or method.arguments["lr"]
    return method, {"lr": float(own), **spec.arguments}


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"widths: got {text!r}; whole numbers with commas between them are allowed") from None
