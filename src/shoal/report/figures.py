"""The report's figures: matplotlib drawings as SVG text to be put inside the page.

Colours of text, axes and grid are CSS variables, so that a figure follows the page into dark mode; text stays
text, in the page's font. The same input gives the same bytes. Legends and colour scales are the page's.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shoal.report.series import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008), without black and yellow, which vanish on one background.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#858585")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (5, 1.5, 1, 1.5), (2, 1.2))
HEAT = "#2b83c6"
BANDED = 8
"""With more runs than this in a figure, bands would hide the lines and are left out."""
SCALE = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""Five stops of viridis, the scale of the peers' final values."""

# Stand-ins that matplotlib carries through to the SVG, and what they become there.
_INK, _GRID, _EDGE, _EMPTY = "#010203", "#010204", "#010205", "#010206"
_THEME = {
    _INK: "var(--ink-soft, #808080)",
    _GRID: "var(--grid, #80808040)",
    _EDGE: "var(--edge, #80808080)",
    _EMPTY: "var(--page, none)",
    **{color: f"var(--run-{index}, {color})" for index, color in enumerate(PALETTE)},
}


@dataclass(frozen=True)
class Pen:
    """How a run is drawn: the same colour and dashes in every figure."""

    color: str
    dash: tuple[float, ...]

    @classmethod
    def of(cls, index: int) -> "Pen":
        """The pen of the run at `index`; colours repeat with other dashes after seven, pens after 28."""
        return cls(PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)])

    @property
    def css(self) -> str:
        """The colour as the page writes it, a variable that dark mode may lighten."""
        return _THEME[self.color]

    @property
    def line(self) -> Any:
        """The line style as matplotlib takes it."""
        return (0, self.dash) if self.dash else "-"


@dataclass(frozen=True)
class Graph:
    """Links between peers 0 .. peers - 1, each once, sorted, without loops."""

    peers: int
    edges: list[tuple[int, int]]
    directed: bool


@dataclass(frozen=True)
class Trace:
    """One run in a figure of curves: its peers' curve and, apart, the average model's."""

    pen: Pen
    peers: Curve | None
    average: Curve | None


def curves(traces: Sequence[Trace], *, title: str, x_label: str, x_size: float, scale: float, alt: str) -> str:
    """Lines of the mean with 10-90 % bands; x is divided by `x_size`, values are multiplied by `scale`."""
    from matplotlib.ticker import MaxNLocator

    whole = all(line is None or np.all(line.x / x_size % 1 == 0) for t in traces for line in (t.peers, t.average))
    with _figure(4.0, 2.9) as (figure, axes):
        for trace in traces:
            main, extra = (trace.peers, trace.average) if trace.peers else (trace.average, None)
            if main is None:
                continue
            x = main.x / x_size
            if main.peers > 1 and len(traces) <= BANDED:
                band = (main.low * scale, main.high * scale)
                axes.fill_between(x, *band, color=trace.pen.color, alpha=0.16, linewidth=0)
            marker = "o" if len(x) == 1 else None
            style: dict[str, Any] = {"color": trace.pen.color, "marker": marker, "markersize": 4}
            axes.plot(x, main.mean * scale, linestyle=trace.pen.line, linewidth=1.7, **style)
            if extra is not None:
                dots = (0, (1, 1.6))
                axes.plot(extra.x / x_size, extra.mean * scale, linestyle=dots, linewidth=1.3, **style)
        _maybe_logarithmic(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=whole))
        axes.set_xlabel(x_label)
        axes.set_title(title, loc="left", parse_math=False)
        return svg(figure, alt)


@dataclass(frozen=True)
class Point:
    """One run in a figure of costs: where it ended, and whether no other run beats it."""

    pen: Pen
    cost: float
    value: float
    best: bool


def tradeoff(points: Sequence[Point], *, title: str, x_label: str, alt: str) -> str:
    """Final values over costs, the front of those that no other beats as a line of steps."""
    with _figure(5.2, 3.2) as (figure, axes):
        front = sorted((point.cost, point.value) for point in points if point.best)
        axes.step(*zip(*front, strict=True), where="post", color=_INK, linewidth=1.0, linestyle=(0, (4, 2)))
        for point in points:
            fill = point.pen.color if point.best else "none"
            style: dict[str, Any] = {"markeredgecolor": point.pen.color, "markeredgewidth": 1.5}
            axes.plot([point.cost], [point.value], "o", markersize=6.5, markerfacecolor=fill, **style)
        costs = [point.cost for point in points if point.cost > 0]
        if costs and len(costs) == len(points) and max(costs) > 10 * min(costs):
            axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_title(title, loc="left", parse_math=False)
        return svg(figure, alt)


