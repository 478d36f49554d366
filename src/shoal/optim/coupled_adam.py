"""Coupled Adam: all tokens of an embedding share one second moment for each hidden dimension.

    embedding [V, H]:   v <- beta2 v + (1 - beta2) mean over the V rows of g^2, one row of H numbers for all tokens
                        p <- (1 - lr lam) p - lr (m / (1 - beta1^t)) / (sqrt(avg_scale v / (1 - beta2^t)) + eps)
    other tensors:      AdamW

F. Stollenwerk, T. Stollenwerk, "Better Embeddings with Coupled Adam", arXiv:2502.08441 (2025).

Choices: the mean is what is kept, H numbers instead of V H: the recursion is linear, so that it is the same as the mean
of a full v. `avg_scale` (larger: smaller steps of embeddings) multiplies it where it is used, not where it is kept.
Betas and decay are those of the experiments; the decay is for all tensors alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from shoal.optim.adam import AdamScaling
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import above
from shoal.optim.core.ops import ema_
from shoal.optim.core.optimizer import Settings
from shoal.optim.core.scalars import Scalar, one_minus_power, sqrt


@dataclass(frozen=True)
class CoupledScaling(Transform):
    """Adam's scaling of a tensor [V, ...] whose second moment is the mean over its rows."""

    granularity = "tensor"

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    avg_scale: float = 1.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The first moment, and one row of second moments."""
        return Slot("m"), Slot("v", shape=lambda shape: (1, *shape[1:]))

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """The weights of the new gradient, and the bias corrections; the scale is in the second."""
        return {
            "new1": 1.0 - self.beta1,
            "new2": 1.0 - self.beta2,
            "correction1": one_minus_power(self.beta1, t),
            "root2": sqrt(one_minus_power(self.beta2, t) / self.avg_scale),
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update both moments and return the scaled step."""
        m = ema_(s.m, u, c.new1)
        v = ema_(s.v, u.square().mean(0, keepdim=True), c.new2)
        return m / v.sqrt().div_(c.root2).add_(c.eps).mul_(c.correction1)


class CoupledAdam(Optimizer):
    """Coupled Adam; `embedding` says which groups are embeddings, one row a token, and `embedding_groups` finds them.

        CoupledAdam(embedding_groups(model), lr=1e-3)

    For stacked peers, which have no groups, `embedding` may be the names of the embeddings.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    embedding: bool | tuple[str, ...] = False
    avg_scale: float = 1.0

    about: ClassVar[dict[str, Argument]] = {
        "embedding": Argument(
            "whether the rows of the group's tensors are tokens, or the names of those whose are",
            "True, False or a tuple of names",
            lambda v: isinstance(v, bool) or (isinstance(v, tuple) and all(isinstance(name, str) for name in v)),
        ),
        "avg_scale": Argument("factor of an embedding's second moment", "a finite number > 0", above(0.0)),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then the moments.

        Raises:
            ValueError: an embedding has no rows.
        """
        beta1, beta2 = h.betas
        embedding = h.embedding if isinstance(h.embedding, bool) else param.name in h.embedding
        if not embedding:
            return *decoupled(h.weight_decay), AdamScaling(beta1, beta2, h.eps)
        if not param.shape:
            raise ValueError(f"embedding: got {param.name or 'a tensor'} without axes; tensors [V, ...] are allowed")
        return *decoupled(h.weight_decay), CoupledScaling(beta1, beta2, h.eps, h.avg_scale)


def embedding_groups(model: nn.Module, also: Iterable[nn.Module] = ()) -> list[dict[str, Any]]:
    """Parameter groups of a model: its embeddings, and the rest.

    Embeddings are the weights of `nn.Embedding` and `nn.EmbeddingBag`, which an output layer may share.

    Args:
        model: every parameter of it comes into one group, with its name.
        also: modules of the model whose `weight` [V, H] is an embedding as well, such as an output layer of its own.

    Returns:
        Groups for `CoupledAdam` with `embedding` set, without those that would be empty.

    Raises:
        ValueError: a module of `also` is not of this model or has no weight.
    """
    found = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    inside = {id(p) for p in model.parameters()}
    for module in also:
        weight = getattr(module, "weight", None)
        if id(weight) not in inside:
            raise ValueError(f"also: got {type(module).__name__}; modules of the model that have a weight are allowed")
        found.add(id(weight))
    groups = []
    for embedding in (True, False):
        own = [(name, p) for name, p in model.named_parameters() if (id(p) in found) == embedding]
        if own:
            groups.append({"params": own, "embedding": embedding})
    return groups
