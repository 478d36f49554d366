"""L-GreCo: every layer at a compression level of its own, for the fewest bytes at no larger error than a uniform level.

    every so often:  G_l = mean of what this sender encoded in the last messages
                     err[l, c] = ||C_c(G_l) - G_l||,   size[l, c] = bytes of C_c(G_l)
                     E_max = alpha sum_l err[l, c0]
                     e[l, c] = ceil(err D / E_max), at least 1; a level with err > E_max cannot be had
                     DP[l, b] = min_c DP[l - 1, b - e[l, c]] + size[l, c];   the cheapest b <= D, traced back

M. Alimohammadi, I. Markov, E. Frantar, D. Alistarh, "L-GreCo: Layerwise-Adaptive Gradient Compression for Efficient and
Accurate Deep Learning", 2022 (arXiv 2210.17357). Layers are the tensors of two and more dimensions; the rest is sent as
it is. The levels travel in the payload, so each sender has its own (the authors' workers take those of one).

To round errors up keeps the constraint, but makes the uniform levels themselves too dear for alpha = 1; where the
dynamic programme has no answer or a larger one, the uniform levels are taken. The authors' code reads an empty table
then. If the uniform level loses nothing, so that E_max = 0, the cheapest levels that lose nothing are. Until the first
choice the level is c0; the authors send uncompressed for the first 1,000 steps. Sums are of norms, as in their code.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, Payload, encoded_size
from shoal.tensors.random import derive

Array = NDArray[np.float64]
COUNT, SUM, LEVELS = "messages", "sum", "levels"

FAMILIES: dict[str, tuple[str, str, str, tuple[float, ...], int]] = {
    "fedzip": ("shoal.compression.fedzip", "FedZip", "keep", (0.005, 0.01, 0.02, 0.05, 0.1, 0.2), 3),
    "powersgd": ("shoal.compression.powersgd", "PowerSGD", "rank", (2, 3, 4, 5, 6, 7, 8), 2),
    "qsgd": ("shoal.compression.qsgd", "QSGD", "levels", (1, 3, 7, 15, 31, 63, 127), 2),
    "topk": ("shoal.compression.top_k", "TopK", "density", (0.001, 0.002, 0.005, 0.01, 0.02, 0.05), 3),
}
"""Name -> module, class, the parameter that makes a level, its values, and the place of the default among them."""


@dataclass(frozen=True)
class Layered(Payload):
    """Levels uint8 [layers], a payload for each layer, and the other entries [m] as they are."""

    levels: Tensor
    layers: Content
    rest: Tensor


@dataclass(frozen=True)
class LGreCo(Codec):
    """Chooses for each layer among codecs of one family.

    Attributes:
        levels: the candidates, 2 to 256.
        default: place of the uniform level c0 among them.
        alpha: share of its error that is allowed, above 0.
        every: messages between two choices.
        window: messages that are averaged for a choice; at most `every` count.
        buckets: D, into which errors are rounded up.
        probes: messages by which the error of a codec with a memory is measured.
    """

    levels: tuple[Codec, ...]
    default: int
    alpha: float = 1.0
    every: int = 100
    window: int = 10
    buckets: int = 10_000
    probes: int = 5
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def __post_init__(self) -> None:
        if not 2 <= len(self.levels) <= 256:
            raise ValueError(f"levels: got {len(self.levels)}; 2 to 256 are allowed")
        if not 0 <= self.default < len(self.levels):
            raise ValueError(f"default: got {self.default}; 0 to {len(self.levels) - 1} are allowed")
        if not 0.0 < self.alpha < float("inf"):
            raise ValueError(f"alpha: got {self.alpha}; a number above 0 is allowed")
        for name in ("every", "window", "buckets", "probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; at least 1 is allowed")

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """As one of the levels."""
        return any(codec.draws for codec in self.levels)

    def start(self, layout: Layout, device: torch.device | None = None) -> Memory:
        """Uniform levels, no messages, and what every level remembers of every layer."""
        parts = _parts(layout)
        memory = {
            COUNT: torch.zeros((), dtype=torch.int64, device=device),
            SUM: torch.zeros(layout.size, dtype=layout.dtype, device=device),
            LEVELS: torch.full((len(parts),), self.default, dtype=torch.int64, device=device),
        }
        for l, (_, part) in enumerate(parts):
            for c, codec in enumerate(self.levels):
                memory.update({f"{l}.{c}.{name}": value for name, value in codec.start(part, device).items()})
        return memory

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Choose where it is time to, and encode layer by layer, rows of one level together."""
        after = {name: value.clone() for name, value in memory.items()}
        for i, count in enumerate(memory[COUNT].tolist()):
            if count and count % self.every == 0:
                self._choose(i, after, int(keys[i]), layout)
            if count % self.every >= self.every - self.window:
                after[SUM][i] += rows[i]
        after[COUNT] += 1
        parts = _parts(layout)
        sent: list[list[Content]] = [[None] * len(parts) for _ in rows]
        for l, (where, part) in enumerate(parts):
            for c in after[LEVELS][:, l].unique().tolist():
                chosen = (after[LEVELS][:, l] == c).nonzero()[:, 0]
                prefix = f"{l}.{c}."
                own = {name.removeprefix(prefix): v[chosen] for name, v in after.items() if name.startswith(prefix)}
                payloads, own = self.levels[c].encode_rows(
                    rows[chosen][:, where].contiguous(), own, derive(keys[chosen], l), part
                )
                for name, value in own.items():
                    after[prefix + name][chosen] = value
                for i, payload in zip(chosen.tolist(), payloads, strict=True):
                    sent[i][l] = payload
        others = _others(layout)
        levels = after[LEVELS].to(torch.uint8)
        return [Layered(levels[i].clone(), sent[i], rows[i][others]) for i in range(len(rows))], after

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Layer by layer."""
        parts, others = _parts(layout), _others(layout)
        rows = torch.zeros(len(payloads), layout.size, dtype=layout.dtype)
        for row, payload in zip(rows, payloads, strict=True):
            levels, layers = self._checked(payload, len(parts))
            row[others] = field_of(payload, Layered, "rest", layout.dtype, [int(others.sum())])
            for (where, part), c, layer in zip(parts, levels, layers, strict=True):
                row[where] = self.levels[c].decode(layer, part)
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Those of all layers, and the rest."""
        levels, layers = self._checked(payload, len(_parts(layout)))
        for (_, part), c, layer in zip(_parts(layout), levels, layers, strict=True):
            yield from self.levels[c].streams(layer, part)
        assert isinstance(payload, Layered)
        yield payload.rest

    def _checked(self, payload: Content, count: int) -> tuple[list[int], Sequence[Any]]:
        levels = field_of(payload, Layered, "levels", torch.uint8, [count]).tolist()
        assert isinstance(payload, Layered)
        layers = payload.layers
        if not isinstance(layers, list | tuple) or len(layers) != count:
            raise ValueError(f"payload: got {type(layers).__name__} for the layers; a list of {count} is needed")
        if levels and max(levels) >= len(self.levels):
            raise ValueError(f"payload: a level of {max(levels)}; below {len(self.levels)} is allowed")
        return levels, layers

    def _choose(self, i: int, memory: Memory, key: int, layout: Layout) -> None:
        """New levels for row i, in place; what its codecs remember of layers whose level changed is forgotten."""
        mean = memory[SUM][i] / min(self.window, self.every)
        errors, sizes = self.table(mean, key, layout)
        before = memory[LEVELS][i].tolist()
        chosen = choose(errors, sizes, self.default, self.alpha, self.buckets) or before
        for l, (_, part) in enumerate(_parts(layout)):
            if chosen[l] != before[l]:
                for name, value in self.levels[chosen[l]].start(part, mean.device).items():
                    memory[f"{l}.{chosen[l]}.{name}"][i] = value
        memory[LEVELS][i] = torch.tensor(chosen, dtype=torch.int64, device=mean.device)
        memory[SUM][i] = 0.0

    def table(self, mean: Tensor, key: int, layout: Layout) -> tuple[Array, Array]:
        """Errors and bytes [layers, levels] of a vector [d]."""
        parts = _parts(layout)
        errors, sizes = np.zeros((len(parts), len(self.levels))), np.zeros((len(parts), len(self.levels)))
        for l, (where, part) in enumerate(parts):
            x = mean[where]
            for c, codec in enumerate(self.levels):
                memory = codec.start(part, mean.device)
                payload: Content = None
                for probe in range(self.probes if memory else 1):
                    payload, memory = codec.encode(x, memory, int(derive(key, "probe", l, c, probe)), part)
                errors[l, c] = float((codec.decode(payload, part) - x).double().norm())
                sizes[l, c] = encoded_size(payload)
        return errors, sizes


