"""Deadlock and livelock: reports that name every blocked peer and what it awaits."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.engine import Crash, Deadlock, Link, Livelock
from tests.engine.worlds import run


def report_of(peers: int, protocol: Any, error: type[Exception] = Deadlock, **settings: Any) -> str:
    with pytest.raises(error) as caught:
        run(peers, protocol, **settings)
    return str(caught.value)


def test_a_deadlock_lists_what_every_blocked_peer_awaits_in_which_round_and_where() -> None:
    async def protocol(me: Any) -> None:
        async for r in me.rounds(3):
            await me.sleep(0.5)
            if r < 2:
                continue
            if me.id == 0:
                await me.receive()
            elif me.id == 1:
                await me.receive("gossip", from_=0)
            elif me.id == 2:
                await me.request(3, None, "train")
            elif me.id == 3:
                await me.exchange(None, r)
            elif me.id == 4:
                await me.request_all([0, 1, 3], None, "norms")
            elif me.id == 5:
                await asyncio.Event().wait()

    report = report_of(7, protocol)
    head, *lines = report.splitlines()
    assert head == "deadlock at 1.5 s: every peer waits and nothing is on its way"
    for peer, awaited in enumerate(
        [
            "receive('data')",
            "receive('gossip', from_=0)",
            "request('train') to peer 3",
            "exchange('exchange', round 2) from peers 0, 1, 2, 4, 5, 6",
            "request_all('norms') to peers 0, 1, 3",
            "something outside the engine",
        ]
    ):
        assert lines[peer].startswith(f"  peer {peer}, round 2: {awaited} (test_engine_reports.py:")
    assert len(lines) == 6, "peer 6 has finished and is not blocked"


def test_a_deadlock_names_those_who_are_not_here_and_why() -> None:
    async def protocol(me: Any) -> None:
        await me.sleep(10.0)
        await me.receive()

    assert "  peer 1: crashed at 2.5 s" in report_of(3, protocol, faults=[Crash(2.5, 1)])


def test_several_waits_of_one_peer_are_all_listed() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            await asyncio.gather(me.receive("a"), me.receive("b"), me.request(1, None, "c"))

    report = report_of(2, protocol)
    assert "peer 0, round 0: receive('a'); receive('b'); request('c') to peer 1" in report


def test_a_wait_that_has_ended_is_not_listed() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            try:
                async with asyncio.timeout(1.0):
                    await me.receive("ended")
            except TimeoutError:
                pass
            await me.receive("present")
        else:
            me.send(0, None, "elsewhere")

    report = report_of(2, protocol)
    assert "present" in report
    assert "ended" not in report


def test_long_lists_are_cut_and_counted() -> None:
    async def protocol(me: Any) -> None:
        if me.id:
            await me.receive()
        else:
            await me.exchange(None, 0)

    lines = report_of(50, protocol).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert "from peers 1, 2, 3, 4, 5, 6, 7, 8 and 41 more" in lines[1]
    assert lines[-1] == "  ... and 30 more"


def test_the_report_points_at_the_protocols_own_line_even_inside_asyncio() -> None:
    async def protocol(me: Any) -> None:
        async with asyncio.timeout(math.inf):
            await asyncio.sleep(math.inf)  # this line

    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "# this line" in text)
    assert f"test_engine_reports.py:{line}" in report_of(1, protocol)


def test_the_clock_of_a_deadlock_is_not_moved_by_timeouts_that_were_cancelled() -> None:
    async def protocol(me: Any) -> None:
        async with asyncio.timeout(1000.0):
            await me.sleep(2.0)
        await me.receive()

    assert report_of(1, protocol).startswith("deadlock at 2 s")


def test_peers_that_only_wait_for_the_clock_are_a_livelock() -> None:
    async def protocol(me: Any) -> None:
        while True:
            await me.sleep(0.25)

    report = report_of(2, protocol, Livelock, patience=500)
    assert "no peer has finished a round, computed, recorded or said anything new" in report
    assert "peer 0, round 0: sleep(0.25)" in report
    assert "peer 1, round 0: sleep(0.25)" in report


def test_peers_that_send_each_other_the_same_message_for_ever_are_a_livelock() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            me.send(1, "ball")
        while True:
            await me.receive()
            me.send(1 - me.id, "ball")

    for links in (None, [Link(latency=0.1)] * 2):
        assert "receive('data')" in report_of(2, protocol, Livelock, patience=500, links=links)


def test_a_peer_that_yields_for_ever_without_time_passing_is_a_livelock() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 1:
            await me.sleep(3.0)
            while True:
                await asyncio.sleep(0)
        await me.receive()

    report = report_of(2, protocol, Livelock, patience=500)
    assert report.startswith("livelock at 3 s")
    assert "at this one instant" in report


def test_whoever_makes_progress_is_no_livelock_however_long_it_takes() -> None:
    async def rounds(me: Any) -> None:
        async for _ in me.rounds(100):
            for _ in range(50):
                await me.sleep(1.0)

    async def records(me: Any) -> None:
        for i in range(5000):
            await me.sleep(1.0)
            if i % 50 == 0:
                me.record("alive", i)

    async def computes(me: Any) -> None:
        for _ in range(100):
            for _ in range(50):
                await me.sleep(1.0)
            await me.compute(torch.sin, torch.zeros(1))

    for protocol in (rounds, records, computes):
        assert run(1, protocol, patience=200).now() == 5000.0


def test_a_crowd_of_sleepers_with_one_worker_is_no_livelock() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            async for _ in me.rounds(50):
                await me.sleep(1.0)
        else:
            for _ in range(500):
                await me.sleep(0.1)

    assert run(10, protocol, patience=400).now() == pytest.approx(50.0)


def test_an_end_in_time_is_no_livelock() -> None:
    async def protocol(me: Any) -> None:
        while True:
            await me.sleep(1.0)

    assert run(1, protocol, until=2000.0, patience=5000).now() == 2000.0


@pytest.mark.parametrize("how", ["receive", "serve", "exchange"])
def test_peers_that_only_tell_each_other_new_things_for_long_are_no_livelock(how: str) -> None:
    async def protocol(me: Any) -> None:
        me.state["sum"] = 0
        if how == "serve":
            me.serve("add", lambda sender, payload: payload + 1)
        for i in range(3000):
            if how == "receive" and me.id == 0:
                me.state["sum"] += (await me.receive()).payload
            elif how == "receive":
                await me.sleep(0.1)
                me.send(0, i)
            elif how == "serve" and me.id == 0:
                assert await me.request(1, i, "add") == i + 1
            elif how == "exchange":
                await me.exchange("ready", i)

    world = run(2, protocol, patience=300, links=[Link(latency=0.1)] * 2)
    assert world.loop.fired > 2900
