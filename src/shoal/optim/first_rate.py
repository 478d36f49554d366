"""Methods that know a schedule by how far the learning rate is from its first value: eta_t = lr_t / lr_first."""

from __future__ import annotations

from typing import Any, ClassVar

from shoal.optim.core import Argument, Optimizer, option
from shoal.optim.core.arguments import above
from shoal.optim.core.optimizer import Settings


class FromFirstRate(Optimizer):
    """Base of such methods: `base_lr` is the `lr` that a group was made with, unless it is given.

    It is a setting of the group, so that it is saved with the state and schedulers leave it alone. Stacked peers take
    it from their rule's `lr`.
    """

    base_lr: float | None = option(default=None)

    about: ClassVar[dict[str, Argument]] = {
        "base_lr": Argument(
            "learning rate at which the schedule stands at 1; None is the first one",
            "None or a finite number > 0",
            lambda value: value is None or above(0.0)(value),
        )
    }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, and remember its learning rate."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["base_lr"] is None and group["lr"] > 0:
            group["base_lr"] = float(group["lr"])


def first_rate(h: Settings) -> float:
    """The learning rate at which the schedule stands at 1.

    Raises:
        ValueError: the learning rate was 0 at first, and no other was given.
    """
    rate = float(h.lr if h.base_lr is None else h.base_lr)
    if not rate > 0.0:
        raise ValueError(f"lr: got {rate}; above 0 is allowed at first, or base_lr says where a schedule stands at 1")
    return rate
