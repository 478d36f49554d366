"""Factors of layers' Fisher matrices: mean squares of what goes into a layer and of the gradients of what comes out.

    H = mean of h^2 over samples and positions, h the layer's input, 1 appended if there is a bias
    S = mean of s^2 over samples and positions, s the gradient of the batch's loss with respect to the layer's output
    each is normalised, v <- (v - min v) / (max v - min v + 1e-6); the diagonal is about S x H, the last of H the bias's

The layers are Linear, Conv1d, Conv2d (h are the patches; all groups of channels together), the batch norms and
LayerNorm over one axis (h is the input of the norm, and its diagonal S * H, channel by channel). Subclasses count as
long as they keep the `forward`. What goes through the projections of `nn.MultiheadAttention` passes through no layer:
they have no factors.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.utils.hooks import RemovableHandle

from shoal.optim.core.plan import Memory, compute_dtype

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, *NORMS)
KNOWN = ", ".join(kind.__name__.lstrip("_") for kind in LAYERS)
SMALL = 1e-6


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that have factors, each once; one without a single weight has none."""
    apart = {module.out_proj for _, module in attention(model)}
    return [
        layer
        for layer in model.modules()
        if layer not in apart
        and any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in LAYERS)
        and (weight := getattr(layer, "weight", None)) is not None
        and weight.numel()
        and not (isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1)
    ]


def attention(model: nn.Module) -> list[tuple[str, nn.MultiheadAttention]]:
    """Attention of torch's by name, whose projections are layers that nothing passes through."""
    kind = nn.MultiheadAttention
    return [(n, m) for n, m in model.named_modules() if isinstance(m, kind) and type(m).forward is kind.forward]


def parameters(layer: nn.Module) -> dict[str, Tensor]:
    """The parameters of a layer that have factors, by name."""
    found = {name: layer._parameters.get(name) for name in ("weight", "bias")}
    return {name: p for name, p in found.items() if p is not None}


def inputs(layer: nn.Module, h: Tensor, share: Tensor | None = None) -> Tensor:
    """H without what a bias appends.

    Args:
        layer: one of `layers`.
        h: its input, samples first.
        share: of each sample in the mean [samples]; None: all the same.

    Returns:
        In the shape of one row of the weight; for norms in that of the weight.
    """
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return _patches(layer, h, share)
    return _mean_square(layer, h, share)


def outputs(layer: nn.Module, s: Tensor, share: Tensor | None = None) -> Tensor:
    """S, one number for each row of the weight; arguments as of `inputs`, `s` in the place of `h`."""
    return _mean_square(layer, s, share)


def _mean_square(layer: nn.Module, x: Tensor, share: Tensor | None) -> Tensor:
    """Over all axes but the layer's channels."""
    last = isinstance(layer, nn.Linear | nn.LayerNorm)
    spatial = 0 if last else x.dim() - 2
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        spatial = len(layer.kernel_size)
    rows = x.square() if last else x.square().movedim(-1 - spatial, -1)
    if share is None:
        return rows.reshape(-1, rows.shape[-1]).mean(0)
    return (rows.reshape(rows.shape[0], -1, rows.shape[-1]).mean(1) * share[:, None]).sum(0)


def _patches(layer: nn.Conv1d | nn.Conv2d, h: Tensor, share: Tensor | None) -> Tensor:
    """Mean squares of the patches, [channels of a group, *kernel]."""
    sizes = layer.kernel_size
    squares = F.pad(h, layer._reversed_padding_repeated_twice, mode=_mode(layer)).square()
    if squares.dim() == len(sizes) + 1:  # one sample without its axis
        squares = squares[None]
    squares = squares.mean(0) if share is None else (squares * share.view(-1, *[1] * (squares.dim() - 1))).sum(0)
    means = []
    for offset in itertools.product(*map(range, sizes)):
        part = squares
        for axis, (at, k, step, apart) in enumerate(zip(offset, sizes, layer.stride, layer.dilation, strict=True), 1):
            positions = (squares.shape[axis] - apart * (k - 1) - 1) // step + 1
            start = at * apart
            part = part.narrow(axis, start, (positions - 1) * step + 1)
            part = part[(slice(None),) * axis + (slice(None, None, step),)]
        means.append(part.flatten(1).mean(1))
    return torch.stack(means, 1).view(layer.groups, -1, *sizes).mean(0)


def _mode(layer: nn.Conv1d | nn.Conv2d) -> str:
    return "constant" if layer.padding_mode == "zeros" else layer.padding_mode


