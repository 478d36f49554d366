"""Optimizers as lenses S x P -> P: forwards, the point at which the model is; backwards, a change p' into (S, P).

    descent      fwd p            p <- p + p'
    momentum     fwd p            v <- gamma v + p'                p <- p + v
    nesterov     fwd p + gamma v  v <- gamma v + p'                p <- p + v
    adagrad      fwd p            G <- G + p'^2                    p <- p + rate p' / (sqrt(G) + eps)
    adam         fwd p            m, v: averages of p', p'^2       p <- p + rate m^ / (sqrt(v^) + eps)
    xor          over Z2          p <- p xor p'

What comes back is p' = -eta times the gradient: the cap has sign and rate. Adagrad and Adam do not feel a factor of p'
(but for eps), so that they have a `rate` of their own; with a cap of 1 they are the usual ones. The others have none,
and need a cap that says it. State is kept for each tensor, in the form of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.lenses.lens import Lens, lens
from shoal.lenses.trees import Value, filled, leaves, plus, tree_map, zero
from shoal.optim.core import Param, Rule
from shoal.optim.core.arguments import SHARED, at_least


@dataclass(frozen=True)
class Update:
    """An optimizer.

    Attributes:
        lens: S x P -> P.
        state: P -> S, the first state.
        rated: whether it has a rate of its own, so that a cap of 1 gives steps of a sensible size.
    """

    lens: Lens
    state: Callable[[Value], Value]
    rated: bool = False


descent = Update(lens(lambda x: x[1], lambda x, change: ((), plus(x[1], change))), lambda p: ())
"""Gradient descent (over Z2 the same as `xor`)."""
xor = descent


def momentum(gamma: float = 0.9) -> Update:
    """Heavy ball; gamma in [0, 1)."""
    _check("gamma", "momentum", gamma)
    return Update(lens(lambda x: x[1], lambda x, change: _rolled(gamma, x, change)), zero)


def nesterov(gamma: float = 0.9) -> Update:
    """Nesterov's momentum: the model is asked where the momentum leads; gamma in [0, 1)."""
    _check("gamma", "momentum", gamma)
    ahead = lambda x: tree_map(lambda v, p: p + gamma * v, x[0], x[1])  # noqa: E731
    return Update(lens(ahead, lambda x, change: _rolled(gamma, x, change)), zero)


def _rolled(gamma: float, x: Value, change: Value) -> Value:
    v = tree_map(lambda v, d: gamma * v + d, x[0], change)
    return v, plus(x[1], v)


def adagrad(rate: float = 1e-2, eps: float = 1e-10) -> Update:
    """Adagrad; rate and eps >= 0."""
    _numbers(rate=rate, eps=eps)

    def rev(x: Value, change: Value) -> Value:
        total = tree_map(lambda g, d: g + d.square(), x[0], change)
        return total, tree_map(lambda p, d, g: p + rate * d / (g.sqrt() + eps), x[1], change, total)

    return Update(lens(lambda x: x[1], rev), zero, rated=True)


def adam(rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Update:
    """Adam; the state is (number of steps, (averages of p', averages of its square))."""
    _numbers(rate=rate, eps=eps)
    _check("betas", "betas", (beta1, beta2))

    def rev(x: Value, change: Value) -> Value:
        (count, (m, v)), p = x
        count = count + 1.0
        m = tree_map(lambda m, d: beta1 * m + (1.0 - beta1) * d, m, change)
        v = tree_map(lambda v, d: beta2 * v + (1.0 - beta2) * d.square(), v, change)
        weight1, weight2 = 1.0 - beta1**count, 1.0 - beta2**count

        def stepped(p: Tensor, m: Tensor, v: Tensor) -> Tensor:
            step: Tensor = rate * (m / weight1.to(m)) / ((v / weight2.to(v)).sqrt() + eps)
            return p + step

        return (count, (m, v)), tree_map(stepped, p, m, v)

    def state(p: Value) -> Value:
        return torch.zeros((), dtype=torch.float64), (zero(p), zero(p))

    return Update(lens(lambda x: x[1], rev), state, rated=True)


def rule(of: Rule) -> Update:
    """A rule of `shoal.optim`, such as `Lion.rule(lr=1e-3)`: p' is the negative gradient (a cap of 1).

    Parameters are called "0", "1", ... from left to right. The state is (number of steps, slots of each parameter).

    The state's function raises ValueError for rules that need the loss, or more tensors than the gradient such as
    AdaHessian: neither comes back through a lens.
    """

    def params(p: Value) -> list[Param]:
        return [Param(str(i), tuple(x.shape), x.dtype) for i, x in enumerate(leaves(p))]

    def state(p: Value) -> Value:
        named = {str(i): x for i, x in enumerate(leaves(p))}
        if of.needs_loss(params(p)):
            raise ValueError(f"rule: {of.name} needs the loss; rules that step by gradients alone are allowed")
        if given := of.given(params(p)):
            raise ValueError(
                f"rule: {of.name} needs {', '.join(given)}; rules that step by gradients alone are allowed"
            )
        slots = of.views(of.memory(named), params(p))
        own = tuple(tuple(slot.clone() for slot in mine.values()) for mine in slots)
        return torch.zeros((), dtype=torch.float64), own

    def rev(x: Value, change: Value) -> Value:
        (count, own), p = x
        some = params(p)
        new = [t.detach().clone() for t in leaves(p)]
        keys = [[key for key, *_ in of.plan(param).slots] for param in some]
        slots = [
            {key: slot.clone() for key, slot in zip(names, mine, strict=True)}
            for names, mine in zip(keys, own, strict=True)
        ]
        count = count + 1.0
        of.step(some, new, [-d for d in leaves(change)], slots, count.item(), of.lr)
        kept = tuple(tuple(mine[key] for key in names) for names, mine in zip(keys, slots, strict=True))
        return (count, kept), filled(p, iter(new))

    return Update(lens(lambda x: x[1], rev), state, rated=True)


def _check(name: str, shared: str, value: object) -> None:
    argument = SHARED[shared]
    if not argument.check(value):
        raise ValueError(f"{name}: got {value!r}; {argument.allowed} is allowed")


def _numbers(**values: float) -> None:
    for name, value in values.items():
        if not at_least(0.0)(value):
            raise ValueError(f"{name}: got {value!r}; a finite number >= 0 is allowed")
