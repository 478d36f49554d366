"""Blocks of peers: order, bounds, and what is told of hosts that die, come back, or are hard to reach."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from shoal.engine import Peer, SimulatedWorld
from shoal.net import Ears, RealWorld
from shoal.net.ray import Hub
from shoal.net.ray.hub import LEFT
from tests.net.ray.cables import Rack
from tests.net.test_world import averaging, ring

BLOCKS = [[0, 1], [2, 3, 4], [5]]


class Notes:
    """What one peer's transport told it."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.here: set[int] = set()
        self.downs: list[tuple[int, str]] = []
        self.gate: asyncio.Event | None = None

    def ears(self) -> Ears:
        async def frame(sender: int, data: bytes | bytearray | memoryview) -> None:
            assert sender in self.here
            if self.gate is not None:
                await self.gate.wait()
            self.frames.append((sender, bytes(data)))

        def up(peer: int) -> None:
            assert peer not in self.here
            self.here.add(peer)

        def down(peer: int, why: str) -> None:
            self.here.remove(peer)
            self.downs.append((peer, why))

        return Ears(frame, up, down)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def start(rack: Rack, hosts: Any = None) -> dict[int, Notes]:
    """All peers of some hosts listen."""
    found = {}
    for host in range(len(rack.blocks)) if hosts is None else hosts:
        hub = rack.start(host)
        for peer in rack.blocks[host]:
            found[peer] = Notes()
            await hub.transport(peer).start(found[peer].ears())
    return found


async def meet(rack: Rack) -> dict[int, Notes]:
    found = await start(rack)
    await until(lambda: all(len(notes.here) == len(found) - 1 for notes in found.values()))
    return found


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


def test_frames_arrive_whole_and_in_order_within_a_block_and_beyond_it() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        notes = await meet(rack)
        sent = {}
        for host, block in enumerate(BLOCKS):
            for sender in block:
                for to in notes:
                    if to != sender:
                        bodies = [bytes([sender, to, k]) * (40_000 if k % 3 == 0 else 1) for k in range(20)]
                        assert all(rack.hubs[host].send(sender, to, b"head", body) for body in bodies)
                        sent[sender, to] = [b"head" + body for body in bodies]
        await until(lambda: sum(len(n.frames) for n in notes.values()) == 20 * len(sent))
        for (sender, to), frames in sent.items():
            assert [data for who, data in notes[to].frames if who == sender] == frames
        assert rack.most == 1
        await rack.close()

    play(scene())


def test_a_body_for_several_peers_of_a_block_travels_once() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        notes = await meet(rack)
        body = bytes(100_000)
        for to in BLOCKS[1]:
            rack.hubs[0].send(0, to, b"head", body)
        await until(lambda: all(notes[to].frames for to in BLOCKS[1]))
        carried = [array for batch in rack.calls[0, 1] for array in batch.bodies]
        assert sum(map(len, carried)) == len(body)
        await rack.close()

    play(scene())


def test_what_waits_for_a_slow_peer_is_bounded() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS, allowance=10_000)
        notes = await meet(rack)
        for to in (1, 2):  # of the same block, and of another
            gate = notes[to].gate = asyncio.Event()
            taken = []
            for _ in range(50):
                taken.append(rack.hubs[0].send(0, to, b"", bytes(1000)))
                await asyncio.sleep(0)
            assert taken == [True] * 10 + [False] * 40
            gate.set()
            await until(lambda to=to: len(notes[to].frames) == 10)
            await until(lambda to=to: rack.hubs[0].send(0, to, b"", bytes(1000)))
        await rack.close()

    play(scene())


def test_one_frame_may_be_larger_than_the_allowance() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS, allowance=10)
        notes = await meet(rack)
        assert rack.hubs[0].send(0, 5, b"head", bytes(1000))
        await until(lambda: notes[5].frames)
        await rack.close()

    play(scene())


def test_the_death_of_a_host_is_told_to_all_and_the_others_go_on() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        notes = await meet(rack)
        await rack.kill(1)
        await until(lambda: all(notes[peer].here == {0, 1, 5} - {peer} for peer in (0, 1, 5)))
        assert sorted(notes[0].downs) == [(2, "it died"), (3, "it died"), (4, "it died")]
        assert not rack.hubs[0].send(0, 2, b"", b"x")
        assert rack.hubs[0].send(0, 5, b"", b"y")
        await until(lambda: notes[5].frames == [(0, b"y")])
        await rack.close()

    play(scene())


