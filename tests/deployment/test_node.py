"""A node's peer is the simulation's: same data, model, draws; and what it leaves on disk is a run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.deployment import Logbook, Node, real_parts
from shoal.engine import Refused
from shoal.net import RealWorld, Store, frame_limit
from shoal.report import RunFolder
from shoal.simulation import simulate
from shoal.simulation.settings import Settings
from tests.net.wires import Wires

COMMON = {"task": "digits", "peers": 4, "partition": "dirichlet:0.5", "topology": "ring", "rounds": 3, "seed": 11}


def run_nodes(protocol: str, folder: Path | None = None, **more: Any) -> list[Node]:
    """All peers of an experiment, each in a world of its own, on wires."""
    parts, _ = real_parts(Settings.of(protocol=protocol, **{**COMMON, **more}))

    async def one(id: int, wires: Wires) -> Node:
        world = RealWorld(
            id,
            parts.size,
            wires.transport(id),
            limit=frame_limit(parts.trainer.layout.size),
            seed=parts.settings.seed,
            rounds=parts.settings.rounds,
            server=parts.server,
            neighbours=parts.topology.neighbours,
            in_neighbours=parts.topology.in_neighbours,
        )
        node = Node(parts, id, world, folder=None if folder is None else folder / str(id), on="wires")
        await world.run(node.protocol, make_peer=node.make_peer, company=parts.size - 1, linger=1.0)
        await node.finish("finished")
        return node

    async def main() -> list[Node]:
        wires = Wires()
        return list(await asyncio.gather(*(one(i, wires) for i in range(parts.size))))

    return asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("protocol", ["gossip:steps=3", "dsgd", "fedavg:steps=3"])
def test_synchronous_protocols_follow_the_simulation(protocol: str) -> None:
    simulated = simulate(protocol, **COMMON)
    for node in run_nodes(protocol):
        if node.id in simulated.models:
            torch.testing.assert_close(node.result.models[node.id], simulated.models[node.id], rtol=0, atol=1e-5)
    real = {node.id: node.world.ledger.total for node in run_nodes(protocol)}
    assert list(real.values()) == simulated.info["bytes"]["by_peer"]


def test_metrics_are_the_simulation_s(tmp_path: Path) -> None:
    simulated = simulate("gossip", **COMMON)
    nodes = run_nodes("gossip", tmp_path)
    for node in nodes:
        expected = simulated.curve("accuracy", peer=node.id)
        assert node.result.curve("accuracy", peer=node.id) == pytest.approx(expected, abs=1e-9)
    assert RunFolder(tmp_path / "2").facts.status == "finished"


def test_settings_of_the_simulated_world_are_left_out_and_named() -> None:
    settings = Settings.of(task="digits", peers=4, network="wan", faults="none", attack="sign-flip:0.25")
    parts, left_out = real_parts(settings)
    assert left_out == ["network", "attack"]
    assert parts.adversary is None


def test_a_protocol_that_needs_a_server_is_refused_in_a_world_without_one() -> None:
    parts, _ = real_parts(Settings.of(protocol="fedavg", task="digits", peers=3))
    with pytest.raises(Refused, match="server role"):
        Node(parts, 0, RealWorld(0, 4, Wires().transport(0), limit=1 << 20))


def test_a_node_goes_on_where_an_earlier_life_ended(tmp_path: Path) -> None:
    """Stopped after two of five rounds and run again: the same rows as in one go, and bytes and time that go on."""
    parts, _ = real_parts(Settings.of(protocol="gossip:steps=3", **{**COMMON, "rounds": 5, "evaluate": 1}))

    async def one(id: int, wires: Wires, upto: int) -> Node:
        world = RealWorld(
            id,
            parts.size,
            wires.transport(id),
            limit=frame_limit(parts.trainer.layout.size),
            seed=parts.settings.seed,
            rounds=upto,
            neighbours=parts.topology.neighbours,
            in_neighbours=parts.topology.in_neighbours,
            store=Store(tmp_path / f"home-{id}"),
        )
        folder = tmp_path / f"run-{id}"
        node = Node(parts, id, world, folder=folder, logbook=Logbook(folder), on="wires")
        await world.run(node.protocol, make_peer=node.make_peer, company=parts.size - 1, linger=1.0)
        await node.finish("interrupted" if upto < 5 else "finished")
        return node

    async def life(upto: int) -> list[Node]:
        wires = Wires()
        return list(await asyncio.gather(*(one(i, wires, upto) for i in range(parts.size))))

    first = asyncio.run(asyncio.wait_for(life(2), 120))
    second = asyncio.run(asyncio.wait_for(life(5), 120))
    simulated = simulate("gossip:steps=3", **{**COMMON, "rounds": 5, "evaluate": 1})
    for before, node in zip(first, second, strict=True):
        run = RunFolder(tmp_path / f"run-{node.id}")
        assert [row[1] for row in node.world.metrics if row[4] == "accuracy"] == [0, 1, 2, 3, 4, 5]
        expected = simulated.curve("accuracy", peer=node.id)
        assert node.result.curve("accuracy", peer=node.id) == pytest.approx(expected, abs=1e-5)
        assert run.facts.bytes.by_peer[node.id] == simulated.info["bytes"]["by_peer"][node.id]
        assert run.facts.bytes.channels["exchange"].received > 0
        assert list(run.metrics.time) == sorted(run.metrics.time)
        assert run.info["began"] == before.result.info["began"]
        begins = [event for event in run.events() if event["event"] == "begins"]
        assert [(event["round"], event["lives"]) for event in begins] == [(0, 1), (2, 2)]


def test_own_data_is_told_as_such_and_not_the_experiment_s_partition(tmp_path: Path) -> None:
    parts, _ = real_parts(Settings.of(protocol="gossip", **COMMON))
    own = parts.shards[3]
    world = RealWorld(0, parts.size, Wires().transport(0), limit=1 << 20)
    node = Node(parts, 0, world, shard=own, folder=tmp_path / "run")
    node.make_peer(0, world, None)
    assert node.peer.samples == len(own)
    facts = RunFolder(tmp_path / "run").facts
    assert facts.data.shards == []
    assert f"{len(own)} samples of its own" in facts.data.source


def test_a_state_that_is_kept_in_the_middle_of_a_round_is_not_measured_again() -> None:
    nodes = run_nodes("modest:sample=2,aggregators=1,steps=2", peers=3, rounds=4, partition="iid")
    for node in nodes:
        measured = [row[1] for row in node.world.metrics if row[4] == "accuracy"]
        assert measured == sorted(set(measured))
        assert measured[-1] == 4


def test_who_begins_with_the_others_is_no_latecomer_of_one_byte() -> None:
    settings = {"topology": "complete", "partition": "iid", "rounds": 4}
    simulated = simulate("one-byte", **{**COMMON, **settings})
    for node in run_nodes("one-byte", **settings):
        torch.testing.assert_close(node.result.models[node.id], simulated.models[node.id], rtol=0, atol=1e-5)
