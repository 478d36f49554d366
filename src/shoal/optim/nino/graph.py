"""Neural graphs: neurons are nodes, weights are edges.

An edge has a feature for each of its weights ("slots": one, or as many as a kernel has entries), and a kind. Nodes have
eigenvectors of the normalised Laplacian of the graph, its edges taken without directions and values.

Eigenvectors belong to a graph only as far as its symmetries leave them in place: neurons of one layer are
interchangeable, and within their eigenspaces any basis is as good as another. Those that are kept are the ones that are
equal on all nodes that look alike (the coarsest equitable partition that refines the layers), which are eigenvectors of
a matrix with a row a class of nodes: forecasts commute with permutations of neurons, and large models cost nothing.
Signs are fixed by the first entry that is not 0, and drawn at random in training.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

KINDS = 15


class Kind(IntEnum):
    """Kinds of edges; numbers that are not listed are reserved."""

    LINEAR = 1
    BIAS = 2
    CONVOLUTION = 3
    SCALE = 4
    TOKEN = 5
    POSITION = 6
    QUERY = 7
    KEY = 8
    VALUE = 9
    RESIDUAL = 10
    HEAD = 11
    LOOP = 13


@dataclass(frozen=True)
class NeuralGraph:
    """A model as a graph of N nodes and E edges with S slots, over a flat vector of P parameters.

    Attributes:
        source, target: nodes int64 [E]; edges are sorted by target.
        kind: of edges int64 [E].
        weights: int64 [E, S], numbers of the parameters in the slots; P where there is none.
        fixed: float32 [E], feature of the first slot of edges without parameters: 1 of residuals and heads, 2 of loops.
        place: int64 [P], edge S + slot from which a parameter's forecast is taken.
        degree: edges that end at each node, int64 [N].
        positions: float32 [N, Q] Laplacian eigenvectors by ascending eigenvalue, the first left out; 0 beyond the last.
        token: int64 [N], number of the token from 1, 0 of other nodes.
        layer: int64 [N]; nodes that were made together have one number.
        names, sizes: of the parameters' tensors, in the order of the vector.
    """

    source: Tensor
    target: Tensor
    kind: Tensor
    weights: Tensor
    fixed: Tensor
    place: Tensor
    degree: Tensor
    positions: Tensor
    token: Tensor
    layer: Tensor
    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def nodes(self) -> int:
        """N."""
        return len(self.degree)

    @property
    def edges(self) -> int:
        """E."""
        return len(self.source)

    @property
    def slots(self) -> int:
        """S."""
        return self.weights.shape[1]

    def features(self, states: Tensor) -> Tensor:
        """States [P, B, c] as features [E, B, S, c]."""
        padded = torch.cat([states, states.new_zeros(1, *states.shape[1:])])
        features: Tensor = padded[self.weights.flatten()].unflatten(0, self.weights.shape).transpose(1, 2)
        features[:, :, 0] += self.fixed.to(states.dtype).view(-1, 1, 1)
        return features

    def parameters(self, values: Tensor) -> Tensor:
        """Values [E, B, S, ...] of the slots as those of the parameters, [P, B, ...]."""
        return values.transpose(1, 2).flatten(0, 1).index_select(0, self.place)

    def to(self, device: torch.device | str) -> NeuralGraph:
        """The graph on a device."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: x.to(device) for name, x in held.items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def classes(source: Tensor, target: Tensor, layer: Tensor) -> Tensor:
    """Numbers [N] of the classes of the coarsest equitable partition that refines `layer`.

    Nodes of one class have equally many neighbours in each class.
    """
    colour: Tensor = torch.unique(layer, return_inverse=True)[1]
    ends, others = torch.cat([source, target]), torch.cat([target, source])
    while True:
        count = int(colour.max()) + 1
        seen = torch.zeros(len(layer) * count, dtype=torch.int64)
        seen.index_put_((ends * count + colour[others],), torch.ones_like(ends), accumulate=True)
        _, finer = torch.unique(torch.cat([colour[:, None], seen.view(-1, count)], 1), dim=0, return_inverse=True)
        if int(finer.max()) + 1 == count:
            return colour
        colour = finer


def eigenvectors(source: Tensor, target: Tensor, layer: Tensor, count: int) -> Tensor:
    """Eigenvectors float32 [N, count] of the normalised Laplacian that are equal on all nodes of a class.

    Args:
        source, target: edges int64 [E]; directions, repetitions and loops do not count.
        layer: int64 [N], the partition that the classes refine.
        count: how many, after the one of the lowest eigenvalue; columns are 0 where there are no more.
    """
    nodes = len(layer)
    low, high = torch.minimum(source, target), torch.maximum(source, target)
    pairs = torch.unique((low * nodes + high)[low != high])
    low, high = pairs // nodes, pairs % nodes
    degree = torch.bincount(torch.cat([low, high]), minlength=nodes).double()
    colour = classes(low, high, layer)
    number = int(colour.max()) + 1
    size = torch.bincount(colour, minlength=number).double()
    shared = (degree[low] * degree[high]).rsqrt()
    links = torch.zeros(number * number, dtype=torch.float64)
    links.index_put_((colour[low] * number + colour[high],), shared, accumulate=True)
    links = links.view(number, number)
    links = links + links.T
    _, vectors = torch.linalg.eigh(torch.eye(number, dtype=torch.float64) - links * (size[:, None] * size).rsqrt())
    kept = vectors[:, 1 : count + 1]
    first = (kept.abs() > 1e-6).int().argmax(0)
    kept = kept * kept.gather(0, first[None]).sign() * size.rsqrt()[:, None]
    result = torch.zeros(nodes, count)
    result[:, : kept.shape[1]] = kept[colour].float()
    return result
