"""Synchronous gossip: what it converges to, what it conserves, and that it goes on without those who are gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.engine import Crash, Leave, Link, Partition, Restart
from shoal.optim import SGD
from shoal.protocols import Gossip
from shoal.topology import Topology, complete, exponential, one_peer_exponential, random_matching, ring, star, torus

from . import runs

TOPOLOGIES = {
    "ring": ring(7),
    "torus": torus(9),
    "exponential": exponential(6),
    "one peer": one_peer_exponential(8),
    "matching": random_matching(6, seed=2, rounds=4),
    "star": star(5).with_weights("metropolis-hastings"),
    "complete": complete(5),
}


def mixing(topology: Topology, rounds: int, **settings: Any) -> tuple[Tensor, Tensor]:
    """(models before, models after) of gossip whose local steps do not move: nothing but mixing."""
    task = runs.regression()
    run = runs.run(
        Gossip(steps=1),
        task,
        runs.partition(task, [2] * topology.n),
        runs.nothing(),
        topology=topology,
        rounds=rounds,
        init="independent",
        **settings,
    )
    return torch.stack([runs.start(task, peer=i) for i in range(topology.n)]), runs.stack(run)


def products(topology: Topology, rounds: int) -> Tensor:
    """W_{r-1} ... W_1 W_0."""
    matrix = np.eye(topology.n)
    for r in range(rounds):
        matrix = topology.matrix(r) @ matrix
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_mixing_alone_is_a_product_of_the_mixing_matrices(name: str) -> None:
    topology = TOPOLOGIES[name]
    before, after = mixing(topology, 5)
    torch.testing.assert_close(after, products(topology, 5) @ before, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_doubly_stochastic_mixing_keeps_the_mean_of_the_models(name: str) -> None:
    before, after = mixing(TOPOLOGIES[name], 4)
    torch.testing.assert_close(before.mean(0), after.mean(0), rtol=1e-12, atol=1e-13)
    assert float((after - after.mean(0)).norm()) < float((before - before.mean(0)).norm())


def test_the_disagreement_falls_by_the_second_eigenvalue_a_round() -> None:
    topology = ring(8)
    second = sorted(np.abs(np.linalg.eigvalsh(topology.matrix())))[-2]
    before, after = mixing(topology, 6)
    assert float((after - after.mean(0)).norm()) <= second**6 * float((before - before.mean(0)).norm()) * (1 + 1e-9)


def test_a_complete_graph_agrees_after_one_round() -> None:
    before, after = mixing(complete(5), 1)
    torch.testing.assert_close(after, before.mean(0).expand(5, -1), rtol=1e-12, atol=1e-13)


def test_a_single_peer_only_trains() -> None:
    task = runs.regression()
    alone, gossip = (
        runs.run(name, task, runs.partition(task, [20]), SGD.rule(0.1), rounds=3, batch=4)
        for name in ("isolated", "gossip")
    )
    assert torch.equal(runs.stack(alone), runs.stack(gossip))


@pytest.mark.parametrize("name", ["ring", "one peer", "star"])
def test_with_equal_data_and_a_common_start_everybody_does_what_one_peer_does(name: str) -> None:
    """Whole batches: the mean of equal models is the model."""
    task, topology = runs.regression(12), TOPOLOGIES[name]
    pieces = runs.same(task, topology.n)
    settings: dict[str, Any] = {"batch": 0, "rounds": 4}
    together = runs.stack(
        runs.run(Gossip(steps=3), task, pieces, SGD.rule(0.2, momentum=0.5), topology=topology, **settings)
    )
    one = (pieces[0], pieces[1][:1])
    alone = runs.stack(runs.run("isolated:3", task, one, SGD.rule(0.2, momentum=0.5), **settings))
    torch.testing.assert_close(together, alone.expand(topology.n, -1), rtol=1e-12, atol=1e-13)


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=6), steps=st.integers(1, 3), rounds=st.integers(1, 3))
def test_each_round_is_local_steps_and_then_the_weighted_mean(sizes: list[int], steps: int, rounds: int) -> None:
    task = runs.regression()
    data, pieces = runs.partition(task, sizes)
    topology = ring(len(sizes))
    x = torch.stack([runs.start(task)] * len(sizes))
    for r in range(rounds):
        for _ in range(steps):
            x = x - 0.1 * torch.stack([runs.gradient(w, data, rows) for w, rows in zip(x, pieces, strict=True)])
        x = torch.from_numpy(topology.matrix(r)) @ x
    run = runs.run(Gossip(steps), task, (data, pieces), SGD.rule(0.1), topology=topology, batch=0, rounds=rounds)
    torch.testing.assert_close(runs.stack(run), x, rtol=1e-12, atol=1e-13)


# -- when something goes wrong


def test_lost_messages_leave_every_model_between_the_smallest_and_the_largest() -> None:
    links = [Link(latency=0.01, loss=0.3, duplication=0.3, patience=0.5)] * 7
    before, after = mixing(ring(7), 10, network=links)
    assert bool((after >= before.amin(0) - 1e-12).all())
    assert bool((after <= before.amax(0) + 1e-12).all())
    assert float((after - after.mean(0)).norm()) < 0.5 * float((before - before.mean(0)).norm())


def test_a_neighbour_that_sends_nan_has_its_weight_taken_by_oneself() -> None:
    task, topology = runs.regression(), ring(5)
    run = runs.run(
        Gossip(steps=1),
        task,
        runs.partition(task, [2] * 5),
        runs.nothing(),
        topology=topology,
        rounds=6,
        init="independent",
        attack="nan:0.2",
    )
    (bad,) = run.info["byzantine"]
    matrix = topology.matrix()
    for i in range(5):
        if i != bad:
            matrix[i, i] += matrix[i, bad]
            matrix[i, bad] = 0.0
    before = torch.stack([runs.start(task, peer=i) for i in range(5)])
    expected = torch.from_numpy(np.linalg.matrix_power(matrix, 6)) @ before
    honest = [i for i in range(5) if i != bad]
    found = torch.stack([run.models[i] for i in honest])
    torch.testing.assert_close(found, expected[honest], rtol=1e-12, atol=1e-13)


def test_peers_that_leave_have_their_weight_taken_by_the_others() -> None:
    task, topology = runs.regression(), complete(4)
    run = runs.run(
        Gossip(steps=1),
        task,
        runs.partition(task, [2] * 4),
        runs.nothing(),
        topology=topology,
        rounds=3,
        init="independent",
        faults=[Leave(0.0, 3)],
    )
    before = torch.stack([runs.start(task, peer=i) for i in range(3)])
    matrix = torch.full((3, 3), 0.25, dtype=torch.float64) + 0.25 * torch.eye(3, dtype=torch.float64)
    found = torch.stack([run.models[i] for i in range(3)])
    torch.testing.assert_close(found, torch.linalg.matrix_power(matrix, 3) @ before, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("protocol", ["gossip:1", "dsgd", "decavg:1", "variance-corrected:1"])
def test_who_comes_back_takes_the_model_of_the_others_and_does_not_move_them(protocol: str) -> None:
    """With steps that do not move, and everybody's neighbours being everybody: the others agree after a round."""
    task = runs.regression()
    finals = []
    for faults in ([Crash(0.005, 3)], [Crash(0.005, 3), Restart(0.4, 3)]):
        run = runs.run(
            protocol,
            task,
            runs.partition(task, [2] * 4),
            runs.nothing(),
            topology=complete(4),
            network=[Link(latency=0.01, detection=0.05)] * 4,
            rounds=60,
            init="independent",
            faults=faults,
        )
        finals.append(run.models)
    gone, back = finals
    for i in range(3):
        torch.testing.assert_close(back[i], gone[i], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(back[3], back[0], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(back[3], runs.start(task, peer=3), rtol=1e-2)


@pytest.mark.parametrize(
    "faults",
    [
        [Crash(0.033, 1), Restart(0.3, 1)],
        [Crash(0.033, 1), Restart(0.3, 1, empty=True)],
        [Crash(0.033, i) for i in (1, 2, 3)],
        [Partition(0.02, 0.4, ((0, 1),))],
    ],
)
def test_everybody_who_is_there_finishes_all_rounds(faults: list[Any]) -> None:
    task = runs.regression()
    run = runs.run(
        Gossip(steps=2),
        task,
        runs.partition(task, [5] * 6),
        SGD.rule(0.1),
        topology=ring(6),
        rounds=12,
        batch=4,
        faults=faults,
    )
    assert run.status == "finished"
    gone = {1, 2, 3} if len(faults) == 3 else set()
    finished = {row[3] for row in run.metrics if row[1] == 12 and row[4] == "loss"}
    assert set(range(6)) - gone <= finished
    curve = run.curve("loss", peer=0)
    assert curve[-1, 1] < curve[0, 1]


def test_same_seed_same_run_other_seed_other_run() -> None:
    task = runs.regression()
    pieces = runs.partition(task, [5] * 6)
    settings: dict[str, Any] = {"network": "mobile", "faults": "random:0.5", "batch": 2, "rounds": 6}
    first, again, other = (
        runs.run("gossip:2", task, pieces, SGD.rule(0.1), topology=ring(6), seed=seed, **settings) for seed in (1, 1, 2)
    )
    assert first.metrics_csv() == again.metrics_csv()
    assert all(torch.equal(first.models[i], again.models[i]) for i in first.models)
    assert first.metrics_csv() != other.metrics_csv()
