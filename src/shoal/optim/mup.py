"""muP: how initialisation, learning rates and eps go with width, so that layers learn alike at every width.

With m_in and m_out, by what factors the dimensions that a weight sums over and puts out are wider than in a base model
(1 for those that are no width: pixels, classes, the window of a convolution):

    kind       m_in  m_out   std against base   lr, Adam    lr, SGD        gradient, and so eps
    input      1     > 1     1                  1           m_out          1 / m_out
    hidden     > 1   > 1     1 / sqrt(m_in)     1 / m_in    m_out / m_in   1 / m_out
    output     > 1   1       1 / m_in           1 / m_in    1 / m_in       1
    vector     1     > 1     1                  1           m_out          1 / m_out       biases, gains, positions
    fixed      1     1       1                  1           1              1

G. Yang, E. Littwin, "Tensor Programs IVb: Adaptive Optimization in the Infinite-Width Limit", arXiv:2308.01814 (2023),
in effective weights (a = 0 in its abcd). Its n^d, the factor of gradients before an entry-wise optimizer, is here an
eps divided by it. SGD: G. Yang, E. J. Hu, "Feature Learning in Infinite-Width Neural Networks", arXiv:2011.14522
(2020).

Logits of attention are to be divided by the dimension of a head and not by its root: `attention_scale`.

A weight that an embedding shares with an output layer is an input, whose rates are the embedding's, and the output
layer divides what it gets by m_in, by a forward hook. A model that uses such a weight by hand has to divide by hand.

Weight decay: the product of learning rate and decay of a parameter stays what it is at the base width, for decoupled
decay and for SGD's. The coupled decay of Adam and its kin has no such factor, and is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from shoal.optim.adagrad import Adagrad
from shoal.optim.adam import Adam
from shoal.optim.adam_atan2 import AdamAtan2
from shoal.optim.adamax import AdaMax
from shoal.optim.adamw import SGDW, AdamW
from shoal.optim.adopt import ADOPT
from shoal.optim.amsgrad import AdamNC, AMSGrad
from shoal.optim.common import Scaled
from shoal.optim.core import Chain, Param, Rule
from shoal.optim.core.optimizer import Links
from shoal.optim.lion import Lion
from shoal.optim.nadam import NAdam
from shoal.optim.rmsprop import RMSProp
from shoal.optim.sgd import SGD
from shoal.tensors.random import key, normal

Family = Literal["adam", "sgd"]
Kind = Literal["input", "hidden", "output", "vector", "fixed"]
Init = Literal["rescale", "redraw", "keep"]
Base: TypeAlias = nn.Module | Mapping[str, Iterable[int]]
Make: TypeAlias = Callable[..., torch.optim.Optimizer]

ENTRY_WISE: tuple[type, ...] = (
    *(Adam, AdamW, NAdam, AdaMax, AMSGrad, AdamNC, ADOPT, AdamAtan2, RMSProp, Adagrad, Lion),
    *(torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adamax),
    *(torch.optim.RMSprop, torch.optim.Adagrad),
)
"""Steps of a size that the gradient's does not change, entry by entry: Adam's exponents."""
LINEAR: tuple[type, ...] = (SGD, SGDW, torch.optim.SGD)
"""Steps in proportion to the gradient: SGD's exponents."""
DECOUPLED: tuple[type, ...] = (AdamW, AdamAtan2, Lion, SGDW, torch.optim.AdamW)
_LINEAR_MAPS = (nn.Linear, nn.modules.conv._ConvNd)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_MARK = "_widened"


@dataclass(frozen=True)
class Width:
    """How much wider than in the base model a parameter's dimensions are.

    Attributes:
        kind: see the module's table.
        fan_in, fan_out: m_in and m_out.
        readouts: names of the output layers that share an embedding's weight.
        ahead: m_in of the layer whose bias this is.
    """

    kind: Kind
    fan_in: float = 1.0
    fan_out: float = 1.0
    readouts: tuple[str, ...] = ()
    ahead: float = 1.0

    @property
    def std(self) -> float:
        """The standard deviation of its first values, over that in the base model."""
        return 1.0 / self.fan_in if self.kind == "output" else 1.0 / math.sqrt(self.fan_in)

    @property
    def gradient(self) -> float:
        """The size of the gradient's entries, over that in the base model."""
        return 1.0 / self.fan_out

    def lr(self, family: Family) -> float:
        """The learning rate, over that in the base model."""
        return (self.fan_out if family == "sgd" else 1.0) / self.fan_in


