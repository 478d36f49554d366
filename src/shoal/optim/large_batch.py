"""LARS and LAMB: steps of each tensor in proportion to its norm, for large batches; and the schedule beside them.

    LARS:  r = tau |w| / (|g| + lam |w|),  v <- mu v + r (g + lam w),  w <- w - lr v
    LAMB:  u = m^ / (sqrt(v^) + eps) + lam w  with Adam's m^ and v^,  w <- w - lr (|w| / |u|) u

Z. Nado, J. M. Gilmer, C. J. Shallue, R. Anil, G. E. Dahl, "A Large Batch Optimizer Reality Check: Traditional, Generic
Optimizers Suffice Across Batch Sizes", arXiv:2102.06356 (2021). LARS: Y. You, I. Gitman, B. Ginsburg, "Large Batch
Training of Convolutional Networks", arXiv:1708.03888 (2017). LAMB: Y. You, J. Li, S. Reddi, J. Hseu, S. Kumar,
S. Bhojanapalli, X. Song, J. Demmel, K. Keutzer, C.-J. Hsieh, "Large Batch Optimization for Deep Learning: Training BERT
in 76 minutes", arXiv:1904.00962 (2019).

Ratios are 1 where a norm is zero, and not bounded. Biases and normalisation, which have neither ratio nor decay, are
tensors of fewer than two dimensions unless `adapt` of their group says otherwise. The rate is outside LARS's momentum;
`lr_in_buffer` is the older form, which differs while the rate changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.adam import AdamScaling
from shoal.optim.common import Momentum
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least, flag
from shoal.optim.core.ops import plus, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.transform import Granularity
from shoal.optim.schedules import Schedule, check_warmup


@dataclass(frozen=True)
class GradientTrust(Transform):
    """LARS: (u + lam p) tau |p| / (|u| + lam |p|)."""

    lam: float
    tau: float
    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Add the decay and scale."""
        length, slope = torch.linalg.vector_norm(p), torch.linalg.vector_norm(u)
        ratio = torch.where((length > 0) & (slope > 0), length * c.tau / (slope + length * c.lam), 1.0)
        return plus(u, p, c.lam).mul_(ratio)


@dataclass(frozen=True)
class StepTrust(Transform):
    """LAMB: d |p| / |d| with d = u + lam p."""

    lam: float
    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Add the decay and scale."""
        d = plus(u, p, c.lam)
        length, step = torch.linalg.vector_norm(p), torch.linalg.vector_norm(d)
        return d.mul_(torch.where((length > 0) & (step > 0), length / step, 1.0))


@dataclass(frozen=True)
class RatedMomentum(Transform):
    """v <- mu v + lr u, which is the step: what was taken in keeps the rate of its time."""

    mu: float
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum."""
        return (Slot("momentum"),)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the momentum."""
        return plus_(s.momentum.mul_(c.mu), u, c.lr)


def _flag_or_none(value: Any) -> bool:
    return value is None or flag(value)


_ADAPT = Argument(
    "whether tensors have ratio and decay; None: those of two or more axes", "a flag or None", _flag_or_none
)


class LARS(Optimizer):
    """Layer-wise adaptive rates with momentum; no `lr` is published."""

    about: ClassVar[dict[str, Argument]] = {
        "trust_coefficient": Argument("ratio of step and weights, times lr", "a finite number >= 0", at_least(0.0)),
        "adapt": _ADAPT,
        "lr_in_buffer": Argument("multiply by lr before the momentum instead of after it", "True or False", flag),
    }

    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    trust_coefficient: float = 1e-3
    adapt: bool | None = None
    lr_in_buffer: bool = False

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay and ratio, then the momentum."""
        trust = (GradientTrust(h.weight_decay, h.trust_coefficient),) if _adapted(h, param) else ()
        if not h.momentum:
            return trust
        return *trust, (RatedMomentum(h.momentum) if h.lr_in_buffer else Momentum(h.momentum))


class LAMB(Optimizer):
    """Adam's step at lr times the length of the weights; no `lr` is published."""

    about: ClassVar[dict[str, Argument]] = {"adapt": _ADAPT}

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    adapt: bool | None = None

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The moments, then decay and ratio."""
        beta1, beta2 = h.betas
        scaling = AdamScaling(beta1, beta2, h.eps)
        return (scaling, StepTrust(h.weight_decay)) if _adapted(h, param) else (scaling,)


def _adapted(h: Settings, param: Param) -> bool:
    return len(param.shape) > 1 if h.adapt is None else bool(h.adapt)


def warmup_polynomial(
    peak: float, *, steps: int, warmup_steps: int, final: float = 0.0, power: float = 1.0
) -> Schedule:
    """Linear from 0 to `peak` in the warm-up, then polynomial to `final`, which is the rate of the last step.

    Args:
        peak: rate of the last step of the warm-up, >= 0.
        steps: of the whole training; `final` is kept after them.
        warmup_steps: in [0, steps). The first step has peak / warmup_steps, not 0.
        final: >= 0.
        power: of the decay, > 0: 1 is linear.

    Returns:
        From the number of a step, 0 at first, to its rate.

    Raises:
        ValueError: an argument is not allowed.

    >>> schedule = warmup_polynomial(1.0, steps=6, warmup_steps=2)
    >>> [schedule(t) for t in range(6)]
    [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_warmup(warmup_steps, steps)
    for name, value in (("peak", peak), ("final", final)):
        if not at_least(0.0)(value):
            raise ValueError(f"{name}: got {value}; a finite number >= 0 is allowed")
    if not (at_least(0.0)(power) and power):
        raise ValueError(f"power: got {power}; a finite number > 0 is allowed")

    def rate(step: float) -> float:
        t = step + 1.0
        if t <= warmup_steps:
            return peak * t / warmup_steps
        left = max(0.0, (steps - t) / (steps - warmup_steps))
        return float(final + (peak - final) * left**power)

    return rate
