"""Lookahead: k steps of any optimizer, then a part of the way back.

    phi_0 = p        p <- k steps of the optimizer from phi        phi <- phi + alpha (p - phi)        p <- phi

M. R. Zhang, J. Lucas, G. Hinton, J. Ba, "Lookahead Optimizer: k steps forward, 1 step back", arXiv:1907.08610 (2019).

Choices. alpha is 0.5, the paper's (its code has 0.8). The optimizer's own state is kept when the weights are pulled
back; `inner_state` resets it or interpolates it like the weights, from 0 on (the paper discusses all three). k counts
the steps of all parameters together, also of those that lack a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Chain, Rule, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import whole
from shoal.optim.core.ops import choose, ema_
from shoal.optim.core.plan import compute_dtype
from shoal.optim.core.scalars import Scalar, where
from shoal.optim.wrapping import Wrapper
from shoal.optim.xgrad import PredictedWeights, XGrad

STATES = ("keep", "reset", "interpolate")


@dataclass(frozen=True)
class SlowWeights(Transform):
    """Slow weights in a slot, to which every k-th step returns.

    It stands before what changes the parameter after the step, such as a decay: `lookahead` puts it at the front of the
    chain. The count of steps is the parameter's own.

    Attributes:
        k: steps between returns.
        alpha: part of the way that the slow weights follow.
    """

    k: int = 5
    alpha: float = 0.5

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slow weights."""
        return (Slot("slow_weights", start="parameter"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Whether this step returns, and how far the slow weights follow."""
        returns = t % self.k == 0.0
        return {"returns": returns, "part": where(returns, self.alpha, 0.0)}

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Follow and return, if it is time."""
        p.copy_(choose(c.returns, lambda: ema_(s.slow_weights, p, c.part), lambda: p))


def lookahead(rule: Rule, k: int = 5, alpha: float = 0.5) -> Rule:
    """The rule with slow weights, for stacked peers.

    Raises:
        ValueError: an argument is not allowed.
    """
    slow = SlowWeights(*_checked(k, alpha))

    def links(chain: Chain) -> Chain:
        real = int(bool(chain) and isinstance(chain[0], PredictedWeights))  # behind it parameters hold the real weights
        return *chain[:real], slow, *chain[real:]

    return replace(rule, links=lambda param: links(rule.plan(param).chain))


class Lookahead(Wrapper):
    """Any optimizer with slow weights: `Lookahead(SGD(model.parameters(), momentum=0.9))`.

    `eval()` shows the slow weights, `train()` the fast ones again.

    Args:
        optimizer: any `torch.optim.Optimizer`, another wrapper too.
        k: steps between returns.
        alpha: part of the way that the slow weights follow, in [0, 1]; 1 is the optimizer itself.
        inner_state: what becomes of the optimizer's buffers at a return: "keep", "reset" to 0, or "interpolate".
        buffers: names of those buffers; which a parameter's state lacks are passed over.

    Raises:
        ValueError: an argument is not allowed.
    """

    place: ClassVar[int] = 2

    k: int
    alpha: float
    inner_state: str
    buffers: tuple[str, ...]

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        k: int = 5,
        alpha: float = 0.5,
        inner_state: str = "keep",
        buffers: Sequence[str] = ("momentum_buffer", "momentum", "exp_avg", "m"),
    ) -> None:
        k, alpha = _checked(k, alpha)
        if inner_state not in STATES:
            raise ValueError(f"inner_state: got {inner_state!r}; keep, reset or interpolate is allowed")
        settings = {"k": k, "alpha": alpha, "inner_state": inner_state, "buffers": tuple(buffers)}
        super().__init__(optimizer, **settings, _slow={}, _steps={}, _slow_buffers={b: {} for b in buffers})

    _slow: dict[Tensor, Tensor]
    _steps: dict[Tensor, int]  # since the last return; the same for all, but for those that came later
    _slow_buffers: dict[str, dict[Tensor, Tensor]]

    def kept(self) -> dict[str, dict[Tensor, Any]]:
        """Slow weights, counts, and slow buffers if there are any."""
        buffers = {f"slow_{name}": values for name, values in self._slow_buffers.items()}
        return {"slow": self._slow, "steps": self._steps, **buffers}

    def shown(self, p: Tensor) -> Tensor | None:
        """The slow weights."""
        return self._slow.get(p)

    def before(self, layers: list[Wrapper]) -> None:
        """Take the slow weights, before the first step."""
        for _, p in self.parameters():
            if p not in self._slow:
                self._slow[p] = _real(p, layers).detach().to(compute_dtype(p.dtype), copy=True)
                self._steps[p] = 0

    def after(self, layers: list[Wrapper]) -> None:
        """Follow and return, if it is time."""
        returning = []
        for _, p in self.parameters():
            self._steps[p] = (self._steps[p] + 1) % self.k
            if self._steps[p] == 0:
                returning.append(p)
        for p in returning:
            real, slow = _real(p, layers), self._slow[p]
            slow.lerp_(real.to(slow.dtype), self.alpha)
            if real is not p:  # a prediction keeps its distance
                p.add_(slow - real)
            real.copy_(slow)
        if returning and self.inner_state != "keep":
            self._return_buffers(returning)

    def _return_buffers(self, parameters: list[Tensor]) -> None:
        touched = False
        for p in parameters:
            own = self.state.get(p, {})
            for name in self.buffers:
                value = own.get(name)
                if not isinstance(value, Tensor):
                    continue
                touched = True
                if self.inner_state == "reset":
                    value.zero_()
                else:
                    slow = self._slow_buffers[name].setdefault(p, torch.zeros_like(value))
                    value.copy_(slow.lerp_(value, self.alpha))
        if not touched:
            there = sorted({name for own in self.state.values() for name in own})
            raise ValueError(f"buffers: got {self.buffers}; the optimizer's state has {', '.join(there) or 'nothing'}")


def _real(p: Tensor, layers: list[Wrapper]) -> Tensor:
    """The tensor that holds the real weights of a parameter."""
    held = (layer.real(p) for layer in layers if isinstance(layer, XGrad))
    return next((x for x in held if x is not None), p)


def _checked(k: int, alpha: float) -> tuple[int, float]:
    if not whole(1)(k):
        raise ValueError(f"k: got {k!r}; a whole number >= 1 is allowed")
    if not isinstance(alpha, int | float) or not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha: got {alpha!r}; a number in [0, 1] is allowed")
    return k, float(alpha)
