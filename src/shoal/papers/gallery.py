"""The gallery: one self-contained page of what came of every claim, with a picture each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.files import check_file
from shoal.papers.catalogue import Publication, publications
from shoal.papers.ledger import counted, stored
from shoal.report.figures import PALETTE, blank, svg
from shoal.report.page import write_page
from shoal.text import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Tell: TypeAlias = Callable[[int, int], object]
SCORE = re.compile(r"test (?P<metric>[^,]+), (?P<who>.+), seed \d+(?: \((?P<where>.+)\))?")
MOST = 16  # lines in a picture
PANELS = 3  # quantities in a picture


@dataclass(frozen=True)
class Entry:
    """One publication with its stored result and picture."""

    publication: Publication
    result: Mapping[str, Any]
    picture: str


def write_gallery(out: str | Path, tell: Tell = lambda done, total: None) -> Path:
    """Write the page of all stored results to the file `out` (in a folder: `gallery.html` there); returns its path.

    Args:
        out: where.
        tell: told how many pictures are drawn, of how many.

    Raises:
        OSError: the file cannot be written; nothing is drawn then.
        ValueError: nothing is stored.
    """
    out = Path(out)
    path = out / "gallery.html" if out.is_dir() else out
    check_file(path)
    results = [(p, result) for p in publications() if (result := stored(p))]
    if not results:
        raise ValueError("the ledger is empty: `shoal reproduce SLUG --scale full --store` fills it")
    entries: list[Entry] = []
    for p, result in results:
        tell(len(entries), len(results))
        entries.append(Entry(p, result, picture(result["figures"])))
    tell(len(results), len(results))
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.result["verdict"]] = counts.get(entry.result["verdict"], 0) + 1
    return write_page(
        path,
        "shoal.papers/gallery.html",
        kicker="shoal",
        title="Claims, checked",
        version="",
        entries=entries,
        counts=counts,
        counted=counted,
    )


def picture(figures: Mapping[str, float | None]) -> str:
    """The scores of a contest, or what was measured of several, a dot for each seed. An <svg> element, or ""."""
    found = _contest(figures) or _quantities(figures)
    return _drawn(found) if found else ""


Lines = dict[str, list[float]]
"""Values by name, the first line at the bottom."""


def _contest(figures: Mapping[str, float | None]) -> dict[str, Lines]:
    """Test scores by metric, of one metric, the best on top."""
    scores: dict[str, Lines] = {}
    for name, value in figures.items():
        found = SCORE.fullmatch(name)
        if found and value is not None:
            who = f"{found['who']} ({found['where']})" if found["where"] else found["who"]
            scores.setdefault(found["metric"], {}).setdefault(who, []).append(value)
    if not scores:
        return {}
    metric = next((m for m in scores if "loss" not in m), next(iter(scores)))
    best_first = sorted(scores[metric].items(), key=lambda item: sum(item[1]) / len(item[1]), reverse="loss" in metric)
    return {f"test {metric}": dict(best_first[-MOST:])}


def _quantities(figures: Mapping[str, float | None]) -> dict[str, Lines]:
    """What was measured of several, by quantity: those with seeds first, then the longest; without any, all figures."""
    groups: dict[str, Lines] = {}
    for name, value in figures.items():
        if value is not None and math.isfinite(value):
            quantity, who = _told(name)
            groups.setdefault(quantity, {}).setdefault(who, []).append(value)
    several = {quantity: lines for quantity, lines in groups.items() if len(lines) > 1}
    if not several:
        positive = {name: [value] for name, value in figures.items() if value is not None and value > 0}
        several = {"value": positive} if positive else {}
    order = sorted(several.items(), key=lambda one: (max(map(len, one[1].values())) == 1, -len(one[1])))
    found: dict[str, Lines] = {}
    left = MOST
    for quantity, lines in order[:PANELS]:
        if left > 1 or not found:
            found[quantity] = dict(reversed(list(lines.items())[:left]))
            left -= len(found[quantity])
    return found


def _told(name: str) -> tuple[str, str]:
    """The quantity in a figure's name, and whose it is, as in "accuracy, Adam, seed 1" and "Adam, lr 0.1: accuracy"."""
    name = re.sub(r", seed \d+", "", name)
    if ": " in name:
        who, _, quantity = name.rpartition(": ")
    else:
        quantity, _, who = name.partition(", ")
    return quantity, who


def _drawn(panels: Mapping[str, Lines]) -> str:
    """For each quantity an axis of its own, with a line of dots for each name, and a bar at their mean."""
    heights = [0.7 + 0.24 * len(lines) for lines in panels.values()]
    with blank(7.2, math.fsum(heights)) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
        for axes, (label, lines) in zip(grid[:, 0], panels.items(), strict=True):
            _dots(axes, lines, label)
        return svg(figure, "; ".join(f"{label}: {', '.join(lines)}" for label, lines in panels.items()))


def _dots(axes: Axes, lines: Lines, label: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for y, values in enumerate(lines.values()):
        axes.plot(values, [y] * len(values), "o", color=PALETTE[0], markersize=4.5, alpha=0.75)
        if len(values) > 1:
            axes.plot([math.fsum(values) / len(values)], [y], "|", color=PALETTE[1], markersize=13, mew=1.8)
    axes.set_yticks(range(len(lines)), [cut(name, 46) for name in lines], parse_math=False)
    axes.set_ylim(-0.7, len(lines) - 0.3)
    axes.grid(axis="x")
    every = [value for values in lines.values() for value in values]
    if min(every) > 0 and max(every) > 100 * min(every):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel(label, parse_math=False)
