"""Optimizers in rotated coordinates: what they gain from the axes that a model happens to have, they lose.

    y = R p,  grad_y = R g        then the optimizer steps y        p = R' y

R is orthogonal, random and fixed: a permutation, then a rotation of each stretch of the coordinates by a Kronecker
product of two factors. SGD takes the same steps in every coordinates; Adam does not.

S. Xie, M. A. Mohamadi, Z. Li, "Adam Exploits l_infinity-geometry of Loss Landscape via Coordinate-wise Adaptivity",
arXiv:2410.08198 (2024).

Choices. Up to `side` coordinates R is uniform among all rotations and reflections (Haar's measure). Of more, stretches
of a^2 (a^2 + a, ...) share their two factors of at most `side` x `side`, and what is left over is rotated by itself, so
that each coordinate goes into up to side^2 others and R takes little memory. `Rotated` adds R' of the step to p, so
that rounding does not move what stands still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from shoal.optim.adalomo import InBackward
from shoal.optim.core import Optimizer, Rule
from shoal.optim.core.arguments import whole
from shoal.optim.core.plan import compute_dtype
from shoal.optim.wrapping import Wrapper
from shoal.optim.xgrad import XGrad
from shoal.tensors.random import key, normal, permutation

WITHIN = ("model", "tensor")


@dataclass(frozen=True)
class Rotation:
    """A random orthogonal matrix R [n, n] that is not written out.

    Attributes:
        n: number of coordinates.
        key: of the draws, in [0, 2**63).
        side: largest side of a factor.
    """

    n: int
    key: int
    side: int = 256

    def __call__(self, x: Tensor) -> Tensor:
        """R x of a vector [n]."""
        x = x[self._order(x.device)]
        return torch.cat([_turned(part, a, b) for part, a, b in self._parts(x)]) if self.n else x

    def back(self, y: Tensor) -> Tensor:
        """R' y of a vector [n]."""
        x = torch.empty_like(y)
        if self.n:
            x[self._order(y.device)] = torch.cat([_turned(part, a.T, b.T) for part, a, b in self._parts(y)])
        return x

    def _order(self, device: torch.device) -> Tensor:
        return _order(self.n, self.key).to(device)

    def _parts(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(Stretch, its two factors), one after the other."""
        sizes, factors = [], []
        rest = self.n
        while rest:
            a, b, times = _cut(rest, self.side)
            sizes.append(a * b * times)
            own = key(self.key, "factors", len(sizes))
            factors.append([_factor(side, key(own, i), x.dtype, x.device) for i, side in enumerate((a, b))])
            rest -= sizes[-1]
        return [(part, *pair) for part, pair in zip(x.split(sizes), factors, strict=True)]


def _cut(n: int, side: int) -> tuple[int, int, int]:
    """Sides of two factors, and how many stretches of a * b coordinates <= n they rotate."""
    if n <= side:
        return n, 1, 1
    a = min(side, math.isqrt(n))
    b = min(side, n // a)
    return a, b, n // (a * b)


def _turned(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A X B' of each stretch X [a, b]."""
    stretches = x.view(-1, len(a), len(b))
    turned = a @ stretches
    return (turned @ b.T if len(b) > 1 else turned * b[0, 0]).flatten()


@lru_cache(maxsize=512)
def _order(n: int, key: int) -> Tensor:
    return permutation(key, n)


@lru_cache(maxsize=1024)
def _factor(side: int, key: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A uniform orthogonal matrix: Q of a normal one, with the diagonal of its R made positive."""
    q, r = torch.linalg.qr(normal(key, (side, side), dtype=torch.float64))
    matrix: Tensor = q * r.diagonal().sign()
    return matrix.to(device, dtype)


@dataclass(frozen=True)
class RotatedFrame:
    """Rotated coordinates of parameters, of all together or tensor by tensor (see `Frame`).

    Attributes:
        seed: of the rotations, >= 0.
        within: "model" or "tensor".
        side: largest side of a factor, >= 1.
    """

    seed: int = 0
    within: str = "model"
    side: int = 256

    def __post_init__(self) -> None:
        if self.within not in WITHIN:
            raise ValueError(f"within: got {self.within!r}; model or tensor is allowed")
        for name, value, least in (("seed", self.seed, 0), ("side", self.side, 1)):
            if not whole(least)(value):
                raise ValueError(f"{name}: got {value!r}; a whole number >= {least} is allowed")

    def to(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Parameters, or gradients, in these coordinates, in the dtype in which rules compute."""
        return self._all(tensors, lambda rotation, x: rotation(x))

    def back(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The way back."""
        return self._all(tensors, lambda rotation, x: rotation.back(x))

    def _all(self, tensors: Sequence[Tensor], turn: Callable[[Rotation, Tensor], Tensor]) -> list[Tensor]:
        own = key(self.seed, "rotation")
        flat = [t.detach().to(compute_dtype(t.dtype)).flatten() for t in tensors]
        if self.within == "tensor":
            turned = [turn(Rotation(x.numel(), key(own, i), self.side), x) for i, x in enumerate(flat)]
        else:
            joined = torch.cat([x.to(flat[0].device) for x in flat])
            parts = turn(Rotation(joined.numel(), own, self.side), joined).split([x.numel() for x in flat])
            turned = [part.to(x) for part, x in zip(parts, flat, strict=True)]
        return [x.view(t.shape) for x, t in zip(turned, tensors, strict=True)]


def rotated(rule: Rule, rotation_seed: int = 0, within: str = "model", side: int = 256) -> Rule:
    """The rule in rotated coordinates, for stacked peers, who all rotate alike.

    Raises:
        ValueError: an argument is not allowed, or the rule is rotated already or has rates of their own for parameters
            that would be mixed.
    """
    if rule.factor is not None and within == "model":
        raise ValueError('within: got "model" for a rule with several rates; "tensor" is allowed')
    if rule.frame is not None:
        raise ValueError("rule: got one in coordinates of its own; one rotation is allowed")
    return replace(rule, frame=RotatedFrame(rotation_seed, within, side))


class Rotated(Wrapper):
    """Any optimizer in rotated coordinates: `Rotated(Adam(model.parameters()))`.

    The optimizer's state is in these coordinates. Other wrappers stand inside; `XGrad` is refused.

    Args:
        optimizer: any `torch.optim.Optimizer` that calls a closure no more than once and needs gradients alone, another
            wrapper too.
        rotation_seed: of the rotation, >= 0.
        within: "model" mixes all coordinates, where a missing gradient counts as 0 if another is there, nothing may
            be frozen, and no group can be added later; "tensor" those of each parameter.
        side: largest side of a factor.

    Raises:
        ValueError: an argument is not allowed; or later, a parameter that would be mixed is frozen.
    """

    place: ClassVar[int] = 3
    ahead: ClassVar[bool] = True
    once: ClassVar[bool] = True
    outermost: ClassVar[bool] = True

    frame: RotatedFrame
    _given: dict[Tensor, Tensor | None]  # gradients as they came, during a step
    _held: list[tuple[Tensor, Tensor, Tensor]]  # parameters, as they were and turned, during a step

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, rotation_seed: int = 0, within: str = "model", side: int = 256
    ) -> None:
        if isinstance(optimizer, Wrapper) and any(isinstance(layer, XGrad) for layer in optimizer.layers):
            raise ValueError(
                "optimizer: got an XGrad, which predicts in the model's own coordinates; others are allowed"
            )
        core = optimizer.core if isinstance(optimizer, Wrapper) else optimizer
        if isinstance(core, InBackward):
            name = type(core).__name__
            raise ValueError(f"optimizer: got {name}, which steps one tensor at a time; others are allowed")
        super().__init__(optimizer, frame=RotatedFrame(rotation_seed, within, side), _given={}, _held=[])
        self._check()

    def _check(self) -> None:
        """Refuse what would be of other coordinates than the gradients, and what must not move."""
        core = self.core
        asked = {name: 0 for plan in core._all_plans() for name in plan.given} if isinstance(core, Optimizer) else {}
        if asked:
            raise ValueError(
                f"optimizer: got {type(core).__name__}, which is given {', '.join(asked)} in the model's own "
                "coordinates; one that needs gradients alone is allowed"
            )
        frozen = next((p for _, p in self.parameters() if not p.requires_grad), None)
        if frozen is not None and self.frame.within == "model":
            raise ValueError(
                f'within: got "model" with a frozen parameter of shape {tuple(frozen.shape)}; "tensor" is allowed'
            )

    def add_param_group(self, param_group: dict[str, object]) -> None:
        """Add a group to the inner optimizer.

        Raises:
            ValueError: all coordinates are mixed, and steps have been taken.
        """
        if self.frame.within == "model" and self.state:
            raise ValueError('param_group: got one after the first step; within="tensor" is needed for that')
        super().add_param_group(param_group)

    def before(self, layers: list[Wrapper]) -> None:
        """Turn parameters and gradients."""
        self._check()
        held = [p for _, p in self.parameters()]
        self._given = {p: p.grad for p in held}
        mixed = self.frame.within == "model"
        if any(g is not None for g in self._given.values()):
            gradients = [torch.zeros_like(p) if g is None else self._dense(g) for p, g in self._given.items()]
            for p, g in zip(held, self.frame.to(gradients), strict=True):
                if mixed or p.grad is not None:
                    p.grad = g.to(p.dtype)
        kept = [p.detach().clone() for p in held]
        self._put(held, self.frame.to(held))
        self._held = [(p, before, p.detach().clone()) for p, before in zip(held, kept, strict=True)]

    def after(self, layers: list[Wrapper]) -> None:
        """Turn parameters back."""
        wide = [compute_dtype(p.dtype) for p, _, _ in self._held]
        moves = [p.to(dtype) - turned for dtype, (p, _, turned) in zip(wide, self._held, strict=True)]
        for move, (p, before, _) in zip(self.frame.back(moves), self._held, strict=True):
            p.copy_(before + move)
        for p, g in self._given.items():
            p.grad = g
        self._given, self._held = {}, []

    @torch.no_grad()
    def eval(self) -> None:
        """Let parameters hold the weights to evaluate or to save, until `train`; `step` is refused meanwhile."""
        already = self.evaluating
        super().eval()
        if already or not self._aside:
            return
        held = [p for _, p in self.parameters()]
        inside = self.frame.to([self._aside.get(p, p) for p in held])  # of those that nobody shows others for
        shown = [p if p in self._aside else y for p, y in zip(held, inside, strict=True)]
        self._aside.update({p: p.detach().clone() for p in held if p not in self._aside})
        self._put(held, self.frame.back(shown))

    def _put(self, parameters: list[Tensor], values: list[Tensor]) -> None:
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)

    def _dense(self, g: Tensor) -> Tensor:
        if g.layout is not torch.strided:
            name = type(self.core).__name__
            raise RuntimeError(f"Rotated {name} takes no sparse gradients; got one of shape {tuple(g.shape)}")
        return g