@pytest.mark.parametrize("host", [0, 1, 2])
def test_a_host_that_comes_back_is_connected_again_and_hears_nothing_old(host: int) -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        rack.restarts = True
        notes = await meet(rack)
        away, peer = next(h for h in range(3) if h != host), BLOCKS[host][0]
        sender = BLOCKS[away][0]
        await rack.kill(host)
        rack.hubs[away].send(sender, peer, b"", b"old")
        await until(lambda: peer not in notes[sender].here)
        rack.hubs[away].send(sender, peer, b"", b"old")
        fresh = await start(rack, [host])
        await until(lambda: all(len(n.here) == 5 for p, n in {**notes, **fresh}.items()))
        assert rack.hubs[away].send(sender, peer, b"", b"new")
        assert rack.hubs[host].send(peer, sender, b"", b"newer")
        await until(lambda: fresh[peer].frames and notes[sender].frames)
        assert fresh[peer].frames == [(sender, b"new")]
        assert notes[sender].frames == [(peer, b"newer")]
        await rack.close()

    play(scene())


@pytest.mark.parametrize("sender", [0, 5])
def test_a_call_that_fails_breaks_the_connection_on_both_sides_and_it_is_made_again(sender: int) -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        notes = await meet(rack)
        host, to = (0, 5) if sender == 0 else (2, 0)
        rack.failing = 1
        rack.hubs[host].send(sender, to, b"", b"lost")
        await until(lambda: notes[sender].downs and notes[to].downs)
        await until(lambda: to in notes[sender].here and sender in notes[to].here)
        rack.hubs[host].send(sender, to, b"", b"kept")
        await until(lambda: notes[to].frames)
        assert notes[to].frames == [(sender, b"kept")]
        await rack.close()

    play(scene())


def test_frames_of_another_connection_are_refused() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        notes = await meet(rack)
        rack.hubs[2].send(5, 0, b"", b"x")
        await until(lambda: notes[0].frames)
        [batch] = rack.calls[2, 0]
        assert not await rack.hubs[0].deliver(batch._replace(connection=batch.connection - 1))
        assert not await rack.hubs[2].hello(0, batch.connection - 1)
        assert notes[0].frames == [(5, b"x")]
        assert not notes[5].downs
        await rack.close()

    play(scene())


def test_a_peer_that_leaves_lets_go_what_it_sent_and_the_rest_of_its_block_stays() -> None:
    async def scene() -> None:
        rack = Rack(BLOCKS)
        notes = await meet(rack)
        for to in (3, 0):
            rack.hubs[1].send(2, to, b"", b"last words")
        await rack.hubs[1].transport(2).stop(5.0)
        await until(lambda: all(notes[p].downs == [(2, LEFT)] for p in (0, 1, 3, 4, 5)))
        assert notes[3].frames == notes[0].frames == [(2, b"last words")]
        assert not rack.hubs[0].send(0, 2, b"", b"x")
        assert rack.hubs[0].send(0, 3, b"", b"x")
        await until(lambda: len(notes[3].frames) == 2)
        await rack.close()

    play(scene())


def test_worlds_in_blocks_give_the_same_bits_as_a_simulated_one() -> None:
    n = 6
    simulated = SimulatedWorld(n, seed=7, neighbours=ring(n), rounds=5)
    simulated.run(averaging)

    async def scene() -> None:
        rack, found = Rack(BLOCKS), []
        for host, block in enumerate(BLOCKS):
            hub = rack.start(host)
            found += [
                RealWorld(id, n, hub.transport(id), limit=1 << 20, seed=7, neighbours=ring(n), rounds=5) for id in block
            ]
        await asyncio.gather(*(world.run(averaging, company=n - 1, linger=1.0) for world in found))
        expected = {peer.id: peer.state["x"] for peer in simulated._peers if peer is not None}
        assert {world.id: world.peer.state["x"] for world in found} == expected
        assert [world.ledger.total for world in found] == simulated.ledger.by_peer
        await rack.close()

    play(scene())


def test_calls_that_fail_hold_up_nobody() -> None:
    async def protocol(me: Peer) -> None:
        async for r in me.rounds(12):
            await me.exchange(bytes([r]), r)
            if me.id == 0:
                me._world.rack.failing = 1  # type: ignore[attr-defined]

    async def scene() -> None:
        rack, found = Rack(BLOCKS), []
        for host, block in enumerate(BLOCKS):
            hub = rack.start(host)
            found += [RealWorld(id, 6, hub.transport(id), limit=1 << 20, seed=7, patience=5.0) for id in block]
        for world in found:
            world.rack = rack  # type: ignore[attr-defined]
        await asyncio.gather(*(world.run(protocol, company=5, linger=2.0) for world in found))
        assert all(world.peer.state["round"] == 12 for world in found)
        assert any(entry["event"] == "connected again" for world in found for entry in world.events)
        await rack.close()

    play(scene())


def test_a_hub_carries_its_own_peers_only() -> None:
    with pytest.raises(ValueError, match=r"id: got 5; peers of host 0 are \(0, 1\)"):
        Hub(0, BLOCKS, 1).transport(5)
