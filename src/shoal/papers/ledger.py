"""The ledger: every publication with its verdict, and how to run a claim again."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.papers.catalogue import Publication, find, publications
from shoal.papers.result import Result, tally

RESULTS = Path(__file__).parent / "results"
STATES = ("holds", "partly", "does not hold", "not yet")
SCALES = ("check", "full")


def claim_of(publication: Publication) -> Callable[[str], Result] | None:
    """The publication's `claim(scale)`, or None if it is not reproduced yet."""
    name = f"shoal.papers.{publication.slug.replace('-', '_')}"
    if importlib.util.find_spec(name) is None:
        return None
    claim: Callable[[str], Result] = importlib.import_module(name).claim
    return claim


def stored(publication: Publication) -> dict[str, Any] | None:
    """The stored result of the full run: verdict, findings, figures, commit, date, seconds; None if there is none."""
    path = RESULTS / f"{publication.slug}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def counted(result: Mapping[str, Any]) -> str:
    """The verdict of a stored result, with how many criteria hold: "partly 1/6"."""
    return f"{result['verdict']} {tally(finding['holds'] for finding in result['findings'])}"


def print_ledger(kind: str | None = None, only: str | None = None) -> None:
    """Print all publications (of a kind, or in a state).

    Raises:
        ValueError: unknown kind or state.
    """
    from shoal.names import suggestion

    everything = publications()
    kinds = dict.fromkeys(p.kind for p in everything)
    if kind is not None and kind not in kinds:
        raise ValueError(f"kind: {kind!r} is unknown{suggestion(kind, kinds)}")
    if only is not None and only not in STATES:
        raise ValueError(f"state: {only!r} is unknown{suggestion(only, dict.fromkeys(STATES))}")
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("no.", "slug", "title", "year", "kind", "verdict"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True, ratio=1 if heading == "title" else None)
    colours = {"holds": "green", "partly": "yellow", "does not hold": "red", "not yet": "dim"}
    counts = dict.fromkeys(STATES, 0)
    for publication in everything:
        result = stored(publication)
        verdict = str(result["verdict"]) if result else "not yet"
        if (kind is None or publication.kind == kind) and (only is None or verdict == only):
            counts[verdict] += 1
            shown = f"[{colours[verdict]}]{counted(result) if result else verdict}[/]"
            table.add_row(
                f"{publication.number:03d}",
                publication.slug,
                publication.title,
                str(publication.year),
                publication.kind,
                shown,
            )
    console = Console()
    console.print(table)
    console.print(", ".join(f"{count} {name}" for name, count in counts.items() if count), highlight=False)


def reproduce_papers(paper: str | None, *, everything: bool, scale: str, store: bool) -> None:
    """Run one claim or all of them, and print the figures beside the stored and the published ones.

    Raises:
        ValueError: nothing or too much was named, an unknown scale, or a publication without a claim yet.
    """
    if scale not in SCALES:
        raise ValueError(f"scale: got {scale!r}; allowed are {', '.join(SCALES)}")
    if (paper is None) != everything:
        raise ValueError("name one publication, or give --all")
    if store and scale != "full":
        raise ValueError("store: only results of --scale full are stored")
    chosen = [p for p in publications() if claim_of(p)] if paper is None else [find(paper)]
    console = Console()
    for publication in chosen:
        claim = claim_of(publication)
        if claim is None:
            raise ValueError(f"{publication.slug} is not reproduced yet; `shoal papers` shows which are")
        console.print(f"[bold]{publication.title}[/] ({publication.slug}, arXiv {publication.arxiv})", highlight=False)
        began = time.monotonic()
        with console.status(f"running at scale {scale} ..."):
            result = claim(scale)
        seconds = time.monotonic() - began
        _print_result(console, publication, result, scale, seconds)
        if store:
            console.print(f"stored: {_store(publication, result, seconds)}", highlight=False, soft_wrap=True)


def _print_result(console: Console, publication: Publication, result: Result, scale: str, seconds: float) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "criterion", "measured"):
        table.add_column(heading, overflow="fold")
    for finding in result.findings:
        table.add_row("[green]yes[/]" if finding.holds else "[red]no[/]", finding.criterion, finding.measured)
    console.print(table)
    for name, value in result.published.items():
        console.print(f"  published: {name}: {value}", highlight=False)
    kept = stored(publication)
    if result.note:
        console.print(f"  note: {result.note}", highlight=False)
    before = f"; stored full run: {counted(kept)} ({kept['date']}, commit {kept['commit']})" if kept else ""
    verdict = f"[bold]{result.verdict} {result.tally}[/]"
    console.print(f"verdict at scale {scale}: {verdict} in {seconds:.0f} s{before}\n", highlight=False)


def _store(publication: Publication, result: Result, seconds: float) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{publication.slug}.json"
    record = {
        "verdict": result.verdict,
        "findings": [asdict(finding) for finding in result.findings],
        "figures": {name: value if math.isfinite(value) else None for name, value in result.figures.items()},
        "published": dict(result.published),
        "seeds": list(result.seeds),
        "note": result.note,
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds, 1),
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
