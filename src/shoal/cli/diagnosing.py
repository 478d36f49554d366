"""A diagnosis at a terminal: progress, a table of what was found, the folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from shoal.cli.progress import SECONDS
from shoal.cli.writing import writing
from shoal.diagnosis import Diagnosis, Interrupted, diagnose
from shoal.diagnosis import Progress as State
from shoal.report.diagnosis import JSON, PAGE, summary


def run_diagnosis(task: str, out: Path, **settings: Any) -> None:
    """Diagnose, show how far it is, print what was found.

    Args:
        task: name or path.
        out: folder.
        settings: other arguments of `diagnose`.

    Raises:
        ValueError: something cannot be.
    """
    with writing(out):
        try:
            with _display() as show:
                found = diagnose(task, out=out, tell=show, **settings)
        except Interrupted as stopped:
            _report(stopped.diagnosis, out)
            raise
        _report(found, out)


def _report(found: Diagnosis, out: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for title, sentence in summary(json.loads(found.to_json())):
        console.print(f"{title}: {sentence}", markup=False)
    if found.training:
        ended = "" if found.finished else " (interrupted)"
        console.print(f"diagnosis: {out / JSON}{ended}", markup=False)
        console.print(f"report: {out / PAGE}", markup=False)


@contextmanager
def _display() -> Iterator[Callable[[State], None]]:
    """A bar for each stage if standard error is a terminal that can move its cursor, else a line every few seconds."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description:<12}"), BarColumn(bar_width=20), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        latest: list[tuple[str, TaskID]] = []

        def show(state: State) -> None:
            if not latest or latest[-1][0] != state.stage:
                if latest:
                    _fill(bars, latest[-1][1])
                latest.append((state.stage, bars.add_task(state.stage, total=state.total or None)))
            bars.update(latest[-1][1], total=state.total or None, completed=state.done)

        yield show
        _fill(bars, latest[-1][1])


def _fill(bars: Progress, bar: TaskID) -> None:
    task = next(task for task in bars.tasks if task.id == bar)
    bars.update(bar, total=task.total or 1, completed=task.total or 1)
    bars.stop_task(bar)


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self) -> None:
        self._stage, self._last = "", time.monotonic()

    def __call__(self, state: State) -> None:
        now = time.monotonic()
        if state.stage != self._stage or now - self._last >= SECONDS:
            self._stage, self._last = state.stage, now
            share = f": {state.done / state.total:.0%}" if state.total else ""
            print(f"{state.stage}{share}", file=sys.stderr)
