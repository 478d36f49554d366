"""How far runs are: bars at a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

if TYPE_CHECKING:
    from shoal.simulation.simulate import Progress as State

SECONDS = 5.0  # between two plain lines


class Display(Protocol):
    """Shows one run after the other; a context manager."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *error: object) -> None: ...

    def begin(self, name: str) -> None:
        """A run is being prepared."""

    def show(self, state: State) -> None:
        """It has come this far."""

    def end(self, info: dict[str, Any]) -> None:
        """It has ended; `info` is the content of its run.json."""


def display() -> Display:
    """Bars if standard error is a terminal that can move its cursor, else lines."""
    console = Console(file=sys.stderr)
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


class Bars:
    """A live bar for each run."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=14)),
            BarColumn(bar_width=14),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            console=console,
        )
        self._bar: TaskID | None = None
        self._running = False
        self._source = ""

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None and not self._running:  # a run that never began leaves no bar
            self._bars.remove_task(self._bar)
            self._bars.live.transient = not self._bars.tasks  # else an empty line would stay
        self._bars.stop()

    def begin(self, name: str) -> None:
        """Add a bar."""
        self._running = False
        self._bar = self._bars.add_task(name, total=None, detail="preparing")

    def show(self, state: State) -> None:
        """Move it."""
        assert self._bar is not None
        if not self._running:
            self._running = True
            source = _source(state)
            if source != self._source:
                self._source = source
                self._bars.console.print(source, highlight=False, markup=False)
        detail = figures(state.time, state.bytes, state.latest)
        self._bars.update(self._bar, total=max(1, state.total), completed=state.done, detail=detail)

    def end(self, info: dict[str, Any]) -> None:
        """Fill it."""
        assert self._bar is not None
        done = self._bars.tasks[-1].total or 1
        self._bars.update(self._bar, total=done, completed=done, detail=_summary(info))
        self._bars.stop_task(self._bar)
        self._bar = None


class Lines:
    """Plain lines on standard error, for logs and pipes."""

    def __init__(self) -> None:
        self._name = ""
        self._last = 0.0
        self._running = False

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        sys.stderr.flush()

    def begin(self, name: str) -> None:
        """Remember the name; a run that cannot begin is not worth a line."""
        self._name, self._running = name, False

    def show(self, state: State) -> None:
        """A line at the start, then one every few seconds."""
        now = time.monotonic()
        if not self._running:
            self._running, self._last = True, now
            print(f"{self._name}: {_source(state)}", file=sys.stderr)
        elif now - self._last >= SECONDS:
            self._last = now
            share = state.done / max(1, state.total)
            print(f"{self._name}: {share:.0%}  {figures(state.time, state.bytes, state.latest)}", file=sys.stderr)

    def end(self, info: dict[str, Any]) -> None:
        """The last line."""
        print(f"{self._name}: done  {_summary(info)}", file=sys.stderr)


def _source(state: State) -> str:
    return f"data: {state.run.info['data']['source']}"


def _summary(info: dict[str, Any]) -> str:
    means = {name: values["mean"] for name, values in info.get("summary", {}).items()}
    return figures(info["virtual_seconds"], info["bytes"]["total"], means)


def figures(seconds: float, sent: float, scores: dict[str, float]) -> str:
    """Time, bytes and the first two scores, as people read them."""
    from shoal.report.units import digits, human_bytes, human_time

    shown = "  ".join(f"{name} {digits(value)}" for name, value in sorted(scores.items())[:2])
    return f"{human_time(seconds)}  {human_bytes(sent)}  {shown}".rstrip()


class Stages(Protocol):
    """Shows how far work in stages is."""

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """This much of a stage is done, of how much (0: nobody knows); `detail` says more."""


@contextmanager
def stages() -> Iterator[Stages]:
    """A bar for each stage if standard error is a terminal that can move its cursor, else a line every few seconds."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield StageLines()
        return
    with StageBars(console) as bars:
        yield bars


class StageBars:
    """A live bar for each stage; one is full when the next begins, and the last one at the end, if all went well."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True)),
            console=console,
        )
        self._stage, self._bar = "", TaskID(0)

    def __enter__(self) -> StageBars:
        self._bars.start()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self._fill()
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Move the stage's bar."""
        if not self._bars.tasks or stage != self._stage:
            self._fill()
            self._stage, self._bar = stage, self._bars.add_task(stage, total=total or None, detail=detail)
        self._bars.update(self._bar, total=total or None, completed=done, detail=detail)

    def _fill(self) -> None:
        for task in self._bars.tasks[-1:]:
            self._bars.update(task.id, total=task.total or 1, completed=task.total or 1)
            self._bars.stop_task(task.id)


class StageLines:
    """Plain lines, for logs and pipes: when a stage begins, every few seconds, and when it is done."""

    def __init__(self) -> None:
        self._stage, self._done, self._last = "", False, time.monotonic()

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Print a line if it is time."""
        now, ends = time.monotonic(), bool(total) and done == total
        if stage != self._stage or now - self._last >= SECONDS or (ends and not self._done):
            self._stage, self._done, self._last = stage, ends, now
            share = f": {done / total:.0%}" if total else ""
            print(f"{stage}{share}{detail and f', {detail}'}", file=sys.stderr)
