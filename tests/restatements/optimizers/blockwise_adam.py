"""AdaSGD, blockwise Adam and Adam in turned coordinates, restated in float64 NumPy.

S. Xie, M. A. Mohamadi, Z. Li, "Adam Exploits l_inf-geometry of Loss Landscape via Coordinate-wise Adaptivity",
ICLR 2025, arXiv:2410.08198 (2024), with the details of the authors' adasgd.py.

    theta <- (1 - lr lambda) theta;   m <- beta1 m + (1 - beta1) g
    v_b   <- beta2 v_b + (1 - beta2) mean_{i in b} g_i^2                one number for a block b of coordinates
    theta <- theta - lr [m / (1 - beta1^t)] / (sqrt(v_b / (1 - beta2^t)) + eps)
    AdaSGD: all coordinates of all tensors are one block;   Adam: each is its own
    turned: x = R theta, R orthogonal;   theta_0 = R^T x_0, gradient R^T g(x), the step is any optimizer's on theta

Choices where the source leaves or contradicts itself:

* A block may go across tensors: labels are those of the joined coordinates, in the order given.
* Decay is of the old weights, in theta. It commutes with the turning.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Optimizer(Protocol):
    params: list[Array]

    def step(self, grads: Sequence[Array]) -> None: ...


def joined(tensors: Sequence[Array]) -> Array:
    return np.concatenate([np.ravel(x) for x in tensors])


def parted(vector: Array, like: Sequence[Array]) -> list[Array]:
    cuts = np.cumsum([x.size for x in like])[:-1]
    return [part.reshape(x.shape) for part, x in zip(np.split(vector, cuts), like, strict=True)]


class BlockwiseAdam:
    """`labels`: the block 0, 1, ... of each joined coordinate."""

    def __init__(
        self,
        params: Sequence[Array],
        labels: NDArray[np.int64],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.labels, self.sizes = labels, np.bincount(labels)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m, self.v, self.t = np.zeros(len(labels)), np.zeros(len(self.sizes)), 0

    def step(self, grads: Sequence[Array]) -> None:
        (beta1, beta2), g = self.betas, joined(grads)
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * np.bincount(self.labels, weights=g**2) / self.sizes
        v_hat = self.v[self.labels] / (1 - beta2**self.t)
        step = self.m / (1 - beta1**self.t) / (np.sqrt(v_hat) + self.eps)
        theta = (1 - self.lr * self.weight_decay) * joined(self.params) - self.lr * step
        self.params = parted(theta, self.params)


class AdaSGD(BlockwiseAdam):
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        labels = np.zeros(sum(np.size(p) for p in params), np.int64)
        super().__init__(params, labels, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


class Turned:
    """Any optimizer in the coordinates theta = R^T x; `make` builds it on [theta_0]; R is [d, d], orthogonal."""

    def __init__(self, params: Sequence[Array], rotation: Array, make: Callable[[list[Array]], Optimizer]) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.rotation = rotation
        self.inner = make([rotation.T @ joined(self.params)])

    def step(self, grads: Sequence[Array]) -> None:
        self.inner.step([self.rotation.T @ joined(grads)])
        self.params = parted(self.rotation @ self.inner.params[0], self.params)


def rotated_adam(
    params: Sequence[Array],
    rotation: Array,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Turned:
    labels = np.arange(len(rotation))
    return Turned(
        params, rotation, lambda x: BlockwiseAdam(x, labels, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    )
