"""Faults: what dies is dead, what was committed comes back from bytes, what was cut off heals."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.engine import (
    Crash,
    Fault,
    Join,
    Leave,
    Link,
    Mutated,
    Partition,
    PeerFailed,
    PeerLost,
    Restart,
    SimulatedWorld,
    Slow,
    random_faults,
)
from shoal.engine.faults import KINDS, check_script, from_records
from tests.engine.worlds import events, run

# -- crash and restart


def halving(log: list[tuple[int, int, float]], rounds: int = 6, seconds: float = 1.0) -> Any:
    """Each round takes a second and then replaces the state; (life, round, state as found) is logged."""

    async def protocol(me: Any) -> None:
        if "x" not in me.state:
            me.state["x"] = torch.tensor([1.0, 3.0], dtype=torch.float64)
        async for r in me.rounds(rounds):
            log.append((me.lives, r, me.state["x"][0].item()))
            await me.sleep(seconds)
            me.state["x"] = me.state["x"] / 2

    return protocol


def test_a_crash_in_mid_round_is_undone_up_to_the_last_committed_round() -> None:
    log: list[tuple[int, int, float]] = []
    run(1, halving(log), faults=[Crash(3.5, 0), Restart(10.0, 0)])
    assert log == [(1, r, 0.5**r) for r in range(4)] + [(2, r, 0.5**r) for r in range(3, 6)]


def test_a_peer_that_crashes_again_and_again_does_every_round_at_last_exactly_once_committed() -> None:
    log: list[tuple[int, int, float]] = []
    faults: list[Fault] = [fault for i in range(8) for fault in (Crash(1.3 * i + 0.7, 0), Restart(1.3 * i + 0.8, 0))]
    run(1, halving(log), faults=faults)
    assert all(x == 0.5**r for _, r, x in log)
    assert log[-1][:2] == (7, 5)  # the first life commits nothing, the next six one round each
    assert [r for _, r, _ in log] == sorted(r for _, r, _ in log)


def test_a_peer_that_skips_rounds_is_in_the_last_one_and_comes_back_there() -> None:
    log: list[tuple[int, int, int]] = []
    committed: list[int] = []

    async def protocol(me: Any) -> None:
        async for r in (rounds := me.rounds(20)):
            log.append((me.lives, r, me.round))
            with pytest.raises(ValueError, match=f"over: got {r}"):
                rounds.skip_to(r)
            await me.sleep(1.0)
            rounds.skip_to(r + 7)

    world = SimulatedWorld(1, faults=[Crash(1.5, 0), Restart(2.0, 0)])
    world.on_commit = lambda peer: committed.append(peer.state["round"])
    world.run(protocol)
    assert log == [(1, 0, 0), (1, 7, 7), (2, 7, 7), (2, 14, 14)]
    assert committed == [7, 14, 21]  # rounds may be over that nobody had planned


def test_a_crash_before_the_first_commit_starts_from_nothing() -> None:
    log: list[tuple[int, int, float]] = []
    run(1, halving(log), faults=[Crash(0.5, 0), Restart(2.0, 0)])
    assert log[:2] == [(1, 0, 1.0), (2, 0, 1.0)]


def test_an_empty_restart_forgets_what_was_committed() -> None:
    log: list[tuple[int, int, float]] = []
    run(1, halving(log), faults=[Crash(3.5, 0), Restart(4.0, 0, empty=True)])
    assert log == [(1, r, 0.5**r) for r in range(4)] + [(2, r, 0.5**r) for r in range(6)]


def test_a_restart_rebuilds_the_state_from_bytes_and_not_from_the_object_that_lived() -> None:
    """Everything that the old life can reach is poisoned after the crash; nothing of it shows in the new one."""
    lives: list[Any] = []
    found: list[Any] = []
    nested = {"counts": [1, 2, {"deep": torch.arange(3)}], "name": "peer", "raw": b"\x00\xff", "none": None}

    async def protocol(me: Any) -> None:
        lives.append(me)
        if me.lives == 1:
            me.state.update({"x": torch.tensor([1.5, -0.0, 2.0**-149]), "nested": nested, "pi": math.pi})
        else:
            found.append(dict(me.state))
        async for _ in me.rounds(2):
            await me.sleep(1.0)

    async def poison() -> None:
        await asyncio.sleep(1.75)
        dead = lives[0]
        dead.state["x"] = torch.full((3,), 666.0)
        dead.state["round"] = 77
        nested["counts"].append("poison")  # type: ignore[union-attr]
        nested["name"] = "mallory"

    async def with_poison(me: Any) -> None:
        if me.id == 1:
            await poison()
        else:
            await protocol(me)

    run(2, with_poison, faults=[Crash(1.5, 0), Restart(2.0, 0)])
    assert lives[0] is not lives[1]
    [state] = found
    assert state["x"].numpy().tobytes() == torch.tensor([1.5, -0.0, 2.0**-149]).numpy().tobytes()
    assert state["round"] == 1
    assert state["pi"] == math.pi
    assert state["nested"]["counts"][:2] == [1, 2]
    assert len(state["nested"]["counts"]) == 3
    assert state["nested"]["counts"][2]["deep"].tolist() == [0, 1, 2]
    assert (state["nested"]["name"], state["nested"]["raw"], state["nested"]["none"]) == ("peer", b"\x00\xff", None)


def test_two_lives_share_no_memory() -> None:
    tensors: list[torch.Tensor] = []

    async def protocol(me: Any) -> None:
        if me.lives == 1:
            me.state["x"] = torch.ones(4)
        else:
            tensors.append(me.state["x"])
            me.state["x"].mul_(-1.0)  # its own copy, which the next life must not see either
            tensors[-1] = tensors[-1].clone()
        async for _ in me.rounds(2):
            await me.sleep(1.0)

    run(1, protocol, faults=[Crash(1.5, 0), Restart(2.0, 0), Crash(2.5, 0), Restart(3.0, 0)])
    assert [x.tolist() for x in tensors] == [[-1.0] * 4, [-1.0] * 4]


def test_what_was_committed_and_then_changed_in_place_is_refused_at_the_restart() -> None:
    async def protocol(me: Any) -> None:
        if "x" not in me.state:
            me.state["x"] = torch.ones(2)
        async for r in me.rounds(3):
            await me.sleep(1.0)
            if r == 1:
                me.state["x"].add_(1.0)
                await me.sleep(1.0)

    with pytest.raises(Mutated, match="a committed tensor was changed in place"):
        run(1, protocol, faults=[Crash(2.5, 0), Restart(3.0, 0)])


def test_a_state_that_could_never_be_restored_is_refused_when_it_is_committed() -> None:
    async def protocol(me: Any) -> None:
        async for _ in me.rounds(2):
            me.state["what"] = object()

    with pytest.raises(Exception, match=r"peer 0 failed at .* a payload must be made of .*got builtins\.object"):
        run(1, protocol)


def test_a_dead_peer_neither_sends_nor_computes_nor_records_whatever_its_code_still_tries() -> None:
    tried: list[str] = []
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        if me.id == 1:
            got.append((await me.receive()).payload)
            return
        try:
            await me.sleep(10.0)
        finally:
            for name, attempt in {
                "send": lambda: me.send(1, "from the grave"),
                "record": lambda: me.record("x", 1.0),
                "now": me.now,
            }.items():
                try:
                    attempt()
                except asyncio.CancelledError:
                    tried.append(name)

    async def sender(me: Any) -> None:
        if me.id == 2:
            await me.sleep(20.0)
            me.send(1, "alive")
        else:
            await protocol(me)

    world = run(3, sender, faults=[Crash(1.0, 0)])
    assert tried == ["send", "record", "now"]
    assert got == ["alive"]
    assert world.metrics == []


def test_a_peer_that_will_not_be_cancelled_is_a_ghost_without_a_voice() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            try:
                await asyncio.sleep(10.0)
            except asyncio.CancelledError:
                await asyncio.sleep(5.0)
            me.send(1, "boo")
        else:
            with pytest.raises(PeerLost):
                await me.receive(from_=0)

    world = run(2, protocol, faults=[Crash(1.0, 0)])
    assert world.ledger.total == 0


def test_errors_that_a_crash_provokes_are_not_the_failure_of_the_peer() -> None:
    ended: list[bool] = []

    async def protocol(me: Any) -> None:
        try:
            await me.sleep(10.0)
        except asyncio.CancelledError:
            ended.append(True)
            raise ArithmeticError("cleaning up failed") from None

    world = run(1, protocol, faults=[Crash(1.0, 0)])
    assert ended
    assert [event["event"] for event in world.events] == ["crash"]


def test_errors_that_a_crash_provokes_in_a_task_that_nobody_awaits_are_no_failure_either() -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(10.0)
        finally:
            raise ArithmeticError

    async def protocol(me: Any) -> None:
        if me.id == 0:
            task = asyncio.create_task(child())
            await me.sleep(20.0)
            await task
        await me.sleep(5.0)

    assert run(2, protocol, faults=[Crash(1.0, 0)]).now() == 5.0


def test_handlers_and_spawned_tasks_die_with_their_peer_and_queued_requests_are_not_taken_up() -> None:
    begun: list[tuple[int, float]] = []
    ticks: list[float] = []

    async def tick(me: Any) -> None:
        while True:
            await me.sleep(0.4)
            ticks.append(me.now())

    async def protocol(me: Any) -> None:
        def handler(sender: int, payload: Any) -> Any:
            begun.append((sender, me.now()))
            return me.sleep(10.0)

        if me.id == 0:
            me.spawn(tick(me))
            me.serve("a", handler, capacity=1)
            await me.sleep(100.0)
        else:
            with pytest.raises(PeerLost):
                await me.request(0, None, "a")

    run(4, protocol, faults=[Crash(1.0, 0)])
    assert begun == [(1, 0.0)]
    assert ticks == [0.4, 0.8]


def test_what_still_waits_in_the_uplink_dies_with_the_sender_and_what_has_left_arrives() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            for _ in range(4):
                me.send(1, bytes(950))  # about a second each
        await me.sleep(20.0 - me.now())

    link = Link(latency=5.0, up=1000.0)
    world = run(2, protocol, links=[link] * 2, faults=[Crash(2.5, 0)], trace=True)
    assert [event["message"] for event in events(world, "deliver")] == [1, 2]
    assert [(event["message"], event["why"]) for event in events(world, "lose")] == [
        (3, "the sender crashed while sending"),
        (4, "the sender crashed while sending"),
    ]


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_a_new_life_does_not_wait_for_what_the_old_one_could_not_send(jitter: float) -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0 and me.lives == 1:
            for _ in range(60):
                me.send(1, bytes(900))  # a minute of sending
        elif me.id == 0:
            me.send(1, bytes(900))
        await me.sleep(100.0 - me.now())

    link = Link(latency=1.0, jitter=jitter, up=1000.0)
    world = run(2, protocol, links=[link] * 2, faults=[Crash(2.5, 0), Restart(3.0, 0)], trace=True)
    *_, last = events(world, "deliver")
    assert last["message"] == 61
    assert 4.9 <= last["time"] <= 5.0 + jitter


def test_who_leaves_sends_all_that_it_has_begun_to_send_and_a_new_life_comes_after_it() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            for _ in range(5 if me.lives == 1 else 1):
                me.send(1, bytes(950))
        await me.sleep(20.0 - me.now())

    link = Link(latency=1.0, up=1000.0)
    world = run(2, protocol, links=[link] * 2, faults=[Leave(1.5, 0), Restart(2.0, 0)], trace=True)
    assert [event["message"] for event in events(world, "deliver")] == [1, 2, 3, 4, 5, 6]


def test_a_second_crash_does_not_raise_what_died_in_the_first() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0 and me.lives == 1:
            me.send(1, bytes(9_950))  # about ten seconds
        await me.sleep(60.0 - me.now())

    link = Link(latency=5.0, up=1000.0)
    faults = [Crash(1.0, 0), Restart(2.0, 0), Crash(12.0, 0)]
    world = run(2, protocol, links=[link] * 2, faults=faults, trace=True)
    assert [event["event"] for event in events(world, "deliver", "lose")] == ["lose"]


def test_the_new_life_does_not_get_what_was_sent_to_the_old_one_or_to_nobody() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        if me.id == 0:
            me.send(1, "to the first life")
            await me.sleep(0.75)
            me.send(1, "to nobody")
            await me.sleep(1.0)
            me.send(1, "to the second life")
        else:
            got.append((me.lives, (await me.receive()).payload))

    world = run(2, protocol, links=[Link(latency=1.0)] * 2, faults=[Crash(0.5, 1), Restart(0.9, 1)], trace=True)
    assert got == [(2, "to the second life")]
    assert [event["why"] for event in events(world, "lose")] == ["the receiver was restarted"] * 2


def test_nothing_is_delivered_to_a_peer_that_is_down() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            for _ in range(10):
                me.send(1, None)
                await me.sleep(1.0)
        else:
            await me.sleep(100.0)

    world = run(2, protocol, faults=[Crash(3.5, 1), Restart(6.5, 1)], trace=True, until=10.0)
    assert [event["time"] for event in events(world, "deliver")] == [0.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0]


def test_faults_that_change_nothing_are_passed_over() -> None:
    log: list[tuple[int, int, float]] = []
    faults = [Restart(0.5, 0), Crash(1.5, 0), Crash(1.6, 0), Leave(1.7, 0), Restart(2.0, 0), Join(3.0, 0)]
    world = run(1, halving(log, rounds=3), faults=faults[:-1])
    assert [event["event"] for event in world.events] == ["crash", "restart"]
    assert log[-1] == (2, 2, 0.25)


# -- leave and join


def test_a_peer_that_left_may_come_back_with_what_it_had_committed() -> None:
    log: list[tuple[int, int, float]] = []
    run(1, halving(log, rounds=3), faults=[Leave(1.5, 0), Restart(5.0, 0)])
    assert log == [(1, 0, 1.0), (1, 1, 0.5), (2, 1, 0.5), (2, 2, 0.25)]


@pytest.mark.parametrize(("fault", "said"), [(Leave, ["bye"]), (Crash, [])])
def test_who_leaves_says_what_it_has_to_say_and_who_crashes_does_not(fault: Any, said: list[str]) -> None:
    heard: list[str] = []

    async def protocol(me: Any) -> None:
        if me.id == 0:
            me.at_leave(lambda: me.send(1, "bye"))
            await me.sleep(10.0)
        else:
            while True:
                heard.append((await me.receive()).payload)

    run(2, protocol, links=[Link(latency=0.5, up=100.0)] * 2, faults=[fault(1.0, 0)], until=9.0)
    assert heard == said


def test_a_farewell_that_fails_fails_the_run() -> None:
    async def protocol(me: Any) -> None:
        me.at_leave(lambda: me.send(7, "bye"))
        await me.sleep(10.0)

    with pytest.raises(PeerFailed, match="to: got 7"):
        run(2, protocol, faults=[Leave(1.0, 0)])


@pytest.mark.parametrize("at", [0.0, 2.5])
def test_a_peer_that_joins_is_absent_before_and_takes_part_afterwards(at: float) -> None:
    replies: dict[tuple[int, int], list[int]] = {}
    started: list[float] = []

    async def protocol(me: Any) -> None:
        if me.id == 2:
            started.append(me.now())
        async for r in me.rounds(8):
            await me.sleep(1.0)
            replies[me.id, r] = list(await me.exchange(None, r))

    run(3, protocol, links=[Link(latency=0.01)] * 3, faults=[Join(at, 2)])
    assert started == [at]
    for r in range(8):
        assert 1 in replies[0, r]
        assert (2 in replies[0, r]) <= (r + 1.0 >= at)
    assert any(2 in replies[0, r] for r in range(8)) == (at == 0.0)
    assert any(0 in replies[2, r] for r in range(8))


def test_a_join_at_the_very_beginning_does_not_stop_a_single_round() -> None:
    replies: dict[int, list[int]] = {}

    async def protocol(me: Any) -> None:
        replies[me.id] = list(await me.exchange(me.id, 0))

    run(3, protocol, faults=[Join(0.0, 2)])
    assert set(replies) == {0, 1, 2}


def test_the_world_waits_for_those_who_will_still_start_and_for_nobody_else() -> None:
    async def protocol(me: Any) -> None:
        await me.sleep(1.0)

    assert run(2, protocol, faults=[Join(50.0, 1)]).now() == 51.0
    assert run(2, protocol, faults=[Crash(0.5, 1), Restart(50.0, 1)]).now() == 51.0
    assert run(2, protocol, faults=[Crash(0.5, 0), Crash(0.25, 1)]).now() == 0.5
    assert run(2, protocol, faults=[Crash(50.0, 1), Slow(60.0, 1, 2.0)]).now() == 1.0


# -- partitions


@given(
    st.lists(st.sampled_from([0, 1, 2]), min_size=4, max_size=4),
    st.integers(1, 5),
    st.integers(6, 9),
)
@settings(max_examples=30, deadline=None)
def test_in_a_partition_messages_pass_within_groups_only(group: list[int], begin: int, end: int) -> None:
    """Group 0 is not named: those peers form one more."""

    async def protocol(me: Any) -> None:
        for _ in range(12):
            await me.sleep(1.0)
            for to in range(4):
                if to != me.id:
                    me.send(to, None)
        await me.sleep(1.0)

    groups = tuple(tuple(i for i in range(4) if group[i] == g) for g in (1, 2))
    world = run(4, protocol, faults=[Partition(begin + 0.25, end + 0.25, groups)], trace=True, links=[Link()] * 4)
    for event in events(world, "deliver", "lose"):
        cut = begin + 0.25 <= event["time"] < end + 0.25 and group[event["from"]] != group[event["to"]]
        assert (event["event"] == "lose") == cut
    assert len(events(world, "deliver", "lose")) == 4 * 3 * 12


def test_partitions_may_overlap_and_each_heals_by_itself() -> None:
    async def protocol(me: Any) -> None:
        for _ in range(8):
            await me.sleep(1.0)
            if me.id == 0:
                me.send(1, None)
                me.send(2, None)
        await me.sleep(1.0)

    faults = [Partition(1.5, 5.5, ((0, 1),)), Partition(3.5, 7.5, ((0,),))]
    world = run(3, protocol, faults=faults, trace=True)
    got = {to: [event["time"] for event in events(world, "deliver") if event["to"] == to] for to in (1, 2)}
    assert got == {1: [1.0, 2.0, 3.0, 8.0], 2: [1.0, 8.0]}
    assert [event["event"] for event in world.events] == ["partition", "partition", "heal", "heal"]


def test_a_partition_without_end_is_allowed() -> None:
    async def protocol(me: Any) -> None:
        if me.id == 0:
            await me.sleep(2.0)
            with pytest.raises(PeerLost):
                await me.request(1)

    world = run(2, protocol, faults=[Partition(1.0, math.inf, ((0,),))])
    assert world.now() == pytest.approx(2.05)


# -- slow


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_a_slow_peer_computes_slower_from_then_on_until_it_is_restored() -> None:
    ends: dict[int, list[float]] = {0: [], 1: []}

    async def protocol(me: Any) -> None:
        for _ in range(4):
            await me.compute(double, torch.ones(1), seconds=1.0)
            ends[me.id].append(me.now())

    run(2, protocol, faults=[Slow(0.5, 1, 3.0), Slow(4.5, 1, 1.0)])
    assert ends == {0: [1.0, 2.0, 3.0, 4.0], 1: [1.0, 4.0, 7.0, 8.0]}


# -- scripts


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Crash(-1.0, 0), "has the time -1.0"),
        (Crash(math.inf, 0), "has the time inf"),
        (Crash(math.nan, 0), "has the time nan"),
        (Leave(1.0, 3), "names peer 3; peers are 0 to 2"),
        (Join(1.0, -1), "names peer -1"),
        (Partition(2.0, 2.0, ((0,),)), "must end later"),
        (Partition(1.0, 2.0, ((0, 1), (1,))), "names a peer twice"),
        (Partition(1.0, 2.0, ((5,),)), "names peer 5"),
        (Slow(1.0, 0, 0.0), "the factor 0.0"),
        (Slow(1.0, 0, math.inf), "the factor inf"),
    ],
)
def test_an_impossible_fault_is_refused_with_the_reason(fault: Fault, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_script([fault], 3)


def test_a_script_is_sorted_by_time_and_keeps_the_order_of_equal_times() -> None:
    script = check_script([Restart(2.0, 0), Crash(1.0, 1), Crash(2.0, 1), Crash(1.0, 0)], 2)
    assert script == [Crash(1.0, 1), Crash(1.0, 0), Restart(2.0, 0), Crash(2.0, 1)]


def test_faults_can_be_written_as_plain_records() -> None:
    records = [
        {"fault": "crash", "at": 1.0, "peer": 3},
        {"fault": "restart", "at": 2.0, "peer": 3, "empty": True},
        {"fault": "partition", "at": 1.0, "until": 2.0, "groups": [[0, 1], [2]]},
        {"fault": "slow", "at": 0.0, "peer": 1, "factor": 2.5},
    ]
    assert from_records(records) == [
        Crash(1.0, 3),
        Restart(2.0, 3, empty=True),
        Partition(1.0, 2.0, ((0, 1), (2,))),
        Slow(0.0, 1, 2.5),
    ]
    assert set(KINDS) == {"crash", "restart", "leave", "join", "partition", "slow"}


def test_wrong_records_are_named() -> None:
    with pytest.raises(ValueError, match="got fault = 'meteor'; allowed are crash"):
        from_records([{"fault": "meteor", "at": 1.0}])
    with pytest.raises(ValueError, match=r"faults: crash: has no setting 'sever'; allowed are at, peer$"):
        from_records([{"fault": "crash", "at": 1.0, "peer": 0, "sever": 9}])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"fault": "crash", "at": 1.0, "peer": "x"}, "crash: peer: got 'x'; a whole number is allowed"),
        ({"fault": "crash", "at": "soon", "peer": 1}, "crash: at: got 'soon'; a number of seconds is allowed"),
        ({"fault": "crash", "at": 1.0}, "crash: peer is missing; it takes at, peer"),
        ({"fault": "restart", "at": 1.0, "peer": 1, "empty": 1}, "empty: got 1; true or false is allowed"),
        ({"fault": "slow", "at": 1.0, "peer": 1, "factor": "2"}, "factor: got '2'; a number is allowed"),
        ({"fault": "partition", "at": 1.0, "until": 2.0, "groups": [0, 1]}, r"groups: got \[0, 1\]; a list of lists"),
        (
            {"fault": "partition", "at": 1.0, "until": 2.0, "groups": [[0.5]]},
            r"groups: got \[\[0.5\]\]; a list of lists",
        ),
    ],
)
def test_records_of_the_wrong_type_are_named(record: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^faults: .*{message}"):
        from_records([record])


@given(
    st.integers(1, 30),
    st.integers(0, 2**40),
    st.floats(0.01, 1e4),
    st.tuples(*[st.floats(0.0, 1.0)] * 4),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_random_faults_are_a_lawful_script_and_the_same_for_the_same_seed(
    peers: int, seed: int, horizon: float, shares: tuple[float, ...], partitions: int
) -> None:
    crashes, leaves, joins, empty = shares

    def draw() -> list[Fault]:
        return random_faults(
            peers,
            seed,
            horizon=horizon,
            crashes=crashes,
            leaves=leaves,
            joins=joins,
            empty=empty,
            partitions=partitions,
            spare=(0,),
        )

    script = draw()
    assert script == draw()
    assert script == check_script(script, peers)
    assert sum(isinstance(fault, Partition) for fault in script) == partitions
    for peer in range(peers):
        own = [fault for fault in script if not isinstance(fault, Partition) and fault.peer == peer]
        kinds = [type(fault) for fault in own]
        assert kinds in (
            [[]] if peer == 0 else [[], [Crash, Restart], [Leave], [Join], [Join, Crash, Restart], [Join, Leave]]
        )
        assert all(fault.at <= horizon for fault in own if not isinstance(fault, Restart))


def test_random_faults_come_in_the_shares_asked_for() -> None:
    script = random_faults(4000, 7, horizon=100.0, crashes=0.3, downtime=0.1, empty=0.25)
    crashed = [fault for fault in script if isinstance(fault, Crash)]
    restarts = [fault for fault in script if isinstance(fault, Restart)]
    assert len(crashed) == len(restarts)
    assert abs(len(crashed) - 1200) < 5 * math.sqrt(4000 * 0.3 * 0.7)
    assert abs(sum(fault.empty for fault in restarts) - len(restarts) / 4) < 5 * math.sqrt(len(restarts) * 0.1875)
    down = {fault.peer: fault.at for fault in crashed}
    times = [fault.at - down[fault.peer] for fault in restarts]
    assert sum(times) / len(times) == pytest.approx(10.0, rel=0.1)
    assert max(times) <= 20.0
