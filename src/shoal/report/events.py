"""What happened in a run: `log.jsonl` counted by kind of event, with the first few of each kind."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shoal.report.units import human_time
from shoal.text import cut

_TROUBLE = (
    "crash", "fault", "fail", "error", "restart", "leave", "left", "join", "partition", "lost", "refus",
    "reject", "drop", "timeout", "deadlock", "livelock", "attack", "byzantine", "banned", "malformed", "nan",
    "diverge", "slow", "heal",
)  # fmt: skip
_KINDS = 40
_EACH = 5
_LINES = 40


@dataclass
class Kind:
    """One kind of event: how often, from when to when (virtual seconds), at which peers."""

    name: str
    count: int = 0
    first: float | None = None
    last: float | None = None
    peers: set[int] = field(default_factory=set)

    @property
    def trouble(self) -> bool:
        """Whether the name speaks of a fault, an attack or a peer that came or went."""
        return any(word.startswith(_TROUBLE) for word in re.split(r"[^a-z]+", self.name.lower()))

    @property
    def who(self) -> str:
        """The peers concerned, by number; the first six when there are more."""
        few = ", ".join(str(peer) for peer in sorted(self.peers)[:6])
        return few if len(self.peers) <= 6 else f"{few} and {len(self.peers) - 6} more"


@dataclass(frozen=True)
class Line:
    """One event, ready to be shown."""

    time: str
    peer: str
    event: str
    rest: str
    trouble: bool


@dataclass(frozen=True)
class Digest:
    """The log in short: its kinds, trouble first, and the first few events of each kind in order of time."""

    total: int
    kinds: list[Kind]
    lines: list[Line]


def digest(events: Iterable[dict[str, Any]]) -> Digest:
    """Count `events` by their "event" field in one pass; memory does not grow with the length of the log."""
    kinds: dict[str, Kind] = {}
    few: list[tuple[float, bool, dict[str, Any]]] = []
    total = 0
    for event in events:
        total += 1
        name = str(event.get("event", "?"))
        if name not in kinds and len(kinds) >= _KINDS:
            name = "other events"
        kind = kinds.setdefault(name, Kind(name))
        time, peer = event.get("time"), event.get("peer")
        kind.count += 1
        if isinstance(time, int | float):
            kind.first = time if kind.first is None else kind.first
            kind.last = time
        if isinstance(peer, int):
            kind.peers.add(peer)
        if kind.count <= _EACH:
            few.append((time if isinstance(time, int | float) else 0.0, kind.trouble, event))
    few.sort(key=lambda item: not item[1])
    shown = sorted(few[:_LINES], key=lambda item: item[0])
    ordered = sorted(kinds.values(), key=lambda kind: (not kind.trouble, -kind.count, kind.name))
    return Digest(total, ordered, [_line(event, trouble) for _, trouble, event in shown])


def _line(event: dict[str, Any], trouble: bool) -> Line:
    time, peer = event.get("time"), event.get("peer")
    rest = {key: value for key, value in event.items() if key not in ("time", "peer", "event")}
    words = ", ".join(f"{key}: {_short(value)}" for key, value in rest.items())
    return Line(
        time=human_time(time) if isinstance(time, int | float) else "",
        peer="" if peer is None else str(peer),
        event=str(event.get("event", "?")),
        rest=words,
        trouble=trouble,
    )


def _short(value: Any) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value, default=str), 160)
