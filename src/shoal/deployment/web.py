"""A board on a small local web page: live by server-sent events, as JSON, and for Prometheus.

Whoever can open the page can read it and do nothing else. It listens on loopback unless told otherwise, answers GET
only, grants no other site anything, and believes only in hosts that are addresses or its own names, so that no name
that a stranger points here (DNS rebinding) opens it to a page elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import re
import warnings
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.deployment.board import Board
from shoal.deployment.status import clean
from shoal.files import atomically

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Middleware

WATCHERS = 32  # that may follow a board at a time
PAUSE = 0.5  # seconds between two events for a watcher
BEAT = 5.0  # seconds after which a watcher hears that nothing is new
STUCK = 20.0  # seconds that a watcher may take for one event
AGAIN = 1000  # milliseconds after which a page that was cut off asks again
URL = "watch.url"  # in a run folder
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^][:@/\s]+)(?::\d{1,5})?")
PROTECTION = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


class Server:
    """What `serve` began.

    Attributes:
        url: where the page is.
    """

    def __init__(self, url: str, runner: web.AppRunner) -> None:
        self.url = url
        self._runner = runner

    async def close(self) -> None:
        """End it, and the streams of those who watch."""
        await self._runner.cleanup()


async def serve(
    board: Board,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    names: Sequence[str] = (),
    pause: float = PAUSE,
    beat: float = BEAT,
    stuck: float = STUCK,
) -> Server:
    """Show a board on a web page, on this event loop.

    Paths: `/` the page, `/events` server-sent events, `/status.json`, `/metrics` for Prometheus, `/healthz`.

    Args:
        board: what is shown.
        host: address to listen on. Anything but loopback lets others on the network read along, and is warned about.
        port: 0 takes a free one.
        names: of this machine by which it may be asked, beside `host`, "localhost" and addresses in digits.
        pause, beat, stuck: seconds between two events at least; after which a watcher hears that nothing is new; after
            which one that takes nothing is dropped.

    Raises:
        ValueError: nobody can listen there.
        ImportError: aiohttp is not installed.
    """
    try:
        from aiohttp import web
    except ImportError:
        raise ImportError("the page needs aiohttp and prometheus_client: pip install 'shoal[net]'") from None
    if not _is_loopback(host):
        warnings.warn(
            f"the page listens on {host}: whoever reaches this machine can read there how the run goes", stacklevel=2
        )
    app = web.Application(middlewares=[_guard({host, *names})], client_max_size=1024)
    site = _Site(board, pause, beat, stuck)
    for path, handler in site.paths().items():
        app.router.add_get(path, handler, allow_head=False)
    app.on_response_prepare.append(_protect)
    app.on_shutdown.append(site.leave)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ValueError(f"host, port: nobody can listen on {host}:{port}: {error.strerror or error}") from None
    taken = runner.addresses[0]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return Server(f"http://{f'[{shown}]' if ':' in shown else shown}:{taken[1]}/", runner)


class _Site:
    """Its pages."""

    def __init__(self, board: Board, pause: float, beat: float, stuck: float) -> None:
        self.board, self.pause, self.beat, self.stuck = board, pause, beat, stuck
        self.page, self.policy = _page()
        self.watchers: set[asyncio.Task[Any]] = set()

    def paths(self) -> dict[str, Handler]:
        return {
            "/": self.show,
            "/events": self.follow,
            "/status.json": self.status,
            "/metrics": self.metrics,
            "/healthz": self.health,
        }

    async def leave(self, app: web.Application) -> None:
        for task in list(self.watchers):
            task.cancel()

    async def show(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        headers = {"Content-Security-Policy": self.policy}
        return web.Response(text=self.page, content_type="text/html", charset="utf-8", headers=headers)

    async def status(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        return web.Response(text=_json(self.board.snapshot()), content_type="application/json")

    async def health(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        found = {"shoal": self.board.name, "peer": self.board.me}
        return web.Response(text=_json(found), content_type="application/json")

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        from shoal.deployment.prometheus import CONTENT_TYPE, exposition

        return web.Response(body=exposition(self.board), headers={"Content-Type": CONTENT_TYPE})

    async def follow(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        if len(self.watchers) >= WATCHERS:
            raise web.HTTPServiceUnavailable(text=f"{WATCHERS} watch already\n", headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        task = asyncio.current_task()
        assert task is not None
        self.watchers.add(task)
        try:
            await response.prepare(request)
            await response.write(f"retry: {AGAIN}\n\n".encode())
            await self._stream(response)
        except (ConnectionError, TimeoutError):  # it went away, or takes nothing
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.watchers.discard(task)
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        """Send what is new since the last event, as fast as the watcher takes it: nothing piles up for a slow one."""
        board, loop = self.board, asyncio.get_running_loop()
        seen, said = 0, loop.time()
        while True:
            if board.version != seen:
                news = board.since(seen)
                seen, said = board.version, loop.time()
                await asyncio.wait_for(response.write(f"data: {_json(news)}\n\n".encode()), self.stuck)
            elif loop.time() - said >= self.beat:
                said = loop.time()
                await asyncio.wait_for(response.write(b"event: beat\ndata: 0\n\n"), self.stuck)
            await asyncio.sleep(self.pause)


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def _page() -> tuple[str, str]:
    """The page, and a policy that lets nothing run in it but its own script."""
    css = files("shoal.report").joinpath("style.css").read_text(encoding="utf-8")
    page = files("shoal.deployment").joinpath("watch.html").read_text(encoding="utf-8").replace("/* style.css */", css)
    allowed = {
        part: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{part}>(.*?)</{part}>", page, re.S)
        )
        for part in ("style", "script")
    }
    return page, (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


# -- who may ask ---------------------------------------------------------------------------------------------


def _guard(names: set[str]) -> Middleware:
    """Refuses what is no GET, and whoever asks for a host that is not this one."""
    from aiohttp import web

    known = {"localhost", *(name.lower().rstrip(".") for name in names)}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "GET":
            return web.Response(status=405, text="only GET is answered\n", headers={"Allow": "GET"})
        if not _is_known(request.headers.get("Host", ""), known):
            return web.Response(status=403, text="no host of that name is here\n")
        return await handler(request)

    return guard


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(PROTECTION)


def _is_known(host: str, names: set[str]) -> bool:
    found = HOST.fullmatch(host.lower())
    name = "" if found is None else found[1].strip("[]").rstrip(".")
    return name in names or _address(name) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


# -- where it is, for those who know the run folder ----------------------------------------------------------


def write_url(folder: Path, url: str) -> None:
    """Leave word in a run folder of where its page is."""
    with atomically(folder / URL) as path:
        path.write_text(f"{url}\n", encoding="utf-8")


def remove_url(folder: Path) -> None:
    """The page is gone."""
    (folder / URL).unlink(missing_ok=True)


def read_url(folder: Path) -> str:
    """Where the page of a run is.

    Raises:
        ValueError: the folder has no word of it, or none that can be read.
    """
    try:
        with (folder / URL).open(encoding="utf-8") as file:
            url = file.read(300).strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{folder}: no run that can be watched is here (there is no {URL} that can be read)") from None
    if not re.fullmatch(r"https?://[^\s/@]+/\S*", url):
        raise ValueError(f"{folder / URL}: got {clean(url)!r}; an address as http://127.0.0.1:8080/ is needed")
    return url
