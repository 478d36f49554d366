"""Self-contained pages without scripts or network, and that of one run or of several compared: `report.html`."""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.files import atomically
from shoal.report import figures
from shoal.report.details import Detail, Picture, details
from shoal.report.figures import Pen, Trace
from shoal.report.folder import RunFolder, tasks, words
from shoal.report.series import Axis, Metric, cost, curve, final_stats, final_values, main_metric, target
from shoal.report.table import Row, compare, headings
from shoal.report.tradeoff import tradeoff
from shoal.report.units import MISSING, byte_unit, human_bytes, human_time, time_unit

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_OTHER_METRICS = 8
_DIFFERENCES = 12
_FEW = 8


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fill in a template and write the page, whole or not at all.

    Args:
        path: of the page.
        template: its package and file, as in "shoal.report/runs.html"; it extends "shoal.report/base.html".
        content: by the template's names, and those of `base.html`: kicker, title, version ("" for none).

    Returns:
        The path.
    """
    css = _source("shoal.report/style.css")
    html = _environment().get_template(template).render(css=css, **content)
    with atomically(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(_source)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["time"] = human_time
    made.filters["parts"] = parts
    return made


def parts(text: object) -> "Markup":
    """Text, escaped, that may be broken behind the signs that stand between the parts of a name."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[:+/_])(?=\w)|(?<=,)(?=[^\W\d])", "<wbr>", escape(text)))


def _source(name: str) -> str:
    package, _, file = name.partition("/")
    return files(package).joinpath(file).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Panel:
    """The three curves of one metric, or the sentence that says why there are none."""

    metric: Metric
    pictures: list[Picture]


def write_report(runs: Sequence[RunFolder], out: str | Path) -> Path:
    """Write the report of `runs` to the file `out` (in a folder: `report.html` there) and return its path.

    The page is written beside its place and renamed, so that an older report is never half replaced. The same
    runs give the same bytes. Raises ValueError without runs.
    """
    if not runs:
        raise ValueError("runs is empty: a report needs at least one run folder")
    out = Path(out)
    path = out / "report.html" if out.is_dir() else out
    return write_page(path, "shoal.report/runs.html", **_content(list(runs)))


def _content(runs: list[RunFolder]) -> dict[str, Any]:
    metric = main_metric(runs)
    rows = compare(runs, metric)
    comparable = len(tasks(runs)) < 2
    pens = [Pen.of(index) for index in range(len(runs))]
    others = [Metric(name) for name in _metric_names(runs) if metric is None or name != metric.name]
    return {
        "kicker": "shoal report",
        "title": rows[0].run if len(runs) == 1 else f"{len(runs)} runs",
        "verdict": _verdict(runs, rows, metric),
        "headings": headings(metric, words(runs).time),
        "words": words(runs),
        "rows": rows,
        "pens": pens,
        "few": len(runs) <= _FEW,
        "main": _panel(runs, rows, pens, metric) if metric else None,
        "others": [_panel(runs, rows, pens, other) for other in others[:_OTHER_METRICS]],
        "notes": _notes(runs, rows, metric),
        "spread": _spread(runs, pens, metric),
        "race": _race(runs, rows, metric) if comparable else None,
        "tradeoff": tradeoff(runs, rows, pens, metric) if comparable else None,
        "differences": _differences(runs, rows),
        "details": _details(runs, rows, metric),
        "version": runs[0].facts.shoal,
    }


def _metric_names(runs: Sequence[RunFolder]) -> list[str]:
    """Every metric measured by any run, loss first."""
    names = dict.fromkeys(name for run in runs for name in run.metrics.names)
    return sorted(names, key=lambda name: name != "loss")


def _verdict(runs: Sequence[RunFolder], rows: Sequence[Row], metric: Metric | None) -> str:
    """The outcome in one sentence."""
    if metric is None:
        return "Nothing was measured."
    if len(runs) == 1:
        row = rows[0]
        models = "peer" if row.peers == "1" else "peers"
        return (
            f"{row.protocol} on {row.peers} {models}: final {metric.label} {row.final} "
            f"after {row.rounds} rounds, {row.time} of {words(runs).time} and {row.bytes_total} sent."
        )
    if len(several := tasks(runs)) > 1:
        return f"Runs on different tasks ({', '.join(several)}), whose scores are not to be compared."
    means = {row.run: final_stats(run, metric).mean for run, row in zip(runs, rows, strict=True) if row.whole}
    finite = {name: mean for name, mean in means.items() if mean is not None and np.isfinite(mean)}
    if not finite:
        return f"No finished run has a final {metric.label}."
    best = (max if metric.higher_is_better else min)(finite, key=lambda name: finite[name])
    row = next(row for row in rows if row.run == best)
    return (
        f"Best final {metric.label}: {best} with {row.final}, after {row.time} of {words(runs).time} "
        f"and {row.bytes_total} sent."
    )


def _panel(runs: Sequence[RunFolder], rows: Sequence[Row], pens: Sequence[Pen], metric: Metric) -> Panel:
    return Panel(metric, [_curves(runs, rows, pens, metric, axis) for axis in ("time", "bytes", "round")])


