"""What each instrument of a diagnosis says: a sentence, pictures, a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.report.figures import HEAT, PALETTE, SCALE, Pen, blank, svg
from shoal.report.units import digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[str, Any]


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
        legend: lines of all its pictures.
        pictures: each a caption and an <svg>.
        wide: whether pictures are below each other.
        heads, rows: a table.
        note: how it was measured.
    """

    title: str
    sentence: str
    pictures: Sequence[tuple[str, str]]
    legend: Sequence[Key] = ()
    wide: bool = False
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    note: str = ""


def training(content: Found) -> str:
    """The picture of the training's loss."""
    losses = _numbers(content["training"]["losses"])
    with blank(10.0, 2.3) as figure:
        axes = figure.add_subplot()
        axes.plot(np.arange(1, len(losses) + 1), losses, color=PALETTE[0], linewidth=1.0, alpha=0.35)
        if len(losses) >= 10:
            axes.plot(*_smooth(losses), color=PALETTE[0], linewidth=1.7)
        for step in content["training"]["looks"]:
            axes.axvline(step, color=PALETTE[6], linewidth=0.8, linestyle=(0, (2, 2)))
        _finish(axes, "training loss of the batch", "step")
        return svg(figure, "training loss of each batch")


def _sharpness(found: Found, content: Found) -> Section:
    values, errors = _numbers(found["eigenvalues"]), _numbers(found["errors"])
    edge = found["stability"]
    legend = [Key("largest eigenvalue", Pen.of(0))]
    with blank(5.2, 2.9) as figure:
        axes = figure.add_subplot()
        axes.errorbar(found["steps"], values, yerr=errors, color=PALETTE[0], marker="o", markersize=4, linewidth=1.7)
        if edge is not None:
            axes.axhline(edge, color=PALETTE[1], linewidth=1.4, linestyle=(0, (5, 2)))
            legend.append(Key("stability of gradient descent", Pen(PALETTE[1], (5, 2))))
        _finish(axes, "largest eigenvalue of the Hessian", "step", logarithmic=True)
        picture = svg(figure, f"largest eigenvalue from {digits(values[0])} to {digits(values[-1])}")
    trend = "rises" if values[-1] > 1.1 * values[0] else "falls" if values[-1] < values[0] / 1.1 else "stays"
    sentence = f"The sharpness {trend}: {digits(float(values[0]))} at first, {digits(float(values[-1]))} at last."
    if edge is not None:
        side = "above" if values[-1] > edge else "below"
        sentence += f" That is {side} {digits(edge)}, where full-batch gradient descent at this rate becomes unstable."
    note = "By the Lanczos method; bars show how far an estimate may be off."
    return Section("Sharpness", sentence, [("", picture)], legend, note=note)


def _directions(found: Found, content: Found) -> Section:
    names = list(found)
    with blank(10.0, 0.9 + 0.26 * len(names)) as figure:
        first = None
        for i, (which, title) in enumerate(
            (("sharpness", "directional sharpness"), ("decrease", "best decrease of the loss by one step"))
        ):
            axes = figure.add_subplot(1, 2, i + 1, sharey=first)
            first = first or axes
            values = _numbers([found[name][which] for name in names])
            colors = [PALETTE[1] if name.startswith("yours") else HEAT for name in names]
            axes.barh(range(len(names)), np.nan_to_num(values), color=colors, height=0.62)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", visible=True)
            if (
                values[values > 0].size
                and np.nanmax(values) > 50 * np.nanmedian(np.abs(values))
                and np.nanmin(values) > 0
            ):
                axes.set_xscale("log")
            axes.set_title(title, loc="left")
            if i:
                axes.tick_params(labelleft=False)
        picture = svg(figure, "directional sharpness and best decrease by optimizer")
    known = {name: found[name]["decrease"] for name in names if found[name]["decrease"] is not None}
    flat = min(names, key=lambda name: abs(found[name]["sharpness"]))
    sentence = f"The loss is flattest along the update of {flat}"
    if known:
        best = max(known, key=lambda name: known[name])
        sentence += f"; a step of the best length lowers it most along that of {best}, by {digits(known[best])}"
    rows = [
        [name, *(digits(found[name][which]) for which in ("sharpness", "slope", "step", "decrease"))] for name in names
    ]
    return Section(
        "Along the updates",
        f"{sentence}.",
        [("", picture)],
        wide=True,
        heads=("update of", "directional sharpness", "slope", "best length", "best decrease"),
        rows=rows,
        note="At the last step, by the quadratic model, of updates of length 1: all were fed the gradients of "
        "the last 30 steps of this training. A dash: the loss bends down along that update, so that no length is best.",
    )


