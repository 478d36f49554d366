"""The real world's peer: the same messages as in a simulated one, over frames, with peers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.engine import Peer, PeerFailed, PeerLost, SimulatedWorld
from shoal.net import RealWorld, Store
from tests.net.wires import Wires

Protocol = Callable[[Any], Coroutine[Any, Any, Any]]


def worlds(n: int, wires: Wires, **more: Any) -> list[RealWorld]:
    return [RealWorld(i, n, wires.transport(i), limit=1 << 20, seed=7, **more) for i in range(n)]


def run_all(protocol: Protocol, n: int, *, company: int | None = None, **more: Any) -> list[RealWorld]:
    async def main() -> list[RealWorld]:
        found = worlds(n, Wires(), **more)
        runs = (w.run(protocol, company=n - 1 if company is None else company, linger=1.0) for w in found)
        await asyncio.gather(*runs)
        return found

    return asyncio.run(asyncio.wait_for(main(), 30))


def ring(n: int) -> Callable[[int, int], tuple[int, ...]]:
    return lambda peer, round: tuple(sorted({(peer - 1) % n, (peer + 1) % n}))


async def averaging(me: Peer) -> None:
    """Gossip of one number, deterministic but for the order of messages."""
    if "x" not in me.state:
        me.state["x"] = torch.tensor([float(me.id)])
    async for r in me.rounds():
        replies = await me.exchange(me.state["x"], r)
        me.state["x"] = (me.state["x"] + sum(replies.values())) / (1 + len(replies))


def test_a_synchronous_protocol_gives_the_same_bits_as_in_the_simulated_world() -> None:
    n = 6
    simulated = SimulatedWorld(n, seed=7, neighbours=ring(n), rounds=5)
    simulated.run(averaging)
    expected = {peer.id: peer.state["x"] for peer in simulated._peers if peer is not None}
    real = run_all(averaging, n, neighbours=ring(n), rounds=5)
    assert {w.id: w.peer.state["x"] for w in real} == expected
    assert [w.ledger.total for w in real] == simulated.ledger.by_peer  # to the byte


def test_draws_are_those_of_the_simulated_world() -> None:
    drawn: dict[int, int] = {}

    async def draw(me: Peer) -> None:
        drawn[me.id] = me.key("anything", 3)

    SimulatedWorld(3, seed=7).run(draw)
    expected = dict(drawn)
    drawn.clear()
    run_all(draw, 3)
    assert drawn == expected


def test_requests_are_answered_and_a_refusal_is_told() -> None:
    async def protocol(me: Peer) -> None:
        if me.id == 0:
            me.serve("half", lambda sender, x: x / 2)
            return
        assert await me.request(0, torch.tensor([4.0]), "half") == torch.tensor([2.0])
        with pytest.raises(PeerLost, match="dropped the request"):
            await me.request(0, "no tensor", "half")  # its handler raises TypeError
        assert await me.request(0, torch.tensor([8.0]), "half") == torch.tensor([4.0])  # and it lives on

    world = run_all(protocol, 2)[0]
    [entry] = [e for e in world.events if e["event"] == "malformed request dropped"]
    assert entry["sender"] == 1
    assert "TypeError" in entry["why"]


def test_an_error_of_the_protocol_itself_fails_the_run() -> None:
    async def protocol(me: Peer) -> None:
        raise KeyError("a fault")

    with pytest.raises(PeerFailed, match=r"peer 0 failed at .*a fault"):
        run_all(protocol, 1)


def test_an_error_in_a_spawned_task_fails_the_run() -> None:
    async def fault() -> None:
        raise KeyError("a fault")

    async def protocol(me: Peer) -> None:
        me.spawn(fault())
        await asyncio.Event().wait()

    with pytest.raises(PeerFailed, match="a fault"):
        run_all(protocol, 1)


def test_nan_is_dropped_and_logged_and_its_sender_counts_as_absent() -> None:
    async def protocol(me: Peer) -> None:
        x = torch.full((2,), float("nan") if me.id == 1 else 1.0)
        me.state["got"] = sorted(await me.exchange(x, 0))

    found = run_all(protocol, 3)
    assert [w.peer.state["got"] for w in found] == [[2], [0, 2], [0]]
    assert [e["sender"] for e in found[0].events if e["event"].startswith("dropped: NaN")] == [1]


def with_cut(protocol: Protocol, act: Callable[[Wires, list[RealWorld]], Awaitable[None]], n: int, **more: Any) -> Any:
    async def main() -> list[RealWorld]:
        wires = Wires()
        found = worlds(n, wires, **more)
        runs = [asyncio.ensure_future(w.run(protocol, company=n - 1, linger=0.5)) for w in found]
        await act(wires, found)
        await asyncio.gather(*runs)
        return found

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_a_lost_connection_shows_as_peer_lost_and_a_new_one_serves_again() -> None:
    cut, mended, seen = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def protocol(me: Peer) -> None:
        if me.id == 0:
            me.serve("echo", lambda sender, x: x)
            with pytest.raises(PeerLost):
                await me.receive("never", from_=1)
            seen.set()
            return
        assert await me.request(0, 1, "echo") == 1
        cut.set()
        await mended.wait()
        assert await me.request(0, 2, "echo") == 2

    async def act(wires: Wires, found: list[RealWorld]) -> None:
        await cut.wait()
        wires.disconnect(0, 1)
        await seen.wait()
        wires.connect(0, 1)
        mended.set()

    with_cut(protocol, act, 2)


def test_an_exchange_that_a_broken_connection_lost_is_sent_again() -> None:
    begun = asyncio.Event()

    async def protocol(me: Peer) -> None:
        if me.id == 0:
            begun.set()
            me.state["got"] = await me.exchange("from 0", 0)
        else:
            await begun.wait()
            await asyncio.sleep(0)
            me._world.transport.wires.disconnect(0, 1)  # type: ignore[attr-defined]
            me._world.transport.wires.connect(0, 1)  # type: ignore[attr-defined]
            me.state["got"] = await me.exchange("from 1", 0)

    async def act(wires: Wires, found: list[RealWorld]) -> None:
        return

    found = with_cut(protocol, act, 2)
    assert found[1].peer.state["got"] == {0: "from 0"}


def test_a_second_life_goes_on_where_the_first_had_committed(tmp_path: Path) -> None:
    rounds_seen: list[list[int]] = [[], []]

    async def protocol(me: Peer) -> None:
        async for r in me.rounds():
            rounds_seen[me.lives - 1].append(r)
            me.state["sum"] = me.state.get("sum", 0) + r
            if me.lives == 1 and r == 3:
                raise RuntimeError("power cut")

    def live() -> RealWorld:
        return run_all(protocol, 1, rounds=6, store=Store(tmp_path))[0]

    with pytest.raises(PeerFailed):
        live()
    assert live().peer.state["sum"] == sum(range(6))
    assert rounds_seen == [[0, 1, 2, 3], [3, 4, 5]]


def test_who_comes_back_is_not_kept_waiting_by_those_who_have_finished(tmp_path: Path) -> None:
    """Peer 1 dies before its last round; peer 0 has finished by the time it is back, and waits for it to end."""

    async def main() -> int:
        wires = Wires()
        first, second = worlds(2, wires, rounds=3)
        second._store = Store(tmp_path)
        dead = asyncio.Event()

        async def protocol(me: Peer) -> None:
            async for r in me.rounds():
                if me.id == 1 and me.lives == 1 and r == 2:
                    wires.disconnect(0, 1)
                    dead.set()
                    await asyncio.Event().wait()
                await me.exchange(r, r)

        run = asyncio.ensure_future(first.run(protocol, company=1, linger=20.0))
        life = asyncio.ensure_future(second.run(protocol, company=1, linger=20.0))
        await dead.wait()
        life.cancel()
        await asyncio.wait([life])
        while not first.members.done:
            await asyncio.sleep(0.01)
        again = RealWorld(1, 2, wires.transport(1), limit=1 << 20, seed=7, rounds=3, store=Store(tmp_path))
        await again.run(protocol, company=1, linger=20.0)
        await run
        return int(again.peer.state["round"])

    assert asyncio.run(asyncio.wait_for(main(), 15)) == 3


def test_only_who_comes_when_others_have_begun_is_late() -> None:
    async def main() -> list[bool]:
        wires, late = Wires(), [False] * 3
        found = worlds(3, wires)
        first_two = asyncio.Event()

        async def protocol(me: Peer) -> None:
            late[me.id] = me.is_late
            if me.id == 2:
                first_two.set()
            await first_two.wait()

        runs = [asyncio.ensure_future(found[i].run(protocol, company=1, linger=0.5)) for i in (0, 1)]
        while not (found[0].members.begun and found[1].members.begun):
            await asyncio.sleep(0.01)
        await asyncio.gather(found[2].run(protocol, company=2, linger=0.5), *runs)
        return late

    assert asyncio.run(asyncio.wait_for(main(), 10)) == [False, False, True]


def test_who_is_stopped_says_what_it_has_to_say_and_who_finishes_does_not() -> None:
    async def main() -> None:
        found = worlds(2, Wires())

        async def protocol(me: Peer) -> None:
            me.at_leave(lambda: me.send(1 - me.id, "I leave", "farewell"))
            if me.id == 0:
                await asyncio.Event().wait()
            me.state["heard"] = await me.receive("farewell", from_=0)

        runs = [asyncio.ensure_future(w.run(protocol, company=1, linger=0.5)) for w in found]
        while not (hasattr(found[0], "peer") and found[0].peer._farewells and found[1].members.begun):
            await asyncio.sleep(0.01)
        runs[0].cancel()
        await asyncio.wait(runs)
        assert found[1].peer.state["heard"] == (0, "I leave")
        assert "farewell" not in found[1].ledger.channels

    asyncio.run(asyncio.wait_for(main(), 10))
