"""SAVIC, local SGD with a preconditioner that is refreshed at communications, restated in float64 NumPy.

S. Chezhegov, S. Skorik, N. Khachaturov, D. Shalagin, A. Avetisyan, M. Takáč, Y. Kholodov, A. Beznosikov, "Local Methods
with Adaptivity via Scaling", arXiv:2406.00846 (2024). The rules with their betas: A. Beznosikov, A. Alanov, D. Kovalev,
M. Takáč, A. Gasnikov, "On scaled methods for saddle point problems", arXiv:2206.08303 (2022).

    between communications:  x_m <- x_m - gamma g_m / D_hat
    at a communication:      x_m <- mean_m x_m, then a refresh of D with a diagonal estimate H at the mean
    squared rule (Adam, RMSProp):  D^2 <- beta_t D^2 + (1 - beta_t) H^2;   H = stochastic gradient
    linear rule (OASIS):           D   <- beta_t D + (1 - beta_t) H;       H = v * (Hessian v), v of signs
    RMSProp, OASIS: beta_t = beta;   Adam: beta_t = (beta - beta^(t + 1)) / (1 - beta^(t + 1))
    D_hat = max(alpha, |D|)
    global scaling: H = mean over the clients of theirs, D common;   local scaling: each client its own H_m and D_m

Choices where the source leaves or contradicts itself:

* t counts the refreshes, from 0, not the steps. Only so is Adam's rule Adam's: D^2 is then the bias-corrected
  average of H^2: D_t^2 = v_t / (1 - beta^(t + 1)) with v_t = beta v_(t - 1) + (1 - beta) H_t^2. With t counting
  steps the weights of early refreshes would be those of a later time.
* The first refresh of RMSProp and OASIS has no D to start from, and beta = 0.999 of a D = 0 would make steps
  1 / sqrt(0.001) or 1000 times too long. Here the first refresh takes the estimate alone (beta_0 = 0, as Adam's is), as
  OASIS' authors start from an estimate. Who wants another D passes it.
* The first refresh is at t_0 = 0, before any local step: steps are never taken without an estimate.
* Global scaling squares the mean of the gradients, not the mean of the squares.
* Estimates are arguments: whether the gradient of a refresh is also that of the next step is left to the caller.
* D of the linear rule keeps its sign; only D_hat takes |D|.
* Floats per client and communication: d up and d down for x; global scaling d more up and d more down; local none.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rule = Literal["adam", "rmsprop", "oasis"]


def beta_at(t: int, beta: float, rule: Rule) -> float:
    """Return beta_t of the refresh number t = 0, 1, ..."""
    if t == 0:
        return 0.0
    if rule == "adam":
        return (beta - beta ** (t + 1)) / (1.0 - beta ** (t + 1))
    return beta


def refresh(D: Array, H: Array, t: int, beta: float, rule: Rule) -> Array:
    """Return the new D [...] from the estimate H of the same shape."""
    b = beta_at(t, beta, rule)
    if rule == "oasis":
        return b * D + (1.0 - b) * H
    return np.sqrt(b * D**2 + (1.0 - b) * H**2)


def clamp(D: Array, alpha: float) -> Array:
    """Return D_hat = max(alpha, |D|)."""
    return np.maximum(alpha, np.abs(D))


def hutchinson(hessian_times: Callable[[Array], Array], signs: Array) -> Array:
    """Return v * (Hessian v) [d] for signs v [d] of -1 and 1; its expectation is the diagonal of the Hessian."""
    return signs * hessian_times(signs)


def local_steps(
    x: Array, D_hat: Array, gradient: Callable[[int, Array, int], Array], gamma: float, steps: int
) -> Array:
    """Return x [M, d] after `steps` steps of every client; D_hat [M, d] or [d]; gradient(m, x_m, step) -> [d]."""
    scales = np.broadcast_to(D_hat, x.shape)
    ends = []
    for m, (row, scale) in enumerate(zip(x, scales, strict=True)):
        for s in range(steps):
            row = row - gamma * gradient(m, row, s) / scale
        ends.append(row)
    return np.stack(ends)


def communicate(x: Array) -> Array:
    """Return [M, d] with the mean of x [M, d] in every row."""
    return np.tile(x.mean(axis=0), (len(x), 1))


def run(
    x0: Array,
    gradient: Callable[[int, int, Array, int], Array],
    estimate: Callable[[int, int, Array], Array],
    *,
    clients: int,
    rounds: int,
    steps: int,
    gamma: float,
    rule: Rule,
    beta: float = 0.999,
    alpha: float = 1e-8,
    scaling: Literal["global", "local"] = "global",
    D0: Array | None = None,
) -> tuple[Array, Array, int, int]:
    """Run from x0 [d]: each round is a refresh at the common point, `steps` local steps, a mean.

    gradient(round, m, x_m, step) and estimate(round, m, x_m) return [d]. A given D0 [d] or [M, d] is what the first
    refresh (then number 1) starts from. Returns the common points [rounds + 1, d], the last D and the floats up and
    down of each client.
    """
    x = np.tile(x0, (clients, 1))
    D = np.zeros((clients, x0.size)) if D0 is None else np.broadcast_to(D0, x.shape).copy()
    first = 0 if D0 is None else 1
    trajectory, up, down = [x0.copy()], 0, 0
    for r in range(rounds):
        H = np.stack([estimate(r, m, x[m]) for m in range(clients)])
        if scaling == "global":
            H = communicate(H)
            up, down = up + x0.size, down + x0.size
        D = refresh(D, H, r + first, beta, rule)
        x = local_steps(x, clamp(D, alpha), lambda m, row, s, r=r: gradient(r, m, row, s), gamma, steps)
        x = communicate(x)
        up, down = up + x0.size, down + x0.size
        trajectory.append(x[0].copy())
    return np.stack(trajectory), D, up, down
