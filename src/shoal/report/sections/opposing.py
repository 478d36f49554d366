"""Samples whose losses one step changed most, some up and some down, and whether they pull in opposite directions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.report.figures import PALETTE, Pen, blank, svg
from shoal.report.sections.section import Found, Key, Pictures, Section, finish, numbers
from shoal.report.units import digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = {"up": PALETTE[1], "down": PALETTE[0]}
WORDS = {("up", 1): "rose most", ("up", -1): "fell least", ("down", -1): "fell most", ("down", 1): "rose least"}
COLUMNS = 8  # of thumbnails: fewer samples are not drawn larger
SHOWN = 40  # tokens of a text


def opposing(found: Found, content: Found) -> Section:
    """How the two groups fared, and who is in them."""
    at = f"at step {found['step'] + 1}"
    legend = [Key("mean of all samples", Pen.of(6))]
    legend += [
        Key(f"mean of the {found['count']} whose loss {_word(found, which)} {at}", Pen(color, ()))
        for which, color in GROUPS.items()
    ]
    rows = [
        (f"loss {_word(found, which)}", label(target, found["vocabulary"]), digits(before), digits(after))
        for which in GROUPS
        for target, before, after in zip(*(found[which][part] for part in ("targets", "before", "after")), strict=True)
    ]
    return Section(
        "Opposing signals",
        _sentence(found),
        lambda: _pictures(found),
        legend,
        wide=True,
        heads=("group", "target", "loss before", "loss after"),
        rows=[] if _side(found) else rows,
        words=(0, 1),
    )


def _word(found: Found, which: str) -> str:
    """What the loss of a group did in the step, beside that of the others."""
    losses, step = found[which]["losses"], found["step"]
    return WORDS[which, 1 if (losses[step + 1] or 0.0) > (losses[step] or 0.0) else -1]


def _sentence(found: Found) -> str:
    what = "the loss rose most" if found["rises"] else "changes of the samples' losses cancelled most"
    sentence = (
        f"At step {found['step'] + 1}, where {what}, {2 * found['count'] / found['samples']:.1%} of the samples held "
        f"{found['share']:.0%} of all change. {_pull(found['cosine'])}"
    )
    if found["diverged"]:
        sentence += f" This training on all samples at once diverged after {len(found['losses']) - 1} steps."
    return sentence


def _pull(cosine: float | None) -> str:
    if cosine is None:
        return "Their gradients are 0, or not finite."
    word = (
        "in opposite directions"
        if cosine < -0.5
        else "in much the same direction"
        if cosine > 0.5
        else "across each other"
    )
    return f"Its two halves pull {word}: the cosine of their gradients is {cosine:.2f}."


def label(target: Any, vocabulary: str | None) -> str:
    """A sample's target: a text's characters, tokens by number, or numbers."""
    if not isinstance(target, list):
        return digits(target) if isinstance(target, float) else repr(vocabulary[target]) if vocabulary else str(target)
    more = " ..." if len(target) > SHOWN else ""
    if vocabulary:
        return repr("".join(vocabulary[token] for token in target[:SHOWN])) + more
    return ", ".join(digits(t) if isinstance(t, float) else str(t) for t in target[:8]) + (
        " ..." if len(target) > 8 else ""
    )


def _pictures(found: Found) -> Pictures:
    """The curves of the groups, and their samples if they are square grey images."""
    pictures = [
        (
            f"Training on all {found['samples']:,} samples at once. Dotted line: the step at which the two groups "
            "were chosen, by how much the loss of each sample changed.",
            _curves(found),
        )
    ]
    if _side(found):
        caption = (
            f"Above samples whose loss {_word(found, 'up')} at that step, below those whose loss "
            f"{_word(found, 'down')}; with each its class, and its loss before and after."
        )
        pictures.append((caption, _thumbnails(found)))
    return pictures


def _curves(found: Found) -> str:
    steps, edge, values = np.arange(len(found["losses"])), found["stability"]["edge"], found["eigenvalues"]
    with blank(10.0, 3.0) as figure:
        left, middle, right = (figure.add_subplot(1, 3, i + 1) for i in range(3))
        left.plot(steps, numbers(found["losses"]), color=PALETTE[6], linewidth=1.5)
        for which, color in GROUPS.items():
            left.plot(steps, numbers(found[which]["losses"]), color=color, linewidth=1.3)
            middle.plot(steps, numbers(found[which]["outputs"]), color=color, linewidth=1.3)
        right.plot(values["steps"], numbers(values["values"]), color=PALETTE[2], marker="o", markersize=3)
        if edge is not None:
            right.axhline(edge, color=PALETTE[2], linewidth=1.0, linestyle=(0, (5, 2)))
        finish(left, "loss", "step", logarithmic=True)
        finish(middle, found["output"], "step")
        title = "largest eigenvalue" + (" (dashed: edge of stability)" if edge is not None else "")
        finish(right, title, "step", logarithmic=True)
        for axes in (left, middle, right):
            axes.axvline(found["step"] + 1, color=PALETTE[6], linewidth=0.8, linestyle=(0, (1, 2)))
        return svg(figure, "losses and outputs of the two groups, and the largest eigenvalue")


def _side(found: Found) -> int:
    """Pixels along a side of square grey images; 0 if samples are none."""
    first = found["up"]["inputs"][0] if found["up"]["inputs"] else []
    side = math.isqrt(len(first))
    return side if side >= 6 and side * side == len(first) and isinstance(first[0], float) else 0


def _thumbnails(found: Found) -> str:
    """All in the same greys, the most frequent of which is on the side of white."""
    side = _side(found)
    low, middle, high = found["shades"]
    greys = "gray_r" if middle - low < high - middle else "gray"
    with blank(10.0, 3.5) as figure:
        for row, which in enumerate(GROUPS):
            group = found[which]
            for i, image in enumerate(group["inputs"]):
                axes: Axes = figure.add_subplot(2, COLUMNS, row * COLUMNS + i + 1)
                pixels = np.array(image).reshape(side, side)
                axes.imshow(pixels, cmap=greys, vmin=low, vmax=high, interpolation="nearest")
                axes.set_axis_off()
                name = f"class {group['targets'][i]}" if isinstance(group["targets"][i], int) else ""
                change = f"{digits(group['before'][i])} to {digits(group['after'][i])}"
                axes.set_title(f"{name}\n{change}", fontsize=8, pad=4)
        return svg(figure, "the samples of both groups, with class, loss before and after")
