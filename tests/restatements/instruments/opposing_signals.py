"""The toy of opposing signals: gradient descent on its population loss, restated in float64 NumPy.

E. Rosenfeld, A. Risteski, "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
arXiv:2311.04163 (2023).

    x ~ N(0, I_d1);   x_o = +- m u with probability p, else 0;   m = sqrt(alpha / p), |u| = 1 in R^d2
    y = beta^T x + |u^T x_o| / 2;   F = c (b^T x + b_o^T x_o)
    loss = |c b - beta|^2 / 2 + alpha c^2 (u^T b_o)^2 / 2 + alpha / 8          the last term: no F can remove it
    d/db = c (c b - beta);   d/db_o = alpha c^2 (u^T b_o) u;   d/dc = b^T (c b - beta) + alpha c (u^T b_o)^2
    Hessian  b b: c^2 I     b c: 2 c b - beta      o o: alpha c^2 u u^T     o c: 2 alpha c (u^T b_o) u
             c c: |b|^2 + alpha (u^T b_o)^2        b o: 0
    outliers of sign +-:  loss (+-m c u^T b_o - m / 2)^2 / 2  (x = 0, or its part fitted)

Choices: u is the first unit vector unless given; the sharpness is the largest eigenvalue of the whole Hessian.
"""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Toy:
    beta: Array
    u: Array
    alpha: float
    p: float
    b: Array
    b_o: Array
    c: float

    @property
    def lean(self) -> float:
        return float(self.u @ self.b_o)

    def excess_loss(self) -> float:
        fit = self.c * self.b - self.beta
        return 0.5 * float(fit @ fit) + 0.5 * self.alpha * self.c**2 * self.lean**2

    def loss(self) -> float:
        return self.excess_loss() + self.alpha / 8

    def outlier_losses(self) -> tuple[float, float]:
        m = sqrt(self.alpha / self.p)
        return (
            0.5 * (m * self.c * self.lean - m / 2) ** 2,
            0.5 * (-m * self.c * self.lean - m / 2) ** 2,
        )

    def gradient(self) -> tuple[Array, Array, float]:
        fit, c = self.c * self.b - self.beta, self.c
        return (
            c * fit,
            self.alpha * c**2 * self.lean * self.u,
            float(self.b @ fit) + self.alpha * c * self.lean**2,
        )

    def hessian(self) -> Array:
        """Order: b, b_o, c."""
        n, k, c = len(self.b), len(self.b_o), self.c
        H = np.zeros((n + k + 1, n + k + 1))
        H[:n, :n] = c**2 * np.eye(n)
        H[n : n + k, n : n + k] = self.alpha * c**2 * np.outer(self.u, self.u)
        H[:n, -1] = H[-1, :n] = 2 * c * self.b - self.beta
        H[n : n + k, -1] = H[-1, n : n + k] = 2 * self.alpha * c * self.lean * self.u
        H[-1, -1] = self.b @ self.b + self.alpha * self.lean**2
        return H

    def sharpness(self) -> float:
        return float(np.linalg.eigvalsh(self.hessian())[-1])

    def step(self, lr: float) -> "Toy":
        b, b_o, c = self.gradient()
        return replace(self, b=self.b - lr * b, b_o=self.b_o - lr * b_o, c=self.c - lr * c)


def descend(toy: Toy, lr: float, steps: int) -> list[Toy]:
    """`steps` + 1 points, the first one included."""
    points = [toy]
    for _ in range(steps):
        points.append(points[-1].step(lr))
    return points
