"""SOAP: Adam in the eigenbasis of Shampoo's two factors, which follows them slowly.

    G' = Q_L^T G Q_R        M <- beta1 M + (1 - beta1) G        V <- beta2 V + (1 - beta2) G'^2
    W <- W - lr sqrt(1 - beta2^t) / (1 - beta1^t) Q_L [Q_L^T M Q_R / (sqrt(V) + eps)] Q_R^T;   then W <- (1 - lr lam) W
    L <- beta2 L + (1 - beta2) G G^T        R <- beta2 R + (1 - beta2) G^T G
    every k steps: columns of Q by diag(Q^T L Q), the largest first, V's along; Q <- orthonormal factor of L Q

N. Vyas, D. Morwani, R. Zhao, M. Kwun, I. Shapira, D. Brandfonbrener, L. Janson, S. Kakade, "SOAP: Improving and
Stabilizing Shampoo using Adam", arXiv:2409.11321 (2024).

Choices, as in the authors' code. A tensor's first step moves nothing: L and R are begun, Q are their eigenvectors, and
t counts from the second one on. That holds for vectors and numbers, too, which take Adam. Tensors of more axes have a
factor and a basis for each side; sides longer than `max_precond_dim` have none. M lies in the basis and is turned with
it at a refresh; V is not turned. As bias is corrected in the step size, eps is added to the uncorrected root.

The gradient of a tensor with a basis counts as 0 if its sum of squares is NaN or inf (in float32 from entries of 2e19
on). A basis whose refresh would not be finite stays as it is, in its order.

Of factors with sides from `kronecker.LONG` on only the part below and on the diagonal counts. A first gradient that has
not full rank along a side leaves a part of its basis open, and then LAPACK's choice shows in the path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.common import DecayAfter
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, flag, whole
from shoal.optim.core.ops import divide, ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, maximum, one_minus_power, sqrt, where
from shoal.optim.core.transform import Granularity, Shape
from shoal.optim.kronecker import (
    add_gram_,
    along,
    arranged,
    eigen,
    keep_finite_,
    merged,
    orthonormal,
    sized,
    symmetric,
    usable,
)
from shoal.optim.subset_norm import StepSizeAdam


@dataclass(frozen=True)
class EigenbasisAdam(Transform):
    """Adam in a slowly turning basis of a tensor.

    Attributes:
        beta1, beta2, eps: as Adam's.
        beta: decay rate of the factors.
        gap: steps between refreshes of the basis.
        shape: sides of the tensor.
        axes: those of them that have a factor and a basis.
    """

    beta1: float = 0.95
    beta2: float = 0.95
    eps: float = 1e-8
    beta: float = 0.95
    gap: int = 10
    shape: Shape = ()
    axes: tuple[int, ...] = ()

    granularity: ClassVar[Granularity] = "tensor"
    stacked: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Moments in the basis, and for each side its factor L and its basis Q."""
        matrices = [Slot(f"{name}{i}", sized(self.shape[i], self.shape[i])) for i in self.axes for name in ("L", "Q")]
        return Slot("M"), Slot("V"), *matrices

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What this step does, the weights of the new gradient, and the correction of the bias."""
        return {
            "first": t == 1.0,
            "refresh": (t > 1.0) & ((t - 1.0) % self.gap == 0.0),
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "size": correction(self.beta1, self.beta2, t),
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Adam's step, turned back; then the factors and, when it is time, the bases."""
        x, M, V = (part.reshape(len(u), *self.shape) for part in (usable(u), s.M, s.V))
        if c.first:
            step = torch.zeros_like(u)
        else:
            turned = self.into(x, s)
            ema_(M, turned, c.new1)
            ema_square_(V, turned, c.beta2, c.new2)
            root = V.sqrt().add_(c.eps)
            step = self.back(torch.div(M, root, out=root).mul_(c.size), s).view(u.shape)
        for i in self.axes:
            add_gram_(getattr(s, f"L{i}"), x, i, c.beta, 1.0 - c.beta)
        if c.first:
            for i in self.axes:
                keep_finite_(getattr(s, f"Q{i}"), eigen(symmetric(getattr(s, f"L{i}")))[1].flip(-1))
        elif c.refresh:
            self.turn(M, V, s)
        return step

    def into(self, x: Tensor, s: State) -> Tensor:
        """A tensor [n, *shape] in the basis."""
        for i in self.axes:
            x = along(x, getattr(s, f"Q{i}"), i)
        return x

    def back(self, x: Tensor, s: State) -> Tensor:
        """A tensor [n, *shape] out of the basis."""
        for i in self.axes:
            x = along(x, getattr(s, f"Q{i}").mT, i)
        return x

    def turn(self, M: Tensor, V: Tensor, s: State) -> None:
        """One step of the power iteration for each basis, from columns in the order of their quotients."""
        original = self.back(M, s)
        for i in self.axes:
            Q = getattr(s, f"Q{i}")
            product = symmetric(getattr(s, f"L{i}")) @ Q
            order = (Q * product).sum(1).argsort(dim=1, descending=True, stable=True)
            finite = keep_finite_(Q, orthonormal(arranged(product, order, 1)))
            V.copy_(torch.where(finite.view(-1, *(1,) * (V.dim() - 1)), arranged(V, order, i), V))
        M.copy_(self.into(original, s))


