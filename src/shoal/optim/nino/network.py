"""Networks that forecast parameters: NiNo's, a graph network over neurons, and WNN+, which looks at each by itself.

NiNo's: edge and node features are projected to a width; in each layer of message passing

    m_ij = a(e_ij) * W [x_i, x_j] + b(e_ij)        x_i <- silu(U V [x_i, mean_j m_ij])
    e_ij <- F silu(D e_ij + S x_j + T x_i)

over the edges j -> i (principal neighbourhood aggregation with the mean alone, messages modulated by edges, a, b, U ...
linear), and two linear layers make of each edge K residuals a slot, to be added to the parameters' last state.

WNN+: a linear layer on a parameter's own states, three with SiLU, and one to K residuals.

B. Knyazev, A. Moudgil, G. Lajoie, E. Belilovsky, S. Lacoste-Julien, "Accelerating Training with Neuron Interaction and
Nowcasting Networks", arXiv:2409.04434 (2024).

Choices. All layers update the edges: in the authors' code the last one updates nodes alone, which the residuals do not
look at. Both networks know the kind of the edge by an embedding. Features of tokens are optional (`vocabulary`).
Weights begin with variance 1 / inputs, the last ones with less, so that residuals begin small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.optim.nino.graph import KINDS, NeuralGraph


@dataclass(frozen=True)
class Shape:
    """What a network takes and gives.

    Attributes:
        states: c, states it looks at.
        horizon: K, states it forecasts.
        width: of hidden features.
        layers: of message passing.
        slots: weights of an edge at most.
        positions: Laplacian eigenvectors of a node.
        vocabulary: tokens that have features of their own; others share one, and with 0 all have none.
    """

    states: int = 5
    horizon: int = 40
    width: int = 128
    layers: int = 3
    slots: int = 9
    positions: int = 8
    vocabulary: int = 0

    def __post_init__(self) -> None:
        least = {"states": 2, "horizon": 1, "width": 1, "layers": 1, "slots": 1, "positions": 1, "vocabulary": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}: got {value!r}; a whole number >= {low} is allowed")


class Nowcaster(nn.Module):
    """Base: scaled states of a model in, residuals out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, graph: NeuralGraph, states: Tensor, k: int | None = None, signs: Tensor | None = None) -> Tensor:
        """Residuals of the parameters, in scaled units.

        Args:
            graph: of the models.
            states: scaled, [P, B, c] of B models.
            k: which residual, 1 to K; all of them if None.
            signs: 1 or -1 for each eigenvector, [positions].

        Returns:
            [P, B], or [P, B, K].

        Raises:
            ValueError: there are not c states.
        """
        raise NotImplementedError

    def _check(self, states: Tensor) -> None:
        if states.shape[-1] != self.shape.states:
            raise ValueError(f"states: got {states.shape[-1]} of each parameter; {self.shape.states} are allowed")


class Messages(nn.Module):
    """One layer of message passing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.target, self.source = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.update, self.out = nn.Linear(2 * width, width), nn.Linear(width, width)
        self.edge = nn.Linear(width, width)
        self.edge_source, self.edge_target = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.edge_out = nn.Linear(width, width)

    def forward(self, graph: NeuralGraph, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes [N, B, width] and edges [E, B, width] after it."""
        scale, shift = self.modulation(e).chunk(2, -1)
        ends = self.target(x).index_select(0, graph.target) + self.source(x).index_select(0, graph.source)
        messages = scale * ends + shift
        x = F.silu(self.out(self.update(torch.cat([x, mean_at_target(graph, messages)], -1))))
        e = self.edge(e) + self.edge_source(x).index_select(0, graph.source)
        return x, self.edge_out(F.silu(e + self.edge_target(x).index_select(0, graph.target)))


def mean_at_target(graph: NeuralGraph, messages: Tensor) -> Tensor:
    """The mean [N, B, width] of the messages [E, B, width] that reach each node; 0 where there are none."""
    total = messages.new_zeros(graph.nodes, *messages.shape[1:]).index_add(0, graph.target, messages)
    return total / graph.degree.clamp(min=1).view(-1, 1, 1)


