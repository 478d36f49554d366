"""Coupled Adam, restated in float64 NumPy.

F. Stollenwerk, T. Stollenwerk, "Better Embeddings with Coupled Adam", ACL 2025, arXiv:2502.08441 (2025);
code: flxst/coupled-adam.

    theta <- (1 - lr weight_decay) theta
    m = b1 m + (1 - b1) g,    v = b2 v + (1 - b2) g^2
    an embedding, [V, H]:     v' = avg_scale (1 / V) sum_i v_i,  one row of H numbers for all V tokens
    any other tensor:         v' = v
    theta <- theta - lr (m / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps)

Choices where the source leaves or contradicts itself:

* The state is the full v. To store the mean over the tokens in its place is the same for avg_scale = 1, since
  the recursion is linear. For others it is not: the factor would come in again at each step. The code replaces an entry
  of a temporary list, so that its state stays the full v as well.
* Defaults are those of the experiments; the code's class has betas (0.9, 0.999) and decay 0.01.
* The decay is for all tensors here. The experiments leave out those with less than two axes, and have a switch for
  that of the embedding.
* Which tensors are embeddings (rows are tokens) is said by index.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class CoupledAdam:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        embeddings: Collection[int],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        avg_scale: float = 1.0,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.embeddings = frozenset(embeddings)
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.avg_scale = avg_scale
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]

    def second_moment(self, tensor_index: int) -> Array:
        """Return v' before bias correction: [1, H] for an embedding, the shape of the tensor for others."""
        v = self.v[tensor_index]
        return self.avg_scale * np.mean(v, axis=0, keepdims=True) if tensor_index in self.embeddings else v

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            theta = (1 - self.lr * self.weight_decay) * self.params[i]
            self.t[i] += 1
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat = self.m[i] / (1 - beta1 ** self.t[i])
            v_hat = self.second_moment(i) / (1 - beta2 ** self.t[i])
            self.params[i] = theta - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)
