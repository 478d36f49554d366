"""ProxSkip-VIP-FL in its GDA, SGDA and L-SVRG forms, and local GDA, restated in float64 NumPy.

S. Zhang, S. Choudhury, S. U. Stich, N. Loizou, "Communication-Efficient Gradient Descent-Accent Methods for Distributed
Variational Inequalities: Unified Analysis and Local Updates", arXiv:2306.05100 (2023); code: isayantan/ProxSkipVIP.

n clients, F = (1/n) sum_i F_i, all x_i = x0, h_i = 0; one coin Theta ~ Bernoulli(p) for all:

    x_hat_i = x_i - gamma (g_i - h_i)
    Theta = 1:  x_i <- proj(mean_j (x_hat_j - (gamma / p) h_j)),   h_i <- h_i + (p / gamma) (x_i - x_hat_i)
    Theta = 0:  x_i <- x_hat_i
    g_i:  GDA     F_i(x_i)
          SGDA    mean_{j in batch} F_ij(x_i)
          L-SVRG  mean_{j in batch} (F_ij(x_i) - F_ij(w_i)) + F_i(w_i);
                  then, with probability q, w_i <- x_i as it was before the step
    gamma = 1 / (2 l), p = sqrt(gamma mu)

Cocoercivity of the linear operator u -> M u: the least l with <Mu, u> >= |Mu|^2 / l for all u. With v = M u and M
regular that is 1 / l = lambda_min(sym(M^-1)). Of S = sym(M), in general: l = lambda_max(S^(-1/2) M'M S^(-1/2)) on the
range of S, if S >= 0 and M vanishes where S does; else there is none.

Choices where the source leaves or contradicts itself:

* The authors' code takes 1 / min Re(1 / lambda) over the eigenvalues of M. That is the cocoercivity constant only of a
  normal M. The eigenvalues lie inside of the numerical range, so it is never too large and mostly too small: on games
  with A, C of eigenvalues in [0.01, 1] and B in [0, 1], d = 20, it was 0.9 to 3.8 where the constant is 2.9 to 36.
  Both are here; with the true one steps are up to ten times shorter, and safe.
* The paper's step for GDA is 1 / (2 l), the code's 1 / l. gamma and p are arguments.
* The code of the stochastic forms divides the operator by n once more, that is it solves (1/n^2) sum F_i with n times
  shorter steps. Not here.
* The code's L-SVRG lets w and x be one array until the first communication, so that w follows every local step and
  the estimate is the whole operator. Not here: w is a copy.
* w_i moves to the x_i at which the estimate was taken. The code flips one coin for all clients; here [n] bits, which
  may be equal.
* sum_i h_i = 0 holds without a constraint set only.
* mu is that of what is to be solved, lambda_min of sym(M) for the mean M; the code takes the least over the clients.
* How much is gained depends on the step of the rival. On the games above (n = 10, 100 rounds) GDA with the clients'
  worst l, gamma = 1 / (2 * 36), is at 0.3; with the l of the mean operator, which is all that GDA needs and is 1.6, at
  6e-13. ProxSkip with gamma = 1 / (2 * 36) was at 3e-10 with mu of the mean, at 2e-28 with the least mu of a client
  (five times more local steps).
* Local GDA: every client makes the same number of GDA steps from the common point, then the mean. Step size constant.
* Floats: d up and d down for each client in each iteration with Theta = 1; nothing otherwise.
"""

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Operator = Callable[[Array], Array]


def step(
    x: Array,
    h: Array,
    g: Array,
    gamma: float,
    p: float,
    coin: bool,
    project: Callable[[Array], Array] = lambda mean: mean,
) -> tuple[Array, Array, int]:
    """One iteration on x, h, g [n, d]. Returns the new x and h and the floats each client sent."""
    x_hat = x - gamma * (g - h)
    if not coin:
        return x_hat, h.copy(), 0
    mean = project(np.mean(x_hat - gamma / p * h, axis=0))
    new = np.tile(mean, (len(x), 1))
    return new, h + p / gamma * (new - x_hat), x.shape[1]


def whole(x: Array, operators: Sequence[Operator]) -> Array:
    """Return F_i(x_i) [n, d]."""
    return np.stack([F(row) for F, row in zip(operators, x, strict=True)])


def minibatch(x: Array, samples: Sequence[Sequence[Operator]], batches: Integers) -> Array:
    """Return the mean of F_ij(x_i) over j in batches[i] [n, b], as [n, d]."""
    return np.stack([np.mean([samples[i][j](row) for j in batches[i]], axis=0) for i, row in enumerate(x)])


def loopless_svrg(
    x: Array, w: Array, samples: Sequence[Sequence[Operator]], batches: Integers, bits: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return the estimates [n, d] at x and the new reference points [n, d]."""
    everything = np.tile(np.arange(len(samples[0])), (len(x), 1))
    g = minibatch(x, samples, batches) - minibatch(w, samples, batches) + minibatch(w, samples, everything)
    return g, np.where(np.asarray(bits, bool)[:, None], x, w)


def gda_step(x: Array, operators: Sequence[Operator], gamma: float) -> Array:
    """One step x [d] -> x - gamma F(x); d floats up and down."""
    return np.asarray(x - gamma * np.mean([F(x) for F in operators], axis=0))


def local_gda_round(x: Array, operators: Sequence[Operator], gamma: float, steps: int) -> Array:
    """One round from the common x [d]: `steps` local steps at each client, then the mean; d floats up and down."""
    ends = []
    for F in operators:
        y = x.copy()
        for _ in range(steps):
            y = y - gamma * F(y)
        ends.append(y)
    return np.asarray(np.mean(ends, axis=0))


def cocoercivity(M: Array, tolerance: float = 1e-12) -> float:
    """Return the least l with <Mu, u> >= |Mu|^2 / l for all u; inf if there is none."""
    values, vectors = np.linalg.eigh((M + M.T) / 2.0)
    scale = float(np.linalg.norm(M, 2))
    if scale == 0.0:
        return 0.0
    if values[0] < -tolerance * scale:
        return inf
    flat = values <= tolerance * scale
    if np.linalg.norm(M @ vectors[:, flat]) > np.sqrt(tolerance) * scale:
        return inf
    root = vectors[:, ~flat] / np.sqrt(values[~flat])
    return float(np.linalg.eigvalsh(root.T @ M.T @ M @ root)[-1])


def cocoercivity_by_inverse(M: Array) -> float:
    """Return 1 / lambda_min(sym(M^-1)), the same for a regular M."""
    inverse = np.linalg.inv(M)
    return float(1.0 / np.linalg.eigvalsh((inverse + inverse.T) / 2.0)[0])


def eigenvalue_estimate(M: Array) -> float:
    """Return 1 / min Re(1 / lambda) over the eigenvalues that are not 0, as in the authors' code."""
    values = np.linalg.eigvals(M)
    return float(1.0 / np.min(np.real(1.0 / values[np.abs(values) > 1e-5])))


def strong_monotonicity(M: Array) -> float:
    """Return the largest mu with <Mu, u> >= mu |u|^2: lambda_min(sym(M))."""
    return float(np.linalg.eigvalsh((M + M.T) / 2.0)[0])
