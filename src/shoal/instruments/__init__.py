"""Instruments that look at a loss surface: its value, slopes and curvature around a model."""

from shoal.instruments.lanczos import Eigenpairs, eigenpairs, lanczos, sharpness
from shoal.instruments.surface import Surface

__all__ = [
    "Eigenpairs",
    "Surface",
    "eigenpairs",
    "lanczos",
    "sharpness",
]
