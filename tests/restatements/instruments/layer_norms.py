"""Layerwise gradient norms, and bytes a parameter, restated in float64 NumPy.

A. Kumar, R. Shen, S. Bubeck, S. Gunasekar, "How to Fine-Tune Vision Models with SGD", arXiv:2211.09359 (2022).

    layer l: all its tensors joined;   |g_l|,   |g_l| / sqrt(number of parameters),   |g_l| / |theta_l|
    training memory a parameter of 4 bytes: weight 4, gradient 4, state 8 (AdamW), 4 (SGD with momentum), 0 (SGD)

Choices: |theta_l| = 0 makes the relative norm infinite, or 0 if the gradient is 0 too. A frozen layer has no entry.
Frozen parameters cost 4 bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STATE_BYTES = {"adamw": 8, "momentum": 4, "sgd": 0}


@dataclass(frozen=True)
class Norms:
    norm: float
    per_root_size: float
    relative: float


def layer_norms(grads: Mapping[str, Sequence[Array]], params: Mapping[str, Sequence[Array]]) -> dict[str, Norms]:
    out = {}
    for name, tensors in grads.items():
        g = np.concatenate([np.ravel(x) for x in tensors])
        theta = np.concatenate([np.ravel(x) for x in params[name]])
        norm, size = float(np.linalg.norm(g)), float(np.linalg.norm(theta))
        relative = norm / size if size > 0 else (0.0 if norm == 0 else float("inf"))
        out[name] = Norms(norm, norm / np.sqrt(g.size), relative)
    return out


def training_bytes(optimizer: str, trained: int, frozen: int = 0) -> int:
    return (8 + STATE_BYTES[optimizer]) * trained + 4 * frozen
