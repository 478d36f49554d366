"""What a peer on real machines tells at a terminal: a line for whatever happens, and how far it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

if TYPE_CHECKING:
    from shoal.deployment import Node

SECONDS = 0.5  # between two looks at how far it is
KEPT = ("time", "event", "peer")


class Teller(Protocol):
    """Tells; a context manager."""

    def __enter__(self) -> Teller: ...

    def __exit__(self, *error: object) -> None: ...

    def say(self, text: str) -> None:
        """A line."""

    def watch(self, node: Node) -> None:
        """From now on, tell how far this node is."""

    def event(self, entry: Mapping[str, Any]) -> None:
        """An entry of its log."""


def teller() -> Teller:
    """A live line if standard error is a terminal that can move its cursor, else lines alone."""
    console = Console(file=sys.stderr)
    return Live(console) if console.is_terminal and not console.is_dumb_terminal else Plain()


class Plain:
    """Lines on standard error, for logs and pipes."""

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *error: object) -> None:
        sys.stderr.flush()

    def say(self, text: str) -> None:
        """Print it."""
        print(text, file=sys.stderr, flush=True)

    def watch(self, node: Node) -> None:
        """Lines are told as things happen; there is nothing to watch."""

    def event(self, entry: Mapping[str, Any]) -> None:
        """What it says, if that is worth a line."""
        text = sentence(entry)
        if text is not None:
            self.say(text)


class Live:
    """Lines, and below them one that moves."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=20)),
            BarColumn(bar_width=14),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            console=console,
        )
        self._looking: asyncio.Task[None] | None = None

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.live.transient = not self._bars.tasks  # else an empty line would stay
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print it above the line that moves."""
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def watch(self, node: Node) -> None:
        """Move the line as the node moves, as long as the event loop runs."""
        bar = self._bars.add_task(f"{node.parts.name} {node.id}", total=node.parts.settings.rounds, detail="")
        self._looking = asyncio.get_running_loop().create_task(self._look(bar, node))

    async def _look(self, bar: TaskID, node: Node) -> None:
        while True:
            self._bars.update(bar, completed=reached(node), detail=state(node))
            await asyncio.sleep(SECONDS)

    def event(self, entry: Mapping[str, Any]) -> None:
        """What it says; what was measured is seen in the line that moves."""
        text = None if entry["event"] == "measured" else sentence(entry)
        if text is not None:
            self.say(text)


def reached(node: Node) -> int:
    """Rounds that a node has finished."""
    return 0 if node.peer is None else int(node.peer.state.get("round", 0))


def state(node: Node) -> str:
    """How a node is, in a few words."""
    from shoal.cli.progress import figures

    world = node.world
    others = f"{len(world.members.here)} of {world.size - 1} others"
    if node.status == "waiting":
        return f"waiting: {others} here"
    return f"{others}  {figures(world.now(), world.ledger.total, node.latest)}"


def sentence(entry: Mapping[str, Any]) -> str | None:
    """What an entry of the log says to people; None if it is not worth a line."""
    from shoal.deployment.status import clean, described

    event, peer = str(entry["event"]), entry.get("peer")
    rest = {name: value for name, value in entry.items() if name not in KEPT}
    if event == "begins":
        again = rest.get("lives", 1) > 1 or rest.get("round", 0) > 0
        return f"goes on after round {rest['round']}, life {rest['lives']}" if again else "begins"
    if event == "measured":
        return _measured(rest)
    if event in ("finished", "interrupted", "failed"):
        return None  # the end is told by what comes after
    known = {
        "connected": f"peer {peer} is here",
        "connected again": f"peer {peer} is here again",
        "lost": f"peer {peer} is gone: {rest.get('why')}",
        "cannot connect": f"peer {peer} cannot be reached: {rest.get('why')}",
        "stranger": f"a stranger was turned away: {rest.get('why')}",
        "refused": f"a stranger was turned away: {rest.get('why')}",
        "malformed frame refused": f"refused from peer {rest.get('sender')}: {rest.get('why')}",
    }
    about = "" if peer is None else f" (peer {peer})"
    return clean(known.get(event) or f"{event}{about}: {described(rest)}")


def _measured(entry: Mapping[str, Any]) -> str:
    from shoal.report.units import digits, human_bytes

    scores = {name: value for name, value in entry.items() if name not in ("round", "sent")}
    shown = "  ".join(f"{name} {digits(value)}" for name, value in sorted(scores.items())[:2])
    return f"round {entry['round']}  {shown}  {human_bytes(entry['sent'])} sent"
