"""The gallery: one self-contained page of what came of every claim, with a picture each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.papers.catalogue import Publication, publications
from shoal.papers.ledger import counted, stored
from shoal.report.figures import PALETTE, blank, svg
from shoal.report.page import write_page
from shoal.text import cut

SCORE = re.compile(r"test (?P<metric>[^,]+), (?P<who>.+), seed \d+(?: \((?P<where>.+)\))?")
MOST = 16  # lines in a picture


@dataclass(frozen=True)
class Entry:
    """One publication with its stored result and picture."""

    publication: Publication
    result: Mapping[str, Any]
    picture: str


def write_gallery(out: str | Path) -> Path:
    """Write the page of all stored results to the file `out` (in a folder: `gallery.html` there); returns its path.

    Raises:
        ValueError: nothing is stored.
    """
    out = Path(out)
    path = out / "gallery.html" if out.is_dir() else out
    entries = [Entry(p, result, picture(result["figures"])) for p in publications() if (result := stored(p))]
    if not entries:
        raise ValueError("the ledger is empty: `shoal reproduce SLUG --scale full --store` fills it")
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
    """The scores of a contest, a dot for each seed; without one the positive figures. An <svg> element, or ""."""
    scores: dict[str, dict[str, list[float]]] = {}
    for name, value in figures.items():
        found = SCORE.fullmatch(name)
        if found and value is not None:
            who = f"{found['who']} ({found['where']})" if found["where"] else found["who"]
            scores.setdefault(found["metric"], {}).setdefault(who, []).append(value)
    if scores:
        metric = next((m for m in scores if "loss" not in m), next(iter(scores)))
        best_first = sorted(
            scores[metric].items(), key=lambda item: sum(item[1]) / len(item[1]), reverse="loss" in metric
        )
        return _dots(dict(best_first[-MOST:]), f"test {metric}")
    positive = {name: [value] for name, value in figures.items() if value is not None and value > 0}
    lines = dict(list(positive.items())[:MOST])
    values = [value for line in lines.values() for value in line]
    wide = bool(values) and max(values) > 100 * min(values)
    return _dots(dict(reversed(lines.items())), "value", logarithmic=wide) if lines else ""


def _dots(lines: Mapping[str, list[float]], label: str, *, logarithmic: bool = False) -> str:
    """A line of dots for each name, the last on top, with a bar at their mean."""
    with blank(7.2, 0.7 + 0.24 * len(lines)) as figure:
        axes = figure.add_subplot()
        for y, values in enumerate(lines.values()):
            axes.plot(values, [y] * len(values), "o", color=PALETTE[0], markersize=4.5, alpha=0.75)
            if len(values) > 1:
                axes.plot([math.fsum(values) / len(values)], [y], "|", color=PALETTE[1], markersize=13, mew=1.8)
        axes.set_yticks(range(len(lines)), [cut(name, 46) for name in lines])
        axes.set_ylim(-0.7, len(lines) - 0.3)
        axes.grid(axis="x")
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlabel(label)
        return svg(figure, f"{label}: {', '.join(lines)}")
