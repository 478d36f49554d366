"""Who takes part in a comparison: an optimizer, how it is made, and where its settings are looked for."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from shoal.optim import Rule
from shoal.optim.schedules import Schedule
from shoal.tensors.random import hash01, key, permutation
from shoal.text import shown

Make: TypeAlias = Callable[..., Any] | Rule
MakeSchedule: TypeAlias = Callable[..., Schedule]


@dataclass(frozen=True)
class Span:
    """A range from which a random search draws.

    Attributes:
        low, high: both ends.
        scale: "log" draws evenly over the logarithm, "linear" over the value, and "log of 1 - x" over the logarithm
            of the distance from 1 (for decay rates such as 0.9 ... 0.999).
    """

    low: float
    high: float
    scale: Literal["log", "linear", "log of 1 - x"] = "log"

    def __post_init__(self) -> None:
        floor = {"log": 0.0, "linear": -math.inf, "log of 1 - x": -math.inf}.get(self.scale)
        if floor is None:
            raise ValueError(f"scale: got {self.scale!r}; log, linear and log of 1 - x are allowed")
        ceiling = 1.0 if self.scale == "log of 1 - x" else math.inf
        if not floor < self.low < self.high < ceiling:
            raise ValueError(f"low, high: got {self.low} and {self.high}; {floor} < low < high < {ceiling} is allowed")

    def at(self, share: float) -> float:
        """The value at a share in [0, 1] of the range.

        >>> round(Span(1e-4, 1e-2).at(0.5), 6), round(Span(0.9, 0.999, "log of 1 - x").at(0.5), 6)
        (0.001, 0.99)
        """
        if self.scale == "linear":
            return self.low + share * (self.high - self.low)
        if self.scale == "log":
            return self.low * math.pow(self.high / self.low, share)
        return 1.0 - (1.0 - self.low) * math.pow((1.0 - self.high) / (1.0 - self.low), share)


Choices: TypeAlias = Sequence[Any] | Span


@dataclass(frozen=True)
class Contender:
    """An optimizer that takes part.

    Attributes:
        make: an optimizer class of `shoal.optim` or another `torch.optim.Optimizer` class, a `Rule`, a function
            `lr -> Rule`, or a function `(params, lr) -> torch.optim.Optimizer` whose first argument is called `params`
            (or `named_parameters`, which then gets pairs of name and parameter). Rules, and so classes of
            `shoal.optim`, train all rates and seeds stacked; torch optimizers go one by one.
        settings: further arguments of `make` (or of the schedule, if it takes one of that name).
        rates: learning rates to try, the peaks if there is a schedule; None: those of the comparison.
        search: settings to try, name -> values, each together with each rate; or a `Span` for a random search.
        schedule: instead of the comparison's.
        stacked: False trains a class of `shoal.optim` in a torch loop, as an optimizer and not as a rule.
    """

    make: Make
    settings: Mapping[str, Any] = field(default_factory=dict)
    rates: Sequence[float] | Span | None = None
    search: Mapping[str, Choices] = field(default_factory=dict)
    schedule: MakeSchedule | None = None
    stacked: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.make, Rule) or callable(self.make)):
            raise ValueError(f"make: got {shown(self.make)}; a class, a Rule or a function is allowed")
        for name, choices in self.search.items():
            if not isinstance(choices, Span | Iterable) or isinstance(choices, str):
                raise ValueError(f"search: got {name} = {shown(choices)}; a list of values, or a Span, is allowed")
        if twice := self.settings.keys() & self.search.keys():
            raise ValueError(f"search: {', '.join(sorted(twice))} is among the settings as well")

    @property
    def by_rule(self) -> bool:
        """Whether `make` gives a `Rule`."""
        make = self.make
        if isinstance(make, Rule):
            return True
        if isinstance(make, type) and issubclass(make, torch.optim.Optimizer):
            return self.stacked and hasattr(make, "rule")
        return self._first_argument() not in ("params", "named_parameters")

    @property
    def named(self) -> bool:
        """Whether a torch optimizer gets pairs of name and parameter."""
        make = self.make
        ours = isinstance(make, type) and hasattr(make, "rule")  # classes of shoal.optim look at names
        return ours or self._first_argument() == "named_parameters"

    def _first_argument(self) -> str:
        assert not isinstance(self.make, Rule)
        return next(iter(inspect.signature(self.make).parameters), "")

    def rule(self, lr: float, settings: Mapping[str, Any]) -> Rule:
        """The rule with certain settings.

        Raises:
            ValueError: the function gives something else.
        """
        if isinstance(self.make, Rule):
            if settings:
                raise ValueError(f"settings: got {', '.join(settings)}; a rule that is made already takes none")
            return self.make
        of_class: Callable[..., Any] | None = getattr(self.make, "rule", None)
        made = self.make(lr, **settings) if of_class is None else of_class(lr=lr, **settings)
        if not isinstance(made, Rule):
            raise ValueError(
                f"make: {_name(self.make)} gave {shown(made)}; a Rule is needed, or call the first argument `params` "
                "if it makes a torch optimizer"
            )
        return made

    def optimizer(self, params: list[Any], lr: float, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The torch optimizer with certain settings.

        Raises:
            ValueError: the function gives something else.
        """
        assert not isinstance(self.make, Rule)
        made = self.make(params, lr, **settings)
        if not hasattr(made, "step") or not hasattr(made, "param_groups"):
            raise ValueError(f"make: {_name(self.make)} gave {shown(made)}; a torch.optim.Optimizer is needed")
        return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Point:
    """One setting that is tried: a learning rate, and further settings by name."""

    lr: float
    settings: Mapping[str, Any]


