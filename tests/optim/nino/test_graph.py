"""Neural graphs: edges by hand, Laplacian eigenvectors against networkx and NumPy, what is refused."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.optim.nino import Kind, NeuralGraph, neural_graph
from shoal.optim.nino.graph import classes, eigenvectors
from tests.optim.nino.models import MODELS, Residual, Transformer, perceptron

every = pytest.mark.parametrize("name", MODELS)


def made(name: str, **settings: Any) -> tuple[nn.Module, NeuralGraph]:
    make, example, _ = MODELS[name]
    model = make()
    return model, neural_graph(model, example, **settings)


def of(graph: NeuralGraph, kind: Kind) -> list[tuple[int, int, list[int]]]:
    """(Source, target, weights) of the edges of a kind."""
    total = sum(graph.sizes)
    return sorted(
        (int(s), int(t), [i for i in w.tolist() if i < total])
        for s, t, w, k in zip(graph.source, graph.target, graph.weights, graph.kind, strict=True)
        if k == kind
    )


def numbers(model: nn.Module) -> dict[str, Tensor]:
    """Numbers of the entries of each parameter."""
    result, at = {}, 0
    for name, p in model.named_parameters():
        result[name] = torch.arange(at, at + p.numel()).view(p.shape)
        at += p.numel()
    return result


def test_the_edges_of_two_linear_layers_are_those_by_hand() -> None:
    graph = neural_graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)), torch.zeros(1, 2))
    # nodes: inputs 0, 1; hidden 2, 3, 4; their bias 5; output 6. Entries: weights 0 to 5, biases 6 to 8, then 9 to 11
    assert of(graph, Kind.LINEAR) == [
        *((0, 2, [0]), (0, 3, [2]), (0, 4, [4]), (1, 2, [1]), (1, 3, [3]), (1, 4, [5])),
        *((2, 6, [9]), (3, 6, [10]), (4, 6, [11])),
    ]
    assert of(graph, Kind.BIAS) == [(5, 2, [6]), (5, 3, [7]), (5, 4, [8])]
    assert of(graph, Kind.LOOP) == [(i, i, []) for i in range(7)]
    assert graph.fixed[graph.kind == Kind.LOOP].tolist() == [2.0] * 7
    assert graph.degree.tolist() == torch.bincount(graph.target).tolist()


@every
def test_features_hold_every_parameter_once_and_give_it_back(name: str) -> None:
    model, graph = made(name)
    assert graph.names == tuple(name for name, _ in model.named_parameters())
    states = torch.randn(sum(graph.sizes), 2, 5)
    features = graph.features(states)
    assert features.shape == (graph.edges, 2, graph.slots, 5)
    assert torch.equal(graph.parameters(features), states)
    own = graph.weights < sum(graph.sizes)
    assert int(own.sum()) == sum(graph.sizes)
    assert bool((features.transpose(1, 2)[~own][:, 0, 0] != 0).sum() == (graph.fixed != 0).sum())


def test_kernels_are_slots_and_larger_ones_take_several_edges() -> None:
    model, graph = made("residual")
    entries = numbers(model)
    edges = of(graph, Kind.CONVOLUTION)
    for name, count in (("first.weight", 1), ("second.weight", 3)):
        weight = entries[name]
        for o in range(4):
            for i in range(weight.shape[1]):
                own = [w for _, _, w in edges if w[0] in weight[o, i]]
                assert len(own) == count
                assert sorted(x for w in own for x in w) == weight[o, i].flatten().tolist()
    assert graph.slots == 9


def test_a_flattened_image_enters_by_one_edge_a_channel_with_its_positions_as_slots() -> None:
    model, graph = made("residual")
    weight = numbers(model)["out.weight"].view(3, 4, 9)
    assert sorted(w for _, _, w in of(graph, Kind.LINEAR)) == sorted(weight.flatten(0, 1).tolist())
    assert len({s for s, _, _ in of(graph, Kind.LINEAR)}) == 4


def test_a_connection_around_a_convolution_has_an_edge_a_channel_without_parameters() -> None:
    _, graph = made("residual")
    edges = of(graph, Kind.RESIDUAL)
    assert [w for _, _, w in edges] == [[]] * 4
    inner = {t for s, t, _ in of(graph, Kind.CONVOLUTION) if s in {s for s, _, _ in edges}}
    assert {t for _, t, _ in edges} == inner
    assert graph.fixed[graph.kind == Kind.RESIDUAL].tolist() == [1.0] * 4


def test_norms_have_a_node_for_scales_and_one_for_biases() -> None:
    model, graph = made("residual")
    entries = numbers(model)
    edges = of(graph, Kind.SCALE)
    assert sorted(w[0] for _, _, w in edges) == sorted(torch.cat([entries[f"norm{i}.weight"] for i in (1, 2)]).tolist())
    assert len({s for s, _, _ in edges}) == 2
    biases = of(graph, Kind.BIAS)
    assert len({s for s, _, _ in biases}) == 4  # of a convolution, two norms, the output


def test_attention_has_shared_neurons_of_queries_and_keys_and_a_node_a_head() -> None:
    model, graph = made("transformer")
    weight = numbers(model)["qkv.weight"]
    query, key, value = (of(graph, kind) for kind in (Kind.QUERY, Kind.KEY, Kind.VALUE))
    assert sorted(w[0] for _, _, w in query) == weight[:6].flatten().tolist()
    assert sorted(w[0] for _, _, w in key) == weight[6:12].flatten().tolist()
    assert sorted(w[0] for _, _, w in value) == weight[12:].flatten().tolist()
    of_weight = {w[0]: (s, t) for edges in (query, key, value) for s, t, w in edges}
    for o in range(6):
        for i in range(6):  # keys lead back: from the neuron that the query leads to, to the stream
            assert of_weight[int(weight[6 + o, i])] == of_weight[int(weight[o, i])][::-1]
    heads = of(graph, Kind.HEAD)
    for head in (0, 1):
        rows = [int(r) for part in (0, 12) for r in weight[part + 3 * head : part + 3 * head + 3, 0]]
        ends = {of_weight[r][1] for r in rows}
        assert len({s for s, t, _ in heads if t in ends}) == 1
    assert len(heads) == 12


def test_tokens_and_positions_are_nodes_over_the_same_stream() -> None:
    model, graph = made("transformer")
    tokens, positions = of(graph, Kind.TOKEN), of(graph, Kind.POSITION)
    assert {t for _, t, _ in tokens} == {t for _, t, _ in positions}
    assert (len({s for s, _, _ in tokens}), len({s for s, _, _ in positions})) == (7, 3)
    embed = numbers(model)["embed.weight"]
    for source, _, weights in tokens:
        assert weights[0] in embed[graph.token[source] - 1]
    assert sorted(graph.token[graph.token > 0].tolist()) == [1, 2, 3, 4, 5, 6, 7]


def test_multihead_attention_and_an_encoder_layer_are_known() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    graph = neural_graph(layer, torch.zeros(1, 5, 8))
    counts = {kind: len(of(graph, kind)) for kind in (Kind.QUERY, Kind.KEY, Kind.VALUE, Kind.HEAD, Kind.RESIDUAL)}
    assert counts == {Kind.QUERY: 64, Kind.KEY: 64, Kind.VALUE: 64, Kind.HEAD: 16, Kind.RESIDUAL: 16}


def test_groups_of_convolutions_connect_their_own_channels_only() -> None:
    graph = neural_graph(nn.Conv2d(4, 6, 1, groups=2, bias=False), torch.zeros(1, 4, 3, 3))
    pairs = {(s, t) for s, t, _ in of(graph, Kind.CONVOLUTION)}
    assert pairs == {(s, t) for s, t in np.ndindex(4, 10) if t >= 4 and s // 2 == (t - 4) // 3}


def test_shared_weights_are_edges_wherever_they_are_used_and_are_forecast_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.embed(x))  # type: ignore[no-any-return]

    graph = neural_graph(Tied(), torch.zeros(1, 2, dtype=torch.int64))
    assert graph.sizes == (15,)
    assert len(of(graph, Kind.TOKEN)) == len(of(graph, Kind.LINEAR)) == 15
    states = torch.randn(15, 1, 5)
    assert torch.equal(graph.parameters(graph.features(states)), states)


# -- eigenvectors ---------------------------------------------------------------------------------------------------


def laplacian(graph: NeuralGraph) -> np.ndarray[Any, Any]:
    g = nx.Graph()
    g.add_nodes_from(range(graph.nodes))
    pairs = zip(graph.source.tolist(), graph.target.tolist(), strict=True)
    g.add_edges_from((s, t) for s, t in pairs if s != t)
    return np.asarray(nx.normalized_laplacian_matrix(g).todense())


@every
def test_positions_are_eigenvectors_of_the_laplacian_that_networkx_makes(name: str) -> None:
    _, graph = made(name)
    matrix, vectors = laplacian(graph), graph.positions.double().numpy()
    there = np.abs(vectors).sum(0) > 0
    count = int(there.sum())
    assert there[:count].all()
    vectors = vectors[:, :count]
    values = np.einsum("nk,nm,mk->k", vectors, matrix, vectors)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-5)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-5)
    assert (np.diff(values) >= -1e-6).all()
    assert values[0] > 1e-3  # the one of eigenvalue 0 is left out
    lowest = np.linalg.eigvalsh(matrix)
    assert np.abs(lowest[:, None] - values).min(0).max() < 1e-5


@every
def test_no_eigenvector_that_is_equal_on_all_neurons_of_a_layer_is_left_out_below_the_last(name: str) -> None:
    _, graph = made(name, positions=3)
    colour = classes(graph.source, graph.target, graph.layer).numpy()
    values, vectors = np.linalg.eigh(laplacian(graph))
    kept = graph.positions.double().numpy()
    means = np.stack([vectors[colour == c].mean(0) for c in range(colour.max() + 1)])[colour]
    equal = np.abs(vectors - means).max(0) < 1e-8  # of simple eigenvalues, which numpy gives as they are
    for value, vector in zip(values[equal], vectors[:, equal].T, strict=True):
        bound = float(kept[:, 2] @ laplacian(graph) @ kept[:, 2])
        if 1e-8 < value < bound - 1e-6:
            assert abs(kept.T @ vector).max() == pytest.approx(1.0, abs=1e-4)


def test_classes_refine_layers_by_what_their_nodes_are_connected_to() -> None:
    # a path of five nodes, all of one layer: the ends, their neighbours, the middle
    path = classes(torch.arange(4), torch.arange(1, 5), torch.zeros(5, dtype=torch.int64)).tolist()
    assert path[0] == path[4] != path[1] == path[3] != path[2] != path[0]


def test_the_first_entry_of_an_eigenvector_that_is_not_0_is_positive() -> None:
    _, graph = made("transformer")
    for column in graph.positions.T:
        assert float(column[column.abs() > 1e-6][0]) > 0


def test_directions_repetitions_and_loops_do_not_change_eigenvectors() -> None:
    source, target, layer = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), torch.arange(4)
    plain = eigenvectors(source, target, layer, 3)
    other = eigenvectors(torch.tensor([1, 2, 2, 1, 0]), torch.tensor([0, 1, 3, 1, 1]), layer, 3)
    assert torch.equal(plain, other)


# -- what is left as it was, and what is refused -----------------------------------------------------------------------


def test_the_model_its_hooks_and_random_numbers_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    neural_graph(model, torch.full((1, 3), torch.nan))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x)  # type: ignore[no-any-return]


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y if float(y[0, 0]) > 0 else -y  # type: ignore[no-any-return]


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(3, 3), r"^model: module 'inner' \(LSTM\) has lstm on activations"),
        (nn.Bilinear(3, 3, 2), r"^model: module 'inner' \(Bilinear\) "),
        (Product(), r"^model: module 'inner' \(Product\) has a product of two activations"),
        (Looking(), r"^model: module 'inner' \(Looking\) cannot be followed on shapes alone"),
        (nn.PReLU(), r"^model: module 'inner' \(PReLU\) has prelu"),
        (nn.ConvTranspose1d(3, 2, 1), r"^model: module 'inner' \(ConvTranspose1d\) has conv_transpose1d"),
        (Unused(), r"^model: parameter inner\.b\.weight takes no part in its output"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_known_is_refused_with_the_name_of_the_module(module: nn.Module, message: str) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Linear(3, 3), module

        def forward(self, x: Tensor) -> Any:
            x = self.first(x)
            if isinstance(self.inner, nn.ConvTranspose1d):
                return self.inner(x.unsqueeze(-1))
            return self.inner(x, x) if isinstance(self.inner, nn.Bilinear) else self.inner(x)

    with pytest.raises(ValueError, match=message):
        neural_graph(Outer(), torch.zeros(1, 3))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^example: got list; a batch"):
        neural_graph(perceptron(), [1.0])
    with pytest.raises(ValueError, match=r"^model: got one without parameters"):
        neural_graph(nn.ReLU(), torch.zeros(1, 2))


def test_a_batch_of_any_size_and_models_on_the_way_give_the_same_graph() -> None:
    model = Transformer()
    one, many = (neural_graph(model, torch.zeros(n, 3, dtype=torch.int64)) for n in (1, 9))
    assert torch.equal(one.weights, many.weights)
    assert torch.equal(one.source, many.source)
    training, evaluating = (neural_graph(Residual().train(mode), torch.zeros(1, 2, 6, 6)) for mode in (True, False))
    assert torch.equal(training.weights, evaluating.weights)
