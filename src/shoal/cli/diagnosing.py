"""A diagnosis at a terminal: progress, a table of what was found, the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from shoal.cli.progress import stages
from shoal.cli.writing import unused, writing
from shoal.diagnosis import Diagnosis, Interrupted, diagnose
from shoal.report.diagnosis import JSON, PAGE, summary


def run_diagnosis(task: str, out: Path, **settings: Any) -> None:
    """Diagnose, show how far it is, print what was found.

    Args:
        task: name or path.
        out: folder; one with a number behind it where there is a diagnosis already.
        settings: other arguments of `diagnose`.

    Raises:
        ValueError: something cannot be.
    """
    out = unused(out, JSON)
    with writing(out):
        try:
            with stages() as show:
                found = diagnose(task, out=out, tell=lambda at: show(at.stage, at.done, at.total), **settings)
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
        if (out / PAGE).exists():  # not if nothing had been measured yet
            console.print(f"report: {out / PAGE}", markup=False)
