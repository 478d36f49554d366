"""Real worlds over iroh: a protocol gives what it gives in the simulated one."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from shoal.engine import SimulatedWorld
from shoal.net import RealWorld
from tests.net.iroh.party import Party, run
from tests.net.test_world import averaging, ring


def test_a_synchronous_protocol_gives_the_same_bits_as_in_the_simulated_world() -> None:
    n = 5
    simulated = SimulatedWorld(n, seed=7, neighbours=ring(n), rounds=5)
    simulated.run(averaging)
    expected = {peer.id: peer.state["x"] for peer in simulated._peers if peer is not None}

    async def main() -> list[RealWorld]:
        party = Party(n)
        transports = [(await party.host()).transport, *[(await party.join(i)).transport for i in range(1, n)]]
        found = []
        for transport in transports:
            transport.limit = 1 << 20
            world = RealWorld(transport.id, n, transport, limit=1 << 20, seed=7, neighbours=ring(n), rounds=5)
            transport.on_log = world.log
            found.append(world)
        await asyncio.gather(*(world.run(averaging, company=n - 1, linger=5.0) for world in found))
        return found

    worlds = run(main(), 60)
    assert {world.id: world.peer.state["x"] for world in worlds} == expected
    assert [world.ledger.total for world in worlds] == simulated.ledger.by_peer
    assert not any(world.refused for world in worlds)
