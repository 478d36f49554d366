"""XGrad: gradients are taken where the optimizer is expected to be some steps later.

    g = grad L(w^),  w^ = w - s lr d,  d the last update        then w, d <- optimizer(w, g)

With momentum mu and s = mu, w^ follows Nesterov's method.

L. Guan, D. Li, Y. Shi, J. Meng, "XGrad: Boosting Gradient-Based Optimizers With Weight Prediction", arXiv:2305.18240
(2023).

Choices. Between steps the parameters hold w^ and the optimizer w, so that training loops stay as they are; `eval` shows
w. d is the update just taken, without decoupled decay. The rate is the one of that step; where a schedule has moved it
since, `predict` takes the coming one, as the paper has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Optimizer, Rule, Scalars, Slot, State, Transform
from shoal.optim.core.ops import minus_
from shoal.optim.wrapping import Wrapper, decay_left

REAL = "real_weights"


@dataclass(frozen=True)
class PredictedWeights(Transform):
    """Predicted weights in the parameter, the real ones in a slot.

    It stands at the front of a chain, so that the real weights are back before anything else looks at the parameter,
    and the prediction comes after everything else: `xgrad` puts it there. What others do to the parameter between steps
    (a mean with neighbours) is done to the prediction, and gone with it.

    Attributes:
        prediction_steps: s.
    """

    prediction_steps: float = 1.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The real weights."""
        return (Slot(REAL, start="parameter"),)

    def before(self, p: Tensor, s: State, c: Scalars) -> None:
        """Put the real weights back."""
        p.copy_(s.real_weights)

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Remember the stepped weights, and go ahead."""
        s.real_weights.copy_(p)
        minus_(p, u, c.prediction_steps * c.pace)


def xgrad(rule: Rule, prediction_steps: float = 1.0) -> Rule:
    """The rule with predicted weights, for stacked peers.

    Raises:
        ValueError: `prediction_steps` is not allowed.
    """
    return rule.then(ahead=(PredictedWeights(_checked(prediction_steps)),))


class XGrad(Wrapper):
    """Any optimizer with gradients at predicted weights: `XGrad(Adam(model.parameters()))`.

    Call `eval()` before evaluating or saving the model, and `train()` before going on. For optimizers that are not
    Shoal's the last update is the change of the parameter, without decoupled decay where that is known
    (`wrapping.decay_left`).

    Args:
        optimizer: any `torch.optim.Optimizer` that calls a closure no more than once, another wrapper too.
        prediction_steps: s, any finite number; 0 is the optimizer itself.

    Raises:
        ValueError: an argument is not allowed, or the optimizer is an XGrad already.
    """

    place: ClassVar[int] = 1
    ahead: ClassVar[bool] = True
    once: ClassVar[bool] = True
    elsewhere: ClassVar[bool] = True

    prediction_steps: float

    def __init__(self, optimizer: torch.optim.Optimizer, *, prediction_steps: float = 1.0) -> None:
        if isinstance(optimizer, Wrapper) and any(isinstance(layer, XGrad) for layer in optimizer.layers):
            raise ValueError("optimizer: got one that predicts already; choose prediction_steps instead")
        super().__init__(optimizer, prediction_steps=_checked(prediction_steps), _weights={}, _rates={})

    _weights: dict[Tensor, Tensor]  # the real ones, of foreign optimizers
    _rates: dict[Tensor, float]  # learning rate of the last prediction

    def attach(self) -> None:
        """Put the prediction at the front of the chains of one of Shoal's optimizers."""
        core, own = self.core, PredictedWeights(self.prediction_steps)
        if isinstance(core, Optimizer) and own not in core.ahead:  # a copy has it already
            core.ahead = (own, *core.ahead)
            core._chains = {}

    def kept(self) -> dict[str, dict[Tensor, Any]]:
        """The real weights, unless one of Shoal's optimizers keeps them, and the rates of the predictions."""
        return {"real": self._weights, "lr": self._rates}

    def real(self, p: Tensor) -> Tensor | None:
        """The tensor that holds the real weights of a parameter; None as long as it is the parameter."""
        if isinstance(self.core, Optimizer):
            found: Tensor | None = self.core.state[p].get(REAL) if p in self.core.state else None
            return found
        return self._weights.get(p)

    def shown(self, p: Tensor) -> Tensor | None:
        """The real weights."""
        return self.real(p)

    @torch.no_grad()
    def predict(self) -> None:
        """Predict again, with the learning rates that the groups have now: for use after a scheduler's step.

        Where the rate was 0 in the last step, the update is not known any more and nothing is predicted.

        Raises:
            RuntimeError: parameters hold the weights to evaluate.
        """
        if self.evaluating:
            raise RuntimeError("predict: parameters hold the weights to evaluate; call train() first")
        for group, p in self.parameters():
            real, before, now = self.real(p), self._rates.get(p), float(group["lr"])
            if real is not None and before and before != now:
                p.copy_(torch.lerp(real, p.to(real.dtype), now / before))
                self._rates[p] = now

    def before(self, layers: list[Wrapper]) -> None:
        """Put the real weights back."""
        core = self.core
        for group, p in self.parameters():
            if p.grad is None:
                continue
            self._rates[p] = float(group["lr"])
            if isinstance(core, Optimizer):
                continue
            if p in self._weights:
                p.copy_(self._weights[p])
            else:
                self._weights[p] = p.detach().clone()

    def after(self, layers: list[Wrapper]) -> None:
        """Predict."""
        if isinstance(self.core, Optimizer):
            return
        for group, p in self.parameters():
            if p.grad is not None:
                kept = self._weights[p]
                change = kept.mul_(decay_left(self.core, group)).sub_(p)
                predicted = torch.sub(p, change, alpha=self.prediction_steps)
                kept.copy_(p)
                p.copy_(predicted)


def _checked(steps: float) -> float:
    if not isinstance(steps, int | float) or isinstance(steps, bool) or not math.isfinite(steps):
        raise ValueError(f"prediction_steps: got {steps!r}; a finite number is allowed")
    return float(steps)
