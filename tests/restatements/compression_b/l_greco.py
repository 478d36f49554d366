"""L-GreCo's choice of a compression level for every layer, restated in float64 NumPy.

M. Alimohammadi, I. Markov, E. Frantar, D. Alistarh, "L-GreCo: Layerwise-Adaptive Gradient Compression for Efficient
and Accurate Deep Learning", arXiv:2210.17357 (2022); code: LGrCo/L-GreCo, lgreco_hook.py.

    err[l, c] = ||C_c(G_l) - G_l||_2;   size[l, c] = floats sent, r (n + m) for rank r
    E_max = alpha sum_l err[l, c0]
    e[l, c] = max(ceil(err[l, c] D / E_max), 1), and D + 1 (never affordable) where err[l, c] > E_max
    DP[l, b] = min_c DP[l - 1, b - e[l, c]] + size[l, c];   answer: the cheapest DP[L, b], b <= D, traced back

Since ceil adds less than one bucket to an error, and the floor of 1 at most one, with L layers

    best size with budget E_max  <=  DP size  <=  best size with budget (1 - L / D) E_max

Choices where the source leaves or contradicts itself:

* "DP is never larger than the uniform setting" is not true of the knapsack: for alpha = 1 the uniform setting has the
  error E_max exactly, hence up to D + L buckets after ceil, and is then refused. Nothing else may fit either (all
  levels but the default worse): then the table is empty. The authors' code then reads place 0 of an empty table and
  sets ranks to the least minus one. Here `choose` takes the uniform levels whenever the knapsack has no answer
  or a larger one, and alpha >= 1; that keeps both promises, the error one in true errors.
* clip(ceil(...), 1, D) makes a level with err > E_max cost D. With two layers or more that is unaffordable, as every
  other layer costs at least 1; with a single layer it would be taken, against the constraint. Here it costs D + 1.
* The authors compare the first layer with > and the others with >=, so they waste one bucket. Here >= everywhere.
* E_max = 0 (the default level is exact everywhere) is a division by zero in the code. Here the cheapest exact levels.
* Ranks above min(n, m) are no candidates (size infinite, error infinite). The code gives them error 0 and the size of
  the largest feasible rank plus one, which comes to the same. Rank 0, floor(r0 / 2) for r0 = 1, is no candidate.
* Of equally cheap levels the first is taken; of equally cheap budgets the smallest.
* G is the mean over the last steps of what the worker feeds to its compressor: in the code the error feedback has
  been added already, so it is the mean of gradient + error, not of gradients. The code's factor 0.01 cancels.
* Sums of norms, as in the code; the paper's analysis speaks of squared errors.
* The power iteration starts from a given matrix, where the code draws one for each rank. Five iterations do not reach
  the singular-value tail when singular values are close; the error is never below the tail.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil, floor, inf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def candidate_ranks(default: int, low: float = 0.5, high: float = 2.0) -> list[int]:
    """Return max(1, floor(low r0)) ... ceil(high r0)."""
    return list(range(max(1, floor(low * default)), ceil(high * default) + 1))


def singular_tail(matrix: Array, rank: int) -> float:
    """Return the least error ||A - matrix||_F of any A of that rank: the root of the sum of the other sigma^2."""
    sigma = np.linalg.svd(matrix, compute_uv=False)
    return float(np.sqrt(np.sum(sigma[rank:] ** 2)))


def power_error(matrix: Array, start: Array, iterations: int = 5) -> float:
    """Return ||P Q' - M||_F after that many iterations Q <- orth(Q), P <- orth(M Q), Q <- M' P from `start` [m, r]."""
    P, Q = np.zeros((matrix.shape[0], start.shape[1])), start
    for _ in range(iterations):
        Q, _ = np.linalg.qr(Q)
        P, _ = np.linalg.qr(matrix @ Q)
        Q = matrix.T @ P
    return float(np.linalg.norm(P @ Q.T - matrix))


def rank_table(gradients: Sequence[Array], ranks: Sequence[int]) -> tuple[Array, Array]:
    """Return errors and sizes [layers, ranks] of the best approximation of each rank; infinite above min(n, m)."""
    errors, sizes = np.full((len(gradients), len(ranks)), inf), np.full((len(gradients), len(ranks)), inf)
    for l, G in enumerate(gradients):
        for c, rank in enumerate(ranks):
            if rank <= min(G.shape):
                errors[l, c], sizes[l, c] = singular_tail(G, rank), rank * sum(G.shape)
    return errors, sizes


def error_table(gradients: Sequence[Array], compressors: Sequence[Callable[[Array], Array]]) -> Array:
    """Return ||C_c(G_l) - G_l||_2 [layers, levels] for compressors that return what the receiver sees."""
    return np.array([[float(np.linalg.norm(C(G) - G)) for C in compressors] for G in gradients])


def discretise(errors: Array, budget: float, buckets: int) -> Integers:
    """Return e [layers, levels] for a budget E_max > 0; buckets + 1 where a level alone exceeds it."""
    e = np.full(errors.shape, buckets + 1, np.int64)
    for place in np.ndindex(errors.shape):
        if errors[place] <= budget:
            e[place] = min(max(ceil(errors[place] * buckets / budget), 1), buckets)
    return e


def knapsack(e: Integers, sizes: Array, buckets: int) -> tuple[float, list[int]]:
    """Return the least total size with sum of e <= buckets and the level of each layer; (inf, []) if there is none."""
    L, C = sizes.shape
    DP, argmin = np.full((L + 1, buckets + 1), inf), np.full((L + 1, buckets + 1), -1)
    DP[0, 0] = 0.0
    for l in range(L):
        for b in range(buckets + 1):
            for c in range(C):
                if e[l, c] <= b and DP[l, b - e[l, c]] + sizes[l, c] < DP[l + 1, b]:
                    DP[l + 1, b], argmin[l + 1, b] = DP[l, b - e[l, c]] + sizes[l, c], c
    b = int(np.argmin(DP[L]))
    if DP[L, b] == inf:
        return inf, []
    size, chosen = float(DP[L, b]), []
    for l in range(L, 0, -1):
        c = int(argmin[l, b])
        chosen.append(c)
        b -= int(e[l - 1, c])
    return size, chosen[::-1]


def brute_force(errors: Array, sizes: Array, budget: float) -> tuple[float, list[int]]:
    """Return the least total size with total error <= budget over all combinations; (inf, []) if there is none."""
    best, chosen = inf, list[int]()
    for levels in product(range(sizes.shape[1]), repeat=sizes.shape[0]):
        picked = list(enumerate(levels))
        size = sum(sizes[place] for place in picked)
        if size < best and sum(errors[place] for place in picked) <= budget:
            best, chosen = float(size), list(levels)
    return best, chosen


def choose(errors: Array, sizes: Array, default: Sequence[int], alpha: float, buckets: int) -> list[int]:
    """Return the level of each layer; `default`: its place in the uniform setting. [] if alpha < 1 allows none."""
    uniform = list(enumerate(default))
    budget = alpha * float(sum(errors[place] for place in uniform))
    if budget == 0.0:
        exact = np.where(errors == 0.0, sizes, inf)
        return [int(c) for c in np.argmin(exact, axis=1)]
    size, chosen = knapsack(discretise(errors, budget, buckets), sizes, buckets)
    if alpha >= 1 and size > sum(sizes[place] for place in uniform):
        return list(default)
    return chosen
