"""What one peer knows of a run: its own status, what the others tell of themselves, who is here, what happened.

Everything is bounded, however long a run lasts and whatever others tell: each of them can only fill a place of its own.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from shoal.deployment.status import SCORES, MalformedStatus, Status, clean, described
from shoal.report.events import Kind

POINTS = 64  # of a metric's course that are kept
RATES = 12  # samples from which bytes a second are told
TRAFFIC = 120  # samples of all peers' bytes a second
EVENTS = 200  # that are kept, and how many of them may be about one peer
EVENTS_EACH = 12
KINDS = 64  # kinds of events that are counted by name
ENDED = ("finished", "interrupted", "failed")


class Course:
    """How a number went from round to round. When there are too many points, every second one goes.

    Attributes:
        points: (round, value), by increasing round.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def add(self, round: int, value: float) -> bool:
        """Add a point; one of the same round, and later ones, are replaced. Returns whether anything changed."""
        points = self.points
        if points and points[-1] == (round, value):
            return False
        while points and points[-1][0] >= round:
            points.pop()
        points.append((round, value))
        if len(points) > POINTS:
            self.points = [*points[:-1:2], points[-1]]
        return True


class Sight:
    """One peer as it is seen from here.

    Attributes:
        status: the last one that it told, or None.
        heard: when that was.
        gone: since when it has not been connected; None while it is.
        courses: of its metrics.
        malformed: statuses that were refused.
        changed, scored: the board's versions at which anything, and a course, last changed.
    """

    def __init__(self, id: int) -> None:
        self.id = id
        self.status: Status | None = None
        self.heard: float | None = None
        self.gone: float | None = None
        self.ended = False
        self.courses: dict[str, Course] = {}
        self.malformed = 0
        self.changed = self.scored = 0
        self._sent: deque[tuple[float, int]] = deque(maxlen=RATES)

    @property
    def state(self) -> str:
        """What it said last, unless it is known better."""
        said = "waiting" if self.status is None else self.status.state
        if self.ended and said not in ENDED:
            return "finished"
        return said if self.gone is None or said in ENDED else "gone"

    def take(self, status: Status, now: float) -> bool:
        """Believe a status; returns whether a course has changed."""
        if self.status is not None and status.lives != self.status.lives:
            self._sent.clear()
        self.status, self.heard = status, now
        if not self._sent or now - self._sent[-1][0] >= 0.5:
            self._sent.append((now, status.sent))
        changed = False
        for name, value in status.scores.items():
            if name in self.courses or len(self.courses) < SCORES:
                changed |= self.courses.setdefault(name, Course()).add(status.scored, value)
        return changed

    @property
    def rate(self) -> float:
        """Bytes that it sent a second, lately."""
        if self.gone is not None or len(self._sent) < 2:
            return 0.0
        (began, before), (ended, after) = self._sent[0], self._sent[-1]
        return max(0.0, (after - before) / (ended - began))


