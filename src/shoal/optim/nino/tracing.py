"""The neural graph of a torch module: which neuron each entry of each activation is, followed through one forward pass.

The pass runs on torch's meta device: nothing is computed, no buffer changes, no random number is drawn. Beside each
activation lies a tensor of the same shape with the numbers of its neurons, and beside each parameter one with the
numbers of its entries. What only moves entries (views, permutations, concatenation) moves those, too; layers make new
neurons and edges (layers.py), and sums of activations edges that have no parameter, neuron by neuron. What `LAYERS`
and `shoal.optim.nino.known` list is known; anything else that touches an activation is refused, with the name of the
module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shoal.optim.nino.building import Builder
from shoal.optim.nino.graph import Kind, NeuralGraph
from shoal.optim.nino.known import ADDS, ASKS, KEEPS, MOVES, POOLS, REDUCES, SCALES
from shoal.optim.nino.layers import LAYERS


@dataclass(eq=False)
class Shadow:
    """What the entries of a tensor are: neurons (-1: an input that no layer has seen), or else parameters."""

    of: Tensor
    ids: Tensor
    neurons: bool = True


def neural_graph(model: nn.Module, example: Any, *, slots: int = 9, positions: int = 8) -> NeuralGraph:
    """The graph of a model.

    Args:
        model: any module that is made of what is known here; it is not changed. Its parameters are taken in the order
            of `named_parameters`.
        example: what the model is called with: a tensor, or a tuple of several. Shapes count, values do not; one
            sample is enough.
        slots: weights of an edge at most.
        positions: Laplacian eigenvectors of each node.

    Raises:
        ValueError: the model does something with its activations that is not known, which is named with the module
            that does it; or a parameter takes no part in the output.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
        raise ValueError(f"example: got {type(example).__name__}; a batch, or a tuple of several, is allowed")
    named = dict(model.named_parameters())
    if not named:
        raise ValueError("model: got one without parameters")
    held = {name: p.detach().to("meta") for name, p in named.items()}
    held |= {name: b.to("meta") for name, b in model.named_buffers()}
    tracer = Tracer(slots)
    at = 0
    for name, p in named.items():
        tracer.note(held[name], torch.arange(at, at + p.numel()).view(p.shape), neurons=False)
        at += p.numel()
    given = tuple(x[:1].to("meta") for x in inputs)
    for x in given:
        tracer.note(x, torch.full(x.shape, -1))
    watched = [m.register_forward_pre_hook(tracer.entered(name)) for name, m in model.named_modules()]
    watched += [m.register_forward_hook(tracer.left, always_call=True) for m in model.modules()]
    try:
        with torch.no_grad(), tracer:
            torch.func.functional_call(model, held, given)
    except (RuntimeError, NotImplementedError, TypeError, IndexError) as error:
        raise ValueError(f"model: {tracer.where()} cannot be followed on shapes alone: {error}") from error
    finally:
        for hook in watched:
            hook.remove()
    return tracer.builder.finish(tuple(named), tuple(p.numel() for p in named.values()), positions)


