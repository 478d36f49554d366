"""One matrix for each side of a tensor: what SOAP and Shampoo share.

Tensors are stacks [n, d_1, ..., d_k], matrices are stacks [n, d, d]. The unfolding of a tensor along an axis is the
matrix [d, all other entries] of its slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from shoal.optim.core.transform import Shape

PANEL = 128  # columns of a symmetric product that are worked out at once
LONG = 512  # from this side on, on a CPU, what lies above the diagonal panels of a symmetric product is left out


def sized(*sides: int) -> Callable[[Shape], Shape]:
    """For slots: from any parameter's shape to these sides."""
    return partial(_sized, sides)


def _sized(sides: Shape, shape: Shape) -> Shape:
    return sides


def merged(shape: Shape, largest: int) -> Shape:
    """Neighbouring sides multiplied as long as the product is at most `largest`, from the left.

    >>> merged((64, 3, 5, 5), 100)
    (64, 75)
    """
    sides: list[int] = []
    side = 1
    for d in shape:
        if side * d <= largest:
            side *= d
        elif side > 1:
            sides.append(side)
            side = d
        else:
            sides.append(d)
    return (*sides, side) if side > 1 or not sides else tuple(sides)


def usable(x: Tensor) -> Tensor:
    """A stack with 0 in the place of each tensor whose sum of squares is not finite: no factor could take it in."""
    rows = x.reshape(len(x), -1)
    finite = torch.linalg.vecdot(rows, rows).isfinite()
    return torch.where(finite.view(-1, *(1,) * (x.dim() - 1)), x, 0.0)


def keep_finite_(old: Tensor, new: Tensor) -> Tensor:
    """old <- new, but for the tensors of the stack of which `new` is not finite; returns which are [n]."""
    finite = new.isfinite().flatten(1).all(1)
    old.copy_(torch.where(finite.view(-1, *(1,) * (new.dim() - 1)), new, old))
    return finite


def unfolded(x: Tensor, axis: int) -> Tensor:
    """[n, d, rest] of a stack, d the given side (0 the first behind n)."""
    return x.movedim(axis + 1, 1).reshape(len(x), x.shape[axis + 1], -1)


def add_gram_(total: Tensor, x: Tensor, axis: int, kept: float, new: float) -> None:
    """total <- kept total + new X X^T with X the unfolding of x; for `LONG` sides `symmetric` reads the result."""
    X = unfolded(x, axis)
    d = X.shape[1]
    if d < LONG or X.device.type != "cpu":
        total.baddbmm_(X, X.mT, beta=kept, alpha=new)
        return
    for a in range(0, d, PANEL):
        total[:, a:, a : a + PANEL].baddbmm_(X[:, a:], X[:, a : a + PANEL].mT, beta=kept, alpha=new)


def symmetric(total: Tensor) -> Tensor:
    """The whole of a matrix of which `add_gram_` may have kept the lower part alone, made in place."""
    d = total.shape[-1]
    if d >= LONG:
        for a in range(PANEL, d, PANEL):
            total[:, :a, a : a + PANEL] = total[:, a : a + PANEL, :a].mT
    return total


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """matrix^T times x along an axis (0 the first behind n)."""
    n, shape = len(x), x.shape
    d = shape[axis + 1]
    before, behind = math.prod(shape[1 : axis + 1]), math.prod(shape[axis + 2 :])
    if before == 1:
        return (matrix.mT @ x.reshape(n, d, behind)).view(shape)
    if behind == 1:
        return (x.reshape(n, before, d) @ matrix).view(shape)
    turned = x.reshape(n, before, d, behind).transpose(2, 3)
    product = turned.reshape(n, before * behind, d) @ matrix
    return product.view(n, before, behind, d).transpose(2, 3).reshape(shape)


def arranged(x: Tensor, order: Tensor, axis: int) -> Tensor:
    """The slices of each tensor of a stack along an axis (0 the first behind n) in its own order [n, d]."""
    if len(x) == 1:
        return x.index_select(axis + 1, order[0])
    sides = [len(x), *(1,) * (x.dim() - 1)]
    sides[axis + 1] = -1
    return x.gather(axis + 1, order.view(sides).expand(x.shape))


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n, d] and eigenvectors [n, d, d] of symmetric matrices, the largest last; NaN of one not finite."""
    finite = matrix.isfinite().flatten(1).all(1).view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    return torch.where(finite[..., 0], values, math.nan), torch.where(finite, vectors, math.nan)


def orthonormal(matrix: Tensor) -> Tensor:
    """Q of the QR decomposition of square matrices (R is not built)."""
    reflectors: Tensor = torch.linalg.householder_product(*torch.geqrf(matrix))
    return reflectors
