"""The gradient's noise, and the best learning rate at each batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.report.figures import PALETTE, Pen, blank, svg
from shoal.report.sections.section import Found, Key, Pictures, Section, finish, numbers
from shoal.report.units import digits

KINDS = (("drawn", "sign-like (Adam), measured"), ("sign", "sign-like, the surge law"), ("sgd", "SGD"))
PENS = {kind: Pen(PALETTE[j], (5, 2) if kind == "sign" else ()) for j, (kind, _) in enumerate(KINDS)}


def noise(found: Found, content: Found) -> Section:
    """Noise scales, and rates by batch size."""
    batches, looks, batch = found["batches"], found["looks"], content["settings"]["batch"]
    heads = ["step", "simple noise scale", "surge law: B_noise", "its largest rate", "SGD: B_noise"]
    heads += [f"at batch {batch}: sign-like", "law", "SGD"]
    rows = [
        [
            str(look["step"]),
            *(
                digits(value)
                for value in (look["simple"], look["sign"]["noise"], look["sign"]["peak"], look["sgd"]["noise"])
            ),
            *(digits(_at(batches, look[kind]["rates"], batch)) for kind, _ in KINDS),
        ]
        for look in looks
    ]
    note = (
        f"From the gradients of {found['samples']:,} single samples, and products with the Hessian. All are of one "
        "step from where the model is, by the quadratic model of the loss: rates of a whole training are smaller, as a "
        "rule. Measured: with the signs of drawn batches; the law takes the signs of coordinates to be independent. "
        "Dotted line: the batch size of this training. A dash: the loss bends down, so that no rate is best."
    )
    return Section(
        "Gradient noise and batch size",
        _sentence(found),
        lambda: _pictures(found, batch),
        [Key(word, PENS[kind]) for kind, word in KINDS],
        wide=True,
        heads=heads,
        rows=rows,
        note=note,
    )


def _sentence(found: Found) -> str:
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


def _pictures(found: Found, batch: int) -> Pictures:
    with blank(10.0, 3.2) as figure:
        first = None
        for i, look in enumerate(found["looks"]):
            axes = figure.add_subplot(1, len(found["looks"]), i + 1, sharey=first)
            first = first or axes
            for kind, pen in PENS.items():
                style: dict[str, Any] = {"color": pen.color, "linestyle": pen.line, "marker": "o", "markersize": 3}
                axes.plot(found["batches"], numbers(look[kind]["rates"]), **style)
            axes.axvline(batch, color=PALETTE[6], linewidth=0.8, linestyle=(0, (1, 2)))
            axes.set_xscale("log", base=2)
            if any((numbers(look[kind]["rates"]) > 0).any() for kind in PENS):
                axes.set_yscale("log")
            finish(axes, f"best learning rate of one step, after step {look['step']}", "batch size")
        return [("", svg(figure, "best learning rate against batch size"))]


def _at(batches: Sequence[int], rates: Sequence[float | None], batch: int) -> float | None:
    """A rate at a batch size between those that were computed, along the line in logarithms."""
    known = [(math.log(b), math.log(r)) for b, r in zip(batches, rates, strict=True) if r is not None and r > 0]
    if not known or not known[0][0] <= math.log(batch) <= known[-1][0]:
        return None
    x, y = ([pair[k] for pair in known] for k in (0, 1))
    return math.exp(float(np.interp(math.log(batch), x, y)))
