"""Exchange: rounds meet rounds; who is early is kept, who is late, lost or behind is absent, and nobody hangs."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine import Crash, Deadlock, Leave, Link, Partition, PeerFailed, Restart
from shoal.engine.mailbox import REFUSED, Meeting
from tests.engine.worlds import run

Replies = dict[tuple[int, int], dict[int, Any]]  # (peer, round) -> what exchange returned


def exchanges(rounds: int, seconds: Any = 0.0, **options: Any) -> tuple[Replies, Any]:
    """A protocol that works for `seconds(peer, round)` and then exchanges (peer, round), and what it saw."""
    replies: Replies = {}

    async def protocol(me: Any) -> None:
        async for r in me.rounds(rounds):
            await me.sleep(seconds(me.id, r) if callable(seconds) else seconds)
            replies[me.id, r] = await me.exchange((me.id, r), r, **options)

    return replies, protocol


def neighbours(out: dict[int, tuple[int, ...]]) -> tuple[Any, Any]:
    into = {i: tuple(j for j in sorted(out) if i in out[j]) for i in out}
    return (lambda i, r: out[i]), (lambda i, r: into[i])


# -- without faults


@st.composite
def directed_graphs(draw: st.DrawFn) -> dict[int, tuple[int, ...]]:
    peers = draw(st.integers(1, 6))
    out = {}
    for i in range(peers):
        others = [j for j in range(peers) if j != i]
        out[i] = tuple(sorted(draw(st.sets(st.sampled_from(others))))) if others else ()
    return out


@given(directed_graphs(), st.lists(st.integers(0, 9), min_size=36, max_size=36), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_round_brings_exactly_the_in_neighbours_of_that_round_however_fast_they_are(
    out: dict[int, tuple[int, ...]], seconds: list[int], seed: int
) -> None:
    replies, protocol = exchanges(5, lambda i, r: seconds[(5 * i + r) % 36])
    to, from_ = neighbours(out)
    link = Link(latency=0.5, jitter=2.0, up=3000.0, down=5000.0)
    run(len(out), protocol, neighbours=to, in_neighbours=from_, links=[link] * len(out), seed=seed)
    assert replies == {(i, r): {j: (j, r) for j in from_(i, r)} for i in out for r in range(5)}


def test_replies_are_in_order_of_the_senders_whoever_was_first() -> None:
    replies, protocol = exchanges(1, lambda i, r: 10.0 - i)
    run(6, protocol)
    assert all(list(got) == sorted(got) for got in replies.values())


def test_neighbours_may_change_from_round_to_round() -> None:
    replies, protocol = exchanges(6, lambda i, r: 0.1 * i)
    run(
        4,
        protocol,
        neighbours=lambda i, r: ((i + 1 + r % 3) % 4,),
        in_neighbours=lambda i, r: ((i - 1 - r % 3) % 4,),
    )
    assert all(list(got) == [(i - 1 - r % 3) % 4] for (i, r), got in replies.items())
    assert len(replies) == 24


def test_duplicates_change_nothing() -> None:
    replies, protocol = exchanges(20, lambda i, r: 0.05 * i)
    run(4, protocol, links=[Link(latency=0.1, duplication=0.5)] * 4)
    assert replies == {(i, r): {j: (j, r) for j in range(4) if j != i} for i in range(4) for r in range(20)}


def test_two_channels_do_not_disturb_each_other_and_one_channel_holds_one_exchange_at_a_time() -> None:
    got: dict[int, list[Any]] = {}

    async def protocol(me: Any) -> None:
        got[me.id] = await asyncio.gather(
            me.exchange("models", 0, channel="models"), me.exchange("norms", 0, channel="norms")
        )

    run(2, protocol)
    assert got == {i: [{1 - i: "models"}, {1 - i: "norms"}] for i in (0, 1)}

    async def twice(me: Any) -> None:
        await asyncio.gather(me.exchange(1, 0), me.exchange(2, 1))

    with pytest.raises(PeerFailed, match="already in an exchange on channel 'exchange'"):
        run(2, twice)


def test_without_neighbours_exchange_returns_nothing_at_once() -> None:
    replies, protocol = exchanges(3)
    world = run(2, protocol, neighbours=lambda i, r: ())
    assert set(map(len, replies.values())) == {0}
    assert world.now() == 0.0


# -- late


def test_at_the_timeout_who_has_not_come_is_absent_and_what_comes_late_is_not_taken_for_the_next_round() -> None:
    replies: Replies = {}
    times: list[float] = []

    async def protocol(me: Any) -> None:
        for r in range(3):
            if me.id == 1 and r == 0:
                await me.sleep(5.0)
            replies[me.id, r] = await me.exchange((me.id, r), r, timeout=2.0)
            if me.id == 0:
                times.append(me.now())
                await me.sleep(1.0)

    run(3, protocol, links=[Link(latency=0.25)] * 3)
    assert times[0] == 2.0
    assert replies[0, 0] == {2: (2, 0)}
    for (_, r), got in replies.items():
        assert all(reply == (j, r) for j, reply in got.items())


def test_who_is_ahead_is_not_waited_for() -> None:
    """Its message for this round was lost; since it has sent one for a later round, no other will come."""
    times: dict[int, float] = {}

    async def protocol(me: Any) -> None:
        if me.id == 0:
            await me.exchange(0, 0, timeout=0.5)
            await me.exchange(0, 1, timeout=0.5)
            await me.sleep(100.0)
        else:
            await me.sleep(50.0)
            assert await me.exchange(1, 0, timeout=10.0) == {}
            times[0] = me.now()
            assert await me.exchange(1, 1, timeout=10.0) == {0: 0}
            times[1] = me.now()

    # what is sent before 0.75 s is lost in the partition
    run(2, protocol, faults=[Partition(0.0, 0.75, ((0,),))], links=[Link(detection=0.9)] * 2)
    assert times == {0: 50.0, 1: 50.0}


def test_a_straggler_that_fell_behind_does_not_cost_the_others_a_timeout_in_every_round() -> None:
    rounds: list[float] = []

    async def protocol(me: Any) -> None:
        for r in range(30):
            await me.sleep(10.0 if me.id == 2 else 0.1)
            await me.exchange(me.id, r, timeout=1.0)
            if me.id == 0:
                rounds.append(me.now())

    run(3, protocol)
    assert rounds[0] == 1.1
    assert rounds[-1] < 10.0 + 30 * 0.1 + 1.0


# -- lost


def test_a_peer_that_crashes_is_absent_after_the_detection_time_and_at_once_from_then_on() -> None:
    replies: Replies = {}
    ends: list[float] = []

    async def protocol(me: Any) -> None:
        for r in range(3):
            await me.sleep(1.0)
            replies[me.id, r] = await me.exchange((me.id, r), r)
            if me.id == 0:
                ends.append(me.now())

    run(3, protocol, links=[Link(detection=6.0)] * 3, faults=[Crash(1.5, 2)])
    assert [list(replies[0, r]) for r in range(3)] == [[1, 2], [1], [1]]
    assert ends == [1.0, 7.5, 8.5]


def test_a_peer_that_leaves_is_absent_after_one_latency() -> None:
    ends: list[float] = []

    async def protocol(me: Any) -> None:
        await me.sleep(1.0 if me.id == 0 else 10.0)
        await me.exchange(me.id, 0)
        ends.append(me.now())

    run(2, protocol, links=[Link(latency=0.25, detection=33.0)] * 2, faults=[Leave(2.0, 1)])
    assert ends == [2.25]


def test_where_messages_get_lost_exchange_waits_for_the_patience_of_the_link() -> None:
    ends: list[float] = []

    async def protocol(me: Any) -> None:
        assert len(await me.exchange(me.id, 0)) < 19
        ends.append(me.now())

    run(20, protocol, links=[Link(loss=0.5, patience=7.0)] * 20)
    assert ends == [7.0] * 20


def test_a_neighbour_that_is_there_and_says_nothing_costs_two_timeouts_and_not_one_a_round() -> None:
    replies: Replies = {}

    async def protocol(me: Any) -> None:
        if me.id == 2:
            await me.sleep(30.5)
        for r in range(40):
            await me.sleep(1.0)
            replies[me.id, r] = await me.exchange((me.id, r), r, timeout=10.0)
            if me.id < 2 and r == 5:
                assert me.now() == pytest.approx(26.0)
        assert me.now() < 80.0

    run(3, protocol)
    assert all(replies[0, r] == {1: (1, r)} for r in range(6))


# -- back, and behind


def test_a_peer_that_starts_over_does_not_hold_up_the_others() -> None:
    replies, protocol = exchanges(40, 0.1)
    faults = [Crash(2.05, 1), Restart(2.5, 1, empty=True)]
    world = run(3, protocol, links=[Link(latency=0.01, detection=1.0)] * 3, faults=faults)
    lone = run(3, exchanges(40, 0.1)[1], links=[Link(latency=0.01, detection=1.0)] * 3)
    # the newcomer does its 40 rounds alone after the others have finished; those lose the detection time at most
    assert world.now() <= 2.5 + 40 * 0.11 + 1.0
    assert lone.now() == pytest.approx(40 * 0.11)
    assert {r for peer, r in replies if peer == 1} == set(range(40))


def catching_up(rounds: int, lie: int | None = None, told: Any = None) -> tuple[Replies, Any]:
    """The like of `exchanges`, of peers that catch up; peer 0 says that it is in round `lie` if that is given."""
    replies: Replies = {}

    async def protocol(me: Any) -> None:
        def adopt(said: dict[int, Any]) -> None:
            if told is not None:
                told.append((me.id, said))

        async for r in me.rounds(rounds, catch_up=adopt):
            await me.sleep(0.1)
            replies[me.id, r] = await me.exchange((me.id, r), r if lie is None or me.id else lie)

    return replies, protocol


@pytest.mark.parametrize("empty", [False, True])
def test_a_peer_that_catches_up_leaves_out_what_it_missed_and_is_counted_again(empty: bool) -> None:
    told: list[Any] = []
    replies, protocol = catching_up(40, told=told)
    faults = [Crash(1.15, 1), Restart(2.5, 1, empty=empty)]
    world = run(4, protocol, links=[Link(latency=0.01, detection=0.2)] * 4, faults=faults)
    own = sorted(r for peer, r in replies if peer == 1)
    left_out = set(range(40)) - set(own)
    assert max(own) == 39
    assert 10 <= len(left_out) <= 16  # 1.35 s away, rounds of 0.11 s and 0.2 s once
    last = max(left_out)
    assert told == [(1, {j: (j, last) for j in (0, 2, 3)})]
    alone = [r for r in own if r > last and not replies[1, r]]
    assert not alone
    missed = [r for r in range(last + 3, 40) if 1 not in replies[0, r]]
    assert not missed
    assert world.now() <= 40 * 0.11 + 0.2 + 0.2


def test_peers_that_are_late_together_find_the_others_and_not_each_other() -> None:
    replies, protocol = catching_up(60)
    faults = [Crash(0.6, 1), Crash(1.6, 2), Restart(3.0, 2), Restart(3.0, 1)]
    run(5, protocol, links=[Link(latency=0.01, detection=0.2)] * 5, faults=faults)
    for late in (1, 2):
        assert max(r for peer, r in replies if peer == late) == 59
        assert set(replies[0, 50]) >= {late}


def test_a_single_liar_does_not_send_a_late_peer_to_the_end() -> None:
    replies, protocol = catching_up(40, lie=10**6)
    run(4, protocol, links=[Link(latency=0.01, detection=0.2)] * 4, faults=[Crash(1.15, 1), Restart(1.75, 1)])
    own = [r for peer, r in replies if peer == 1]
    assert len(own) >= 30


def test_who_was_never_away_leaves_nothing_out_however_slow_it_is() -> None:
    replies: Replies = {}

    async def slow(me: Any) -> None:
        async for r in me.rounds(12, catch_up=lambda said: pytest.fail("it was never away")):
            await me.sleep(1.0 if me.id == 1 else 0.1)
            replies[me.id, r] = await me.exchange((me.id, r), r, timeout=0.2)

    run(3, slow)
    assert {r for peer, r in replies if peer == 1} == set(range(12))


def test_a_peer_that_is_back_at_once_misses_nothing_it_was_sent_in_the_present_round() -> None:
    """Who still waits for it sends again what went down with its former life."""
    replies, protocol = exchanges(6, lambda i, r: 1.0 if i == 1 else 0.5)
    faults = [Crash(2.75, 1), Restart(2.8, 1)]
    run(2, protocol, links=[Link(latency=0.01, detection=6.0)] * 2, faults=faults)
    assert replies == {(i, r): {1 - i: (1 - i, r)} for i in (0, 1) for r in range(6)}


def test_a_partition_that_hit_no_message_does_not_part_two_peers_for_ever() -> None:
    replies, protocol = exchanges(30, 1.0)
    run(2, protocol, links=[Link(latency=0.01)] * 2, faults=[Partition(3.1, 3.2, ((0,),))])
    whole = [r for r in range(30) if replies[0, r] and replies[1, r]]
    assert len(whole) >= 29


def test_messages_lost_in_a_partition_are_sent_again_to_who_still_waits_when_it_heals() -> None:
    replies, protocol = exchanges(5, 1.0)
    link = Link(latency=0.25, detection=60.0)
    world = run(2, protocol, links=[link] * 2, faults=[Partition(1.1, 4.0, ((0,),))])
    assert replies == {(i, r): {1 - i: (1 - i, r)} for i in (0, 1) for r in range(5)}
    assert world.now() == pytest.approx(4.25 + 4 * 1.25)


@pytest.mark.parametrize("crash", [0.05, 0.35, 0.95, 1.05, 1.15])
def test_a_peer_that_crashes_in_the_last_round_after_the_others_heard_it_does_not_deadlock(crash: float) -> None:
    replies, protocol = exchanges(10, 0.1)
    link = Link(latency=0.01, detection=6.0, patience=20.0)
    world = run(3, protocol, links=[link] * 3, faults=[Crash(crash, 1), Restart(crash + 0.02, 1)])
    assert {r for peer, r in replies if peer == 1} == set(range(10))
    assert world.now() < 30.0


def test_waiting_for_a_peer_that_has_finished_is_a_deadlock_that_says_so() -> None:
    async def protocol(me: Any) -> None:
        for r in range(5 if me.id else 7):
            await me.exchange(me.id, r)

    with pytest.raises(Deadlock, match=r"peer 0.*exchange\('exchange', round 5\) from peers 1, 2"):
        run(3, protocol)


# -- NaN


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_neighbour_that_sends_nan_is_absent_and_nobody_hangs_whoever_is_early(slow: int) -> None:
    replies: Replies = {}

    async def protocol(me: Any) -> None:
        for r in range(4):
            await me.sleep(1.0 if me.id == slow else 0.1)
            x = torch.full((3,), math.nan if me.id == 2 and r >= 1 else float(me.id))
            replies[me.id, r] = await me.exchange(x, r)

    world = run(3, protocol, links=[Link(latency=0.01)] * 3)
    assert {(i, r): list(got) for (i, r), got in replies.items()} == {
        (i, r): [j for j in range(3) if j != i and (j != 2 or r < 1)] for i in range(3) for r in range(4)
    }
    assert len([event for event in world.events if event["event"].startswith("dropped")]) == 3 * 2


# -- the meeting by itself


def meeting(round: int, *neighbours: int) -> Meeting:
    made = Meeting()
    made.begin(round, neighbours, lambda j: False)
    made.parcel = object()
    return made


def test_a_copy_of_an_old_message_does_not_make_a_neighbour_absent() -> None:
    here = meeting(4, 1)
    here.put(1, 4, "four")
    here.close()
    here.begin(5, [1], lambda j: False)
    here.parcel = object()
    here.put(1, 2, "two, again")
    assert list(here.need) == [1]
    here.put(1, 5, "five")
    assert here.close() == {1: "five"}


def test_a_neighbour_two_rounds_behind_is_not_waited_for_until_it_has_caught_up() -> None:
    here = meeting(5, 1, 2)
    here.put(1, 3, "old")
    assert list(here.need) == [2]
    here.close()
    here.begin(6, [1, 2], lambda j: False)
    here.parcel = object()
    assert list(here.need) == [2]
    here.put(1, 5, "nearly")
    here.close()
    here.begin(7, [1, 2], lambda j: False)
    assert list(here.need) == [1, 2]


def test_who_is_back_and_in_the_round_that_has_just_ended_counts_again() -> None:
    here = meeting(5, 1)
    here.returned(1)
    here.close()
    here.put(1, 5, "late by a little")
    here.begin(6, [1], lambda j: False)
    assert list(here.need) == [1]


def test_a_spoilt_copy_does_not_undo_a_good_message_and_a_good_copy_mends_a_spoilt_one() -> None:
    here = meeting(0, 1, 2)
    here.put(1, 0, "good")
    here.put(1, 0, REFUSED)
    here.put(2, 0, REFUSED)
    assert not here.need
    assert here.close() == {1: "good"}


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), max_size=40), st.integers(0, 5))
@settings(deadline=None)
def test_whatever_comes_the_answers_are_of_the_meetings_round(messages: list[tuple[int, int]], round: int) -> None:
    here = Meeting()
    for sender, r in messages[: len(messages) // 2]:
        here.put(sender, r, (sender, r))
    here.begin(round, [1, 2, 3], lambda j: False)
    here.parcel = object()
    for sender, r in messages[len(messages) // 2 :]:
        here.put(sender, r, (sender, r))
    present = {sender for sender, r in messages if r == round}
    missing = set(here.need)
    assert here.close() == {sender: (sender, round) for sender in sorted(present)}
    assert not missing & present
