"""Transports on one loop, each with an endpoint of its own: frames, order, who is up and down."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from shoal.net.iroh import IrohTransport, NetOptions, Refused
from shoal.net.iroh.endpoint import bind, close
from shoal.net.iroh.identity import public
from shoal.net.iroh.link import GOODBYE, LARGE, RECORD, ROSTER, STRIPED
from shoal.net.iroh.slot import Slot
from tests.net.iroh.party import EXPERIMENT, QUICK, Guest, Party, Rogue, key, run, secret


def test_frames_go_both_ways_and_keep_their_bytes() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host, other = await party.all_started(2)
            draws = random.Random(1)
            sizes = [0, 1, 1000, LARGE - 1, LARGE, LARGE + 1, 40_000_000]
            frames = [draws.randbytes(size) for size in sizes]
            for frame in frames:
                assert host.transport.send(1, frame[: len(frame) // 3], frame[len(frame) // 3 :])
                assert other.transport.send(0, b"", frame)
            await other.until(lambda: len(other.heard) == len(frames))
            await host.until(lambda: len(host.heard) == len(frames))
            assert other.heard == [(0, frame) for frame in frames]
            assert host.heard == [(1, frame) for frame in frames]

    run(main(), 60)


@pytest.mark.parametrize("streams", [1, 3, 8])
def test_small_and_large_frames_keep_their_order(streams: int) -> None:
    async def main() -> None:
        async with Party(2, NetOptions(streams=streams)) as party:
            host, other = await party.all_started(2)
            draws = random.Random(streams)
            frames = []
            for i in range(120):
                size = draws.choice([10, 1000, 100_000, LARGE - 8, LARGE, 3 * LARGE + 7]) if i % 10 else 5 * LARGE
                frames.append(i.to_bytes(8, "big") + bytes([i]) * (size - 8))
            for frame in frames:
                assert host.transport.send(1, frame[:5], frame[5:])
            await other.until(lambda: len(other.heard) == len(frames))
            assert [data for _, data in other.heard] == frames

    run(main(), 60)


def test_everybody_connects_with_everybody_once() -> None:
    async def main() -> None:
        async with Party(5) as party:
            guests = await party.all_started(5)
            assert [guest.transport.id for guest in guests] == [0, 1, 2, 3, 4]
            for guest in guests:
                for to in guest.here:
                    assert guest.transport.send(to, bytes([guest.transport.id]), bytes([to]))
            for guest in guests:
                await guest.until(lambda guest=guest: len(guest.heard) == 4)
                me = guest.transport.id
                assert sorted(guest.heard) == [(i, bytes([i, me])) for i in range(5) if i != me]
                assert not [entry for entry in guest.story if entry[0] == "down"]

    run(main(), 60)


def test_of_two_that_dial_at_once_one_connection_remains_and_no_frame_is_lost() -> None:
    async def once(swap: bool) -> None:
        async with Party(2) as party:
            guests = [await party.host(), await party.join(1)]
            await asyncio.gather(*(guest.start() for guest in (reversed(guests) if swap else guests)))
            for me, other in ((0, 1), (1, 0)):
                await guests[me].sees(other)
                assert guests[me].transport.send(other, b"first", b"")
            for guest in guests:
                await guest.until(lambda guest=guest: guest.heard)
                assert [entry[0] for entry in guest.story] == ["up"]

    for i in range(6):
        run(once(bool(i % 2)))


def test_both_sides_agree_on_which_of_two_attempts_goes_on() -> None:
    """Every order of events of two that dial at once: exactly one attempt survives."""

    class Call:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    for low_asked in (False, True):
        for high_asked in (False, True):
            low, high = Slot(), Slot()
            low.call, high.call = Call(), Call()  # type: ignore[assignment]
            low.asked, high.asked = low_asked, high_asked
            if high_asked:  # its hello reaches the one with the lower key
                low.give_way(preferred=False)
            if low_asked:
                high.give_way(preferred=True)
            survivors = [not slot.call.cancelled for slot in (low, high)]  # type: ignore[union-attr]
            assert any(survivors)
            if low_asked and high_asked:
                assert survivors == [True, False]


def test_what_waits_is_sent_before_a_goodbye_and_nobody_dials_who_has_left() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host, other = await party.all_started(2)
            frames = [bytes([i]) * (LARGE + i if i % 3 == 0 else 50_000) for i in range(30)]
            for frame in frames:
                assert host.transport.send(1, b"", frame)
            await host.transport.stop(20.0)
            await other.sees()
            assert [data for _, data in other.heard] == frames
            assert other.downs(0) == ["said goodbye"]
            slot = other.transport._slots[0]
            assert slot.left
            assert slot.call is None
            assert not other.transport.send(0, b"", b"nobody is there")

    run(main(), 60)


def test_who_leaves_without_patience_has_left_all_the_same() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host, other = await party.all_started(2)
            other.open.clear()  # so that it never comes to the goodbye
            assert host.transport.send(1, b"", b"something")
            await host.transport.stop(0.0)
            await other.sees()
            assert other.downs(0) == ["said goodbye"]
            assert other.transport._slots[0].left
            other.open.set()

    run(main())


def test_frames_of_two_that_leave_at_once_arrive() -> None:
    async def main() -> None:
        async with Party(2) as party:
            guests = await party.all_started(2)
            frames = [bytes([i]) * 400_000 for i in range(10)]
            for frame in frames:
                guests[0].transport.send(1, b"", frame)
                guests[1].transport.send(0, b"", frame)
            await asyncio.gather(*(guest.transport.stop(20.0) for guest in guests))
            for guest in guests:
                assert [data for _, data in guest.heard] == frames

    run(main(), 60)


def test_who_has_left_is_up_again_when_it_comes_back() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host, other = await party.all_started(2)
            await other.transport.stop(5.0)
            await host.sees()
            again = await (await party.join(1)).start()
            await host.sees(1)
            await again.sees(0)
            assert again.transport.id == 1
            assert host.transport.send(1, b"", b"again")
            await again.until(lambda: again.heard)

    run(main())


def test_a_broken_connection_is_made_again() -> None:
    async def main() -> None:
        async with Party(3) as party:
            guests = await party.all_started(3)
            link = guests[0].transport._slots[2].link
            assert link is not None
            link.connection.close(7, b"a cut")
            await guests[0].until(lambda: guests[0].ups(2) == 2)
            await guests[2].until(lambda: guests[2].ups(0) == 2)
            assert "a cut" in guests[2].downs(0)[0]
            assert guests[1].ups(0) == guests[1].ups(2) == 1
            assert guests[0].transport.send(2, b"", b"after")
            await guests[2].until(lambda: (0, b"after") in guests[2].heard)

    run(main())


def test_who_takes_nothing_slows_the_sender_down_and_is_dropped_when_too_much_waits() -> None:
    bound = 8 << 20

    async def main() -> None:
        async with Party(2, NetOptions(queue=bound)) as party:
            host, other = await party.host(), await party.join(1)
            host.transport.limit = other.transport.limit = LARGE
            await host.start()
            await other.start()
            await host.sees(1)
            other.open.clear()
            frame, sent = bytes(LARGE - 100), 0
            while host.transport.send(1, b"", frame):
                sent += 1
                await asyncio.sleep(0.001)
                assert sent < 100, "back-pressure never reached the sender"
            assert sent * len(frame) >= bound  # that much may wait
            await host.until(lambda: host.downs(1))
            assert "wait to be sent" in host.downs(1)[0]
            other.open.set()
            await host.until(lambda: host.ups(1) == 2)
            assert host.transport.send(1, b"", b"again")
            await other.until(lambda: (0, b"again") in other.heard)
            assert [data for _, data in other.heard if data != b"again"] == [frame] * (len(other.heard) - 1)

    run(main(), 60)


def test_an_own_frame_over_the_limit_is_an_error() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host, _ = await party.all_started(2)
            host.transport.limit = 100
            with pytest.raises(ValueError, match="frame of 101 bytes is over the limit of 100"):
                host.transport.send(1, b"x", bytes(100))

    run(main())


def junk() -> dict[str, tuple[bytes, str]]:
    """What a member may write that is against the rules, and what is said of it."""
    return {
        "ten gigabytes": (RECORD.pack(STRIPED, 10_000_000_000) + b"\x08", "10000000000 bytes is over the limit"),
        "a small frame too large": (RECORD.pack(0, LARGE), "is over the limit"),
        "an unknown kind": (RECORD.pack(77, 0), "unknown kind 77"),
        "no streams": (RECORD.pack(STRIPED, LARGE) + b"\x00", "a frame over 0 streams"),
        "too many streams": (RECORD.pack(STRIPED, LARGE) + b"\xff", "a frame over 255 streams"),
        "no roster": (RECORD.pack(ROSTER, 3) + b"abc", "roster: "),
        "deep nesting": (RECORD.pack(ROSTER, 100_000) + b"\x91" * 100_000, "roster: "),
        "too long a roster": (RECORD.pack(ROSTER, 1 << 40), "is over the limit"),
        "noise": (random.Random(5).randbytes(4096), ""),
    }


@pytest.mark.parametrize("what", junk())
def test_who_breaks_the_rules_is_cut_off_and_the_others_go_on(what: str) -> None:
    async def main() -> None:
        data, said = junk()[what]
        async with Party(3) as party:
            host, other = await party.all_started(2)
            rogue = await Rogue.enter(party, 2, host)
            await host.sees(1, 2)
            await rogue.sender.write_all(data)
            await host.sees(1)
            assert said in host.downs(2)[0]
            assert host.transport.send(1, b"", b"still here")
            await other.until(lambda: other.heard)
            await rogue.leave()

    run(main())


def test_who_broke_the_rules_has_to_wait() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host = await (await party.host()).start()
            rogue = await Rogue.enter(party, 1, host)
            await host.sees(1)
            await rogue.sender.write_all(RECORD.pack(77, 0))
            await host.sees()
            mine, theirs = host.transport.roster[1], host.transport.roster[0]
            with pytest.raises(Refused, match="broke the rules of the connection a moment ago") as caught:
                await Rogue.dial(rogue.endpoint, 1, theirs, mine, party.ticket.digest)
            assert not caught.value.final
            assert host.ups(1) == 1
            await rogue.leave()

    run(main())


def test_a_forged_roster_entry_is_against_the_rules() -> None:
    async def main() -> None:
        import msgspec

        async with Party(4) as party:
            host, _ = await party.all_started(2)
            rogue = await Rogue.enter(party, 2, host)
            await host.sees(1, 2)
            mine = host.transport.roster[2]
            entry = msgspec.structs.replace(mine, id=3, key=key(3)).sealed(secret(3))
            data = msgspec.msgpack.encode([entry])
            await rogue.sender.write_all(RECORD.pack(ROSTER, len(data)) + data)
            await host.sees(1)
            assert "has not signed" in host.downs(2)[0]
            assert 3 not in host.transport.roster
            await rogue.leave()

    run(main())


def test_a_peer_without_signs_of_life_is_given_up() -> None:
    async def main() -> None:
        async with Party(2, QUICK) as party:
            host = await (await party.host()).start()
            rogue = await Rogue.enter(party, 1, host)
            await host.sees(1)
            await host.sees()
            assert host.downs(1) == ["silent for 0.5 s"]
            await rogue.leave()

    run(main())


def test_signs_of_life_keep_an_idle_connection() -> None:
    async def main() -> None:
        async with Party(2, QUICK) as party:
            guests = await party.all_started(2)
            await asyncio.sleep(4 * QUICK.dead)
            assert all([entry[0] for entry in guest.story] == ["up"] for guest in guests)

    run(main())


def test_one_that_stood_still_itself_does_not_blame_the_others() -> None:
    """Both peers are on this loop: while it is blocked, neither hears the other."""

    async def main() -> None:
        async with Party(2, QUICK) as party:
            guests = await party.all_started(2)
            import time

            time.sleep(4 * QUICK.dead)
            await asyncio.sleep(2 * QUICK.dead)
            assert all([entry[0] for entry in guest.story] == ["up"] for guest in guests)

    run(main())


def test_a_goodbye_is_answered_even_by_who_has_more_to_say() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host = await (await party.host()).start()
            rogue = await Rogue.enter(party, 1, host)
            await host.sees(1)
            assert host.transport.send(1, b"", b"more")
            await rogue.sender.write_all(RECORD.pack(GOODBYE, 0))
            expected = RECORD.pack(0, 4) + b"more" + RECORD.pack(GOODBYE, 0)
            assert await rogue.receiver.read_exact(len(expected)) == expected
            await host.sees()
            assert host.downs(1) == ["said goodbye"]
            await rogue.leave()

    run(main())


def test_a_second_process_with_the_same_key_is_told_so() -> None:
    async def main() -> None:
        async with Party(2) as party:
            host, other = await party.all_started(2)
            with pytest.raises(ConnectionError, match="does it run twice"):
                await party.join(1, timeout=1.5)
            with pytest.raises(ConnectionError, match="does it run twice"):
                await party.join(0, other.transport.ticket(), timeout=1.5)
            with pytest.raises(ValueError, match="it is this peer's own"):
                await party.join(0)
            endpoint = await bind(secret(1), NetOptions())
            mine, theirs = host.transport.roster[1], host.transport.roster[0]
            with pytest.raises(Refused, match="does it run twice"):
                await Rogue.dial(endpoint, 1, theirs, mine, party.ticket.digest)
            await close(endpoint)
            assert host.ups(1) == other.ups(0) == 1

    run(main())


def test_a_peer_tells_the_others_where_it_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.net.iroh.transport.WANDER", 0.05)

    async def main() -> None:
        async with Party(3) as party:
            guests = await party.all_started(3)
            await guests[1].transport._endpoint.add_external_addr("192.0.2.7:4000")
            for guest in guests:
                while "192.0.2.7:4000" not in guest.transport.roster[1].addresses:
                    await asyncio.sleep(0.02)

    run(main())


def test_hosting_checks_its_arguments() -> None:
    async def main() -> None:
        async def host(id: int, peers: int, **more: Any) -> None:
            more = {"secret": secret(0), "experiment": EXPERIMENT} | more
            guest = Guest(await IrohTransport.host(id, peers, **more))
            await guest.transport.stop(0.0)

        with pytest.raises(ValueError, match="id: got 3; a number from 0 to 2"):
            await host(3, 3)
        with pytest.raises(ValueError, match="experiment: has"):
            await host(0, 3, experiment=bytes((1 << 20) + 1))
        with pytest.raises(ValueError, match="allow: has 1 keys; there are 3 peers"):
            await host(0, 3, options=NetOptions(allow=(public(secret(0)),)))
        with pytest.raises(ValueError, match="allow: this peer's key is"):
            await host(1, 2, options=NetOptions(allow=(key(0), key(1))))
        with pytest.raises(ValueError, match="secret: got 5 bytes"):
            await host(0, 3, secret=b"short")
        with pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.1:9"):
            await host(0, 3, options=NetOptions(bind="192.0.2.1:9"))

    run(main())
