"""`shoal watch` prints what the board has, found by address or run folder, and trusts nothing at the other end."""

from __future__ import annotations

import asyncio
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from shoal.cli import watching
from shoal.cli.watching import View, blocks, fetch, find, follow, watch_run
from shoal.deployment import Board, serve, write_url
from tests.cli.conftest import Outcome

Shoal = Callable[..., Outcome]


class Page:
    """A board and its page on a loop in a thread of its own."""

    def __init__(self, url: str, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.board, self.loop = url, board, loop

    def do(self, act: Callable[[Board], Any]) -> None:
        self.loop.call_soon_threadsafe(act, self.board)


@contextmanager
def page(board: Board, port: int = 0) -> Iterator[Page]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(serve(board, port=port, pause=0.005), loop).result(20)
    try:
        yield Page(server.url, board, loop)
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


def a_board(name: str = "my run", peers: int = 5) -> Board:
    board = Board(0, peers, name, 10, clock=lambda: 0.0)
    board.here({1, 2})
    for round in range(8):
        scores = {"accuracy": round / 10, "loss": 2.0 - round / 10}
        board.mine(state="running", round=round, scores=scores, scored=round, sent=12_300_000, waits=["sleep(3)"])
    board.heard(1, {"peer": 1, "state": "running", "round": 9, "lives": 3})
    board.heard(2, {"peer": 2, "state": "running", "round": 4, "sent": 700_000})
    board.here({1})
    board.log({"event": "lost", "peer": 2, "why": "the wire was cut"})
    return board


def drawn(view: View, width: int, height: int | None) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view.picture(width, height))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def squeezed(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_once_prints_what_the_board_has(shoal: Shoal) -> None:
    with page(a_board()) as shown:
        done = shoal("watch", shown.url, "--once")
    assert done.code == 0
    assert not [line for line in done.out.splitlines() if line != line.rstrip()]
    lines = squeezed(done.out)
    assert lines[0] == f"my run 2 of 5 peers here round 7 to 9 of 10 13 MB sent as peer 0 sees it {shown.url}"
    assert lines[1] == "peer state round accuracy loss sent received a second heard waits for"
    assert lines[2] == "0 me ● running 7 0.700 1.300 ▁▂▃▄▅▆▇█ 12.3 MB 0 B – now sleep(3)"
    assert lines[3] == "1 ● running, life 3 9 – – 0 B 0 B – now"
    assert lines[4] == "2 ● gone for 1 s 4 – – 700 kB 0 B – now"
    assert lines[5] == "2 have not been here yet"
    assert re.fullmatch(r"\d\d:\d\d:\d\d peer 2 lost why: the wire was cut", lines[7])
    assert len(lines) == 8


def test_where_there_is_no_terminal_it_prints_once(shoal: Shoal) -> None:
    with page(a_board()) as shown:
        assert shoal("watch", shown.url).out.count("my run") == 1


def test_the_newest_run_that_answers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with page(a_board("older")) as older, page(a_board("newer")) as newer:
        for age, (name, url) in enumerate(
            {"dead": "http://127.0.0.1:1/", "x/newer": newer.url, "older": older.url, "spoilt": "nothing"}.items()
        ):
            write_url(Path("runs") / name, url)
            os.utime(Path("runs") / name / "watch.url", (10**9 - age, 10**9 - age))
        assert find(None).url == find("runs").url == newer.url
        assert find("runs/x/newer") == (newer.url, Path("runs/x/newer"))
        assert find("runs/older").url == older.url
        assert find(older.url).url == older.url
        assert fetch(find(urlsplit(older.url).netloc).url).name == "older"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nowhere", "nowhere: no run that can be watched is here"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/: nothing answers there"),
        ("http://127.0.0.1:x/", "no address; one as http://127.0.0.1:8080/ is needed"),
        ("http://:80", "no address"),
    ],
)
def test_what_cannot_be_watched_is_one_line(where: str, said: str, shoal: Shoal) -> None:
    assert said in shoal("watch", where).complaint


def test_a_page_that_is_none_is_named() -> None:
    with page(a_board()) as shown, pytest.raises(ValueError, match="answers 404 Not Found; no page of a run is there"):
        fetch(f"{shown.url}elsewhere/")


class Liar(Board):
    """What it tells was never cleaned."""

    def since(self, version: int) -> dict[str, Any]:
        found = super().since(version)
        found["name"] = "\x1b[31mred\x1b[0m[bold]"
        found["rows"][0] |= {"state": "\x1b]0;title\x07", "waits": ["[red]\u202etxt.exe\n"]}
        event = {"time": 0.0, "count": 1, "event": "\x1b[2J", "peer": 1, "text": "\r\x9b1m", "trouble": False}
        found["events"] = [event]
        return found