def _maybe_logarithmic(axes: "Axes") -> None:
    """A logarithmic value axis where a metric falls (or grows) more than a hundredfold."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    values = np.concatenate([line[np.isfinite(line)] for line in lines]) if lines else np.zeros(0)
    if len(values) and values.min() > 0 and values.max() > 100 * values.min():
        axes.set_yscale("log")


def spread(finals: Sequence[tuple[Pen, NDArray[np.float64]]], *, title: str, scale: float, alt: str) -> str:
    """Each run's peers sorted by final value, the lowest left; at most 200 points a run."""
    with _figure(5.2, 2.9) as (figure, axes):
        for pen, values in finals:
            values = np.sort(values[np.isfinite(values)]) * scale
            shares = (np.arange(len(values)) + 0.5) / max(1, len(values)) * 100
            if len(values) > 200:
                shares, values = np.linspace(0, 100, 201), np.quantile(values, np.linspace(0, 1, 201))
            marker = "o" if len(values) <= 64 else None
            axes.plot(
                shares,
                values,
                color=pen.color,
                linestyle=pen.line,
                linewidth=1.3,
                marker=marker,
                markersize=3.2,
            )
        axes.set_xlim(-1, 101)
        axes.set_xlabel("share of peers (%)")
        axes.set_title(title, loc="left", parse_math=False)
        return svg(figure, alt)


def partition(counts: NDArray[np.int64], full: int, alt: str) -> str:
    """A heat map of samples, a column a peer and a row a class: clear is none, full colour from `full` on."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba
    from matplotlib.ticker import MaxNLocator

    peers, classes = counts.shape
    # One colour from clear to full reads on a white and on a dark page alike.
    shades = LinearSegmentedColormap.from_list("heat", [to_rgba(HEAT, 0.0), to_rgba(HEAT, 1.0)])
    with _figure(5.2, float(np.clip(0.9 + 0.2 * classes, 1.6, 3.4))) as (figure, axes):
        axes.imshow(counts.T, cmap=shades, vmin=0, vmax=full, aspect="auto", interpolation="none")
        axes.grid(False)
        axes.spines[:].set_visible(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(classes, 10)))
        axes.set_xlim(-0.5, peers - 0.5)
        axes.set_ylim(classes - 0.5, -0.5)
        axes.set_xlabel("peer")
        axes.set_title("class", loc="left")
        return svg(figure, alt)


def topology(graph: Graph, colors: Mapping[int, float], alt: str) -> str:
    """The graph drawn; peer i is filled with the colour of `colors[i]` in 0 .. 1, or left empty."""
    from matplotlib.colors import LinearSegmentedColormap

    places = _layout(graph)
    ramp = LinearSegmentedColormap.from_list("scale", SCALE)
    fills = [ramp(colors[i]) if i in colors else _EMPTY for i in range(len(places))]
    size = float(np.clip(6400 / max(1, len(places)), 16, 190))
    with _figure(5.2, 4.9 if len(places) > 8 else 3.6) as (figure, axes):
        _draw_edges(axes, graph, places, size)
        axes.scatter(places[:, 0], places[:, 1], s=size, c=fills, edgecolors=_INK, linewidths=0.7, zorder=3)
        if len(places) <= 32:
            for i, (x, y) in enumerate(places):
                ink = _INK if i not in colors else "#ffffff" if colors[i] < 0.6 else "#101010"
                axes.text(x, y, str(i), color=ink, ha="center", va="center_baseline", fontsize=7, zorder=4)
        axes.set_aspect("equal")
        axes.margins(0.07)
        axes.set_axis_off()
        return svg(figure, alt)


def _draw_edges(axes: "Axes", graph: Graph, places: NDArray[np.float64], size: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    ends = places[np.array(graph.edges, dtype=int).reshape(-1, 2)]  # [edges, 2 ends, 2 coordinates]
    if not len(ends):
        return
    # One path for all edges: crossings do not add up to dark spots, and the file stays small.
    codes = np.tile([Path.MOVETO, Path.LINETO], len(ends)).astype(Path.code_type)
    lines = Path(ends.reshape(-1, 2), codes)
    axes.add_patch(PathPatch(lines, facecolor="none", edgecolor=_EDGE, linewidth=0.8, zorder=1))
    if graph.directed and len(ends) <= 1000:
        heads = _arrow_heads(ends, reach=0.006 * size**0.5)
        codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(heads)).astype(Path.code_type)
        shape = Path(heads.reshape(-1, 2), codes)
        axes.add_patch(PathPatch(shape, facecolor=_EDGE, edgecolor="none", zorder=2))


def _arrow_heads(ends: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Triangles [edges, 4, 2] (closed) whose tips touch the rim of the nodes that edges lead to."""
    along = ends[:, 1] - ends[:, 0]
    along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    tip = ends[:, 1] - along * reach
    base = tip - along * 0.05
    return np.stack([tip, base + across * 0.018, base - across * 0.018, tip], axis=1)


