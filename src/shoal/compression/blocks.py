"""Sums and maxima of stretches of stacked rows, in pieces that fit a cache, the same bits whatever the stack.

A maximum has no order, so it is the same anyhow. A sum of a stretch is taken in float64 over pieces of a fixed length
from its beginning, each by numpy's pairwise sum along the row, which looks at no other row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from shoal.tensors.layout import Layout

PIECE = 1 << 16  # numbers in a piece: with temporaries of float64 it stays in a core's second-level cache


def scale_dtype(layout: Layout) -> torch.dtype:
    """Of norms, means and maxima in a payload: float32, or wider if the vector is."""
    return torch.promote_types(layout.dtype, torch.float32)


def layers(layout: Layout) -> list[slice]:
    """The stretches of a layout's segments, without empty ones."""
    return [segment.slice for segment in layout if segment.size]


def tiles(n: int, d: int, block: int) -> Iterator[tuple[slice, slice, slice]]:
    """Pieces of n rows of d numbers that are cut into blocks, the last of which may be shorter.

    Yields slices of rows, of columns and of blocks: whole blocks, or one that is shorter.
    """
    whole = d // block
    columns = max(1, min(whole, PIECE // block))
    height = max(1, PIECE // (columns * block))
    for top in range(0, n if whole else 0, height):
        rows = slice(top, min(top + height, n))
        for first in range(0, whole, columns):
            last = min(first + columns, whole)
            yield rows, slice(first * block, last * block), slice(first, last)
    if d > whole * block:
        height = max(1, PIECE // (d - whole * block))
        for top in range(0, n, height):
            yield slice(top, min(top + height, n)), slice(whole * block, d), slice(whole, whole + 1)


def blocked(x: Tensor, block: int) -> Tensor:
    """[n, m] as [n, m / block, block], or as one shorter block; a view."""
    block = min(block, x.shape[1])
    return x.view(x.shape[0], x.shape[1] // block, block)


def largest(x: Tensor) -> Tensor:
    """max |x| over the last dimension [..., m] of float32 or float64, m at least 1."""
    if x.device.type != "cpu":
        return x.abs().amax(-1)
    found: Tensor = torch.from_numpy(np.asarray(np.abs(x.detach().numpy()).max(-1)))
    return found


def sums(x: Tensor, power: int) -> Tensor:
    """sum |x|**power, power 1 or 2, over the last dimension [..., m]: float64 [...]."""
    piece = PIECE // 2
    parts = [_sum(x[..., start : start + piece], power) for start in range(0, x.shape[-1], piece)]
    if len(parts) == 1:
        return parts[0]
    total = torch.zeros(x.shape[:-1], dtype=torch.float64, device=x.device)
    for part in parts:
        total += part
    return total


def _sum(x: Tensor, power: int) -> Tensor:
    # Summed along rows that follow each other in memory, numpy adds each one by itself.
    terms = x.detach().to(torch.float64, memory_format=torch.contiguous_format, copy=True)
    terms = terms.abs_() if power == 1 else terms.mul_(terms)
    if x.device.type != "cpu":
        return terms.sum(-1)
    total: Tensor = torch.from_numpy(np.asarray(terms.numpy().sum(-1)))
    return total
