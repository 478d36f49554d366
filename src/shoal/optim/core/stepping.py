"""Steps of the parameters of one model: block by block, tensor by tensor, or together, as their chains need."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from shoal.optim.core.plan import Memory, Plan, compute_dtype
from shoal.optim.core.transform import Scalars

BLOCK = 1 << 18  # entries that a chain of element-wise transforms takes at once: they stay in the last cache
SMALL = 1 << 13  # most entries of parameters that are put together on a CPU: calls take longer than what they do
PACK = 1 << 14  # most entries of parameters of an element-wise chain that are put together


@dataclass(eq=False, slots=True)
class Item:
    """One parameter of one step.

    Attributes:
        plan, p, g, state, scalars: what to do to which parameter with which gradient, slots (and what it is given) and
            numbers.
        negate: whether to go up the gradient instead of down.
    """

    plan: Plan
    p: Tensor
    g: Tensor
    state: Memory
    scalars: list[Scalars]
    negate: bool = False


def not_fused(items: Sequence[Item]) -> list[Item]:
    """What is left to be stepped after torch's fused kernels took what they can."""
    groups: dict[tuple[int, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((id(item.scalars), item.negate), []).append(item)
    rest = []
    for some in groups.values():
        chain = some[0].plan.chain
        own = chain and "fused" in vars(type(chain[-1]))  # an inherited kernel may not be the subclass's step
        if not (own and all(map(_of_one_size, some)) and chain[-1].fused(some)):
            rest += some
    return rest


def _of_one_size(item: Item) -> bool:
    """Torch's fused kernels do not look, and leave the memory of what is smaller; other operations raise."""
    n, state = item.p.numel(), item.state
    return item.g.numel() == n and [state[key].numel() for key in item.plan.keys].count(n) == len(item.plan.keys)


def step_items(items: Sequence[Item]) -> None:
    """One step of some parameters: block by block, tensor by tensor, or together, as their chains need."""
    if any(item.plan.model_wide for item in items):
        _step_together(items)
        return
    alike: dict[Any, list[Item]] = {}
    by_entries: list[Item] = []
    for item in items:
        if item.plan.by_number and item.plan.stacks and _to_stack(item.p):
            there = tuple(item.state.get(name) is not None for name in item.plan.given)
            key = (id(item.scalars), item.p.shape, item.p.dtype, item.g.dtype, item.p.device, item.negate, there)
            alike.setdefault(key, []).append(item)
        elif item.plan.granularity == "element":
            by_entries.append(item)
        else:
            step_item(item)
    for some in alike.values():
        _step_alike(some)
    for item in pieces(by_entries):
        step_item(item)


def _to_stack(p: Tensor) -> bool:
    """Whether parameters like this are worth copying into one stack: where calls take longer than what they do."""
    return p.device.type != "cpu" or p.numel() <= SMALL


def _step_alike(items: Sequence[Item]) -> None:
    """One step of parameters of one shape with the same chain and scalars, as one stack."""
    first, *others = items
    if not others:
        step_item(first)
        return
    p, g = (torch.stack(list(parts)) for parts in zip(*((item.p, item.g) for item in items), strict=True))
    there = [key for key in first.plan.tensors if first.state.get(key) is not None]
    state = {key: torch.stack([item.state[key] for item in items]) for key in there}
    step_item(Item(first.plan, p, g, state, first.scalars, first.negate))
    torch._foreach_copy_([item.p for item in items], list(p.unbind()))
    for key in first.plan.keys:
        torch._foreach_copy_([item.state[key] for item in items], list(state[key].unbind()))


def pieces(items: Iterable[Item], multiple: int = 1) -> Iterator[Item]:
    """Parameters of element-wise chains in pieces of a size that pays on a CPU: large ones cut, small ones packed.

    A piece must be stepped before the next is asked for.

    Args:
        items: parameters.
        multiple: size of a pack, which is filled up with zeros, in entries; other than 1, one alone is packed as well.
    """
    packs: dict[Any, list[Item]] = {}
    space: dict[Any, int] = {}
    for item in items:
        n = item.p.numel()
        if item.p.device.type != "cpu":
            yield item
        elif n > BLOCK and _in_blocks(item):
            yield from _blocks(item)
        elif n <= SMALL and _packs(item):
            kind = (id(item.scalars), item.p.dtype, item.g.dtype, item.negate)
            if space.get(kind, -1) < n:
                yield from _packed(packs.get(kind, []), multiple)
                packs[kind], space[kind] = [], PACK
            packs[kind].append(item)
            space[kind] -= n
        else:
            yield item
    for some in packs.values():
        yield from _packed(some, multiple)


def _in_blocks(item: Item) -> bool:
    return all(
        x is not None and x.is_contiguous()
        for x in (item.p, item.g, *(item.state.get(key) for key in item.plan.tensors))
    )


def _blocks(item: Item) -> Iterator[Item]:
    ps, gs = item.p.view(-1).split(BLOCK), item.g.view(-1).split(BLOCK)
    parts = {key: item.state[key].view(-1).split(BLOCK) for key in item.plan.tensors}
    for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
        own = {key: blocks[i] for key, blocks in parts.items()}
        yield Item(item.plan, p, g, own, item.scalars, item.negate)


def _packs(item: Item) -> bool:
    """Whether it may be put together with others: it is one peer's, and needs its gradient alone."""
    plan = item.plan
    return not (plan.by_number or plan.given or isinstance(item.scalars[-1].lr, Tensor)) and _of_one_size(item)


def _packed(items: Sequence[Item], multiple: int) -> Iterator[Item]:
    """Parameters with the same chain and scalars as one; what becomes of it is written back to them."""
    if not items or len(items) == multiple == 1:
        yield from items
        return
    first = items[0]
    ps = [item.p for item in items]
    slots = {key: [item.state[key] for item in items] for key in first.plan.tensors}
    sizes = [x.numel() for x in ps]
    rest = -sum(sizes) % multiple
    p, g, *parts = (_flat(own, rest) for own in (ps, [item.g for item in items], *slots.values()))
    yield Item(first.plan, p, g, dict(zip(slots, parts, strict=True)), first.scalars, first.negate)
    for own, whole in zip((ps, *slots.values()), (p, *parts), strict=True):
        pairs = zip(whole.split([*sizes, rest]), own, strict=False)
        torch._foreach_copy_(own, [part if x.dim() == 1 else part.view(x.shape) for part, x in pairs])


def _flat(tensors: list[Tensor], zeros: int) -> Tensor:
    """All entries one after the other, and zeros behind them."""
    parts = [x if x.dim() == 1 else x.reshape(-1) for x in tensors]
    return torch.cat([*parts, tensors[0].new_zeros(zeros)] if zeros else parts)


def step_item(item: Item) -> None:
    """One step of one parameter, whole."""
    q, g = _computable(item.p, item.g, item.negate)
    item.plan.step(q, g, item.plan.bind(item.state), item.scalars)
    if q is not item.p:
        item.p.copy_(q)


def _computable(p: Tensor, g: Tensor, negate: bool) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(p.dtype)
    if p.dtype != dtype:
        p = p.to(dtype)
    if g.dtype != dtype:
        g = g.to(dtype)
    return p, -g if negate else g


def _step_together(items: Sequence[Item]) -> None:
    """Parameters whose transforms need sums over all of them: each transform for all before the next."""
    stops = items[0].plan.model_wide
    if any(item.plan.model_wide != stops for item in items):
        raise ValueError("links: transforms that sum over all parameters must stand at the same places in all chains")
    ready = [(*_computable(item.p, item.g, item.negate), item.plan.bind(item.state)) for item in items]
    for item, (q, _, states) in zip(items, ready, strict=True):
        item.plan.begin(q, states, item.scalars)
    updates = [g for _, g, _ in ready]
    scalars = [[SimpleNamespace(**vars(part)) for part in item.scalars] for item in items]
    position = 0
    for stop in stops:
        measures: dict[str, list[Tensor]] = {}
        for i, (item, (q, g, states)) in enumerate(zip(items, ready, strict=True)):
            updates[i] = item.plan.transform(updates[i], q, g, states, scalars[i], position, stop)
            measured = item.plan.chain[stop].measure(updates[i], q, g, states[stop], scalars[i][stop])
            for name, value in measured.items():
                measures.setdefault(name, []).append(value)
        whole = {name: _joined(name, measures.pop(name)) for name in list(measures) if name.startswith("all_")}
        totals = {name: _joined(name, values) for name, values in measures.items()}
        for (q, _, _), numbers in zip(ready, scalars, strict=True):
            vars(numbers[stop]).update({name: value.to(q.device) for name, value in totals.items()})
        settling = SimpleNamespace(**vars(scalars[0][stop]), **whole)
        found = items[0].plan.chain[stop].settle(ready[0][2][stop], settling)
        for item, (q, _, states), numbers in zip(items, ready, scalars, strict=True):
            vars(numbers[stop]).update({name: value.to(q.device) for name, value in found.items()})
            for name in item.plan.shares[stop]:
                if (own := getattr(states[stop], name)) is not (settled := getattr(ready[0][2][stop], name)):
                    own.copy_(settled)
        position = stop
    for i, (item, (q, g, states)) in enumerate(zip(items, ready, strict=True)):
        u = item.plan.transform(updates[i], q, g, states, scalars[i], position)
        item.plan.finish(u, q, g, states, scalars[i])
        if q is not item.p:
            item.p.copy_(q)


def _joined(name: str, values: list[Tensor]) -> Tensor:
    """What all parameters measured under one name, on the first one's device."""
    first, *others = values
    here = [first, *(value.to(first.device) for value in others)]
    if name.startswith("all_"):
        return torch.cat([value.flatten() for value in here])
    return functools.reduce(torch.maximum if name.startswith("max_") else torch.add, here)
