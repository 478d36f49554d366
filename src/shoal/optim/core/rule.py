"""Update rules: a learning rate and a chain of transforms, ready to step one model or many stacked ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from shoal.optim.core.plan import Chain, Memory, Param, Plan
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stacked import step_stacked
from shoal.optim.core.stepping import Item, step_items
from shoal.optim.core.transform import Scalars, Transform
from shoal.tensors.random import key as key_of


class Frame(Protocol):
    """Other coordinates of all parameters of a model together: a change of them that keeps lengths and angles."""

    def to(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Parameters, or gradients, in these coordinates: new tensors of the same shapes."""
        ...

    def back(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The way back."""
        ...


@dataclass(frozen=True)
class Rule:
    """p <- p - lr u, with u the gradient after a chain of transforms.

    Attributes:
        name: for logs.
        lr: default learning rate.
        links: the chain, or a function that gives the chain for a parameter.
        seed: for transforms that draw random numbers.
        factor: what the learning rate is multiplied by for a parameter; None: 1 for all.
        frame: coordinates in which the steps are taken; None: those of the parameters. Only chains that are given
            nothing beside the gradient may have others.
    """

    name: str
    lr: float
    links: Chain | Callable[[Param], Chain] = ()
    seed: int = 0
    factor: Callable[[Param], float] | None = None
    frame: Frame | None = None
    _plans: dict[Param, Plan] = field(init=False, default_factory=dict, repr=False, compare=False)
    _chains: dict[Chain, Chain] = field(init=False, default_factory=dict, repr=False, compare=False)

    def plan(self, param: Param) -> Plan:
        """The chain for one parameter.

        Raises:
            ValueError: it is given more than the gradient, and steps are taken in other coordinates than the model's.
        """
        found = self._plans.get(param)
        if found is None:
            made = tuple(self.links(param)) if callable(self.links) else self.links
            chain = self._chains.setdefault(made, made)  # equal chains are one, and share their scalars
            found = Plan(chain, param.shape, 1.0 if self.factor is None else self.factor(param))
            if self.frame is not None and found.given:
                raise ValueError(
                    f"frame: got one for {self.name}, which is given {', '.join(found.given)} in the model's own "
                    "coordinates; rules that need the gradient alone are allowed"
                )
            self._plans[param] = found
        return found

    def needs_loss(self, params: Iterable[Param]) -> bool:
        """Whether `step` must be told the loss."""
        return any(transform.needs_loss for param in params for transform in self.plan(param).chain)

    def by_vmap(self, params: Iterable[Param]) -> bool:
        """Whether stacked peers are stepped by `torch.func.vmap`, whose operations may be recorded and replayed.

        Otherwise every entry is stepped by itself, or a step depends on its number and must not be recorded.
        """
        plans = [self.plan(param) for param in params]
        return any(plan.granularity != "element" for plan in plans) and not any(plan.by_number for plan in plans)

    def given(self, params: Iterable[Param]) -> dict[str, Transform]:
        """Which further tensors `step` must be given, and for each the first transform that asks for it."""
        found: dict[str, Transform] = {}
        for param in params:
            plan = self.plan(param)
            found = {name: plan.chain[i] for name, i in plan.given.items()} | found
        return found

    def remembers(self, params: Iterable[Param]) -> bool:
        """Whether there is any state."""
        return any(self.plan(param).slots for param in params)

    def then(self, *links: Transform, ahead: tuple[Transform, ...] = ()) -> Rule:
        """The rule with more transforms at the end of its chain, or at the front of it."""
        return replace(self, links=lambda param: (*ahead, *self.plan(param).chain, *links))

    # -- memory: flat vectors, one a slot, over all parameters that have it -----------------------------------

    def memory(self, parameters: Mapping[str, Tensor], seed: int | None = None) -> Memory:
        """Fresh state: slot -> vector of the slots of all parameters, one after the other.

        Args:
            parameters: name -> tensor.
            seed: instead of the rule's own, so that peers draw different numbers; each parameter gets its own from it.
        """
        start = self.seed if seed is None else seed
        parts: dict[str, list[Tensor]] = {}
        tensors = list(parameters.values())
        for i, (name, p) in enumerate(zip(parameters, self.frame.to(tensors) if self.frame else tensors, strict=True)):
            plan = self.plan(Param(name, tuple(p.shape), p.dtype))
            for key, value in plan.fresh(p, key_of(start, "optimizer", i)).items():
                parts.setdefault(key, []).append(value.reshape(-1))
        return {key: torch.cat(values) for key, values in parts.items()}

    def views(self, memory: Memory, params: Iterable[Param]) -> list[Memory]:
        """For each parameter its slots as views into `memory`, whose vectors may be stacked [n, ...]."""
        offsets = dict.fromkeys(memory, 0)
        result = []
        for param in params:
            own = {}
            for key, _, shape in self.plan(param).slots:
                start, size = offsets[key], math.prod(shape)
                flat = memory[key]
                own[key] = flat[..., start : start + size].view((*flat.shape[:-1], *shape))
                offsets[key] = start + size
            result.append(own)
        return result

    # -- steps --------------------------------------------------------------------------------------------------

    def step(
        self,
        params: Sequence[Param],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Sequence[Memory],
        t: Scalar,
        lr: Scalar,
        loss: Scalar | None = None,
        given: Sequence[Memory] | None = None,
    ) -> None:
        """One step, in place.

        Args:
            params: what the parameters are.
            parameters: tensors [...], or [n, ...] for n stacked peers.
            gradients: same shapes.
            state: slots of each parameter, as of `views`.
            t: number of this step, 1 at first; a float, or a float64 tensor [n] for stacked peers.
            lr: learning rate; a float, or a tensor [n].
            loss: of the batches that the gradients are of, where a transform needs it; a float, or a tensor [n].
            given: further tensors of each parameter by name, where a transform needs them; [n, ...] for stacked peers.
        """
        if given is not None:
            state = joined(state, given)
        plans = [self.plan(param) for param in params]
        with self._turned(parameters, gradients, isinstance(t, Tensor)) as (parameters, gradients):
            filled = [one for one in zip(plans, parameters, gradients, state, strict=True) if one[1].numel()]
            if isinstance(t, Tensor):
                assert isinstance(lr, Tensor)
                assert loss is None or isinstance(loss, Tensor)
                step_stacked(filled, t, lr, loss)
            else:
                assert not isinstance(lr, Tensor)
                shared: dict[tuple[int, float], list[Scalars]] = {}
                items = []
                for plan, p, g, own in filled:
                    scalars = shared.get(plan.key)
                    if scalars is None:
                        scalars = shared[plan.key] = plan.scalars(t, lr, loss)
                    items.append(Item(plan, p, g, own, scalars))
                step_items(items)

    @contextmanager
    def _turned(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], stacked: bool
    ) -> Iterator[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        """Parameters and gradients in the frame's coordinates; the change that is made to them there is made here.

        Only the change is turned back, so that rounding leaves alone what a step leaves alone.
        """
        if self.frame is None:
            yield parameters, gradients
            return
        to, back = self.frame.to, self.frame.back
        if stacked:
            to, back = torch.func.vmap(to), torch.func.vmap(back)
        turned = to(list(parameters))
        before = [p.clone() for p in turned]
        yield turned, to(list(gradients))
        for p, change in zip(parameters, back([p - q for p, q in zip(turned, before, strict=True)]), strict=True):
            p.add_(change)


def joined(state: Sequence[Memory], given: Sequence[Memory]) -> list[Memory]:
    """The slots of each parameter together with what it is given."""
    return [{**own, **further} for own, further in zip(state, given, strict=True)]
