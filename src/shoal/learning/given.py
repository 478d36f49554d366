"""What rules are given beside gradients (`Transform.given`), for stacked models and for single ones.

Signs are drawn from a rule's own state, so that a model's numbers do not depend on how it is computed, and are what an
optimizer of that model alone draws.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.engine.traced import Traced
from shoal.learning.objective import Problem
from shoal.optim import Rule, factors
from shoal.optim.core import curvature
from shoal.optim.core.plan import Memory
from shoal.optim.core.scalars import Scalar

Named = dict[str, Tensor]
Found = tuple[Named, Tensor, list[Memory]]
"""Gradients by name, losses, and what each parameter is given."""


class Supply:
    """Finds gradients, and what a rule is given beside them.

    Args:
        problem: what is trained.
        rule: who asks.

    Raises:
        ValueError: what it asks for is not supplied, or not together, or not of such a model.
    """

    def __init__(self, problem: Problem, rule: Rule) -> None:
        self._problem = problem
        self._plans = [rule.plan(param) for param in problem.params]
        self.asked: dict[str, Any] = dict(rule.given(problem.params))
        self.graphed = [name for name in curvature.GRAPHED if name in self.asked]
        self.layered = "inputs" in self.asked
        if unknown := self.asked.keys() - {*curvature.GRAPHED, "inputs", "outputs"}:
            raise ValueError(f"optimizer: {rule.name} asks for {', '.join(sorted(unknown))}, which nobody supplies")
        if self.graphed and self.layered:
            raise ValueError(f"optimizer: {rule.name} asks for both the Hessian and layers' factors")
        if self.layered and not factors.layers(problem.module):
            raise ValueError(
                f"optimizer: {rule.name} asks for layers' factors, which {type(problem.module).__name__} has none of; "
                f"a model with {factors.KNOWN} is allowed"
            )
        self._traced = Traced(self._factored if self.layered else self._curved)
        if self.layered:  # hooks come to no module that others record
            self._problem = replace(problem, module=copy.deepcopy(problem.module))

    def due(self, steps: Iterable[int]) -> bool:
        """Whether a step among these is one for which something is asked."""
        return any(transform.awaits(t) for t in steps for transform in self.asked.values())

    def stacked(
        self, trained: Named, fixed: Named, rest: Sequence[Any], state: Sequence[Memory], t: Tensor
    ) -> tuple[Named, Tensor, list[Memory]]:
        """Of stacked models.

        Args:
            trained, fixed: parameters by name [n, ...].
            rest: further arguments of `Problem.loss`, each with a first axis of n.
            state: of each parameter, as of `Rule.views`.
            t: numbers of the step [n].
        """
        if self.layered:
            found: Found = self._traced(trained, fixed, *rest)
        else:
            found = self._traced(trained, fixed, self._signs(state, t), *rest)
        return found

    def single(
        self, module: nn.Module, loss_of: Callable[[], Tensor], state: Sequence[Memory], t: int
    ) -> tuple[Sequence[Tensor | None], Tensor, list[Memory]]:
        """Of one model: gradients (None for what the loss does not depend on), its loss, and what is given.

        Args:
            module: its trained parameters are those of the problem.
            loss_of: the loss of a batch, computed by the module.
            state: of each parameter.
            t: number of the step.
        """
        parameters = [p for p in module.parameters() if p.requires_grad]
        if self.layered:
            with _watching(factors.Watch(), module) as watch, torch.enable_grad():
                loss = loss_of()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            seen = factors.by_parameter(watch.take())
            return list(gradients), loss.detach(), [seen.get(p, {}) for p in parameters]
        with torch.enable_grad(), curvature.second_derivatives():
            loss = loss_of()
            gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
            given = curvature.supplied(self._plans, whole, parameters, self._signs(state, float(t)))
        return [None if g is None else g.detach() for g in gradients], loss.detach(), given

    # -- the Hessian ---------------------------------------------------------------------------------------------------

    def _signs(self, state: Sequence[Memory], t: Scalar) -> list[Tensor]:
        """For each parameter whose curvature is asked for."""
        return [
            curvature.signs(own[plan.seed], t, param.shape, self._dtype(param.name))
            for own, plan, param in zip(state, self._plans, self._problem.params, strict=True)
            if "curvature" in plan.given
        ]

    def _dtype(self, name: str) -> torch.dtype:
        return self._problem.layout[name].dtype

    def _curved(self, trained: Named, fixed: Named, signs: list[Tensor], *rest: Any) -> Found:
        leaves = {name: p.detach().requires_grad_() for name, p in trained.items()}
        with torch.enable_grad():
            losses = torch.func.vmap(self._problem.loss)(leaves, fixed, *rest)
            parameters = list(leaves.values())
            gradients = torch.autograd.grad(losses.sum(), parameters, create_graph=True, allow_unused=True)
            whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
            given = curvature.supplied(self._plans, whole, parameters, signs, stacked=True)
        return dict(zip(leaves, [g.detach().clone() for g in whole], strict=True)), losses.detach(), given

    # -- factors of layers ---------------------------------------------------------------------------------------------

    def _factored(self, trained: Named, fixed: Named, *rest: Any) -> Found:
        problem = self._problem
        leaves = {name: p.detach().requires_grad_() for name, p in trained.items()}
        with _watching(_StackedWatch(), problem.module) as watch, torch.enable_grad():

            def loss(own: Named, others: Named, inputs: Tensor, targets: Tensor, weights: Tensor, *more: Any) -> Tensor:
                real = (weights != 0).to(weights.dtype)
                watch.share = real / real.sum()
                return problem.loss(own, others, inputs, targets, weights, *more)

            losses = torch.func.vmap(loss)(leaves, fixed, *rest)
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        seen = factors.by_parameter(watch.take())
        names = {name: seen.get(p, {}) for name, p in problem.module.named_parameters()}
        found = zip(leaves.items(), gradients, strict=True)
        own = {name: torch.zeros_like(p) if g is None else g.clone() for (name, p), g in found}
        return own, losses.detach(), [names.get(name, {}) for name in leaves]


class _StackedWatch(factors.Watch):
    """Sees what goes through layers of stacked models: within `vmap`, beyond which gradients are taken."""

    @torch.no_grad()
    def forward(self, layer: nn.Module, h: Tensor, y: Tensor) -> None:
        """Wait for the gradient of an output; the stack's own tensor has it, not the row that the layer sees."""
        value, axis = torch._C._functorch.get_unwrapped(y), torch._C._functorch.maybe_get_bdim(y)
        if not value.requires_grad:
            return
        H, share = _stack(factors.inputs(layer, h, self.share)), _stack(self.share)

        def arrived(s: Tensor) -> None:
            S = torch.func.vmap(partial(factors.outputs, layer))(s.movedim(axis, 0), share)
            self.add(layer, 1, H, S)

        value.register_hook(arrived)

    def normalise(self, layer: nn.Module, H: Tensor, S: Tensor) -> dict[str, Memory]:
        """Each row by itself."""
        found: dict[str, Memory] = torch.func.vmap(partial(factors.of_parameters, layer))(H, S)
        return found


def _stack(x: Tensor | None) -> Tensor:
    """All rows [n, ...] of a tensor within `vmap`."""
    assert x is not None
    axis = torch._C._functorch.maybe_get_bdim(x)
    return torch._C._functorch.get_unwrapped(x).movedim(axis, 0)


@contextlib.contextmanager
def _watching(watch: Any, module: nn.Module) -> Iterator[Any]:
    handles = watch.attach(module)
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
