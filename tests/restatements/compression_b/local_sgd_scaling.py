"""Local SGD with an outer Nesterov step, its scaling laws and its time model, restated in float64 NumPy.

Q. He, X. Zhuang, Z. Wu, "Exploring Scaling Laws for Local SGD in Large Language Model Training", arXiv:2409.13198
(2024).

K workers, each with its shard:

    theta_k <- H inner steps from theta;   Delta = theta - mean_k theta_k
    m <- mu m + Delta;   theta <- theta - lr_out (Delta + mu m)                lr_out = 1, mu = 0: plain averaging
    AdamW inside:  m1 <- b1 m1 + (1 - b1) g,  m2 <- b2 m2 + (1 - b2) g^2,
                   theta <- (1 - lr wd) theta - lr (m1 / (1 - b1^t)) / (sqrt(m2 / (1 - b2^t)) + eps)
    laws:  L(N) = (N_c / N)^alpha, and so for data D and compute C, by least squares of
           log L = alpha log N_c - alpha log N
    time of H steps:  DDP    H (t_c + 2 (K - 1) / K  S / B)
                      local  H t_c + 2 (K - 1) / K  S / B                     S bytes, B bytes a second, ring all-reduce

Choices where the source leaves or contradicts itself (only its abstract and summaries of it were at hand):

* AdamW's moments and its count t stay with the worker from one synchronisation to the next, and the weights change
  under them. The source does not say whether they are reset; pass fresh ones to reset.
* The momentum form is that of torch.optim.SGD(nesterov=True), with no damping and m starting at 0.
* H, lr_out and mu are arguments; the source's values are unknown.
* The laws have no floor: L -> 0. With losses near their entropy a fitted alpha is too small, so laws are to be compared
  only over the same sizes.
* alpha = 0 leaves N_c undefined; it is then nan.
* R^2 is that of log L.
* Two stages: DDP inside clusters of K_in over B_in, local SGD between `clusters` over B_out; the outer exchange is
  between one node of each.
* Floats: each worker sends and takes d in a synchronisation, whatever the ring's own traffic; the ring moves
  2 (K - 1) / K times d through each link.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isnan, nan

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Gradient = Callable[[Array, int], Array]
"""(theta, inner step counted over the whole run) -> gradient [d]."""


def sgd_steps(theta: Array, gradient: Gradient, lr: float, first: int, steps: int) -> Array:
    """Return theta [d] after `steps` steps of SGD, numbered from `first`."""
    for s in range(first, first + steps):
        theta = theta - lr * gradient(theta, s)
    return theta


@dataclass(frozen=True)
class Moments:
    """The moments [d] of AdamW and the number of steps they have seen."""

    first: Array
    second: Array
    t: int = 0


def adamw_steps(
    theta: Array,
    moments: Moments,
    gradient: Gradient,
    lr: float,
    first: int,
    steps: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Array, Moments]:
    """Return theta [d] and the moments after `steps` steps of AdamW, numbered from `first`."""
    m1, m2, t = moments.first, moments.second, moments.t
    for s in range(first, first + steps):
        g = gradient(theta, s)
        t += 1
        m1 = betas[0] * m1 + (1 - betas[0]) * g
        m2 = betas[1] * m2 + (1 - betas[1]) * g * g
        step = m1 / (1 - betas[0] ** t) / (np.sqrt(m2 / (1 - betas[1] ** t)) + eps)
        theta = (1 - lr * weight_decay) * theta - lr * step
    return theta, Moments(m1, m2, t)


def outer_step(theta: Array, m: Array, ends: Sequence[Array], lr: float, mu: float) -> tuple[Array, Array]:
    """Return the new theta and m [d] from the workers' ends [K][d]."""
    delta = theta - np.mean(ends, axis=0)
    m = mu * m + delta
    return theta - lr * (delta + mu * m), m


