"""What each instrument of a diagnosis says: a sentence, pictures, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shoal.report.sections.curvature import sharpness, smoothness
from shoal.report.sections.directions import directions
from shoal.report.sections.frequencies import frequencies
from shoal.report.sections.noise import noise
from shoal.report.sections.opposing import opposing
from shoal.report.sections.section import Found, Key, Section
from shoal.report.sections.training import training

__all__ = ["SECTIONS", "Found", "Key", "Section", "training"]

SECTIONS: Mapping[str, Callable[[Found, Found], Section]] = {
    "sharpness": sharpness,
    "directions": directions,
    "smoothness": smoothness,
    "noise": noise,
    "frequencies": frequencies,
    "opposing": opposing,
}
"""Instrument -> how it is shown, from what it found and the whole content."""
