"""SWATS: Adam at first, SGD from the moment on when the rate that SGD would need is known.

    Adam:  m <- beta1 m + (1 - beta1) g,  a <- beta2 a + (1 - beta2) g^2
           d = lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(a) + eps),  p <- p - d
           gamma = <d, d> / <d, g>,  lam <- beta2 lam + (1 - beta2) gamma
           if k > 1 and |lam / (1 - beta2^k) - gamma| < tolerance:  Lam = lam / (1 - beta2^k), from now on
    SGD:   v <- beta1 v + g from v = 0,  p <- p - (1 - beta1) Lam v

N. S. Keskar, R. Socher, "Improving Generalization Performance by Switching from Adam to SGD", arXiv:1712.07628 (2017).

The products go over all parameters together and there is one switch; they are summed in float64. A switch with
Lam <= 0 would climb and is not made; where <d, g> = 0, lam stays and k goes on. A change of lr after a tensor's last
Adam step multiplies Lam for it by the same factor. m becomes v, so that SGD needs no further memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least
from shoal.optim.core.given import NOTHING, Supplied
from shoal.optim.core.ops import ema_square_, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt
from shoal.optim.core.stepping import Item
from shoal.optim.core.transform import Granularity


@dataclass(frozen=True)
class AdamThenSGD(Transform):
    """Adam's step, or SGD's after the switch.

    Slots besides the moments: `estimate`, the same for all parameters, two rows (k, lam, Lam or 0): before this step
    and after it; `own`, of the parameter: lr of its last Adam step, and 1 once m is SGD's.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-9
    tolerance: float = 1e-9
    granularity: ClassVar[Granularity] = "model"
    rated: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Two moments and a few numbers."""
        estimate = Slot("estimate", shape=lambda shape: (2, 3), dtype=torch.float64)
        return Slot("m"), Slot("a"), estimate, Slot("own", shape=lambda shape: (2,), dtype=torch.float64)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Weights of the new gradient, Adam's rate, and 1 - beta2 as an exponent (k is no step of this parameter)."""
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "rate": lr * sqrt(one_minus_power(self.beta2, t)) / one_minus_power(self.beta1, t),
            "log2": math.log(self.beta2) if self.beta2 else -math.inf,
        }

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Work out the step, and its products with itself and the gradient."""
        s.estimate[0].copy_(s.estimate[1])  # may be one tensor for all parameters: no `apply` has changed it yet
        found = s.estimate[0][2]
        sgd, begun = found > 0, s.own[1] > 0
        one = torch.ones((), dtype=s.m.dtype, device=s.m.device)
        plus_(s.m.mul_(torch.where(sgd & ~begun, 0.0 * one, c.beta1 * one)), u, torch.where(sgd, one, c.new1 * one))
        ema_square_(s.a, u, c.beta2, c.new2)
        change = torch.where(s.own[0] > 0, c.lr / s.own[0], 1.0)
        fixed = (c.new1 * found * change).to(s.m.dtype)
        s.step = s.m * torch.where(sgd, fixed, c.rate / (s.a.sqrt().add_(c.eps)))
        s.own.copy_(torch.stack([torch.where(sgd, s.own[0], c.lr), sgd.to(torch.float64)]))
        products = (s.step * s.step, s.step * u)
        return dict(zip(("dd", "dg"), (x.sum(dtype=torch.float64) for x in products), strict=True))

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Take in gamma, and switch if it is time."""
        before, lam, found = s.estimate[0].unbind()
        k = before + 1.0
        takes = (found == 0) & (c.dg != 0)
        gamma = c.dd / torch.where(c.dg != 0, c.dg, 1.0)
        lam = torch.where(takes, c.beta2 * lam + c.new2 * gamma, lam)
        corrected = lam / -torch.expm1(k * c.log2)
        stable = takes & (k > 1) & (corrected > 0) & ((corrected - gamma).abs() < c.tolerance)
        s.estimate[1].copy_(torch.stack([k, lam, torch.where(stable, corrected, found)]))
        return s.step  # type: ignore[no-any-return]


class SWATS(Optimizer):
    """Adam that switches to SGD by itself; `tolerance` None is eps. All groups have the same betas."""

    about: ClassVar[dict[str, Argument]] = {
        "tolerance": Argument(
            "how near the estimate must be to its mean for the switch",
            "a finite number >= 0 or None",
            lambda value: value is None or at_least(0.0)(value),
        ),
    }

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-9
    tolerance: float | None = None

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """One transform."""
        beta1, beta2 = h.betas
        return (AdamThenSGD(beta1, beta2, h.eps, h.eps if h.tolerance is None else h.tolerance),)

    @property
    def sgd_lr(self) -> float:
        """Lam of the paper once the switch was made; 0 before."""
        shared = self._estimate()
        return 0.0 if shared is None else float(shared[1, 2])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: its settings are not allowed, or would make another switch than the first group's.
        """
        super().add_param_group(param_group)
        for name in ("betas", "tolerance"):
            first, last = self.param_groups[0][name], self.param_groups[-1][name]
            if last != first:
                self.param_groups.pop()
                raise ValueError(
                    f"{name}: got {last!r}; the first group's {first!r} is allowed, as there is one switch"
                )

    def _items(self, number: int, group: dict[str, Any], supplied: Supplied = NOTHING) -> list[Item]:
        shared = self._estimate()
        items = super()._items(number, group, supplied)
        for item in items:  # one tensor for all, so that who lacked a gradient knows as much as the others
            shared = item.state["estimate"] if shared is None else shared
            item.state["estimate"] = shared.to(item.p.device)
        return items

    def _estimate(self) -> Tensor | None:
        parameters = (p for group in self.param_groups for p in group["params"])
        return next((self.state[p]["estimate"] for p in parameters if self.state.get(p)), None)
