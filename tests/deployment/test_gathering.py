"""Reports of many peers become one run: one clock, everybody's bytes, lives in a row."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.deployment.gathering import Gathering


def news(peer: int, **more: Any) -> dict[str, Any]:
    usual = {
        "peer": peer, "life": 1, "began": 100.0, "now": 0.0, "status": "running", "round": 0, "latest": {},
        "known": (0, 0), "rows": [], "log": [], "sent": 0, "channels": {}, "received": {}, "error": None,
    }  # fmt: skip
    return {**usual, **more}


def row(time: float, r: int, sent: int, peer: int, value: float, name: str = "loss") -> tuple[Any, ...]:
    return (time, r, sent, peer, name, value)


def test_rows_are_in_order_of_time_on_the_first_peer_s_clock_with_everybody_s_bytes() -> None:
    found = Gathering(2, [0, 1], ["loss"])
    found.take(news(0, now=4.0, sent=400, rows=[row(0.0, 0, 0, 0, 5.0), row(4.0, 1, 400, 0, 3.0)]))
    found.take(news(1, began=101.0, now=4.0, sent=80, rows=[row(0.0, 0, 0, 1, 6.0), row(2.0, 1, 40, 1, 4.0)]))
    assert found.metrics() == [
        (0.0, 0, 0, 0, "loss", 5.0),
        (1.0, 0, 100, 1, "loss", 6.0),  # a quarter of what peer 0 sends in four seconds
        (3.0, 1, 300 + 40, 1, "loss", 4.0),
        (4.0, 1, 400 + 60, 0, "loss", 3.0),
    ]
    assert found.seconds == 5.0
    assert found.sent == [400, 80]


def test_only_counters_are_measured_but_what_a_protocol_records_stays() -> None:
    found = Gathering(2, [1], ["loss"])
    found.take(news(0, rows=[row(0.0, 0, 0, 0, 5.0), row(0.0, 0, 0, 0, 7.0, "drift")]))
    found.take(news(1, rows=[row(0.0, 0, 0, 1, 6.0)], round=2))
    assert [(r[3], r[4]) for r in found.metrics()] == [(0, "drift"), (1, "loss")]
    assert (found.done, found.reached) == (2, 2)


def test_reports_add_to_what_is_known_and_old_ones_take_nothing_away() -> None:
    found = Gathering(1, [0], ["loss"])
    first, second, third = (row(float(t), t, 10 * t, 0, 1.0) for t in range(3))
    found.take(news(0, rows=[first], log=[{"time": 0.0, "event": "a", "peer": 0}]))
    assert found.seen(0, 1) == (1, 1)
    assert found.seen(0, 2) == (0, 0)
    found.take(news(0, now=2.0, sent=20, known=(1, 1), rows=[second, third]))
    found.take(news(0, now=1.0, sent=10, known=(1, 1), rows=[second]))
    assert [r[1] for r in found.metrics()] == [0, 1, 2]
    assert found.sent == [20]


def test_a_second_life_goes_on_and_what_it_measures_again_is_not_counted_twice() -> None:
    found = Gathering(1, [0], ["loss"])
    found.take(news(0, now=2.0, sent=50, round=3, rows=[row(2.0, 3, 50, 0, 1.0)]))
    found.take(news(0, life=2, status="waiting", now=9.0))
    assert found.done == 3
    again = [row(0.0, 3, 0, 0, 1.5), row(1.0, 4, 7, 0, 0.5)]
    found.take(news(0, life=2, began=110.0, now=1.0, sent=7, round=4, rows=again))
    assert found.metrics() == [(2.0, 3, 50, 0, "loss", 1.0), (11.0, 4, 57, 0, "loss", 0.5)]
    assert (found.sent, found.done, found.seconds) == ([57], 4, 11.0)


def test_the_ledger_balances() -> None:
    found = Gathering(2, [0, 1], [])
    counts = {"messages": 2, "sent": 100, "delivered": 0, "lost": 30, "duplicated": 0, "in_flight": 70}
    found.take(news(0, sent=100, channels={"exchange": counts}))
    found.take(news(1, sent=100, channels={"exchange": counts}, received={"exchange": 60}))
    account = found.bytes()["channels"]["exchange"]
    assert account == {
        "messages": 4, "sent": 200, "delivered": 60, "lost": 60, "duplicated": 0, "in_flight": 80,
    }  # fmt: skip
    assert found.bytes()["by_peer"] == [100, 100]


def test_who_has_begun() -> None:
    found = Gathering(3, [0], [])
    found.take(news(0))
    found.take(news(1, status="waiting"))
    assert found.begun([0])
    assert not found.begun([0, 1])
    assert not found.begun([2])
    found.take(news(1))
    assert found.begun([0, 1])


def test_the_log_is_one_and_leaves_out_what_it_is_told_to() -> None:
    found = Gathering(2, [0], [])
    found.log(90.0, "left out", settings="network")
    found.log(103.0, "host lost", host=1)
    found.take(news(0, log=[{"time": 1.0, "event": "lost", "peer": 1, "why": "it has left"}]))
    found.take(news(1, began=102.0, log=[{"time": 0.5, "event": "lost", "peer": 0, "why": "it died"}]))
    kept = found.events([("lost", "it has left")])
    assert [(entry["time"], entry["event"]) for entry in kept] == [
        (0.0, "left out"),
        (2.5, "lost"),
        (3.0, "host lost"),
    ]


def test_nothing_is_known_before_the_first_report() -> None:
    found = Gathering(2, [0], [])
    found.log(90.0, "left out", settings="network")
    assert (found.metrics(), found.seconds, found.done, found.sent) == ([], 0.0, 0, [0, 0])
    assert found.events()[0]["time"] == pytest.approx(0.0)
