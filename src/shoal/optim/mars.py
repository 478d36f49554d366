"""MARS: a variance-reduced gradient, made from two gradients on one batch, before the rule of AdamW, Lion or Shampoo.

    c <- g_t + gamma beta1 / (1 - beta1) (g_t - h_t)        c <- c / max(1, |c|) for each tensor
    m <- beta1 m + (1 - beta1) c
    adamw:     p <- p - lr (m^ / (sqrt(v^) + eps) + lam p) with v of c^2
    lion:      p <- p - lr (sign(m) + lam p)
    shampoo:   p <- p - lr (sqrt(max(1, rows / columns)) NS5(m / (1 - beta1)) + lam p)

h_t is the gradient of this batch at the parameters before the last step (exact form), or g_{t-1} (approximate form, no
further cost). NS5 is five Newton-Schulz steps towards the orthogonal factor of a matrix.

H. Yuan, Y. Liu, S. Wu, X. Zhou, Q. Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
arXiv:2411.10438 (2024).

Choices: v is of c^2, as in the paper (the authors' README: of g^2). h_1 = 0, as in their code, so that the first c is
longer; the exact form takes h_1 = g_1 where it is given. Matrices are tensors of two axes, as in their code; the others
take AdamW with numbers of their own, their rate following the schedule of `lr`. NS5 is in the dtype of the state, not
in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from shoal.optim.adam import AdamScaling
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import at_least, flag, fractions
from shoal.optim.core.given import NOTHING, Supplied
from shoal.optim.core.ops import ema_, plus
from shoal.optim.core.optimizer import Settings, check_closure
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import Item
from shoal.optim.first_rate import FromFirstRate, first_rate
from shoal.optim.lion import SignOfAverage

QUINTIC = 3.4445, -4.7750, 2.0315


@dataclass(frozen=True)
class MarsGradient(Transform):
    """The variance-reduced gradient u + gamma beta1 / (1 - beta1) (u - h), no longer than `bound`.

    It may stand before any rule whose momentum decays with beta1. In the approximate form h is the update before (zero
    at first). In the exact form whoever steps fills the slot `previous` with h before each step.
    """

    granularity = "tensor"

    gamma: float = 0.025
    beta1: float = 0.95
    bound: float = 1.0
    exact: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The gradient to compare with."""
        return (Slot("previous"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the difference."""
        return {"weight": self.gamma * self.beta1 / (1.0 - self.beta1)}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Return the corrected update, and remember this one."""
        corrected = plus(u, u - s.previous, c.weight)
        if not self.exact:
            s.previous.copy_(u)
        length: Tensor = torch.linalg.vector_norm(corrected)
        return corrected.div_((length / c.bound).clamp_min(1.0))


@dataclass(frozen=True)
class OrthogonalMomentum(Transform):
    """sqrt(max(1, rows / columns)) NS5(m / (1 - beta)) of a matrix, with m <- beta m + (1 - beta) u."""

    granularity = "tensor"

    beta: float = 0.95
    eps: float = 1e-8

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum."""
        return (Slot("m"),)

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weight of the new update."""
        return {"new": 1.0 - self.beta}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the momentum and return its orthogonal factor, roughly."""
        rows, columns = p.shape
        return newton_schulz(ema_(s.m, u, c.new) / c.new, c.eps).mul_(max(1.0, rows / columns) ** 0.5)


def newton_schulz(matrix: Tensor, eps: Any, steps: int = 5) -> Tensor:
    """Roughly U V^T of a matrix U S V^T [rows, columns]: what is not tiny of S comes to lie between 0.7 and 1.2."""
    a, b, c = QUINTIC
    x: Tensor = matrix / (torch.linalg.vector_norm(matrix) + eps)
    tall = matrix.shape[0] > matrix.shape[1]
    if tall:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


@dataclass(frozen=True)
class Scaled(Transform):
    """factor u."""

    factor: float

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Multiply the update."""
        scaled: Tensor = u * c.factor
        return scaled


class MARS(FromFirstRate):
    """MARS in the form of AdamW, Lion or Shampoo.

    With `is_approx=False` each step needs the gradients of its batch at the parameters before the last one:

        optimizer.step(previous_gradients=[...])        # one for each parameter, in the order of the groups

    With `optimize_1d` the tensors that are not matrices take the variance-reduced gradient too (in the Shampoo form by
    AdamW's rule); otherwise they take AdamW on the plain one with `lr_1d`, `betas_1d` and `weight_decay_1d`. `lr_1d`
    goes with the rate `base_lr`, the group's first `lr` if it is not given: it is multiplied by lr / base_lr.
    """

    lr: float = 3e-3
    betas: tuple[float, float] = (0.95, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    gamma: float = 0.025
    is_approx: bool = True
    form: Literal["adamw", "lion", "shampoo"] = "adamw"
    optimize_1d: bool = False
    lr_1d: float = 3e-3
    betas_1d: tuple[float, float] = (0.9, 0.95)
    weight_decay_1d: float = 0.1

    about: ClassVar[dict[str, Argument]] = {
        **FromFirstRate.about,
        "gamma": Argument("how much of the variance reduction", "a finite number >= 0", at_least(0.0)),
        "is_approx": Argument("compare with the gradient of the step before", "True or False", flag),
        "form": Argument(
            "the rule that follows", "'adamw', 'lion' or 'shampoo'", lambda v: v in ("adamw", "lion", "shampoo")
        ),
        "optimize_1d": Argument("reduce the variance of all tensors, not of matrices alone", "True or False", flag),
        "lr_1d": Argument("learning rate of tensors that are not matrices", "a finite number >= 0", at_least(0.0)),
        "betas_1d": Argument("their decay rates", "two numbers in [0, 1)", fractions(2)),
        "weight_decay_1d": Argument("their decay", "a finite number >= 0", at_least(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, the variance-reduced gradient and the form's rule; or AdamW."""
        matrix = len(param.shape) == 2
        if not (matrix or h.optimize_1d):
            betas: tuple[float, float] = h.betas_1d
            factor = h.lr_1d / first_rate(h)
            scaled = (Scaled(factor),) if factor != 1.0 else ()
            return *decoupled(h.weight_decay_1d * factor), AdamScaling(*betas, h.eps), *scaled
        beta1, beta2 = h.betas
        rule: Transform = AdamScaling(beta1, beta2, h.eps)
        if h.form == "lion":
            rule = SignOfAverage(beta1, beta1)
        elif h.form == "shampoo" and matrix:
            rule = OrthogonalMomentum(beta1, h.eps)
        return *decoupled(h.weight_decay), MarsGradient(h.gamma, beta1, exact=not h.is_approx), rule

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], float] | None = None,
        *,
        previous_gradients: Sequence[Tensor | None] | None = None,
    ) -> float | None:
        """One step.

        Args:
            closure: re-evaluates the model and returns the loss, if given.
            previous_gradients: of the exact form: the gradients of this batch at the parameters before the last step,
                for each parameter in the order of the groups; None where there is no gradient or none is needed. In
                its first step a parameter may go without.

        Returns:
            The closure's loss.

        Raises:
            ValueError: `previous_gradients` for the approximate form, or of wrong number or shapes.
            RuntimeError: the exact form lacks one; or a gradient is sparse.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        given = [None] * len(parameters) if previous_gradients is None else list(previous_gradients)
        if len(given) != len(parameters):
            raise ValueError(f"previous_gradients: got {len(given)}; one for each of {len(parameters)} is allowed")
        for p, h in zip(parameters, given, strict=True):
            if h is not None and h.shape != p.shape:
                raise ValueError(f"previous_gradients: got the shape {tuple(h.shape)}; {tuple(p.shape)} is allowed")
        if previous_gradients is not None and any(group["is_approx"] for group in self.param_groups):
            raise ValueError("previous_gradients: got some; only the exact form, is_approx=False, is allowed to")
        loss = None
        if closure is not None:
            check_closure(closure)
            with torch.enable_grad():
                loss = closure()
        previous = {p: h for p, h in zip(parameters, given, strict=True) if h is not None}
        self._refuse_missing(previous)
        vars(self)["_previous"] = previous  # for the length of this step
        try:
            super().step()
        finally:
            del vars(self)["_previous"]
        return loss

    def _refuse_missing(self, previous: dict[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                compared = not group["is_approx"] and (group["optimize_1d"] or p.dim() == 2)
                if compared and p.grad is not None and self.state[p] and p not in previous:
                    raise RuntimeError("previous_gradients: the exact form needs them from the second step on")

    def _items(self, number: int, group: dict[str, Any], supplied: Supplied = NOTHING) -> list[Item]:
        items = super()._items(number, group, supplied)
        if not group["is_approx"]:
            previous: dict[Tensor, Tensor] = vars(self).get("_previous", {})
            for item in items:
                h = previous.get(item.p)
                if h is not None and "previous" in item.state:
                    item.state["previous"].copy_(-h if item.negate else h)
        return items
