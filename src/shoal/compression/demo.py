"""The arithmetic of DeMo, on flat vectors [d].

    worker i:   delta <- beta delta + lr g_i        q_i = the strongest frequencies of delta        delta <- delta - q_i
    all:        x <- (1 - lr lam) x - lr sign(Q)        Q: each coefficient's mean over those who sent it

B. Peng, J. Quesnelle, D. P. Kingma, "DeMo: Decoupled Momentum Optimization", 2024 (arXiv 2411.19870). The rate in delta
is that of the authors' code; while it is constant, the path is the same without it.
"""

from __future__ import annotations

from torch import Tensor

from shoal.compression.dct import DCT
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content


def check_settings(lr: float, decay: float, weight_decay: float) -> None:
    """Raise ValueError for what is out of range."""
    if not lr >= 0.0:
        raise ValueError(f"lr: got {lr}; a number >= 0 is allowed")
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay: got {decay}; a number in [0, 1) is allowed")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay: got {weight_decay}; a number >= 0 is allowed")


def extracted(delta: Tensor, g: Tensor, lr: float, decay: float, codec: DCT, layout: Layout) -> tuple[Content, Tensor]:
    """What a worker sends of its momentum with a new gradient, and what stays of it [d]."""
    grown = delta.mul(decay).add_(g, alpha=lr)
    payload, _ = codec.encode(grown, {}, 0, layout)
    return payload, grown - codec.decode(payload, layout)


def stepped(x: Tensor, merged: Tensor, lr: float, weight_decay: float = 0.0) -> Tensor:
    """The parameters [d] after the step along the sign of Q [d]."""
    kept = x.mul(1.0 - lr * weight_decay) if weight_decay else x
    return kept.sub(merged.sign(), alpha=lr)
