"""SANIA, restated in float64 NumPy.

F. Abdukhakimov, C. Xiang, D. Kamzolov, R. M. Gower, M. Takac, "SANIA: Polyak-type Optimization Framework Leads to Scale
Invariant Stochastic Algorithms", arXiv:2312.17369 (2023), with the details of the authors' code.

    f, g: loss and gradient of one batch at w;   q = <g, B^-1 g> over all tensors together
    lam = 1 - sqrt(1 - 2 (f - f*) / q)  if 2 (f - f*) <= q,  else 1;     w <- w - lam B^-1 g

    adagrad_sqr   B = diag(sum_s g_s^2)              adagrad   B = diag(sqrt(sum_s g_s^2))
    adam_sqr      B = diag(vhat),  v <- beta2 v + (1 - beta2) g^2,  vhat = v / (1 - beta2^t)
    adam          B = diag(sqrt(vhat))
    hutchinson    B = diag(|D|),   D <- beta2 D + (1 - beta2) z . (H z),   D = z . (H z) at the first step
    newton        B = H, the Hessian of the batch's loss

Choices where the source leaves or contradicts itself:

* Floor. What stands under the root, or B where there is none, is max(., eps): with roots B >= sqrt(eps). So the code.
  eps = 0: an entry B = 0 has gradient 0 and direction 0. Newton has no floor.
* Hutchinson is not in the authors' published code. The running diagonal is that of OASIS, begun with the first estimate
  and without bias correction, its magnitude floored.
* Newton is over all tensors joined to one vector, in the order given; a singular H has the direction of least norm
  (what conjugate gradients from 0 find). q <= 0 gives lam = 1.
* f < f*: the formula would climb. lam = 0 here. f = f* and q = 0: nothing moves.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["adagrad_sqr", "adagrad", "adam_sqr", "adam", "hutchinson", "newton"]


def polyak_factor(excess: float, q: float) -> float:
    """Return lam for excess = f - f* and q = <g, B^-1 g>."""
    if 2 * excess > q or q <= 0:
        return 1.0
    return max(0.0, 1 - sqrt(1 - 2 * excess / q))


class SANIA:
    """SANIA; `step` takes the products z . (H z) for "hutchinson" and the joined Hessian [d, d] for "newton"."""

    def __init__(
        self,
        params: Sequence[Array],
        kind: Kind = "adam_sqr",
        *,
        beta2: float = 0.999,
        eps: float = 0.1,
        lower_bound: float = 0.0,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.kind, self.beta2, self.eps, self.lower_bound = kind, beta2, eps, lower_bound
        self.b = [np.zeros_like(p) for p in self.params]
        self.t, self.lam = 0, 0.0

    def diagonal(self, i: int, g: Array, product: Array | None) -> Array:
        """Advance the state of tensor `i` and return B's diagonal."""
        if self.kind in ("adagrad_sqr", "adagrad"):
            self.b[i] = self.b[i] + g**2
            b = self.b[i]
        elif self.kind in ("adam_sqr", "adam"):
            self.b[i] = self.beta2 * self.b[i] + (1 - self.beta2) * g**2
            b = self.b[i] / (1 - self.beta2**self.t)
        else:
            if product is None:
                raise ValueError("products: z . (H z) of each tensor is needed, got None")
            self.b[i] = product if self.t == 1 else self.beta2 * self.b[i] + (1 - self.beta2) * product
            b = np.abs(self.b[i])
        b = np.maximum(b, self.eps)
        return np.asarray(np.sqrt(b) if self.kind in ("adagrad", "adam") else b)

    def directions(
        self, grads: Sequence[Array], products: Sequence[Array] | None, hessian: Array | None
    ) -> list[Array]:
        if self.kind == "newton":
            if hessian is None:
                raise ValueError("hessian: the Hessian of the batch's loss is needed, got None")
            joined = np.linalg.lstsq(hessian, np.concatenate([g.ravel() for g in grads]), rcond=None)[0]
            cuts = np.cumsum([g.size for g in grads])[:-1]
            return [part.reshape(g.shape) for part, g in zip(np.split(joined, cuts), grads, strict=True)]
        out = []
        for i, g in enumerate(grads):
            b = self.diagonal(i, g, None if products is None else products[i])
            out.append(np.divide(g, b, out=np.zeros_like(g), where=b > 0))
        return out

    def step(
        self,
        grads: Sequence[Array],
        loss: float,
        *,
        products: Sequence[Array] | None = None,
        hessian: Array | None = None,
    ) -> None:
        self.t += 1
        grads = [np.array(g, np.float64) for g in grads]
        directions = self.directions(grads, products, hessian)
        q = sum(float(np.sum(g * u)) for g, u in zip(grads, directions, strict=True))
        self.lam = polyak_factor(loss - self.lower_bound, q)
        self.params = [p - self.lam * u for p, u in zip(self.params, directions, strict=True)]