def _layout(graph: Graph) -> NDArray[np.float64]:
    """Places [peers, 2] in -1 .. 1: a circle when the graph looks the same all around it, a hub in its circle
    for a star, else springs as long as the shortest paths (Kamada and Kawai 1989).
    """
    import networkx

    if graph.peers <= 3 or _circulant(graph):
        angle = np.pi / 2 - 2 * np.pi * np.arange(graph.peers) / graph.peers
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    hub = _hub(graph)
    if hub is not None:
        angle = 2 * np.pi * np.arange(graph.peers) / (graph.peers - 1)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.insert(circle[:-1], hub, 0.0, axis=0)
    drawn = networkx.Graph(graph.edges)
    drawn.add_nodes_from(range(graph.peers))
    hops = dict(networkx.all_pairs_shortest_path_length(drawn))
    # Peers that cannot reach each other are set apart, but not so far that the rest shrinks to a dot.
    apart = 1 + float(np.mean([count for row in hops.values() for count in row.values()]))
    distance = {i: {j: hops[i].get(j, apart) for j in drawn} for i in drawn}
    placed = networkx.kamada_kawai_layout(drawn, dist=distance, pos=networkx.circular_layout(sorted(drawn)))
    return np.array([placed[i] for i in range(graph.peers)], dtype=np.float64)


def _hub(graph: Graph) -> int | None:
    """The peer that all links share, in a star."""
    shared = set.intersection(*(set(edge) for edge in graph.edges)) if graph.edges else set()
    links = {frozenset(edge) for edge in graph.edges}
    return shared.pop() if len(shared) == 1 and len(links) == graph.peers - 1 else None


def _circulant(graph: Graph) -> bool:
    edges = set(graph.edges) if graph.directed else {pair for i, j in graph.edges for pair in ((i, j), (j, i))}
    return all(((i + 1) % graph.peers, (j + 1) % graph.peers) in edges for i, j in edges)


def histogram(values: NDArray[np.int64], *, title: str, x_label: str, alt: str) -> str:
    """How often each whole number occurs; in at most 40 bins."""
    from matplotlib.ticker import MaxNLocator

    low, high = int(values.min()), int(values.max())
    width = -(-(high - low + 1) // 40)
    with _figure(5.2, 2.9) as (figure, axes):
        axes.hist(values, bins=(np.arange(low, high + width + 1, width) - 0.5).tolist(), color=HEAT, rwidth=0.88)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlabel(x_label)
        axes.set_title(title, loc="left", parse_math=False)
        return svg(figure, alt)


STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shoal",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.titlepad": 8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.titlecolor": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.size": 3,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "lines.solid_capstyle": "round",
}  # fmt: skip


PAPER = {_INK: "#3d444d", _GRID: "#dfe3e8", _EDGE: "#b9c0c8", _EMPTY: "#ffffff"}
"""Colours of a picture that stands alone, on white."""


@contextmanager
def blank(width: float, height: float, *, alone: bool = False) -> Iterator["Figure"]:
    """An empty figure of `width` x `height` inches in the report's style and not the user's.

    alone: with colours of its own, for a file, instead of those of the page around it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = {name: PAPER.get(value, value) if isinstance(value, str) else value for name, value in STYLE.items()}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style if alone else STYLE)
        yield Figure(figsize=(width, height), layout="constrained")


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """A figure with one axes."""
    with blank(width, height) as figure:
        yield figure, figure.add_subplot()


def svg(figure: "Figure", alt: str) -> str:
    """The figure as an <svg> element that scales with the page, described by `alt`."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    inside = text[text.index(">", text.index("<svg")) + 1 :]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'<g id="[^"]*"', "<g", inside)  # the same in every figure, and ids are the page's
    for stand_in, variable in _THEME.items():
        inside = inside.replace(stand_in, variable)
    label = escape(alt, quote=True)
    return f'<svg {box.group() if box else ""} role="img" aria-label="{label}">{inside}'