def widths(model: nn.Module, base: Base, *, sums: Mapping[str, int | None] | None = None) -> dict[str, Width]:
    """Classify the parameters of a model by what is wider in it than in a base model.

    Weights of linear layers, convolutions and embeddings are known. Other parameters are matrices [out, in] if both
    dimensions are wider, and else vectors, which are added or multiplied, as positions are.

    Args:
        model: what is to be trained.
        base: the same model, narrower (or as wide, or wider), or the shapes of its parameters by name.
        sums: parameter -> the axis that the forward pass sums over, None for none; where the above is wrong.

    Returns:
        Name, as in `named_parameters()`, -> widths.

    Raises:
        ValueError: the two have other parameters, or one is not understood.
    """
    shapes = _shapes(base)
    own = dict(model.named_parameters())
    if own.keys() != shapes.keys():
        raise ValueError(
            f"base_model: got parameters {_some(shapes.keys() - own.keys())} that the model lacks, and none for "
            f"{_some(own.keys() - shapes.keys())}; the same names are allowed"
        )
    if unknown := set(sums or ()) - own.keys():
        raise ValueError(f"sums: got {_some(unknown)}; names of parameters are allowed")
    owners = _owners(model)
    found: dict[str, Width] = {}
    growths: dict[int, list[float]] = {}
    for name, p in own.items():
        shape = shapes[name]
        if len(shape) != p.dim() or min(shape, default=1) < 1:
            raise ValueError(f"base_model: got shape {shape} for {name}; {p.dim()} dimensions above 0 are allowed")
        growths[id(p)] = [n / m for n, m in zip(p.shape, shape, strict=True)]
        found[name] = _width(name, growths[id(p)], owners.get(id(p), []), dict(sums or {}))
    ahead = {
        id(module.bias): growths[id(module.weight)][1 if not isinstance(module, _TRANSPOSED) else 0]
        for module in model.modules()
        if isinstance(module, _LINEAR_MAPS) and module.bias is not None and id(module.weight) in growths
    }
    return {name: replace(found[name], ahead=ahead.get(id(p), 1.0)) for name, p in own.items()}


def _width(name: str, growth: list[float], owners: list[tuple[str, nn.Module]], sums: dict[str, int | None]) -> Width:
    wider = [axis for axis, m in enumerate(growth) if m != 1.0]
    axes = {axis: module for module, owner in owners if (axis := _summed(owner)) is not None}
    readouts: tuple[str, ...] = ()
    if name in sums:
        axis = sums[name]
    elif len(axes) > 1:
        tables = any(isinstance(owner, _TABLES) for _, owner in owners)
        if not tables or set(axes) != {0, 1}:
            raise ValueError(
                f"model: {name} is shared by layers that sum over different axes; sums= tells which counts"
            )
        axis = 0
        readouts = tuple(module for module, owner in owners if isinstance(owner, nn.Linear))
    elif axes:
        axis = next(iter(axes))
    elif len(wider) < 2:
        axis = None
    elif len(growth) == 2:
        axis = 1
    else:
        raise ValueError(f"model: {name} is wider along axes {wider}; sums= has to say which one is summed over")
    if axis is not None and not 0 <= axis < len(growth):
        raise ValueError(f"sums: got axis {axis} for {name}; one of 0 to {len(growth) - 1} is allowed")
    out = [growth[i] for i in wider if i != axis]
    if len(out) > 1:
        raise ValueError(f"model: {name} puts out {len(out)} dimensions that are wider; at most one is allowed")
    fan_in, fan_out = growth[axis] if axis is not None else 1.0, out[0] if out else 1.0
    kinds: dict[tuple[bool, bool], Kind] = {
        (False, False): "fixed",
        (False, True): "vector" if axis is None else "input",
        (True, False): "output",
        (True, True): "hidden",
    }
    return Width(kinds[fan_in != 1.0, fan_out != 1.0], fan_in, fan_out, readouts)


def _summed(module: nn.Module) -> int | None:
    """The axis of a layer's weight that its forward pass sums over; None if that is not known."""
    if isinstance(module, (*_TABLES, *_TRANSPOSED)):
        return 0
    return 1 if isinstance(module, _LINEAR_MAPS) else None


