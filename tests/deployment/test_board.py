"""A board shows what was put there, keeps it bounded, and tells what is new so that nothing is missed."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.deployment.board import EVENTS, EVENTS_EACH, KINDS, POINTS, Board, Course


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def a_board(peers: int = 5, me: int = 0) -> tuple[Board, Clock]:
    clock = Clock()
    return Board(me, peers, "run", 10, clock=clock), clock


def row(board: Board, peer: int) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in board.snapshot()["rows"] if row["peer"] == peer)
    return found


def told(peer: int, **fields: Any) -> dict[str, Any]:
    return {"peer": peer, "state": "running", **fields}


def test_who_was_here_and_is_not_is_gone_since_then() -> None:
    board, clock = a_board()
    board.here({1, 2})
    board.heard(1, told(1, round=4))
    clock.time += 3
    board.here({2})
    clock.time += 4
    board.here({2})
    assert (row(board, 1)["state"], row(board, 1)["gone"], row(board, 1)["heard"]) == ("gone", 3.0, 0.0)
    assert (row(board, 2)["state"], row(board, 0)["gone"]) == ("waiting", None)
    assert board.snapshot()["connected"] == 2
    board.here({1, 2})
    assert (row(board, 1)["state"], row(board, 1)["gone"]) == ("running", None)
    assert [r["peer"] for r in board.snapshot()["rows"]] == [0, 1, 2]  # whoever was never here has no row


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_who_ended_and_left_is_not_in_trouble_for_having_left(state: str) -> None:
    board, _ = a_board()
    board.here({1})
    board.heard(1, told(1, state=state))
    board.here(())
    assert row(board, 1)["state"] == state


def test_who_is_known_to_have_finished_has_finished_whatever_it_said_last() -> None:
    board, _ = a_board()
    board.here({1})
    board.heard(1, told(1))
    board.ended({1})
    board.here(())
    assert row(board, 1)["state"] == "finished"
    board.ended(())  # it is back in a new life
    board.here({1})
    assert row(board, 1)["state"] == "running"


def test_who_says_goodbye_has_left_and_is_no_trouble_until_it_is_back() -> None:
    board, _ = a_board()
    board.here({1, 2})
    board.left({1})
    assert row(board, 1)["state"] == "waiting"  # it is still here
    board.here(())
    assert (row(board, 1)["state"], row(board, 2)["state"]) == ("left", "gone")
    board.left(())
    board.here({1})
    assert row(board, 1)["state"] == "waiting"


def test_bytes_a_second_are_those_of_the_last_statuses() -> None:
    board, clock = a_board()
    for second in range(30):
        board.heard(1, told(1, sent=1000 * second if second < 10 else 9000 + 50 * (second - 9)))
        board.mine(state="running", sent=7 * second)
        clock.time += 1
    assert row(board, 1)["rate"] == pytest.approx(50)
    assert board.snapshot()["traffic"][-1] == pytest.approx(57)
    board.here({1})
    board.here(())
    assert row(board, 1)["rate"] == 0  # it is gone


def test_a_peer_that_starts_again_sends_from_zero_and_not_a_negative_rate() -> None:
    board, clock = a_board()
    for sent, lives in ((5000, 1), (6000, 1), (100, 2), (200, 2)):
        board.heard(1, told(1, sent=sent, lives=lives))
        clock.time += 1
    assert row(board, 1)["rate"] == pytest.approx(100)
    assert [e["event"] for e in board.snapshot()["events"]] == ["started again"]


def test_the_metric_shown_is_this_peer_s_or_what_most_have() -> None:
    board, _ = a_board()
    assert board.metric is None
    board.heard(1, told(1, scores={"aaa": 1.0}))
    for peer in (2, 3):
        board.heard(peer, told(peer, scores={"perplexity": 9.0, "loss": 2.0}))
    assert board.metric == "perplexity"
    board.mine(state="running", scores={"reward": 1.0, "loss": 2.0})
    assert board.metric == "reward"


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(-1e9, 1e9)), max_size=400))
def test_a_course_is_bounded_ordered_and_ends_with_the_last_point(points: list[tuple[int, float]]) -> None:
    course = Course()
    for round, value in points:
        course.add(round, value)
    rounds = [round for round, _ in course.points]
    assert rounds == sorted(set(rounds))
    assert len(rounds) <= POINTS
    assert course.points[-1:] == points[-1:]


@pytest.mark.parametrize("n", [POINTS, POINTS + 1, 1000])
def test_a_long_course_is_thinned_evenly_and_keeps_both_ends(n: int) -> None:
    course = Course()
    for round in range(n):
        course.add(round, float(round))
    rounds = [round for round, _ in course.points]
    assert (rounds[0], rounds[-1]) == (0, n - 1)
    assert len(rounds) > POINTS // 2 - 2
    gaps = {b - a for a, b in pairwise(rounds)}
    assert max(gaps) <= 4 * n / POINTS + 1


def test_a_noisy_peer_pushes_out_no_events_but_its_own() -> None:
    board, _ = a_board()
    board.log({"time": 1.0, "event": "lost", "peer": 2, "why": "the wire was cut"})
    for i in range(1000):
        board.log({"event": ("one", "two")[i % 2], "peer": 0, "sender": 1, "why": str(i)})
    events = board.snapshot()["events"]
    assert [e["text"] for e in events if e["peer"] == 2] == ["why: the wire was cut"]
    assert [e["text"] for e in events if e["peer"] == 1] == [f"why: {i}" for i in range(999, 999 - EVENTS_EACH, -1)]


def test_the_same_again_is_counted_where_it_stands() -> None:
    board, clock = a_board()
    for i in range(5):
        board.log({"event": "dropped: NaN or infinity", "peer": 0, "sender": 1, "why": str(i)})
        board.log({"event": "other", "peer": 0, "sender": 2})
        clock.time += 1
    kept = {e["peer"]: (e["count"], e["first"], e["time"], e["text"]) for e in board.snapshot()["events"]}
    assert kept == {1: (5, 0.0, 4.0, "why: 4"), 2: (5, 0.0, 4.0, "")}
    assert board.kinds == {"dropped: NaN or infinity": 5, "other": 5}


@pytest.mark.parametrize("strange", [{}, {"event": None}, {"event": "x", "peer": "y"}, {"event": "x", "sender": 10**9}])
def test_a_strange_entry_is_noted_as_this_peer_s(strange: dict[str, Any]) -> None:
    board, _ = a_board(me=3)
    board.log(strange)
    assert board.snapshot()["events"][0]["peer"] == 3


def test_refused_statuses_are_logged_ever_more_rarely() -> None:
    board, _ = a_board()
    for _ in range(1000):
        board.heard(1, "nonsense")
    assert board.kinds["malformed status refused"] == 10  # the 1st, 2nd, 4th, ... 512th
    assert board.malformed == row(board, 1)["malformed"] == 1000


def test_everything_is_bounded_whatever_others_tell() -> None:
    board, clock = a_board(peers=40)
    sizes = []
    for i in range(4000):
        sender = 1 + i % 39
        scores = {f"metric {i} {j}": float(i) for j in range(8)}
        board.heard(
            sender, told(sender, state=("running", "failed")[i % 2], scores=scores, scored=i, sent=i, lives=i + 1)
        )
        board.log({"event": f"event {i}", "peer": sender, "why": "x" * 1000})
        board.mine(state="running")
        board.here(range(i % 40))
        clock.time += 1
        if i % 500 == 499:
            sizes.append(len(json.dumps(board.snapshot())))
    assert len(board.snapshot()["events"]) <= EVENTS
    assert len(board.kinds) <= KINDS + 1
    assert max(sizes[2:]) < 1.1 * sizes[1]


acts = st.one_of(
    st.tuples(st.just("here"), st.sets(st.integers(0, 4))),
    st.tuples(st.sampled_from(["ended", "left"]), st.sets(st.integers(0, 4))),
    st.tuples(st.just("heard"), st.integers(1, 4), st.integers(0, 9), st.floats(0, 1)),
    st.tuples(st.just("mine"), st.integers(0, 9)),
    st.tuples(st.just("bad"), st.integers(1, 4)),
    st.tuples(st.just("log"), st.integers(0, 4)),
    st.tuples(st.just("look")),
)


@given(st.lists(acts, max_size=40))
def test_what_is_new_added_to_what_was_known_is_all_there_is(script: list[tuple[Any, ...]]) -> None:
    board, clock = a_board()
    rows: dict[int, dict[str, Any]] = {}
    seen, events = 0, []
    for act, *given_ in [*script, ("look",)]:
        clock.time += 0.7
        match act, given_:
            case ("here", [peers]):
                board.here(peers)
            case ("ended" | "left", [peers]):
                getattr(board, act)(peers)
            case ("heard", [peer, round, value]):
                board.heard(peer, told(peer, round=round, scored=round, scores={"accuracy": value}))
            case ("mine", [round]):
                board.mine(state="running", round=round)
            case ("bad", [peer]):
                board.heard(peer, None)
            case ("log", [peer]):
                board.log({"event": "something", "peer": peer})
            case _:
                news = board.since(seen)
                seen, events = news["version"], news.get("events", events)
                for new in news["rows"]:
                    rows[new["peer"]] = {**rows.get(new["peer"], {}), **new}
    whole = board.snapshot()
    assert list(dict(sorted(rows.items())).values()) == whole["rows"]
    assert events == whole["events"]


def test_a_board_is_some_peer_s() -> None:
    with pytest.raises(ValueError, match="me: got 5; a number from 0 to 4 is allowed"):
        Board(5, 5, "run", 1)
