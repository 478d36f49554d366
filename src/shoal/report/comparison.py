"""A comparison of optimizers as a picture and as a page: tuning curves, training, the table, and what was tried."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.files import atomically
from shoal.learning.results import MISSING, Comparison, Entry, Shown, Trial
from shoal.report.figures import PALETTE, Pen, blank, svg
from shoal.report.page import write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JSON, PICTURE, PAGE = "comparison.json", "plot.png", "report.html"
FORMATS = (".png", ".svg", ".pdf")
CROWDED = 8
"""With more contenders than this, spreads would hide the lines and are left out."""
MANY, FEATURED = 12, 6
"""With more than `MANY` only the best `FEATURED` have colours, and the others are grey."""
OTHERS, GREY = "others", PALETTE[-1]


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write `comparison.json`, `plot.png` and `report.html` into a folder, each whole or not at all.

    Returns:
        The page.
    """
    folder = Path(folder)
    write_json(comparison, folder)
    save_plot(comparison, folder / PICTURE)
    return write_page(folder / PAGE, "shoal.report/comparison.html", **_content(comparison))


def write_json(comparison: Comparison, folder: str | Path) -> Path:
    """Write `comparison.json` alone, and return its path."""
    path = Path(folder) / JSON
    with atomically(path) as temporary:
        temporary.write_text(comparison.to_json(), encoding="utf-8")
    return path


def save_plot(comparison: Comparison, path: str | Path) -> Path:
    """Draw a comparison into a file: scores against learning rates, and training against steps.

    Args:
        comparison: what is drawn.
        path: ends in .png, .svg or .pdf.

    Raises:
        ValueError: the name ends otherwise.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"path: got {path.name}; names that end in {', '.join(FORMATS)} are allowed")
    with blank(10.0, _height(comparison), alone=True) as figure:
        _draw(figure, comparison, legend=True)
        with atomically(path) as temporary:
            nothing: dict[str, Any] = {"Date": None, "Creator": None} if path.suffix == ".svg" else {}
            figure.savefig(temporary, format=path.suffix[1:], dpi=160, metadata=nothing or None)
    return path


# -- drawing -----------------------------------------------------------------------------------------------------------


def _pens(comparison: Comparison) -> dict[str, Pen]:
    """Who has a colour."""
    if len(comparison.entries) <= MANY:
        return {entry.name: Pen.of(i) for i, entry in enumerate(comparison.entries)}
    return {entry.name: Pen.of(i) for i, entry in enumerate(comparison.ranked()[:FEATURED])}


def _columns(names: Sequence[str]) -> int:
    """Columns of a legend that is as wide as the picture."""
    return max(1, min(len(names), 150 // (max(map(len, names)) + 9)))


def _height(comparison: Comparison) -> float:
    names = [*_pens(comparison), OTHERS]
    return 4.3 + 0.2 * -(-len(names) // _columns(names))


def _draw(figure: Figure, comparison: Comparison, *, legend: bool) -> None:
    """Tuning on the left; training loss over the test metric on the right."""
    grid = figure.add_gridspec(2, 2)
    tuning = figure.add_subplot(grid[:, 0])
    loss = figure.add_subplot(grid[0, 1])
    test = figure.add_subplot(grid[1, 1], sharex=loss)
    pens, lines = _pens(comparison), {}
    scale = Shown(comparison.metric).scale
    for entry in sorted(comparison.entries, key=lambda entry: entry.name in pens):  # the grey ones beneath
        pen = pens.get(entry.name)
        style = _style(pen)
        lines[entry.name if pen else OTHERS] = _tuning_curve(tuning, comparison, entry, style)
        _over_steps(loss, comparison, entry.train_losses, [t.train_losses for t in entry.tests], style, 1.0)
        _over_steps(test, comparison, entry.curve, [t.curve for t in entry.tests], style, scale)
    _finish_tuning(tuning, comparison)
    _finish_training(loss, test, comparison)
    if legend:
        names = [name for name in (*pens, OTHERS) if name in lines]
        handles = [lines[name] for name in names]
        where: dict[str, Any] = {"loc": "outside lower center", "ncols": _columns(names), "frameon": False}
        figure.legend(handles, names, handlelength=2.4, **where)


def _style(pen: Pen | None) -> dict[str, Any]:
    """How lines are drawn: those without a pen are thin and grey."""
    if pen is None:
        return {"color": GREY, "linewidth": 0.7, "alpha": 0.6}
    return {"color": pen.color, "linestyle": pen.line, "linewidth": 1.6}


@dataclass(frozen=True)
class _Tried:
    """The best that was tried at each rate: rates in rising order, means and spreads in the unit shown."""

    rates: list[float]
    means: list[float]
    spreads: list[float]


def _tried(comparison: Comparison, entry: Entry) -> _Tried:
    sign = 1.0 if comparison.higher_is_better else -1.0
    best: dict[float, Trial] = {}
    for trial in entry.trials:
        if trial.scores and (trial.lr not in best or sign * trial.mean > sign * best[trial.lr].mean):
            best[trial.lr] = trial
    found = [best[lr] for lr in sorted(best)]
    scale = Shown(comparison.metric).scale
    spreads = [0.0 if math.isnan(trial.spread) else scale * trial.spread for trial in found]
    return _Tried([trial.lr for trial in found], [scale * trial.mean for trial in found], spreads)


def _tuning_curve(axes: Axes, comparison: Comparison, entry: Entry, style: dict[str, Any]) -> Any:
    """Draw one contender's; returns the line, for the legend."""
    tried = _tried(comparison, entry)
    means, spreads = np.array(tried.means), np.array(tried.spreads)
    means = np.where(np.isfinite(means), means, np.nan)
    color, featured = style["color"], "alpha" not in style
    if len(comparison.entries) <= CROWDED and spreads.any():
        band = (means - spreads, means + spreads)
        axes.fill_between(tried.rates, *band, color=color, alpha=0.16, linewidth=0)
    (line,) = axes.plot(tried.rates, means, **style, marker="o" if featured else None, markersize=3)
    if featured and entry.best is not None and entry.chosen.scores and math.isfinite(entry.chosen.mean):
        score = Shown(comparison.metric).scale * entry.chosen.mean
        axes.plot([entry.lr], [score], "o", color=color, markersize=8, fillstyle="none", markeredgewidth=1.8)
    return line


