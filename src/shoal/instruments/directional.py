"""Curvature along the updates of optimizers: why one step goes further than another.

    v = u / |u|        f(w + eta v) ~ f + eta f'v + eta^2 S / 2        S = v'Hv, the directional sharpness
    best step  eta* = -f'v / S        best decrease  (f'v)^2 / (2 S)

The states of many optimizers are fed with the gradients of one trajectory (`Shadows`), so that their updates are of the
same point and compared there.

Y. Pan, Y. Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", arXiv:2306.00204 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.instruments.surface import Surface
from shoal.optim import AdaFactor, Adam, ClippedAdam, Lion, Param, Rule, Transform
from shoal.optim.common import Momentum
from shoal.optim.coordinate_clip import coordinate_clip
from shoal.optim.core import Scalars, State
from shoal.optim.core.transform import Granularity
from shoal.optim.lion import SignOfAverage
from shoal.optim.sgd import SGD


@dataclass(frozen=True)
class Direction:
    """A direction v of length 1 at a point, and what the quadratic model says of steps along it.

    Attributes:
        length: |u| of the update u that v is made of; 0 where u is 0, and all else is 0 then.
        slope: f'v, below 0 if the loss falls at first.
        sharpness: S = v'Hv.
    """

    length: float
    slope: float
    sharpness: float

    @property
    def best_step(self) -> float:
        """The length eta >= 0 of the best step along v; infinite where the model falls for ever."""
        if self.slope >= 0.0:
            return 0.0 if self.sharpness >= 0.0 else math.inf
        return -self.slope / self.sharpness if self.sharpness > 0.0 else math.inf

    @property
    def best_decrease(self) -> float:
        """How much the loss falls by the best step, as the model says; >= 0, or infinite."""
        step = self.best_step
        return step if step in (0.0, math.inf) else -0.5 * step * self.slope


def directional_sharpness(surface: Surface, update: Tensor, at: Tensor | None = None) -> float:
    """S = v'Hv of an update [d] of any length but 0; the loss, gradient and Hessian are of the same samples."""
    return directions(surface, {"": update}, at)[""].sharpness


def directions(surface: Surface, updates: Mapping[str, Tensor], at: Tensor | None = None) -> dict[str, Direction]:
    """What the quadratic model says of several updates at one point.

    Args:
        surface: the loss.
        updates: name -> what would be added to the parameters, [d].
        at: the point [d]; None: where the model is.
    """
    names = list(updates)
    if not names:
        return {}
    gradient = surface.gradient(at)
    rows = torch.stack([updates[name].double().to(gradient.device) for name in names])
    lengths = rows.norm(dim=1)
    rows = torch.where(lengths[:, None] > 0, rows / lengths[:, None], 0.0)
    products = surface.hvp(rows.to(gradient.dtype), at).double()
    slopes, curvatures = rows @ gradient.double(), (rows * products).sum(1)
    found = zip(names, lengths.tolist(), slopes.tolist(), curvatures.tolist(), strict=True)
    return {name: Direction(*numbers) for name, *numbers in found}


@dataclass(frozen=True)
class Line:
    """Losses along a line.

    Attributes:
        lengths: how far from the point, ascending.
        losses: there.
    """

    lengths: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best(self) -> tuple[float, float]:
        """(Length, loss) of the lowest loss; the first of equal ones; losses that are NaN do not count."""
        known = [(loss, length) for length, loss in zip(self.lengths, self.losses, strict=True) if not math.isnan(loss)]
        loss, length = min(known, default=(math.nan, 0.0))
        return length, loss


def line(surface: Surface, update: Tensor, lengths: Sequence[float], at: Tensor | None = None) -> Line:
    """Losses at w + eta u / |u| for each eta of `lengths`; u [d] is the update."""
    start = surface.vector() if at is None else at
    v = _unit(update).to(start)
    ordered = tuple(sorted(float(eta) for eta in lengths))
    return Line(ordered, tuple(surface.value(start + eta * v) for eta in ordered))


def line_search(
    surface: Surface, update: Tensor, at: Tensor | None = None, *, first: float = 0.01, points: int = 24
) -> Line:
    """Losses at 0 and at lengths of first * 2^k, until the lowest one has a higher one on either side.

    Args:
        surface: the loss.
        update: u [d], whose direction is searched.
        at: the point; None: where the model is.
        first: the first length that is tried, > 0.
        points: at most so many lengths are tried, >= 1.
    """
    if not 0.0 < first < math.inf:
        raise ValueError(f"first: got {first}; a finite number > 0 is allowed")
    if points < 1:
        raise ValueError(f"points: got {points}; a number >= 1 is allowed")
    start = surface.vector() if at is None else at
    v = _unit(update).to(start)
    found = {0.0: surface.value(start)}
    low = high = first
    while len(found) <= points:
        eta = next((eta for eta in (low, high) if eta not in found), None)
        if eta is None:
            length = Line(*_ascending(found)).best[0]
            if length == high:
                high = eta = 2.0 * high
            elif length in (0.0, low):
                low = eta = 0.5 * low
            else:
                break
        found[eta] = surface.value(start + eta * v)
    return Line(*_ascending(found))


