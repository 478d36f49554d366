"""`shoal watch`: a run at the terminal, as one of its peers sees it, live."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.deployment.status import clean
from shoal.deployment.web import BEAT, URL, read_url
from shoal.report.units import MISSING, digits, human_bytes, human_time

TIMEOUT = 3 * BEAT  # seconds of silence after which a connection counts as gone
AGAIN = 1.0  # seconds between two attempts
LIMIT = 1 << 26  # bytes of an event
EVENTS = 6  # shown
PLAIN_WIDTH = 140  # characters, where there is no terminal
LATE = 10  # statuses that a peer that is connected may leave out before it is late
ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}/?")  # of a page, in short
BLOCKS = "▁▂▃▄▅▆▇█"
STYLES = {
    "running": "green",
    "finished": "blue",
    "interrupted": "yellow",
    "left": "yellow",
    "failed": "bold red",
    "gone": "bold red",
}
OVER = ("finished", "interrupted", "failed")


class Row(msgspec.Struct, kw_only=True):
    """A peer; see `Board.since`."""

    peer: int
    state: str
    round: int
    scores: dict[str, float]
    sent: int
    received: int
    rate: float
    heard: float | None
    gone: float | None
    waits: list[str]
    lives: int
    courses: dict[str, list[tuple[int, float]]] | None = None


class Event(msgspec.Struct):
    """Something that happened."""

    time: float
    count: int
    event: str
    peer: int
    text: str
    trouble: bool


class News(msgspec.Struct):
    """What a board tells."""

    name: str
    me: int
    peers: int
    rounds: int
    metric: str | None
    connected: int
    began: float
    now: float
    every: float
    rows: list[Row]
    events: list[Event] | None = None


def watch_run(where: str | None, *, once: bool = False) -> None:
    """Show a run until it has ended or Ctrl-C.

    Args:
        where: address of a page, a run folder, or a folder of those; None looks into `runs`.
        once: print what there is now, and leave; so it is, too, where there is no terminal.

    Raises:
        ValueError: there is nothing that can be watched.
    """
    place = find(where)
    console, view = Console(), View(place.url)
    if once or not console.is_terminal:
        view.take(fetch(place.url))
        plain = console if console.is_terminal else Console(width=PLAIN_WIDTH)
        with plain.capture() as captured:
            plain.print(view.picture(plain.width, None))
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
        return
    with Live(get_renderable=lambda: view.picture(console.width, console.height), console=console) as live:
        with suppress(KeyboardInterrupt):
            follow(view, place)
        live.refresh()


def follow(view: View, place: Place) -> None:
    """Keep a view as new as its page; returns when the peer behind it has ended and its page is gone.

    A page that is cut off is asked again and again, at the place where the run folder says that it is by then.

    Raises:
        ValueError: nothing answers at the first attempt, or something that is no page of a run.
    """
    first = True
    while True:
        try:
            for news in stream(view.url):
                view.take(news)
                first = False
        except (OSError, HTTPException) as error:
            if first:
                raise ValueError(f"{view.url}: nothing answers there ({error or type(error).__name__})") from None
        except ValueError:  # for a moment, something else is there
            if first:
                raise
        view.live = False
        if view.ended:
            return
        time.sleep(AGAIN)
        if place.folder is not None:
            with suppress(ValueError):  # the node is down, and may come back
                view.url = read_url(place.folder)


# -- where it is ---------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a page is, and the run folder that says so, if one does."""

    url: str
    folder: Path | None = None


def find(where: str | None) -> Place:
    """The page that is meant; see `watch_run`."""
    if where is not None and where.startswith(("http://", "https://")):
        return Place(where if urlsplit(where).path else f"{where}/")
    if where is not None and ADDRESS.fullmatch(where):
        return Place(f"http://{where.rstrip('/')}/")
    folder = Path("runs" if where is None else where)
    if (folder / URL).exists():
        return Place(read_url(folder), folder)
    found = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{URL}")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            url = read_url(path.parent)
            fetch(url, timeout=2.0)
        except ValueError:
            continue
        return Place(url, path.parent)
    raise ValueError(
        f"{folder}: no run that can be watched is here; an address, or the folder of a run that is under way, is needed"
    )