def test_escape_sequences_and_markup_of_a_hostile_page_stay_text() -> None:
    board = Liar(0, 2, "run", 10)
    board.mine(state="running")
    with page(board) as shown:
        view = View(shown.url)
        view.take(fetch(shown.url))
        text = drawn(view, 140, None)
    assert text.replace("\n", "").isprintable()
    assert "[31mred[0m[bold]" in text


def test_rows_are_left_out_by_the_height_and_those_in_trouble_last() -> None:
    board = Board(0, 40, "run", 10)
    board.here(range(40))
    for peer in range(1, 40):
        board.heard(peer, {"peer": peer, "state": "running"})
    board.heard(33, {"peer": 33, "state": "failed"})
    board.here(set(range(40)) - {20})
    with page(board) as shown:
        view = View(shown.url)
        view.take(fetch(shown.url))
    for width in (60, 84, 140):
        lines = squeezed(drawn(view, width, 16))
        assert len(lines) <= 16
        peers = [line.split()[0] for line in lines if "●" in line]
        assert peers == [*map(str, range(len(peers) - 2)), "20", "33"]
        assert f"{40 - len(peers)} more are not shown" in lines
    assert sum("●" in line for line in drawn(view, 140, None).splitlines()) == 40


def test_it_is_live_and_when_the_run_has_ended_and_its_page_is_gone_so_is_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AGAIN", 0.01)
    with page(a_board()) as shown:
        view, place = View(shown.url), find(shown.url)
        following = threading.Thread(target=follow, args=(view, place), daemon=True)
        following.start()
        scored = {"scores": {"accuracy": 0.7}, "scored": 7}  # as before, so that the course is not told again
        for round in (8, 9):
            shown.do(lambda board, round=round: board.mine(state="running", round=round, **scored))
            until(lambda round=round: f"● running {round} 0.700 ▁▂▃▄▅▆▇█" in " ".join(drawn(view, 140, None).split()))
        shown.do(lambda board: board.mine(state="finished", round=10))
        until(lambda: "● finished" in drawn(view, 140, None))
        assert following.is_alive()
    following.join(20)
    assert not following.is_alive()
    assert "ended" in drawn(view, 140, None)


def test_it_finds_a_node_that_starts_again_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AGAIN", 0.01)
    with page(a_board("first life")) as shown:
        write_url(tmp_path, shown.url)
        view, place = View(shown.url), find(str(tmp_path))
        following = threading.Thread(target=follow, args=(view, place), daemon=True)
        following.start()
        until(lambda: "first life" in drawn(view, 140, None))
    until(lambda: "cut off: trying again" in drawn(view, 140, None))
    with page(Board(0, 2, "second life", 10)) as shown:
        write_url(tmp_path, shown.url)
        until(lambda: "second life" in drawn(view, 140, None))
        assert "●" in drawn(view, 140, None)
        assert "life 3" not in drawn(view, 140, None)  # what was known of the others has gone with the first life
        shown.do(lambda board: board.mine(state="finished"))
        until(lambda: "● finished" in drawn(view, 140, None))
    following.join(20)
    assert not following.is_alive()


def test_at_a_terminal_the_last_picture_stays_when_the_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=140, height=30)
    monkeypatch.setattr(watching, "Console", lambda: screen)
    monkeypatch.setattr(watching, "AGAIN", 0.01)
    with page(a_board()) as shown:
        watched = threading.Thread(target=watch_run, args=(shown.url,), daemon=True)
        watched.start()
        until(lambda: "running" in screen.file.getvalue())  # type: ignore[attr-defined]
        shown.do(lambda board: board.mine(state="finished", round=10))
        until(lambda: "finished" in screen.file.getvalue())  # type: ignore[attr-defined]
    watched.join(20)
    assert not watched.is_alive()
    last = screen.file.getvalue().rpartition("my run")[2]  # type: ignore[attr-defined]
    assert "ended" in last.splitlines()[0]
    assert "● finished" in last


def test_ctrl_c_is_a_way_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    presses = []

    def pressed(*anything: object) -> None:
        presses.append(anything)
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "Console", lambda: Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(watching, "follow", pressed)
    watch_run("http://127.0.0.1:1/")
    assert len(presses) == 1  # and it did not come out


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 5, ""),
        ([1.0], 5, ""),
        ([1.0, 1.0], 5, "▁▁"),
        ([0.0, 7.0], 9, "▁█"),
        ([*map(float, range(100))], 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_course_in_blocks(values: list[float], width: int, expected: str) -> None:
    assert blocks(values, width) == expected
