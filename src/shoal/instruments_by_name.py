"""The instruments by name, for those who ask which there are; nothing is imported here."""

from __future__ import annotations

from collections.abc import Mapping

INSTRUMENTS: Mapping[str, str] = {
    "sharpness": "the largest eigenvalues of the Hessian along the training",
    "directions": "how curved the loss is along the updates of several optimizers",
    "smoothness": "the loss's smoothness in the infinity norm, that of sign descent, beside the Euclidean one",
    "noise": "the gradient's noise scale, and the best learning rate at each batch size",
    "frequencies": "training loss by class frequency, for four optimizers and yours",
    "opposing": "samples that pull in opposite directions, and their share in what changes",
}
"""Name -> what it measures."""