class Board:
    """Where a node puts what it sees, and pages, terminals and metrics find it. All on one event loop.

    Args:
        me: id of the peer whose board it is.
        peers: number of peers, present or not.
        name: of the run.
        rounds: that a peer goes through.
        clock: seconds, only ever increasing.

    Attributes:
        version: increases with each change.
        malformed: statuses that were refused, of all peers.
        kinds: how often each kind of event was logged; what comes after the first 64 kinds counts as "other".
    """

    def __init__(
        self, me: int, peers: int, name: str, rounds: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0 <= me < peers:
            raise ValueError(f"me: got {me}; a number from 0 to {peers - 1} is allowed")
        self.me, self.peers, self.name, self.rounds = me, peers, clean(name), rounds
        self.version = 1
        self.malformed = 0
        self.kinds: Counter[str] = Counter()
        self._clock, self._start, self._began = clock, clock(), time.time()
        self._sights: dict[int, Sight] = {me: Sight(me)}
        self._events: list[dict[str, Any]] = []
        self._eventful = 0  # the version at which an event was last added
        self._traffic: deque[float] = deque(maxlen=TRAFFIC)
        self._sampled = -math.inf

    def now(self) -> float:
        """Seconds since the board was made."""
        return self._clock() - self._start

    # -- what is put here ------------------------------------------------------------------------------------

    def mine(self, **fields: Any) -> Status:
        """This peer's own status; see `Status` for the fields.

        Raises:
            MalformedStatus: a field that is not as it must be.
        """
        status = Status.read(self.me, {**fields, "peer": self.me})
        self._believe(self._sights[self.me], status)
        now = self.now()
        if now - self._sampled >= 0.9:
            self._sampled = now
            self._traffic.append(sum(sight.rate for sight in self._sights.values()))
        return status

    def heard(self, sender: int, content: Any) -> bool:
        """What another peer tells of itself. Refused, and logged, if it is no status of its own.

        Args:
            sender: who told it, as the transport knows.
            content: anything.

        Returns:
            Whether it was believed.
        """
        if sender == self.me or not 0 <= sender < self.peers:
            return False
        sight = self._sight(sender)
        try:
            status = Status.read(sender, content)
        except MalformedStatus as error:
            self.malformed += 1
            sight.malformed += 1
            self._touch(sight)
            if sight.malformed & (sight.malformed - 1) == 0:
                self.log({"event": "malformed status refused", "sender": sender, "why": str(error)})
            return False
        self._believe(sight, status)
        return True

    def here(self, peers: Iterable[int]) -> None:
        """The others that are connected now; whoever was, and is not named, is gone."""
        present = {peer for peer in peers if 0 <= peer < self.peers and peer != self.me}
        for peer in present - self._sights.keys():
            self._touch(self._sight(peer))
        for sight in self._sights.values():
            here = sight.id in present or sight.id == self.me
            if here != (sight.gone is None):
                sight.gone = None if here else self.now()
                self._touch(sight)

    def ended(self, peers: Iterable[int]) -> None:
        """The others that have finished their protocol, as far as is known."""
        over = set(peers)
        for sight in self._sights.values():
            if sight.ended != (sight.id in over):
                sight.ended = sight.id in over
                self._touch(sight)

    def log(self, entry: dict[str, Any]) -> None:
        """Something happened: an entry as a world's log has it, with "event", "peer" and details.

        The same thing again about the same peer is counted where it stands. Of what there is about one peer, only the
        last dozen is kept, so that a noisy one pushes out nothing but its own.
        """
        rest = dict(entry)
        rest.pop("time", None)
        event, peer = clean(str(rest.pop("event", "")), 60) or "event", rest.pop("peer", self.me)
        about = rest.get("sender", peer)
        about = about if isinstance(about, int) and 0 <= about < self.peers else self.me
        self.kinds[event if event in self.kinds or len(self.kinds) < KINDS else "other"] += 1
        own = [known for known in self._events if known["peer"] == about]
        self.version = self._eventful = self.version + 1
        text, now = described({k: v for k, v in rest.items() if k != "sender"}), self.now()
        if own and own[-1]["event"] == event:
            self._events.remove(own[-1])
            self._events.append({**own[-1], "time": now, "text": text, "count": own[-1]["count"] + 1})
            return
        if len(own) >= EVENTS_EACH or len(self._events) >= EVENTS:
            self._events.remove(own[0] if len(own) >= EVENTS_EACH else self._events[0])
        new = {"event": event, "peer": about, "text": text, "trouble": Kind(event).trouble}
        self._events.append({"time": now, "first": now, "count": 1, **new})

    def _believe(self, sight: Sight, status: Status) -> None:
        before = sight.status
        scored = sight.take(status, self.now())
        self._touch(sight)
        if scored:
            sight.scored = self.version
        if before is not None and status.lives > before.lives:
            self.log({"event": "started again", "peer": sight.id, "life": status.lives})
        if (before is None or before.state != status.state) and status.state in ENDED:
            self.log({"event": status.state, "peer": sight.id, "round": status.round})

    def _sight(self, peer: int) -> Sight:
        sight = self._sights.get(peer)
        if sight is None:
            sight = self._sights[peer] = Sight(peer)
        return sight

    def _touch(self, sight: Sight) -> None:
        self.version = sight.changed = self.version + 1

    # -- what is seen here -----------------------------------------------------------------------------------

    @property
    def metric(self) -> str | None:
        """The metric that tells most, beside the loss: of this peer's, or else of what most peers have."""
        own = self._sights[self.me].courses
        counted = Counter(list(own) or [name for sight in self._sights.values() for name in sight.courses])
        names = sorted((name for name in counted if name != "loss"), key=lambda name: (-counted[name], name))
        return "accuracy" if "accuracy" in names else names[0] if names else None

    @property
    def connected(self) -> int:
        """How many peers are here, this one among them."""
        return sum(sight.gone is None for sight in self._sights.values())

    def snapshot(self) -> dict[str, Any]:
        """All of it, as plain numbers, texts, lists and dicts; times are seconds on the clock of `now`."""
        return self.since(0)

    def since(self, version: int) -> dict[str, Any]:
        """As `snapshot`, but of peers, courses and events only what has changed since the board had a version."""
        rows = [sight for _, sight in sorted(self._sights.items()) if sight.changed > version]
        found: dict[str, Any] = {
            "name": self.name,
            "me": self.me,
            "peers": self.peers,
            "rounds": self.rounds,
            "metric": self.metric,
            "connected": self.connected,
            "began": self._began,
            "now": self.now(),
            "version": self.version,
            "traffic": list(self._traffic),
            "rows": [self._row(sight, version) for sight in rows],
        }
        if self._eventful > version or not version:
            found["events"] = self._events[::-1]
        return found

    def _row(self, sight: Sight, version: int) -> dict[str, Any]:
        status = sight.status or Status(peer=sight.id, state="waiting")
        row = status.content()
        row |= {"state": sight.state, "heard": sight.heard, "gone": sight.gone, "rate": sight.rate}
        row["malformed"] = sight.malformed
        if sight.scored > version or not version:
            row["courses"] = {name: [list(point) for point in course.points] for name, course in sight.courses.items()}
        return row
