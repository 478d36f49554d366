"""Running experiments at a terminal: progress, tables, reports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from shoal.report import NotARun, RunFolder
    from shoal.simulation import Run
    from shoal.simulation.simulate import Progress


def run_and_report(
    arms: list[tuple[str | None, dict[str, Any]]],
    out: str | Path,
    *,
    together: bool = False,
    on: str = "simulation",
    **there: Any,
) -> None:
    """Run each arm with live progress, print a table, and write the reports.

    When a run fails or is interrupted, what it and those before it left is reported all the same.

    Args:
        arms: (name, settings) of each run.
        out: folder of run folders.
        together: also write one report of all runs, `out/report.html`.
        on: where they run, see `places`.
        there: further arguments of the place.
    """
    from shoal.cli.places import left_out, runner, speaks
    from shoal.cli.progress import display

    run_one = runner(on, **there)
    if not speaks(on):
        _run_quietly(run_one, arms, out)
        return
    begun: list[Run] = []
    try:
        with display() as shown:
            for name, settings in arms:
                if ignored := left_out(on, settings):
                    print(f"left out, for simulations only: {', '.join(ignored)}", file=sys.stderr)
                shown.begin(name or str(settings.get("protocol", "gossip")).split(":")[0])

                def progress(state: Progress) -> None:
                    if not begun or begun[-1] is not state.run:
                        begun.append(state.run)
                    shown.show(state)

                run = run_one(name=name, out=out, progress=progress, **settings)
                shown.end(run.info)
    except BaseException:
        if begun:
            report_runs(begun, out, together)
        raise
    report_runs(begun, out, together)


def _run_quietly(run_one: Callable[..., Run], arms: list[tuple[str | None, dict[str, Any]]], out: str | Path) -> None:
    """Run each arm, and leave it to the process that speaks to say what came of it, unless that one is gone."""
    from shoal.cli import explain
    from shoal.engine import PeerLost

    try:
        for name, settings in arms:
            run_one(name=name, out=out, **settings)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if explain(error) is None or (isinstance(error, PeerLost) and error.peer == 0):
            raise
        raise SystemExit(2) from None


def report_runs(runs: list[Run], out: str | Path, together: bool = False) -> None:
    """Print a table of runs, and write their reports; arguments as of `run_and_report`."""
    from shoal.report import RunFolder, write_report

    folders = [RunFolder(run.folder) for run in runs if run.folder is not None]
    console = Console()
    print_table(folders)
    pages = [write_report([folder], folder.path / "report.html") for folder in folders]
    if together:
        pages = [write_report(folders, Path(out) / "report.html")]
    for folder in folders:
        ended = "" if folder.facts.status == "finished" else f" ({folder.facts.status})"
        console.print(f"run: {folder.path}{ended}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {pages[-1]}", highlight=False, markup=False, soft_wrap=True)


def leave_out(error: NotARun) -> None:
    """Say that a run among others cannot be read."""
    print(f"shoal: left out: {error}", file=sys.stderr)


def print_table(runs: list[RunFolder]) -> None:
    """The summary table of runs, as wide as the terminal; a word beneath where they are of different tasks."""
    from shoal.report import summary_table, tasks

    console = Console()
    console.print(summary_table(runs, console.width))
    if len(several := tasks(runs)) > 1:
        said = f"these runs are of different tasks ({', '.join(several)}); their scores are not to be compared"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
