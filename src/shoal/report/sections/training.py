"""The training that a diagnosis looks at."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.report.figures import PALETTE, blank, svg
from shoal.report.sections.section import Found, Pictures, Section, finish, listed, numbers
from shoal.report.units import digits


def training(content: Found) -> Section:
    """How the loss went."""
    found = content["training"]
    note = "Dashed lines: steps at which the model was looked at. Dark: the mean of several steps."
    return Section("Training", _sentence(found), lambda: _pictures(found), wide=True, note=note)


def _sentence(found: Found) -> str:
    steps, first, last = len(found["losses"]), digits(found["looked"][0]), digits(found["looked"][-1])
    where = f"on the {found['samples']:,} samples that are measured on"
    if found["diverged"]:
        looks = listed([str(step) for step in found["looks"]])
        return (
            f"The training diverged: at step {steps} its loss or its weights stopped being finite numbers. What is "
            f"said below is of the model before that, as it was after step {looks}."
        )
    if found["grew"]:
        return (
            f"The training does not converge: the loss grew from {first} to {last} in {steps} steps, {where}. What is "
            "said below is of a model that gets worse."
        )
    start, end, top = found["looked"][0], found["looked"][-1], max(found["losses"])
    went = "went" if end < start else "did not fall: it went"
    sentence = f"The loss {went} from {first} to {last} in {steps} steps, {where}."
    return f"{sentence} On the way it was as high as {digits(top)}." if top > start + abs(start) else sentence


def _pictures(found: Found) -> Pictures:
    losses = numbers(found["losses"])
    with blank(10.0, 2.3) as figure:
        axes = figure.add_subplot()
        axes.plot(np.arange(1, len(losses) + 1), losses, color=PALETTE[0], linewidth=1.0, alpha=0.35)
        if len(losses) >= 10:
            axes.plot(*_smooth(losses), color=PALETTE[0], linewidth=1.7)
        finish(axes, "training loss of the batch", "step", logarithmic=True)
        for step in found["looks"]:
            axes.axvline(step, color=PALETTE[6], linewidth=0.8, linestyle=(0, (2, 2)))
        return [("", svg(figure, "training loss of each batch"))]


def _smooth(values: Any) -> tuple[Any, Any]:
    """Steps and means over a twentieth of them."""
    width = max(3, len(values) // 20)
    kernel = np.ones(width) / width
    return np.arange(width, len(values) + 1), np.convolve(values, kernel, mode="valid")
