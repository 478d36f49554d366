"""Request and reply, one or many: every question has its own answer, or its asker is told."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch

from shoal.engine import Crash, Link, PeerFailed
from tests.engine.worlds import events, run

NAN = torch.tensor([1.0, math.nan])


# -- one


def test_a_request_is_answered_with_what_the_handler_returns_after_one_round_trip() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        async def later(sender: int, payload: Any) -> Any:
            await me.sleep(1.0)
            return payload + 1

        if me.id == 1:
            me.serve("now", lambda sender, payload: (sender, payload))
            me.serve("later", later)
        else:
            got.append((await me.request(1, "x", "now"), me.now()))
            got.append((await me.request(1, 41, "later"), me.now()))

    run(2, protocol, links=[Link(latency=0.25)] * 2)
    assert got == [((0, "x"), 0.5), (42, 2.0)]


def test_requests_wait_for_a_handler_that_is_served_later() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        if me.id == 0:
            await me.sleep(5.0)
            me.serve("a", lambda sender, payload: payload)
        else:
            got.append((await me.request(0, me.id, "a"), me.now()))

    run(3, protocol)
    assert got == [(1, 5.0), (2, 5.0)]


@pytest.mark.parametrize("capacity", [None, 1, 2, 3, 7])
def test_a_handler_works_on_as_many_requests_at_a_time_as_its_capacity_and_in_order(capacity: int | None) -> None:
    started: list[tuple[int, float]] = []
    busy: list[int] = [0, 0]
    finished: dict[int, float] = {}

    async def protocol(me: Any) -> None:
        async def handler(sender: int, payload: Any) -> None:
            started.append((payload, me.now()))
            busy[0] += 1
            busy[1] = max(busy)
            await me.sleep(1.0)
            busy[0] -= 1

        if me.id == 0:
            me.serve("work", handler, capacity)
            await me.sleep(100.0)
        else:
            await me.request(0, me.id, "work")
            finished[me.id] = me.now()

    run(7, protocol)
    width = capacity or 6
    assert started == [(i, float((i - 1) // width)) for i in range(1, 7)]
    assert finished == {i: float((i - 1) // width + 1) for i in range(1, 7)}
    assert busy[1] == min(width, 6)


def test_a_full_handler_that_answers_some_at_once_forgets_nobody() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        async def slow() -> str:
            await me.sleep(1.0)
            return "slow"

        if me.id == 0:
            me.serve("work", lambda sender, payload: slow() if sender == 1 else "at once", capacity=1)
        else:
            got.append((me.id, await me.request(0, None, "work"), me.now()))

    run(5, protocol)
    assert got == [(1, "slow", 1.0), (2, "at once", 1.0), (3, "at once", 1.0), (4, "at once", 1.0)]


def test_capacity_must_allow_something() -> None:
    async def protocol(me: Any) -> None:
        with pytest.raises(ValueError, match="capacity: got 0; at least 1, or None"):
            me.serve("a", lambda sender, payload: None, 0)

    run(1, protocol)


def test_a_peer_that_has_finished_its_protocol_still_answers() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        async def handler(sender: int, payload: Any) -> Any:
            await me.sleep(1.0)
            return payload

        if me.id == 1:
            me.serve("a", handler)
        else:
            await me.sleep(3.0)
            got.append(await me.request(1, "still here?", "a"))

    run(2, protocol)
    assert got == ["still here?"]


@pytest.mark.parametrize("main_is_done", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_in_a_handler_is_the_failure_of_the_peer_that_serves(is_async: bool, main_is_done: bool) -> None:
    async def protocol(me: Any) -> None:
        async def fail_later(sender: int, payload: Any) -> None:
            await me.sleep(1.0)
            raise ArithmeticError("in the handler")

        def fail(sender: int, payload: Any) -> None:
            raise ArithmeticError("in the handler")

        if me.id == 1:
            me.serve("a", fail_later if is_async else fail)
            if not main_is_done:
                await me.sleep(100.0)
        else:
            await me.request(1, None, "a")

    with pytest.raises(PeerFailed, match=r"peer 1 failed at .*ArithmeticError: in the handler") as caught:
        run(2, protocol)
    assert caught.value.peer == 1
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_an_error_in_a_spawned_task_and_in_the_protocol_itself_fails_the_peer() -> None:
    async def fail(me: Any) -> None:
        await me.sleep(1.0)
        raise ArithmeticError

    async def spawning(me: Any) -> None:
        if me.id == 1:
            me.spawn(fail(me))
        await me.sleep(5.0)

    async def failing(me: Any) -> None:
        if me.id == 1:
            await fail(me)

    for protocol in (spawning, failing):
        with pytest.raises(PeerFailed, match="peer 1 failed at 1 s"):
            run(2, protocol)


def test_an_error_in_a_task_that_nobody_awaits_fails_the_peer_that_made_it() -> None:
    async def fail() -> None:
        raise ArithmeticError

    async def protocol(me: Any) -> None:
        if me.id == 1:
            asyncio.create_task(fail())  # noqa: RUF006 nobody keeps it
        await me.sleep(5.0)

    with pytest.raises(PeerFailed, match="peer 1 failed at 0 s: ArithmeticError"):
        run(2, protocol)


def test_an_answer_that_comes_too_late_goes_nowhere_and_the_next_one_is_not_mistaken_for_it() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        async def handler(sender: int, payload: float) -> float:
            await me.sleep(payload)
            return payload

        if me.id == 1:
            me.serve("a", handler)
            await me.sleep(100.0)
            return
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await me.request(1, 5.0, "a")
        got.append(await me.request(1, 10.0, "a"))

    run(2, protocol)
    assert got == [10.0]


def test_a_duplicated_answer_counts_once() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        if me.id == 1:
            me.serve("a", lambda sender, payload: payload)
        else:
            got.extend([await me.request(1, i, "a") for i in range(50)])

    world = run(2, protocol, links=[Link(latency=0.01, duplication=0.5)] * 2, trace=True)
    assert got == list(range(50))
    assert events(world, "duplicate")


def test_a_request_takes_the_payload_as_it_was_even_when_many_are_under_way() -> None:
    got: dict[int, list[int]] = {}

    async def protocol(me: Any) -> None:
        if me.id == 0:
            me.serve("square", lambda sender, payload: payload**2)
        else:
            got[me.id] = await asyncio.gather(*(me.request(0, me.id * 10 + i, "square") for i in range(10)))

    run(4, protocol, links=[Link(latency=0.1, jitter=1.0)] * 4)
    assert got == {peer: [(peer * 10 + i) ** 2 for i in range(10)] for peer in (1, 2, 3)}


# -- many


def test_asking_all_returns_the_answers_in_the_order_asked_and_leaves_out_the_lost() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        if me.id:
            me.serve("a", lambda sender, payload: payload * me.id)
            await me.sleep(50.0)
        else:
            await me.sleep(1.0)
            got.append((list((await me.request_all([3, 1, 2, 4], 2, "a")).items()), me.now()))

    run(5, protocol, links=[Link(latency=0.5, detection=4.0)] * 5, faults=[Crash(1.25, 2)])
    assert got == [([(3, 6), (1, 2), (4, 8)], 1.25 + 4.0)]


def test_asking_all_ends_at_the_timeout_with_what_has_come() -> None:
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        async def handler(sender: int, payload: Any) -> Any:
            await me.sleep(float(me.id))
            return me.id

        if me.id:
            me.serve("a", handler)
        else:
            got.append((await me.request_all([1, 2, 3], None, "a", timeout=2.5), me.now()))

    run(4, protocol)
    assert got == [({1: 1, 2: 2}, 2.5)]


def test_asking_nobody_returns_nothing_at_once_and_asking_somebody_twice_asks_once() -> None:
    asked: list[int] = []
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        if me.id:
            me.serve("a", lambda sender, payload: asked.append(sender))
        else:
            got.append(await me.request_all([], None, "a"))
            got.append(await me.request_all([1, 1], None, "a"))

    run(2, protocol)
    assert got == [{}, {1: None}]
    assert asked == [0]


def test_asking_all_that_is_cancelled_after_one_was_lost_leaves_no_error_behind() -> None:
    got: list[float] = []

    async def protocol(me: Any) -> None:
        if me.id == 0:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5.0):
                    await me.request_all([1, 2], None, "never served")
            await me.sleep(5.0)
            got.append(me.now())
        else:
            await me.sleep(20.0)

    run(3, protocol, faults=[Crash(1.0, 1)])
    assert got == [10.0]


def test_where_messages_get_lost_asking_all_waits_for_the_patience_of_the_link() -> None:
    got: list[float] = []

    async def protocol(me: Any) -> None:
        if me.id == 0:
            answers = await me.request_all(range(1, 30), None, "a")
            assert len(answers) < 29
            got.append(me.now())
        else:
            me.serve("a", lambda sender, payload: 1)

    run(30, protocol, links=[Link(loss=0.4, patience=12.5)] * 30)
    assert got == [12.5]


# -- copies


@pytest.mark.parametrize("capacity", [None, 1])
@pytest.mark.parametrize("slow", [0.0, 0.15, 5.0])
def test_a_request_that_the_link_duplicates_is_handled_once_and_answered(slow: float, capacity: int | None) -> None:
    handled: list[tuple[int, int]] = []
    got: list[Any] = []

    async def protocol(me: Any) -> None:
        async def handler(sender: int, payload: int) -> int:
            handled.append((sender, payload))
            await me.sleep(slow)
            return 10 * payload

        if me.id == 0:
            me.serve("a", handler, capacity)
        else:
            got.extend([await me.request(0, i, "a") for i in range(me.id, me.id + 3)])
            await me.sleep(1.0)  # until the last copies are there

    world = run(3, protocol, links=[Link(latency=0.1, duplication=1 - 1e-9)] * 3, trace=True)
    assert len([e for e in events(world, "deliver") if e["to"] == 0]) == 12  # each of the 6 requests came twice
    assert sorted(handled) == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (2, 4)]
    assert sorted(got) == [10, 20, 20, 30, 30, 40]


def test_a_copy_of_a_request_brings_the_reply_where_the_first_was_lost() -> None:
    lost_first = 0
    for seed in range(40):
        handled: list[int] = []
        got: list[Any] = []

        async def protocol(me: Any, handled: list[int] = handled, got: list[Any] = got) -> None:
            if me.id == 0:
                me.serve("a", lambda sender, payload: handled.append(payload) or torch.ones(3))
            else:
                got.append(await me.request_all([0], 7, "a", timeout=100.0))

        links = [Link(latency=0.1, duplication=1 - 1e-9, loss=0.5)] * 2
        world = run(2, protocol, links=links, trace=True, seed=seed)
        replies = [e["message"] for e in events(world, "send") if e["from"] == 0]
        lost = {e["message"] for e in events(world, "lose")}
        assert handled in ([], [7])
        assert len(replies) in (0, 2)
        assert bool(got[0]) == any(number not in lost for number in replies)
        lost_first += len(replies) == 2 and replies[0] in lost and replies[1] not in lost
    assert lost_first > 0
