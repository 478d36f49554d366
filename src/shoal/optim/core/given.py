"""What a step goes by beside `grad` and state: gradients with their graph, and what transforms are given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from shoal.optim.core import curvature
from shoal.optim.core.plan import Memory, Plan, compute_dtype

Given: TypeAlias = Mapping[str, Sequence[Tensor | None]]


@dataclass(frozen=True, eq=False)
class Supplied:
    """For the length of a step.

    Attributes:
        gradients: those that count instead of what is in `grad`; None for a parameter without one.
        given: what each parameter's transforms are given, by name.
    """

    gradients: Mapping[Tensor, Tensor | None] = field(default_factory=dict)
    given: Mapping[Tensor, Memory] = field(default_factory=dict)


NOTHING = Supplied()


def told(plans: Mapping[Tensor, Plan], given: Given, asking: str) -> Supplied:
    """What somebody brings along, once it has been looked at.

    Args:
        plans: of all parameters, in the order of the groups.
        given: by name, one finite tensor for each parameter, or None for it.
        asking: the optimizer's name.

    Raises:
        ValueError: nothing asks for a name, or it has not one finite tensor of the right shape for each parameter.
    """
    result: dict[Tensor, Memory] = {}
    known = {name: None for plan in plans.values() for name in plan.given}
    for name, tensors in given.items():
        if name not in known:
            raise ValueError(f"given: got {name!r} for {asking}; {' or '.join(known) or 'nothing'} is allowed")
        if len(tensors) != len(plans):
            raise ValueError(f"given: got {len(tensors)} of {name}; one for each of {len(plans)} parameters is allowed")
        for i, ((p, plan), x) in enumerate(zip(plans.items(), tensors, strict=True)):
            if x is None or name not in plan.given:
                continue
            wanted = plan.chain[plan.given[name]].given_shape(name, tuple(p.shape))
            got = tuple(x.shape) if isinstance(x, Tensor) else x
            if got != wanted:
                raise ValueError(f"given: got {name} {got!r} for parameter {i}; a tensor of shape {wanted} is allowed")
            if not bool(x.isfinite().all()):
                raise ValueError(f"given: got {name} with NaN or inf for parameter {i}; finite numbers are allowed")
            result.setdefault(p, {})[name] = x.to(compute_dtype(p.dtype))
    return Supplied(given=result)


def differentiated(
    plans: Mapping[Tensor, Plan],
    loss: float | Tensor | None,
    signs: Callable[[Tensor], Tensor],
    climbing: Collection[Tensor],
    asking: str,
) -> Supplied:
    """Gradients with their graph, which is let go, and what they tell of the Hessian.

    Args:
        plans: of all parameters.
        loss: from which gradients are taken if it has a graph; else those in `grad` count.
        signs: parameter -> random signs of this step.
        climbing: parameters that go up the gradient.
        asking: the optimizer's name.

    Raises:
        RuntimeError: neither has a graph, or the loss depends on none of the parameters.
    """
    gradients = _with_graph(list(plans), loss, asking)
    held = [p for p in plans if p in gradients]
    own = [plans[p] for p in held]
    with torch.enable_grad():
        whole = [-gradients[p] if p in climbing else gradients[p] for p in held]
    drawn = [signs(p) for p, plan in zip(held, own, strict=True) if "curvature" in plan.given]
    found = curvature.supplied(own, whole, held, drawn)
    for p in plans:
        if p.grad is not None and p.grad.requires_grad:
            p.grad = p.grad.detach()
    return Supplied(
        {p: gradients[p].detach() if p in gradients else None for p in plans},
        {p: given for p, given in zip(held, found, strict=True) if given},
    )


def _with_graph(ps: Sequence[Tensor], loss: float | Tensor | None, asking: str) -> dict[Tensor, Tensor]:
    """Gradients that can be differentiated again, of the parameters that have any."""
    wanted = [p for p in ps if p.requires_grad]
    if not wanted:
        return {}
    if isinstance(loss, Tensor) and loss.requires_grad:
        try:
            found = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
        else:
            if all(g is None for g in found):
                raise RuntimeError(
                    f"loss: got one that depends on none of the parameters of {asking}; theirs is needed"
                )
            return {p: g for p, g in zip(wanted, found, strict=True) if g is not None}
    if graphs(ps):
        return {p: p.grad for p in ps if p.grad is not None}
    raise RuntimeError(
        f"{asking} needs a graph to differentiate twice: step(loss=loss) with a loss that has not "
        "been through backward(), or step() after loss.backward(create_graph=True), or step(closure) with either"
    )


def graphs(ps: Iterable[Tensor]) -> list[Tensor]:
    """The gradients in `grad` that still have their graph."""
    return [p.grad for p in ps if p.grad is not None and p.grad.requires_grad]