@lru_cache(maxsize=64)
def _parts(layout: Layout) -> tuple[tuple[slice, Layout], ...]:
    """Where each layer lies, and its layout alone."""
    return tuple(
        (segment.slice, Layout.from_shapes({segment.name: segment.shape}, dtype=layout.dtype))
        for segment in layout
        if len(segment.shape) > 1 and segment.size
    )


def _others(layout: Layout) -> Tensor:
    """Bool [d]: what is in no layer."""
    others = torch.ones(layout.size, dtype=torch.bool)
    for where, _ in _parts(layout):
        others[where] = False
    return others


def choose(errors: Array, sizes: Array, default: int, alpha: float, buckets: int) -> list[int]:
    """The level of each layer; empty if there is no layer, or if alpha < 1 allows none."""
    if not len(errors):
        return []
    budget = alpha * float(errors[:, default].sum())
    if budget == 0.0:
        return [int(c) for c in np.where(errors == 0.0, sizes, np.inf).argmin(1)]
    costs = np.clip(np.ceil(errors * (buckets / budget)), 1, buckets).astype(np.int64)
    costs[errors > budget] = buckets + 1
    size, chosen = knapsack(costs, sizes, buckets)
    if alpha >= 1.0 and size > float(sizes[:, default].sum()):
        return [default] * len(errors)
    return chosen


