"""The section of an instrument on the page of a diagnosis, and how its pictures are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.report.figures import SCALE, Pen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[str, Any]
Pictures = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Key:
    """A line of a legend."""

    name: str
    pen: Pen


@dataclass(frozen=True)
class Section:
    """What one instrument says.

    Attributes:
        title, sentence: of the section.
        draw: makes the pictures, each a caption and an <svg>; called when they are asked for.
        legend: lines of all its pictures.
        wide: whether pictures are below each other.
        heads, rows: a table.
        words: its columns that hold words; the others hold numbers.
        note: how it was measured.
    """

    title: str
    sentence: str
    draw: Callable[[], Pictures]
    legend: Sequence[Key] = ()
    wide: bool = False
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: Sequence[int] = (0,)
    note: str = ""

    @cached_property
    def pictures(self) -> Pictures:
        """Drawn once."""
        return self.draw()


def numbers(values: Sequence[float | None]) -> Any:
    """As an array; None is NaN."""
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def listed(words: Sequence[str]) -> str:
    """In a sentence: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def ramp(count: int) -> list[Any]:
    """Colours from violet to yellow."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("scale", SCALE)
    return [colors(0.95 * k / max(1, count - 1)) for k in range(count)]


def finish(axes: Axes, title: str, x_label: str, *, logarithmic: bool = False) -> None:
    """Title and labels; a logarithmic axis where the values drawn are above 0 and span more than a factor of 20."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if logarithmic and len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
    axes.set_title(title, loc="left", parse_math=False)
    axes.set_xlabel(x_label)
