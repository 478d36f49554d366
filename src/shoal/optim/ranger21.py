"""Ranger21: eight published ideas in one optimizer with a schedule of its own.

r is an output unit, an index of the first axis (of tensors with less than two axes: the whole).

    g_r  <- g_r tau max(|p_r|, eps_c) / |g_r| where that is shorter;  g <- g - mean over all axes but the first
    m_t   = b1^2 m_{t-2} + (1 - b1^2) g,   v = b2 v + (1 - b2) g^2,   v^ = largest v so far / (1 - b2^t)
    u     = ((1 + b0) m_t - b0 m_{t-1}) / (1 - b1^t) / (sqrt((1 + b0)^2 + b0^2) (sqrt(v^) + eps))
    eta   = lr min(1, max(t (1 - b2) / 2, t / t_warmup), (t_max - t) / t_warmdown)
    p_r  <- p_r - eta u_r - eta / sqrt(mean of all v^) lam (1 - 1 / |p_r|) p_r
    every k steps:  slow <- b_l slow + (1 - b_l) p,  p <- slow

L. Wright, N. Demeure, "Ranger21: a synergistic deep learning optimizer", arXiv:2106.13731 (2021).

Where the first author's code differs from the paper, this is the paper: no division of g by its deviation, no softplus,
the maximum is kept, every tensor decays, and the rate ends at 0. t is the tensor's own number of steps; the mean of v^
is over all tensors of a step; a unit of zeros does not decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform, option
from shoal.optim.core.arguments import above, at_least, fractions, whole
from shoal.optim.core.ops import choose, ema_, ema_square_, select
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, maximum, minimum, one_minus_power, sqrt
from shoal.optim.core.transform import Granularity


def explore_exploit(t: Scalar, lr: Scalar, *, beta2: float, t_max: float, warmup: float, warmdown: float) -> Scalar:
    """The rate of step t = 1, 2, ...: linear up, flat, linear down to 0 at t_max.

    Args:
        t: a number, or a float64 tensor; as `lr`.
        lr: on the flat part.
        beta2: of the second moment; the warm-up is not longer than 2 / (1 - beta2).
        t_max: steps in all.
        warmup, warmdown: lengths in steps.
    """
    up = maximum(t * ((1.0 - beta2) / 2.0), t / warmup)
    share: Scalar = maximum(minimum(minimum(up, (t_max - t) / warmdown), 1.0), 0.0)
    return lr * share


def unit_norms(x: Tensor) -> Tensor:
    """Norms of the output units of one tensor, to be broadcast against it."""
    axes = tuple(range(1, x.dim())) if x.dim() > 1 else None
    norms: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    return norms


@dataclass(frozen=True)
class ClippedUnits(Transform):
    """Adaptive gradient clipping: no unit of the update longer than tau max(|p_r|, bottom)."""

    tau: float
    bottom: float
    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Shorten the units."""
        norms, limits = unit_norms(u), torch.clamp(unit_norms(p), min=c.bottom) * c.tau
        return u * torch.where(norms > limits, limits / norms, 1.0)


