"""Coordinate-wise clipping: the largest coordinates of the gradient are cut to the size of the next one.

    c = the size at place floor(rho d) of all d coordinates of the model in falling order, counted from 0
    g_i <- sign(g_i) min(|g_i|, c)

rho = 0 leaves the gradient as it is; rho = 1 makes it sign(g) times the smallest size there is. Coordinates as large as
c stay, so that at most floor(rho d) change. Any method takes the clipped gradient (`CoordinateClip`); Adam may keep the
unclipped one in its second moment (`ClippedAdam`):

    m <- beta1 m + (1 - beta1) clip(g)        v <- beta2 v + (1 - beta2) g^2        p <- p - lr m^ / (sqrt(v^) + eps)

Y. Pan, Y. Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", arXiv:2306.00204 (2023).

Choices. The place is the authors' code's, which for rho = 1 has c = 0 and stands still; here it is the last place.
Parameters without a gradient do not count among the d. Decay is not clipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.adalomo import InBackward
from shoal.optim.adam import AdamScaling
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Rule, Scalars, State, Transform
from shoal.optim.core.arguments import finite
from shoal.optim.core.ops import ema_, ema_square_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.transform import Granularity
from shoal.optim.wrapping import Wrapper
from shoal.optim.xgrad import PredictedWeights


def threshold(sizes: Tensor, rho: float) -> Tensor:
    """The size at place min(floor(rho d), d - 1) of `sizes` [d] in falling order, 0-dim; rho in (0, 1]."""
    d = sizes.numel()
    return torch.kthvalue(sizes, d - min(int(rho * d), d - 1)).values


def clip(g: Tensor, c: Tensor) -> Tensor:
    """g between -c and c; c is 0-dim."""
    c = c.to(g.dtype)
    return torch.clamp(g, -c, c)


@dataclass(frozen=True)
class CoordinateClipping(Transform):
    """Clip the update, the gradient at first, at the top rho of all its coordinates.

    Attributes:
        rho: share of the coordinates that are clipped, in [0, 1].
    """

    rho: float = 0.1

    granularity: ClassVar[Granularity] = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """The sizes."""
        return {"all_sizes": u.abs().flatten()} if self.rho else {}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """The threshold."""
        return {"threshold": threshold(c.all_sizes, self.rho)} if self.rho else {}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Clip."""
        return clip(u, c.threshold) if self.rho else u


@dataclass(frozen=True)
class ClippedAdamScaling(AdamScaling):
    """Adam's moments, the first one of the clipped gradient."""

    rho: float = 0.1

    granularity: ClassVar[Granularity] = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """The sizes."""
        return CoordinateClipping(self.rho).measure(u, p, g, s, c)

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """The threshold."""
        return CoordinateClipping(self.rho).settle(s, c)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        m = ema_(s.m, CoordinateClipping(self.rho).apply(u, p, g, s, c), c.new1)
        v = ema_square_(s.v, u, c.beta2, c.new2)
        return m / v.sqrt().div_(c.root2).add_(c.eps).mul_(c.correction1)


def coordinate_clip(rule: Rule, rho: float = 0.1) -> Rule:
    """The rule with clipped gradients, for stacked peers.

    Raises:
        ValueError: `rho` is not allowed.
    """
    clipping = CoordinateClipping(_checked(rho))

    def links(chain: Chain) -> Chain:
        real = int(bool(chain) and isinstance(chain[0], PredictedWeights))  # it stands at the front of all
        return *chain[:real], clipping, *chain[real:]

    return replace(rule, links=lambda param: links(rule.plan(param).chain))


class CoordinateClip(Wrapper):
    """Any optimizer with clipped gradients: `CoordinateClip(SGD(model.parameters(), momentum=0.9), rho=0.1)`.

    Args:
        optimizer: any `torch.optim.Optimizer` that calls a closure no more than once, another wrapper too.
        rho: share of the coordinates that are clipped, in [0, 1]; all parameters of all groups count together.

    Raises:
        ValueError: an argument is not allowed.
    """

    place: ClassVar[int] = -1
    ahead: ClassVar[bool] = True
    once: ClassVar[bool] = True

    rho: float
    _whole: dict[Tensor, Tensor]  # gradients as they came, while a foreign optimizer steps

    def __init__(self, optimizer: torch.optim.Optimizer, *, rho: float = 0.1) -> None:
        super().__init__(optimizer, rho=_checked(rho), _whole={})

    def attach(self) -> None:
        """Put the clipping before the chains of one of Shoal's optimizers."""
        core, own = self.core, CoordinateClipping(self.rho)
        if isinstance(core, InBackward):
            raise ValueError(f"optimizer: got {type(core).__name__}, which never has all gradients; others are allowed")
        if isinstance(core, Optimizer) and own not in core.ahead:  # a copy has it already
            core.ahead = (*core.ahead, own)
            core._chains = {}

    def before(self, layers: list[Wrapper]) -> None:
        """Clip the gradients of a foreign optimizer."""
        self._whole = {p: p.grad for _, p in self.parameters() if p.grad is not None}
        if isinstance(self.core, Optimizer) or not self._whole or not self.rho:
            self._whole = {}
            return
        sparse = next((g for g in self._whole.values() if g.layout is not torch.strided), None)
        if sparse is not None:
            raise RuntimeError(f"CoordinateClip takes no sparse gradients; got one of shape {tuple(sparse.shape)}")
        here = next(iter(self._whole)).device
        c = threshold(torch.cat([g.abs().flatten().to(here) for g in self._whole.values()]), self.rho)
        for p, g in self._whole.items():
            p.grad = clip(g, c.to(g.device))

    def after(self, layers: list[Wrapper]) -> None:
        """Put the gradients back."""
        for p, g in self._whole.items():
            p.grad = g
        self._whole = {}


def _share(value: Any) -> bool:
    return finite(value) and 0.0 <= value <= 1.0


def _checked(rho: float) -> float:
    if not _share(rho):
        raise ValueError(f"rho: got {rho!r}; a number in [0, 1] is allowed")
    return float(rho)


class ClippedAdam(Optimizer):
    """Adam whose first moment is of clipped gradients and whose second one is not; decay is decoupled."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    rho: float = 0.1

    about: ClassVar[dict[str, Argument]] = {
        "rho": Argument("share of the coordinates that are clipped", "a number in [0, 1]", _share)
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        return *decoupled(h.weight_decay), ClippedAdamScaling(beta1, beta2, h.eps, h.rho)
