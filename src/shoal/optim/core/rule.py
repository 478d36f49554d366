"""Update rules: a learning rate and a chain of transforms, ready to step one model or many stacked ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from shoal.optim.core.ops import minus_
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.transform import Quotient, Scalars, Shape, Slot, Transform
from shoal.tensors.random import key as key_of

if TYPE_CHECKING:
    from shoal.optim.core.compiled import Kernel

Chain = tuple[Transform, ...]
Memory = dict[str, Tensor]
BLOCK = 1 << 18  # entries that a chain of element-wise transforms takes at once: they stay in the last cache
LARGE = 1 << 13  # entries of a parameter above which stacked peers are stepped one after the other
SMALL = (
    1 << 13
)  # entries of a parameter up to which those of one shape are put together for stacked transforms on a CPU


@dataclass(frozen=True)
class Param:
    """What a chain may depend on: which parameter it is for.

    Attributes:
        name: as in `named_parameters()`; "" where nobody told.
        shape: of one peer's.
    """

    name: str
    shape: Shape


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
    _plans: dict[Param, Plan] = field(default_factory=dict, repr=False, compare=False)
    _chains: dict[Chain, Chain] = field(default_factory=dict, repr=False, compare=False)

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

    def element_wise(self, params: Iterable[Param]) -> bool:
        """Whether every entry of every parameter is stepped by itself."""
        return self.frame is None and all(self.plan(param).granularity == "element" for param in params)

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
        return self.relinked(lambda param: (*ahead, *self.plan(param).chain, *links))

    def relinked(self, links: Chain | Callable[[Param], Chain]) -> Rule:
        """The rule with other links."""
        return Rule(self.name, self.lr, links, self.seed, self.factor, self.frame)

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
            for key, value in self.plan(Param(name, tuple(p.shape))).fresh(p, key_of(start, "optimizer", i)).items():
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
        if isinstance(t, Tensor):
            assert isinstance(lr, Tensor)
            assert loss is None or isinstance(loss, Tensor)
            self._step_stacked(plans, parameters, gradients, state, t, lr, loss)
            return
        assert not isinstance(lr, Tensor)
        shared: dict[tuple[int, float], list[Scalars]] = {}
        items = []
        held = parameters
        if self.frame:
            parameters, gradients = self.frame.to(held), self.frame.to(gradients)
        for plan, p, g, own in zip(plans, parameters, gradients, state, strict=True):
            scalars = shared.get(plan.key)
            if scalars is None:
                scalars = shared[plan.key] = plan.scalars(t, lr, loss)
            items.append(Item(plan, p, g, own, scalars))
        step_items(items)
        self._put_back(parameters, held)

    def _put_back(self, stepped: Sequence[Tensor], held: Sequence[Tensor]) -> None:
        if self.frame:
            for p, q in zip(held, self.frame.back(stepped), strict=True):
                p.copy_(q)

    def _step_stacked(
        self,
        plans: Sequence[Plan],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        state: Sequence[Memory],
        t: Tensor,
        lr: Tensor,
        loss: Tensor | None,
    ) -> None:
        if any(plan.by_number for plan in plans):
            held = parameters
            if self.frame:
                parameters, gradients = (torch.func.vmap(self.frame.to)(list(x)) for x in (held, gradients))
            _step_by_number(plans, parameters, gradients, state, t, lr, loss)
            if self.frame:
                for p, q in zip(held, torch.func.vmap(self.frame.back)(list(parameters)), strict=True):
                    p.copy_(q)
            return
        shared: dict[tuple[tuple[int, float], torch.dtype], list[dict[str, Tensor]]] = {}

        def numbers(plan: Plan, p: Tensor) -> list[dict[str, Tensor]]:
            key = (plan.key, p.dtype)
            if key not in shared:
                shared[key] = plan.numbers(t, lr, p.dtype, loss)
            return shared[key]

        if self.frame is None and all(plan.granularity == "element" for plan in plans):
            large: dict[tuple[tuple[int, float], float, float], list[Scalars]] = {}
            for plan, p, g, own in zip(plans, parameters, gradients, state, strict=True):
                if plan.chain and p[0].numel() > LARGE:
                    _step_rows(plan, p, g, own, t, lr, large)
                    continue
                shape = t.shape + (1,) * (p.dim() - 1)
                scalars = [SimpleNamespace(**{k: v.view(shape) for k, v in part.items()}) for part in numbers(plan, p)]
                _step(plan, p, g, own, scalars, negate=False)
            return

        def one(ps: list[Tensor], gs: list[Tensor], states: list[Memory], cs: list[list[dict[str, Tensor]]]) -> None:
            held = ps
            if self.frame:
                ps, gs = self.frame.to(held), self.frame.to(gs)
            step_items(
                [
                    Item(plan, p, g, own, [SimpleNamespace(**part) for part in named])
                    for plan, p, g, own, named in zip(plans, ps, gs, states, cs, strict=True)
                ]
            )
            self._put_back(ps, held)

        named = [numbers(plan, p) for plan, p in zip(plans, parameters, strict=True)]
        torch.func.vmap(one, out_dims=None)(list(parameters), list(gradients), list(state), named)


class Plan:
    """A chain made ready for parameters of one shape.

    Attributes:
        chain: the transforms.
        factor: what the learning rate is multiplied by.
        key: equal for plans whose scalars are the same.
        slots: (key, slot, shape) of all state; the key is the slot's name, numbered where several have it.
        shared: keys of the slots that the whole model shares.
        shares: for each transform, its names of such slots.
        granularity: the coarsest of the chain.
        given: further tensors that must be given: name -> place of the first transform that asks for it.
        tensors: keys of all state, and names of what is given.
        rated: whether the update that comes out includes the learning rate.
        by_number: whether there are stacked transforms, which may look at the number of the step.
        stacks: whether the whole chain takes n parameters [n, ...] at once.
        kernel: its compiled step, or why there is none, once somebody asked for it (compiled.py).
    """

    kernel: Kernel | str | None = None

    def __init__(self, chain: Chain, shape: Shape, factor: float = 1.0) -> None:
        self.chain = chain
        self.factor = factor
        self.key = (id(chain), factor)
        self.slots: list[tuple[str, Slot, Shape]] = []
        self.names: list[list[tuple[str, str]]] = []
        self.given = {name: i for i, t in reversed(list(enumerate(chain))) for name in t.given}
        taken: set[str] = set(self.given)
        for transform in chain:
            own = []
            for slot in transform.slots:
                key = next(k for k in (slot.name, *(f"{slot.name}_{i}" for i in range(2, 99))) if k not in taken)
                taken.add(key)
                self.slots.append((key, slot, slot.shape_for(shape)))
                own.append((slot.name, key))
            self.names.append(own)
        self.keys = frozenset(taken - self.given.keys())
        self.tensors = [*(key for key, *_ in self.slots), *self.given]
        self.shared = tuple(key for key, slot, _ in self.slots if slot.shared)
        self.shares = [tuple(slot.name for slot in transform.slots if slot.shared) for transform in chain]
        grains = {"element" if slot.shape is None else "tensor" for _, slot, _ in self.slots}
        grains |= {transform.granularity for transform in chain}
        self.granularity = "model" if "model" in grains else "tensor" if "tensor" in grains else "element"
        self.rated = any(transform.rated for transform in chain)
        self.by_number = any(transform.stacked for transform in chain)
        self.stacks = all(transform.stacked or transform.granularity == "element" for transform in chain)
        self._dims = len(shape)
        self.model_wide = [i for i, transform in enumerate(chain) if transform.granularity == "model"]
        self._before = [i for i, transform in enumerate(chain) if transform.acts("before")]
        self._after = [i for i, transform in reversed(list(enumerate(chain))) if transform.acts("after")]

        *_, last = Transform(), *chain
        unwritten = type(last).apply is Quotient.apply and not self.rated and not self._after
        self._quotient = last if isinstance(last, Quotient) and unwritten else None

    @property
    def seed(self) -> str:
        """The key of the seed for the signs of whoever asks for "curvature"."""
        return dict(self.names[self.given["curvature"]])["seed"]

    @functools.cached_property
    def _settings(self) -> list[dict[str, float]]:
        return [transform.settings() for transform in self.chain]

    def fresh(self, p: Tensor, seed: int = 0) -> Memory:
        """The slots' first values.

        Args:
            p: the parameter.
            seed: of this parameter of this peer.
        """
        result = {}
        for key, slot, shape in self.slots:
            dtype = slot.dtype or compute_dtype(p.dtype)
            if slot.start == "parameter":
                result[key] = p.detach().to(dtype, copy=True, memory_format=torch.contiguous_format).view(shape)
            elif slot.start == "seed":
                result[key] = torch.tensor(seed, dtype=torch.int64, device=p.device)
            else:
                result[key] = torch.full(shape, slot.start, dtype=dtype, device=p.device)
        return result

    def scalars(self, t: Scalar, lr: Scalar, loss: Scalar | None = None) -> list[Scalars]:
        """The numbers of this step for each transform, and in the end those of the step itself."""
        if self.factor != 1.0:
            lr = lr * self.factor
        common: dict[str, Scalar] = {"t": t, "lr": lr, "pace": 1.0 if self.rated else lr}
        if loss is not None:
            common["loss"] = loss
        named = [
            SimpleNamespace(**{**settings, **common, **transform.derived(t, lr)})
            for settings, transform in zip(self._settings, self.chain, strict=True)
        ]
        return [*named, SimpleNamespace(lr=lr)]

    def numbers(self, t: Tensor, lr: Tensor, dtype: torch.dtype, loss: Tensor | None = None) -> list[dict[str, Tensor]]:
        """The same for stacked peers, each a tensor [n]."""
        return [
            {
                name: (value if isinstance(value, Tensor) else torch.full_like(t, value)).to(
                    torch.bool if isinstance(value, Tensor) and value.dtype == torch.bool else compute_dtype(dtype)
                )
                for name, value in vars(part).items()
            }
            for part in self.scalars(t, lr.double(), loss)
        ]

    def bind(self, state: Memory) -> list[SimpleNamespace]:
        """The slots as each transform sees them, with what it was given."""
        bound = [SimpleNamespace(**{name: state[key] for name, key in own}) for own in self.names]
        if self.given:
            for s, transform in zip(bound, self.chain, strict=True):
                vars(s).update({name: state.get(name) for name in transform.given})
        return bound

    def begin(self, p: Tensor, states: list[SimpleNamespace], scalars: list[Scalars]) -> None:
        """All `before`."""
        for i in self._before:
            self.chain[i].before(p, states[i], scalars[i])

    def transform(
        self,
        u: Tensor,
        p: Tensor,
        g: Tensor,
        states: list[SimpleNamespace],
        scalars: list[Scalars],
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Apply the transforms from `start` to before `stop`."""
        for i in range(start, len(self.chain) if stop is None else stop):
            transform, own = self.chain[i], states[i]
            if transform.stacked and p.dim() == self._dims:
                own = SimpleNamespace(**{name: slot.unsqueeze(0) for name, slot in vars(own).items()})
                u = transform.apply(u.unsqueeze(0), p.unsqueeze(0), g.unsqueeze(0), own, scalars[i]).squeeze(0)
            else:
                u = transform.apply(u, p, g, own, scalars[i])
        return u

    def step(self, p: Tensor, g: Tensor, states: list[SimpleNamespace], scalars: list[Scalars]) -> None:
        """All of it."""
        self.begin(p, states, scalars)
        lr = scalars[-1].lr
        if self._quotient is not None and not isinstance(lr, Tensor):
            u = self.transform(g, p, g, states, scalars, 0, len(self.chain) - 1)
            p.addcdiv_(*self._quotient.fraction(u, p, g, states[-1], scalars[-2]), value=-lr)
            return
        self.finish(self.transform(g, p, g, states, scalars), p, g, states, scalars)

    def finish(self, u: Tensor, p: Tensor, g: Tensor, states: list[SimpleNamespace], scalars: list[Scalars]) -> None:
        """Take the step, and all `after`."""
        if self.rated:
            p.sub_(u)
        else:
            minus_(p, u, scalars[-1].lr)
        for i in self._after:
            self.chain[i].after(u, p, g, states[i], scalars[i])


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
        step_items([Item(plan, p[row], g[row], {name: slot[row] for name, slot in state.items()}, scalars[key])])