@dataclass(frozen=True)
class Centralised(Transform):
    """The update without the mean of each unit; vectors as they are."""

    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Subtract the means."""
        return u - u.mean(tuple(range(1, u.dim())), keepdim=True) if u.dim() > 1 else u


@dataclass(frozen=True)
class PositiveNegative(Transform):
    """Two momenta in turn, AMSGrad's scaling, stable decay to units of norm one, and the schedule."""

    beta0: float
    beta1: float
    beta2: float
    eps: float
    lam: float
    t_max: float
    warmup: float
    warmdown: float
    granularity: ClassVar[Granularity] = "model"
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momenta of odd and even steps, the second moment and its maximum."""
        return Slot("odd"), Slot("even"), Slot("v"), Slot("v_max")

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Rate and weights of both momenta, with all that divides them but sqrt(v^)."""
        lengths = {"t_max": self.t_max, "warmup": self.warmup, "warmdown": self.warmdown}
        eta = explore_exploit(t, lr, beta2=self.beta2, **lengths)
        rate = eta / (one_minus_power(self.beta1, t) * math.hypot(1.0 + self.beta0, self.beta0))
        correction2 = one_minus_power(self.beta2, t)
        return {
            "new1": 1.0 - self.beta1**2,
            "new2": 1.0 - self.beta2,
            "latest": rate * (1.0 + self.beta0),
            "former": rate * self.beta0,
            "correction2": correction2,
            "root2": sqrt(correction2),
            "strength": eta * self.lam,
            "is_odd": t % 2.0 == 1.0,
        }

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Update the second moment, and give its sum and number of entries."""
        ema_square_(s.v, u, c.beta2, c.new2)
        s.v_max.copy_(torch.maximum(s.v_max, s.v))
        total = s.v_max.sum() / c.correction2
        return {"total": total, "entries": torch.full_like(total, float(u.numel()))}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the older momentum and return the step."""
        before = select(c.is_odd, s.even, s.odd)
        m = ema_(select(c.is_odd, s.odd, s.even), u, c.new1)
        step: Tensor = (m * c.latest - before * c.former).div_(s.v_max.sqrt().div_(c.root2).add_(c.eps))
        s.odd.copy_(select(c.is_odd, m, s.odd))  # nothing to copy where is_odd is a Python flag: m is the slot itself
        s.even.copy_(select(c.is_odd, s.even, m))
        mean = c.total / c.entries
        strength = torch.where(mean > 0, c.strength * mean.rsqrt(), 0.0)
        norms = unit_norms(p)
        return step.add_(p * (strength * (1.0 - torch.where(norms > 0, norms.reciprocal(), 1.0))))


@dataclass(frozen=True)
class SlowWeights(Transform):
    """Lookahead: every k steps the parameter goes back towards where it was k steps before."""

    k: int
    beta: float

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slow weights."""
        return (Slot("slow", start="parameter"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Whether it is time, and the weight of the parameter."""
        return {"now": t % float(self.k) == 0.0, "new": 1.0 - self.beta}

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Average, and go back."""
        slow = choose(c.now, lambda: torch.lerp(s.slow, p, c.new), lambda: s.slow)
        s.slow.copy_(slow)
        p.copy_(select(c.now, slow, p))


_STEPS = Argument(
    "length in steps; None: a share of t_max", "a number > 0 or None", lambda v: v is None or above(0.0)(v)
)
_POSITIVE = "a finite number >= 0"


class Ranger21(Optimizer):
    """Ranger21 for a training of `t_max` steps; do not schedule `lr` again."""

    about: ClassVar[dict[str, Argument]] = {
        "t_max": Argument("steps of the whole training", "a whole number >= 1", whole(1)),
        "beta0": Argument("how far positive-negative momentum goes", _POSITIVE, at_least(0.0)),
        "tau_clipping": Argument("longest gradient of a unit, relative to its weights", _POSITIVE, at_least(0.0)),
        "eps_clipping": Argument("least norm of a unit for the clipping", _POSITIVE, at_least(0.0)),
        "k_lookahead": Argument("steps between lookaheads", "a whole number >= 1", whole(1)),
        "beta_lookahead": Argument(
            "how much of the slow weights stays", "a number in [0, 1)", lambda v: fractions(1)([v])
        ),
        "t_warmup": _STEPS,
        "t_warmdown": _STEPS,
    }

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    beta0: float = 0.9
    tau_clipping: float = 1e-2
    eps_clipping: float = 1e-3
    k_lookahead: int = 5
    beta_lookahead: float = 0.5
    t_warmup: float | None = None
    t_warmdown: float | None = None
    t_max: int = option(kw_only=True)

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Clip, centralise, step, look ahead."""
        warmup = 0.22 * h.t_max if h.t_warmup is None else h.t_warmup
        warmdown = 0.28 * h.t_max if h.t_warmdown is None else h.t_warmdown
        beta1, beta2 = h.betas
        return (
            ClippedUnits(h.tau_clipping, h.eps_clipping),
            Centralised(),
            PositiveNegative(h.beta0, beta1, beta2, h.eps, h.weight_decay, float(h.t_max), warmup, warmdown),
            SlowWeights(h.k_lookahead, h.beta_lookahead),
        )
