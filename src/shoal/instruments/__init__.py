"""Instruments: what is measured on models and samples, and on the loss surface around a model."""

from shoal.instruments.directional import (
    Direction,
    Line,
    Shadows,
    directional_sharpness,
    directions,
    line,
    line_search,
    usual_rules,
)
from shoal.instruments.lanczos import Eigenpairs, eigenpairs, lanczos, sharpness
from shoal.instruments.norms import RowScales, Smoothness, row_scales, smoothness
from shoal.instruments.surface import Surface

__all__ = [
    "Direction",
    "Eigenpairs",
    "Line",
    "RowScales",
    "Shadows",
    "Smoothness",
    "Surface",
    "directional_sharpness",
    "directions",
    "eigenpairs",
    "lanczos",
    "line",
    "line_search",
    "row_scales",
    "sharpness",
    "smoothness",
    "usual_rules",
]
