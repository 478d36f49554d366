"""The steps from which update rules are chained, and what they may touch.

A transform turns the update `u` (the gradient at first) of one parameter of one peer into what the next one gets. It is
written once, for a single tensor, and never looks at a value (but by `ops.may_hold`): the same lines step a parameter,
the stacked parameters `[n, ...]` of n peers, or become a compiled loop (compiled.py). One that does something at some
steps only, such as a decomposition, is `stacked`: it is written for n tensors of one shape, and may look at the number
of the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from shoal.optim.core.scalars import Scalar

if TYPE_CHECKING:
    from shoal.optim.core.stepping import Item

Granularity = Literal["element", "tensor", "model"]
Shape = tuple[int, ...]
State = SimpleNamespace
"""The transform's own slots of one parameter, by name; changed in place."""
Scalars = Any
"""Numbers by name: `t`, `lr`, `pace` (what the final update is multiplied by: lr, or 1 if it includes that), the
transform's own settings, and what `derived` adds; tensors when peers are stacked."""


@dataclass(frozen=True)
class Slot:
    """A tensor of state that a transform keeps for each parameter.

    Attributes:
        name: attribute under which the transform finds it.
        shape: from the parameter's shape to the slot's; None is the parameter's own.
        dtype: None is the dtype in which the rule computes (float32 or wider).
        start: what it is filled with at first: a number, "parameter" for a copy of the parameter, or "seed" for a
            0-dim int64 tensor from which `shoal.tensors.random` derives keys (the shape must be `()`).
        shared: one for the whole model: the same values at all parameters. Only `settle` changes it.
    """

    name: str
    shape: Callable[[Shape], Shape] | None = None
    dtype: torch.dtype | None = None
    start: float | Literal["parameter", "seed"] = 0.0
    shared: bool = False

    def shape_for(self, parameter: Shape) -> Shape:
        """The slot's shape for a parameter's."""
        return parameter if self.shape is None else tuple(self.shape(parameter))


def number(name: str, start: float = 0.0) -> Slot:
    """A number of each parameter, in double precision."""
    return Slot(name, lambda shape: (), torch.float64, start)


def seed() -> Slot:
    """What random numbers of each parameter are drawn from, by the name "seed"."""
    return Slot("seed", lambda shape: (), torch.int64, "seed")


def shared(name: str, start: float = 0.0) -> Slot:
    """A number that the whole model has, in double precision."""
    return dataclasses.replace(number(name, start), shared=True)


class Transform:
    """What a chain is made of. Subclasses are frozen dataclasses whose fields are the settings.

    Attributes:
        granularity: what one application must see at once: "element" (each entry depends on the same entry only),
            "tensor" (norms, rows, products: a whole parameter) or "model" (sums over all parameters: `measure`).
        rated: whether what comes out has been multiplied by the learning rate already.
        needs_loss: whether it must be told the loss of the batch that the gradient is of: `c.loss`.
        stacked: whether `apply` takes tensors [n, ...] of n parameters (of one model, or one of each of n peers) that
            are at the same step, n >= 1, and slots [n, ...]. `t` and what `derived` makes of it alone are floats then,
            on which it may branch; rates of peers may be tensors that broadcast. It has no other phase than `apply`.
        given: further tensors of each parameter that it must be given at a step (`awaits`). It finds them in `s`, None
            where there are none; they are not stored. Those that somebody supplies:

            "curvature": z * (H z) in the parameter's shape, H being the Hessian of that loss, and z random signs, drawn
            from the transform's slot "seed" and the number of the step (`curvature.signs`);
            "newton": H^-1 g by conjugate gradients, with the settings `cg_steps` and `eps` (`curvature.newton`);
            "inputs", "outputs": normalised factors of a layer's Fisher matrix (`shoal.optim.factors`).
    """

    granularity: ClassVar[Granularity] = "element"
    rated: ClassVar[bool] = False
    needs_loss: ClassVar[bool] = False
    stacked: ClassVar[bool] = False
    given: ClassVar[tuple[str, ...]] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """State kept for each parameter."""
        return ()

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Further scalars of a step, worked out once and not for each entry.

        Args:
            t: number of this step, 1 at first; a float, or a float64 tensor for stacked peers. The functions of
                `shoal.optim.core.scalars` take either.
            lr: learning rate, likewise.
        """
        return {}

    def given_shape(self, name: str, parameter: Shape) -> Shape:
        """The shape of what it is given by one of the names in `given`, from a parameter's."""
        return parameter

    def awaits(self, t: int) -> bool:
        """Whether step number `t`, 1 at first, is one for which it must be given its tensors."""
        return True

    def before(self, p: Tensor, s: State, c: Scalars) -> None:
        """Change the parameter in place before anything else (of the first transform first)."""

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """Granularity "model" only: numbers that `apply` gets in `c`, summed over all parameters.

        Of those whose names begin with "max_" it gets the largest. Tensors whose names begin with "all_" are laid end
        to end, [d], and `settle` alone gets them.
        """
        return {}

    def settle(self, s: State, c: Scalars) -> dict[str, Tensor]:
        """Granularity "model" only: once a step, after `measure`: change the shared slots in place.

        Args:
            s: own slots of one of the parameters, of which only the shared ones may be used.
            c: scalars, with all that was measured.

        Returns:
            Further numbers that `apply` gets in `c`.
        """
        return {}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """The transformed update.

        Numbers come from `c` alone, not from `self`, so that a compiled rule takes them as arguments.

        Args:
            u: update so far; not to be changed, since it may be the gradient or somebody's state.
            p: parameter; read, or (decoupled decay) changed in place.
            g: the gradient as it came; not to be changed.
            s: own slots, changed in place.
            c: scalars.
        """
        return u

    def after(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Change the stepped parameter in place (of the last transform first); `u` is the update that was taken."""

    def fused(self, items: Sequence[Item]) -> bool:
        """Take the whole step of some parameters by torch's fused kernels, where they do just that (kernels.py).

        Asked of the last transform of a chain; the parameters share their chain, their scalars and their direction.

        Returns:
            Whether the step has been taken.
        """
        return False

    def settings(self) -> dict[str, float]:
        """The fields that are numbers: they reach `apply` in `c`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {n: float(v) for n, v in fields.items() if isinstance(v, int | float) and not isinstance(v, bool)}

    @classmethod
    def acts(cls, phase: str) -> bool:
        """Whether the class has a `before` or an `after` of its own."""
        return getattr(cls, phase) is not getattr(Transform, phase)


class Quotient(Transform):
    """A transform whose update is a fraction; at the end of a chain the parameter takes it without writing it down.

    If there is a number `times` (a setting, or of `derived`), the update is so many times the fraction.
    """

    def fraction(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of what `apply` returns; arguments are as there."""
        raise NotImplementedError

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """The fraction."""
        numerator, denominator = self.fraction(u, p, g, s, c)
        update = numerator / denominator
        return update * c.times if hasattr(c, "times") else update

    def take(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Let the parameter take it, with floats in `c`."""
        p.addcdiv_(*self.fraction(u, p, g, s, c), value=-c.pace * getattr(c, "times", 1.0))


class Product(Transform):
    """The same for a product."""

    def factors(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> tuple[Tensor, Tensor]:
        """Both factors of what `apply` returns; arguments are as there."""
        raise NotImplementedError

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """The product."""
        first, second = self.factors(u, p, g, s, c)
        return first * second

    def take(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> None:
        """Let the parameter take it, with floats in `c`."""
        p.addcmul_(*self.factors(u, p, g, s, c), value=-c.pace)