def _finish_tuning(axes: Axes, comparison: Comparison) -> None:
    metric = Shown(comparison.metric)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (circle: chosen)")
    axes.set_title(f"validation {metric.label}", loc="left", parse_math=False)
    tried = [_tried(comparison, entry) for entry in comparison.entries]
    values = np.array([mean for some in tried for mean in some.means])
    values = values[np.isfinite(values)]
    if not len(values):
        axes.text(0.5, 0.5, "nothing was tuned", transform=axes.transAxes, ha="center")
        return
    if not comparison.higher_is_better:
        if values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
    elif metric.scale != 1.0:  # an accuracy of 0 is a run that diverged: the interesting part is above
        chosen = [metric.scale * e.chosen.mean for e in comparison.entries if e.best is not None and e.chosen.scores]
        low = max(values.min(), min([*chosen, values.max()]) - 1.2 * max(20.0, np.ptp(chosen or [0.0])))
        room = 0.06 * max(1.0, values.max() - low)
        axes.set_ylim(low - room, values.max() + room)


def _over_steps(
    axes: Axes,
    comparison: Comparison,
    mean: Sequence[float],
    runs: Sequence[Sequence[float]],
    style: dict[str, Any],
    scale: float,
) -> None:
    """A mean over seeds, and between which values they lie."""
    if not mean:
        return
    x = comparison.evaluated[: len(mean)]
    if len(comparison.entries) <= CROWDED and len(runs) > 1:
        table = scale * np.array([run[: len(mean)] for run in runs])
        axes.fill_between(x, table.min(0), table.max(0), color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(x, scale * np.array(mean), **style, marker="o" if len(x) == 1 else None)


def _finish_training(loss: Axes, test: Axes, comparison: Comparison) -> None:
    from matplotlib.ticker import MaxNLocator

    curves = [entry.train_losses for entry in comparison.entries if entry.train_losses]
    values = np.array([value for curve in curves for value in curve])
    if len(values) and values.min() > 0:
        typical = np.array([max(curve[len(curve) // 2 :]) for curve in curves])
        first = np.array([curve[0] for curve in curves])
        if values.max() > 8 * values.min():
            loss.set_yscale("log")
        top = max(float(np.median(first)), float(np.median(typical)))
        if values.max() > 20 * top:  # one that blew up should not press the others flat
            loss.set_ylim(top=4 * top)
    loss.tick_params(labelbottom=False)
    test.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))
    loss.set_title("training loss", loc="left")
    test.set_title(f"test {Shown(comparison.metric).label}", loc="left", parse_math=False)
    test.set_xlabel("step")
    if not curves:
        test.text(0.5, 0.5, "nothing was tested yet", transform=test.transAxes, ha="center")


# -- the page ----------------------------------------------------------------------------------------------------------


def _content(comparison: Comparison) -> dict[str, Any]:
    pens, count = _pens(comparison), len(comparison.entries)
    heads, *rows = comparison.lines()
    with blank(10.0, 4.3) as figure:
        _draw(figure, comparison, legend=False)
        picture = svg(figure, _alt(comparison))
    return {
        "kicker": "shoal comparison",
        "version": "",
        "title": f"{count} {'optimizer' if count == 1 else 'optimizers'} on {comparison.task}",
        "verdict": _verdict(comparison),
        "finished": comparison.finished,
        "heads": heads,
        "rows": rows,
        "pens": pens,
        "others": count - len(pens),
        "picture": picture,
        "crowded": count > CROWDED,
        "facts": _facts(comparison),
        "details": [_details(comparison, entry) for entry in comparison.ranked()],
    }


def _verdict(comparison: Comparison) -> str:
    """The outcome in one sentence."""
    ranked = [entry for entry in comparison.ranked() if entry.tests]
    if not ranked:
        return "No test run is done yet."
    shown = Shown(comparison.metric)
    best, *others = [f"{entry.name} with {shown.show(entry.mean, entry.stderr)}{shown.unit}" for entry in ranked[:2]]
    sentence = f"Best test {comparison.metric}: {best}"
    if not others:
        return f"{sentence}."
    first, second = ranked[:2]
    gap, error = abs(first.mean - second.mean), math.hypot(first.stderr, second.stderr)
    if not math.isfinite(error):
        return f"{sentence}, before {others[0]}."
    words = "more than" if gap > 2 * error else "not more than"
    return f"{sentence}, before {others[0]}: {words} two standard errors apart."


def _alt(comparison: Comparison) -> str:
    shown = Shown(comparison.metric)
    ends = "; ".join(f"{entry.name} {shown.show(entry.mean)}" for entry in comparison.ranked())
    return f"validation {shown.label} against learning rate, and training against steps; test: {ends}"


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """How it was compared."""
    numbers = functools.partial(", ".join)
    tried = max((len(entry.trials) for entry in comparison.entries), default=0)
    return [
        ("data", comparison.source),
        ("parameters", f"{comparison.parameters:,}"),
        ("steps", f"{comparison.steps:,}"),
        ("batch", "all samples" if comparison.batch is None else f"{comparison.batch:,}"),
        ("schedule", comparison.schedule),
        ("settings tried by each", str(tried)),
        ("tuning seeds", numbers(map(str, comparison.tuning_seeds))),
        ("test seeds", numbers(map(str, comparison.seeds))),
        *((f"{name} samples", f"{count:,}") for name, count in comparison.samples.items()),
    ]


@dataclass(frozen=True)
class _Detail:
    """One contender's section: what it is and what it tried."""

    name: str
    facts: list[tuple[str, str]]
    heads: list[str]
    rows: list[list[str]]
    words: list[int]


def _details(comparison: Comparison, entry: Entry) -> _Detail:
    shown, loss = Shown(comparison.metric), Shown("loss")
    settings = ", ".join(f"{name}={value}" for name, value in entry.settings.items())
    facts = [
        ("settings", settings or "as published"),
        ("computed", f"{entry.path}: {entry.why}" if entry.path else MISSING),
    ]
    if entry.schedule:
        facts.append(("schedule", entry.schedule))
    heads = ["learning rate", "searched", f"validation {shown.label}", "validation loss", "outcome"]
    rows: list[list[str]] = []
    for i, trial in sorted(enumerate(entry.trials), key=lambda pair: pair[1].lr):
        searched = ", ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in trial.settings.items()
        )
        outcome = ["chosen"] if i == entry.best else []
        outcome += [f"{trial.diverged} of {len(trial.scores)} diverged"] if trial.diverged else []
        score = shown.show(trial.mean, trial.spread)
        rows.append([loss.show(trial.lr), searched, score, loss.show(trial.loss), ", ".join(outcome)])
    if not any(row[1] for row in rows):  # nothing but rates was searched
        del heads[1]
        rows = [[rate, *others] for rate, _, *others in rows]
    words = [place for place, head in enumerate(heads) if head in ("searched", "outcome")]
    return _Detail(entry.name, facts, heads, rows, words)
