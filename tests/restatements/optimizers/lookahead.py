"""Lookahead, restated in float64 NumPy.

M. R. Zhang, J. Lucas, G. Hinton, J. Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
arXiv:1907.08610 (2019); code: michaelrzhang/lookahead.

    phi_0 = theta_0                                              slow weights, taken before the first step
    theta_{t,0} = phi_{t-1};  theta_{t,i} = theta_{t,i-1} + A(theta_{t,i-1}),  i = 1..k
    phi_t = phi_{t-1} + alpha (theta_{t,k} - phi_{t-1})

    Noisy quadratic a (x - c)^2 / 2 with c ~ N(0, sigma^2), A = SGD with rate lr, r = 1 - lr a:
    V_SGD = lr^2 a^2 sigma^2 / (1 - r^2)
    V_LA  = alpha^2 (1 - r^{2k}) / (alpha^2 (1 - r^{2k}) + 2 alpha (1 - alpha) (1 - r^k)) V_SGD

Choices where the source leaves or contradicts itself:

* alpha: the paper's experiments have 0.5 and 0.8, the code 0.8. Default here: 0.5.
* Inner state at a synchronisation: kept (default), reset to zero or interpolated like the weights; the paper
  discusses all three. Interpolation starts from the zero state that belongs to phi_0. In the code the stored copy
  is the momentum itself and moves with it from the first synchronisation on, so that nothing is interpolated any
  more; here it is a copy.
* The code writes alpha theta + (1 - alpha) phi, which differs by rounding.
* A tensor without a gradient is left alone by A, but k counts the steps of all tensors together.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Lookahead:
    """Wraps an object with `.params` (list of arrays) and `.step(grads)`; gradients are those at `params`.

    `params` are the fast weights (the inner object's own list), `slow` those to evaluate with. `buffers` names the
    inner lists of arrays (for instance ("m",)) that `inner_state` "reset" and "interpolate" act on.
    """

    def __init__(
        self,
        inner: Any,
        *,
        k: int = 5,
        alpha: float = 0.5,
        inner_state: Literal["keep", "reset", "interpolate"] = "keep",
        buffers: Sequence[str] = (),
    ) -> None:
        if inner_state not in ("keep", "reset", "interpolate"):
            raise ValueError(f"inner_state: keep, reset or interpolate, got {inner_state!r}")
        self.inner, self.k, self.alpha = inner, k, alpha
        self.inner_state, self.buffers = inner_state, tuple(buffers)
        self.slow: list[Array] = [p.copy() for p in inner.params]
        self.slow_buffers: dict[str, list[Array]] = {name: [np.zeros_like(p) for p in self.slow] for name in buffers}
        self.i = 0

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
        self.inner.step(grads, *further)
        self.i += 1
        if self.i < self.k:
            return
        self.i = 0
        for j, theta in enumerate(self.inner.params):
            self.slow[j] = self.slow[j] + self.alpha * (theta - self.slow[j])
            self.inner.params[j] = self.slow[j].copy()
        if self.inner_state != "keep":
            self._synchronise_buffers()

    def _synchronise_buffers(self) -> None:
        for name in self.buffers:
            values = getattr(self.inner, name)
            slow = self.slow_buffers[name]
            for j, value in enumerate(values):
                if value is None:
                    continue
                if self.inner_state == "reset":
                    values[j] = np.zeros_like(value)
                else:
                    slow[j] = slow[j] + self.alpha * (value - slow[j])
                    values[j] = slow[j].copy()
