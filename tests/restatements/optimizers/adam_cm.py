"""Adam with critical momenta (Adam+CM), restated in float64 NumPy.

P. Malviya, G. Mordido, A. Baratin, R. Babanezhad Harikandeh, J. Huang, S. Lacoste-Julien, R. Pascanu, S. Chandar,
"Promoting Exploration in Memory-Augmented Adam using Critical Momenta", arXiv:2307.09638 (2023);
code: chandar-lab/CMOptimizer.

Each tensor has a buffer of at most `capacity` pairs of a priority and a momentum, empty at first:

    theta <- (1 - lr weight_decay) theta
    m = b1 m + (1 - b1) g
    a = m + mean of the buffered momenta (zero while there is none)
    v = b2 v + (1 - b2) a^2
    buffer not full: add (|g|, m);  full: replace the entry of lowest priority, if |g| is above that
    all priorities of the buffer *= decay
    theta <- theta - lr (a / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Choices where the source leaves or contradicts itself:

* |g| is the sum of the norms of the gradients of all tensors at hand (`synced`, the code's default), or the norm of
  the tensor's own gradient.
* The first step. In the code a tensor's first gradient only goes into the buffer, as it is, instead of a momentum,
  and m = v = 0 stay, so that the weights do not move (but decay); t counts this step. The paper's algorithm has no
  such case. It is followed here; `gradient_first=True` gives that of the code.
* v is of the aggregate. As its bias correction ignores that a is an average already, the first step of the paper's
  algorithm is lr sign(g) / (1 - b1), ten times that of Adam.
* The mean is over what is in the buffer, not over its capacity. Of equal lowest priorities the oldest place is taken.
  Without capacity the method is Adam with v made of m^2; the code then never moves.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class AdamCM:
    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        capacity: int = 5,
        decay: float = 0.7,
        synced: bool = True,
        gradient_first: bool = False,
    ) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.capacity = capacity
        self.decay = decay
        self.synced = synced
        self.gradient_first = gradient_first
        self.t = [0 for _ in self.params]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros_like(p) for p in self.params]
        self.priorities: list[list[float]] = [[] for _ in self.params]
        self.momenta: list[list[Array]] = [[] for _ in self.params]

    def mean_momentum(self, tensor_index: int) -> Array:
        momenta = self.momenta[tensor_index]
        return np.mean(momenta, axis=0) if momenta else np.zeros_like(self.params[tensor_index])

    def store(self, tensor_index: int, priority: float, momentum: Array) -> None:
        """Offer a momentum to the buffer."""
        priorities, momenta = self.priorities[tensor_index], self.momenta[tensor_index]
        if len(momenta) < self.capacity:
            priorities.append(priority)
            momenta.append(momentum.copy())
        elif momenta and priority > min(priorities):
            lowest = priorities.index(min(priorities))
            priorities[lowest] = priority
            momenta[lowest] = momentum.copy()

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        norms = [0.0 if g is None else float(np.sqrt(np.sum(g**2))) for g in grads]
        for i, g in enumerate(grads):
            if g is None:
                continue
            priority = sum(norms) if self.synced else norms[i]
            theta = (1 - self.lr * self.weight_decay) * self.params[i]
            self.t[i] += 1
            if self.gradient_first and self.t[i] == 1:
                a = np.zeros_like(g)
                self.store(i, priority, g)
            else:
                self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
                a = self.m[i] + self.mean_momentum(i)
                self.store(i, priority, self.m[i])
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * a**2
            self.priorities[i] = [self.decay * p for p in self.priorities[i]]
            a_hat = a / (1 - beta1 ** self.t[i])
            v_hat = self.v[i] / (1 - beta2 ** self.t[i])
            self.params[i] = theta - self.lr * a_hat / (np.sqrt(v_hat) + self.eps)
