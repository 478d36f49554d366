"""Recording runs and training nowcasters at a terminal: progress, and what came out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shoal.cli.progress import SECONDS
from shoal.cli.writing import writing
from shoal.learning.nowcasting import Meta, Recording, record, train
from shoal.optim.nino.files import SHIPPED
from shoal.optim.nino.files import about as told
from shoal.optim.nino.network import Shape


def record_runs(folder: Path, runs: int, families: str | None, **settings: Any) -> None:
    """Record runs, show how far it is, and say where they are.

    Raises:
        ValueError: something cannot be.
    """
    if families is not None:
        settings["families"] = tuple(families.split(","))
    with writing(folder), _display("recording") as show:
        found = record(folder, runs, Recording(**settings), show)
    print(f"recorded: {len(found)} runs in {folder}")


def train_nowcaster(folder: Path, out: Path, shape: Mapping[str, int], **settings: Any) -> None:
    """Train, show how far it is, and print errors.

    Raises:
        ValueError: something cannot be.
    """
    with writing(out), _display("training") as show:
        train(folder, out, Shape(**shape), Meta(**settings), show)
    errors = told(out)["training"]["errors"]
    print("error on runs that were held out: " + ", ".join(f"{name} {value:.4f}" for name, value in errors.items()))
    print(f"nowcaster: {out}")


def print_about(file: Path | None) -> None:
    """Print a nowcaster's metadata.

    Raises:
        ValueError: the file holds none.
    """
    print(json.dumps(told(file or SHIPPED), indent=2))


@contextmanager
def _display(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar if standard error is a terminal that can move its cursor, else a line every few seconds."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        last = time.monotonic()

        def line(done: int, total: int, detail: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS or done == total:
                last = time.monotonic()
                print(f"{what}: {done} of {total}, {detail}", file=sys.stderr)

        yield line
        return
    columns = (TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task("", total=None)
        yield lambda done, total, detail: bars.update(bar, description=detail, total=total, completed=done)
