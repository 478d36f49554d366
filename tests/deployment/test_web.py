"""The page of a board: what it streams adds up to the board, for many and for slow watchers, and for nobody else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import re
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.deployment import Board, Server, read_url, remove_url, serve, write_url
from shoal.deployment.web import WATCHERS

HOSTILE = '<script>alert("1")</script>\x1b[2J'


def a_board(peers: int = 4) -> Board:
    board = Board(0, peers, "run", 10)
    board.here({1, 2})
    board.mine(state="running", round=3, scores={"loss": 0.5}, scored=2, sent=10**6, received=5, refused=2, lives=2)
    board.heard(1, {"peer": 1, "state": "running", "round": 4, "sent": 77})
    board.heard(2, "nonsense")
    board.log({"event": "lost", "peer": 2, "why": HOSTILE})
    board.here({1})
    return board


def served(use: Callable[[Board, Server], Awaitable[Any]], board: Board | None = None, **options: Any) -> Any:
    async def main() -> Any:
        shown = a_board() if board is None else board
        server = await serve(shown, **{"pause": 0.005, **options})
        try:
            return await use(shown, server)
        finally:
            await server.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def ask(server: Server, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body of an answer; with a Host header of one's own."""

    def blocking() -> tuple[int, Any, bytes]:
        parts = urlsplit(server.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            streams = response.getheader("Content-Type") == "text/event-stream"
            return response.status, response.headers, b"" if streams else response.read()
        finally:
            connection.close()

    return await asyncio.to_thread(blocking)


def plain(board: Board) -> dict[str, Any]:
    """The board as it is after a way through JSON."""
    found: dict[str, Any] = json.loads(json.dumps(board.snapshot(), allow_nan=False))
    return found


class Watcher:
    """Puts together what a stream tells."""

    def __init__(self) -> None:
        self.whole: dict[str, Any] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.beats = 0

    async def watch(self, server: Server, until: Callable[[Watcher], bool]) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}events") as response:
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"event: beat"):
                    self.beats += 1
                elif line.startswith(b"data: {"):
                    self.take(json.loads(line[6:]))
                if until(self):
                    return

    def take(self, news: dict[str, Any]) -> None:
        for row in news.pop("rows"):
            self.rows[row["peer"]] = {**self.rows.get(row["peer"], {}), **row}
        self.whole |= news

    def agrees(self, board: Board) -> bool:
        whole = plain(board)
        rows = whole.pop("rows")
        assert list(dict(sorted(self.rows.items())).values()) == rows
        return {**self.whole, "now": 0} == {**whole, "now": 0}


# -- the stream ----------------------------------------------------------------------------------------------


def test_what_several_watchers_are_told_adds_up_to_the_board() -> None:
    async def use(board: Board, server: Server) -> None:
        watchers = [Watcher() for _ in range(3)]

        async def change() -> None:
            for i in range(30):
                board.heard(1 + i % 3, {"peer": 1 + i % 3, "state": "running", "round": i, "scores": {"loss": i / 7}})
                board.log({"event": f"event {i % 7}", "peer": i % 4})
                await asyncio.sleep(0.003)
            board.mine(state="finished", round=10)

        def over(watcher: Watcher) -> bool:
            return bool(watcher.rows) and watcher.rows[0]["state"] == "finished"

        await asyncio.gather(change(), *(watcher.watch(server, over) for watcher in watchers))
        assert all(watcher.agrees(board) for watcher in watchers)

    served(use)


def test_who_comes_back_is_told_everything_anew() -> None:
    async def use(board: Board, server: Server) -> None:
        watcher = Watcher()
        await watcher.watch(server, lambda watcher: bool(watcher.rows))
        board.heard(3, {"peer": 3, "state": "running"})
        later = Watcher()
        await later.watch(server, lambda watcher: bool(watcher.rows))
        assert 3 in later.rows
        assert later.agrees(board)

    served(use)


def test_where_nothing_is_new_a_beat_says_so() -> None:
    async def use(board: Board, server: Server) -> None:
        watcher = Watcher()
        await watcher.watch(server, lambda watcher: watcher.beats == 3)
        assert watcher.agrees(board)

    served(use, beat=0.01)


def deaf(server: Server) -> socket.socket:
    """A watcher that reads nothing, and whose machine takes little for it."""
    parts = urlsplit(server.url)
    ear = socket.socket()
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ear.connect((parts.hostname, parts.port))
    ear.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return ear


