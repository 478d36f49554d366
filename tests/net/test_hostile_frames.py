"""An admitted peer that sends anything at all: honest peers neither fail, hang, nor grow, and finish as if it were not
there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import torch
from campaigns.badframes import CHANNELS, BadFrames, Corrupting

from shoal.deployment import Node, real_parts
from shoal.engine import PeerFailed
from shoal.names import PROTOCOLS
from shoal.net import RealWorld, Transport, frame_limit
from shoal.simulation import simulate
from shoal.simulation.settings import Settings
from shoal.tensors.finite import all_finite
from tests.net.wires import Wires

TALKING = sorted(set(PROTOCOLS) - {"isolated", "centralised"})
COMMON: dict[str, Any] = {"task": "digits", "model": "mlp:8", "peers": 4, "topology": "complete", "rounds": 3}
PATIENCE = 20.0  # seconds that honest peers wait for one that says nothing of use


class Trial:
    """An experiment on wires with one hostile peer.

    Attributes:
        nodes: of all peers, by id.
        drawn: how many bad frames of each kind were sent.
        memory: resident bytes at half of the bad frames, and after all of them.
    """

    def __init__(
        self, protocol: str, hostile: int, frames: int, seed: int, patience: float = PATIENCE, **more: Any
    ) -> None:
        self.parts, _ = real_parts(Settings.of(protocol=protocol, seed=seed, **{**COMMON, **more}))
        self.hostile, self.frames, self.seed, self.patience = hostile, frames, seed, patience
        self.nodes: dict[int, Node] = {}
        self.memory: list[int] = []
        self._half = asyncio.Event()

    def run(self) -> Trial:
        asyncio.run(asyncio.wait_for(self._main(), 120))
        return self

    @property
    def honest(self) -> list[Node]:
        return [node for id, node in self.nodes.items() if id != self.hostile]

    def _node(self, id: int, transport: Transport) -> Node:
        parts = self.parts
        world = RealWorld(
            id,
            parts.size,
            transport,
            limit=frame_limit(parts.trainer.layout.size),
            seed=parts.settings.seed,
            rounds=parts.settings.rounds,
            server=parts.server,
            neighbours=parts.topology.neighbours,
            in_neighbours=parts.topology.in_neighbours,
            patience=self.patience,
        )
        node = self.nodes[id] = Node(parts, id, world)
        return node

    async def _live(self, node: Node) -> None:
        async def protocol(me: Any) -> None:
            await self._half.wait()
            await node.protocol(me)

        await node.world.run(protocol, make_peer=node.make_peer, company=self.parts.size - 1, linger=0.5)

    async def _main(self) -> None:
        wires = Wires()
        wire = wires.transport(self.hostile)
        corrupting = Corrupting(wire, self.seed)
        lives = [
            asyncio.ensure_future(self._live(self._node(i, corrupting if i == self.hostile else wires.transport(i))))
            for i in range(self.parts.size)
        ]
        attack = asyncio.ensure_future(self._attack(corrupting, lives[self.hostile]))
        await asyncio.gather(*(life for i, life in enumerate(lives) if i != self.hostile))
        await asyncio.wait([attack], timeout=60)  # honest peers may be ready before all was sent
        for task in (attack, lives[self.hostile]):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, PeerFailed):
                await task

    async def _attack(self, transport: Corrupting, life: asyncio.Task[None]) -> None:
        world = self.nodes[self.hostile].world
        await world.members.wait(lambda: len(world.members.here) == self.parts.size - 1)

        def number() -> int:
            world._number += 1
            return int(world._number)

        bad = BadFrames(self.seed, number, CHANNELS, world.limit)
        self.drawn = bad.drawn
        others = sorted(world.members.here)
        for to in others:
            for frame in bad.first():
                transport.raw(to, frame)
        for i in range(self.frames):
            if i == self.frames // 2:
                while any(transport.inner.waiting(to) for to in others):  # type: ignore[attr-defined]
                    await asyncio.sleep(0.001)
                self.memory.append(resident())
                self._half.set()
            transport.raw(others[i % len(others)], bad.draw())
            if i % 8 == 0:
                await asyncio.sleep(0)
        self.memory.append(resident())


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("protocol", TALKING)
def test_no_peer_of_any_protocol_is_stopped_by_what_an_admitted_one_sends(protocol: str) -> None:
    trial = Trial(protocol, hostile=1, frames=160, seed=3, patience=5.0).run()
    assert len(trial.nodes) >= 4
    for node in trial.honest:
        world = node.world
        assert world.members.done
        assert all_finite(node.peer.state["model"])
        assert world.refused[trial.hostile] >= 20
        assert set(world.refused) == {trial.hostile}  # nothing of honest peers is refused
        assert {e["sender"] for e in world.events if "sender" in e} == {trial.hostile}


@pytest.mark.parametrize("protocol", ["gossip:steps=3", "dsgd", "variance-corrected", "parallel-sgd", "local-sgd:5"])
def test_honest_peers_end_as_in_a_simulation_in_which_nothing_comes_of_the_hostile_one(protocol: str) -> None:
    simulated = simulate(protocol, **COMMON, seed=5, attack="nan:0.25")
    [hostile] = simulated.info["byzantine"]
    trial = Trial(protocol, hostile, frames=400, seed=5).run()
    ends = {node.id: node.peer.state["model"] for node in trial.honest}
    compared = set(simulated.models) & set(ends)
    assert compared
    for id in compared:
        torch.testing.assert_close(ends[id], simulated.models[id], rtol=0, atol=1e-5)


def test_a_thousand_bad_frames_of_every_kind_are_refused_and_leave_no_memory_behind() -> None:
    trial = Trial("dsgd", hostile=2, frames=1200, seed=1, patience=2.0).run()
    assert sum(trial.drawn.values()) == 1200
    assert len(trial.drawn) >= 22
    assert min(trial.drawn.values()) >= 3
    assert trial.memory[1] - trial.memory[0] < 128 << 20
    for node in trial.honest:
        logged = [e for e in node.world.events if e["event"] == "malformed frame refused"]
        assert [e["count"] for e in logged] == [1 << i for i in range(len(logged))]  # the first, second, fourth ...
        assert node.world.refused[2] >= logged[-1]["count"]
