"""APOLLO and APOLLO-Mini: the gradient itself, scaled as Adam scales a random projection of it.

    R = G P^T, P [r, n]  (m >= n)   or   R = P^T G, P [m, r]  (m < n);
    entries of P from N(0, 1/r), new every gap steps
    M <- beta1 M + (1 - beta1) R     V <- beta2 V + (1 - beta2) R^2      R~ = M / (sqrt(V) + eps)
    s = |R~| / (|R| + 1e-8)          norms over the r axis (APOLLO), or of the whole (Mini)
    U = G s, shortened so that |U| grows by at most 1.01 a step
    p <- p - lr sqrt(1 - beta2^t) / (1 - beta1^t) sqrt(scale) U        then p <- (1 - lr lam) p

H. Zhu, Z. Zhang, W. Cong, X. Liu, S. Park, V. Chandra, B. Long, D. Z. Pan, Z. Wang, J. Lee, "APOLLO: SGD-like Memory,
AdamW-level Performance", arXiv:2412.05270 (2024).

Choices. As in the authors' code, bias is corrected in the step size, M and V are kept when P changes, and `scale` is
the square of the paper's alpha (Mini: alpha = sqrt(128)). P is not state: it is drawn from its seed, again and again
where those of all matrices take more than `KEPT` bytes. The limiter acts before sqrt(scale).
Parameters that are not matrices, and groups with rank=None, get AdamW.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.common import DecayAfter
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, above, at_least, whole
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.transform import Granularity, Shape
from shoal.optim.subset_norm import StepSizeAdam
from shoal.tensors.random import derive, normal

TINY = 1e-8  # in the divisions by norms
KEPT = 64 << 20  # bytes of projections that are not drawn again at each step


@dataclass(frozen=True)
class ProjectedScaling(Transform):
    """A matrix scaled by channels or as a whole, its growth limited, and the bias corrected.

    Attributes:
        beta1, beta2, eps: as Adam's.
        rank: columns of the projected gradient.
        scale: the update is multiplied by its root.
        growth: largest ratio of an update's norm to the one before; None does not limit it.
        gap: steps until the projection is drawn anew.
        whole: one scale for the matrix instead of one a channel.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    rank: int = 256
    scale: float = 1.0
    growth: float | None = 1.01
    gap: int = 200
    whole: bool = False

    granularity: ClassVar[Granularity] = "tensor"
    stacked: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Seed of the projections, moments of the projected gradient, and the norm of the update before."""

        def low(shape: Shape) -> Shape:
            return (shape[0], self.rank) if shape[0] >= shape[1] else (self.rank, shape[1])

        seed = Slot("seed", lambda shape: (), torch.int64, "seed")
        norm = (Slot("norm", lambda shape: ()),) if self.growth is not None else ()
        return seed, Slot("M", low), Slot("V", low), *norm

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, the number of the projection, and the factor of the step."""
        corrected = sqrt(one_minus_power(self.beta2, t)) / one_minus_power(self.beta1, t)
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "epoch": (t - 1.0) // self.gap,
            "first": t == 1.0,
            "size": math.sqrt(self.scale) * corrected,
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the moments of the projection and return the scaled update."""
        rows, columns = u.shape[1:]
        axis = 2 if rows >= columns else 1
        P = _projections(s.seed, int(c.epoch), self.rank, (rows, columns), u.dtype)
        R = u @ P.mT if axis == 2 else P.mT @ u
        M, V = ema_(s.M, R, c.new1), ema_square_(s.V, R, c.beta2, c.new2)
        over = (1, 2) if self.whole else axis
        scaled: Tensor = _norm(M / V.sqrt().add_(c.eps), over) / (_norm(R, over) + TINY)
        size: Tensor | float = c.size
        if self.growth is not None:
            length = _norm(scaled * _norm(u, axis), (1, 2)).view(-1)  # of the scaled update, without making it
            excess = torch.ones_like(length)
            if not c.first:
                excess = (length / (s.norm + TINY)).clamp(min=c.growth) / c.growth
            s.norm.copy_(length / excess)
            size = (size / excess).view(-1, 1, 1)
        return u * (scaled * size)


def _norm(x: Tensor, axes: int | tuple[int, int]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    return norm


def projection(seed: Tensor, epoch: Tensor, rank: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The random P of a matrix: [rank, n] for [m >= n, n], [m, rank] for [m, n > m]; entries from N(0, 1 / rank).

    Args:
        seed: int64, the parameter's; with dimensions, a P for each.
        epoch: 0-dim int64, how many projections there were before.
        rank, shape: of the projection, of the matrix.
        dtype: float32 or float64.
    """
    m, n = shape
    drawn = normal(derive(seed, "projection", epoch), (rank, n) if m >= n else (m, rank), dtype=dtype)
    return drawn.mul_(rank**-0.5)


_drawn: OrderedDict[Hashable, Tensor] = OrderedDict()  # the latest used last
_drawing = threading.Lock()


def _projections(seeds: Tensor, epoch: int, rank: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The P of each of some matrices of one shape; the latest ones are kept, up to `KEPT` bytes."""
    key = (tuple(seeds.tolist()), epoch, rank, shape, dtype, seeds.device)
    with _drawing:
        found = _drawn.get(key)
        if found is not None:
            _drawn.move_to_end(key)
            return found
    found = projection(seeds, torch.tensor(epoch, device=seeds.device), rank, shape, dtype)
    with _drawing:
        _drawn[key] = found
        held = sum(P.nbytes for P in _drawn.values())
        while held > KEPT:
            held -= _drawn.popitem(last=False)[1].nbytes
    return found


class APOLLO(Optimizer):
    """A scale for each channel (index of the longer side) of a matrix; decay after the step."""

    lr: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.0
    rank: int | None = 256
    scale: float = 1.0
    update_proj_gap: int = 200
    norm_growth: float | None = 1.01
    seed: int = 0

    per_matrix: ClassVar[bool] = False
    about: ClassVar[dict[str, Argument]] = {
        "rank": Argument(
            "dimensions of the projection; None: AdamW",
            "a whole number >= 1, or None",
            lambda v: v is None or SHARED["rank"].check(v),
        ),
        "scale": Argument("square of the update's factor", "a finite number > 0", above(0.0)),
        "norm_growth": Argument(
            "largest growth of the update's norm in a step; None: no limit",
            "a finite number >= 1, or None",
            lambda v: v is None or at_least(1.0)(v),
        ),
        "seed": Argument("of the random projections", "a whole number >= 0", whole(0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Scaling, and decay."""
        beta1, beta2 = h.betas
        decay = (DecayAfter(h.weight_decay),) if h.weight_decay else ()
        if len(param.shape) != 2 or h.rank is None:
            return StepSizeAdam(beta1, beta2, h.eps), *decay
        scaling = ProjectedScaling(
            beta1, beta2, h.eps, h.rank, h.scale, h.norm_growth, h.update_proj_gap, whole=cls.per_matrix
        )
        return scaling, *decay


class APOLLOMini(APOLLO):
    """One scale a matrix, from a projection to a single dimension."""

    rank: int | None = 1
    scale: float = 128.0

    per_matrix: ClassVar[bool] = True