def normalised(v: Tensor) -> Tensor:
    """(v - min) / (max - min + 1e-6)."""
    low = v.min()
    return (v - low) / (v.max() - low + SMALL)


def of_parameters(layer: nn.Module, H: Tensor, S: Tensor) -> dict[str, Memory]:
    """What the layer's parameters are given: name -> "inputs" and "outputs", normalised.

    Of the weight they are in the shapes of a row and of a column; of one-dimensional parameters both in their own.
    """
    bias = getattr(layer, "bias", None) is not None
    flat = normalised(torch.cat([H.reshape(-1), H.new_ones(1)]) if bias else H.reshape(-1))
    S = normalised(S)
    found = {"weight": {"inputs": (flat[:-1] if bias else flat).view(H.shape), "outputs": S}}
    if bias:
        found["bias"] = {"inputs": flat[-1] + torch.zeros_like(S), "outputs": S.clone()}
    return found


@dataclass(eq=False)
class Seen:
    """Sums over what went through a layer, in parts as large as they were."""

    rows: int = 0
    H: Tensor | None = None
    S: Tensor | None = None


@dataclass(eq=False)
class Watch:
    """Sees the inputs and output gradients of a model's layers, on each backward pass.

    A layer that is used several times before they are taken has the means over all uses, each weighted by its samples.
    Nothing is seen without gradients, nor what no gradient comes back through.

    Attributes:
        wanted: (layer) -> whether to look at this pass.
        share: of each sample in the means; None: all the same.
    """

    wanted: Callable[[nn.Module], bool] = lambda layer: True
    share: Tensor | None = None
    seen: dict[nn.Module, Seen] = field(default_factory=dict)

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Put hooks on a model's layers. They end with the watch, too; copies of the model do not obey it."""
        return [layer.register_forward_hook(Hook(self)) for layer in layers(model)]

    @torch.no_grad()
    def forward(self, layer: nn.Module, h: Tensor, y: Tensor) -> None:
        """Wait for the gradient of an output."""
        if not y.requires_grad:
            return
        H = inputs(layer, _wide(h), self.share)
        y.register_hook(lambda s: self._arrived(layer, len(h), H, s))

    @torch.no_grad()
    def _arrived(self, layer: nn.Module, rows: int, H: Tensor, s: Tensor) -> None:
        self.add(layer, rows, H, outputs(layer, _wide(s), self.share))

    def add(self, layer: nn.Module, rows: int, H: Tensor, S: Tensor) -> None:
        """Take in both means of one use."""
        seen = self.seen.setdefault(layer, Seen())
        seen.H = H * rows if seen.H is None else seen.H + H * rows
        seen.S = S * rows if seen.S is None else seen.S + S * rows
        seen.rows += rows

    def take(self) -> Iterator[tuple[nn.Module, dict[str, Memory]]]:
        """For each layer that was seen what its parameters are given. Forgets it."""
        seen, self.seen = self.seen, {}
        for layer, sums in seen.items():
            assert sums.H is not None
            assert sums.S is not None
            yield layer, self.normalise(layer, sums.H / sums.rows, sums.S / sums.rows)

    def normalise(self, layer: nn.Module, H: Tensor, S: Tensor) -> dict[str, Memory]:
        """`of_parameters`."""
        return of_parameters(layer, H, S)


def by_parameter(found: Iterable[tuple[nn.Module, dict[str, Memory]]]) -> dict[Tensor, Memory]:
    """What each parameter of layers is given; one that several of them share has the mean."""
    several: dict[Tensor, list[Memory]] = {}
    for layer, factors in found:
        for name, p in parameters(layer).items():
            several.setdefault(p, []).append(factors[name])
    return {
        p: {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]} if parts[1:] else parts[0]
        for p, parts in several.items()
    }


class Hook:
    """Tells a watch, while there is one, of what goes through a layer. A copy tells nobody."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = (lambda: None) if watch is None else weakref.ref(watch)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Hook, ())

    @_disable_dynamo
    def __call__(self, layer: nn.Module, args: tuple[Any, ...], y: Any) -> None:
        """After a layer's forward pass."""
        watch = self._watch()
        if watch is not None and args and torch.is_grad_enabled() and watch.wanted(layer):
            watch.forward(layer, args[0].detach(), y)


def _wide(x: Tensor) -> Tensor:
    return x.to(compute_dtype(x.dtype))
