"""DecAvg against the restatement: trajectories with relays and with nodes that go, and the limit of mixing alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shoal import names, simulate
from shoal.engine import Crash, Leave, Refused
from shoal.learning import Shard, Task
from shoal.learning.batches import batches, stream
from shoal.learning.data import Data, Dataset, iid, load
from shoal.learning.data.partitions import Partition
from shoal.optim import SGD
from shoal.papers import disrupted_dfl as paper
from shoal.protocols import DecAvg
from shoal.tensors.random import key
from shoal.topology import Topology, barabasi_albert, components, from_edges, hubs, time_varying

from ..restatements import disrupted_dfl
from .test_dsgd_sam import softmax_gradient

Array = NDArray[np.float64]
SEED, NODES, STEPS, BATCH, RELAYS, RELAY = 5, 12, 2, 6, (0, 4, 7), 50.0


@pytest.fixture(scope="module")
def task() -> Task:
    """Linear classification of digits in float64."""
    digits = load("digits")
    train, test = (Data(part.inputs.double(), part.targets) for part in (digits.train, digits.test))
    dataset = Dataset("digits", train, test, classes=10)
    build = names.call(names.parse("model", "logistic"), dataset)
    return Task("digits in float64", lambda: build().double(), dataset)


@pytest.fixture(scope="module")
def graph() -> Topology:
    return barabasi_albert(NODES, m=2, seed=3)


def uneven(task: Task, relays: tuple[int, ...]) -> Partition:
    """Peer i holds 30 + 5 i samples, a relay none."""
    train, shares = iid(task.dataset.train, NODES, seed=1)
    return train, [share[: 0 if i in relays else 30 + 5 * i] for i, share in enumerate(shares)]


def run(task: Task, topology: Topology, rounds: int, relays: tuple[int, ...], **more: Any) -> dict[int, Array]:
    options = {"init": "independent", "network": "ideal", "lr": 0.2, "batch": BATCH, "seed": SEED, **more}
    result = simulate(
        options.pop("protocol", DecAvg(steps=STEPS, relay=RELAY)),
        task=task,
        topology=topology,
        partition=uneven(task, relays),
        relays=relays,
        peers=NODES,
        rounds=rounds,
        **options,
    )
    return {i: model.numpy() for i, model in result.models.items()}


def adjacency(topology: Topology) -> Array:
    A = np.zeros((NODES, NODES))
    for i, j in topology.edges():
        A[i, j] = A[j, i] = 1.0
    return A


def expected(
    task: Task, graph: Topology, relays: tuple[int, ...], rounds: int, momentum: float = 0.0, **gone: Any
) -> tuple[Array, Array]:
    """The restatement's trajectory from the library's initial models, on the library's batches, and the weights s."""
    train, shares = uneven(task, relays)
    seen: list[list[Any]] = []
    for i, rows in enumerate(shares):
        steps = rounds * STEPS
        schedule = stream(key(key(SEED, "peer", i), "batches"), len(rows), BATCH, steps, 0)
        seen.append(list(batches([schedule], [Shard(train, rows)], [1] * steps)) if len(rows) else [])

    def gradient(i: int, w: Array, batch: NDArray[np.int64]) -> Array:
        x, y, _ = seen[i][int(batch[0])]
        return softmax_gradient(w, x[0].numpy(), y[0].numpy())

    def numbers(r: int) -> list[list[NDArray[np.int64]]]:
        return [[np.array([r * STEPS + s]) for s in range(STEPS) if len(rows)] for rows in shares]

    start = np.stack(list(run(task, graph, 0, relays).values()))
    weights = disrupted_dfl.node_weights([len(rows) for rows in shares], RELAY)
    trajectory = disrupted_dfl.disrupted_decavg(
        start,
        adjacency(graph),
        weights,
        gradient,
        [numbers(r) for r in range(rounds)],
        0.2,
        momentum=momentum,
        carry_momentum=True,
        **gone,
    )
    return trajectory, weights


@pytest.mark.parametrize("relays", [(), RELAYS])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decavg_follows_the_restatement_with_and_without_relays(
    task: Task, graph: Topology, relays: tuple[int, ...], momentum: float
) -> None:
    trajectory, _ = expected(task, graph, relays, 4, momentum)
    for rounds in (1, 4):
        got = run(task, graph, rounds, relays, optimizer=SGD.rule(momentum=momentum))
        np.testing.assert_allclose(np.stack(list(got.values())), trajectory[rounds], rtol=0, atol=1e-9)


@pytest.mark.parametrize("fault", [Crash, Leave])
def test_nodes_that_vanish_in_mid_training_are_gone_from_the_next_round_on(
    task: Task, graph: Topology, fault: type[Any]
) -> None:
    lost, at, rounds = hubs(graph, 3), 2, 5
    trajectory, _ = expected(task, graph, (), rounds, removed=lost, at=at)
    middle = (at - 0.5) * STEPS * 0.01
    got = run(task, graph, rounds, (), faults=[fault(middle, i) for i in lost], devices="uniform:0.01")
    assert sorted(got) == [i for i in range(NODES) if i not in lost]  # only those present are summed up
    for i, model in got.items():
        np.testing.assert_allclose(model, trajectory[rounds][i], rtol=0, atol=1e-9)