def _step_by_number(
    plans: Sequence[Plan],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: Sequence[Memory],
    t: Tensor,
    lr: Tensor,
    loss: Tensor | None,
) -> None:
    """Stacked peers that are at the same step together; one after the other where a chain cannot take them stacked."""
    rows: dict[float, list[int]] = {}
    for row, number in enumerate(t.tolist()):
        rows.setdefault(number, []).append(row)
    together = [plan.stacks and not plan.model_wide for plan in plans]
    if all(together):
        for number, some in rows.items():
            for plan, p, g, own in zip(plans, parameters, gradients, state, strict=True):
                _step_peers(plan, p, g, own, number, lr, some)
        return
    for row, (number, rate) in enumerate(zip(t.tolist(), lr.tolist(), strict=True)):
        told = None if loss is None else float(loss[row])
        step_items(
            [
                Item(
                    plan,
                    p[row],
                    g[row],
                    {name: slot[row] for name, slot in own.items()},
                    plan.scalars(number, rate, told),
                )
                for plan, p, g, own in zip(plans, parameters, gradients, state, strict=True)
            ]
        )


def _step_peers(plan: Plan, p: Tensor, g: Tensor, state: Memory, t: float, lr: Tensor, rows: list[int]) -> None:
    """One parameter of those stacked peers that are at step t."""
    own = {key: state[key] for key in plan.tensors if state.get(key) is not None}
    if len(rows) < len(p):
        index = torch.tensor(rows, device=p.device)
        whole = [p, *own.values()]
        p, g, lr = p[index], g[index], lr[index]
        own = {key: slot[index] for key, slot in own.items()}
    else:
        whole = []
    rates = lr.tolist()
    rate: Scalar = rates[0]
    if any(other != rates[0] for other in rates):
        rate = lr.to(compute_dtype(p.dtype)).view(-1, *(1,) * (p.dim() - 1))
    _step(plan, p, g, own, plan.scalars(t, rate), negate=False)
    for before, after in zip(whole, (p, *own.values()), strict=False):
        before.index_copy_(0, index, after)


