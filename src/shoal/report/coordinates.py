"""A coordinate check as a picture and as a table in a file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.files import atomically
from shoal.instruments.coordinates import CoordinateCheck
from shoal.report.figures import Pen, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE, PICTURE = "coordinates.csv", "coordinates.png"


def write_coordinates(checks: Mapping[str, CoordinateCheck], folder: str | Path) -> Path:
    """Write `coordinates.csv` and `coordinates.png` into a folder, each whole or not at all.

    Args:
        checks: name of a parametrisation -> what was found.
        folder: it is made if it is missing.

    Returns:
        The picture.
    """
    folder = Path(folder)
    with atomically(folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("parametrisation", "width", "seed", "step", "layer", "size", "moved"))
        for name, check in checks.items():
            writer.writerows((name, r.width, r.seed, r.step, r.layer, r.size, r.moved) for r in check.rows)
    save_coordinates(checks, folder / PICTURE)
    return folder / PICTURE


def save_coordinates(checks: Mapping[str, CoordinateCheck], path: str | Path) -> Path:
    """Draw movements against widths, a panel for each parametrisation and a line for each layer, after the last step.

    Args:
        checks: as of `write_coordinates`; layers of one name have one colour.
        path: ends in .png, .svg or .pdf.

    Raises:
        ValueError: the name ends otherwise, or there is nothing to draw.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"path: got {path.name}; names that end in .png, .svg, .pdf are allowed")
    if not checks:
        raise ValueError("checks: got none; at least one is needed")
    layers = list(dict.fromkeys(layer for check in checks.values() for layer in check.layers))
    columns = max(1, min(len(layers), 130 // (max(map(len, layers)) + 8)))
    with blank(4.4 * len(checks) + 0.6, 3.4 + 0.2 * -(-len(layers) // columns), alone=True) as figure:
        panels = figure.subplots(1, len(checks), sharey=True, squeeze=False)[0]
        for axes, (name, check) in zip(panels, checks.items(), strict=True):
            _draw(axes, name, check, layers)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.4)
        with atomically(path) as temporary:
            nothing = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=nothing)
    return path


def _draw(axes: Axes, name: str, check: CoordinateCheck, layers: list[str]) -> None:
    from matplotlib.ticker import NullLocator

    for layer in check.layers:
        pen = Pen.of(layers.index(layer))
        moved = [value if 0.0 < value < math.inf else math.nan for value in check.moved(layer)]
        style: dict[str, Any] = {"color": pen.color, "linestyle": pen.line, "linewidth": 1.6}
        axes.plot(check.widths, moved, **style, marker="o", markersize=4, label=layer)
    axes.set_xscale("log", base=2)
    if any(0.0 < value < math.inf for layer in check.layers for value in check.moved(layer)):
        axes.set_yscale("log")
    else:
        word = "every training diverged" if check.diverged else "nothing moved"
        axes.text(0.5, 0.5, word, transform=axes.transAxes, ha="center")
        axes.tick_params(left=False, labelleft=False)
        axes.set_xlim(check.widths[0] / 1.1, check.widths[-1] * 1.1)
    axes.set_xticks(check.widths, [str(width) for width in check.widths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("width")
    axes.set_title(f"{name}: mean movement after {check.steps} steps", loc="left", parse_math=False)
