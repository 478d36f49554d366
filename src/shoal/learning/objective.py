"""What one row computes: the loss of a model given as a flat vector, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from shoal.engine.traced import Traced
from shoal.learning.keyed import KeyedRandomness
from shoal.learning.task import Loss
from shoal.optim import Param
from shoal.tensors.layout import Layout

TRAINED = ("trainable", "personal")


class Net:
    """The model as an objective sees it: call it on inputs; `parameters` has its trained tensors by name."""

    def __init__(self, call: Callable[..., Any], parameters: dict[str, Tensor]) -> None:
        self._call = call
        self.parameters = parameters

    def __call__(self, inputs: Tensor, values: Mapping[str, Tensor] | None = None) -> Any:
        """The module's output; with `values` by name in the place of some parameters, e.g. functions of them."""
        return self._call(inputs) if values is None else self._call(inputs, values)

    def vector(self) -> Tensor:
        """The trained parameters as one flat vector, in the layout's order."""
        return torch.cat([p.flatten() for p in self.parameters.values()])


def called(module: nn.Module, inputs: Tensor, values: Mapping[str, Tensor] | None = None) -> Any:
    """A module's output, with some parameters replaced: how a `Net` calls a module that stands alone."""
    return module(inputs) if values is None else torch.func.functional_call(module, dict(values), (inputs,))


Objective = Callable[..., Tensor]


def identity(objective: Any) -> Hashable:
    """What tells objectives apart, so that a lambda or partial made anew for each request counts as the one before.

    Of a function that is its code and what it closes over, if all of that can be told apart: numbers and text by
    value, tensors, modules and functions by being the same object. Whoever closes over anything else, which may change
    unseen (a list, an object of one's own), is equal to itself alone.
    """
    try:
        if type(objective) is partial:
            given = (*objective.args, *objective.keywords.values())
            return (identity(objective.func), len(objective.args), *objective.keywords, *map(_value, given))
        return _of_function(objective) if isinstance(objective, FunctionType) else _hashable(objective)
    except _Unknown:
        return _hashable(objective)


def _of_function(function: FunctionType) -> Hashable:
    code, scope = function.__code__, function.__globals__
    if any(isinstance(constant, CodeType) for constant in code.co_consts):  # it has functions inside
        raise _Unknown
    used = [scope[name] for name in code.co_names if name in scope]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return (code, _Same(scope), *map(_value, [*used, *cells, *defaults]))


def _value(value: Any) -> Hashable:
    if value is None or type(value) in (bool, int, float, str):
        return (type(value), repr(value))  # by text: 0.0 is not -0.0
    if isinstance(value, Tensor | nn.Module | ModuleType | FunctionType | BuiltinFunctionType):
        return _Same(value)
    raise _Unknown


def _hashable(objective: Any) -> Hashable:
    same: Hashable = objective
    return same


class _Unknown(Exception):
    """Something that may change without being another object."""


class _Same:
    """Equal to what holds the same object, and keeps it alive, so that its address is nobody else's."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


@dataclass(frozen=True)
class Supervised:
    """The plain objective: a task's loss of the model's outputs."""

    loss: Loss

    def __call__(self, net: Net, inputs: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses [B]."""
        return self.loss(net(inputs), targets)


@dataclass(frozen=True)
class Problem:
    """A module, its layout and an objective.

    Attributes:
        module: template; only its structure is used, its values come from vectors.
        layout: of the module.
        objective: `objective(net, inputs, targets, *extras) -> [B]`.
        keyed: whether the module draws random numbers while it trains, by functions of `KeyedRandomness`.
        seeded: whether it draws from torch's own generator, which is seeded for each step then.
        stateful: whether the module changes something of its own that is not in its vector; each request begins anew.
    """

    module: nn.Module
    layout: Layout
    objective: Objective
    keyed: bool = False
    seeded: bool = False
    stateful: bool = False

    @cached_property
    def params(self) -> list[Param]:
        """The trained parameters, in the order of `split`."""
        return [Param(s.name, s.shape, self.layout.dtype) for s in self.layout if s.role in TRAINED]

    @cached_property
    def traced(self) -> Traced:
        """`gradients`, recorded once for all kernels that need them."""
        return Traced(self.gradients)

    @cached_property
    def traced_losses(self) -> Traced:
        """`losses`, recorded once."""
        return Traced(self.losses)

    def split(self, vector: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Views (trained, fixed) of a vector [..., d] by name."""
        parts = self.layout.unflatten(vector)
        trained = {name: part for name, part in parts.items() if self.layout[name].role in TRAINED}
        return trained, {name: part for name, part in parts.items() if name not in trained}

    def loss(
        self,
        trained: dict[str, Tensor],
        fixed: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        key: Tensor,
        extras: Sequence[Tensor],
    ) -> Tensor:
        """Weighted loss of one row; a pure function of its arguments."""

        def call(x: Tensor, values: Mapping[str, Tensor] | None = None) -> Any:
            return torch.func.functional_call(self.module, {**trained, **fixed, **(values or {})}, (x,))

        net = Net(call, trained)
        if self.keyed:
            with KeyedRandomness(key):
                losses = self.objective(net, inputs, targets, *extras)
        else:
            losses = self.objective(net, inputs, targets, *extras)
        return weighted(losses, weights)

    def losses(self, trained: dict[str, Tensor], fixed: dict[str, Tensor], *rest: Any) -> Tensor:
        """Losses [n] of stacked rows; arguments as of `gradients`."""
        return torch.func.vmap(self.loss)(trained, fixed, *rest)

    def gradients(
        self, trained: dict[str, Tensor], fixed: dict[str, Tensor], *rest: Any
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients by name and losses [n] of stacked rows; arguments as of `loss`, each with a first axis of n.

        Rows do not touch each other, so the gradient of the sum of their losses holds the gradient of each.
        """
        leaves = {name: p.detach().requires_grad_() for name, p in trained.items()}
        with torch.enable_grad():
            losses = torch.func.vmap(self.loss)(leaves, fixed, *rest)
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        found = zip(leaves.values(), gradients, strict=True)
        own = apart([torch.zeros_like(p) if g is None else g for p, g in found])
        return dict(zip(leaves, own, strict=True)), losses.detach()


def apart(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The same values, each in memory of its own: update rules work in place.

    Where two parameters are added, or one is expanded, autograd gives them one memory.
    """
    seen: set[int] = set()
    result = []
    for g in gradients:
        memory = g.untyped_storage().data_ptr()
        expanded = any(stride == 0 and size > 1 for stride, size in zip(g.stride(), g.shape, strict=True))
        copied = expanded or memory in seen
        seen.add(memory)
        result.append(g.clone(memory_format=torch.contiguous_format) if copied else g)
    return result


def weighted(losses: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of per-sample losses.

    Raises:
        ValueError: the loss is not per-sample.
    """
    if losses.shape != weights.shape:
        raise ValueError(
            f"loss: got a result of shape {tuple(losses.shape)} for a batch of {weights.shape[-1]}; one loss a sample "
            '(reduction="none") is needed'
        )
    return (losses * weights).sum()
