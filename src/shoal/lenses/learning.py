"""Learning as one composition: update lens, model, loss, cap.

    supervised:  ((S x P) x A) x B  --(U x A) x B-->  (P x A) x B  --model x B-->  B x B  --loss-->  L  --cap-->  1

Backwards it takes the one value of 1 to new states and parameters. Deep dreaming has the update at the input instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from shoal.lenses import updates
from shoal.lenses.lens import Lens, identity
from shoal.lenses.losses import learning_rate
from shoal.lenses.para import Para
from shoal.lenses.trees import Value
from shoal.lenses.updates import Update
from shoal.optim.core import Rule

Step = Callable[[Value, Value, Value], Value]


def supervised(model: Para, loss: Lens, update: Update, cap: Lens) -> Lens:
    """The lens ((S x P) x A) x B -> 1."""
    learner = model.reparametrised(update.lens, (update.state(model.start), model.start))
    return (learner.arrow @ identity) >> loss >> cap


def dreaming(model: Para, loss: Lens, update: Update, cap: Lens) -> Lens:
    """The lens (P x (S x A)) x B -> 1, whose update is of the input A."""
    return (((identity @ update.lens) >> model.arrow) @ identity) >> loss >> cap


@dataclass(frozen=True)
class Learner:
    """Steps of supervised learning: `here = learner.start; here = learner(here, a, b)`.

    Attributes:
        lens: the composition.
        model, update: what learns, and how.
        start: first (state, parameters).
    """

    lens: Lens
    model: Para
    update: Update
    start: Value

    @torch.no_grad()
    def __call__(self, here: Value, a: Value, b: Value) -> Value:
        """(S x P) x A x B -> S x P."""
        return self.lens.rev(((here, a), b), ())[0][0]

    @torch.no_grad()
    def predict(self, here: Value, a: Value) -> Value:
        """What the model says at the point at which the optimizer asks it."""
        return self.model.fwd(self.update.lens.fwd(here), a)


def step(model: Para, loss: Lens, optimizer: Update | Rule, cap: Lens | None = None) -> Learner:
    """A learner.

    Args:
        model: what learns.
        loss: on pairs (prediction, target).
        optimizer: an update, or any rule of `shoal.optim`, whose learning rate is its own.
        cap: where the loss is to go; default, for optimizers with a rate of their own: `learning_rate(1.0)`, down its
            mean.

    Raises:
        ValueError: the rule needs more than gradients; or there is neither a cap nor a rate.
    """
    update = updates.rule(optimizer) if isinstance(optimizer, Rule) else optimizer
    if cap is None:
        if not update.rated:
            raise ValueError(
                "cap: got none, and the optimizer has no rate of its own; learning_rate(eta), or whole_loss over bits, "
                "is allowed"
            )
        cap = learning_rate(1.0)
    whole = supervised(model, loss, update, cap)
    return Learner(whole, model, update, (update.state(model.start), model.start))


@torch.no_grad()
def dream(
    model: Para, parameters: Value, a: Value, b: Value, loss: Lens, update: Update, cap: Lens, steps: int
) -> Value:
    """Move an input, with the parameters as they are.

    Args:
        model, parameters: what judges.
        a: the input to begin with.
        b: the second argument of the loss.
        loss, update, cap: as in `dreaming`.
        steps: number of them, >= 0.

    Returns:
        The input after them.
    """
    if steps < 0:
        raise ValueError(f"steps: got {steps}; at least 0 is allowed")
    whole = dreaming(model, loss, update, cap)
    here = (update.state(a), a)
    for _ in range(steps):
        here = whole.rev(((parameters, here), b), ())[0][1]
    return here[1]
