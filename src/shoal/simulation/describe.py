"""What run.json says about an experiment's data and topology."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import torch

from shoal.learning import Shard, Task
from shoal.learning.data import Dataset, label_counts
from shoal.topology import Topology, spectral_gap

MANY = 512  # peers, from which on pictures of them say nothing, and take long
QUICK = 2**15  # peers times rounds of a period, whose spectral gap is known within a second or two


def describe_shards(dataset: Dataset, shards: Sequence[Shard | None]) -> list[list[int]]:
    """Samples of each class that every peer holds; [] without classes or with very many peers."""
    data = next(shard.data for shard in shards if shard is not None)
    if dataset.classes is None or data.targets.dim() != 1 or len(shards) > MANY:
        return []
    nothing = torch.empty(0, dtype=torch.int64)
    rows = [nothing if shard is None else shard.indices for shard in shards]
    return [[int(c) for c in row] for row in label_counts(data.targets.cpu(), rows, dataset.classes)]


def describe_topology(topology: Topology) -> dict[str, Any]:
    """Name, size, period, edges of round 0, whether they go one way, and spectral gap; with very many peers no edges.

    The gap of a topology that changes is per round, over a period; of a very long one it is left out.
    """
    small = topology.n <= MANY
    edges = topology.edges() if small else []
    weights = topology if topology.rounds > 1 else topology.matrix()
    quick = small and topology.rounds * topology.n <= QUICK
    return {
        "name": topology.name,
        "peers": topology.n,
        "edges": [[int(a), int(b)] for a, b in edges],
        "directed": any(a not in topology.neighbours(b) for a, b in edges),
        "spectral_gap": float(spectral_gap(weights)) if quick and topology.n > 1 else None,
        "period": topology.rounds,
    }


def describe_object(value: Any) -> str:
    """An object in a word or two, without its address in memory, which changes from process to process."""
    if isinstance(value, Task | Topology):
        return value.name
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return f"{value.__module__}.{name}"
    return reprlib.repr(value)[:200].split(" at 0x")[0]  # of a long sequence the first few