def correction(beta1: float, beta2: float, t: Scalar) -> Scalar:
    """sqrt(1 - beta2^(t - 1)) / (1 - beta1^(t - 1)), and 0 at the first step."""
    before = maximum(t - 1.0, 1.0)
    size: Scalar = where(t > 1.0, sqrt(one_minus_power(beta2, before)) / one_minus_power(beta1, before), 0.0)
    return size


@dataclass(frozen=True)
class LateAdam(StepSizeAdam):
    """Adam from the second step on; the first gradient is not looked at."""

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient and the correction, all 0 at first."""
        new1, new2 = (where(t > 1.0, 1.0 - beta, 0.0) for beta in (self.beta1, self.beta2))
        return {"new1": new1, "new2": new2, "size": correction(self.beta1, self.beta2, t)}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step, which is 0 where no gradient has been."""
        m, v = ema_(s.m, u, c.new1), ema_square_(s.v, u, c.beta2, c.new2)
        return divide(m.mul(c.size), v.sqrt().add_(c.eps))


@dataclass(frozen=True)
class LateDecay(DecayAfter):
    """Decay after the step from the second step on."""

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """What is left of the parameter."""
        return {"kept": 1.0 - where(t > 1.0, lr, 0.0) * self.lam}


PRECONDITIONING = {
    "precondition_frequency": Argument("steps between refreshes", "a whole number >= 1", whole(1)),
    "max_precond_dim": Argument("longest side that gets a matrix", "a whole number >= 1", whole(1)),
    "merge_dims": Argument("take neighbouring sides together while the product is not too long", "True or False", flag),
}


class SOAP(Optimizer):
    """Adam in the eigenbasis of Shampoo's factors for tensors of two or more axes; decay after the step."""

    lr: float = 3e-3
    betas: tuple[float, float] = (0.95, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    precondition_frequency: int = 10
    max_precond_dim: int = 10000
    merge_dims: bool = False
    shampoo_beta: float | None = None

    about: ClassVar[dict[str, Argument]] = {
        **PRECONDITIONING,
        "shampoo_beta": Argument(
            "decay rate of the factors; None: the second of `betas`",
            "a number in [0, 1), or None",
            lambda v: v is None or SHARED["momentum"].check(v),
        ),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Adam in the basis or as it is, and decay."""
        beta1, beta2 = h.betas
        decay = (LateDecay(h.weight_decay),) if h.weight_decay else ()
        shape = param.shape
        if len(shape) > 1 and h.merge_dims:
            shape = merged(shape, h.max_precond_dim)
        axes = tuple(i for i, d in enumerate(shape) if 1 < d <= h.max_precond_dim) if len(param.shape) > 1 else ()
        if not axes:
            return LateAdam(beta1, beta2, h.eps), *decay
        beta = beta2 if h.shampoo_beta is None else h.shampoo_beta
        return EigenbasisAdam(beta1, beta2, h.eps, beta, h.precondition_frequency, shape, axes), *decay
