"""Lenses: a map forwards, and one that takes a change of its output back to a change of its input.

    A -> B:       fwd: A -> B        rev: A x B' -> A'
    f >> g:       fwd = g.fwd f.fwd             rev(a, c') = f.rev(a, g.rev(f.fwd(a), c'))
    f @ g:        (a, c) -> (f.fwd(a), g.fwd(c)), backwards likewise

A map with its reverse derivative, rev(a, b') = J(a)^T b', is a lens, and `>>` is then the chain rule.

G. S. H. Cruttwell, B. Gavranović, N. Ghani, P. Wilson, F. Zanasi, "Categorical Foundations of Gradient-Based Learning",
ESOP 2022, arXiv:2103.01931.

A lens is kept as the one map a -> (b, b' -> a'), which is the same thing, so that in a composite of n lenses, however
it is bracketed, each goes forwards once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from shoal.lenses.trees import Value, plus, zero

Back: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class Lens:
    """A -> B.

    Attributes:
        run: a -> (b, b' -> a').
    """

    run: Callable[[Value], tuple[Value, Back]]

    def fwd(self, a: Value) -> Value:
        """A -> B."""
        return self.run(a)[0]

    def rev(self, a: Value, change: Value) -> Value:
        """A x B' -> A'."""
        return self.run(a)[1](change)

    def __rshift__(self, then: Lens) -> Lens:
        """Composition: this one first."""

        def run(a: Value) -> tuple[Value, Back]:
            b, back = self.run(a)
            c, further = then.run(b)
            return c, lambda change: back(further(change))

        return Lens(run)

    def __matmul__(self, beside: Lens) -> Lens:
        """Tensor product, on pairs."""

        def run(pair: Value) -> tuple[Value, Back]:
            a, c = pair
            (b, back), (d, other) = self.run(a), beside.run(c)
            return (b, d), lambda change: (back(change[0]), other(change[1]))

        return Lens(run)


def lens(fwd: Callable[[Value], Value], rev: Callable[[Value, Value], Value]) -> Lens:
    """The lens of a pair of maps, rev(a, b')."""
    return Lens(lambda a: (fwd(a), lambda change: rev(a, change)))


def lens_of(function: Callable[[Value], Value]) -> Lens:
    """The lens of a differentiable function of torch, with its vector-Jacobian product for rev."""

    def run(a: Value) -> tuple[Value, Back]:
        found: Any = torch.func.vjp(function, a)
        b, pull = found
        return b, lambda change: pull(change)[0]

    return Lens(run)


identity = lens(lambda a: a, lambda a, change: change)
associate = lens(lambda x: (x[0][0], (x[0][1], x[1])), lambda x, d: ((d[0], d[1][0]), d[1][1]))
"""((a, b), c) -> (a, (b, c))."""
associate_back = lens(lambda x: ((x[0], x[1][0]), x[1][1]), lambda x, d: (d[0][0], (d[0][1], d[1])))
"""(a, (b, c)) -> ((a, b), c)."""
swap = lens(lambda x: (x[1], x[0]), lambda x, d: (d[1], d[0]))
"""(a, b) -> (b, a)."""
interchange = lens(
    lambda x: ((x[0][0], x[1][0]), (x[0][1], x[1][1])), lambda x, d: ((d[0][0], d[1][0]), (d[0][1], d[1][1]))
)
"""((a, b), (c, d)) -> ((a, c), (b, d))."""
first = lens(lambda x: x[0], lambda x, change: (change, zero(x[1])))
"""(a, b) -> a."""
second = lens(lambda x: x[1], lambda x, change: (zero(x[0]), change))
"""(a, b) -> b."""
copy = lens(lambda a: (a, a), lambda a, change: plus(change[0], change[1]))
"""a -> (a, a)."""
add = lens(lambda x: plus(x[0], x[1]), lambda x, change: (change, change))
"""(a, b) -> a + b, of one form."""
delete = lens(lambda a: (), lambda a, change: zero(a))
"""a -> ()."""
