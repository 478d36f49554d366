"""Shampoo: the gradient between inverse roots of its second moments along the rows and along the columns.

    L <- L + G G^T        R <- R + G^T G        W <- W - lr (eps I + L)^(-1/4) G (eps I + R)^(-1/4)

A tensor of k axes has a sum for each side, of the products of its unfoldings, and the roots are the 2k-th ones.

V. Gupta, T. Koren, Y. Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", ICML 2018, arXiv:1802.09568.

Choices. Vectors are tensors of one axis: the step is that of AdaGrad with the full matrix. Sides longer than
`max_precond_dim` keep the diagonal of their sum. Roots are taken at steps 1, 1 + k, 1 + 2k, ..., of sums that have
seen that step's gradient. The publication's algorithm has a sum, no momentum and k = 1, which are the defaults; `beta2`
makes the sum an average, which begins at 0 and is not corrected, and `momentum` puts an average of gradients in the
place of the middle G. With `graft` each tensor's step has the length of SGD's, or of Adam's with the same gradient,
`betas_graft` and `eps_graft`.

A tensor's gradient whose sum of squares is NaN or inf (in float32 from entries of 2e19 on) counts as 0. A matrix that
has become infinite gives no roots: those from before stay. An infinite entry of a diagonal has the root 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, above, at_least
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power
from shoal.optim.core.transform import Granularity, Shape
from shoal.optim.kronecker import add_gram_, along, eigen, keep_finite_, merged, sized, symmetric, unfolded, usable
from shoal.optim.soap import PRECONDITIONING

Graft = Literal["sgd", "adam"] | None


@dataclass(frozen=True)
class InverseRoots(Transform):
    """The update times an inverse root for each side.

    Attributes:
        eps: what is added to the diagonals.
        beta2: decay rate of the second moments; None sums them.
        momentum: decay rate of the averaged gradient.
        gap: steps between roots.
        largest: longest side with a whole matrix.
        shape: sides of the tensor.
    """

    eps: float = 1e-4
    beta2: float | None = None
    momentum: float = 0.0
    gap: int = 1
    largest: int = 1200
    shape: Shape = ()

    granularity: ClassVar[Granularity] = "tensor"
    stacked: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """For each side its sum S and the inverse root P; the averaged gradient, if there is one."""
        found = []
        for i, d in enumerate(self.shape):
            sides = (d, d) if d <= self.largest else (d,)
            found += [Slot(f"{name}{i}", sized(*sides)) for name in ("S", "P")]
        return (*found, *((Slot("m"),) if self.momentum else ()))

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Whether roots are taken, and the weights of old and new products."""
        old, new = (1.0, 1.0) if self.beta2 is None else (self.beta2, 1.0 - self.beta2)
        return {"refresh": (t - 1.0) % self.gap == 0.0, "old": old, "new": new, "new1": 1.0 - self.momentum}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Add to the sums, take the roots when it is time, and return the product."""
        u = usable(u)
        x = u.reshape(len(u), *self.shape)
        step = (ema_(s.m, u, c.new1) if self.momentum else u).reshape(x.shape)
        for i, d in enumerate(self.shape):
            S, P = getattr(s, f"S{i}"), getattr(s, f"P{i}")
            if d > self.largest:
                S.mul_(c.old).add_(unfolded(x, i).square().sum(-1), alpha=c.new)
            else:
                add_gram_(S, x, i, c.old, c.new)
            if c.refresh:
                keep_finite_(P, inverse_root(S, 2 * len(self.shape), c.eps))
            if d > self.largest:
                step = step * P.view(len(x), *(d if k == i else 1 for k in range(len(self.shape))))
            else:
                step = along(step, P, i)
        return step.view(u.shape)


def inverse_root(total: Tensor, root: int, eps: float) -> Tensor:
    """(eps I + total)^(-1 / root) of matrices [n, d, d] or diagonals [n, d] that are not negative but for rounding.

    NaN of a matrix that is not finite; 0 where a diagonal is infinite.
    """
    if total.dim() == 2:
        return (total + eps).clamp_min_(eps).pow_(-1.0 / root)
    values, vectors = eigen(symmetric(total))
    powers = (values + eps).clamp_min_(eps).pow_(-1.0 / root)
    return (vectors * powers.unsqueeze(1)) @ vectors.mT


@dataclass(frozen=True)
class GraftedRoots(InverseRoots):
    """The same direction with the length of another rule's step.

    Attributes:
        like: whose: "sgd" or "adam".
        graft1, graft2, graft_eps: Adam's own numbers.
    """

    like: Graft = "sgd"
    graft1: float = 0.9
    graft2: float = 0.999
    graft_eps: float = 1e-8

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Adam's moments beside the others."""
        return (*super().slots, *((Slot("graft_m"), Slot("graft_v")) if self.like == "adam" else ()))

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Adam's weights beside the others."""
        weights = {"weight1": one_minus_power(self.graft1, t), "weight2": one_minus_power(self.graft2, t)}
        return super().derived(t, lr) | weights

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Return Shampoo's direction in the other's length."""
        u = other = usable(u)
        direction = super().apply(u, p, g, s, c)
        if self.like == "adam":
            m = ema_(s.graft_m, u, 1.0 - c.graft1)
            v = ema_square_(s.graft_v, u, c.graft2, 1.0 - c.graft2)
            other = (m / c.weight1) / (v / c.weight2).sqrt_().add_(c.graft_eps)
        length, wanted = (torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1) for x in (direction, other))
        scale = torch.where(length > 0, wanted / length, 0.0)
        return direction * scale.view(-1, *(1,) * (u.dim() - 1))


def _or_none(check: Any) -> Any:
    return lambda value: value is None or check(value)


class Shampoo(Optimizer):
    """The gradient between inverse roots of sums of its products; decoupled decay before the step."""

    lr: float = 0.1
    eps: float = 1e-4
    momentum: float = 0.0
    beta2: float | None = None
    weight_decay: float = 0.0
    precondition_frequency: int = 1
    max_precond_dim: int = 1200
    merge_dims: bool = False
    graft: Graft = None
    betas_graft: tuple[float, float] = (0.9, 0.999)
    eps_graft: float = 1e-8

    about: ClassVar[dict[str, Argument]] = {
        **PRECONDITIONING,
        "eps": Argument("added to the diagonals of the sums", "a finite number > 0", above(0.0)),
        "beta2": Argument(
            "decay rate of the second moments; None: a sum",
            "a number in [0, 1), or None",
            _or_none(SHARED["momentum"].check),
        ),
        "graft": Argument("whose length steps have", "'sgd', 'adam' or None", lambda v: v in ("sgd", "adam", None)),
        "betas_graft": SHARED["betas"],
        "eps_graft": Argument("keeps Adam's divisions finite", "a finite number >= 0", at_least(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, and the roots."""
        shape = merged(param.shape, h.max_precond_dim) if h.merge_dims else param.shape or (1,)
        settings = h.eps, h.beta2, h.momentum, h.precondition_frequency, h.max_precond_dim, shape
        if h.graft is None:
            return *decoupled(h.weight_decay), InverseRoots(*settings)
        beta1, beta2 = h.betas_graft
        grafted = GraftedRoots(*settings, like=h.graft, graft1=beta1, graft2=beta2, graft_eps=h.eps_graft)
        return *decoupled(h.weight_decay), grafted
