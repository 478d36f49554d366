"""Subset-Norm, Subspace-Momentum, and the two together (AdamSNSM): less state for matrices.

    SN   v_c <- beta2 v_c + (1 - beta2) sum_{i in c} g_i^2        one number a subset c: a row, a column or a chunk
    SM   m <- beta1 m + (1 - beta1) P^T g;   n = P m + (g - P P^T g)     P: top singular vectors of a former gradient
    SubsetNorm         p <- p - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v_c) + eps)       m of full size
    SubspaceMomentum   p <- p - lr n
    AdamSNSM           p <- p - lr sqrt(1 - beta2^t) / (1 - beta1^t) n / (sqrt(v_c) + eps)
    all                then p <- (1 - lr lam) p

T. H. Nguyen, H. L. Nguyen, "Efficient Adaptive Optimization via Subset-Norm and Subspace-Momentum: Fast, Memory-Reduced
Training with Convergence Guarantees", arXiv:2411.07120 (2024).

Choices. P is taken at steps 1, 1 + gap, 1 + 2 gap, ..., and m is 0 before such a step (the authors' code goes on with
the old m in it, in the new P). The sum is not divided by the subset's size, so rates are about ten times Adam's.
Parameters that are not matrices have subsets of one entry and momentum of full size; a group of matrices can have the
same by subset_size=1 and rank=None. As bias is corrected in the step size, eps is added to the uncorrected root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.common import DecayAfter
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, flag, fractions, whole
from shoal.optim.core.ops import ema_, ema_square_, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.transform import Granularity, Shape


@dataclass(frozen=True)
class Average(Transform):
    """m <- beta1 m + (1 - beta1) u."""

    beta1: float = 0.9

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The average."""
        return (Slot("m"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new update."""
        return {"new1": 1.0 - self.beta1}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the average and return it."""
        return ema_(s.m, u, c.new1)


@dataclass(frozen=True)
class StepSizeAdam(Transform):
    """Adam with the bias correction in the step size: sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps).

    Attributes:
        beta1, beta2, eps: as Adam's; with beta2 = 1, v is a sum (AdaGrad).
        correct_bias: whether there is a correction.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    correct_bias: bool = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments."""
        return Slot("m"), Slot("v")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and the correction."""
        corrected = sqrt(one_minus_power(self.beta2, t)) / one_minus_power(self.beta1, t) if self.correct_bias else 1.0
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2 if self.beta2 < 1.0 else 1.0,
            "size": corrected,
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        m = ema_(s.m, u, c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return m.mul(c.size).div_(v.sqrt().add_(c.eps))


@dataclass(frozen=True)
class SubsetAdam(StepSizeAdam):
    """The same with one v for each subset of a matrix.

    Attributes:
        subset: entries of a chunk of the flat matrix; None: rows of a matrix with at least as many rows as columns,
        else
            columns.
    """

    subset: int | None = None

    granularity: ClassVar[Granularity] = "tensor"
    stacked: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The first moment, and the second of each subset."""
        return Slot("m"), self._v

    @property
    def _v(self) -> Slot:
        size = self.subset
        return Slot("v", lambda shape: (math.prod(shape) // size if size else max(shape),))

    def numerator(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the first moment and return it."""
        return ema_(s.m, u, c.new1)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        subsets, axis = u, 2 - longer(u.shape[1:])
        if self.subset is not None:
            subsets, axis = u.reshape(len(u), -1, self.subset), 2
        v = plus_(s.v.mul_(c.beta2), subsets.square().sum(axis), c.new2)
        scales: Tensor = c.size / v.sqrt().add_(c.eps)
        return (self.numerator(u, s, c).reshape(subsets.shape) * scales.unsqueeze(axis)).view(u.shape)


@dataclass(frozen=True)
class SubspaceAverage(Transform):
    """Momentum of a matrix in a subspace, and the bare update in its complement.

    Attributes:
        beta1: decay rate of the momentum.
        rank: dimensions of the subspace, at most those of the shorter side.
        gap: steps until the subspace is taken anew.
    """

    beta1: float = 0.9
    rank: int = 128
    gap: int = 200

    granularity: ClassVar[Granularity] = "tensor"
    stacked: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """An orthonormal basis, and the momentum in it."""
        return subspace_slots(self.rank)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is kept of the momentum, the weight of the new update, and whether the subspace is taken anew."""
        return subspace_numbers(self.beta1, self.gap, t)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update subspace and momentum and return the sum of both parts."""
        return subspace_average(u, s, c, self.rank)


@dataclass(frozen=True)
class SubspaceSubsetAdam(SubsetAdam):
    """Subset-Norm of the full update under Subspace-Momentum.

    Attributes:
        rank, gap: as of `SubspaceAverage`.
    """

    rank: int = 128
    gap: int = 200

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The basis, the momentum in it, and the second moment of each subset."""
        return *subspace_slots(self.rank), self._v

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Numbers of both parts."""
        return super().derived(t, lr) | subspace_numbers(self.beta1, self.gap, t)

    def numerator(self, u: Tensor, s: State, c: Scalars) -> Tensor:
        """Update subspace and momentum and return the sum of both parts."""
        return subspace_average(u, s, c, self.rank)


def longer(shape: Shape) -> int:
    """Which side of a matrix is the longer one; the first if they are equal."""
    return 0 if shape[0] >= shape[1] else 1


def subspace_slots(rank: int) -> tuple[Slot, ...]:
    """An orthonormal basis [shorter side, r], and the momentum in it, [longer side, r] or [r, longer side]."""

    def basis(shape: Shape) -> Shape:
        return min(shape), min(rank, *shape)

    def momentum(shape: Shape) -> Shape:
        r = min(rank, *shape)
        return (r, shape[1]) if longer(shape) else (shape[0], r)

    return Slot("basis", basis), Slot("m", momentum)


def subspace_numbers(beta1: float, gap: int, t: Scalar) -> dict[str, Any]:
    """What `subspace_average` needs."""
    anew = (t - 1.0) % gap == 0.0
    return {"anew": anew, "kept": 0.0 if anew else beta1, "new1": 1.0 - beta1}


def subspace_average(u: Tensor, s: State, c: Scalars, rank: int) -> Tensor:
    """P m + (u - P P^T u) of stacked matrices [n, rows, columns], with m updated, and first P if it is time."""
    across = longer(u.shape[1:]) == 1
    if c.anew:
        left, _, right = torch.linalg.svd(u, full_matrices=False)
        s.basis.copy_((left if across else right.mT)[..., :rank])
    inside = s.basis.mT @ u if across else u @ s.basis
    m = plus_(s.m.mul_(c.kept), inside, c.new1)
    moved = m - inside
    back: Tensor = s.basis @ moved if across else moved @ s.basis.mT
    return u + back


def chunk_size(entries: int, wanted: int) -> int:
    """The largest divisor of `entries` that is at most `wanted`, or at most sqrt(entries) / k for wanted = -k.

    >>> chunk_size(12, 5), chunk_size(64, -2)
    (4, 4)
    """
    limit = wanted if wanted > 0 else int(math.sqrt(entries) / -wanted)
    return next(size for size in range(max(min(limit, entries), 1), 0, -1) if entries % size == 0)


def _betas(value: Any) -> bool:
    return fractions(2)(value) or (len(value) == 2 and fractions(1)(value[:1]) and value[1] in (1, 1.0))


BETAS = Argument(
    "decay rates of the first and second moment", "a number in [0, 1) and one in [0, 1] (1: AdaGrad's sum)", _betas
)
SIZE = Argument(
    "entries that share a second moment",
    '"heuristics" (rows or columns), a whole number >= 1, or -k for sqrt(d) / k',
    lambda v: v == "heuristics" or (whole(-math.inf)(v) and v != 0),  # type: ignore[arg-type]
)
CORRECT = Argument("correct the bias of the moments", "True or False", flag)
RANK = Argument(
    "dimensions of the subspace; None: momentum of full size",
    "a whole number >= 1, or None",
    lambda v: v is None or SHARED["rank"].check(v),
)


def _moments(h: Settings) -> tuple[float, float, float, bool]:
    beta1, beta2 = h.betas
    if beta2 == 1.0 and h.correct_bias:
        raise ValueError("correct_bias: got True; with beta2 = 1 (AdaGrad) only False is allowed, as steps would be 0")
    return beta1, beta2, h.eps, h.correct_bias


def _subset(h: Settings, shape: Shape) -> int | None:
    return None if h.subset_size == "heuristics" else chunk_size(math.prod(shape), h.subset_size)


def _after(weight_decay: float) -> Chain:
    return (DecayAfter(weight_decay),) if weight_decay else ()


class SubsetNorm(Optimizer):
    """Adam with one second moment a row or column of each matrix (AdamSN), or a chunk; decay after the step.

    `betas=(beta1, 1)` with `correct_bias=False` sums as AdaGrad does.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.0
    subset_size: int | str = "heuristics"
    correct_bias: bool = True

    about: ClassVar[dict[str, Argument]] = {"betas": BETAS, "subset_size": SIZE, "correct_bias": CORRECT}

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Moments, and decay.

        Raises:
            ValueError: beta2 is 1 and bias is to be corrected.
        """
        moments = _moments(h)
        if len(param.shape) != 2 or h.subset_size == 1:
            return StepSizeAdam(*moments), *_after(h.weight_decay)
        return SubsetAdam(*moments, subset=_subset(h, param.shape)), *_after(h.weight_decay)


class SubspaceMomentum(Optimizer):
    """SGD whose momentum lives in a subspace for matrices; decay after the step."""

    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    rank: int | None = 128
    update_proj_gap: int = 200

    about: ClassVar[dict[str, Argument]] = {"rank": RANK}

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Momentum, and decay."""
        if len(param.shape) != 2 or h.rank is None:
            return Average(h.momentum), *_after(h.weight_decay)
        return SubspaceAverage(h.momentum, h.rank, h.update_proj_gap), *_after(h.weight_decay)


class AdamSNSM(Optimizer):
    """Subspace-Momentum over Subset-Norm for matrices, Adam for the rest; decay after the step."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.0
    rank: int | None = 128
    update_proj_gap: int = 200
    subset_size: int | str = "heuristics"
    correct_bias: bool = True

    about: ClassVar[dict[str, Argument]] = {
        "betas": BETAS,
        "rank": RANK,
        "subset_size": SIZE,
        "correct_bias": CORRECT,
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Moments, and decay.

        Raises:
            ValueError: beta2 is 1 and bias is to be corrected.
        """
        if len(param.shape) != 2 or h.rank is None:
            return SubsetNorm.links(h, param)
        subset = _subset(h, param.shape)
        scaling = SubspaceSubsetAdam(*_moments(h), subset=subset, rank=h.rank, gap=h.update_proj_gap)
        return scaling, *_after(h.weight_decay)
