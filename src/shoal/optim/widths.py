"""Widths of parameters, and muP's factors and first values by them.

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
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from shoal.optim.core.arguments import at_least, whole
from shoal.tensors.random import key, normal
from shoal.text import shown

Family = Literal["adam", "sgd"]
Kind = Literal["input", "hidden", "output", "vector", "fixed"]
Base: TypeAlias = nn.Module | Mapping[str, Iterable[int]]
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
        raise ValueError(f"base_model: got {_difference(shapes.keys(), own.keys())}")
    if unknown := set(sums or ()) - own.keys():
        raise ValueError(f"sums: got {some_of(unknown)}; names of parameters are allowed")
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
    if axis is not None and not (whole(0)(axis) and axis < len(growth)):
        raise ValueError(f"sums: got axis {axis!r} for {name}; one of 0 to {len(growth) - 1} is allowed")
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
        raise ValueError(f"base_model: got {shown(base)}; a module, or shapes by name, is allowed")
    return {name: tuple(shape) for name, shape in base.items()}


def _difference(base: Set[str], own: Set[str]) -> str:
    """In what the names of a base model's parameters are others than the model's, and what is allowed."""
    parts = [f"parameters {some_of(base - own)} that the model lacks"] if base - own else []
    parts += [f"none for {some_of(own - base)}"] if own - base else []
    unnumbered = [{re.sub(r"\d+", "*", name) for name in names} for names in (base, own)]
    deep = len(base) != len(own) and unnumbered[0] == unnumbered[1]
    what, allowed = ("a model of another depth: ", "the same depth is") if deep else ("", "the same names are")
    return f"{what}{', and '.join(parts)}; {allowed} allowed"


def some_of(names: Iterable[str]) -> str:
    """Names for an error: the first five."""
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
        if not at_least(1)(value):
            raise ValueError(f"{name}: got {value!r}; a finite number >= 1 is allowed")
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
    divide_readouts(model, found)


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
        ValueError: the seed is not allowed, or as of `rescale`.
    """
    if not whole(0)(seed):
        raise ValueError(f"seed: got {seed!r}; a whole number >= 0 is allowed")
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


def divide_readouts(model: nn.Module, found: Mapping[str, Width]) -> None:
    """Output layers that share an embedding divide what they get; done once, however often it is asked for."""
    for width in found.values():
        for name in width.readouts:
            module = model.get_submodule(name)
            if not any(isinstance(hook, _Divided) for hook in module._forward_pre_hooks.values()):
                module.register_forward_pre_hook(_Divided(width.fan_out))