def points(contender: Contender, rates: Sequence[float] | Span, trials: int | None, seed: int) -> list[Point]:
    """What is tried of a contender.

    Args:
        contender: whose.
        rates: of the comparison, where the contender has none of its own.
        trials: None: every rate with every combination of settings; else so many of them, drawn at random. Draws are
            the same for contenders that look for a setting of the same name in a `Span`.
        seed: of the draws.

    Raises:
        ValueError: a rate is not allowed, or there are fewer points than trials.
    """
    chosen: dict[str, Choices] = {"lr": contender.rates if contender.rates is not None else rates, **contender.search}
    for name, values in chosen.items():
        if not isinstance(values, Span) and not len(values):
            raise ValueError(f"{'rates' if name == 'lr' else name}: got no values to try")
    spans = [name for name, values in chosen.items() if isinstance(values, Span)]
    if trials is None and spans:
        raise ValueError(f"trials: got None; a number is needed where a Span is searched ({', '.join(spans)})")
    if not spans:
        rows = list(itertools.product(*(list(values) for values in chosen.values() if not isinstance(values, Span))))
        if trials is not None:
            if trials > len(rows):
                raise ValueError(f"trials: got {trials}; there are only {len(rows)} points to try")
            rows = [rows[i] for i in sorted(permutation(key(seed, "search"), len(rows))[:trials].tolist())]
    else:
        rows = [
            tuple(_draw(values, hash01(key(seed, "search", name, trial))) for name, values in chosen.items())
            for trial in range(trials or 0)
        ]
    return [_point(dict(zip(chosen, row, strict=True))) for row in rows]


def _draw(values: Choices, share: float) -> Any:
    return values.at(share) if isinstance(values, Span) else values[min(len(values) - 1, int(share * len(values)))]


def _point(values: dict[str, Any]) -> Point:
    lr = float(values.pop("lr"))
    if not 0.0 < lr < math.inf:
        raise ValueError(f"rates: got {lr}; finite numbers above 0 are allowed")
    return Point(lr, values)


def around(lr: float, count: int = 7, factor: float = math.sqrt(10.0)) -> list[float]:
    """`count` rates in equal ratios, `lr` in their middle, rounded to 3 digits.

    >>> around(0.001, 5)
    [0.0001, 0.000316, 0.001, 0.00316, 0.01]
    """
    return [float(f"{lr * factor ** (i - (count - 1) // 2):.3g}") for i in range(count)]


def outside(rates: Sequence[float], side: Literal["low", "high"], count: int) -> list[float]:
    """`count` further rates beyond one end of a grid, in the ratio of its last two.

    >>> outside([0.01, 0.1], "high", 2)
    [1.0, 10.0]
    """
    ordered = sorted(set(rates), reverse=side == "low")
    ratio = ordered[-1] / ordered[-2] if len(ordered) > 1 else (0.1 if side == "low" else 10.0)
    return [float(f"{ordered[-1] * ratio**i:.6g}") for i in range(1, count + 1)]


def make_schedule(
    make: MakeSchedule, peak: float, steps: int, settings: Mapping[str, Any]
) -> tuple[list[float], dict[str, Any]]:
    """The rate of each step, and the settings that were not the schedule's.

    Args:
        make: `peak -> Schedule`; it gets `steps` and settings by name if it has arguments of these names.
        peak: learning rate that is tried.
        steps: of the training.
        settings: of the point that is tried.

    Raises:
        ValueError: `make` is no such function, or its schedule gives what is no rate.
    """
    allowed = "a function from the peak rate to a schedule, such as shoal.optim.schedules.constant,"
    if not callable(make):
        raise ValueError(f"schedule: got {shown(make)}; {allowed} is allowed")
    parameters = inspect.signature(make).parameters
    own = {name: value for name, value in settings.items() if name in list(parameters)[1:]}
    rest = {name: value for name, value in settings.items() if name not in own}
    if "steps" in parameters and parameters["steps"].default is inspect.Parameter.empty:
        own["steps"] = steps
    schedule = make(peak, **own)
    if not callable(schedule):
        raise ValueError(f"schedule: {_name(make)} gave {shown(schedule)}; {allowed} is allowed")
    rates = [float(schedule(t)) for t in range(steps)]
    wrong = next((rate for rate in rates if not 0.0 <= rate < math.inf), None)
    if wrong is not None:
        raise ValueError(f"schedule: {_name(make)} gave a rate of {wrong}; finite numbers >= 0 are allowed")
    return rates, rest


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or type(thing).__name__