def fetch(url: str, timeout: float = TIMEOUT) -> News:
    """What a page tells now.

    Raises:
        ValueError: nothing answers, or something else.
    """
    try:
        connection, response = _get(url, "status.json", timeout)
        try:
            return _read(url, response.read(LIMIT))
        finally:
            connection.close()
    except (OSError, HTTPException) as error:
        raise ValueError(f"{url}: nothing answers there ({error or type(error).__name__})") from None


def stream(url: str) -> Iterator[News]:
    """What a page tells from now on, until it is cut off."""
    connection, response = _get(url, "events", TIMEOUT)
    try:
        event = "message"
        while line := response.readline(LIMIT):
            name, _, value = line.rstrip(b"\r\n").partition(b": ")
            if name == b"event":
                event = value.decode(errors="replace")
            elif name == b"data" and event == "message":
                yield _read(url, value)
            elif not name:
                event = "message"
    finally:
        connection.close()


def _get(url: str, path: str, timeout: float) -> tuple[HTTPConnection, HTTPResponse]:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError(f"{clean(url)}: no address; one as http://127.0.0.1:8080/ is needed")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(host, port, timeout=timeout)
    try:
        connection.request("GET", f"{parts.path.rpartition('/')[0]}/{path}")
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"{url}: answers {response.status} {clean(response.reason)}; no page of a run is there")
    except BaseException:
        connection.close()
        raise
    return connection, response


def _read(url: str, data: bytes) -> News:
    try:
        return msgspec.json.decode(data, type=News)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{url}: what answers there is no page of a run ({clean(str(error))})") from None


# -- what is shown -------------------------------------------------------------------------------------------


