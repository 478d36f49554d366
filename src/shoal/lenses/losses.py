"""Losses as lenses B x B -> L, on pairs (prediction, target), and caps L -> 1, which say where learning is to go.

Predictions and targets are [..., d]; a loss is one number for each of the leading places: () or [B].
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.lenses.lens import Back, Lens, lens
from shoal.lenses.trees import Value
from shoal.optim.core.arguments import at_least


def _mse(pair: Value) -> tuple[Tensor, Back]:
    gap = pair[0] - pair[1]

    def back(change: Tensor) -> Value:
        d = change[..., None] * gap
        return d, -d

    return 0.5 * gap.square().sum(-1), back


def _cross_entropy(pair: Value) -> tuple[Tensor, Back]:
    logits, target = pair
    logs = logits.log_softmax(-1)

    def back(change: Tensor) -> Value:
        d = change[..., None]
        return d * (logs.exp() * target.sum(-1, keepdim=True) - target), -d * logs

    return -(target * logs).sum(-1), back


def _dot(pair: Value) -> tuple[Tensor, Back]:
    a, b = pair
    return (a * b).sum(-1), lambda change: (change[..., None] * b, change[..., None] * a)


mse = Lens(_mse)
"""|y - t|^2 / 2; rev: l' (y - t) to the prediction, the negative to the target."""
cross_entropy = Lens(_cross_entropy)
"""-sum t log softmax(y); rev: l' (softmax(y) - t), for targets that sum to 1."""
dot = Lens(_dot)
"""<y, t>, for dreaming of a direction t."""


def learning_rate(eta: float) -> Lens:
    """The cap whose rev is -eta, spread evenly over the places of the loss: descent of its mean at rate eta.

    Raises:
        ValueError: eta is negative or not finite.
    """
    _check(eta, "; `ascent_rate` climbs")
    return _spread(-eta)


def ascent_rate(eta: float) -> Lens:
    """The cap whose rev is eta, spread evenly: ascent of the loss's mean at rate eta, for dreaming of what `dot` rates.

    Raises:
        ValueError: eta is negative or not finite.
    """
    _check(eta)
    return _spread(eta)


def _check(eta: float, more: str = "") -> None:
    if not at_least(0.0)(eta):
        raise ValueError(f"eta: got {eta}; a finite number >= 0 is allowed{more}")


def _spread(change: float) -> Lens:
    return lens(lambda loss: (), lambda loss, _: torch.full_like(loss, change / loss.numel()))


whole_loss = lens(lambda loss: (), lambda loss, _: loss)
"""The cap over Z2: rev gives back the loss."""