def _ascending(found: Mapping[float, float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    lengths = tuple(sorted(found))
    return lengths, tuple(found[eta] for eta in lengths)


def _unit(update: Tensor) -> Tensor:
    length = update.double().norm()
    if not 0.0 < float(length) < math.inf:
        raise ValueError(f"update: got one of length {float(length)}; a finite length > 0 is needed")
    return torch.nn.functional.normalize(update.double(), dim=0)


@dataclass(frozen=True)
class UnitTensors(Transform):
    """Each tensor's update at the length that n entries of size 1 have, sqrt(n)."""

    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """u sqrt(n) / |u|, and 0 where u is 0."""
        length = u.square().sum().sqrt()
        return torch.where(length > 0, u * (u.numel() ** 0.5 / length), 0.0)


def usual_rules(rho: float = 0.1, lr: float = 1e-3) -> dict[str, Rule]:
    """The optimizers of the publication by name, and their forms with coordinate-wise clipping ("clipped SGD").

    Momentum is 0.9, also below the sign (where it is an average, which has the same sign) and below the normalisation,
    which is of each tensor; Adam has 0.9 and 0.999, Lion 0.9 and 0.99. Clipped Adam has its second moment of unclipped
    gradients.

    Args:
        rho: share of the coordinates that are clipped.
        lr: of all; it does not matter to directions.
    """
    sgd, lion = SGD.rule(lr, momentum=0.9), Lion.rule(lr)
    normalised = Rule("normalised", lr, (Momentum(0.9), UnitTensors()))
    return {
        "SGD": sgd,
        "clipped SGD": coordinate_clip(sgd, rho),
        "Adam": Adam.rule(lr),
        "clipped Adam": ClippedAdam.rule(lr, rho=rho),
        "sign": Rule("sign", lr, (SignOfAverage(0.9, 0.9),)),
        "normalised SGD": normalised,
        "clipped normalised SGD": coordinate_clip(normalised, rho),
        "Adafactor": AdaFactor.rule(lr),
        "Lion": lion,
        "clipped Lion": coordinate_clip(lion, rho),
    }


class Shadows:
    """States of several rules that are fed the same gradients, at the points of a trajectory that none of them makes.

    States and updates are in float64, so that an update is not lost in the rounding of the parameters.

    Args:
        surface: gives the parameters' names and shapes; its loss is not looked at.
        rules: by name.

    Raises:
        ValueError: a rule needs the loss, or more (AdaHessian, AdaFisher).
    """

    def __init__(self, surface: Surface, rules: Mapping[str, Rule]) -> None:
        self._surface, self._rules = surface, dict(rules)
        self._params = [Param(name, tuple(shape)) for name, shape in surface.shapes.items()]
        told = [name for name, rule in self._rules.items() if rule.needs_loss(self._params)]
        if told:
            raise ValueError(f"rules: got {', '.join(told)}, which must be told the loss; others are allowed")
        for name, rule in self._rules.items():
            asked = rule.given(self._params)
            if asked:
                raise ValueError(
                    f"rules: got {name}, whose steps need {', '.join(asked)}; rules of gradients and losses are allowed"
                )
        held = {name: p.double() for name, p in surface.split(surface.vector()).items()}
        self._memories = {name: rule.memory(held) for name, rule in self._rules.items()}
        self.steps = 0

    def feed(self, gradient: Tensor, at: Tensor | None = None) -> dict[str, Tensor]:
        """Take in the gradient of the trajectory's next step.

        Args:
            gradient: [d].
            at: the point [d] that it was taken at; None: where the surface's model is.

        Returns:
            By rule, the update that it would take here, float64 [d]: what it would add to the parameters.
        """
        self.steps += 1
        start = (self._surface.vector() if at is None else at).double()
        gradients = [g.double() for g in self._surface.split(gradient).values()]
        updates = {}
        for name, rule in self._rules.items():
            moved = start.clone()
            state = rule.views(self._memories[name], self._params)
            parameters = list(self._surface.split(moved).values())
            rule.step(self._params, parameters, [g.clone() for g in gradients], state, float(self.steps), rule.lr)
            updates[name] = moved - start
        return updates