class GraphNowcaster(Nowcaster):
    """NiNo's network."""

    def __init__(self, shape: Shape | None = None) -> None:
        shape = shape or Shape()
        super().__init__(shape)
        width = shape.width
        self.kinds = nn.Embedding(KINDS, width)
        self.edges = nn.Linear(shape.slots * shape.states, width)
        self.nodes = nn.Linear(shape.positions, width)
        self.tokens = nn.Embedding(shape.vocabulary + 1, width) if shape.vocabulary else None
        self.layers = nn.ModuleList(Messages(width) for _ in range(shape.layers))
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, shape.slots * shape.horizon)
        _initialise(self)
        nn.init.normal_(self.edges.weight, std=shape.states**-0.5)  # most edges have one slot
        nn.init.normal_(self.nodes.weight)  # eigenvectors have the length 1, their entries are small

    def forward(self, graph: NeuralGraph, states: Tensor, k: int | None = None, signs: Tensor | None = None) -> Tensor:
        """Residuals of the parameters, in scaled units; see `Nowcaster`."""
        self._check(states)
        used, shape = graph.slots, self.shape
        features = graph.features(states).flatten(2)
        e = F.linear(features, self.edges.weight[:, : features.shape[2]], self.edges.bias)
        e = e + self.kinds(graph.kind)[:, None]
        x = self.nodes((graph.positions if signs is None else graph.positions * signs).to(e.dtype))
        if self.tokens is not None:
            x = x + self.tokens(torch.where(graph.token <= shape.vocabulary, graph.token, 0))
        x = x[:, None].expand(-1, states.shape[1], -1)
        for layer in self.layers:
            x, e = layer(graph, x, e)
        e = F.silu(self.hidden(e))
        weight = self.out.weight.view(shape.slots, shape.horizon, -1)[:used]
        bias = self.out.bias.view(shape.slots, shape.horizon)[:used]
        if k is not None:
            return graph.parameters(F.linear(e, weight[:, k - 1], bias[:, k - 1]))
        return graph.parameters(F.linear(e, weight.flatten(0, 1), bias.flatten()).unflatten(2, (used, -1)))


class SingleNowcaster(Nowcaster):
    """WNN+: no graph, each parameter by itself."""

    def __init__(self, shape: Shape | None = None) -> None:
        shape = shape or Shape()
        super().__init__(shape)
        width = shape.width
        self.kinds = nn.Embedding(KINDS, width)
        self.first = nn.Linear(shape.states, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, shape.horizon)
        _initialise(self)

    def forward(self, graph: NeuralGraph, states: Tensor, k: int | None = None, signs: Tensor | None = None) -> Tensor:
        """Residuals of the parameters, in scaled units; see `Nowcaster`."""
        self._check(states)
        kind = graph.kind[graph.place // graph.slots]
        h = self.first(states) + self.kinds(kind)[:, None]
        for layer in self.hidden:
            h = F.silu(layer(h))
        if k is not None:
            return F.linear(h, self.out.weight[k - 1], self.out.bias[k - 1])
        return self.out(h)  # type: ignore[no-any-return]


def _initialise(network: GraphNowcaster | SingleNowcaster) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    nn.init.normal_(network.out.weight, std=0.02)


NETWORKS: dict[str, type[Nowcaster]] = {"graph": GraphNowcaster, "single": SingleNowcaster}


def check(network: Nowcaster) -> None:
    """Refuse a network of this module that is not as its `shape` says.

    Raises:
        ValueError: a tensor has another shape.
    """
    if type(network) not in NETWORKS.values():
        return
    with torch.device("meta"):
        wanted = {name: tuple(x.shape) for name, x in type(network)(network.shape).state_dict().items()}
    found = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    for name in wanted | found:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"nowcaster: got one with {name} {found.get(name)}; {wanted.get(name)} is allowed for {network.shape}"
            )
