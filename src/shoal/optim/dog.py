"""DoG: SGD whose step size is the distance travelled so far over the root of all squared gradients; no rate is tuned.

    r <- max(r, |x - x0|), at first r_rel (1 + |x0|)        G <- G + |g|^2, at first eps
    x <- x - lr (r / sqrt(G)) g

All parameters are one vector. L-DoG has r and G for each tensor. To be evaluated is the mean of the iterates
with polynomial decay, `polynomial_average`: of the last iterate nothing is promised.

The first steps are far below what bfloat16 or float16 tell from 0: parameters of low precision have a float32 copy.

M. Ivgi, O. Hinder, Y. Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule", ICML 2023,
arXiv:2302.12022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.common import coupled, widened
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import above, at_least
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.transform import Granularity, number, shared


@dataclass(frozen=True)
class DistanceOverGradients(Transform):
    """The update times r / sqrt(G), with r and G of the whole model."""

    r_rel: float = 1e-6
    eps: float = 1e-8
    granularity: ClassVar[Granularity] = "model"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where it began, the distance, and the sum of squares."""
        return Slot("x0", start="parameter"), shared("r"), shared("G", self.eps)

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Squared norms of the gradient, of the way and of the weights."""
        return {
            "gg": u.square().sum(dtype=torch.float64),
            "way": (p - s.x0).square().sum(dtype=torch.float64),
            "size": p.square().sum(dtype=torch.float64),
        }

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """The step size."""
        return {"scale": _scale(s, c.gg, c.way, c.size, c.r_rel)}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Scale."""
        scale: Tensor = c.scale
        return u * scale.to(u.dtype)


@dataclass(frozen=True)
class LayerDistanceOverGradients(Transform):
    """The update times r / sqrt(G), with r and G of each tensor."""

    r_rel: float = 1e-6
    eps: float = 1e-8
    granularity: ClassVar[Granularity] = "tensor"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where it began, the distance, and the sum of squares."""
        return Slot("x0", start="parameter"), number("r"), number("G", self.eps)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Measure and scale."""
        gg, way, size = (x.square().sum(dtype=torch.float64) for x in (u, p - s.x0, p))
        return u * _scale(s, gg, way, size, c.r_rel).to(u.dtype)


def _scale(s: State, gg: Tensor, way: Tensor, size: Tensor, r_rel: Any) -> Tensor:
    """Take in one gradient; the step size r / sqrt(G), 0 as long as there was none."""
    begun = s.r > 0
    s.r.copy_(torch.where(begun, torch.maximum(s.r, way.sqrt()), (1.0 + size.sqrt()) * r_rel))
    s.G.add_(gg)
    return torch.where(s.G > 0, s.r / s.G.sqrt(), 0.0)


_ABOUT = {"reps_rel": Argument("first distance, relative to 1 + |x0|", "a finite number > 0", above(0.0))}


class DoG(Optimizer):
    """SGD by distance over gradients; `lr` only scales it (1 is the published value).

    With batch normalisation `reps_rel` is to be 1e-4. `weight_decay` adds to the gradient (L2). All groups make one
    vector; a tensor that has no gradient at a step is left out of that step's norms.
    """

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1.0
    reps_rel: float = 1e-6
    eps: float = 1e-8
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the distance over the gradients; a wide copy goes last, so that all chains sum at one place."""
        return *coupled(h.weight_decay), DistanceOverGradients(h.reps_rel, h.eps), *widened(param)


class LDoG(Optimizer):
    """DoG for each tensor by itself."""

    about: ClassVar[dict[str, Argument]] = _ABOUT

    lr: float = 1.0
    reps_rel: float = 1e-6
    eps: float = 1e-8
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the distance over the gradients."""
        return *coupled(h.weight_decay), LayerDistanceOverGradients(h.reps_rel, h.eps), *widened(param)


def polynomial_average(gamma: float = 8.0) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Mean of iterates with polynomial decay: x_mean <- (1 - w) x_mean + w x with w = (gamma + 1) / (gamma + t).

    For torch's own container, which averages buffers too if it is told to; update it after every step:

        average = torch.optim.swa_utils.AveragedModel(model, avg_fn=polynomial_average(), use_buffers=True)
        average.update_parameters(model)

    Args:
        gamma: how much more the later iterates count; 0 is the plain mean.

    Returns:
        A function of the mean so far, the new value, and how many values the mean is of.

    Raises:
        ValueError: `gamma` is not a finite number >= 0.
    """
    if not at_least(0.0)(gamma):
        raise ValueError(f"gamma: got {gamma!r}; a finite number >= 0 is allowed")

    def average(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
        weight = (gamma + 1.0) / (gamma + float(count) + 1.0)
        return torch.lerp(mean, value, weight) if mean.is_floating_point() else value

    return average
