"""The arithmetic of distributed Lion, on flat vectors [d].

    worker i:   delta_i = sign(beta1 m_i + (1 - beta1) g_i)        m_i <- beta2 m_i + (1 - beta2) g_i
    majority:   Delta = sign(sum_i delta_i)          average: Delta = (1/N) sum_i delta_i
    all:        x <- (1 - lr lam) x - lr Delta

B. Liu, L. Wu, L. Chen, K. Liang, J. Zhu, C. Liang, R. Krishnamoorthi, Q. Liu, "Communication Efficient Distributed
Training with Distributed Lion", 2024 (arXiv 2404.00438). Delta does not depend on x, so decay first is the same rule.

sign(0) needs a third symbol: with `zero` 0 it is kept, and messages in which it occurs take 1.6 bits an entry instead
of one; with -1, as in the authors' code, messages always take one bit, and entries that never have a gradient drift.
"""

from __future__ import annotations

import torch
from torch import Tensor

ZEROS = (-1, 0, 1)


def check_settings(lr: float, betas: tuple[float, float], weight_decay: float, zero: int) -> None:
    """Raise ValueError for what is out of range."""
    if not lr >= 0.0:
        raise ValueError(f"lr: got {lr}; a number >= 0 is allowed")
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas: got {betas}; two numbers in [0, 1) are allowed")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay: got {weight_decay}; a number >= 0 is allowed")
    if zero not in ZEROS:
        raise ValueError(f"zero: got {zero}; -1, 0 and 1 are allowed")


def direction(m: Tensor, g: Tensor, betas: tuple[float, float], zero: int = 0) -> tuple[Tensor, Tensor]:
    """What a worker sends, int8 [d] in {-1, 0, 1}, and its new momentum [d]."""
    beta1, beta2 = betas
    signs = signs_of(torch.lerp(m, g, 1.0 - beta1), zero)
    return signs, torch.lerp(m, g, 1.0 - beta2)


def signs_of(x: Tensor, zero: int = 0) -> Tensor:
    """Signs, int8; `zero` stands for that of 0."""
    signs = x.sign().to(torch.int8)
    return signs if zero == 0 else signs.masked_fill_(signs == 0, zero)


def stepped(x: Tensor, delta: Tensor, lr: float, weight_decay: float = 0.0) -> Tensor:
    """The parameters [d] after the step along Delta [d]."""
    kept = x.mul(1.0 - lr * weight_decay) if weight_decay else x
    return torch.sub(kept, delta, alpha=lr)