def a_large_board() -> Board:
    board = Board(0, 400, "run", 100)
    board.here(range(400))
    return board


def stir(board: Board, round: int) -> None:
    """Change all of a large board: some 200 kB of news."""
    for peer in range(1, 400):
        board.heard(peer, {"peer": peer, "state": "running", "round": round, "waits": ["x" * 150, "y" * 150]})


async def unless(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_a_slow_watcher_holds_up_nobody_and_gets_the_newest_when_it_listens_again() -> None:
    async def use(board: Board, server: Server) -> None:
        ear = deaf(server)
        quick = Watcher()
        told: list[int] = []

        async def change() -> None:
            for round in range(60):
                stir(board, round)
                told.append(server.waiting)
                await asyncio.sleep(0.006)
            board.mine(state="finished")

        await asyncio.gather(
            change(), quick.watch(server, lambda watcher: bool(watcher.rows) and watcher.rows[0]["state"] == "finished")
        )
        assert quick.rows[399]["round"] == 59
        assert max(told) < 2 * len(json.dumps(board.snapshot()))  # of the 60 changes, one waits for the slow one
        ear.settimeout(20)
        heard = b""
        while b'"state":"finished"' not in heard:
            heard = heard[-100:] + await asyncio.to_thread(ear.recv, 1 << 16)
        ear.close()

    served(use, a_large_board())


def test_a_watcher_that_takes_nothing_is_dropped() -> None:
    async def use(board: Board, server: Server) -> None:
        ear = deaf(server)
        await unless(lambda: server.watchers == 1)
        round = 0
        while server.watchers:
            stir(board, round := round + 1)
            await asyncio.sleep(0.005)
        assert server.waiting == 0
        ear.close()

    served(use, a_large_board(), stuck=0.05)


def test_more_watchers_than_there_is_room_for_are_sent_away() -> None:
    async def use(board: Board, server: Server) -> None:
        ears = [deaf(server) for _ in range(WATCHERS)]
        await unless(lambda: server.watchers == WATCHERS)
        status, headers, _ = await ask(server, "/events")
        assert (status, headers["Retry-After"]) == (503, "10")
        ears.pop().close()
        board.mine(state="finished")
        await unless(lambda: server.watchers < WATCHERS)
        assert (await ask(server, "/events"))[0] == 200
        for ear in ears:
            ear.close()

    served(use)


def test_closing_ends_streams_at_once() -> None:
    async def main() -> None:
        server = await serve(a_board())
        watcher = Watcher()
        watching = asyncio.create_task(watcher.watch(server, lambda watcher: False))
        await unless(lambda: bool(watcher.rows))
        await asyncio.wait_for(server.close(), 10)
        await asyncio.wait({watching}, timeout=10)
        assert watching.done()
        watching.exception()
        with pytest.raises(OSError):
            await ask(server)

    asyncio.run(asyncio.wait_for(main(), 60))


# -- the other pages -----------------------------------------------------------------------------------------


def test_json_and_health_tell_what_the_board_has() -> None:
    async def use(board: Board, server: Server) -> None:
        _, headers, body = await ask(server, "/status.json")
        assert headers["Content-Type"].startswith("application/json")
        assert {**json.loads(body), "now": 0} == {**plain(board), "now": 0}
        _, _, body = await ask(server, "/healthz")
        assert json.loads(body) == {"shoal": "run", "peer": 0}

    served(use)


def test_metrics_are_prometheus_s_and_agree_with_the_board() -> None:
    async def use(board: Board, server: Server) -> None:
        status, headers, body = await ask(server, "/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=")
        found = {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        expected = {
            ("shoal_peers", ()): 4,
            ("shoal_peers_connected", ()): 2,
            ("shoal_round", ()): 3,
            ("shoal_rounds", ()): 10,
            ("shoal_lives", ()): 2,
            ("shoal_bytes_sent_total", ()): 10**6,
            ("shoal_bytes_received_total", ()): 5,
            ("shoal_frames_refused_total", ()): 2,
            ("shoal_statuses_refused_total", ()): 1,
            ("shoal_state", ("running",)): 1,
            ("shoal_state", ("finished",)): 0,
            ("shoal_score", ("loss",)): 0.5,
            ("shoal_events_total", ("lost",)): 1,
            ("shoal_peer_up", ("0",)): 1,
            ("shoal_peer_up", ("1",)): 1,
            ("shoal_peer_up", ("2",)): 0,
            ("shoal_peer_round", ("1",)): 4,
            ("shoal_peer_sent_bytes", ("1",)): 77,
        }
        assert {key: found[key] for key in expected} == expected
        assert sys.platform != "linux" or found["process_resident_memory_bytes", ()] > 10**6
        assert ("shoal_peer_status_age_seconds", ("2",)) not in found  # it never told one
        assert 0 <= found["shoal_peer_status_age_seconds", ("1",)] < 60

    served(use)


def test_the_page_runs_nothing_but_its_own_script_and_fetches_from_nowhere_else() -> None:
    async def use(board: Board, server: Server) -> None:
        _, headers, body = await ask(server)
        page, policy = body.decode(), headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        for part in ("script", "style"):
            (text,) = re.findall(rf"<{part}>(.*?)</{part}>", page, re.S)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{part}-src 'sha256-{digest}'" in policy
        assert re.findall(r"https?://[^\"'\s]*", page) == ["http://www.w3.org/2000/svg"]
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=", page)

    served(use)


# -- who is answered -----------------------------------------------------------------------------------------

PATHS = ["/", "/events", "/status.json", "/metrics", "/healthz", "/nothing"]
STRANGE = [
    "evil.com",
    "evil.com:80",
    "127.0.0.1.evil.com",
    "localhost.evil.com",
    "me@127.0.0.1",
    "",
    "[::1",
    "1.2.3.4/x",
]


@pytest.mark.parametrize("host", STRANGE)
def test_a_host_that_is_not_here_is_refused_on_every_path(host: str) -> None:
    async def use(board: Board, server: Server) -> None:
        for path in PATHS:
            status, _, body = await ask(server, path, Host=host)
            assert status in (400, 403)
            assert b"run" not in body

    served(use)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "localhost:9", "LOCALHOST", "[::1]:9", "10.1.2.3", "node-1.", "node-1"]
)
def test_addresses_and_names_that_were_given_are_answered(host: str) -> None:
    async def use(board: Board, server: Server) -> None:
        assert (await ask(server, "/healthz", Host=host))[0] == 200

    served(use, names=["Node-1"])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_but_get_is_answered(method: str) -> None:
    async def use(board: Board, server: Server) -> None:
        for path in PATHS:
            status, headers, _ = await ask(server, path, method)
            assert (status, headers["Allow"]) == (405, "GET")

    served(use)