@pytest.mark.parametrize("relays", [(), RELAYS])
def test_nodes_without_links_from_a_round_on_are_gone_for_the_others(
    task: Task, graph: Topology, relays: tuple[int, ...]
) -> None:
    lost, at, rounds = RELAYS, 2, 5
    trajectory, _ = expected(task, graph, relays, rounds, removed=lost, at=at)
    changing = time_varying([graph] * at + [graph.removed(lost)] * (rounds - at))
    got = run(task, changing, rounds, relays)
    for i in range(NODES):
        if i not in lost:
            np.testing.assert_allclose(got[i], trajectory[rounds][i], rtol=0, atol=1e-9)


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 50), min_size=1), st.none() | st.floats(0.5, 100))
@settings(deadline=None)
def test_shares_are_proportional_to_samples_and_make_one(samples: dict[int, int], relay: float | None) -> None:
    shares = DecAvg(relay=relay).shares(samples)
    assert sum(shares.values()) == pytest.approx(1.0)
    held = [count for count in samples.values() if count]
    weight = relay or (float(np.mean(held)) if held else 1.0)
    s = {j: count or weight for j, count in samples.items()}
    for j in samples:
        assert shares[j] * sum(s.values()) == pytest.approx(s[j])


def test_mixing_alone_reaches_the_closed_form_limit_of_each_component(task: Task, graph: Topology) -> None:
    lost = hubs(graph, 2)
    broken = graph.removed(lost)
    mixing = {"protocol": DecAvg(steps=0, relay=RELAY), "disconnected": True}
    start = np.stack(list(run(task, broken, 0, RELAYS, **mixing).values()))
    weights = disrupted_dfl.node_weights([len(rows) for rows in uneven(task, RELAYS)[1]], RELAY)
    alive = disrupted_dfl.survivors(NODES, lost)
    limit = disrupted_dfl.consensus_limit(start, adjacency(graph), weights, alive)
    rounds = paper.rounds_to_agree(broken, weights, 1e-12)
    got = np.stack(list(run(task, broken, rounds, RELAYS, **mixing).values()))
    np.testing.assert_allclose(got[alive], limit[alive], rtol=0, atol=1e-10)
    np.testing.assert_allclose(paper.consensus_limit(start, broken, weights)[alive], limit[alive], rtol=0, atol=1e-13)
    for i in lost:
        np.testing.assert_array_equal(got[i], start[i])  # alone, a node keeps its model


def test_hubs_are_those_of_the_restatement(graph: Topology) -> None:
    for count in range(NODES + 1):
        assert list(hubs(graph, count)) == disrupted_dfl.hubs(adjacency(graph), count)
    lost = hubs(graph, 4)
    left = [group for group in components(graph.removed(lost)) if group[0] not in lost]
    alive = disrupted_dfl.survivors(NODES, lost)
    assert len(left[0]) == disrupted_dfl.giant_component_size(adjacency(graph), alive)


def test_relays_and_broken_graphs_have_to_be_declared(task: Task, graph: Topology) -> None:
    broken = graph.removed([0])
    with pytest.raises(ValueError, match="not connected"):
        run(task, broken, 1, ())
    train, shares = uneven(task, RELAYS)
    with pytest.raises(ValueError, match="peer 0 holds no samples"):
        simulate("decavg", task=task, topology=graph, partition=(train, shares), peers=NODES)
    with pytest.raises(ValueError, match="a relay holds none"):
        simulate("decavg", task=task, topology=graph, partition=(train, shares), relays=(0, 4, 7, 8), peers=NODES)
    with pytest.raises(Refused, match="needs data at every peer"):
        simulate("gossip", task=task, topology=graph, relays=(0,), peers=NODES)
    with pytest.raises(ValueError, match="peers are 0 to 11"):
        simulate("decavg", task=task, topology=graph, relays=(12,), peers=NODES)


def test_a_named_partition_is_dealt_to_those_who_are_no_relays(task: Task) -> None:
    options = {"task": task, "topology": "ring", "peers": 6, "rounds": 0, "seed": 2}
    counts = simulate("decavg", relays="1,4", **options).info["data"]["shards"]
    without = simulate("decavg", **{**options, "peers": 4}).info["data"]["shards"]
    assert [row for i, row in enumerate(counts) if i not in (1, 4)] == without
    assert counts[1] == counts[4] == [0] * 10


@pytest.mark.parametrize(("rounds", "has_come"), [(2, False), (3, True)])
def test_a_relay_carries_what_it_hears(task: Task, rounds: int, has_come: bool) -> None:
    """On a path 0 - 1 - 2 whose middle holds no data, what 0 learns in round 0 reaches 2 in round 2, not before."""
    path = from_edges(3, [(0, 1), (1, 2)])
    train, shares = iid(task.dataset.train, 2, seed=1)
    options = {"task": task, "topology": path, "relays": (1,), "peers": 3, "rounds": rounds, "network": "ideal"}
    one, other = (
        simulate(DecAvg(steps=1), partition=(train, [first, first[:0], shares[1]]), **options).models[2]
        for first in (shares[0], shares[0][:50])
    )
    assert (float((one - other).abs().max()) > 1e-6) == has_come