def _owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """The layers that have a weight, by its id."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            found.setdefault(id(weight), []).append((name, module))
    return found


def _shapes(base: Base) -> dict[str, tuple[int, ...]]:
    if isinstance(base, nn.Module):
        return {name: tuple(p.shape) for name, p in base.named_parameters()}
    if not isinstance(base, Mapping):
        raise ValueError(f"base_model: got {base!r:.80}; a module, or shapes by name, is allowed")
    return {name: tuple(shape) for name, shape in base.items()}


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:5]) or "none"


def attention_scale(head_dim: int, base_head_dim: int) -> float:
    """sqrt(base_head_dim) / head_dim: the factor of attention's logits, the usual 1 / sqrt(d) at the base width.

    It is the `scale` of `torch.nn.functional.scaled_dot_product_attention`. Where width brings more heads instead of
    larger ones it does not change.

    Args:
        head_dim: of one head, at least 1.
        base_head_dim: in the base model, at least 1.

    >>> attention_scale(16, 16), attention_scale(64, 16)
    (0.25, 0.0625)
    """
    for name, value in (("head_dim", head_dim), ("base_head_dim", base_head_dim)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; at least 1 is allowed")
    return math.sqrt(base_head_dim) / head_dim


# -- first values ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def rescale(model: nn.Module, base: Base, *, sums: Mapping[str, int | None] | None = None) -> None:
    """Bring a model that has just been made to muP's initialisation, in place, by factors.

    Weights of linear layers and convolutions have to have a variance of order 1 / fan_in, as torch makes them, biases
    too, and embeddings one that does not go with width. Other parameters get the root mean square that the base model's
    have, times muP's factor, and stay as they are if `base` has shapes only.

    Args:
        model, base, sums: as of `widths`.

    Raises:
        ValueError: it was done before, or as of `widths`.
    """
    found = widths(model, base, sums=sums)
    _mark(model)
    parts = dict(base.named_parameters()) if isinstance(base, nn.Module) else {}
    layers, biases, tables = _layers(model)
    for name, p in model.named_parameters():
        width = found[name]
        if id(p) in layers:
            p.mul_(width.std * math.sqrt(width.fan_in))
        elif id(p) in biases:
            p.mul_(math.sqrt(width.ahead))
        elif id(p) not in tables and width.kind != "fixed" and name in parts:
            own, wanted = (float(q.detach().double().square().mean().sqrt()) for q in (p, parts[name]))
            p.mul_(width.std * wanted / own if own else 1.0)
    _divide_readouts(model, found)


@torch.no_grad()
def redraw(
    model: nn.Module,
    base: Base,
    seed: int,
    *,
    zero_output: bool = False,
    sums: Mapping[str, int | None] | None = None,
) -> None:
    """Draw muP's initialisation anew, in place: normal numbers of variance 1 / fan_in, times 1 / m_in for outputs.

    Embeddings have variance 1, biases of layers are 0. Other parameters are treated as `rescale` does. A parameter's
    draws depend on the seed and its name alone.

    Args:
        model, base, sums: as of `widths`.
        seed: of the draws.
        zero_output: output weights are 0 instead.

    Raises:
        ValueError: as of `rescale`.
    """
    rescale(model, base, sums=sums)
    found, (layers, biases, tables) = widths(model, base, sums=sums), _layers(model)
    for name, p in model.named_parameters():
        if id(p) in biases:
            p.zero_()
        elif id(p) in layers | tables:
            fan_in = 1 if id(p) in tables else _fan_in(p, _owners(model)[id(p)])
            std = found[name].std * math.sqrt(found[name].fan_in / fan_in)
            drawn = normal(key(seed, "mup", name), tuple(p.shape), dtype=torch.float32)
            p.copy_(torch.zeros_like(p) if zero_output and found[name].kind == "output" else std * drawn)


def _fan_in(p: Tensor, owners: list[tuple[str, nn.Module]]) -> int:
    axis = next(axis for _, owner in owners if (axis := _summed(owner)) is not None)
    return p.shape[axis] * math.prod(p.shape[2:])


def _layers(model: nn.Module) -> tuple[set[int], set[int], set[int]]:
    """Ids of the weights of linear maps, of their biases, and of embeddings; a shared weight is an embedding's."""
    maps = [module for module in model.modules() if isinstance(module, _LINEAR_MAPS)]
    tables = {id(m.weight) for m in model.modules() if isinstance(m, _TABLES)}
    return {id(m.weight) for m in maps} - tables, {id(m.bias) for m in maps}, tables


def _mark(model: nn.Module) -> None:
    if getattr(model, _MARK, False):
        raise ValueError('model: got one that is in muP already; init="keep" leaves its values as they are')
    setattr(model, _MARK, True)


@dataclass(frozen=True)
class _Divided:
    """A forward pre-hook: the input over a number."""

    by: float

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] / self.by, *args[1:])


def _divide_readouts(model: nn.Module, found: Mapping[str, Width]) -> None:
    """Output layers that share an embedding divide what they get; done once, however often it is asked for."""
    for width in found.values():
        for name in width.readouts:
            module = model.get_submodule(name)
            if not any(isinstance(hook, _Divided) for hook in module._forward_pre_hooks.values()):
                module.register_forward_pre_hook(_Divided(width.fan_out))


