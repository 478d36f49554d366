"""muP: an optimizer whose rates go with the width of each parameter, so that layers learn alike at every width.

G. Yang, E. Littwin, "Tensor Programs IVb: Adaptive Optimization in the Infinite-Width Limit", arXiv:2308.01814 (2023).
The table of factors, and what is done to a model's first values, are in `widths.py`.

Weight decay: the product of learning rate and decay of a parameter stays what it is at the base width, for decoupled
decay and for SGD's; a decay that is not multiplied by the rate is left as it is. The coupled decay of Adam and its kin
has no such factor, and is refused. Which one an optimizer of `shoal.optim` has is seen from its chain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from shoal.optim.adagrad import Adagrad
from shoal.optim.adam import Adam
from shoal.optim.adam_atan2 import AdamAtan2
from shoal.optim.adamax import AdaMax
from shoal.optim.adamw import SGDW, AdamW
from shoal.optim.adopt import ADOPT
from shoal.optim.amsgrad import AdamNC, AMSGrad
from shoal.optim.common import DecayAfter, DecoupledDecay, WeightDecay
from shoal.optim.core import Chain, Optimizer, Param, Rule
from shoal.optim.core.arguments import SHARED, check, finite
from shoal.optim.core.optimizer import Links
from shoal.optim.laprop import FixedDecayAfter
from shoal.optim.lion import Lion
from shoal.optim.nadam import NAdam
from shoal.optim.radam import DecayOfTakenSteps
from shoal.optim.rmsprop import RMSProp
from shoal.optim.sgd import SGD
from shoal.optim.widths import Base, Family, Width, divide_readouts, redraw, rescale, some_of, widths
from shoal.text import shown

Init = Literal["rescale", "redraw", "keep"]
Make: TypeAlias = Callable[..., torch.optim.Optimizer]

ENTRY_WISE: tuple[type, ...] = (
    *(Adam, AdamW, NAdam, AdaMax, AMSGrad, AdamNC, ADOPT, AdamAtan2, RMSProp, Adagrad, Lion),
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adamax),
    *(torch.optim.RMSprop, torch.optim.Adagrad),
)
"""Steps of a size that the gradient's does not change, entry by entry: Adam's exponents."""
LINEAR: tuple[type, ...] = (SGD, SGDW, torch.optim.SGD)
"""Steps in proportion to the gradient: SGD's exponents."""
TIMES_RATE: tuple[type, ...] = (DecoupledDecay, DecayAfter, DecayOfTakenSteps)
"""Transforms of decoupled decay, multiplied by the learning rate."""


def mup(
    model: nn.Module,
    base_model: Base,
    optimizer: Any,
    *,
    init: Init = "rescale",
    seed: int = 0,
    family: Family | None = None,
    sums: Mapping[str, int | None] | None = None,
    **settings: Any,
) -> Any:
    """Put a model into muP: initialise it, and make an optimizer whose rates go with the width of each parameter.

        optimizer = mup(build(1024), build(64), AdamW, lr=3e-3)    # lr as it is best for build(64)

    Args:
        model: what is to be trained; its values are changed.
        base_model: the narrow model whose settings are to be used; or shapes by name.
        optimizer: a class of `shoal.optim` or `torch.optim`, a `functools.partial` of one, another function from
            groups of parameters to an optimizer (then with `family`), or a `Rule` made by a class of `shoal.optim`.
        init: "rescale", "redraw" (with `seed`; see the functions of these names), or "keep" for a model that is
            initialised already.
        seed: of "redraw".
        family: "adam" for entry-wise steps that do not depend on the gradient's size, "sgd" for linear ones; None: as
            it is known of the class.
        sums: as of `widths`.
        settings: of the optimizer, as they are best for the base model.

    Returns:
        The optimizer, with a group for all parameters of one rate; or a rule, for stacked peers, which looks at names.

    Raises:
        ValueError: the optimizer is not known, its eps is no number (AdaFactor's), Adam's decay is coupled or not
            known, or as of `rescale`.
    """
    if init not in ("rescale", "redraw", "keep"):
        raise ValueError(f"init: got {init!r}; rescale, redraw or keep is allowed")
    cls = _class(optimizer)
    family = _family(cls, optimizer, family)
    found = widths(model, base_model, sums=sums)
    if isinstance(optimizer, Rule):
        if settings:
            raise ValueError(f"settings: got {', '.join(settings)}; a rule that is made already takes none")
        made: Any = _widened_rule(optimizer, family, found, model)
    else:
        made = optimizer(_groups(model, optimizer, cls, family, found, settings), **settings)
    if init == "rescale":
        rescale(model, base_model, sums=sums)
    elif init == "redraw":
        redraw(model, base_model, seed, sums=sums)
    divide_readouts(model, found)
    return made


def _class(optimizer: Any) -> type | None:
    if isinstance(optimizer, Rule):
        return optimizer.links.cls if isinstance(optimizer.links, Links) else None
    inner = getattr(optimizer, "func", optimizer)
    return inner if isinstance(inner, type) else None


def _family(cls: type | None, optimizer: Any, family: Family | None) -> Family:
    if family is not None:
        if family not in ("adam", "sgd"):
            raise ValueError(f"family: got {family!r}; adam, sgd or None is allowed")
        return family
    if cls in ENTRY_WISE:
        return "adam"
    if cls in LINEAR:
        return "sgd"
    got = cls.__name__ if cls else getattr(optimizer, "name", None) or shown(optimizer)
    known = sorted({c.__name__ for c in (*ENTRY_WISE, *LINEAR)})
    raise ValueError(
        f"optimizer: got {got}, whose exponents are not known; {', '.join(known)} are allowed, or family= says which"
    )