def knapsack(costs: NDArray[np.int64], sizes: Array, buckets: int) -> tuple[float, list[int]]:
    """The least total size at a total cost of at most `buckets`, and its levels; (inf, []) if there is none.

    Of equally cheap levels the first is taken, of equally cheap totals the one of least cost.
    """
    best = np.full(buckets + 1, np.inf)
    best[0] = 0.0
    taken: list[NDArray[np.intp]] = []
    for own_costs, own_sizes in zip(costs, sizes, strict=True):
        tried = np.full((len(own_costs), buckets + 1), np.inf)
        for c, (cost, size) in enumerate(zip(own_costs.tolist(), own_sizes.tolist(), strict=True)):
            if cost <= buckets:
                tried[c, cost:] = best[: buckets + 1 - cost] + size
        taken.append(tried.argmin(0))
        best = tried.min(0)
    b = int(best.argmin())
    if not np.isfinite(best[b]):
        return float("inf"), []
    size, chosen = float(best[b]), []
    for own_costs, arg in zip(costs[::-1], taken[::-1], strict=True):
        chosen.append(int(arg[b]))
        b -= int(own_costs[chosen[-1]])
    return size, chosen[::-1]


def l_greco(
    family: str = "powersgd", alpha: float = 1.0, every: int = 100, window: int = 10, buckets: int = 10_000
) -> LGreCo:
    """`LGreCo` over a family of `FAMILIES`.

    Raises:
        ValueError: the family is unknown, or a setting is not allowed.
    """
    if family not in FAMILIES:
        raise ValueError(f"family: got {family!r}; allowed are {', '.join(FAMILIES)}")
    module, name, parameter, values, default = FAMILIES[family]
    kind = getattr(importlib.import_module(module), name)
    return LGreCo(tuple(kind(**{parameter: value}) for value in values), default, alpha, every, window, buckets)