# -- optimizers --------------------------------------------------------------------------------------------------------


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
        ValueError: the optimizer is not known, Adam's decay is coupled, or as of `rescale`.
    """
    if init not in ("rescale", "redraw", "keep"):
        raise ValueError(f"init: got {init!r}; rescale, redraw or keep is allowed")
    cls = _class(optimizer)
    family = _family(cls, optimizer, family)
    found = widths(model, base_model, sums=sums)
    if isinstance(optimizer, Rule):
        if settings:
            raise ValueError(f"settings: got {', '.join(settings)}; a rule that is made already takes none")
        made: Any = _scaled_rule(optimizer, family, found)
    else:
        made = optimizer(_groups(model, optimizer, cls, family, found, settings), **settings)
    if init == "rescale":
        rescale(model, base_model, sums=sums)
    elif init == "redraw":
        redraw(model, base_model, seed, sums=sums)
    _divide_readouts(model, found)
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
    shown = cls.__name__ if cls else getattr(optimizer, "name", None) or repr(optimizer)[:80]
    known = sorted({c.__name__ for c in (*ENTRY_WISE, *LINEAR)})
    raise ValueError(
        f"optimizer: got {shown}, whose exponents are not known; {', '.join(known)} are allowed, or family= says which"
    )


def _of_gradient(settings: Mapping[str, Any], width: Width) -> dict[str, float]:
    """Settings that are compared with gradients, or with their squares, at this width."""
    power = {"eps": 2 if settings.get("eps_in_root") else 1, "v0": 2, "initial_accumulator_value": 2}
    return {
        name: float(settings[name]) * width.gradient**n for name, n in power.items() if settings.get(name) is not None
    }


def _decoupled(cls: type | None, settings: Mapping[str, Any]) -> bool:
    return cls in DECOUPLED or bool(settings.get("decoupled_weight_decay"))


def _decay(cls: type | None, family: Family, settings: Mapping[str, Any]) -> Literal["none", "with lr", "apart"]:
    """How a weight decay goes: multiplied by the learning rate, or by the schedule alone."""
    if not settings.get("weight_decay"):
        return "none"
    if family == "adam" and not _decoupled(cls, settings):
        shown = cls.__name__ if cls else "this optimizer"
        raise ValueError(
            f"weight_decay: got {settings['weight_decay']} for {shown}, which adds it to the gradient; 0 is allowed "
            "in muP, or an optimizer with decoupled decay, such as AdamW"
        )
    return "apart" if settings.get("decay_times_lr") is False else "with lr"


def _groups(
    model: nn.Module, make: Make, cls: type | None, family: Family, found: Mapping[str, Width], given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    signature = inspect.signature(make).parameters
    defaults = {name: p.default for name, p in signature.items() if p.default is not p.empty}
    settings = {**defaults, **given}
    if settings.get("lr") is None:
        raise ValueError("lr: got none; the learning rate of the base model is needed")
    decay = _decay(cls, family, settings)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, p in model.named_parameters():
        width = found[name]
        rate = width.lr(family)
        if (rate, width.gradient) not in groups:
            own: dict[str, Any] = {"lr": settings["lr"] * rate, **_of_gradient(settings, width)}
            if decay == "with lr":
                own["weight_decay"] = settings["weight_decay"] / rate
            groups[rate, width.gradient] = {"params": [], **own}
        groups[rate, width.gradient]["params"].append((name, p))
    return list(groups.values())


@dataclass(frozen=True)
class _ScaledLinks:
    """The chain of a class for each parameter, with muP's factors."""

    inner: Links
    family: Family
    found: Mapping[str, Width]

    def __call__(self, param: Param) -> Chain:
        if param.name not in self.found:
            raise ValueError(f"mup: got parameter {param.name!r}; the model has {_some(self.found)}, ...")
        width, settings = self.found[param.name], dict(self.inner.settings)
        rate = width.lr(self.family)
        settings |= _of_gradient(settings, width)
        if settings.get("weight_decay") and not _decoupled(self.inner.cls, settings):
            settings["weight_decay"] /= rate  # the factor at the chain's end is the decay's too
        chain = Links(self.inner.cls, settings)(param)
        return chain if rate == 1.0 else (*chain, Scaled(rate))


def _scaled_rule(rule: Rule, family: Family, found: Mapping[str, Width]) -> Rule:
    if not isinstance(rule.links, Links):
        raise ValueError(f"optimizer: got the rule {rule.name}; one that a class of shoal.optim makes is allowed")
    _decay(rule.links.cls, family, rule.links.settings)
    return Rule(rule.name, rule.lr, _ScaledLinks(rule.links, family, found), rule.seed)
