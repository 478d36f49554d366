"""Comparing optimizers at a terminal: names into contenders, progress, table, plot and page."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shoal import names
from shoal.cli.progress import SECONDS
from shoal.cli.writing import unused, writing
from shoal.entry import Wrapped
from shoal.learning import Comparison, Contender, around, compare
from shoal.learning.comparison import Interrupted
from shoal.learning.comparison import Progress as State
from shoal.learning.contenders import MakeSchedule
from shoal.optim.large_batch import warmup_polynomial
from shoal.optim.schedules import Schedule, constant, gradual_warmup, warmup_cosine
from shoal.report.comparison import JSON, write_comparison, write_json
from shoal.simulation.given import build_task

TUNING_SEED = 1000  # the first of those that are tuned on; tests have 0, 1, ...
COUNT = 7  # rates around each optimizer's own
SCHEDULES: dict[str, Callable[[int], MakeSchedule]] = {
    "constant": lambda warmup: functools.partial(warmup_constant, warmup_steps=warmup) if warmup else constant,
    "cosine": lambda warmup: functools.partial(warmup_cosine, warmup_steps=warmup),
    "linear": lambda warmup: functools.partial(warmup_polynomial, warmup_steps=warmup),
    "quadratic": lambda warmup: functools.partial(warmup_polynomial, warmup_steps=warmup, power=2.0),
}


def warmup_constant(peak: float, warmup_steps: int) -> Schedule:
    """Linear up to `peak`, the rate of the last step of the warm-up, and no further."""
    return gradual_warmup(constant(peak), start=peak / warmup_steps, steps=warmup_steps - 1)


def run_comparison(
    optimizers: Sequence[str],
    out: Path,
    *,
    task: str,
    model: str | None,
    rates: str,
    schedule: str,
    warmup: float,
    seeds: int,
    tuning_seeds: int,
    steps: int,
    **settings: Any,
) -> None:
    """Compare, show how far it is, print the table, write the folder.

    Args:
        optimizers: names with settings.
        out: folder of what is written: JSON whenever a contender is done, all at the end, however it comes; one with a
            number behind it where there is a comparison already.
        task, model: names.
        rates: numbers with commas, or "auto".
        schedule, warmup: name, and share of the steps.
        seeds, tuning_seeds: how many.
        steps: of every run.
        settings: other arguments of `compare`.

    Raises:
        ValueError: something cannot be.
    """
    tried = _numbers(rates)
    contenders = dict(_contender(text, tried, steps) for text in optimizers)
    if len(contenders) < len(optimizers):
        raise ValueError("optimizers: one is given twice; settings tell them apart, as in adamw:weight_decay=0.1")
    _check(schedule, warmup, seeds=seeds, tuning_seeds=tuning_seeds)
    built = build_task(task, model)
    out = unused(out, JSON)
    keep = _keeper(out)
    with writing(out):
        try:
            with _display(built.dataset.source) as show:

                def tell(state: State) -> None:
                    keep(state)
                    show(state)

                found = compare(
                    contenders,
                    built,
                    steps=steps,
                    seeds=range(seeds),
                    tuning_seeds=range(TUNING_SEED, TUNING_SEED + tuning_seeds),
                    schedule=SCHEDULES[schedule](round(warmup * steps)),
                    tell=tell,
                    **settings,
                )
        except Interrupted as stopped:
            _report(stopped.comparison, out)
            raise
        _report(found, out)


def _check(schedule: str, warmup: float, **counts: int) -> None:
    for name, count in counts.items():
        if not 1 <= count <= TUNING_SEED:
            raise ValueError(f"{name}: got {count}; 1 to {TUNING_SEED} is allowed")
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"warmup: got {warmup}; a share in [0, 1) is allowed")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: got {schedule!r}{names.suggestion(schedule, SCHEDULES)}")


def _keeper(out: Path) -> Callable[[State], None]:
    """Writes the numbers whenever there are more of them."""
    latest: list[tuple[int, int]] = []

    def keep(state: State) -> None:
        done = [(len(entry.trials), len(entry.tests)) for entry in state.comparison.entries]
        if any(map(any, done)) and done != latest:
            latest[:] = done
            write_json(state.comparison, out)

    return keep


def report_again(file: Path) -> None:
    """Write plot and page of a stored comparison anew, and print its table.

    Raises:
        ValueError: it is none.
    """
    path = file / JSON if file.is_dir() else file
    try:
        found = Comparison.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no comparison: it is not text") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with writing(path.parent):
        _report(found, path.parent)


def _report(found: Comparison, out: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    page = write_comparison(found, out)
    Console().print(found.table(console.width))
    ended = "" if found.finished else " (interrupted)"
    console.print(f"comparison: {out}{ended}", markup=False)
    console.print(f"report: {page}", markup=False)


# -- names into contenders ---------------------------------------------------------------------------------------------


def _contender(text: str, rates: Sequence[float] | None, steps: int) -> tuple[str, Contender]:
    """A name with settings, and who it stands for; `rates` None: those around its own."""
    spec = names.parse("optimizer", text)
    entry: Any = spec.entry
    settings = dict(spec.arguments)
    lr = settings.pop("lr", None)
    if lr is not None and rates is not None:
        raise ValueError(f"rates: {text} gives a learning rate of its own; say --rates auto to look around it")
    method: Any = entry.inner if isinstance(entry, Wrapped) else entry
    name = spec.name + (":" + ",".join(f"{key}={value}" for key, value in settings.items()) if settings else "")
    arguments = method.cls().arguments
    if arguments.get("t_max") is inspect.Parameter.empty:
        settings.setdefault("t_max", steps)
    own = lr or method.lr or arguments["lr"]
    make = functools.partial(_rule, entry) if isinstance(entry, Wrapped) else method.cls()
    try:
        entry.load()(lr=own, **settings)
    except NotImplementedError as error:
        if isinstance(entry, Wrapped):
            raise ValueError(f"optimizer: {text}: {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {text}: {error}") from None
    return name, Contender(make, settings, rates or around(float(own), COUNT))


def _rule(entry: Wrapped, lr: float, **settings: Any) -> Any:
    return entry.load()(lr=lr, **settings)


def _numbers(text: str) -> list[float] | None:
    """Numbers with commas between them; None for "auto"."""
    if text == "auto":
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"rates: got {text!r}; numbers with commas between them, or auto, are allowed") from None


# -- progress ----------------------------------------------------------------------------------------------------------


@contextmanager
def _display(source: str) -> Iterator[Callable[[State], None]]:
    """A bar if standard error is a terminal that can move its cursor, else a line every few seconds."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(source)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("preparing", total=None)

        def show(state: State) -> None:
            if bars.tasks[0].total is None:
                console.print(f"data: {source}", markup=False)
            bars.update(bar, description=f"{state.stage} {state.contender}", total=state.total, completed=state.done)

        try:
            yield show
        finally:
            if bars.tasks[0].total is None:  # what never began leaves no bar
                bars.remove_task(bar)
                bars.live.transient = True


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._last = time.monotonic()

    def __call__(self, state: State) -> None:
        now = time.monotonic()
        if self._source:
            print(f"data: {self._source}", file=sys.stderr)
            self._source = ""
        if now - self._last >= SECONDS or state.done == state.total:
            self._last = now
            print(f"{state.stage} {state.contender}: {state.done / state.total:.0%}", file=sys.stderr)