def test_no_other_site_is_granted_anything() -> None:
    async def use(board: Board, server: Server) -> None:
        for path in PATHS:
            _, headers, _ = await ask(server, path, Origin="http://evil.com")
            assert not [name for name in headers if name.lower().startswith("access-control")]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "no-store"

    served(use)


def test_listening_beyond_loopback_is_warned_about_and_loopback_is_not() -> None:
    async def begin(host: str) -> str:
        server = await serve(a_board(), host)
        await server.close()
        return server.url

    with pytest.warns(UserWarning, match=r"the page listens on 0\.0\.0\.0"):
        assert asyncio.run(begin("0.0.0.0")).startswith("http://127.0.0.1:")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(begin("127.0.0.1")).startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_named() -> None:
    async def use(board: Board, server: Server) -> None:
        port = urlsplit(server.url).port
        with pytest.raises(ValueError, match=f"nobody can listen on 127.0.0.1:{port}"):
            await serve(board, port=port or 0)

    served(use)


# -- the file that says where --------------------------------------------------------------------------------


def test_the_address_is_left_in_the_run_folder_and_taken_away(tmp_path: Path) -> None:
    write_url(tmp_path, "http://127.0.0.1:8080/")
    assert read_url(tmp_path) == "http://127.0.0.1:8080/"
    assert [path.name for path in tmp_path.iterdir()] == ["watch.url"]
    remove_url(tmp_path)
    remove_url(tmp_path)
    with pytest.raises(ValueError, match=r"there is no watch\.url that can be read"):
        read_url(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"file:///etc/passwd", b"http://u:p@host/", b"http:///x", b"\xff\xfe", b"x\nhttp://a/"]
)
def test_a_file_without_an_address_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "watch.url").write_bytes(content)
    with pytest.raises(ValueError, match=r"watch\.url"):
        read_url(tmp_path)
