"""The campaigns in their short form, and what they are made of. The long form is `python -m campaigns`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from campaigns.__main__ import NAMES, run
from campaigns.hosts import Wire, why_not
from campaigns.outcome import Options, Outcome

from campaigns import outcome as outcomes

pytest.importorskip("iroh", reason="iroh is not installed")


@pytest.mark.parametrize("name", NAMES)
def test_a_short_campaign_holds(name: str, tmp_path: Path) -> None:
    outcome = run(name, Options(short=True, folder=tmp_path))
    if outcome.skipped and not outcome.checks:
        pytest.skip("; ".join(outcome.skipped))
    assert outcome.checks
    assert outcome.holds, [check for check in outcome.verdicts if not check.holds]


def test_an_outcome_holds_if_all_its_checks_do_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outcomes, "RESULTS", tmp_path)
    outcome = Outcome("mine")
    outcome.check("one", True)
    outcome.check("two", True)
    assert outcome.holds
    outcome.check("two", False)
    assert not outcome.holds
    stored = json.loads(outcome.store().read_text())
    assert [(c["what"], c["held"], c["of"], c["holds"]) for c in stored["checks"]] == [
        ("one", 1, 1, True),
        ("two", 1, 2, False),
    ]
    assert stored["commit"]
    assert stored["date"]


def test_hosts_hear_each_other_late_and_not_through_a_partition(tmp_path: Path) -> None:
    if (why := why_not()) is not None:
        pytest.skip(why)
    import multiprocessing

    from campaigns.hosts import Router

    context = multiprocessing.get_context("forkserver")
    router = Router(tmp_path / "router", Wire(delay=0.15, loss=0.0))
    here, there = context.Pipe()
    echo = context.Process(target=_echo, args=(router.path, there), daemon=True)
    ask = context.Process(target=_ask, args=(router.path, there), daemon=True)
    try:
        echo.start()
        assert here.recv() == "listening"
        ask.start()
        first = here.recv()
        assert first is not None
        assert first >= 0.3  # there and back
        router.divide({0})
        ask.join(30)
        assert here.recv() is None
        assert router.cut > 0
    finally:
        for process in (echo, ask):
            process.kill()
            process.join()
        router.close()


def _echo(router: str, pipe: object) -> None:
    import socket

    from campaigns.hosts import address, become

    become(1, router)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((address(1), 7000))
        pipe.send("listening")  # type: ignore[attr-defined]
        while True:
            data, sender = door.recvfrom(100)
            door.sendto(data, sender)


def _ask(router: str, pipe: object) -> None:
    import socket

    from campaigns.hosts import address, become

    become(0, router)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.settimeout(10.0)
        began = time.monotonic()
        door.sendto(b"x", (address(1), 7000))
        door.recvfrom(100)
        pipe.send(time.monotonic() - began)  # type: ignore[attr-defined]
        time.sleep(1.0)  # now there is a partition
        door.settimeout(1.5)
        door.sendto(b"y", (address(1), 7000))
        try:
            door.recvfrom(100)
            pipe.send(0.0)  # type: ignore[attr-defined]
        except TimeoutError:
            pipe.send(None)  # type: ignore[attr-defined]
