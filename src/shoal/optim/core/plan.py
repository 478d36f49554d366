"""Plans: a chain of transforms made ready for parameters of one shape."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shoal.optim.core.ops import minus_
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.transform import Product, Quotient, Scalars, Shape, Slot, Transform

if TYPE_CHECKING:
    from shoal.optim.core.compiled import Kernel

Chain = tuple[Transform, ...]
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Param:
    """What a chain may depend on: which parameter it is for.

    Attributes:
        name: as in `named_parameters()`; "" where nobody told.
        shape: of one peer's.
        dtype: its own, which may be narrower than that of the computation.
    """

    name: str
    shape: Shape
    dtype: torch.dtype = torch.float32


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
        after: places of the transforms that change the stepped parameter, in the order in which they do.
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
        self.after = [i for i, transform in reversed(list(enumerate(chain))) if transform.acts("after")]

        *_, last = Transform(), *chain
        unwritten = type(last).apply in (Quotient.apply, Product.apply) and not self.after
        self._unwritten = last if isinstance(last, Quotient | Product) and unwritten else None

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
        if self._unwritten is not None and not isinstance(scalars[-1].lr, Tensor):
            u = self.transform(g, p, g, states, scalars, 0, len(self.chain) - 1)
            self._unwritten.take(u, p, g, states[-1], scalars[-2])
            return
        self.finish(self.transform(g, p, g, states, scalars), p, g, states, scalars)

    def finish(self, u: Tensor, p: Tensor, g: Tensor, states: list[SimpleNamespace], scalars: list[Scalars]) -> None:
        """Take the step, and all `after`."""
        if self.rated:
            p.sub_(u)
        else:
            minus_(p, u, scalars[-1].lr)
        for i in self.after:
            self.chain[i].after(u, p, g, states[i], scalars[i])


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a rule computes in and keeps its state in: float32, or float64 for float64 parameters."""
    return torch.promote_types(dtype, torch.float32)
