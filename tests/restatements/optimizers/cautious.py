"""Cautious optimizers (C-AdamW, C-Lion, and any other), restated in float64 NumPy.

K. Liang, L. Chen, B. Liu, Q. Liu, "Cautious Optimizers: Improving Training with One Line of Code",
arXiv:2411.16085 (2024); code: kyleliang919/C-Optim.

    u = direction of the base rule, whose step is w <- w - lr u (without decay); g = gradient of this very step
    phi = 1[u g > 0]                            per entry, strictly
    mask = phi d / (|phi|_0 + 1)                per tensor, d = its number of entries                 "count"
         = phi / max(mean(phi), 0.001)                                                                "mean"
    w <- (1 - lr lam) w - lr mask u             the decay is not masked, neither are the averages of the base rule

    C-AdamW: m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
             u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    C-Lion:  u = sign(beta1 m + (1 - beta1) g), then m = beta2 m + (1 - beta2) g

Choices where the source leaves or contradicts itself:

* Scale: d / (|phi|_0 + 1) is the paper's and that of the code's Lion; later versions of the paper and the code's
  AdamW have the mean of phi. Default: "count". With it, agreement of all entries still gives d / (d + 1), not 1.
* eps in C-AdamW: inside the corrected form above, as in the code's batched path; its loop over tensors adds eps to
  the uncorrected sqrt(v). The default 1e-6 is the code's.
* One path of the code multiplies m by m instead of g, so that nothing is masked. Not followed.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scaling = Literal["count", "mean"]


def cautious_mask(update: Array, grad: Array, *, scaling: Scaling = "count") -> Array:
    """Return the rescaled mask of one tensor; `update` points against the change of the weights, as `grad` does."""
    phi = (update * grad > 0.0).astype(np.float64)
    if scaling == "count":
        return phi * (phi.size / (phi.sum() + 1.0))
    if scaling == "mean":
        return phi / max(phi.mean(), 1e-3)
    raise ValueError(f"scaling: count or mean, got {scaling!r}")


class Cautious:
    """Wraps an object with `.params`, `.lr` and `.step(grads)` whose own decay is off; decay is done here instead.

    The object must not keep further copies of the parameters as state (averages, slow weights).
    """

    def __init__(self, inner: Any, *, weight_decay: float = 0.0, scaling: Scaling = "count") -> None:
        if getattr(inner, "weight_decay", 0.0) != 0.0:
            raise ValueError("weight_decay: give it to the wrapper, the decay is not masked")
        self.inner, self.weight_decay, self.scaling = inner, weight_decay, scaling

    @property
    def params(self) -> list[Array]:
        return self.inner.params

    @property
    def lr(self) -> float:
        return self.inner.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.inner.lr = value

    def step(self, grads: Sequence[Array | None], *further: Any) -> None:
        before = [p.copy() for p in self.inner.params]
        self.inner.step(grads, *further)
        for i, g in enumerate(grads):
            if g is None:
                continue
            lr_u = before[i] - self.inner.params[i]
            mask = cautious_mask(lr_u, g, scaling=self.scaling)
            self.inner.params[i] = (1.0 - self.lr * self.weight_decay) * before[i] - mask * lr_u


class CautiousAdamW:
    """AdamW with the masked step."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        scaling: Scaling = "count",
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay, self.scaling = lr, betas, eps, weight_decay, scaling
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t = self.t[i]
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * g**2
            u = self.m[i] / (1.0 - beta1**t) / (np.sqrt(self.v[i] / (1.0 - beta2**t)) + self.eps)
            w = (1.0 - self.lr * self.weight_decay) * self.params[i]
            self.params[i] = w - self.lr * cautious_mask(u, g, scaling=self.scaling) * u


class CautiousLion:
    """Lion with the masked step."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.95, 0.98),
        weight_decay: float = 0.0,
        scaling: Scaling = "count",
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.betas, self.weight_decay, self.scaling = lr, betas, weight_decay, scaling
        self.m = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            u = np.sign(beta1 * self.m[i] + (1.0 - beta1) * g)
            w = (1.0 - self.lr * self.weight_decay) * self.params[i]
            self.params[i] = w - self.lr * cautious_mask(u, g, scaling=self.scaling) * u
            self.m[i] = beta2 * self.m[i] + (1.0 - beta2) * g
