"""What the peers of one run report, each on its own clock and of its own bytes, put together as a simulation has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from shoal.engine.simulated import Metric

COUNTS = ("messages", "sent", "delivered", "lost", "duplicated", "in_flight")
Line = dict[str, Any]


class Gathering:
    """Reports of peers, which may have lived more than once.

    Args:
        peers: number of peers, the server included.
        counters: those whose models are measured and whose rounds count.
        measured: metrics that every peer is measured by; those of other peers than the counters are left out.
    """

    def __init__(self, peers: int, counters: Collection[int], measured: Collection[str]) -> None:
        self._peers, self._counters, self._measured = peers, frozenset(counters), frozenset(measured)
        self._lives: dict[tuple[int, int], _Life] = {}
        self._own: list[Line] = []

    def take(self, news: Line) -> None:
        """A peer reports what is new; see `shoal.deployment.ray_host` for what that holds."""
        life = self._lives.setdefault((news["peer"], news["life"]), _Life())
        life.take(news)

    def log(self, at: float, event: str, **details: Any) -> None:
        """Add something that no peer has seen; `at` is in seconds since 1970."""
        self._own.append({"time": at, "event": event, "peer": None, **details})

    def seen(self, peer: int, life: int | None) -> tuple[int, int]:
        """How many rows and log entries of a peer's life are known."""
        found = None if life is None else self._lives.get((peer, life))
        return (0, 0) if found is None else (len(found.rows), len(found.entries))

    def _of(self, peer: int) -> list[_Life]:
        return [life for (id, _), life in sorted(self._lives.items(), key=lambda item: item[0]) if id == peer]

    def _latest(self) -> Iterator[tuple[int, _Life]]:
        """The present or last life of every counter."""
        for peer in sorted(self._counters):
            if lives := [life for life in self._of(peer) if life.begun]:
                yield peer, lives[-1]

    # -- figures ---------------------------------------------------------------------------------------------

    @property
    def began(self) -> float:
        """When the first peer began, in seconds since 1970; 0.0 if none has."""
        return min((life.began for life in self._lives.values() if life.begun), default=0.0)

    def begun(self, peers: Iterable[int]) -> bool:
        """Whether the protocols of these peers have begun."""
        return set(peers) <= {peer for (peer, _), life in self._lives.items() if life.begun}

    @property
    def seconds(self) -> float:
        """From the beginning to the last report."""
        return max((life.began + life.now - self.began for life in self._lives.values() if life.begun), default=0.0)

    @property
    def done(self) -> int:
        """Rounds committed, over all counters."""
        return sum(life.round for _, life in self._latest())

    @property
    def reached(self) -> int:
        """The highest round that a counter has committed."""
        return max((life.round for _, life in self._latest()), default=0)

    @property
    def scores(self) -> dict[str, float]:
        """Mean over counters of what was last measured."""
        found: dict[str, list[float]] = {}
        for _, life in self._latest():
            for name, value in life.latest.items():
                found.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items()}

    @property
    def sent(self) -> list[int]:
        """Bytes sent by each peer."""
        return [sum(life.sent for life in self._of(peer)) for peer in range(self._peers)]

    def bytes(self) -> Line:
        """The ledger of all peers; what a broken connection lost counts as in flight."""
        channels: dict[str, Counter[str]] = {}
        for life in self._lives.values():
            for name, counts in life.channels.items():
                channels.setdefault(name, Counter()).update(counts)
            for name, received in life.received.items():
                channels.setdefault(name, Counter())["delivered"] += received
        for counts in channels.values():
            counts["in_flight"] = counts["sent"] + counts["duplicated"] - counts["delivered"] - counts["lost"]
        sent = self.sent
        plain = {name: {key: int(counts[key]) for key in COUNTS} for name, counts in channels.items()}
        return {"total": sum(sent), "by_peer": sent, "channels": plain}

    # -- rows ------------------------------------------------------------------------------------------------

    def metrics(self) -> list[Metric]:
        """All rows in order of time, which begins with the first peer's protocol.

        A peer knows what it has sent itself; the rows say what all had sent by then, interpolated between reports.
        """
        found = sorted(self._rows(), key=lambda row: row[0])
        times = np.array([row[0] for row in found])
        sent = np.zeros(len(found))
        for peer in range(self._peers):
            sent += np.interp(times, *self._sent_until(peer))
        return [(time, r, int(s), peer, name, v) for (time, r, peer, name, v), s in zip(found, sent, strict=True)]

    def _rows(self) -> Iterator[tuple[float, int, int, str, float]]:
        """(time, round, peer, metric, value): of a measurement that a later life repeats, the first."""
        for peer in range(self._peers):
            done: set[tuple[int, str]] = set()
            for life in self._of(peer):
                for time, r, _, _, name, value in life.shifted(self.began):
                    if name in self._measured:
                        if peer not in self._counters or (r, name) in done:
                            continue
                        done.add((r, name))
                    yield time, r, peer, name, value

    def _sent_until(self, peer: int) -> tuple[list[float], list[float]]:
        """Points in time, and the bytes that a peer had sent by then."""
        points: list[tuple[float, float]] = [(0.0, 0.0)]
        before = 0
        for life in self._of(peer):
            points += [(row[0], before + row[2]) for row in life.shifted(self.began)]
            before += life.sent
            points.append((life.began + life.now - self.began, before))
        points.sort()
        return [time for time, _ in points], [sent for _, sent in points]

    def events(self, without: Collection[tuple[str, str | None]] = ()) -> list[Line]:
        """The log of all peers and of `log`, in order of time.

        Args:
            without: (event, why) of entries that say nothing.
        """
        found = [{**entry, "time": max(0.0, entry["time"] - (self.began or entry["time"]))} for entry in self._own]
        for life in self._lives.values():
            shift = life.began - self.began
            found += [{**entry, "time": entry["time"] + shift} for entry in life.entries]
        kept = [entry for entry in found if (entry["event"], entry.get("why")) not in without]
        return sorted(kept, key=lambda entry: entry["time"])


class _Life:
    """One life of one peer, as it was last reported."""

    def __init__(self) -> None:
        self.rows: list[Metric] = []
        self.entries: list[Line] = []
        self.began = self.now = 0.0
        self.begun = False
        self.round = self.sent = 0
        self.latest: dict[str, float] = {}
        self.channels: dict[str, dict[str, int]] = {}
        self.received: dict[str, int] = {}

    def take(self, news: Line) -> None:
        rows, entries = news["known"]
        if rows + len(news["rows"]) >= len(self.rows):  # else it was overtaken by a later one
            self.rows[rows:] = news["rows"]
        if entries + len(news["log"]) >= len(self.entries):
            self.entries[entries:] = news["log"]
        if news["status"] == "waiting":
            return
        if not self.begun:
            self.begun, self.began = True, news["began"]
        if news["now"] >= self.now:
            self.now, self.round, self.sent = news["now"], news["round"], news["sent"]
            self.latest, self.channels, self.received = news["latest"], news["channels"], news["received"]

    def shifted(self, began: float) -> list[Metric]:
        """The rows on a clock that began then."""
        return [(time + self.began - began, *rest) for time, *rest in self.rows]  # type: ignore[misc]
