"""The loss along the updates of several optimizers, by the quadratic model, and where that does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shoal.report.figures import HEAT, PALETTE, blank, svg
from shoal.report.sections.section import Found, Pictures, Section, listed, numbers
from shoal.report.units import MISSING, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STILL, UNKNOWN, UP = "no step at all", "not finite", "the loss rises at first"
DOWN, TOO_MUCH = "the loss does not bend up", "more than the whole loss"
RISES = "the loss rises at that length"
STEPPED = ("", TOO_MUCH, RISES)  # where there is a best length


def trouble(direction: Found, loss: float | None) -> str:
    """Why the quadratic model says nothing of a step along an update; "" if it may hold.

    Args:
        direction: what was found along the update.
        loss: at the point; a decrease by more than it is impossible for losses that are never below 0.
    """
    slope, curvature, decrease = direction["slope"], direction["sharpness"], direction["decrease"]
    if slope is None or curvature is None:
        return UNKNOWN
    if direction["length"] == 0.0:
        return STILL
    if slope >= 0.0:
        return UP
    if curvature <= 0.0:
        return DOWN
    if loss is not None and loss > 0.0 and decrease > loss:
        return TOO_MUCH
    return RISES if direction["measured"] is not None and direction["measured"] <= 0.0 else ""


def directions(found: Found, content: Found) -> Section:
    """Which update is flattest, which lowers the loss most, and for which the model does not hold."""
    updates, loss = found["updates"], found["loss"]
    why = {name: trouble(update, loss) for name, update in updates.items()}
    rows = [
        [
            name,
            *(digits(update[which]) for which in ("sharpness", "slope")),
            *(digits(update[which]) if why[name] in STEPPED else MISSING for which in ("step", "decrease")),
            digits(update["measured"]),
            f"no: {why[name]}" if why[name] else "may hold",
        ]
        for name, update in updates.items()
    ]
    steps = found["steps"]
    return Section(
        "Along the updates",
        _sentence(updates, loss, why),
        lambda: _pictures(updates, why),
        wide=True,
        heads=(
            "update of",
            "directional sharpness",
            "slope",
            "best length",
            "best decrease",
            "measured",
            "quadratic model",
        ),
        rows=rows,
        words=(0, 6),
        note="At the last step, of updates of length 1: all were fed the gradients of "
        f"{'the last ' if steps < len(content['training']['losses']) else 'all '}{steps} steps of this training. Best "
        "length and decrease are those of the quadratic model of the loss; measured: by how much the loss really falls "
        "(below 0: rises) at that length.",
    )


def _sentence(updates: Found, loss: float | None, why: Found) -> str:
    curved = {name: abs(update["sharpness"]) for name, update in updates.items() if why[name] not in (UNKNOWN, STILL)}
    if not curved:
        return "The curvature along the updates is not finite, or they are 0."
    sentence = f"The loss is flattest along the update of {min(curved, key=lambda name: curved[name])}"
    known = {name: updates[name]["decrease"] for name in updates if not why[name]}
    if known:
        best = max(known, key=lambda name: known[name])
        sentence += (
            f"; by the quadratic model a step of the best length lowers it most along that of {best}, by "
            f"{digits(known[best])} of {digits(loss)}"
        )
    sentences = [f"{sentence}."]
    words = {
        DOWN: "the loss does not bend up (negative curvature, or none)",
        TOO_MUCH: f"it would lower the loss by more than all its {digits(loss)}",
        RISES: "at its best length the loss rises",
        UP: "the loss rises at first",
        UNKNOWN: "numbers are not finite",
        STILL: "they are 0",
    }
    for trouble, word in words.items():
        names = [name for name in updates if why[name] == trouble]
        if names:
            whose = "every update" if len(names) == len(updates) else f"the updates of {listed(names)}"
            sentences.append(f"Along {whose} the quadratic model does not hold: {word}.")
    return " ".join(sentences)


def _pictures(updates: Found, why: Found) -> Pictures:
    names = list(updates)
    sharp = [updates[name]["sharpness"] for name in names]
    fall = [None if why[name] else updates[name]["decrease"] for name in names]
    with blank(10.0, 0.9 + 0.26 * len(names)) as figure:
        left = figure.add_subplot(1, 2, 1)
        right = figure.add_subplot(1, 2, 2, sharey=left)
        _bars(left, names, sharp, "directional sharpness")
        _bars(right, names, fall, "best decrease of the loss by one step")
        left.set_yticks(range(len(names)), names)
        left.set_ylim(len(names) - 0.4, -0.6)
        right.tick_params(labelleft=False)
        for i, name in enumerate(names):
            if why[name]:
                right.text(0.01, i, why[name], transform=right.get_yaxis_transform(), va="center", fontsize=8)
        return [("", svg(figure, "directional sharpness and best decrease by optimizer"))]


def _bars(axes: Axes, names: list[str], found: list[float | None], title: str) -> None:
    values = numbers(found)
    colors = [PALETTE[1] if name.startswith("yours") else HEAT for name in names]
    axes.barh(range(len(names)), np.nan_to_num(values), color=colors, height=0.62)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > 50 * float(np.median(known)):
        axes.set_xscale("log")
    if not len(known) or not known.any():
        axes.set_xlim(0.0, 1.0)
        axes.set_xticks([])
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=6)
    axes.set_title(title, loc="left")
