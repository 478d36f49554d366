"""XGrad (weight prediction), restated in float64 NumPy, with the SGD and RMSProp it wraps.

L. Guan, D. Li, Y. Shi, J. Meng, "XGrad: Boosting Gradient-Based Optimizers With Weight Prediction",
arXiv:2305.18240 (2023); code: guanleics/XGrad.

    predict:   w^ = w - s lr d,   d the last direction of the wrapped rule, read off its state
    gradient:  g = grad L(w^)
    restore:   w is what it was before the prediction
    update:    w, state <- rule(w, state, g)

    d after t steps of the rule:
    SGD        b,                                b <- momentum b + g
    RMSProp    b,                                v <- alpha v + (1 - alpha) g^2,  b <- momentum b + g / (sqrt(v) + eps)
    Adam(W)    (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    AdaMax     (m / (1 - beta1^t)) / u

Choices where the source leaves or contradicts itself:

* A tensor without state is not predicted, so the first step is that of the rule. The code asks instead whether the
  tensor has a gradient left from the last step, and then predicts nothing once gradients have been cleared.
* Decoupled decay is not predicted (so the code's AdamW). An L2 term is part of the gradient, and so of b, m and d; the
  rule adds it at the restored w, not at w^.
* lr is the one of the coming update. s may be any real number: s = momentum makes SGD Nesterov's method.
* The code has SGD with momentum, Adam and AdamW. The second version of the paper adds rules whose formulas were not at
  hand; those of RMSProp and AdaMax follow from "the last direction, from state". RMSProp without momentum has to keep
  that direction, as v alone does not give it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Direction = Callable[[Any, int], Array | None]
"""(rule, tensor index) -> d, or None as long as the tensor has no state."""


def momentum_direction(rule: Any, i: int) -> Array | None:
    """d of SGD and RMSProp below."""
    return rule.b[i]


def adam_direction(rule: Any, i: int) -> Array | None:
    """d of a rule with the state of Adam: t, m, v."""
    if rule.t[i] == 0:
        return None
    m_hat = rule.m[i] / (1 - rule.betas[0] ** rule.t[i])
    v_hat = rule.v[i] / (1 - rule.betas[1] ** rule.t[i])
    return m_hat / (np.sqrt(v_hat) + rule.eps)


def adamax_direction(rule: Any, i: int) -> Array | None:
    """d of a rule with the state of AdaMax: t, m, u; zero where u is."""
    if rule.t[i] == 0:
        return None
    m_hat = rule.m[i] / (1 - rule.betas[0] ** rule.t[i])
    return np.divide(m_hat, rule.u[i], out=np.zeros_like(m_hat), where=rule.u[i] > 0)


class XGrad:
    """Step `rule` (params, lr, step(grads)) with gradients at predicted weights; step(gradient_at) asks for them."""

    def __init__(self, rule: Any, direction: Direction, *, prediction_steps: float = 1) -> None:
        self.rule = rule
        self.direction = direction
        self.prediction_steps = prediction_steps

    @property
    def params(self) -> list[Array]:
        return self.rule.params

    @property
    def lr(self) -> float:
        return self.rule.lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.rule.lr = lr

    def predicted(self) -> list[Array]:
        """Return the weights at which the next gradient is taken. Those of the rule stay."""
        predicted = []
        for i, w in enumerate(self.rule.params):
            d = self.direction(self.rule, i)
            predicted.append(w.copy() if d is None else w - self.prediction_steps * self.rule.lr * d)
        return predicted

    def step(self, gradient_at: Callable[[list[Array]], Sequence[Array | None]]) -> None:
        self.rule.step(gradient_at(self.predicted()))


class SGD:
    """SGD with momentum and L2 decay; b is the first gradient, and None before."""

    def __init__(
        self, params: Sequence[Array], *, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.b: list[Array | None] = [None for _ in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            g = g + self.weight_decay * self.params[i]
            self.b[i] = g if self.b[i] is None else self.momentum * self.b[i] + g
            self.params[i] = self.params[i] - self.lr * self.b[i]


class RMSProp:
    """RMSProp as torch.optim has it, not centred, with L2 decay."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.v = [np.zeros_like(p) for p in self.params]
        self.b: list[Array | None] = [None for _ in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            g = g + self.weight_decay * self.params[i]
            self.v[i] = self.alpha * self.v[i] + (1 - self.alpha) * g**2
            scaled = g / (np.sqrt(self.v[i]) + self.eps)
            self.b[i] = scaled if self.b[i] is None else self.momentum * self.b[i] + scaled
            self.params[i] = self.params[i] - self.lr * self.b[i]
