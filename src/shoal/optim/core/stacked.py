"""Steps of stacked peers: all at once, one after the other, or those that are at the same step together."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from shoal.optim.core.plan import Memory, Plan, compute_dtype
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import Item, step_item, step_items
from shoal.optim.core.transform import Scalars

LARGE = 1 << 13  # entries of a parameter above which stacked peers are stepped one after the other

Numbers = list[dict[str, Tensor]]
Told = tuple[Plan, Tensor, Tensor, Memory]
"""A parameter's plan, [n, ...] its values and gradients at all peers, and its slots with what it is given."""


def step_stacked(parameters: Sequence[Told], t: Tensor, lr: Tensor, loss: Tensor | None) -> None:
    """One step of n peers, in place; for the numbers see `Rule.step`."""
    if any(plan.by_number for plan, *_ in parameters):
        _step_by_number(parameters, t, lr, loss)
        return
    shared: dict[tuple[tuple[int, float], torch.dtype], Numbers] = {}

    def numbers(plan: Plan, p: Tensor) -> Numbers:
        key = (plan.key, p.dtype)
        if key not in shared:
            shared[key] = plan.numbers(t, lr, p.dtype, loss)
        return shared[key]

    if all(plan.granularity == "element" for plan, *_ in parameters):
        large: dict[tuple[tuple[int, float], float, float], list[Scalars]] = {}
        for plan, p, g, own in parameters:
            if plan.chain and p[0].numel() > LARGE:
                _step_rows(plan, p, g, own, t, lr, large)
                continue
            shape = t.shape + (1,) * (p.dim() - 1)
            scalars = [SimpleNamespace(**{k: v.view(shape) for k, v in part.items()}) for part in numbers(plan, p)]
            step_item(Item(plan, p, g, own, scalars))
        return

    def one(ps: list[Tensor], gs: list[Tensor], states: list[Memory], cs: list[Numbers]) -> None:
        step_items(
            [
                Item(plan, p, g, own, [SimpleNamespace(**part) for part in named])
                for plan, p, g, own, named in zip(plans, ps, gs, states, cs, strict=True)
            ]
        )

    plans, ps, gs, state = (list(column) for column in zip(*parameters, strict=True))
    named = [numbers(plan, p) for plan, p in zip(plans, ps, strict=True)]
    torch.func.vmap(one, out_dims=None)(ps, gs, state, named)


def _step_rows(
    plan: Plan,
    p: Tensor,
    g: Tensor,
    state: Memory,
    t: Tensor,
    lr: Tensor,
    scalars: dict[tuple[tuple[int, float], float, float], list[Scalars]],
) -> None:
    """Stacked peers one after the other: each row of a large parameter fills the cache by itself."""
    for row, (number, rate) in enumerate(zip(t.tolist(), lr.tolist(), strict=True)):
        key = (plan.key, number, rate)
        if key not in scalars:
            scalars[key] = plan.scalars(number, rate)
        step_items([Item(plan, p[row], g[row], _row(state, row), scalars[key])])


def _step_by_number(parameters: Sequence[Told], t: Tensor, lr: Tensor, loss: Tensor | None) -> None:
    """Stacked peers that are at the same step together; one after the other where a chain cannot take them stacked."""
    if all(plan.stacks and not plan.model_wide for plan, *_ in parameters):
        rows: dict[float, list[int]] = {}
        for row, number in enumerate(t.tolist()):
            rows.setdefault(number, []).append(row)
        for number, some in rows.items():
            for plan, p, g, own in parameters:
                _step_peers(plan, p, g, own, number, lr, loss, some)
        return
    for row, (number, rate) in enumerate(zip(t.tolist(), lr.tolist(), strict=True)):
        told = None if loss is None else float(loss[row])
        step_items(
            [
                Item(plan, p[row], g[row], _row(own, row), plan.scalars(number, rate, told))
                for plan, p, g, own in parameters
            ]
        )


def _row(state: Memory, row: int) -> Memory:
    return {name: slot[row] for name, slot in state.items()}


def _step_peers(
    plan: Plan, p: Tensor, g: Tensor, state: Memory, t: float, lr: Tensor, loss: Tensor | None, rows: list[int]
) -> None:
    """One parameter of those stacked peers that are at step t."""
    own = {key: state[key] for key in plan.tensors if state.get(key) is not None}
    whole = [p, *own.values()]
    some = len(rows) < len(p)
    if some:
        index = torch.tensor(rows, device=p.device)
        p, g, lr = p[index], g[index], lr[index]
        loss = None if loss is None else loss[index]
        own = {key: slot[index] for key, slot in own.items()}
    told = None if loss is None else _number(loss, p)
    step_item(Item(plan, p, g, own, plan.scalars(t, _number(lr, p), told)))
    if some:
        for before, after in zip(whole, (p, *own.values()), strict=True):
            before.index_copy_(0, index, after)


def _number(values: Tensor, p: Tensor) -> Scalar:
    """What all peers have in common, or a tensor [n, 1, ...] with each one's."""
    first, *others = values.tolist()
    if all(other == first for other in others):
        return float(first)
    return values.to(compute_dtype(p.dtype)).view(-1, *(1,) * (p.dim() - 1))
