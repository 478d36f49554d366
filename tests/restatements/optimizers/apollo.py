"""APOLLO and APOLLO-Mini, restated in float64 NumPy.

H. Zhu, Z. Zhang, W. Cong, X. Liu, S. Park, V. Chandra, B. Long, D. Z. Pan, Z. Wang, J. Lee, "APOLLO: SGD-like
Memory, AdamW-level Performance", arXiv:2412.05270 (2024).

    R = G P^T, P [r, n] (m >= n),   or   R = P^T G, P [m, r] (m < n);   entries of P from N(0, 1/r)
    M <- beta1 M + (1 - beta1) R;   V <- beta2 V + (1 - beta2) R^2;   R~ = M / (sqrt(V) + eps)
    channel   s_j = |R~_j| / (|R_j| + 1e-8), norms over the r axis, j along the longer side of G
    tensor    s   = |R~| / (|R| + 1e-8)
    U = G s, limited: U / (max(|U| / (l + 1e-8), gamma) / gamma) with l the limited |U| of the step before
    theta <- theta - lr sqrt(1 - beta2^t) / (1 - beta1^t) sqrt(scale) U;   then theta <- (1 - lr lambda) theta

    APOLLO: channel, scale 1. APOLLO-Mini: tensor, rank 1, scale 128. Other tensors: AdamW, with the same form of
    the bias correction (R~ for U).

Choices where the source leaves or contradicts itself:

* The bias correction. The paper's equations do not show it; the authors' code has it in the step size, so that
  eps is not corrected and the limiter does not see it. As in the code.
* The small numbers 1e-8 in the scale and in the limiter are the code's.
* The limiter compares with the limited norm and leaves the first step alone. After a zero gradient it lets U grow
  from 1e-8 only. Its place before or after
  sqrt(scale) (`scale_front`) matters only through its 1e-8; before is the default, as in the code.
* M and V are kept when P changes, as in the code.
* The paper's alpha multiplies U; the code's scale is its square (Mini: alpha = sqrt(128)).
* m = n counts as m >= n. The rank is not bounded by the shorter side.
* `compressed` says which tensors are treated (the authors: attention and MLP weights); None: all matrices.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Projection = Callable[[int, int, tuple[int, int]], Array]
"""(tensor index, step t, shape) -> P of that shape, (r, n) or (m, r), its factor 1 / sqrt(r) included."""


class APOLLO:
    """APOLLO; `projection` is asked for a P at t = 1, 1 + gap, 1 + 2 gap, ... of every compressed tensor."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        projection: Projection,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        rank: int = 256,
        scale: float = 1.0,
        scale_type: Literal["channel", "tensor"] = "channel",
        update_proj_gap: int = 200,
        norm_growth: float | None = 1.01,
        scale_front: bool = False,
        compressed: Sequence[bool] | None = None,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.projection = projection
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.rank, self.scale, self.scale_type = rank, scale, scale_type
        self.update_proj_gap, self.norm_growth, self.scale_front = update_proj_gap, norm_growth, scale_front
        self.compressed = [p.ndim == 2 for p in self.params] if compressed is None else list(compressed)
        low = [
            self.low_rank_shape(p.shape) if c else p.shape for p, c in zip(self.params, self.compressed, strict=True)
        ]
        self.P: list[Array | None] = [None] * len(self.params)
        self.M = [np.zeros(shape) for shape in low]
        self.V = [np.zeros(shape) for shape in low]
        self.limited_norm: list[float | None] = [None] * len(self.params)
        self.t = [0] * len(self.params)

    def low_rank_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the shape of R for a gradient of that shape."""
        return (shape[0], self.rank) if shape[0] >= shape[1] else (self.rank, shape[1])

    def project(self, i: int, g: Array) -> Array:
        """Return R, with a new P if it is time."""
        m, n = g.shape
        if (self.t[i] - 1) % self.update_proj_gap == 0:
            shape = (self.rank, n) if m >= n else (m, self.rank)
            self.P[i] = np.array(self.projection(i, self.t[i], shape), np.float64).reshape(shape)
        p = self.P[i]
        return np.asarray(g @ p.T if m >= n else p.T @ g)

    def scaling(self, r: Array, r_tilde: Array, shape: tuple[int, ...]) -> Array:
        """Return s, with axes to multiply a gradient of that shape."""
        axis = None if self.scale_type == "tensor" else (1 if shape[0] >= shape[1] else 0)
        norm = np.sqrt(np.sum(r_tilde**2, axis=axis, keepdims=True))
        return np.asarray(norm / (np.sqrt(np.sum(r**2, axis=axis, keepdims=True)) + 1e-8))

    def limit(self, i: int, u: Array) -> Array:
        """Return U with its growth in norm limited, and remember the norm."""
        norm = float(np.sqrt(np.sum(u**2)))
        before = self.limited_norm[i]
        limiter = 1.0
        if before is not None:
            limiter = max(norm / (before + 1e-8), self.norm_growth) / self.norm_growth
        self.limited_norm[i] = norm / limiter
        return u / limiter

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            r = self.project(i, g) if self.compressed[i] else g
            self.M[i] = beta1 * self.M[i] + (1 - beta1) * r
            self.V[i] = beta2 * self.V[i] + (1 - beta2) * r**2
            u = self.M[i] / (np.sqrt(self.V[i]) + self.eps)
            if self.compressed[i]:
                u = g * self.scaling(r, u, g.shape)
                if self.scale_front:
                    u = sqrt(self.scale) * u
                if self.norm_growth is not None:
                    u = self.limit(i, u)
                if not self.scale_front:
                    u = sqrt(self.scale) * u
            alpha = self.lr * sqrt(1 - beta2 ** self.t[i]) / (1 - beta1 ** self.t[i])
            self.params[i] = (1 - self.lr * self.weight_decay) * (self.params[i] - alpha * u)


class APOLLOMini(APOLLO):
    """APOLLO-Mini: one scale a tensor from a projection of rank 1."""

    def __init__(
        self,
        params: Sequence[Array],
        *,
        projection: Projection,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        rank: int = 1,
        scale: float = 128.0,
        update_proj_gap: int = 200,
        norm_growth: float | None = 1.01,
        scale_front: bool = False,
        compressed: Sequence[bool] | None = None,
    ) -> None:
        super().__init__(
            params,
            projection=projection,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            rank=rank,
            scale=scale,
            scale_type="tensor",
            update_proj_gap=update_proj_gap,
            norm_growth=norm_growth,
            scale_front=scale_front,
            compressed=compressed,
        )
