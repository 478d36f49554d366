"""Whether tensors are free of NaN and infinity, looked at once.

The sum of finite numbers, or of their squares, is finite unless it overflows, so that one reduction nearly always
decides. What was found to be finite is remembered with the tensor until that is changed in place, since the same model
is asked about when it was trained, when it is sent and when it is sent on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MARK = "_shoal_finite"  # attribute of a tensor: (its id, its version) as it was found finite; a copy has another id
_DOTTED = (torch.float32, torch.float64)  # a product of vectors is the fastest of all reductions


def all_finite(x: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Only floating-point and complex ones can.

    Changes that torch does not count as such (through `.data` or numpy) are not noticed.
    """
    mark = getattr(x, _MARK, None)
    if mark is not None and mark == (id(x), x._version):
        return True
    if x.is_floating_point() or x.is_complex():
        y = x.detach() if x.requires_grad else x
        total = y.dot(y) if y.ndim == 1 and y.dtype in _DOTTED else y.sum().abs()
        if not math.isfinite(total) and not bool(torch.isfinite(x).all()):
            return False
    if not x.is_inference():  # which has no version
        setattr(x, _MARK, (id(x), x._version))
    return True


def remember_finite(stacked: Tensor, rows: Sequence[Tensor]) -> None:
    """Look at a stack [n, d] at once, and remember its finite rows, which are the first rows given.

    Cheaper than to look at each of them, and while the stack is still in the cache.
    """
    for row, total in zip(rows, stacked.sum(1).tolist(), strict=True):
        if math.isfinite(total):
            setattr(row, _MARK, (id(row), row._version))
