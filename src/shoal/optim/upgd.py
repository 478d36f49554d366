"""UPGD: gradient and noise move what is of little use; useful weights are kept.

    U <- beta U + (1 - beta) (-g p),   U^ = U / (1 - beta^t),   eta = the largest U of all parameters
    p <- (1 - lr lam) p - 2 lr (g + xi) (1 - sigmoid(U^ / eta)),   xi ~ N(0, sigma^2)
    local: sigmoid(U^ / |U^|), the norm along the last axis
    not protecting: p <- (1 - lr lam) p - lr (g + xi (1 - sigmoid(U^ / eta)))

M. Elsayed, A. R. Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning",
arXiv:2404.00781 (2024).

The factor 2 (the authors' README) makes a weight without utility move as by SGD; their experiments have lr in place of
2 lr. As in their code, U^ is divided by the largest U, not U^; `corrected_maximum` takes the latter. eta < 0 turns the
order of the weights round, and eta = 0 stands for utilities of 1/2. The utility is that of first order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least, flag, fractions, whole
from shoal.optim.core.ops import ema_product_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power
from shoal.optim.core.transform import Granularity
from shoal.tensors.random import derive, normal


@dataclass(frozen=True)
class LocalUtility(Transform):
    """Gradient and noise by 1 - utility, each row of a tensor scaled by itself; and decay.

    Attributes:
        beta: decay rate of the utility.
        sigma: standard deviation of the noise.
        lam: decay of the parameter, times the learning rate.
        protecting: whether the gradient is weighted too.
        noisy, decays: whether there is noise, or decay, at all.
    """

    beta: float
    sigma: float
    lam: float
    protecting: bool = True
    noisy: bool = True
    decays: bool = True
    granularity: ClassVar[Granularity] = "tensor"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The utility, and the seed of the noise."""
        seed = Slot("seed", shape=lambda shape: (), dtype=torch.int64, start="seed")
        return Slot("U"), *((seed,) if self.noisy else ())

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Weights of the new utility, the bias correction, and what decay leaves."""
        return {
            "new": -(1.0 - self.beta),
            "correction": one_minus_power(self.beta, t),
            "kept": 1.0 - lr * self.lam,
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the utility and return the step."""
        usefulness = ema_product_(s.U, u, p, c.beta, c.new) / c.correction
        rows = usefulness.reshape(1) if usefulness.dim() == 0 else usefulness
        lengths = torch.clamp(torch.linalg.vector_norm(rows, dim=-1, keepdim=True), min=1e-12)
        return self._step((rows / lengths).reshape(p.shape), u, p, s, c)

    def _step(self, scaled: Tensor, u: Tensor, p: Tensor, s: State, c: Scalars) -> Tensor:
        """The step from the scaled utility."""
        free = torch.sigmoid(-scaled)  # 1 - sigmoid
        if self.noisy:
            step = torch.as_tensor(c.t).to(torch.int64)
            noise = normal(derive(s.seed, step), p.shape, dtype=p.dtype) * c.sigma
            u = (noise + u) * free if self.protecting else u + noise * free
        elif self.protecting:
            u = u * free
        if self.decays:
            p.mul_(c.kept)
        return u * 2.0 if self.protecting else u


@dataclass(frozen=True)
class GlobalUtility(LocalUtility):
    """The same, but scaled by the largest utility of all parameters.

    Attributes:
        corrected: whether that is the largest after bias correction.
    """

    corrected: bool = False
    granularity: ClassVar[Granularity] = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Update the utility and give the largest."""
        largest = ema_product_(s.U, u, p, c.beta, c.new).max()
        return {"max_utility": largest / c.correction if self.corrected else largest}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Return the step."""
        eta = c.max_utility * c.correction
        return self._step(s.U / torch.where(eta != 0, eta, torch.inf), u, p, s, c)


def _fraction(value: Any) -> bool:
    return fractions(1)([value])


class UPGD(Optimizer):
    """SGD and noise, both weighted by 1 - utility; the noise is a function of `seed` and the step."""

    about: ClassVar[dict[str, Argument]] = {
        "beta_utility": Argument("decay rate of the utility", "a number in [0, 1)", _fraction),
        "sigma": Argument("standard deviation of the noise", "a finite number >= 0", at_least(0.0)),
        "protecting": Argument("weight the gradient too, not just the noise", "True or False", flag),
        "local": Argument("scale each row by itself and not all by the largest utility", "True or False", flag),
        "corrected_maximum": Argument("the largest utility after bias correction", "True or False", flag),
        "seed": Argument("of the noise", "a whole number >= 0", whole(0)),
    }

    lr: float = 1e-5
    weight_decay: float = 0.001
    beta_utility: float = 0.999
    sigma: float = 0.001
    protecting: bool = True
    local: bool = False
    corrected_maximum: bool = False
    seed: int = 0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        numbers = (h.beta_utility, h.sigma, h.weight_decay)
        flags = (h.protecting, h.sigma > 0.0, h.weight_decay > 0.0)
        if h.local:
            return (LocalUtility(*numbers, *flags),)
        return (GlobalUtility(*numbers, *flags, h.corrected_maximum),)