def _smoothness(found: Found, content: Found) -> Section:
    scaled = found["size"] * found["largest"]
    rows = [
        ["sum of the Hessian's absolute entries, for Adam and sign descent", digits(found["norm"])],
        ["d times its largest absolute eigenvalue, for SGD", digits(scaled)],
        ["ratio", digits(found["advantage"])],
    ]
    ratio = found["advantage"]
    sentence = (
        "The Hessian is 0."
        if ratio is None
        else f"In the infinity norm the loss is {digits(ratio)} times as smooth as its largest eigenvalue would allow: "
        + (
            "that favours steps by coordinate, as Adam's."
            if ratio > 1
            else "steps by coordinate have no advantage here."
        )
    )
    note = (
        "At the end of the training; the sum by draws of Cauchy numbers, another estimate of it is "
        f"{digits(found['norm_by_quartiles'])}."
    )
    return Section("Smoothness", sentence, [], heads=("bound", "value"), rows=rows, note=note)


def _noise(found: Found, content: Found) -> Section:
    batches, looks, batch = found["batches"], found["looks"], content["settings"]["batch"]
    kinds = (("drawn", "sign-like (Adam), measured"), ("sign", "sign-like, the surge law"), ("sgd", "SGD"))
    legend = []
    with blank(10.0, 3.2) as figure:
        first = None
        for i, look in enumerate(looks):
            axes = figure.add_subplot(1, len(looks), i + 1, sharey=first)
            first = first or axes
            for j, (kind, word) in enumerate(kinds):
                pen = Pen(PALETTE[j], (5, 2) if kind == "sign" else ())
                style: dict[str, Any] = {"color": pen.color, "linestyle": pen.line, "marker": "o", "markersize": 3}
                axes.plot(batches, _numbers(look[kind]["rates"]), **style)
                if not i:
                    legend.append(Key(word, pen))
            axes.axvline(batch, color=PALETTE[6], linewidth=0.8, linestyle=(0, (1, 2)))
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            _finish(axes, f"best learning rate of one step, after step {look['step']}", "batch size")
        picture = svg(figure, "best learning rate against batch size")
    heads = ["step", "simple noise scale", "surge law: B_noise", "its largest rate", "SGD: B_noise"]
    heads += [f"at batch {batch}: sign-like", "law", "SGD"]
    rows = [
        [
            str(look["step"]),
            *(
                digits(value)
                for value in (look["simple"], look["sign"]["noise"], look["sign"]["peak"], look["sgd"]["noise"])
            ),
            *(digits(_at(batches, look[kind]["rates"], batch)) for kind, _ in kinds),
        ]
        for look in looks
    ]
    note = (
        f"From the gradients of {found['samples']:,} single samples, and products with the Hessian. All are of one "
        "step from where the model is, by the quadratic model of the loss: rates of a whole training are smaller, as a "
        "rule. Measured: with the signs of drawn batches; the law takes the signs of coordinates to be independent. "
        "Dotted: the batch of this training. A dash: the loss bends down, so that no rate is best."
    )
    return Section(
        "Gradient noise and batch size", _noise_in_words(found), [("", picture)], legend, True, heads, rows, note
    )


def _noise_in_words(found: Found) -> str:
    last = found["looks"][-1]
    sentence = (
        "No gradient is seen beside its noise: more samples are needed."
        if last["simple"] is None
        else f"Noise and signal of the gradient are equal at a batch of about {digits(last['simple'])}."
    )
    known = [(b, r) for b, r in zip(found["batches"], last["drawn"]["rates"], strict=True) if r is not None and r > 0]
    if not known:
        return sentence + " The loss does not bend up along the signs of the gradient."
    peak = max(known, key=lambda pair: pair[1])
    if peak[0] == known[-1][0]:
        return sentence + f" The best rate of sign-like steps grows up to the largest batch looked at, {peak[0]:,}."
    return sentence + f" The best rate of sign-like steps is largest at a batch of about {peak[0]:,}, and falls beyond."


