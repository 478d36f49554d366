"""What a benchmark says in the end: tables, targets met or not, and a file with everything."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measurement, as_json

RESULTS = Path(__file__).resolve().parent / "results"
T = TypeVar("T")
Results = Mapping[str, Sequence[Measurement]]


@dataclass(frozen=True)
class Options:
    """What the command line settles for every benchmark.

    Attributes:
        repetitions: of every arm, interleaved; None: each benchmark's own number.
        case: only this case of a benchmark that has several; None: all.
        quick: fewer rounds and repetitions, no Flower: to see that all works, not to publish.
        tell: hears what is being run.
    """

    repetitions: int | None = None
    case: str | None = None
    quick: bool = False
    tell: Callable[[str], object] = lambda _: None

    def chosen(self, cases: Mapping[str, T]) -> dict[str, T]:
        """The cases to run.

        Raises ValueError if the one asked for is not among them.
        """
        if self.case is not None and self.case not in cases:
            raise ValueError(f"case {self.case!r} is unknown; there are {', '.join(cases)}")
        return {name: case for name, case in cases.items() if self.case in (None, name)}

    def times(self, usual: int) -> int:
        """Repetitions of a benchmark that usually does `usual`."""
        return self.repetitions or (1 if self.quick else usual)


@dataclass(frozen=True)
class Target:
    """One sentence of what is wanted, and what was measured: several values, whose median counts.

    One that is not `binding` holds a further case against the limit of another one, to be seen and not to be counted.
    """

    what: str
    limit: float
    most: bool  # the limit is an upper one
    values: tuple[float, ...]
    unit: str = "x"
    binding: bool = True

    @property
    def measured(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def met(self) -> bool | None:
        """None if nothing was measured."""
        if self.measured is None:
            return None
        return self.measured <= self.limit if self.most else self.measured >= self.limit


def at_most(what: str, limit: float, values: Sequence[float], unit: str = "x") -> Target:
    return Target(what, limit, True, tuple(values), unit)


def at_least(what: str, limit: float, values: Sequence[float], binding: bool = True) -> Target:
    return Target(what, limit, False, tuple(values), binding=binding)


@dataclass
class Report:
    """A benchmark's outcome.

    Attributes:
        name: of the benchmark, and of its file in `results/`.
        tables: shown one after the other.
        targets: shown at the end.
        notes: lines shown below the targets.
        data: whatever else goes into the file: every measurement, as a rule.
    """

    name: str
    tables: list[Any] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def add(self, case: str, results: Results, table: Any) -> None:
        """Show a table and keep its measurements under the name of a case."""
        self.tables.append(table)
        self.data[case] = as_json(results)

    def show(self, console: Console) -> None:
        for shown in self.tables:
            console.print(shown)
        console.print(target_table(self.targets))
        for note in self.notes:
            console.print(note, highlight=False)

    def store(self) -> Path:
        """Write `results/<name>.json`."""
        RESULTS.mkdir(exist_ok=True)
        targets = [asdict(t) | {"measured": t.measured, "met": t.met} for t in self.targets]
        content = {
            "benchmark": self.name,
            **circumstances(),
            "targets": targets,
            "notes": self.notes,
            "cases": self.data,
        }
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def target_table(targets: Sequence[Target]) -> Table:
    page = Table(title="targets", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("target")
    for heading in ("wanted", "median", "range"):
        page.add_column(heading, justify="right", no_wrap=True)
    page.add_column("met", no_wrap=True)
    for t in targets:
        wanted = f"{'≤' if t.most else '≥'} {t.limit:g} {t.unit}"
        if t.measured is None:
            page.add_row(t.what, wanted, "-", "-", "not measured")
            continue
        spread = f"{min(t.values):.3g}-{max(t.values):.3g}" if len(t.values) > 1 else ""
        page.add_row(t.what, wanted, f"{t.measured:.4g} {t.unit}", spread, _verdict(t))
    return page


def _verdict(t: Target) -> str:
    if not t.binding:
        return "(yes)" if t.met else "(no)"
    return "yes" if t.met else "[bold red]no[/]"


def paired(
    results: Results,
    over: str,
    under: str,
    quantity: Callable[[Measurement], float | None],
    unfinished: bool = False,
) -> list[float]:
    """`over`'s quantity divided by `under`'s, repetition by repetition.

    With `unfinished` what `over` had done counts, too, if it was ended at its limit of time.
    """
    pairs = zip(results.get(over, ()), results.get(under, ()), strict=False)
    both = [(quantity(a), quantity(b)) for a, b in pairs if b.ok and (a.ok or (unfinished and a.returncode is None))]
    return [a / b for a, b in both if a is not None and b]


def circumstances() -> dict[str, str]:
    """Commit, date and machine."""
    import torch

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--", "../src") else ""
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory()}, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"
