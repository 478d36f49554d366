"""Adam with critical momenta: the mean of a few remembered momenta is added to the current one.

    m <- beta1 m + (1 - beta1) g        a <- m + mean(buffer)        v <- beta2 v + (1 - beta2) a^2
    buffer: add m with priority |g|; when full, in place of the lowest priority, if |g| is above it
    all priorities <- decay x priority
    p <- (1 - lr lam) p - lr (a / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

P. Malviya, G. Mordido, A. Baratin, R. Babanezhad Harikandeh, J. Huang, S. Lacoste-Julien, R. Pascanu, S. Chandar,
"Promoting Exploration in Memory-Augmented Adam using Critical Momenta", arXiv:2307.09638 (2023).

Choices: the mean is over what is in the buffer, not over its capacity; of equal lowest priorities the oldest place is
taken. The first step is that of the paper, lr sign(g) / (1 - beta1); in the authors' code the first gradient only goes
into the buffer, as it is, and nothing moves but by decay: `gradient_first=True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least, flag, whole
from shoal.optim.core.ops import choose, ema_, ema_square_, plus
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, maximum, minimum, one_minus_power, sqrt, where
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class CriticalMomenta(Transform):
    """Adam's scaling of momentum plus mean of the buffered ones, kept by the norm of the tensor's own gradient."""

    granularity: ClassVar[Granularity] = "tensor"

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    capacity: int = 5
    decay: float = 0.7
    gradient_first: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Both moments, and the buffer, whose empty places have the priority -1."""
        moments = Slot("m"), Slot("v")
        if not self.capacity:
            return moments
        return (
            *moments,
            Slot("momenta", shape=lambda shape: (self.capacity, *shape)),
            Slot("priorities", shape=lambda shape: (self.capacity,), start=-1.0),
        )

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Weights of what is new, of a buffered momentum in the mean, and the bias corrections."""
        moving = minimum(t - 1.0, 1.0) if self.gradient_first else 1.0
        filled = minimum(t - 1.0, float(self.capacity))
        return {
            "first": where(t > 1.0, 0.0, 1.0) if self.gradient_first else 0.0,
            "new1": moving * (1.0 - self.beta1),
            "new2": 1.0 - self.beta2,
            "share": 1.0 / maximum(filled, 1.0),
            "correction1": one_minus_power(self.beta1, t),
            "root2": sqrt(one_minus_power(self.beta2, t)),
        }

    def priority(self, u: Tensor, c: Scalars) -> Tensor:
        """How much this step's momentum is worth keeping, 0-dim."""
        norm: Tensor = torch.linalg.vector_norm(u)
        return norm

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update moments and buffer and return the scaled step."""
        m = a = ema_(s.m, u, c.new1)
        if self.capacity:
            a = plus(m, s.momenta.sum(0), c.share)
            _offer(s, choose(c.first, lambda: u, lambda: m) if self.gradient_first else m, self.priority(u, c), c)
        v = ema_square_(s.v, a, c.beta2, c.new2)
        return a / v.sqrt().div_(c.root2).add_(c.eps).mul_(c.correction1)


def _offer(s: State, momentum: Tensor, priority: Tensor, c: Scalars) -> None:
    """Put a momentum into the buffer if it is worth more than the least there, and let the priorities decay."""
    least = s.priorities.argmin(0, keepdim=True)
    here = torch.arange(s.priorities.shape[0], device=least.device) == least
    taken = here & (priority > s.priorities)
    s.momenta.copy_(torch.where(taken.view(-1, *(1,) * momentum.dim()), momentum.unsqueeze(0), s.momenta))
    s.priorities.copy_(torch.where(taken, priority, s.priorities))
    s.priorities.copy_(torch.where(s.priorities < 0.0, s.priorities, s.priorities * c.decay))


@dataclass(frozen=True)
class SyncedCriticalMomenta(CriticalMomenta):
    """The same with one priority for all tensors: the sum of the norms of their gradients."""

    granularity = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """The norm."""
        return {"norms": torch.linalg.vector_norm(u)}

    def priority(self, u: Tensor, c: Scalars) -> Tensor:
        """The sum over all tensors."""
        norms: Tensor = c.norms
        return norms


class AdamCM(Optimizer):
    """Adam with critical momenta. As steps are up to twice as long, try a tenth of Adam's lr too.

    State: both moments and `capacity` momenta.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    capacity: int = 5
    decay: float = 0.7
    synced: bool = True
    gradient_first: bool = False

    about: ClassVar[dict[str, Argument]] = {
        "capacity": Argument("momenta in the buffer", "a whole number >= 0", whole(0)),
        "decay": Argument(
            "factor of all priorities in each step", "a number in [0, 1]", lambda v: at_least(0.0)(v) and v <= 1.0
        ),
        "synced": Argument("one priority for all tensors, the sum of theirs", "True or False", flag),
        "gradient_first": Argument("the first gradient only enters the buffer", "True or False", flag),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments and the buffer."""
        beta1, beta2 = h.betas
        kind = SyncedCriticalMomenta if h.synced else CriticalMomenta
        momenta = kind(beta1, beta2, h.eps, h.capacity, h.decay, h.gradient_first)
        return *decoupled(h.weight_decay), momenta