def joined(state: Sequence[Memory], given: Sequence[Memory]) -> list[Memory]:
    """The slots of each parameter together with what it is given."""
    return [{**own, **further} for own, further in zip(state, given, strict=True)]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a rule computes in and keeps its state in: float32, or float64 for float64 parameters."""
    return torch.promote_types(dtype, torch.float32)


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


def step_items(items: Sequence[Item]) -> None:
    """One step of some parameters: block by block, tensor by tensor, or together, as their chains need."""
    if any(item.plan.model_wide for item in items):
        _step_together(items)
        return
    alike: dict[Any, list[Item]] = {}
    for item in items:
        if item.plan.by_number and item.plan.stacks and _to_stack(item.p):
            there = tuple(item.state.get(name) is not None for name in item.plan.given)
            key = (id(item.scalars), item.p.shape, item.p.dtype, item.g.dtype, item.p.device, item.negate, there)
            alike.setdefault(key, []).append(item)
        elif item.plan.granularity == "element" and item.p.numel() > BLOCK and _in_blocks(item):
            _step_in_blocks(item)
        else:
            _step(item.plan, item.p, item.g, item.state, item.scalars, item.negate)
    for some in alike.values():
        _step_alike(some)


def _to_stack(p: Tensor) -> bool:
    """Whether parameters like this are worth copying into one stack: where calls take longer than what they do."""
    return p.device.type != "cpu" or p.numel() <= SMALL


def _step_alike(items: Sequence[Item]) -> None:
    """One step of parameters of one shape with the same chain and scalars, as one stack."""
    first, *others = items
    if not others:
        _step(first.plan, first.p, first.g, first.state, first.scalars, first.negate)
        return
    p, g = (torch.stack(list(parts)) for parts in zip(*((item.p, item.g) for item in items), strict=True))
    there = [key for key in first.plan.tensors if first.state.get(key) is not None]
    state = {key: torch.stack([item.state[key] for item in items]) for key in there}
    _step(first.plan, p, g, state, first.scalars, first.negate)
    torch._foreach_copy_([item.p for item in items], list(p.unbind()))
    for key in first.plan.keys:
        torch._foreach_copy_([item.state[key] for item in items], list(state[key].unbind()))


def _in_blocks(item: Item) -> bool:
    return item.p.device.type == "cpu" and all(
        x is not None and x.is_contiguous()
        for x in (item.p, item.g, *(item.state.get(key) for key in item.plan.tensors))
    )


def _step_in_blocks(item: Item) -> None:
    ps, gs = item.p.view(-1).split(BLOCK), item.g.view(-1).split(BLOCK)
    parts = {key: item.state[key].view(-1).split(BLOCK) for key in item.plan.tensors}
    for i, (p, g) in enumerate(zip(ps, gs, strict=True)):
        _step(item.plan, p, g, {key: blocks[i] for key, blocks in parts.items()}, item.scalars, item.negate)


def _step(plan: Plan, p: Tensor, g: Tensor, state: Memory, scalars: list[Scalars], negate: bool) -> None:
    q, g = _computable(p, g, negate)
    plan.step(q, g, plan.bind(state), scalars)
    if q is not p:
        p.copy_(q)


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