def _frequencies(found: Found, content: Found) -> Section:
    names = list(found["losses"])
    pens = {name: Pen.of(i) for i, name in enumerate(names)}
    share, steps = _numbers(found["frequencies"]), found["steps"]
    last = {name: _numbers(found["losses"][name][-1]) for name in names}
    with blank(10.0, 3.1) as figure:
        axes = figure.add_subplot()
        for name, pen in pens.items():
            axes.plot(
                range(len(share)),
                last[name],
                color=pen.color,
                linestyle=pen.line,
                marker="o",
                markersize=4,
                linewidth=1.5,
            )
        words = [
            f"{100 * s:.2g}%\n{count} {'class' if count == 1 else 'classes'}"
            for s, count in zip(share, found["classes"], strict=True)
        ]
        axes.set_xticks(range(len(share)), words, fontsize=8)
        _finish(
            axes,
            f"training loss after {steps[-1]} steps",
            "share of a class in the data: frequent classes left, rare ones right",
            logarithmic=True,
        )
        end = svg(figure, "training loss by class frequency at the end")
    with blank(10.0, 2.7) as figure:
        shades = _ramp(len(share))
        first = None
        for i, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), i + 1, sharey=first)
            first = first or axes
            table = np.array([_numbers(row) for row in found["losses"][name]])
            for k in range(len(share)):
                axes.plot(steps, table[:, k], color=shades[k], linewidth=1.3)
            _finish(axes, name, "step", logarithmic=True)
            if i:
                axes.tick_params(labelleft=False)
        curves = svg(figure, "training loss by class frequency along the training")
    gap = {name: last[name][-1] - last[name][0] for name in names if np.isfinite(last[name][[0, -1]]).all()}
    sentence = "Every optimizer diverged."
    if gap:
        worst, best = max(gap, key=lambda n: gap[n]), min(gap, key=lambda n: gap[n])
        sentence = (
            f"From the most frequent to the rarest classes the loss rises by {digits(gap[best])} with {best}, and by "
            f"{digits(gap[worst])} with {worst}."
        )
    if max(found["classes"]) == min(found["classes"]) and share.max() < 1.2 * share.min():
        sentence = (
            "All classes are about equally frequent, so that differences between bins are those of single classes."
        )
    rates = ", ".join(f"{name} {digits(found['rates'][name])}" for name in names)
    return Section(
        "Class frequencies",
        sentence,
        [("", end), ("A line for each bin of classes: violet are the most frequent ones, yellow the rarest.", curves)],
        [Key(name, pen) for name, pen in pens.items()],
        wide=True,
        note=f"Learning rates, the best of three each: {rates}. Bins hold about as many samples each.",
    )


def _opposing(found: Found, content: Found) -> Section:
    step, steps = found["step"], np.arange(len(found["losses"]))
    legend = [Key("all samples", Pen.of(6)), Key("rose most", Pen.of(1)), Key("fell most", Pen.of(0))]
    groups = (("up", PALETTE[1]), ("down", PALETTE[0]))
    with blank(10.0, 3.0) as figure:
        left, middle, right = (figure.add_subplot(1, 3, i + 1) for i in range(3))
        left.plot(steps, _numbers(found["losses"]), color=PALETTE[6], linewidth=1.5)
        for name, color in groups:
            left.plot(steps, _numbers(found[name]["losses"]), color=color, linewidth=1.3)
            middle.plot(steps, _numbers(found[name]["outputs"]), color=color, linewidth=1.3)
        values = found["eigenvalues"]
        right.plot(values["steps"], _numbers(values["values"]), color=PALETTE[2], marker="o", markersize=3)
        if found["stability"] is not None:
            right.axhline(found["stability"], color=PALETTE[2], linewidth=1.0, linestyle=(0, (5, 2)))
        for axes in (left, middle, right):
            axes.axvline(step + 1, color=PALETTE[6], linewidth=0.8, linestyle=(0, (1, 2)))
        _finish(left, "loss", "step", logarithmic=True)
        _finish(middle, found["output"], "step")
        _finish(
            right,
            "largest eigenvalue" + (", and stability" if found["stability"] is not None else ""),
            "step",
            logarithmic=True,
        )
        curves = svg(figure, "losses and outputs of the two groups, and the largest eigenvalue")
    pictures = [(f"Full-batch training on {found['samples']:,} samples. Dotted: the jump.", curves)]
    thumbs = _thumbnails(found)
    if thumbs:
        pictures.append(("", thumbs))
    share = 2 * found["count"] / found["samples"]
    what = "the loss rose most" if found["rises"] else "changes of the samples' losses cancelled most"
    sentence = (
        f"At step {step + 1}, where {what}, {share:.1%} of the samples held {found['share']:.0%} of all change. "
        f"{_pull(found['cosine'])}"
    )
    rows = [
        (group, str(_label(target)), digits(before), digits(after))
        for group, word in (("rose", "up"), ("fell", "down"))
        for target, before, after in zip(
            found[word]["targets"], found[word]["before"], found[word]["after"], strict=True
        )
    ]
    heads = ("group", "target", "loss before", "loss after")
    return Section("Opposing signals", sentence, pictures, legend, wide=True, heads=heads, rows=[] if thumbs else rows)


