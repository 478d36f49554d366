"""AdaHessian: Adam over an estimate of the Hessian's diagonal, averaged over space, in the place of the gradient.

    D = |z * (H z)|, z random signs, H the Hessian of the batch's loss; entries of a block take their mean
    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) D^2
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t))^k + eps) - lr lam p

Z. Yao, A. Gholami, S. Shen, M. Mustafa, K. Keutzer, M. W. Mahoney, "ADAHESSIAN: An Adaptive Second Order Optimizer for
Machine Learning", AAAI 2021, arXiv:2006.00719.

Choices: blocks are the windows of convolutions and the rows of matrices, as in the authors' general code; their code
for images leaves matrices as they are (`average="window"`), that for transformers takes blocks of so many entries of a
matrix, one after the other. `v` has one number for a window or row. A step costs one product with the Hessian beside
the gradient, about as much as a gradient and a half more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State
from shoal.optim.core.arguments import finite, whole
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.transform import Granularity, Quotient, Shape, seed


@dataclass(frozen=True)
class HessianScaling(Quotient):
    """m^ / (sqrt(v^)^k + eps), v of the Hessian's diagonal."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-4
    power: float = 1.0
    given: ClassVar[tuple[str, ...]] = ("curvature",)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments, the second one a number for each block, and what the signs are drawn from."""
        return Slot("m"), Slot("v", self.blocks), seed()

    def blocks(self, shape: Shape) -> Shape:
        """The shape of one number for each block of a parameter; it broadcasts to the parameter's."""
        return shape

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of what is new, and the bias corrections."""
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "correction1": one_minus_power(self.beta1, t),
            "root2": sqrt(one_minus_power(self.beta2, t)),
        }

    def averaged(self, d: Tensor) -> Tensor:
        """|D|; every entry by itself."""
        return d.abs()

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Update both moments."""
        if s.curvature is None:
            raise ValueError("given: got no curvature; z * (H z) in the shape of each parameter is needed")
        m = ema_(s.m, u, c.new1)
        scale = ema_square_(s.v, self.averaged(s.curvature), c.beta2, c.new2).sqrt() / c.root2
        if self.power != 1.0:
            scale = scale**c.power
        return m, (scale + c.eps) * c.correction1


@dataclass(frozen=True)
class WindowHessianScaling(HessianScaling):
    """The same; entries that differ in the last axes only take their mean.

    Attributes:
        axes: how many these are.
    """

    axes: int = 1
    granularity: ClassVar[Granularity] = "tensor"

    def blocks(self, shape: Shape) -> Shape:
        """Without the last axes."""
        return *shape[: -self.axes], *[1] * self.axes

    def averaged(self, d: Tensor) -> Tensor:
        """|D|, averaged."""
        return d.abs().mean(tuple(range(-self.axes, 0)), keepdim=True)


@dataclass(frozen=True)
class BlockHessianScaling(HessianScaling):
    """The same; blocks of entries, one after the other in memory, take their mean.

    Attributes:
        block: entries of a block.
    """

    block: int = 1
    granularity: ClassVar[Granularity] = "tensor"

    def averaged(self, d: Tensor) -> Tensor:
        """|D|, averaged."""
        blocks = d.abs().reshape(-1, self.block)
        return blocks.mean(1, keepdim=True).expand(blocks.shape).reshape(d.shape)


AVERAGES = ("row", "window", "none")


class AdaHessian(Optimizer):
    """AdaHessian; needs a graph by which to differentiate twice.

        optimizer = AdaHessian(model.parameters())
        optimizer.step(loss=loss_of(model, batch))              # takes gradients itself; no cycles of references

    or `loss.backward(create_graph=True)` and `step()`, or `step(closure)` with either in it. A gradient scaler scales
    only one of the two derivatives: it is refused.
    """

    about: ClassVar[dict[str, Argument]] = {
        "hessian_power": Argument(
            "power of the root mean square", "a number in [0, 1]", lambda v: finite(v) and 0.0 <= v <= 1.0
        ),
        "average": Argument(
            "blocks of the diagonal that take their mean: rows of matrices and windows of convolutions, windows alone, "
            "none, or so many entries of a matrix",
            f"one of {', '.join(AVERAGES)}, or a whole number >= 1",
            lambda v: v in AVERAGES if isinstance(v, str) else whole(1)(v),
        ),
        "seed": Argument("of the signs", "a whole number >= 0", whole(0)),
    }

    lr: float = 0.15
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-4
    weight_decay: float = 0.0
    hessian_power: float = 1.0
    average: str | int = "row"
    seed: int = 0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments.

        Raises:
            ValueError: a matrix does not consist of whole blocks.
        """
        beta1, beta2 = h.betas
        axes = len(param.shape) - 2
        decay = decoupled(h.weight_decay)
        if axes < 0 or h.average == "none" or (axes == 0 and h.average == "window"):
            return *decay, HessianScaling(beta1, beta2, h.eps, h.hessian_power)
        if axes == 0 and isinstance(h.average, int):
            if math.prod(param.shape) % h.average:
                raise ValueError(
                    f"average: got {h.average}; for a matrix of shape {param.shape} a divisor of its size is allowed"
                )
            return *decay, BlockHessianScaling(beta1, beta2, h.eps, h.hessian_power, h.average)
        return *decay, WindowHessianScaling(beta1, beta2, h.eps, h.hessian_power, max(1, axes))