def _of_gradient(settings: Mapping[str, Any], width: Width) -> dict[str, float]:
    """Settings that are compared with gradients, or with their squares, at this width."""
    power = {"eps": 2 if settings.get("eps_in_root") else 1, "v0": 2, "initial_accumulator_value": 2}
    own = {name: settings[name] for name in power if settings.get(name) is not None}
    for name, value in own.items():
        if not finite(value):
            raise ValueError(f"{name}: got {value!r}; a finite number, whose exponent is known, is allowed")
    return {name: float(value) * width.gradient ** power[name] for name, value in own.items()}


Decay = Literal["none", "with lr", "apart", "coupled", "unknown"]


def _kind(cls: type | None, settings: Mapping[str, Any], params: Iterable[Param]) -> Decay:
    """How a class's weight decay goes: multiplied by the learning rate, apart from it, or into the gradient."""
    if cls is not None and issubclass(cls, Optimizer):
        links = Links(cls, dict(settings))
        kinds = {type(transform) for param in params for transform in links(param)}
        if any(issubclass(kind, WeightDecay) for kind in kinds):
            return "coupled"
        if any(issubclass(kind, FixedDecayAfter) for kind in kinds):
            return "apart"
        if any(issubclass(kind, TIMES_RATE) for kind in kinds):
            return "apart" if settings.get("decay_times_lr") is False else "with lr"
        return "unknown"
    if cls is torch.optim.AdamW or settings.get("decoupled_weight_decay"):
        return "with lr"
    return "coupled" if cls is not None and cls.__module__.startswith("torch.optim") else "unknown"


def _decay(cls: type | None, family: Family, settings: Mapping[str, Any], model: nn.Module) -> Decay:
    """How the weight decay of a model's parameters goes.

    Raises:
        ValueError: that has no factor in muP, or is not known.
    """
    if not settings.get("weight_decay"):
        return "none"
    kind = _kind(cls, settings, [Param(name, tuple(p.shape), p.dtype) for name, p in model.named_parameters()])
    if family == "sgd":
        return "apart" if kind == "apart" else "with lr"
    if kind in ("coupled", "unknown"):
        which = cls.__name__ if cls else "this optimizer"
        why = "which adds it to the gradient" if kind == "coupled" else "whose decay is not known"
        raise ValueError(
            f"weight_decay: got {settings['weight_decay']} for {which}, {why}; 0 is allowed in muP, or an optimizer "
            "with decoupled decay, such as AdamW"
        )
    return kind


def _own(settings: Mapping[str, Any], rate: float, width: Width, decay: str) -> dict[str, Any]:
    """The settings of a parameter that are others than the base model's."""
    own: dict[str, Any] = {"lr": settings["lr"] * rate, **_of_gradient(settings, width)}
    if settings.get("base_lr") is not None:
        own["base_lr"] = settings["base_lr"] * rate
    if decay == "with lr":
        own["weight_decay"] = settings["weight_decay"] / rate
    return own


def _groups(
    model: nn.Module, make: Make, cls: type | None, family: Family, found: Mapping[str, Width], given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    signature = inspect.signature(make).parameters
    defaults = {name: p.default for name, p in signature.items() if p.default is not p.empty}
    settings = {**defaults, **given}
    if settings.get("lr") is None:
        raise ValueError("lr: got none; the learning rate of the base model is needed")
    _check(cls, settings)
    decay = _decay(cls, family, settings, model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        rate, gradient = found[name].lr(family), found[name].gradient
        if (rate, gradient) not in groups:
            groups[rate, gradient] = {"params": [], **_own(settings, rate, found[name], decay)}
        groups[rate, gradient]["params"].append((name, p))
    return list(groups.values())


def _check(cls: type | None, settings: Mapping[str, Any]) -> None:
    """Refuse settings that are no numbers before anything is multiplied by them."""
    if cls is not None and issubclass(cls, Optimizer):
        check(cls, {name: settings[name] for name in cls.arguments if name in settings})
        return
    for name in ("lr", "weight_decay"):
        if name in settings and not SHARED[name].check(settings[name]):
            raise ValueError(f"{name}: got {shown(settings[name])}; {SHARED[name].allowed} is allowed")


@dataclass(frozen=True)
class _Widened:
    """The chain of a class for each parameter, and what its rate is multiplied by."""

    inner: Links
    family: Family
    found: Mapping[str, Width]
    decay: Decay

    def factor(self, param: Param) -> float:
        """The learning rate over that in the base model."""
        if param.name not in self.found:
            raise ValueError(
                f"mup: got parameter {param.name!r}; those of the model ({some_of(self.found)}) are allowed"
            )
        return self.found[param.name].lr(self.family)

    def __call__(self, param: Param) -> Chain:
        """The chain, with the settings for this width."""
        settings, rate = self.inner.settings, self.factor(param)
        own = _own(settings, rate, self.found[param.name], self.decay)
        return Links(self.inner.cls, settings | own)(param)


def _widened_rule(rule: Rule, family: Family, found: Mapping[str, Width], model: nn.Module) -> Rule:
    if not isinstance(rule.links, Links):
        raise ValueError(f"optimizer: got the rule {rule.name}; one that a class of shoal.optim makes is allowed")
    if rule.frame is not None:
        raise ValueError(f"optimizer: got the rule {rule.name} in coordinates of its own; the model's are allowed")
    if rule.factor is not None:
        raise ValueError(
            f"optimizer: got the rule {rule.name} with rates of its own for parameters; one rate is allowed"
        )
    decay = _decay(rule.links.cls, family, rule.links.settings, model)
    links = _Widened(rule.links, family, found, decay)
    return replace(rule, links=links, factor=links.factor)
