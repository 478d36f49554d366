"""Gradient flow and sign flow under class imbalance in closed form, bins of classes, the data set; float64 NumPy.

F. Kunstner, A. Milligan, R. Yadav, M. Schmidt, A. Bietti, "Heavy-Tailed Class Imbalance and Why Adam Outperforms
Gradient Descent on Language Models", arXiv:2402.19449 (2024).

    c classes of frequencies pi_k; input e_k for class k; logits W e_k, W = 0 at first; softmax cross entropy
    margin a_k: logit of k less any other one;   p = 1 / (1 + (c - 1) e^-a);   loss_k = log(1 + (c - 1) e^-a)
    gradient flow   da/dt = pi_k c / (c - 1) (1 - p);   integrated:  e^a - 1 + (c - 1) a = c pi_k t,   a = M(pi_k t)
    sign flow       da/dt = 2: a = 2 t for every class
    data set of size m: for i = 0, ..., m - 1 there are 2^i classes with 2^(m - i) samples each: m 2^m samples

Choices:

* Bins. Classes from the most to the least frequent (equal ones by their number) are laid end to end over [0, 1), each
  as long as its share of the samples; a class is of the bin in which its middle lies. So a bin may be empty where one
  class is longer than a bin.
* The loss of a bin is the mean over its samples; all samples of a class have the same loss in the closed form.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def universal_margin(tau: Array, c: int) -> Array:
    """M(tau), tau = pi t, by bisection; both terms of e^a - 1 + (c - 1) a = c tau bound M from above."""
    tau = np.asarray(tau, np.float64)
    low, high = np.zeros_like(tau), np.minimum(np.log1p(c * tau), c * tau / (c - 1))
    for _ in range(200):
        middle = (low + high) / 2
        above = np.expm1(middle) + (c - 1) * middle > c * tau
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray((low + high) / 2)


def loss_of_margin(a: Array, c: int) -> Array:
    return np.asarray(np.log1p((c - 1) * np.exp(-a)))


def gradient_flow_losses(pi: Array, t: float) -> Array:
    return loss_of_margin(universal_margin(pi * t, len(pi)), len(pi))


def sign_flow_losses(pi: Array, t: float) -> Array:
    return loss_of_margin(np.full(len(pi), 2 * t), len(pi))


def gradient_descent_losses(pi: Array, lr: float, steps: int, *, sign: bool = False) -> Array:
    """Full-batch descent on W itself [c, c], for comparison with the flows at t = lr steps."""
    W = np.zeros((len(pi), len(pi)))  # column k: the logits of class k's samples
    for _ in range(steps):
        p = np.exp(W - W.max(axis=0))
        p /= p.sum(axis=0)
        g = (p - np.eye(len(pi))) * pi
        W = W - lr * (np.sign(g) if sign else g)
    return np.asarray(np.log(np.exp(W - W.max(axis=0)).sum(axis=0)) + W.max(axis=0) - np.diag(W))


def zipf(c: int) -> Array:
    inverse = 1 / np.arange(1, c + 1)
    return np.asarray(inverse / inverse.sum())


def class_bins(counts: NDArray[np.int64], bins: int = 10) -> NDArray[np.int64]:
    """The bin of each class, 0 for the most frequent ones; a class without samples gets the last bin."""
    order = np.argsort(-counts, kind="stable")
    ends = np.cumsum(counts[order])
    middles = (ends - counts[order] / 2) / ends[-1]
    out = np.empty(len(counts), np.int64)
    out[order] = np.minimum((bins * middles).astype(np.int64), bins - 1)
    return out


def bin_losses(losses: Array, labels: NDArray[np.int64], of_class: NDArray[np.int64], bins: int = 10) -> Array:
    """Mean loss of the samples of each bin; nan where there are none."""
    place = of_class[labels]
    size = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=losses, minlength=bins)
    return np.asarray(np.divide(total, size, out=np.full(bins, np.nan), where=size > 0))


def imbalanced_counts(m: int) -> NDArray[np.int64]:
    return np.concatenate([np.full(2**i, 2 ** (m - i), np.int64) for i in range(m)])
