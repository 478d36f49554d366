"""Parametrised lenses: (P, P x A -> B), the morphisms of Para.

f >> g:  parameters (q, p), those of the later one first      ((q, p), a) -> g(q, f(p, a))
f @ g:   parameters (p, q)                                    ((p, q), (a, c)) -> (f(p, a), g(q, c))
f.reparametrised(r), r: P' -> P:                              (p', a) -> f(r(p'), a)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.lenses.lens import Back, Lens, associate, identity, interchange, lens_of
from shoal.lenses.trees import Value


@dataclass(frozen=True)
class Para:
    """A parametrised lens, with parameters to begin with.

    Attributes:
        arrow: P x A -> B, on pairs (p, a).
        start: first parameters; `()` for none.
    """

    arrow: Lens
    start: Value = ()

    def __rshift__(self, then: Para) -> Para:
        """Composition: this one first; its parameters come second."""
        return Para(associate >> (identity @ self.arrow) >> then.arrow, (then.start, self.start))

    def __matmul__(self, beside: Para) -> Para:
        """Tensor product."""
        return Para(interchange >> (self.arrow @ beside.arrow), (self.start, beside.start))

    def reparametrised(self, by: Lens, start: Value) -> Para:
        """With parameters P', which a lens P' -> P makes into its own, beginning with others."""
        return Para((by @ identity) >> self.arrow, start)

    def fwd(self, parameters: Value, a: Value) -> Value:
        """P x A -> B."""
        return self.arrow.fwd((parameters, a))

    def rev(self, parameters: Value, a: Value, change: Value) -> tuple[Value, Value]:
        """(P x A) x B' -> P' x A'."""
        p, back = self.arrow.rev((parameters, a), change)
        return p, back


def plain(of: Lens) -> Para:
    """A lens without parameters."""

    def run(pair: Value) -> tuple[Value, Back]:
        b, back = of.run(pair[1])
        return b, lambda change: ((), back(change))

    return Para(Lens(run))


def sequence(*parts: Para) -> Para:
    """One after the other, from the left: parameters (p_n, (... (p_2, p_1))).

    Raises:
        ValueError: there is none.
    """
    if not parts:
        raise ValueError("parts: got none; at least one is needed")
    whole, *rest = parts
    for part in rest:
        whole = whole >> part
    return whole


def para_of(function: Callable[[Value, Value], Value], start: Value = ()) -> Para:
    """Of a differentiable function of torch (p, a) -> b."""
    return Para(lens_of(lambda pair: function(*pair)), start)


def para_of_module(module: nn.Module) -> Para:
    """A module as a parametrised lens: its parameters, in their order, are a tuple. Its buffers stay as they are.

    `load_into` brings parameters back.
    """
    names = [name for name, _ in module.named_parameters()]

    def call(p: tuple[Tensor, ...], a: Value) -> Any:
        return torch.func.functional_call(module, dict(zip(names, p, strict=True)), (a,))

    return para_of(call, tuple(p.detach().clone() for p in module.parameters()))


@torch.no_grad()
def load_into(module: nn.Module, parameters: tuple[Tensor, ...]) -> None:
    """Give a module the parameters of its `para_of_module`.

    Raises:
        ValueError: they are not as many, or have other shapes.
    """
    own = list(module.parameters())
    if [p.shape for p in own] != [p.shape for p in parameters]:
        shapes = [tuple(p.shape) for p in parameters]
        raise ValueError(f"parameters: got shapes {shapes}; {[tuple(p.shape) for p in own]} are allowed")
    for p, value in zip(own, parameters, strict=True):
        p.copy_(value)
