"""What codecs do with stretches of stacked rows, in pieces that fit a cache, the same bits whatever the stack.

A sum of a stretch is taken in float64 over pieces of a fixed length from its beginning, each by numpy's pairwise sum
along the row, which looks at no other row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shoal.tensors.layout import Layout

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
PIECE = 1 << 19  # numbers in a tile: large beside the cost of calls, small beside a processor's last cache
SUMMED = 1 << 15  # numbers of a stretch that are summed at once: in float64 they stay in a second-level cache


def scale_dtype(layout: Layout) -> torch.dtype:
    """Of norms, means and maxima in a payload: float32, or wider if the vector is."""
    return torch.promote_types(layout.dtype, torch.float32)


def layers(layout: Layout) -> list[slice]:
    """The stretches of a layout's segments, without empty ones."""
    return [segment.slice for segment in layout if segment.size]


def aligned(x: Tensor) -> Tensor:
    """x [m] or a copy, from where a cache line begins: the last bits of matrix products depend on where in it x is."""
    return x if x.data_ptr() % 64 == 0 else x.clone()


def tiles(n: int, d: int, block: int, piece: int = PIECE) -> Iterator[tuple[slice, slice, slice]]:
    """Pieces of about `piece` numbers of n rows of d that are cut into blocks, the last of which may be shorter.

    Yields slices of rows, of columns and of blocks: whole blocks, or one that is shorter.
    """
    whole = d // block
    columns = max(1, min(whole, piece // block))
    height = max(1, piece // (columns * block))
    for top in range(0, n if whole else 0, height):
        rows = slice(top, min(top + height, n))
        for first in range(0, whole, columns):
            last = min(first + columns, whole)
            yield rows, slice(first * block, last * block), slice(first, last)
    if d > whole * block:
        height = max(1, piece // (d - whole * block))
        for top in range(0, n, height):
            yield slice(top, min(top + height, n)), slice(whole * block, d), slice(whole, whole + 1)


def blocked(x: Tensor, block: int) -> Tensor:
    """[n, m] as [n, m / block, block], or as one shorter block; a view."""
    block = min(block, x.shape[1])
    return x.view(x.shape[0], x.shape[1] // block, block)


def sums(x: Tensor, power: int) -> Tensor:
    """sum |x|**power, power 1 or 2, over the last dimension [n, ..., m]: float64 [n, ...]."""
    if x.device.type != "cpu":
        return x.double().abs().pow(power).sum(-1)
    array = x.detach().numpy()
    total = np.zeros(array.shape[:-1])
    for start in range(0, array.shape[-1], SUMMED):
        columns = array[..., start : start + SUMMED]
        height = max(1, 2 * SUMMED // max(1, columns[:1].size))
        for top in range(0, len(array), height):
            total[top : top + height] += np.add.reduce(_terms(columns[top : top + height], power), -1)
    return torch.from_numpy(total)


def _terms(x: Numbers, power: int) -> Numbers:
    """In rows that follow each other in memory: along these numpy adds each one by itself."""
    if power == 1:
        return np.abs(x).astype(np.float64, order="C", copy=False)
    terms = x.astype(np.float64, order="C")
    return np.multiply(terms, terms, out=terms)


def rounded_at_random(r: Tensor, draws: Tensor) -> Tensor:
    """Whole numbers: r rounded down, and one more where a draw in [0, 1) is below the fraction; r is written into."""
    low = r.floor()
    # Between -1 and 1; the ceiling is 1 where the draw is below and 0 elsewhere. Comparing takes several times longer.
    return low.add_(r.sub_(low).sub_(draws).ceil_())
