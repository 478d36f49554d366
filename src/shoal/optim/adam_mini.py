"""Adam-mini: AdamW whose second moments are one number for each block of weights.

    p   <- (1 - lr lam) p
    m   <- beta1 m + (1 - beta1) g
    v_b <- beta2 v_b + (1 - beta2) mean of g^2 over the block b
    p   <- p - lr (m / (1 - beta1^t)) / (sqrt(v_b / (1 - beta2^t)) + eps)        in the block b

Y. Zhang, C. Chen, Z. Li, T. Ding, C. Wu, D. P. Kingma, Y. Ye, Z.-Q. Luo, R. Sun, "Adam-mini: Use Fewer Learning Rates
To Gain More", arXiv:2406.16793 (2024).

Blocks are those of the authors' package 1.1.1: a head of queries or keys; a row of values, attention output, MLP,
embedding and output layer; a coordinate of a bias; any other tensor as a whole. Norms and biases do not decay. The
package finds them by names. A stack of query, key and value, which it makes one block, is cut into its parts here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.adam import AdamScaling
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State
from shoal.optim.core.arguments import whole
from shoal.optim.core.ops import ema_, plus_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.transform import Granularity, Shape

Blocks = tuple[tuple[int, int], ...]
"""Runs of blocks, one after the other in a tensor's memory order: (how many, entries in each)."""

COORDINATE, HEAD, ROW, TENSOR = KINDS = ("coordinate", "head", "row", "tensor")
HEADS = ("k_proj", "q_proj", "wq", "wk", "query", "key")
FUSED = ("in_proj_weight", "qkv", "c_attn")
ROWS = (
    *("embed", "embd", "wte"),
    *("lm_head", "output", "final_layer"),
    *("v_proj", "wv", "value"),
    *("feed_forward", "linear", "mlp"),
    *("o_proj", "wo", "attn.proj", "out_proj"),
)
NOT_DECAYED = ("norm", "ln", "bias")


def published_blocks(name: str, shape: Shape, *, dim: int | None = None, heads: int | None = None) -> Blocks:
    """The blocks of a transformer's parameter by its name.

    Args:
        name: as in `named_parameters()`.
        shape: its shape; the first axis is that of the outputs.
        dim: width of the model; for queries and keys.
        heads: number of (query) heads; likewise.

    Raises:
        ValueError: there is no name, or numbers are missing, or do not fit.
    """
    name = name.lower()
    if not name:
        raise ValueError("params: names are needed to find the blocks; give model.named_parameters(), or blocks=")
    if "bias" in name:
        return blocks_of(COORDINATE, shape)
    if any(part in name for part in HEADS):
        return blocks_of(HEAD, shape, head=_head(name, dim, heads))
    if any(part in name for part in FUSED):
        head = _head(name, dim, heads)
        assert dim is not None
        if shape != (3 * dim, dim):
            raise ValueError(
                f"params: {name} has shape {shape}; a stack of query, key and value of {(3 * dim, dim)} is allowed "
                "(dim is the width of the model), or blocks= in a group of its own"
            )
        return *blocks_of(HEAD, (2 * dim, dim), head=head), *blocks_of(ROW, (dim, dim))
    if any(part in name for part in ROWS) and len(shape) > 1:
        return blocks_of(ROW, shape)
    return blocks_of(TENSOR, shape)


def blocks_of(kind: str, shape: Shape, *, head: int = 1) -> Blocks:
    """The blocks of one kind; those of heads have `head` entries, the last what is left over."""
    entries = math.prod(shape)
    size = {COORDINATE: 1, HEAD: head, ROW: math.prod(shape[1:]), TENSOR: entries}[kind]
    full, rest = divmod(entries, size) if size else (0, 0)
    return *(((full, size),) if full else ()), *(((1, rest),) if rest else ())


def _head(name: str, dim: int | None, heads: int | None) -> int:
    if dim is None or heads is None:
        raise ValueError(
            f"{'dim' if dim is None else 'n_heads'}: got None; {name} has heads, so that width and number of heads "
            "of the model are needed"
        )
    if dim % heads:
        raise ValueError(f"n_heads: got {heads}; a divisor of dim = {dim} is allowed")
    return dim * dim // heads


@dataclass(frozen=True)
class BlockScaling(AdamScaling):
    """Adam's scaling with one second moment a block.

    Attributes:
        blocks: of the parameter.
    """

    blocks: Blocks = ()
    granularity: ClassVar[Granularity] = "tensor"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The first moment, and a number a block."""
        return Slot("m"), Slot("v", shape=lambda shape: (sum(count for count, _ in self.blocks),))

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        norms = [torch.linalg.vector_norm(x, dim=1) / math.sqrt(x.shape[1]) for x in self._cut(u)]
        v = plus_(s.v.mul_(c.beta2), _joined(norms).square(), c.new2)
        scale = v.sqrt().div_(c.root2).add_(c.eps).mul_(c.correction1).reciprocal_()
        scales = scale.split([count for count, _ in self.blocks])
        m = self._cut(ema_(s.m, u, c.new1))
        return _joined([(x * k.unsqueeze(1)).flatten() for x, k in zip(m, scales, strict=True)]).view(p.shape)

    def _cut(self, x: Tensor) -> list[Tensor]:
        parts = x.reshape(-1).split([count * size for count, size in self.blocks])
        return [part.view(block) for part, block in zip(parts, self.blocks, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _count_or_none(value: Any) -> bool:
    return value is None or whole(1)(value)


class AdamMini(Optimizer):
    """AdamW with few second moments, for `model.named_parameters()` of a transformer.

    Queries and keys need `dim` and `n_heads`. `blocks` of a group takes the place of the names: "coordinate" (AdamW),
    "head", "row" or "tensor".
    """

    about: ClassVar[dict[str, Argument]] = {
        "dim": Argument("width of the model; for queries and keys", "a whole number >= 1 or None", _count_or_none),
        "n_heads": Argument("number of attention heads; likewise", "a whole number >= 1 or None", _count_or_none),
        "blocks": Argument(
            "kind of the blocks; None: by the parameter's name",
            f"None or one of {', '.join(KINDS)}",
            lambda value: value is None or value in KINDS,
        ),
    }

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    dim: int | None = None
    n_heads: int | None = None
    blocks: str | None = None

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments."""
        name, shape = param.name.lower(), param.shape
        if h.blocks is None:
            blocks = published_blocks(name, shape, dim=h.dim, heads=h.n_heads)
        else:
            blocks = blocks_of(h.blocks, shape, head=_head(name, h.dim, h.n_heads) if h.blocks == HEAD else 1)
        lam = 0.0 if any(part in name for part in NOT_DECAYED) else h.weight_decay
        beta1, beta2 = h.betas
        single = blocks == blocks_of(COORDINATE, shape)
        scaling = AdamScaling(beta1, beta2, h.eps) if single else BlockScaling(beta1, beta2, h.eps, blocks)
        return *decoupled(lam), scaling

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: a setting is not allowed, or the blocks of a parameter are not to be found.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        h = SimpleNamespace(**{name: group[name] for name in self.arguments})
        names = group.get("param_names") or [""] * len(group["params"])
        try:
            for name, p in zip(names, group["params"], strict=True):
                self.links(h, Param(name, tuple(p.shape), p.dtype))
        except ValueError:
            self.param_groups.pop()
            raise
