"""FedVote and Byzantine-FedVote, restated in float64 NumPy.

K. Yue, R. Jin, C.-W. Wong, H. Dai, "Federated Learning via Plurality Vote", arXiv:2110.02998 (2021); code:
KAI-YUE/fedvote, fedlearning/myoptimizer.py, fedlearning/validate.py, qnn/qnn_blocks.py.

    latent h, weight used w~ = phi(h) = tanh(a h)
    client m:  tau optimizer steps on h, dL/dh = a (1 - w~^2) dL/dw~
               binary    w_m = +1 with probability (1 + w~) / 2, else -1
               ternary   w_m = sign(w~) with probability |w~|, else 0               sent: w_m;   E[w_m] = w~
    server:    p = sum_m lambda_m w_m,  clipped to +-(1 - 1e-4);   h <- phi^-1(p) = ln((1 + p) / (1 - p)) / (2a)
    deployed:  binary  +1 where p > 0, else -1;   ternary  sign(p) where |p| > 1/2, else 0

    lambda_m = 1/M, or by reputation:  CR_m = fraction of coordinates where w_m is the plurality's choice
    nu_m <- beta nu_m + (1 - beta) CR_m  (nu = 1 at first),   lambda_m = nu_m / sum nu

    E[p] = sum lambda_m w~_m;   Var p = sum lambda_m^2 (1 - w~_m^2), ternary sum lambda_m^2 (|w~_m| - w~_m^2)

Choices where the source leaves or contradicts itself:

* Deployed weights. sign(p) is 0 where a vote of even M is tied, and no binary weight: the code takes -1. A ternary
  weight is the most probable value under p, not its sign: 0 up to |p| = 1/2 (the code's argmax keeps -1/2 itself).
* The plurality is that of the votes unweighted, as in the code, also where lambda is not uniform. A tie is -1 in the
  binary case (the code). The code's ternary count adds up the whole tensor and cannot run; here each coordinate has
  its most frequent value, of equally frequent ones the lowest.
* lambda is taken after nu has been updated in the same round, as in the code, so that an attacker weighs less at once.
* The code, in place of lambda = nu / sum nu, gives those below the mean nu weight 0: `below_mean_out`. With equal nu
  rounding alone may then leave out honest clients; here the mean is compared with a tolerance of 1e-12.
* Clients that are not in a round keep their nu, and lambda is over those present.
* Draws: binary +1 where u < (1 + w~) / 2, the code's; ternary nonzero where u < |w~|, where the code takes
  u > 1 - |w~| for positive ones: the same law, other draws.
* Layers that stay float (the last) are frozen, the same everywhere and never sent. A new Adam each round, as in the
  code. The answer is p or h in floats, or with uniform lambda one of M + 1 (ternary 2M + 1) levels.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..optimizers.adam import Adam

Array = NDArray[np.float64]
Kind = Literal["binary", "ternary"]
CLIP = 1e-4


def phi(h: Array, a: float = 1.5) -> Array:
    """Return the weights in (-1, 1) of the latent `h`."""
    return np.tanh(a * h)


def phi_inverse(p: Array, a: float = 1.5, clip: float = CLIP) -> Array:
    """Return the latent weights of the soft votes `p`, limited to +-(1 - clip) before."""
    p = np.clip(p, -1 + clip, 1 - clip)
    return np.log((1 + p) / (1 - p)) / (2 * a)


def probabilities(w: Array, kind: Kind) -> Array:
    """Return P(-1), P(0), P(1) on a new first axis of length 3."""
    if kind == "binary":
        return np.stack([(1 - w) / 2, np.zeros_like(w), (1 + w) / 2])
    return np.stack([np.maximum(-w, 0.0), 1 - np.abs(w), np.maximum(w, 0.0)])


def sample(w: Array, u: Array, kind: Kind) -> Array:
    """Return the vote for the weights `w` in [-1, 1] by the uniform draws `u` in [0, 1)."""
    if kind == "binary":
        return np.where(u < (1 + w) / 2, 1.0, -1.0)
    return np.where(u < np.abs(w), np.sign(w), 0.0)


def local_update(h: Array, gradient: Callable[[Array, int], Array], *, steps: int, lr: float, a: float = 1.5) -> Array:
    """Return h after Adam steps through phi; `gradient(w, step)` is that of the loss in the weights used."""
    adam = Adam([h], lr=lr)
    for step in range(steps):
        w = phi(adam.params[0], a)
        adam.step([a * (1 - w**2) * gradient(w, step)])
    return adam.params[0]


def soft_vote(votes: Array, weights: Sequence[float] | Array | None = None) -> Array:
    """Return p [d] from the votes [m, d], by uniform weights if none are given; not yet clipped."""
    lam = np.full(len(votes), 1 / len(votes)) if weights is None else np.asarray(weights, np.float64)
    return lam @ votes


def soft_vote_moments(w: Array, kind: Kind, weights: Sequence[float] | Array | None = None) -> tuple[Array, Array]:
    """Return mean and variance of p for the weights used `w` [m, d] of the clients."""
    lam = np.full(len(w), 1 / len(w)) if weights is None else np.asarray(weights, np.float64)
    second = np.ones_like(w) if kind == "binary" else np.abs(w)
    return lam @ w, lam**2 @ (second - w**2)


def plurality(votes: Array, kind: Kind) -> Array:
    """Return the most frequent vote [d] of each coordinate, the lowest of equally frequent ones."""
    values = (-1.0, 1.0) if kind == "binary" else (-1.0, 0.0, 1.0)
    counts = np.stack([(votes == value).sum(axis=0) for value in values])
    return np.asarray(values)[np.argmax(counts, axis=0)]


def credibility(votes: Array, kind: Kind) -> Array:
    """Return CR [m], the fraction of coordinates in which each client voted as the plurality did."""
    return (votes == plurality(votes, kind)).mean(axis=1)


def vote_weights(nu: Array, *, below_mean_out: bool = False) -> Array:
    """Return lambda [m], which adds up to 1."""
    if below_mean_out:
        nu = np.where(nu < nu.mean() - 1e-12, 0.0, nu)
    return nu / nu.sum()


def deployed(p: Array, kind: Kind) -> Array:
    """Return the weights in {-1, 1} or {-1, 0, 1} with which the model is used."""
    if kind == "binary":
        return np.where(p > 0, 1.0, -1.0)
    return np.where(np.abs(p) > 0.5, np.sign(p), 0.0)


def bits_up(size: int, kind: Kind) -> int:
    """Return the least bits of one vote: a bit, or log2 3 rounded up for the whole message."""
    return size if kind == "binary" else int(3**size - 1).bit_length()


def bits_down(size: int, clients: int, kind: Kind, *, uniform: bool = True) -> int:
    """Return the bits of the answer: counts at fixed width, or 32-bit floats where the weights are not uniform."""
    levels = clients + 1 if kind == "binary" else 2 * clients + 1
    return size * ((levels - 1).bit_length() if uniform else 32)


class FedVote:
    """The server: latent h [d] and, by reputation, nu [clients]."""

    def __init__(
        self,
        h: Array,
        clients: int,
        *,
        kind: Kind = "binary",
        a: float = 1.5,
        clip: float = CLIP,
        reputation: bool = False,
        beta: float = 0.5,
        below_mean_out: bool = False,
    ) -> None:
        self.h = np.array(h, np.float64)
        self.kind, self.a, self.clip = kind, a, clip
        self.reputation, self.beta, self.below_mean_out = reputation, beta, below_mean_out
        self.nu = np.ones(clients)
        self.p = phi(self.h, a)

    def vote(self, h: Array, u: Array) -> Array:
        """Return what a client with latent weights `h` sends, by its uniform draws `u`."""
        return sample(phi(h, self.a), u, self.kind)

    def round(self, votes: Array, present: Sequence[int] | None = None) -> Array:
        """Take the votes [m, d] of the clients `present` (all of them); return the weights lambda [m] used."""
        who = list(range(len(self.nu))) if present is None else list(present)
        weights = np.full(len(who), 1 / len(who))
        if self.reputation:
            self.nu[who] = self.beta * self.nu[who] + (1 - self.beta) * credibility(votes, self.kind)
            weights = vote_weights(self.nu[who], below_mean_out=self.below_mean_out)
        self.p = np.clip(soft_vote(votes, weights), -1 + self.clip, 1 - self.clip)
        self.h = phi_inverse(self.p, self.a, self.clip)
        return weights

    def deployed(self) -> Array:
        return deployed(self.p, self.kind)
