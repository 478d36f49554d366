"""What one peer can make another keep, log, do or wait for is limited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.engine import Peer
from shoal.engine.message import ENVELOPE, MAGIC, VERSION, Kind
from shoal.net import Ears, MalformedFrame, Members, Reader, RealWorld, Store, read_frame
from shoal.net.frames import NAMES_LIMIT, STRUCTURE_LIMIT, channel_number, weight
from shoal.net.world import HELD, HELD_LARGE
from shoal.tensors.payload import encode
from tests.net.wires import Wires, WireTransport


def frame(kind: int, payload: Any, number: int, channel: str = "", tag: int = 0) -> bytes:
    body = encode(payload)
    return ENVELOPE.pack(MAGIC, VERSION, kind, 0, tag, channel_number(channel), number, len(body)) + body


class Intruder:
    """Peer 1 of two, which sends what it likes."""

    def __init__(self, wires: Wires) -> None:
        self.end: WireTransport = wires.transport(1)
        self.number = 0
        self.heard: list[Any] = []

    async def come(self) -> None:
        await self.end.start(Ears(self._hear, lambda peer: None, lambda peer, why: None))

    async def _hear(self, sender: int, data: Any) -> None:
        self.heard.append(read_frame(data, 1 << 24))

    def send(self, kind: int, payload: Any, channel: str = "", tag: int = 0, number: int | None = None) -> None:
        self.number += 1
        self.end.inject(0, frame(kind, payload, self.number if number is None else number, channel, tag))

    def name(self, channel: str) -> None:
        self.send(Kind.CONTROL, {"what": "channel", "name": channel})

    async def settled(self) -> None:
        """All that was sent has been looked at."""
        self.send(Kind.REQUEST, "last", "echo")
        while not any(f.kind is Kind.REPLY and f.payload == "last" for f in self.heard):
            await asyncio.sleep(0.001)


def against(
    attack: Callable[[Intruder], Awaitable[None]], serve: Callable[[Peer], None] = lambda me: None
) -> RealWorld:
    """The world of an honest peer that answers, after an attack."""

    async def main() -> RealWorld:
        wires, begun, over = Wires(), asyncio.Event(), asyncio.Event()
        world, intruder = RealWorld(0, 2, wires.transport(0), limit=1 << 21), Intruder(wires)

        async def protocol(me: Peer) -> None:
            me.serve("echo", lambda sender, x: x)
            serve(me)
            begun.set()
            await over.wait()

        run = asyncio.ensure_future(world.run(protocol, company=1, linger=0.1))
        await asyncio.sleep(0)
        await intruder.come()
        intruder.name("echo")
        await begun.wait()
        await attack(intruder)
        await intruder.settled()
        over.set()
        intruder.send(Kind.CONTROL, {"what": "done"})
        await run
        return world

    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("number", [0, 1 << 63, (1 << 64) - 1])
def test_a_number_that_no_reply_could_carry_is_refused(number: int) -> None:
    async def slow(sender: int, x: Any) -> Any:
        raise ValueError("no")

    async def attack(intruder: Intruder) -> None:
        intruder.name("slow")
        intruder.send(Kind.REQUEST, 1, "slow", number=number)

    world = against(attack, lambda me: me.serve("slow", slow))
    assert world.refused == {1: 1}


def test_requests_that_are_being_handled_are_as_limited_as_messages_that_wait() -> None:
    started = 0

    async def never(sender: int, x: Any) -> None:
        nonlocal started
        started += 1
        await asyncio.Event().wait()

    async def attack(intruder: Intruder) -> None:
        intruder.name("never")
        for _ in range(3 * HELD):
            intruder.send(Kind.REQUEST, 1, "never")
        while started < HELD:
            await asyncio.sleep(0.001)
        for _ in range(HELD):
            intruder.send(Kind.REQUEST, 1, "never")
        intruder.send(Kind.REPLY, 1, "echo")  # it may still answer
        while intruder.end.wires.ends[0].queues[1].qsize():
            await asyncio.sleep(0.001)
        intruder.heard.append(read_frame(frame(Kind.REPLY, "last", 1), 1 << 20))  # the quota is full: no echo

    world = against(attack, lambda me: me.serve("never", never))
    assert started == HELD
    assert world.refused[1] >= 3 * HELD


def test_few_large_messages_wait_where_many_small_ones_may() -> None:
    async def attack(intruder: Intruder) -> None:
        for channel in ("large", "small"):
            intruder.name(channel)
        for _ in range(HELD_LARGE + 5):
            intruder.send(Kind.DATA, torch.zeros(100_000), "large")
        for _ in range(HELD_LARGE + 5):
            intruder.send(Kind.DATA, [None] * 2000, "large")  # few bytes, much memory
        for _ in range(HELD - HELD_LARGE - 1):
            intruder.send(Kind.DATA, 1, "small")

    world = against(attack)
    assert world.peer._boxes["large"].held(1) == HELD_LARGE
    assert world.peer._boxes["small"].held(1) == HELD - HELD_LARGE - 1
    assert world.refused[1] == 5 + HELD_LARGE + 5


def test_names_of_channels_are_counted_over_all_connections() -> None:
    reader = Reader(1000)
    for i in range(NAMES_LIMIT):
        reader.learn(f"channel {i}")
    again = Reader(1000, reader.names)
    assert again.name(channel_number("channel 3")) == "channel 3"
    again.learn("channel 7")  # what it has is no new one
    with pytest.raises(MalformedFrame, match="more than"):
        again.learn("another")


def test_the_log_grows_with_the_logarithm_of_what_a_peer_does() -> None:
    async def attack(intruder: Intruder) -> None:
        intruder.name("x")
        intruder.name("mine")
        for _ in range(100):
            intruder.send(Kind.REPLY, torch.tensor([float("nan")]), "x")
            intruder.send(Kind.DATA, 1, "never named")
            intruder.send(Kind.REQUEST, 1, "mine")

    world = against(attack, lambda me: me.serve("mine", lambda sender, x: x, asker=0))
    counts: dict[str, list[int]] = {}
    for entry in world.events:
        if "sender" in entry:
            counts.setdefault(entry["event"], []).append(entry["count"])
    assert set(counts) == {"dropped: NaN or infinity", "malformed frame refused", "malformed request dropped"}
    assert all(found == [1, 2, 4, 8, 16, 32, 64] for found in counts.values())
    assert world.refused == {1: 100}


def test_what_fails_in_this_peer_by_a_message_is_refused_as_that_message() -> None:
    def fails(sender: int, content: Any) -> None:
        raise KeyError("a fault of the watcher")

    async def attack(intruder: Intruder) -> None:
        intruder.send(Kind.CONTROL, {"what": "status"})

    def serve(me: Peer) -> None:
        me._world.on_control = fails  # type: ignore[attr-defined]

    world = against(attack, serve)
    assert world.refused == {1: 1}
    [entry] = [e for e in world.events if e["event"] == "malformed frame refused"]
    assert "KeyError" in entry["why"]


def test_structure_is_limited_and_weighs_what_it_takes() -> None:
    swelling = frame(Kind.DATA, [None] * (STRUCTURE_LIMIT + 1), 1)
    with pytest.raises(MalformedFrame, match="header of"):
        read_frame(swelling, 1 << 20)
    assert weight(swelling) > 100 * len(swelling)
    plain = frame(Kind.DATA, torch.zeros(1 << 16), 1)
    assert weight(plain) < 1.1 * len(plain)
    assert weight(b"") == 0


def test_a_peer_that_never_ends_is_not_waited_for_when_most_have_ended() -> None:
    async def main() -> set[int]:
        members = Members()
        for other in (1, 2, 3):
            members.came(other)
        members.begin()
        members.finished(1)
        members.finished(2)
        return await members.wait_for_all(0.05, me=0)

    assert asyncio.run(asyncio.wait_for(main(), 10)) == {3}


def test_peers_are_waited_for_while_most_go_on_and_clients_wait_for_their_server() -> None:
    async def waits(server: int | None) -> bool:
        members = Members()
        for other in (1, 2, 3):
            members.came(other)
        members.begin()
        members.finished(1)
        if server is not None:
            members.finished(2)
        waiting = asyncio.ensure_future(members.wait_for_all(0.01, me=0, server=server))
        await asyncio.wait([waiting], timeout=0.2)
        ended = waiting.done()
        waiting.cancel()
        return not ended

    assert asyncio.run(waits(None))
    assert asyncio.run(waits(3))


def test_a_commit_that_is_given_up_does_not_come_after_a_later_one(tmp_path: Path) -> None:
    class Slow(Store):
        first, go = threading.Event(), threading.Event()

        def save(self, state: bytes) -> None:
            if not self.first.is_set():
                self.first.set()
                self.go.wait(10)
            super().save(state)

    store = Slow(tmp_path)

    async def protocol(me: Peer) -> None:
        me.state["x"] = 1
        early = asyncio.ensure_future(me.commit())
        while not store.first.is_set():
            await asyncio.sleep(0.001)
        early.cancel()
        me.state["x"] = 2
        late = asyncio.ensure_future(me.commit())
        await asyncio.sleep(0.05)
        store.go.set()
        await late

    world = RealWorld(0, 1, Wires().transport(0), limit=1 << 20, store=store)
    asyncio.run(asyncio.wait_for(world.run(protocol), 20))
    kept = store.load()
    assert kept is not None
    assert kept["x"] == 2
