"""SOAP and Shampoo, restated in float64 NumPy.

N. Vyas, D. Morwani, R. Zhao, M. Kwun, I. Shapira, D. Brandfonbrener, L. Janson, S. Kakade, "SOAP: Improving and
Stabilizing Shampoo using Adam", arXiv:2409.11321 (2024), with the details of the authors' soap.py.
V. Gupta, T. Koren, Y. Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", arXiv:1802.09568 (2018).

    SOAP, matrix W, gradient G; L = R = M = V = 0 at first
    first call   L <- (1 - beta2) G G^T;  R <- (1 - beta2) G^T G;  Q_L, Q_R = eigenvectors, largest eigenvalue first
                 W is left alone
    call t + 1   M <- beta1 M + (1 - beta1) G;   V <- beta2 V + (1 - beta2) (Q_L^T G Q_R)^2
                 W <- W - lr sqrt(1 - beta2^t) / (1 - beta1^t) Q_L [ (Q_L^T M Q_R) / (sqrt(V) + eps) ] Q_R^T
                 W <- (1 - lr lambda) W
                 L <- beta2 L + (1 - beta2) G G^T;   R likewise
                 t divisible by f:  columns of Q_L by diag(Q_L^T L Q_L), largest first, V's rows alike;
                                    Q_L <- Q of the QR decomposition of L Q_L;   Q_R likewise with V's columns

    Shampoo, W of k axes:   L_a <- L_a + G_(a) G_(a)^T,  L_a = eps I at first,  G_(a) = G unfolded along axis a
                            W <- W - lr (L_1^{-1/2k}, ..., L_k^{-1/2k}) G;   a matrix: L^{-1/4} G R^{-1/4}

Choices where the source leaves or contradicts itself:

* SOAP, tensors of 0 or 1 axis have Q = 1 (plain Adam), and sit out the first call like all others, as in the code.
  So does a side longer than `max_dim`. More than two axes: one factor for each axis.
* SOAP, M lies in the original space. The code keeps it rotated and turns it at each refresh: the same numbers.
* SOAP, eps is beside the uncorrected root; decay is of the new weights, with lr itself.
* The signs of the columns of Q do not matter. A basis of equal eigenvalues does: after one gradient of m x n the larger
  side has a null space, whose basis is LAPACK's whim. Compare implementations where the first gradient has full rank
  on each side (square matrices), or give both the same `bases`.
* Shampoo, `beta2` is None for the sum (the published form). Otherwise L_a <- beta2 L_a + (1 - beta2) G_(a) G_(a)^T from
  0 without correction, and eps I is added when the root is taken.
* Shampoo, one axis: k = 1, the full matrix AdaGrad (eps I + sum g g^T)^{-1/2} g ("full"); "diagonal" takes the diagonal
  alone. A number without axes is a vector of one.
* Shampoo, momentum: M <- beta1 M + (1 - beta1) G takes the place of the right-hand G; the factors see G. Default 0.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bases = list[Array | None]


def along(matrix: Array | None, axis: int, x: Array) -> Array:
    """`matrix` times `x` along one axis; None is the identity."""
    if matrix is None:
        return x
    return np.asarray(np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis))


def gram(x: Array, axis: int) -> Array:
    """Return the product of the unfolding along `axis` with its transpose."""
    unfolded = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return unfolded @ unfolded.T


def eigenvectors(matrix: Array) -> Array:
    """Columns, largest eigenvalue first."""
    return np.asarray(np.linalg.eigh(matrix)[1][:, ::-1])


def inverse_root(matrix: Array, power: float, floor: float) -> Array:
    """matrix^-power of a symmetric matrix whose eigenvalues are at least `floor` > 0 in exact arithmetic."""
    w, q = np.linalg.eigh(matrix)
    return np.asarray((q * np.maximum(w, floor) ** -power) @ q.T)


class SOAP:
    """SOAP; `bases` may give the first eigenvectors of each tensor and axis in the place of LAPACK's."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        frequency: int = 10,
        max_dim: int = 10000,
        bases: Sequence[Bases] | None = None,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.frequency, self.bases = frequency, bases
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.factors: list[Bases] = [
            [np.zeros((n, n)) if p.ndim > 1 and n <= max_dim else None for n in p.shape] for p in self.params
        ]
        self.q: list[Bases | None] = [None] * len(self.params)
        self.t = [0] * len(self.params)

    def accumulate(self, i: int, g: Array) -> None:
        beta2 = self.betas[1]
        self.factors[i] = [
            None if f is None else beta2 * f + (1 - beta2) * gram(g, axis) for axis, f in enumerate(self.factors[i])
        ]

    def rotated(self, q: Bases, x: Array, *, back: bool = False) -> Array:
        for axis, basis in enumerate(q):
            x = along(basis if back or basis is None else basis.T, axis, x)
        return x

    def refresh(self, i: int, q: Bases) -> Bases:
        turned: Bases = []
        for axis, (factor, basis) in enumerate(zip(self.factors[i], q, strict=True)):
            if factor is None or basis is None:
                turned.append(None)
                continue
            order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
            self.v[i] = np.take(self.v[i], order, axis=axis)
            turned.append(np.linalg.qr(factor @ basis[:, order])[0])
        return turned

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            q = self.q[i]
            if q is None:
                self.accumulate(i, g)
                given = [None if f is None else eigenvectors(f) for f in self.factors[i]]
                self.q[i] = given if self.bases is None else list(self.bases[i])
                continue
            self.t[i] += 1
            t = self.t[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * self.rotated(q, g) ** 2
            step = self.rotated(q, self.rotated(q, self.m[i]) / (np.sqrt(self.v[i]) + self.eps), back=True)
            moved = self.params[i] - self.lr * sqrt(1 - beta2**t) / (1 - beta1**t) * step
            self.params[i] = (1 - self.lr * self.weight_decay) * moved
            self.accumulate(i, g)
            if t % self.frequency == 0:
                self.q[i] = self.refresh(i, q)


class Shampoo:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 0.1,
        eps: float = 1e-4,
        beta1: float = 0.0,
        beta2: float | None = None,
        vectors: Literal["full", "diagonal"] = "full",
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.eps, self.beta1, self.beta2, self.vectors = lr, eps, beta1, beta2, vectors
        self.m = [np.zeros_like(p) for p in self.params]
        self.sums = [[np.zeros((n, n)) for n in np.atleast_1d(p).shape] for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        old, new = (1.0, 1.0) if self.beta2 is None else (self.beta2, 1 - self.beta2)
        for i, gradient in enumerate(grads):
            if gradient is None:
                continue
            g = np.atleast_1d(gradient)
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * gradient
            step = np.atleast_1d(self.m[i])
            for axis, n in enumerate(g.shape):
                outer = gram(g, axis)
                if g.ndim == 1 and self.vectors == "diagonal":
                    outer = np.diag(np.diag(outer))
                self.sums[i][axis] = old * self.sums[i][axis] + new * outer
                root = inverse_root(self.sums[i][axis] + self.eps * np.eye(n), 1 / (2 * g.ndim), self.eps)
                step = along(root, axis, step)
            self.params[i] = self.params[i] - self.lr * step.reshape(self.params[i].shape)
