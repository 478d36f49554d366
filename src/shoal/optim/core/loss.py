"""The loss that a step is told, for rules that go by it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

from torch import Tensor

from shoal.optim.core.plan import Plan


class Loss:
    """What an optimizer was told at its last step.

    Args:
        asking: the optimizer's name, for messages.
    """

    def __init__(self, asking: str) -> None:
        self._asking = asking
        self._told: float | None = None
        self._stepped: list[tuple[weakref.ref[Tensor], int]] = []  # gradients of the step before, and their versions

    def hear(self, loss: float | Tensor | None) -> None:
        """Take the loss of a step.

        Raises:
            ValueError: it is more than one number.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(
                f"loss: got a tensor of shape {tuple(loss.shape)}; one number is allowed, such as loss.mean()"
            )
        self._told = None if loss is None else float(loss)

    def of(self, plan: Plan, negate: bool) -> float | None:
        """The loss for a plan that needs it, of a parameter that goes up (`negate`) or down; None for others.

        Raises:
            RuntimeError: it was not told.
            ValueError: it is not finite.
        """
        if not any(transform.needs_loss for transform in plan.chain):
            return None
        if self._told is None:
            raise RuntimeError(
                f"{self._asking} needs the loss: step(closure), or step(loss=loss) before the weights change"
            )
        if not math.isfinite(self._told):
            raise ValueError(f"loss: got {self._told}; a finite number is needed")
        return -self._told if negate else self._told

    def check_gradients(self, parameters: Sequence[Tensor]) -> None:
        """See whether there are gradients, and other ones than at the step before, which cannot be of this loss.

        Raises:
            RuntimeError: there are none, or the same.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients and not any(p.requires_grad for p in parameters):
            return
        known = self._stepped
        unseen = any(g.is_cuda for g in gradients)  # a replayed CUDA graph leaves no trace of what it wrote
        if not gradients or (
            len(known) == len(gradients)
            and not unseen
            and all(old() is g and version == g._version for (old, version), g in zip(known, gradients, strict=True))
        ):
            which = "the gradients of the step before" if gradients else "no gradients"
            raise RuntimeError(
                f"{self._asking} got a loss with {which}; call loss.backward() before step, or in the closure"
            )
        self._stepped = [(weakref.ref(g), g._version) for g in gradients]
