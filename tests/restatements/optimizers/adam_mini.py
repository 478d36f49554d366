"""Adam-mini, restated in float64 NumPy.

Y. Zhang, C. Chen, Z. Li, T. Ding, C. Wu, D. P. Kingma, Y. Ye, Z.-Q. Luo, R. Sun, "Adam-mini: Use Fewer Learning
Rates To Gain More", arXiv:2406.16793 (2024). The partition by names is that of the authors' package 1.1.1.

    theta   <- (1 - lr lambda) theta
    m       <- beta1 m + (1 - beta1) g                               full size
    v_b     <- beta2 v_b + (1 - beta2) mean_{i in b} g_i^2           one number for a block b
    theta_i <- theta_i - lr [m_i / (1 - beta1^t)] / (sqrt(v_b / (1 - beta2^t)) + eps)    for every i in b

    blocks: a head of a query or key weight; an output row of value, attention output and MLP weights; a token's
    row of embedding and output layer; a coordinate of a bias; any other tensor (norms) as a whole.

Choices where the source leaves or contradicts itself:

* Biases. Packages before 1.1 made a bias one block; 1.1.1 and this file keep Adam's v, a number a coordinate.
* Embedding and output layer. Packages before 1.1 kept Adam's v there and had one block for a whole value, output
  or MLP weight; 1.1.1 and this file have a block a token, or a row.
* Rows of tensors that are not matrices. The package takes the mean over axis 1 alone and fails on vectors. Here
  a row is all that belongs to one index of the first axis, and a vector that is no bias is one block.
* Fused weights. The package knows only separate projections and would make a stack one block, against the
  rule of the method. The stack [query; key; value] of torch.nn.MultiheadAttention ("in_proj_weight") is cut
  into heads, heads and rows here, and its "out_proj" is an attention output.
* Grouped queries. A head has dim^2 / n_heads numbers in keys too, so a smaller key weight has fewer blocks.
* Names are looked for in the package's order: bias, then query and key, then what goes by rows, then the rest.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

QUERY_KEY = ("k_proj", "q_proj", "wq", "wk", "query", "key")
BY_ROW = (
    *("embed", "embd", "wte"),  # embedding
    *("lm_head", "output", "final_layer"),  # output layer
    *("v_proj", "wv", "value"),
    *("feed_forward", "linear", "mlp"),
    *("o_proj", "wo", "attn.proj", "out_proj"),  # attention output
)
NOT_DECAYED = ("norm", "ln", "bias")


def published_partition(name: str, shape: Sequence[int], *, dim: int, n_heads: int) -> Labels:
    """Number the blocks of the parameter `name`: labels 0, 1, ... in an array of its shape.

    `dim` is the width of the model and `n_heads` its number of (query) heads.
    """
    name = name.lower()
    position = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    head = dim * dim // n_heads
    if "bias" in name:
        return position
    if any(part in name for part in QUERY_KEY):
        return position // head
    if "in_proj_weight" in name:
        if tuple(shape) != (3 * dim, dim):
            raise ValueError(f"shape: a stack of query, key and value is {(3 * dim, dim)}, got {tuple(shape)}")
        return np.where(position < 2 * dim * dim, position // head, 2 * n_heads + position // dim - 2 * dim)
    if any(part in name for part in BY_ROW) and len(shape) > 1:
        return position // int(np.prod(shape[1:]))
    return np.zeros(shape, np.int64)


def published_weight_decay(name: str, weight_decay: float) -> float:
    """Return 0 for norms and biases, `weight_decay` for the others."""
    return 0.0 if any(part in name.lower() for part in NOT_DECAYED) else weight_decay


class AdamMini:
    """Adam-mini; `partition` has a label array for each tensor, or is None for one block a tensor.

    `weight_decay` is one number or one for each tensor.
    """

    def __init__(
        self,
        params: Sequence[Array],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Sequence[float] = 0.0,
        partition: Sequence[Labels] | None = None,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.lr, self.betas, self.eps = lr, betas, eps
        one = isinstance(weight_decay, int | float)
        self.weight_decay = [float(weight_decay)] * len(self.params) if one else list(weight_decay)
        self.partition = [np.zeros(p.shape, np.int64) for p in self.params] if partition is None else list(partition)
        for i, (p, b) in enumerate(zip(self.params, self.partition, strict=True)):
            if b.shape != p.shape:
                raise ValueError(f"partition: tensor {i} has shape {p.shape}, its labels {b.shape}")
        self.sizes = [np.bincount(b.ravel()) for b in self.partition]
        self.m = [np.zeros_like(p) for p in self.params]
        self.v = [np.zeros(len(size)) for size in self.sizes]
        self.t = [0] * len(self.params)

    def step(self, grads: Sequence[Array | None]) -> None:
        beta1, beta2 = self.betas
        for i, g in enumerate(grads):
            if g is None:
                continue
            self.t[i] += 1
            t, b = self.t[i], self.partition[i]
            mean_square = np.bincount(b.ravel(), weights=(g * g).ravel()) / self.sizes[i]
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * mean_square
            m_hat = self.m[i] / (1 - beta1**t)
            v_hat = self.v[i][b] / (1 - beta2**t)
            decayed = (1 - self.lr * self.weight_decay[i]) * self.params[i]
            self.params[i] = decayed - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)
