"""Training loss by class frequency, optimizer by optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shoal.report.figures import Pen, blank, svg
from shoal.report.sections.section import Found, Key, Pictures, Section, finish, listed, numbers, ramp
from shoal.report.units import digits

BALANCED = 1.2  # times as frequent as the rarest class is the most frequent one, at most, where there is nothing to see
NOTHING = (
    "There is nothing to see here: all classes are about equally frequent, so that differences between bins are those "
    "of single classes."
)


def frequencies(found: Found, content: Found) -> Section:
    """Who neglects rare classes, if there are any."""
    names = list(found["losses"])
    pens = {name: Pen.of(i) for i, name in enumerate(names)}
    share = numbers(found["frequencies"])
    balanced = bool(share.max() < BALANCED * share.min())
    rates = ", ".join(f"{name} {digits(found['rates'][name])}" for name in names)
    note = (
        f"Learning rates, for each the best of {found['tried']} by the training loss of the last fifth of the steps: "
        f"{rates}. Yours was tuned like the others, around the {digits(found['own'])} that was set; nothing else was "
        "tuned. Bins hold about as many samples each."
    )
    return Section(
        "Class frequencies",
        NOTHING if balanced else _sentence(found, names),
        lambda: _pictures(found, pens),
        [Key(name, pen) for name, pen in pens.items()],
        wide=True,
        note=f"{NOTHING} {note}" if balanced else note,
    )


def _sentence(found: Found, names: Sequence[str]) -> str:
    last = {name: numbers(found["losses"][name][-1]) for name in names}
    gap = {name: values[-1] - values[0] for name, values in last.items() if np.isfinite(values[[0, -1]]).all()}
    if not gap:
        return "Every optimizer diverged."
    worst, best = max(gap, key=lambda name: gap[name]), min(gap, key=lambda name: gap[name])
    sentence = (
        f"From the most frequent to the rarest classes the loss rises by {digits(gap[best])} with {best}, and by "
        f"{digits(gap[worst])} with {worst}."
    )
    lost = [name for name in names if name not in gap]
    return f"{sentence} Diverged: {listed(lost)}." if lost else sentence


def _pictures(found: Found, pens: Mapping[str, Pen]) -> Pictures:
    caption = "A line for each bin of classes: violet are the most frequent ones, yellow the rarest."
    return [("", _at_the_end(found, pens)), (caption, _along(found, list(pens)))]


def _at_the_end(found: Found, pens: Mapping[str, Pen]) -> str:
    share = numbers(found["frequencies"])
    with blank(10.0, 3.1) as figure:
        axes = figure.add_subplot()
        for name, pen in pens.items():
            style: dict[str, Any] = {"color": pen.color, "linestyle": pen.line, "linewidth": 1.5}
            axes.plot(range(len(share)), numbers(found["losses"][name][-1]), **style, marker="o", markersize=4)
        words = [
            f"{100 * s:.2g}%\n{count} {'class' if count == 1 else 'classes'}"
            for s, count in zip(share, found["classes"], strict=True)
        ]
        axes.set_xticks(range(len(share)), words, fontsize=8)
        finish(
            axes,
            f"training loss after {found['steps'][-1]} steps",
            "share of a class in the data: frequent classes left, rare ones right",
            logarithmic=True,
        )
        return svg(figure, "training loss by class frequency at the end")


def _along(found: Found, names: Sequence[str]) -> str:
    with blank(10.0, 2.7) as figure:
        shades = ramp(len(found["frequencies"]))
        first = None
        for i, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), i + 1, sharey=first)
            first = first or axes
            table = np.array([numbers(row) for row in found["losses"][name]])
            for k, shade in enumerate(shades):
                axes.plot(found["steps"], table[:, k], color=shade, linewidth=1.3)
            finish(axes, name.partition(":")[0], "step", logarithmic=True)
            if i:
                axes.tick_params(labelleft=False)
        return svg(figure, "training loss by class frequency along the training")
