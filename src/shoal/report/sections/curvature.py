"""The largest eigenvalue of the Hessian along the training, and the loss's smoothness in two norms."""

from __future__ import annotations

import numpy as np

from shoal.report.figures import PALETTE, Pen, blank, svg
from shoal.report.sections.section import Found, Key, Pictures, Section, finish, numbers
from shoal.report.units import digits

EDGE = Pen(PALETTE[1], (5, 2))


def sharpness(found: Found, content: Found) -> Section:
    """Its way from the first look to the last, and the edge of stability."""
    legend = [Key("largest eigenvalue", Pen.of(0))]
    if found["stability"]["edge"] is not None:
        legend.append(Key(f"edge of stability of full-batch steps, {found['stability']['formula']}", EDGE))
    note = "By the Lanczos method; bars show how far an estimate may be off."
    if found["stability"]["edge"] is None:
        note += " Adaptive optimizers are bound by the eigenvalues of the Hessian as they rescale it, not by these."
    return Section("Sharpness", f"{_course(found)} {_edge(found)}", lambda: _pictures(found), legend, note=note)


def _course(found: Found) -> str:
    steps, values = found["steps"], numbers(found["eigenvalues"])
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return "The Hessian is not finite."
    first, last, top = known[0], known[-1], known[values[known].argmax()]
    if len(known) == 1:
        return f"The sharpness was {digits(float(values[first]))} after step {steps[first]}."
    trend = "rose" if values[last] > 1.1 * values[first] else "fell" if values[last] < values[first] / 1.1 else "stayed"
    sentence = f"The sharpness {trend}: {digits(float(values[first]))} at first, {digits(float(values[last]))} at last"
    where = "at last" if top == last else "at first" if top == first else f"after step {steps[top]}"
    return f"{sentence}; of {len(known)} looks its peak was {digits(float(values[top]))}, {where}."


def _edge(found: Found) -> str:
    edge, formula = found["stability"]["edge"], found["stability"]["formula"]
    if edge is None:
        return f"No simple threshold of the plain sharpness holds: {formula}."
    values = numbers(found["eigenvalues"])
    above = bool((values > edge).any())
    side = (
        ("The peak is above" if above else "All of it is below")
        if np.isfinite(values).any()
        else "It is unknown beside"
    )
    return f"{side} {digits(edge)} = {formula}, beyond which full-batch steps of this optimizer are unstable."


def _pictures(found: Found) -> Pictures:
    values, errors = numbers(found["eigenvalues"]), numbers(found["errors"])
    with blank(5.2, 2.9) as figure:
        axes = figure.add_subplot()
        axes.errorbar(found["steps"], values, yerr=errors, color=PALETTE[0], marker="o", markersize=4, linewidth=1.7)
        if found["stability"]["edge"] is not None:
            axes.axhline(found["stability"]["edge"], color=EDGE.color, linewidth=1.4, linestyle=EDGE.line)
        finish(axes, "largest eigenvalue of the Hessian", "step", logarithmic=True)
        return [("", svg(figure, f"largest eigenvalue from {digits(values[0])} to {digits(values[-1])}"))]


def smoothness(found: Found, content: Found) -> Section:
    """Two bounds and their ratio."""
    ratio, largest = found["advantage"], found["largest"]
    rows = [
        ["sum of the Hessian's absolute entries, for Adam and sign descent", digits(found["norm"])],
        [
            "d times its largest absolute eigenvalue, for SGD",
            digits(None if largest is None else found["size"] * largest),
        ],
        ["ratio", digits(ratio)],
    ]
    sentence = (
        "The Hessian is 0, or not finite."
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
    return Section("Smoothness", sentence, list, heads=("bound", "value"), rows=rows, note=note)