class View:
    """What is known of a run at a page, and how it is drawn.

    Attributes:
        url: of the page.
        live: whether it is connected.
    """

    def __init__(self, url: str) -> None:
        self.url, self.live = url, False
        self._head: News | None = None
        self._rows: dict[int, Row] = {}
        self._events: list[Event] = []
        self._taken = 0.0

    def take(self, news: News) -> None:
        """Add what is new."""
        if self._head is not None and news.began != self._head.began:  # another life of the node
            self._rows, self._events = {}, []
        rows = dict(self._rows)
        for row in news.rows:
            if row.courses is None and row.peer in rows:
                row.courses = rows[row.peer].courses
            rows[row.peer] = row
        self._rows = dict(sorted(rows.items()))
        self._events = self._events if news.events is None else news.events
        self._head, self._taken, self.live = news, time.monotonic(), True

    @property
    def ended(self) -> bool:
        """Whether the peer whose page it is has ended."""
        return self._head is not None and (row := self._rows.get(self._head.me)) is not None and row.state in OVER

    def picture(self, width: int, height: int | None) -> RenderableType:
        """Head, table and events, in so many characters and lines; None is as many as it takes."""
        if self._head is None:
            return Text(f"{self.url}: connecting")
        now = self._head.now + time.monotonic() - self._taken
        events = self._events[:EVENTS]
        room = len(self._rows) if height is None else max(3, height - len(events) - 5)
        parts: list[RenderableType] = [self._title(), self._table(self._chosen(room), width, now)]
        left_out, unseen = max(0, len(self._rows) - room), self._head.peers - len(self._rows)
        rest = [f"{left_out} more are not shown"] * bool(left_out) + [f"{unseen} have not been here yet"] * bool(unseen)
        if rest:
            parts.append(Text(f"  {', '.join(rest)}", style="dim"))
        parts += [Text(), *(self._event(event, width) for event in events)] if events else []
        return Group(*parts)

    def _title(self) -> Text:
        head = self._head
        assert head is not None
        title = Text(no_wrap=True, overflow="ellipsis")
        title.append(clean(head.name), "bold").append(f"  {head.connected} of {head.peers} peers here")
        going = [row.round for row in self._rows.values() if row.gone is None and row.state != "waiting"]
        if going:
            low, high = min(going), max(going)
            title.append(f"  round {low if low == high else f'{low} to {high}'} of {head.rounds}")
        title.append(f"  {human_bytes(sum(row.sent for row in self._rows.values()))} sent")
        title.append(f"  as peer {head.me} sees it  ", "dim")
        if self.live:
            return title.append(self.url, "dim")
        return title.append("ended" if self.ended else "cut off: trying again", "bold red")

    def _chosen(self, room: int) -> list[Row]:
        """Rows for which there is room: those in trouble first, shown by id."""
        rows = sorted(self._rows.values(), key=lambda row: (row.state not in ("failed", "gone"), row.peer))
        return sorted(rows[:room], key=lambda row: row.peer)

    def _table(self, rows: list[Row], width: int, now: float) -> Table:
        assert self._head is not None
        had = {name for row in self._rows.values() for name in row.scores}
        names = [name for name in (self._head.metric, "loss") if name in had and name is not None]
        wide = width >= 110
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
        for title in ("peer", "state"):
            table.add_column(title, no_wrap=True)
        for title in ("round", *map(clean, names)):
            table.add_column(title, justify="right", no_wrap=True)
        if wide and names:
            table.add_column("", no_wrap=True)
        for title in ("sent", "received", "a second", "heard") if wide else ("sent", "heard"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("waits for", no_wrap=True, ratio=1)
        for row in rows:
            table.add_row(*self._cells(row, names, wide, now), style="" if row.gone is None else "dim")
        return table

    def _cells(self, row: Row, names: list[str], wide: bool, now: float) -> list[Text]:
        assert self._head is not None
        if row.state == "gone" and row.gone is not None:
            state = f"gone for {human_time(max(1, round(now - row.gone)))}"
        else:
            state = clean(row.state) + (f", life {row.lives}" if row.lives > 1 else "")
        late = row.gone is None and row.heard is not None and now - row.heard > LATE * self._head.every
        cells = [
            Text(f"{row.peer}{' me' if row.peer == self._head.me else ''}"),
            Text(f"● {state}", STYLES.get(row.state, "dim")),
            Text(f"{row.round}"),
            *(Text(_fixed(row.scores.get(name))) for name in names),
        ]
        if wide and names:
            cells.append(Text(blocks([value for _, value in (row.courses or {}).get(names[0], [])]), "blue"))
        cells.append(Text(human_bytes(row.sent)))
        if wide:
            cells += [Text(human_bytes(row.received)), Text(f"{human_bytes(row.rate)}/s" if row.rate else MISSING)]
        cells.append(Text(_age(now, row.heard), "bold red" if late else ""))
        return [*cells, Text("; ".join(map(clean, row.waits)) if row.state == "running" else "", "dim")]

    def _event(self, event: Event, width: int) -> Text:
        assert self._head is not None
        when = time.strftime("%H:%M:%S", time.localtime(self._head.began + event.time))
        line = Text(f"{when}  peer {event.peer}  ", no_wrap=True, overflow="ellipsis")
        line.append(clean(event.event), "bold red" if event.trouble else "")
        return line.append(f" ×{event.count}" if event.count > 1 else "").append(f"  {clean(event.text)}", "dim")


def blocks(values: list[float], width: int = 12) -> str:
    """A course in so many characters.

    >>> blocks([0.0, 0.5, 1.0], 3)
    '▁▅█'
    """
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    some = [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
    low, span = min(some), max(some) - min(some) or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in some)


def _fixed(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}" if abs(value) < 100 else digits(value)


def _age(now: float, then: float | None) -> str:
    if then is None:
        return MISSING
    return "now" if now - then < 2 else human_time(round(now - then))