def _curves(runs: Sequence[RunFolder], rows: Sequence[Row], pens: Sequence[Pen], metric: Metric, axis: Axis) -> Picture:
    """`metric` of all runs over `axis`, in the unit that suits the longest run."""
    traces = []
    for run, pen in zip(runs, pens, strict=True):
        measured = run.metrics.of(metric.name)
        traces.append(Trace(pen, curve(measured.peers, axis), curve(measured.average, axis)))
    lines = [line for trace in traces for line in (trace.peers, trace.average) if line is not None]
    if not lines:
        return Picture("", f"No finite value of {metric.label} was measured.")
    longest = max(float(line.x.max()) for line in lines)
    unit = {"time": time_unit(longest), "bytes": byte_unit(longest), "round": None}[axis]
    said = words(runs)
    what = {"time": said.time, "bytes": said.sent, "round": "round"}[axis]
    ends = "; ".join(
        f"{row.run} ends at {metric.show(last.mean[-1])}"
        for row, trace in zip(rows, traces, strict=True)
        if (last := trace.peers or trace.average) is not None
    )
    svg = figures.curves(
        traces,
        title=metric.label + (f" ({metric.unit.strip()})" if metric.unit else ""),
        x_label=f"{what} ({unit.name})" if unit else what,
        x_size=unit.size if unit else 1.0,
        scale=metric.scale,
        alt=f"{metric.label} against {what}: {ends}",
    )
    return Picture(svg, "")


def _notes(runs: Sequence[RunFolder], rows: Sequence[Row], metric: Metric | None) -> list[str]:
    """What a reader of the curves has to know."""
    if metric is None:
        return []
    notes = []
    if len({run.facts.peer is None for run in runs}) > 1:
        notes.append("A run of one peer counts what that peer sent; the others count what all peers sent.")
    tables = [run.metrics.of(metric.name) for run in runs]
    if any(len(np.unique(table.peers.peer)) > 1 for table in tables):
        band = " Band: 10th to 90th percentile." if len(runs) <= figures.BANDED else ""
        notes.append(f"Line: mean over peers, each with its latest value.{band}")
    if any(len(table.peers) and len(table.average) for table in tables):
        notes.append("Dotted: the average model of all peers.")
    for run, row in zip(runs, rows, strict=True):
        values = np.array(list(final_values(run.metrics, metric.name).values()))
        bad = int((~np.isfinite(values)).sum())
        if bad:
            peers = "peer ends" if bad == 1 else "peers end"
            notes.append(f"{row.run}: {bad} {peers} with a {metric.label} that is no finite number; left out.")
    return notes


def _spread(runs: Sequence[RunFolder], pens: Sequence[Pen], metric: Metric | None) -> Picture | None:
    """Final values peer by peer; None when no run has two peers to compare."""
    if metric is None:
        return None
    finals = [np.array(list(final_values(run.metrics, metric.name).values())) for run in runs]
    shown = [(pen, values) for pen, values in zip(pens, finals, strict=True) if np.isfinite(values).sum() > 1]
    if not shown:
        return None
    title = f"final {metric.label} of each peer" + (f" ({metric.unit.strip()})" if metric.unit else "")
    alt = f"final {metric.label} of the peers of each run, sorted; the table gives means and extremes"
    caption = "Peers sorted by their final value: a flat line means that all fare alike."
    return Picture(figures.spread(shown, title=title, scale=metric.scale, alt=alt), caption)


@dataclass(frozen=True)
class Race:
    """Time, bytes and rounds until each run first reached the same goal, and how many more runs did not."""

    goal: str
    rows: list[tuple[str, str, str, str]]
    left_out: int


def _race(runs: Sequence[RunFolder], rows: Sequence[Row], metric: Metric | None) -> Race | None:
    goal = target(runs, metric) if metric is not None and len(runs) > 1 else None
    if metric is None or goal is None:
        return None
    lines = []
    for run, row in zip(runs, rows, strict=True):
        spent = cost(run, metric, goal)
        if spent is not None:
            lines.append((row.run, human_time(spent.time), human_bytes(spent.bytes), f"{spent.round:,.0f}"))
        elif len(runs) <= _FEW:
            lines.append((row.run, "not reached", MISSING, MISSING))
    return Race(f"{metric.label} {metric.show(goal)}", lines, len(runs) - len(lines))


@dataclass(frozen=True)
class Differences:
    """Settings that are not the same in all runs: dotted names, and per run its label and values."""

    keys: list[str]
    rows: list[list[str]]
    left_out: int


def _differences(runs: Sequence[RunFolder], rows: Sequence[Row]) -> Differences | None:
    configs = [dict(_flat(run.facts.config)) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({config.get(key) for config in configs}) > 1]
    if not differing:
        return None
    shown = differing[:_DIFFERENCES]
    lines = [[row.run, *(config.get(key, MISSING) for key in shown)] for row, config in zip(rows, configs, strict=True)]
    return Differences(shown, lines, len(differing) - len(shown))


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _details(runs: Sequence[RunFolder], rows: Sequence[Row], metric: Metric | None) -> list[Detail]:
    """Each run's own section; a partition drawn once is named, not drawn again."""
    drawn: dict[str, str] = {}
    result = []
    for run, row in zip(runs, rows, strict=True):
        shards = json.dumps(run.facts.data.shards) if run.facts.data and run.facts.data.shards else ""
        result.append(details(run, row, metric, same_shards_as=drawn.get(shards)))
        if shards:
            drawn.setdefault(shards, row.run)
    return result
