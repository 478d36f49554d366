"""The networks: permutations of neurons, residuals of 0, and message passing against loops over edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from shoal.optim.nino import GraphNowcaster, NeuralGraph, Nowcaster, Shape, SingleNowcaster, neural_graph, scaled
from shoal.optim.nino.network import Messages, mean_at_target
from tests.optim.nino.models import MODELS

every = pytest.mark.parametrize("name", MODELS)
both = pytest.mark.parametrize("cls", [GraphNowcaster, SingleNowcaster])
SHAPE = Shape(states=3, horizon=4, width=7, vocabulary=7)


def network(cls: type[Nowcaster], shape: Shape = SHAPE, seed: int = 0) -> Nowcaster:
    """A network whose residuals are not small."""
    torch.manual_seed(seed)
    made = cls(shape).double()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.5)
    return made


def setting(name: str) -> tuple[NeuralGraph, Tensor, dict[str, Tensor], Any]:
    """Graph, scaled states [P, 1, c], one state by name, and the permutation."""
    make, example, permuted = MODELS[name]
    torch.manual_seed(1)
    model = make()
    graph = neural_graph(model, example)
    states = torch.randn(sum(graph.sizes), 1, SHAPE.states, dtype=torch.float64)
    return graph, states, {n: p.detach() for n, p in model.named_parameters()}, permuted


def permutation(graph: NeuralGraph, named: dict[str, Tensor], permuted: Any) -> Tensor:
    """Where each entry of the permuted vector comes from."""
    numbers = torch.arange(sum(graph.sizes)).split(list(graph.sizes))
    moved = permuted({n: part.view(named[n].shape) for n, part in zip(named, numbers, strict=True)})
    return torch.cat([moved[n].flatten() for n in named])


@every
def test_the_permutations_of_the_tests_leave_what_the_model_computes(name: str) -> None:
    make, example, permuted = MODELS[name]
    model = make().double().eval()
    state = dict(model.state_dict())
    x = torch.randn(3, *example.shape[1:], dtype=torch.float64) if example.is_floating_point() else example
    expected = model(x)
    model.load_state_dict(permuted(state))
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-12)
    assert not torch.equal(parameters_to_vector(state.values()), parameters_to_vector(permuted(state).values()))


@every
@both
@torch.no_grad()
def test_a_permutation_of_hidden_neurons_permutes_the_forecast(name: str, cls: type[Nowcaster]) -> None:
    graph, states, named, permuted = setting(name)
    order = permutation(graph, named, permuted)
    net = network(cls)
    plain, moved = net(graph, states), net(graph, states[order])
    torch.testing.assert_close(moved, plain[order], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(moved, plain, atol=1e-3)


@every
@torch.no_grad()
def test_scaling_does_not_depend_on_the_order_of_neurons(name: str) -> None:
    graph, states, named, permuted = setting(name)
    order = permutation(graph, named, permuted)
    for plain, moved in zip(scaled(states, graph.sizes), scaled(states[order], graph.sizes), strict=True):
        torch.testing.assert_close(moved, plain[order], rtol=1e-12, atol=1e-12)


@every
@both
@torch.no_grad()
def test_one_residual_is_that_of_all(name: str, cls: type[Nowcaster]) -> None:
    graph, states, _, _ = setting(name)
    net = network(cls)
    everything = net(graph, states)
    assert everything.shape == (len(states), 1, SHAPE.horizon)
    for k in range(1, SHAPE.horizon + 1):
        torch.testing.assert_close(net(graph, states, k), everything[..., k - 1], rtol=1e-10, atol=1e-12)


@both
@torch.no_grad()
def test_models_of_a_batch_do_not_see_each_other(cls: type[Nowcaster]) -> None:
    graph, states, _, _ = setting("perceptron")
    net, other = network(cls), states.flip(0)
    together = net(graph, torch.cat([states, other], 1))
    torch.testing.assert_close(together, torch.cat([net(graph, states), net(graph, other)], 1), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_the_graph_carries_what_one_weight_does_to_the_forecast_of_others_and_wnn_does_not() -> None:
    graph, states, _, _ = setting("perceptron")
    changed = states.clone()
    changed[0] += 1.0
    nets = network(GraphNowcaster), network(SingleNowcaster)
    by_graph, alone = ((net(graph, changed) != net(graph, states)).any(2)[:, 0] for net in nets)
    to_the_same_neuron, to_the_outputs = by_graph[:4], by_graph[-18:-3]
    assert bool(to_the_same_neuron.all())
    assert bool(to_the_outputs.all())
    assert alone.nonzero().flatten().tolist() == [0]


@torch.no_grad()
def test_every_layer_of_message_passing_reaches_the_forecast() -> None:
    graph, states, _, _ = setting("residual")
    net = network(GraphNowcaster)
    assert isinstance(net, GraphNowcaster)
    plain = net(graph, states)
    for layer in net.layers:
        for p in layer.parameters():
            p.add_(0.1)
            assert not torch.equal(net(graph, states), plain)
            p.sub_(0.1)


@torch.no_grad()
def test_a_layer_of_messages_is_that_of_a_loop_over_edges() -> None:
    graph, _, _, _ = setting("transformer")
    torch.manual_seed(0)
    layer, width = Messages(4).double(), 4
    x = torch.randn(graph.nodes, 2, width, dtype=torch.float64)
    e = torch.randn(graph.edges, 2, width, dtype=torch.float64)
    found_x, found_e = layer(graph, x, e)
    messages: list[list[Tensor]] = [[] for _ in range(graph.nodes)]
    for j, i, edge in zip(graph.source.tolist(), graph.target.tolist(), e, strict=True):
        modulation = layer.modulation(edge)
        own = x[i] @ layer.target.weight.T + x[j] @ layer.source.weight.T + layer.target.bias
        messages[i].append(modulation[:, :width] * own + modulation[:, width:])
    for i, received in enumerate(messages):
        mean = torch.stack(received).mean(0)
        expected = F.silu(layer.out(layer.update(torch.cat([x[i], mean], -1))))
        torch.testing.assert_close(found_x[i], expected, rtol=1e-10, atol=1e-12)
    for n, (j, i) in enumerate(zip(graph.source.tolist(), graph.target.tolist(), strict=True)):
        inner = layer.edge(e[n]) + layer.edge_source(found_x[j]) + layer.edge_target(found_x[i])
        torch.testing.assert_close(found_e[n], layer.edge_out(F.silu(inner)), rtol=1e-10, atol=1e-12)


def test_the_mean_is_over_the_edges_that_end_at_a_node() -> None:
    graph, _, _, _ = setting("perceptron")
    ones = mean_at_target(graph, torch.ones(graph.edges, 1, 1))
    assert torch.equal(ones, torch.ones(graph.nodes, 1, 1))  # each has a loop


@torch.no_grad()
def test_signs_of_eigenvectors_and_numbers_of_tokens_matter_to_the_network() -> None:
    graph, states, _, _ = setting("transformer")
    net = network(GraphNowcaster)
    plain = net(graph, states)
    assert not torch.allclose(net(graph, states, signs=-torch.ones(8)), plain)
    assert torch.equal(net(graph, states, signs=torch.ones(8)), plain)
    fewer = network(GraphNowcaster, Shape(states=3, horizon=4, width=7, vocabulary=3))
    assert not torch.equal(fewer(graph, states), plain)


@both
def test_a_fresh_network_forecasts_little(cls: type[Nowcaster]) -> None:
    graph, states, _, _ = setting("perceptron")
    torch.manual_seed(0)
    residuals = cls(Shape(states=3, width=64))(graph, states.float())
    assert 0.0 < float(residuals.detach().abs().mean()) < 0.5


@pytest.mark.parametrize("name", ["states", "horizon", "width", "layers", "slots", "positions", "vocabulary"])
def test_bad_shapes_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got -1; a whole number >= \d is allowed"):
        Shape(**{name: -1})
