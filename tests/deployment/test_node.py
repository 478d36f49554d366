"""A node's peer is the simulation's: same data, model, draws; and what it leaves on disk is a run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.deployment import Node, real_parts
from shoal.engine import Refused
from shoal.net import RealWorld, frame_limit
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
