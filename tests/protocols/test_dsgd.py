"""Decentralised SGD against its formula: x_i <- sum_j W_ij x_j - lr g_i(x_i)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.engine import Crash, Link, Restart
from shoal.optim import SGD
from shoal.protocols import DSGD
from shoal.topology import complete, exponential, one_peer_exponential, ring

from . import runs

LR = 0.1


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=6), steps=st.integers(1, 3), rounds=st.integers(1, 4))
def test_each_round_mixes_the_models_and_adds_the_local_change(sizes: list[int], steps: int, rounds: int) -> None:
    task = runs.regression()
    data, pieces = runs.partition(task, sizes)
    topology = ring(len(sizes))
    w = torch.from_numpy(topology.matrix())
    x = torch.stack([runs.start(task, peer=i) for i in range(len(sizes))])
    for _ in range(rounds):
        local = x
        for _ in range(steps):
            local = local - LR * torch.stack([runs.gradient(v, data, r) for v, r in zip(local, pieces, strict=True)])
        x = w @ x + (local - x)
    run = runs.run(
        DSGD(steps), task, (data, pieces), SGD.rule(LR), topology=topology, batch=0, rounds=rounds, init="independent"
    )
    torch.testing.assert_close(runs.stack(run), x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("topology", [exponential(5), one_peer_exponential(4), ring(5)])
def test_the_mean_model_goes_along_the_mean_gradient(topology: Any) -> None:
    """What doubly stochastic matrices are for: for equal shards, of one round."""
    n = topology.n
    task = runs.regression()
    data, pieces = runs.partition(task, [6] * n)
    x = torch.stack([runs.start(task, peer=i) for i in range(n)])
    mean_gradient = torch.stack([runs.gradient(v, data, rows) for v, rows in zip(x, pieces, strict=True)]).mean(0)
    run = runs.run(DSGD(), task, (data, pieces), SGD.rule(LR), topology=topology, batch=0, init="independent")
    torch.testing.assert_close(runs.stack(run).mean(0), x.mean(0) - LR * mean_gradient, rtol=1e-12, atol=1e-13)


def test_on_a_complete_graph_from_a_common_start_it_is_gradient_descent_for_one_round() -> None:
    task = runs.regression()
    data, pieces = runs.partition(task, [6] * 4)
    x = runs.start(task)
    run = runs.run(DSGD(), task, (data, pieces), SGD.rule(LR), topology=complete(4), batch=0)
    expected = x - LR * runs.gradient(x, data, torch.cat(pieces))
    torch.testing.assert_close(runs.stack(run).mean(0), expected, rtol=1e-12, atol=1e-13)


def test_it_converges_to_its_fixed_point_near_the_optimum() -> None:
    """x = W x - lr g(x) for all peers at once: a linear system here. It is off the optimum, since the shards differ."""
    task, topology = runs.regression(), ring(4)
    data, pieces = runs.partition(task, [12] * 4)
    w = torch.from_numpy(topology.matrix())

    def field(x: Tensor) -> Tensor:
        """(I - W) x / lr + g(x), for stacked models as one vector."""
        rows = x.view(4, runs.SIZE)
        return (((rows - w @ rows) / 0.3) + torch.stack(list(map(local, rows, pieces)))).flatten()

    def local(v: Tensor, rows: Tensor) -> Tensor:
        return runs.gradient(v, data, rows)

    zero = torch.zeros(4 * runs.SIZE, dtype=torch.float64)
    system = torch.func.jacrev(field)(zero)
    fixed = torch.linalg.solve(system, -field(zero)).view(4, runs.SIZE)
    run = runs.run(DSGD(), task, (data, pieces), SGD.rule(0.3), topology=topology, batch=0, rounds=250, evaluate=10_000)
    torch.testing.assert_close(runs.stack(run), fixed, rtol=1e-9, atol=1e-9)
    at_mean = runs.gradient(fixed.mean(0), data, torch.cat(pieces))
    assert 1e-6 < float(at_mean.norm()) < 0.1


def test_the_step_is_computed_while_the_models_travel() -> None:
    """A round takes the longer of the two, 0.05 s and not 0.06; in gossip the one comes after the other."""
    task = runs.regression()
    links = [Link(latency=0.05)] * 3
    times = {
        name: runs.run(name, task, runs.partition(task, [5] * 3), network=links, rounds=4).info["virtual_seconds"]
        for name in ("dsgd:1", "gossip:1")
    }
    assert times["dsgd:1"] == pytest.approx(4 * 0.05)
    assert times["gossip:1"] == pytest.approx(4 * 0.06)


def test_momentum_lives_with_each_peer() -> None:
    """Two peers with equal data and start stay equal, and do what one of them does alone."""
    task = runs.regression(10)
    pieces = runs.same(task, 2)
    rule = SGD.rule(LR, momentum=0.8)
    both = runs.stack(runs.run(DSGD(), task, pieces, rule, batch=0, rounds=5))
    alone = runs.stack(runs.run("isolated:1", task, (pieces[0], pieces[1][:1]), rule, batch=0, rounds=5))
    torch.testing.assert_close(both, alone.expand(2, -1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "settings",
    [
        {"faults": [Crash(0.033, 1), Restart(0.3, 1)]},
        {"faults": [Crash(0.033, 1)]},
        {"network": [Link(latency=0.01, loss=0.2, duplication=0.2, patience=0.5)] * 5},
    ],
)
def test_it_goes_on_without_those_who_are_gone_and_with_what_is_lost(settings: dict[str, Any]) -> None:
    task = runs.regression()
    run = runs.run(
        DSGD(), task, runs.partition(task, [5] * 5), SGD.rule(LR), topology=ring(5), batch=4, rounds=15, **settings
    )
    assert run.status == "finished"
    curve = run.curve("loss", peer=0)
    assert curve[-1, 0] == 15
    assert curve[-1, 1] < curve[0, 1]
