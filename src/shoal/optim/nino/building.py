"""A neural graph, put together edge by edge."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shoal.optim.nino.graph import Kind, NeuralGraph, eigenvectors


@dataclass
class Block:
    """Edges of one kind: ends [E], numbers of weights [E, S] (-1: none), and the feature of those without."""

    source: Tensor
    target: Tensor
    kind: Kind
    weights: Tensor
    fixed: float = 0.0


@dataclass
class Builder:
    """Nodes and edges so far.

    Attributes:
        slots: weights of an edge at most; larger kernels take several edges side by side.
    """

    slots: int
    blocks: list[Block] = field(default_factory=list)
    layer: list[Tensor] = field(default_factory=list)
    count: int = 0
    same: dict[int, int] = field(default_factory=dict)
    token: dict[int, int] = field(default_factory=dict)
    keys: set[int] = field(default_factory=set)

    def group(self, size: int) -> Tensor:
        """New nodes, alike at first."""
        self.layer.append(torch.full((size,), len(self.layer)))
        self.count += size
        return torch.arange(self.count - size, self.count)

    def dense(self, source: Tensor, target: Tensor, weights: Tensor, kind: Kind) -> None:
        """Edges from each source to each target; a source that occurs m times has m kernels in each of its edges.

        Args:
            source: nodes [I]; target: nodes [O].
            weights: numbers of the parameters [O, I, S].
            kind: of the edges.
        """
        unique, inverse, counts = torch.unique(source, return_inverse=True, return_counts=True)
        order = torch.argsort(inverse, stable=True)
        starts = torch.cumsum(counts, 0) - counts
        for m in torch.unique(counts).tolist():
            chosen = torch.nonzero(counts == m)[:, 0]
            rows = order[starts[chosen][:, None] + torch.arange(m)]
            kernels = weights[:, rows].flatten(2)  # [O, U, m S]
            for part in kernels.split(self.slots, dim=2):
                ends = torch.cartesian_prod(target, unique[chosen])
                self.blocks.append(Block(ends[:, 1], ends[:, 0], kind, part.flatten(0, 1)))

    def rows(self, target: Tensor, weights: Tensor, kind: Kind | None) -> int:
        """Edges of parameters that belong to single neurons: one new node for each parameter of a neuron.

        Args:
            target: nodes [n]; weights: numbers of the parameters [n], repetitions of a pair do not count.
            kind: of the edges; None: of a bias, or of positions if there are several to a neuron.

        Returns:
            How many parameters a neuron has.

        Raises:
            ValueError: a parameter belongs to several neurons.
        """
        pairs = torch.unique(torch.stack([target, weights], 1), dim=0)
        if len(torch.unique(pairs[:, 1])) < len(pairs):
            raise ValueError("a parameter that several neurons share")
        _, inverse, counts = torch.unique(pairs[:, 0], return_inverse=True, return_counts=True)
        rank = torch.arange(len(pairs)) - (torch.cumsum(counts, 0) - counts)[inverse]
        number = int(counts.max())
        if kind is None:
            kind = Kind.BIAS if number == 1 else Kind.POSITION
        nodes = self.group(number)
        self.blocks.append(Block(nodes[rank], pairs[:, 0], kind, pairs[:, 1:]))
        return number

    def link(self, source: Tensor, target: Tensor, kind: Kind) -> None:
        """Edges without parameters."""
        pairs = torch.unique(torch.stack([source, target], 1), dim=0)
        if len(pairs):
            self.blocks.append(Block(pairs[:, 0], pairs[:, 1], kind, torch.full((len(pairs), 1), -1), 1.0))

    def identify(self, nodes: Tensor, others: Tensor) -> None:
        """Let `others` be the same nodes as `nodes`."""
        self.same |= {b: a for a, b in zip(nodes.tolist(), others.tolist(), strict=True) if a != b}

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Let neurons [H, n] be queries, keys and values of H heads.

        Keys are the same nodes as queries, and their weights lead back to where they come from. Each head is a node
        with edges to its queries and values.
        """
        roles = ((query, Kind.QUERY), (key, Kind.KEY), (value, Kind.VALUE))
        for block in self.blocks:
            for nodes, kind in roles:
                if block.kind is Kind.LINEAR and bool(torch.isin(block.target, nodes).all()):
                    block.kind = kind
        split = []
        for block in self.blocks:  # projections of all three in one matrix
            inside = [torch.isin(block.target, nodes) for nodes, _ in roles]
            if block.kind is not Kind.LINEAR or not any(bool(part.any()) for part in inside):
                split.append(block)
                continue
            left = torch.ones_like(block.target, dtype=torch.bool)
            for part, (_, kind) in zip(inside, roles, strict=True):
                split.append(Block(block.source[part], block.target[part], kind, block.weights[part]))
                left &= ~part
            split.append(Block(block.source[left], block.target[left], Kind.LINEAR, block.weights[left]))
        self.blocks = [block for block in split if len(block.source)]
        heads = self.group(len(query))
        for nodes in (query, value):
            self.link(heads[:, None].expand_as(nodes).flatten(), nodes.flatten(), Kind.HEAD)
        self.identify(query.flatten(), key.flatten())

    def finish(self, names: tuple[str, ...], sizes: tuple[int, ...], positions: int) -> NeuralGraph:
        """The graph.

        Args:
            names, sizes: of the parameters' tensors.
            positions: eigenvectors of each node.

        Raises:
            ValueError: a parameter has no edge.
        """
        total = sum(sizes)
        used = max(block.weights.shape[1] for block in self.blocks)
        parts: dict[str, list[Tensor]] = {"source": [], "target": [], "kind": [], "weights": [], "fixed": []}
        for block in self.blocks:
            ends = (block.source, block.target) if block.kind is not Kind.KEY else (block.target, block.source)
            width = block.weights.shape[1]
            parts["source"].append(ends[0])
            parts["target"].append(ends[1])
            parts["kind"].append(torch.full_like(ends[0], int(block.kind)))
            parts["weights"].append(torch.nn.functional.pad(block.weights, (0, used - width), value=-1))
            parts["fixed"].append(torch.full(ends[0].shape, block.fixed))
        source, target, kind, weights, fixed = (torch.cat(part) for part in parts.values())
        root = torch.arange(self.count)
        for b, a in self.same.items():
            while a in self.same:
                a = self.same[a]
            root[b] = a
        present, inverse = torch.unique(root[torch.cat([source, target])], return_inverse=True)
        source, target = inverse[: len(source)], inverse[len(source) :]
        layer = torch.cat(self.layer)[present]
        token = torch.zeros(self.count, dtype=torch.int64)
        for node, number in self.token.items():
            token[node] = number
        eigen = eigenvectors(source, target, layer, positions)
        nodes = torch.arange(len(present))
        source, target = torch.cat([source, nodes]), torch.cat([target, nodes])
        kind = torch.cat([kind, torch.full_like(nodes, int(Kind.LOOP))])
        weights = torch.cat([weights, torch.full((len(nodes), used), -1)])
        fixed = torch.cat([fixed, torch.full(nodes.shape, 2.0)])
        order = torch.argsort(target, stable=True)
        source, target, kind, weights, fixed = (part[order] for part in (source, target, kind, weights, fixed))
        return NeuralGraph(
            source=source,
            target=target,
            kind=kind,
            weights=torch.where(weights < 0, total, weights),
            fixed=fixed,
            place=_places(weights, names, sizes),
            degree=torch.bincount(target, minlength=len(present)),
            positions=eigen,
            token=token[present],
            layer=layer,
            names=names,
            sizes=sizes,
        )


def _places(weights: Tensor, names: tuple[str, ...], sizes: tuple[int, ...]) -> Tensor:
    """Where each parameter is in [E, S]: the first place, of shared ones."""
    flat, total = weights.flatten(), sum(sizes)
    slots = torch.nonzero(flat >= 0)[:, 0]
    place = torch.full((total,), len(flat))
    place.scatter_reduce_(0, flat[slots], slots, "amin")
    at = 0
    for name, size in zip(names, sizes, strict=True):
        if bool((place[at : at + size] == len(flat)).any()):
            raise ValueError(f"model: parameter {name} takes no part in its output")
        at += size
    return place
