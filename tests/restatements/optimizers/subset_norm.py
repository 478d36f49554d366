"""Subset-Norm, Subspace-Momentum and the two together (AdamSNSM), restated in float64 NumPy.

T. H. Nguyen, H. L. Nguyen, "Efficient Adaptive Optimization via Subset-Norm and Subspace-Momentum: Fast,
Memory-Reduced Training with Convergence Guarantees", arXiv:2411.07120 (2024); from version 2 on "Lean and Mean
Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees".

    SN   v_c <- beta2 v_c + (1 - beta2) sum_{i in c} g_i^2       (beta2 = 1: v_c <- v_c + sum, AdaGrad)
    SM   g_P = P^T g;   m <- beta1 m + (1 - beta1) g_P;   n = P m + (g - P g_P);   at a refresh of P: m = 0
    SubsetNorm         theta <- theta - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v_c) + eps),   m full size
    SubspaceMomentum   theta <- theta - lr n
    AdamSNSM           theta <- theta - lr sqrt(1 - beta2^t) / (1 - beta1^t) n / (sqrt(v_c) + eps)
    all                then theta <- (1 - lr lambda) theta

    subsets of an m x n matrix: its rows if m >= n, else its columns ("heuristics"); or flat chunks of a size
    P: the top singular vectors of the gradient's shorter side, taken anew every update_proj_gap steps

Choices where the source leaves or contradicts itself:

* The reset. The authors' code puts fresh zeros into the state at a refresh but goes on with the old m in that
  step: old coefficients are mapped back with the new P, and the new gradient's part is lost. Here m
  is zero before the first step with a new P, which is what a reset is for. The step count goes on.
* When P is taken. The code does it at t = 1 and at every t divisible by the gap, so that the first P lives a
  step less than the others. Here at t = 1, 1 + gap, 1 + 2 gap, ...
* SubspaceMomentum alone is the SGD of the paper's theory: no denominator and no bias correction.
* Flat chunks: the wanted size (a positive number, or floor(sqrt(d) / k) for -k) is rounded down to a divisor of
  d. The code fails where that is 0 or more than d; here it is brought to 1 or d first.
* beta2 = 1 would make the bias-corrected step 0; the authors run AdaGrad without it, and so it must be off here.
* A rank above the shorter side is the full rank (the code's slice does the same).
* `compressed` says which tensors are treated (the authors: weights of linear layers); None: all matrices. The
  others get Adam, or full momentum for SubspaceMomentum.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SubsetSize = int | Literal["heuristics"]
Projection = Callable[[int, int, Array], Array]
"""(tensor index, step t, gradient [m, n]) -> P [min(m, n), r] with orthonormal columns."""


def chunk_size(entries: int, wanted: int) -> int:
    """Return the largest divisor of `entries` that is at most `wanted`, or at most sqrt(entries) / k for -k."""
    if wanted == 0:
        raise ValueError("subset_size: 0 is not a size; allowed are k > 0, -k for sqrt(d) / k, 'heuristics'")
    limit = wanted if wanted > 0 else int(sqrt(entries) / -wanted)
    return max(size for size in range(1, max(min(limit, entries), 1) + 1) if entries % size == 0)


def to_subsets(x: Array, subset_size: SubsetSize) -> Array:
    """Lay the entries of `x` out as [subsets, entries of a subset]."""
    if subset_size == "heuristics":
        if x.ndim != 2:
            raise ValueError(f"subset_size: 'heuristics' is for matrices, got shape {x.shape}")
        return x if x.shape[0] >= x.shape[1] else x.T
    return x.reshape(-1, chunk_size(x.size, subset_size))


def from_subsets(rows: Array, shape: tuple[int, ...], subset_size: SubsetSize) -> Array:
    """Undo `to_subsets` for an `x` of that shape."""
    if subset_size == "heuristics":
        return rows if shape[0] >= shape[1] else rows.T
    return rows.reshape(shape)


def top_singular_vectors(g: Array, rank: int) -> Array:
    """Return the top singular vectors of the shorter side of `g` [m, n] as columns [min(m, n), r]."""
    left, _, right = np.linalg.svd(g, full_matrices=False)
    return np.asarray((right.T if g.shape[0] >= g.shape[1] else left)[:, :rank])


def project(g: Array, p: Array) -> Array:
    """Return g_P: [m, r] if m >= n, else [r, n]."""
    return np.asarray(g @ p if g.shape[0] >= g.shape[1] else p.T @ g)


def project_back(g_p: Array, p: Array, shape: tuple[int, ...]) -> Array:
    """Return P g_P of the full shape."""
    return np.asarray(g_p @ p.T if shape[0] >= shape[1] else p @ g_p)


def matrices(params: Sequence[Array], compressed: Sequence[bool] | None) -> list[bool]:
    return [p.ndim == 2 for p in params] if compressed is None else list(compressed)


def check_bias_correction(betas: tuple[float, float], correct_bias: bool) -> None:
    if betas[1] == 1 and correct_bias:
        raise ValueError("correct_bias: with beta2 = 1 (AdaGrad) the corrected step is 0; pass correct_bias=False")


def step_size(lr: float, betas: tuple[float, float], t: int, correct_bias: bool) -> float:
    return lr * sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) if correct_bias else lr


class SubsetNorm:
    """Adam with one second moment a subset (AdamSN)."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        subset_size: SubsetSize = "heuristics",
        correct_bias: bool = True,
        compressed: Sequence[bool] | None = None,
    ) -> None:
        check_bias_correction(betas, correct_bias)
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.correct_bias = correct_bias
        self.subset_size = [subset_size if c else 1 for c in matrices(self.params, compressed)]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros(len(to_subsets(p, s))) for p, s in zip(self.params, self.subset_size, strict=True)]
        self.t = [0] * len(self.params)

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            size = self.subset_size[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            square = np.sum(to_subsets(g, size) ** 2, axis=1)
            self.v[i] = beta2 * self.v[i] + ((1 - beta2) if beta2 < 1 else 1.0) * square
            direction = to_subsets(self.m[i], size) / (np.sqrt(self.v[i])[:, None] + self.eps)
            alpha = step_size(self.lr, self.betas, self.t[i], self.correct_bias)
            stepped = self.params[i] - alpha * from_subsets(direction, g.shape, size)
            self.params[i] = (1 - self.lr * self.weight_decay) * stepped


class SubspaceMomentum:
    """SGD with momentum inside a subspace only; `projection` replaces the singular vectors."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        rank: int = 128,
        update_proj_gap: int = 200,
        projection: Projection | None = None,
        compressed: Sequence[bool] | None = None,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.update_proj_gap = update_proj_gap
        self.projection = projection or (lambda i, t, g: top_singular_vectors(g, rank))
        self.compressed = matrices(self.params, compressed)
        self.P: list[Array | None] = [None] * len(self.params)
        self.m: list[Array | None] = [None] * len(self.params)
        self.t = [0] * len(self.params)

    def numerator(self, i: int, g: Array) -> Array:
        """Advance m (and P, if it is time) of tensor `i` and return n."""
        if not self.compressed[i]:
            m = np.zeros_like(g) if self.m[i] is None else self.m[i]
            self.m[i] = self.momentum * m + (1 - self.momentum) * g
            return self.m[i]
        if (self.t[i] - 1) % self.update_proj_gap == 0:
            self.P[i] = np.array(self.projection(i, self.t[i], g), np.float64)
            self.m[i] = np.zeros_like(project(g, self.P[i]))
        p = self.P[i]
        g_p = project(g, p)
        self.m[i] = self.momentum * self.m[i] + (1 - self.momentum) * g_p
        return project_back(self.m[i], p, g.shape) + (g - project_back(g_p, p, g.shape))

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            stepped = self.params[i] - self.lr * self.numerator(i, g)
            self.params[i] = (1 - self.lr * self.weight_decay) * stepped


class AdamSNSM(SubspaceMomentum):
    """Subspace-Momentum over Subset-Norm; the denominator sees the square of the full gradient."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        rank: int = 128,
        update_proj_gap: int = 200,
        subset_size: SubsetSize = "heuristics",
        correct_bias: bool = True,
        projection: Projection | None = None,
        compressed: Sequence[bool] | None = None,
    ) -> None:
        check_bias_correction(betas, correct_bias)
        super().__init__(
            params,
            lr=lr,
            momentum=betas[0],
            weight_decay=weight_decay,
            rank=rank,
            update_proj_gap=update_proj_gap,
            projection=projection,
            compressed=compressed,
        )
        self.betas, self.eps, self.correct_bias = betas, eps, correct_bias
        self.subset_size = [subset_size if c else 1 for c in self.compressed]
        self.v = [np.zeros(len(to_subsets(p, s))) for p, s in zip(self.params, self.subset_size, strict=True)]

    def step(self, grads: Sequence[Array | None]) -> None:
        beta2 = self.betas[1]
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            size = self.subset_size[i]
            n = self.numerator(i, g)
            square = np.sum(to_subsets(g, size) ** 2, axis=1)
            self.v[i] = beta2 * self.v[i] + ((1 - beta2) if beta2 < 1 else 1.0) * square
            direction = to_subsets(n, size) / (np.sqrt(self.v[i])[:, None] + self.eps)
            alpha = step_size(self.lr, self.betas, self.t[i], self.correct_bias)
            stepped = self.params[i] - alpha * from_subsets(direction, g.shape, size)
            self.params[i] = (1 - self.lr * self.weight_decay) * stepped
