"""Cautious optimizers: entries whose update goes against the gradient of this very step stay where they are.

    phi = 1[u g > 0]        p <- p - lr u phi d / (|phi|_0 + 1)        d entries, tensor by tensor

u is the update of any method with momentum. Its averages are not masked, nor is decoupled decay.

K. Liang, L. Chen, B. Liu, Q. Liu, "Cautious Optimizers: Improving Training with One Line of Code", arXiv:2411.16085
(2024).

Choices. The scale is the paper's; scaling="mean" is that of later versions and the authors' AdamW, phi / max(mean phi,
0.001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.core import Optimizer, Rule, Scalars, State, Transform
from shoal.optim.core.transform import Granularity
from shoal.optim.wrapping import Wrapper, decay_left

SCALINGS = ("count", "mean")


def mask(u: Tensor, g: Tensor, scaling: str = "count") -> Tensor:
    """u where it has the sign of g, enlarged for what was left out; 0 elsewhere. Of one tensor."""
    agree = u * g.sign() > 0.0  # u g itself would be 0 for small ones
    count = agree.sum(dtype=u.dtype)
    count = count + 1.0 if scaling == "count" else count.clamp(min=1e-3 * u.numel())
    return torch.where(agree, u * (u.numel() / count), 0.0)


@dataclass(frozen=True)
class CautiousMask(Transform):
    """The mask; it stands at the end of a chain.

    Attributes:
        scaling: "count" or "mean".
    """

    scaling: str = "count"

    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Mask the update."""
        return mask(u, g, self.scaling)


def cautious(rule: Rule, scaling: str = "count") -> Rule:
    """The rule with its update masked, for stacked peers.

    Raises:
        ValueError: `scaling` is not allowed.
    """
    return rule.then(CautiousMask(_checked(scaling)))


class Cautious(Wrapper):
    """Any optimizer with its update masked: `Cautious(AdamW(model.parameters()))`.

    One of Shoal's masks its update itself. For others the update is the change of the parameter, without decoupled
    decay where that is known from the group or the class (`wrapping.decay_left`).

    Args:
        optimizer: any `torch.optim.Optimizer` that calls a closure no more than once, another wrapper too.
        scaling: "count" (the paper's) or "mean".

    Raises:
        ValueError: an argument is not allowed.
    """

    place: ClassVar[int] = 0
    once: ClassVar[bool] = True

    scaling: str
    _start: dict[Tensor, Tensor]

    def __init__(self, optimizer: torch.optim.Optimizer, *, scaling: str = "count") -> None:
        super().__init__(optimizer, scaling=_checked(scaling), _start={})

    def attach(self) -> None:
        """Append the mask to the chains of one of Shoal's optimizers."""
        core, own = self.core, CautiousMask(self.scaling)
        if isinstance(core, Optimizer) and own not in core.around:  # a copy has it already
            core.around = (*core.around, own)
            core._chains = {}

    def before(self, layers: list[Wrapper]) -> None:
        """Remember where a foreign optimizer starts."""
        if not isinstance(self.core, Optimizer):
            self._start = {p: p.detach().clone() for _, p in self.parameters()}

    def after(self, layers: list[Wrapper]) -> None:
        """Mask what a foreign optimizer did."""
        for group, p in self.parameters() if self._start else ():
            if p.grad is not None:
                start = self._start[p].mul_(decay_left(self.core, group))
                p.copy_(start - mask(start - p, -p.grad if group.get("maximize") else p.grad, self.scaling))
        self._start = {}


def _checked(scaling: str) -> str:
    if scaling not in SCALINGS:
        raise ValueError(f"scaling: got {scaling!r}; count or mean is allowed")
    return scaling