def local_sgd(
    theta: Array,
    gradients: Sequence[Gradient],
    *,
    rounds: int,
    H: int,
    lr: float,
    outer_lr: float = 1.0,
    mu: float = 0.0,
) -> tuple[Array, int]:
    """Return theta after each round [rounds + 1, d], with SGD inside, and the floats each worker sent."""
    m, trajectory = np.zeros_like(theta), [theta]
    for r in range(rounds):
        ends = [sgd_steps(theta, gradient, lr, r * H, H) for gradient in gradients]
        theta, m = outer_step(theta, m, ends, outer_lr, mu)
        trajectory.append(theta)
    return np.stack(trajectory), rounds * theta.size


def local_adamw(
    theta: Array,
    gradients: Sequence[Gradient],
    *,
    rounds: int,
    H: int,
    lr: float,
    outer_lr: float = 1.0,
    mu: float = 0.0,
    weight_decay: float = 0.0,
) -> tuple[Array, int]:
    """Return theta after each round [rounds + 1, d], with AdamW inside, and the floats each worker sent."""
    m, trajectory = np.zeros_like(theta), [theta]
    moments = [Moments(np.zeros_like(theta), np.zeros_like(theta)) for _ in gradients]
    for r in range(rounds):
        ends = []
        for k, gradient in enumerate(gradients):
            end, moments[k] = adamw_steps(theta, moments[k], gradient, lr, r * H, H, weight_decay=weight_decay)
            ends.append(end)
        theta, m = outer_step(theta, m, ends, outer_lr, mu)
        trajectory.append(theta)
    return np.stack(trajectory), rounds * theta.size


def data_parallel(theta: Array, gradients: Sequence[Gradient], *, steps: int, lr: float) -> tuple[Array, int]:
    """Return theta after each step [steps + 1, d] of SGD on the mean gradient, and the floats each worker sent."""
    trajectory = [theta]
    for s in range(steps):
        theta = theta - lr * np.mean([gradient(theta, s) for gradient in gradients], axis=0)
        trajectory.append(theta)
    return np.stack(trajectory), steps * theta.size


@dataclass(frozen=True)
class Law:
    """L(x) = (scale / x)^alpha and the R^2 of its fit in logarithms."""

    scale: float
    alpha: float
    r_squared: float

    def __call__(self, x: float) -> float:
        """Return the loss that the law gives for x."""
        return float((self.scale / x) ** self.alpha)


def fit_law(sizes: Sequence[float], losses: Sequence[float]) -> Law:
    """Fit log L = alpha log scale - alpha log x by least squares to two points or more."""
    X, Y = np.log(np.asarray(sizes, float)), np.log(np.asarray(losses, float))
    slope = float(np.sum((X - X.mean()) * (Y - Y.mean())) / np.sum((X - X.mean()) ** 2))
    intercept = float(Y.mean() - slope * X.mean())
    total = float(np.sum((Y - Y.mean()) ** 2))
    residual = float(np.sum((Y - intercept - slope * X) ** 2))
    level = nan if slope == 0.0 else intercept / -slope
    scale = exp(level) if isnan(level) or level < 700.0 else inf
    return Law(scale, -slope, 1.0 if total == 0.0 else 1.0 - residual / total)


def all_reduce_seconds(workers: int, size: float, bandwidth: float) -> float:
    """Return the time of a ring all-reduce of `size` bytes: 2 (K - 1) / K size / bandwidth."""
    return 2.0 * (workers - 1) / workers * size / bandwidth


def data_parallel_seconds(H: int, compute: float, workers: int, size: float, bandwidth: float) -> float:
    """Return the time of H steps with an all-reduce after each."""
    return H * (compute + all_reduce_seconds(workers, size, bandwidth))


def local_sgd_seconds(H: int, compute: float, workers: int, size: float, bandwidth: float) -> float:
    """Return the time of H steps with one all-reduce at the end."""
    return H * compute + all_reduce_seconds(workers, size, bandwidth)


def two_stage_seconds(
    H: int, compute: float, inside: int, inner_bandwidth: float, clusters: int, outer_bandwidth: float, size: float
) -> float:
    """Return the time of H steps with DDP inside each cluster and one all-reduce between clusters at the end."""
    return data_parallel_seconds(H, compute, inside, size, inner_bandwidth) + all_reduce_seconds(
        clusters, size, outer_bandwidth
    )
