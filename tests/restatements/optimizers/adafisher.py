"""AdaFisher and AdaFisherW, restated in float64 NumPy.

D. M. Gomes, Y. Zhang, E. Belilovsky, G. Wolf, M. S. Hosseini, "AdaFisher: Adaptive Second Order Optimization via Fisher
Information", arXiv:2405.16397 (2024), with the details of the authors' optimizers/AdaFisher.py.

    a layer with input h and gradient s of the mean loss with respect to its output, every T_cov-th step:
        H = mean of [h, 1]^2;   S = mean of s^2;   each   x <- (x - min x) / (max x - min x + 1e-6)
        H_D <- 0.1 gamma H_D + 0.01 gamma H;   S_D likewise;   both are ones at first
    F[o, i] = S_D[o] H_D[i] + lambda;   last column: the bias;   parameters of no layer: F = 1
    m <- beta m + (1 - beta) g
    AdaFisher    theta <- theta - lr m / ((1 - beta^t) F)                         with  g <- g + weight_decay theta
    AdaFisherW   theta <- theta - lr (m / ((1 - beta^t) F) + weight_decay theta)

    linear     rows of h are the samples, and positions;  H has n_in + 1 entries, S n_out
    conv       rows are the positions of the output, h the window that each sees (channel, then row, then column)
    norms      weight and bias are of shape [C], so H must have two entries: see below

Choices where the source leaves or contradicts itself:

* Norms are written as in the code. With B samples and P positions, a_c = sum h_c / P^2 for each of the C channels
  (batch norm) or, for layer norm, for each index of the second axis (the token, or the feature if there are two axes):
  H = [ sum_c a_c^2, C ] / B^2. S[c] = (sum of s_c over samples and positions)^2 / B. After the minimum and maximum H is
  (r / (r + 1e-6), 0) or the reverse, r the distance of the two numbers.
* The averages do not add up to 1: 0.08 and 0.008 at gamma = 0.8. The text's form (gamma, 1 - gamma) is `factors`.
* Step 0 is the first to be seen, then T_cov, 2 T_cov, ...: both sides are measured before the step of that number.
* No bias: no 1 is appended. Infinite entries are no concern here.
* Parameters of no layer have F = 1, as the text has it; the authors' loop counts layers while it walks over tensors and
  stops short when there are such parameters.
* Grouped convolutions: rows of all groups together, as in the code; the window is of one group's channels.
* A layer's normalised vector is the same for any scale of the loss up to the 1e-6: with mean losses S is of order
  1 / B^2, so that the 1e-6 counts.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def min_max(x: Array) -> Array:
    return np.asarray((x - x.min()) / (x.max() - x.min() + 1e-6))


def mean_square(rows: Array) -> Array:
    return np.asarray(np.mean(rows**2, axis=0))


def with_one(rows: Array, bias: bool) -> Array:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1) if bias else rows


def linear_factors(h: Array, s: Array, *, bias: bool = True) -> tuple[Array, Array]:
    """H and S of a linear layer: h [..., n_in], s [..., n_out]."""
    rows = with_one(h.reshape(-1, h.shape[-1]), bias)
    return mean_square(rows), mean_square(s.reshape(-1, s.shape[-1]))


def windows(
    h: Array, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0)
) -> Array:
    """[B, C, height, width] -> [B x output positions, C x kernel height x kernel width]."""
    h = np.pad(h, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    rows = []
    for top in range(0, h.shape[2] - kernel[0] + 1, stride[0]):
        for left in range(0, h.shape[3] - kernel[1] + 1, stride[1]):
            rows.append(h[:, :, top : top + kernel[0], left : left + kernel[1]].reshape(len(h), -1))
    return np.concatenate(rows)


def conv_factors(
    h: Array,
    s: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    *,
    groups: int = 1,
    bias: bool = True,
) -> tuple[Array, Array]:
    """H and S of a convolution: h [B, C, height, width], s [B, C_out, height, width]."""
    parts = np.split(h, groups, axis=1)
    rows = with_one(np.concatenate([windows(part, kernel, stride, padding) for part in parts]), bias)
    return mean_square(rows), mean_square(np.moveaxis(s, 1, -1).reshape(-1, s.shape[1]))


def batch_norm_factors(h: Array, s: Array) -> tuple[Array, Array]:
    """H (weight, bias) and S of a batch norm: h, s [B, C, height, width]."""
    batch, positions = h.shape[0], h.shape[2] * h.shape[3]
    a = h.sum(axis=(0, 2, 3)) / positions**2
    return np.array([np.sum(a**2), len(a)]) / batch**2, s.sum(axis=(0, 2, 3)) ** 2 / batch


def layer_norm_factors(h: Array, s: Array) -> tuple[Array, Array]:
    """H (weight, bias) and S of a layer norm over the last axis: h, s [B, ..., C]."""
    batch, others = h.shape[0], tuple(axis for axis in range(h.ndim) if axis != 1)
    positions = np.prod([h.shape[axis] for axis in others[1:]])
    a = h.sum(axis=others) / positions**2
    return np.array([np.sum(a**2), len(a)]) / batch**2, s.sum(axis=tuple(range(s.ndim - 1))) ** 2 / batch


class AdaFisher:
    """AdaFisher. `layers` names, for each layer, the place of its weight and of its bias (or None) among the tensors.

    `step` is fed the gradients and, at the steps 0, T_cov, 2 T_cov, ..., each layer's H and S as measured.
    """

    decoupled = False

    def __init__(
        self,
        params: Sequence[Array],
        layers: Mapping[str, tuple[int, int | None]],
        *,
        lr: float = 1e-3,
        beta: float = 0.9,
        lam: float = 1e-3,
        gamma: float = 0.8,
        factors: tuple[float, float] | None = None,
        t_cov: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.layers, self.lr, self.beta, self.lam, self.t_cov = dict(layers), lr, beta, lam, t_cov
        self.factors = (0.1 * gamma, 0.01 * gamma) if factors is None else factors
        self.weight_decay = weight_decay
        self.m = [np.zeros_like(p) for p in self.params]
        self.h: dict[str, Array] = {}
        self.s: dict[str, Array] = {}
        self.fisher = [np.ones_like(p) for p in self.params]
        self.t = 0

    def running(self, old: Array | None, measured: Array) -> Array:
        keep, take = self.factors
        return keep * (np.ones_like(measured) if old is None else old) + take * min_max(measured)

    def measure(self, measured: Mapping[str, tuple[Array, Array]]) -> None:
        for name, (weight, bias) in self.layers.items():
            h, s = measured[name]
            self.h[name] = self.running(self.h.get(name), h)
            self.s[name] = self.running(self.s.get(name), s)
            fisher = np.outer(self.s[name], self.h[name]) + self.lam
            self.fisher[weight] = (fisher if bias is None else fisher[:, :-1]).reshape(self.params[weight].shape)
            if bias is not None:
                self.fisher[bias] = fisher[:, -1]

    def step(self, grads: Sequence[Array], measured: Mapping[str, tuple[Array, Array]] | None = None) -> None:
        if (measured is not None) != (self.t % self.t_cov == 0):
            raise ValueError(f"measured: needed at the steps divisible by {self.t_cov} and at no others, not {self.t}")
        if measured is not None:
            self.measure(measured)
        self.t += 1
        for i, g in enumerate(grads):
            theta = self.params[i]
            coupled, apart = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
            self.m[i] = self.beta * self.m[i] + (1 - self.beta) * (g + coupled * theta)
            m_hat = self.m[i] / (1 - self.beta**self.t)
            self.params[i] = theta - self.lr * (m_hat / self.fisher[i] + apart * theta)


class AdaFisherW(AdaFisher):
    decoupled = True
