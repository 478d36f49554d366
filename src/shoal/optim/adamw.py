"""AdamW and SGDW: weight decay apart from the gradient.

    AdamW:  p <- (1 - lr lam) p, then Adam's step
    SGDW:   m <- momentum m + lr g,  p <- (1 - lr lam) p - m
    in the publication, with lr = eta_t base_lr for a schedule eta_t:  (1 - eta_t lam) in the place of (1 - lr lam)

I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101 (2017).

By default the decay is multiplied by the learning rate, as in torch. `decay_times_lr=False` is the publication: its
decay depends on the schedule and not on the learning rate, so that either can be tuned alone; eta_t is lr over the
first lr. The learning rate is inside SGDW's momentum, as printed (torch's SGD has it outside; they differ when it
changes). `restart_multiplier` and `normalised_weight_decay` are the publication's schedule and rule for lam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from shoal.optim.adam import AdamScaling
from shoal.optim.amsgrad import AMSGradScaling
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import flag
from shoal.optim.core.ops import plus, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.first_rate import FromFirstRate, first_rate
from shoal.optim.schedules import Schedule

ABOUT = {
    **FromFirstRate.about,
    "decay_times_lr": Argument("multiply the decay by the learning rate, not by the schedule", "True or False", flag),
}


class AdamW(FromFirstRate):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`; by `decay_times_lr=False` the publication's."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    amsgrad: bool = False
    decay_times_lr: bool = True

    about: ClassVar[dict[str, Argument]] = ABOUT

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        beta1, beta2 = h.betas
        scaling = AMSGradScaling if h.amsgrad else AdamScaling
        return *_decay(h), scaling(beta1, beta2, h.eps)


class SGDW(FromFirstRate):
    """SGD with momentum and decoupled weight decay; by `decay_times_lr=False` the publication's."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    decay_times_lr: bool = True

    about: ClassVar[dict[str, Argument]] = ABOUT

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the momentum."""
        return *_decay(h), *((RatedMomentum(h.momentum, h.nesterov),) if h.momentum else ())


@dataclass(frozen=True)
class RatedMomentum(Transform):
    """m <- mu m + lr u; the step is m, or lr u + mu m with Nesterov's form."""

    mu: float
    nesterov: bool = False
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum."""
        return (Slot("momentum"),)

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the momentum and return the step."""
        plus_(s.momentum.mul_(c.mu), u, c.lr)
        return plus(u * c.lr, s.momentum, c.mu) if self.nesterov else s.momentum


def _decay(h: Settings) -> Chain:
    """eta_t lam is lr (lam / base_lr)."""
    if h.decay_times_lr or not h.weight_decay:
        return decoupled(h.weight_decay)
    return decoupled(h.weight_decay / first_rate(h))


def normalised_weight_decay(norm: float, *, batch_size: int, points: int, epochs: float) -> float:
    """lam = norm sqrt(batch_size / (points epochs)), for AdamW and SGDW with `decay_times_lr=False`.

    Args:
        norm: the normalised decay, >= 0, which suits runs of any length.
        batch_size: samples a step, at least 1.
        points: samples in the training set, at least 1.
        epochs: of the run, or until the next restart; > 0.

    Raises:
        ValueError: an argument is not allowed.

    >>> normalised_weight_decay(0.05, batch_size=100, points=50_000, epochs=20.0)
    0.0005
    """
    for name, value, low in (("batch_size", batch_size, 1), ("points", points, 1)):
        if value < low:
            raise ValueError(f"{name}: got {value}; at least {low} is allowed")
    if not 0.0 < epochs < math.inf:
        raise ValueError(f"epochs: got {epochs}; a finite number > 0 is allowed")
    if not 0.0 <= norm < math.inf:
        raise ValueError(f"norm: got {norm}; a finite number >= 0 is allowed")
    return norm * math.sqrt(batch_size / (points * epochs))


def restart_multiplier(epoch: float, *, first_period: float, period_multiplier: float = 1.0) -> float:
    """eta of AdamWR and SGDWR: 1 at each restart, and down to 0 along half a cosine before the next.

    Args:
        epoch: since the start of the run, >= 0; fractions and any other unit are allowed.
        first_period: epochs until the first restart, > 0.
        period_multiplier: how much longer each period is than the one before, >= 1.

    Raises:
        ValueError: an argument is not allowed.

    >>> [round(restart_multiplier(e, first_period=4, period_multiplier=2), 2) for e in (0, 2, 4, 8, 12)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    if not 0.0 <= epoch < math.inf:
        raise ValueError(f"epoch: got {epoch}; a finite number >= 0 is allowed")
    if not 0.0 < first_period < math.inf:
        raise ValueError(f"first_period: got {first_period}; a finite number > 0 is allowed")
    if not 1.0 <= period_multiplier < math.inf:
        raise ValueError(f"period_multiplier: got {period_multiplier}; a finite number >= 1 is allowed")
    since, period = epoch, first_period
    if period_multiplier == 1.0:
        since = math.fmod(epoch, period)
    while since >= period:
        since, period = since - period, period * period_multiplier
    return 0.5 + 0.5 * math.cos(math.pi * since / period)


def warm_restarts(lr: float, *, first_period: float, period_multiplier: float = 1.0) -> Schedule:
    """The rate lr eta at each step; the period is in steps.

    Args:
        lr: >= 0.
        first_period, period_multiplier: as of `restart_multiplier`.
    """
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"lr: got {lr}; a finite number >= 0 is allowed")
    restart_multiplier(0.0, first_period=first_period, period_multiplier=period_multiplier)
    return lambda step: lr * restart_multiplier(step, first_period=first_period, period_multiplier=period_multiplier)