def _pull(cosine: float | None) -> str:
    if cosine is None:
        return "Their gradients are 0."
    word = (
        "in opposite directions"
        if cosine < -0.5
        else "in much the same direction"
        if cosine > 0.5
        else "across each other"
    )
    return f"Its two halves pull {word}: the cosine of their gradients is {cosine:.2f}."


def _label(target: Any) -> str:
    if isinstance(target, list):
        return ", ".join(digits(t) if isinstance(t, float) else str(t) for t in target[:8]) + (
            " ..." if len(target) > 8 else ""
        )
    return digits(target) if isinstance(target, float) else str(target)


def _thumbnails(found: Found) -> str:
    """The groups' samples, if they are square grey images."""
    size = len(found["up"]["inputs"][0]) if found["up"]["inputs"] else 0
    side = math.isqrt(size)
    if side < 6 or side * side != size or not isinstance(found["up"]["inputs"][0][0], float):
        return ""
    count = 8  # columns: fewer samples are not drawn larger
    with blank(10.0, 3.5) as figure:
        for row, (name, word) in enumerate((("up", "rose"), ("down", "fell"))):
            group = found[name]
            for i, image in enumerate(group["inputs"]):
                axes = figure.add_subplot(2, count, row * count + i + 1)
                axes.imshow(
                    np.array(image).reshape(side, side),
                    cmap="gray_r" if np.mean(image) < 0.5 else "gray",
                    interpolation="nearest",
                )
                axes.set_axis_off()
                title = f"{word}: {group['targets'][i]}\n{digits(group['before'][i])} to {digits(group['after'][i])}"
                axes.set_title(title, fontsize=8, pad=4)
        return svg(figure, "the samples of both groups, with target, loss before and after")


SECTIONS: Mapping[str, Callable[[Found, Found], Section]] = {
    "sharpness": _sharpness,
    "directions": _directions,
    "smoothness": _smoothness,
    "noise": _noise,
    "frequencies": _frequencies,
    "opposing": _opposing,
}
"""Instrument -> how it is shown."""


# -- drawing -----------------------------------------------------------------------------------------------------------


def _numbers(values: Sequence[float | None]) -> Any:
    """As an array; None is NaN."""
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _smooth(values: Any) -> tuple[Any, Any]:
    """Steps and means over a twentieth of them."""
    width = max(3, len(values) // 20)
    kernel = np.ones(width) / width
    return np.arange(width, len(values) + 1), np.convolve(values, kernel, mode="valid")


def _ramp(count: int) -> list[Any]:
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("scale", SCALE)
    return [ramp(0.95 * k / max(1, count - 1)) for k in range(count)]


def _finish(axes: Axes, title: str, x_label: str, *, logarithmic: bool = False) -> None:
    """Title and labels; a logarithmic value axis where values above 0 span more than a factor of 20."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if logarithmic and len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
    axes.set_title(title, loc="left", parse_math=False)
    axes.set_xlabel(x_label)


def _at(batches: Sequence[int], rates: Sequence[float | None], batch: int) -> float | None:
    """A rate at a batch size between those that were computed, along the line in logarithms."""
    known = [(math.log(b), math.log(r)) for b, r in zip(batches, rates, strict=True) if r is not None and r > 0]
    if not known or not known[0][0] <= math.log(batch) <= known[-1][0]:
        return None
    x, y = ([pair[k] for pair in known] for k in (0, 1))
    return math.exp(float(np.interp(math.log(batch), x, y)))