class Tracer(TorchFunctionMode):
    """Follows neurons through calls of torch's functions.

    Attributes:
        builder: of the graph.
        positions: neurons of embeddings that were not of the input.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.builder = Builder(slots)
        self._shadows: dict[int, Shadow] = {}
        self.positions: set[int] = set()
        self._modules: list[tuple[str, str]] = []

    # -- where it is --------------------------------------------------------------------------------------------------

    def entered(self, name: str) -> Callable[[nn.Module, Any], None]:
        """A hook that notes that a module begins."""
        return lambda module, _: self._modules.append((name, type(module).__name__))

    def left(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A hook that notes that a module has ended; after an error the place stays noted."""
        if output is not None:
            self._modules.pop()

    def where(self) -> str:
        """The module at work, in words."""
        name, kind = self._modules[-1] if self._modules else ("", "its forward")
        return f"module {name!r} ({kind})" if name else f"the module itself ({kind})"

    def refused(self, what: str) -> ValueError:
        """An error that names the module."""
        return ValueError(f"model: {self.where()} has {what}, of which no neural graph is known")

    # -- shadows ------------------------------------------------------------------------------------------------------

    def note(self, of: Tensor, ids: Tensor, neurons: bool = True) -> None:
        """Say what the entries of a tensor are."""
        self._shadows[id(of)] = Shadow(of, ids, neurons)

    def shadow(self, x: Any) -> Shadow | None:
        """What is known of the entries of a tensor."""
        return self._shadows.get(id(x)) if isinstance(x, Tensor) else None

    def neurons(self, x: Any, dim: int) -> Tensor:
        """Neurons [n] along a dimension; inputs that no layer has seen become nodes."""
        shadow = self.shadow(x)
        if shadow is None or not shadow.neurons:
            raise self.refused("a layer whose input is no activation")
        ids = shadow.ids.movedim(dim, -1)
        first = ids.reshape(-1, ids.shape[-1])[0]
        if not bool((ids == first).all()):
            raise self.refused("a layer along a dimension that holds other things than its neurons")
        if bool((first < 0).all()):
            first = self.builder.group(len(first))
            ids.copy_(first.expand_as(ids))
        elif bool((first < 0).any()):
            raise self.refused("a layer over activations and unseen inputs at once")
        return first.clone()

    def entries(self, p: Any) -> Tensor:
        """Numbers of a parameter's entries, in its shape."""
        shadow = self.shadow(p)
        if shadow is None or shadow.neurons:
            raise self.refused("a weight that is no parameter, nor a view of one")
        return shadow.ids

    # -- calls --------------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            name = str(getattr(getattr(func, "__self__", None), "__name__", name))
            if name in ("T", "mT", "data"):
                return self._move(func, args, kwargs)
            return func(*args, **kwargs)
        held = [shadow for x in _tensors((args, kwargs)) if (shadow := self.shadow(x))]
        if not held or name in ASKS:
            return func(*args, **kwargs)
        if name in LAYERS:
            return LAYERS[name](self, func, *args, **kwargs)
        if name in MOVES:
            return self._move(func, args, kwargs)
        if name in KEEPS:
            return self._keep(func, args, kwargs)
        if name in POOLS:
            channels = self.neurons(args[0], 1)
            result = func(*args, **kwargs)
            self.channels(result, channels)
            return result
        if name in REDUCES:
            return self._reduce(func, args, kwargs)
        if name in ADDS or name in SCALES:
            return self._combine(func, args, kwargs, name in ADDS)
        result = func(*args, **kwargs)
        if not list(_tensors(result)):
            return result
        raise self.refused(f"{name} on activations")

    def channels(self, result: Tensor, channels: Tensor) -> None:
        """Note that the second dimension of a result holds these neurons."""
        self.note(result, channels.view(-1, *[1] * (result.dim() - 2)).expand(result.shape).clone())

    def last(self, result: Tensor, neurons: Tensor) -> None:
        """Note that the last dimension of a result holds these neurons."""
        self.note(result, neurons.expand(result.shape).clone())

    def _keep(self, func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["input"]
        shadow = self.shadow(x)
        if shadow is None:
            raise self.refused(f"{func.__name__} with an activation beside its input")
        if "dropout" in func.__name__:
            return x
        result = func(*args, **kwargs)
        if result is not x:
            self.note(result, shadow.ids.expand(result.shape), shadow.neurons)
        return result

    def _move(self, func: Any, args: Any, kwargs: Any) -> Any:
        kinds = {shadow.neurons for x in _tensors((args, kwargs)) if (shadow := self.shadow(x))}
        result = func(*args, **kwargs)
        if not kinds:
            return result
        moved = func(*self._swapped(args), **self._swapped(kwargs))
        for value, ids in zip(_tensors(result), _tensors(moved), strict=True):
            self.note(value, ids, neurons=True in kinds)
        return result

    def _swapped(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            shadow = self.shadow(x)
            return x if shadow is None else shadow.ids
        if isinstance(x, dict):
            return {name: self._swapped(value) for name, value in x.items()}
        return type(x)(self._swapped(v) for v in x) if type(x) in (tuple, list) else x

    def _reduce(self, func: Any, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["input"]
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False))
        shadow = self.shadow(x)
        if shadow is None or not shadow.neurons:
            raise self.refused(f"{func.__name__} of a parameter")
        dims = tuple(range(x.dim())) if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
        low, high = shadow.ids.amin(dims, keep), shadow.ids.amax(dims, keep)
        if not bool((low == high).all()):
            raise self.refused(f"{func.__name__} over neurons")
        result = func(*args, **kwargs)
        self.note(result, low)
        return result

    def _combine(self, func: Any, args: Any, kwargs: Any, adds: bool) -> Any:
        """Sums and products of two."""
        x, other = (*args, *(kwargs[n] for n in ("input", "other") if n in kwargs))[:2]
        a, b = self.shadow(x), self.shadow(other)
        result = func(*args, **kwargs)
        if a is None or b is None:
            one = a or b
            assert one is not None
            self.note(result, one.ids.expand(result.shape).clone(), one.neurons)
            return result
        if not a.neurons and not b.neurons:
            raise self.refused("a parameter computed from others")
        if a.neurons and b.neurons:
            if not adds:
                raise self.refused("a product of two activations")
            self.note(result, self._join(a.ids.expand(result.shape), b.ids.expand(result.shape)))
            return result
        act, par = (a, b) if a.neurons else (b, a)
        if bool((act.ids < 0).any()):
            self.neurons(act.of, -1)
        self.attach(act.ids.expand(result.shape), par.ids.expand(result.shape), None if adds else Kind.SCALE)
        self.note(result, act.ids.expand(result.shape).clone())
        return result

    def attach(self, neurons: Tensor, entries: Tensor, kind: Kind | None) -> None:
        """Edges of parameters that belong to single neurons, entry by entry; see `Builder.rows`."""
        try:
            self.builder.rows(neurons.flatten(), entries.flatten(), kind)
        except ValueError as error:
            raise self.refused(str(error)) from None

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        """Neurons of a sum: those that were made later."""
        pairs = torch.unique(torch.stack([a.flatten(), b.flatten()], 1), dim=0)
        pairs = pairs[(pairs >= 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
        for one, others, kept in ((0, 1, a), (1, 0, b)):
            if len(pairs) and self.positions.issuperset(pairs[:, others].tolist()):
                self.builder.identify(pairs[:, one], pairs[:, others])
                return kept.clone()
        self.builder.link(pairs.amin(1), pairs.amax(1), Kind.RESIDUAL)
        return torch.maximum(a, b)


def _tensors(x: Any) -> Iterable[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        for value in x.values():
            yield from _tensors(value)
    elif isinstance(x, tuple | list):
        for value in x:
            yield from _tensors(value)
