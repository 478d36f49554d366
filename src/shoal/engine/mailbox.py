"""Where messages wait for a peer: boxes for `receive`, meetings for `exchange`, polls for requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from shoal.engine.errors import PeerLost
from shoal.engine.message import Received

REFUSED: Any = object()  # stands for a payload that was dropped, so that whoever waits for it gets to know


class Box:
    """Messages of one channel that nobody has received yet, and those who wait for one."""

    __slots__ = ("_messages", "_waiting")

    def __init__(self) -> None:
        self._messages: deque[Received] = deque()
        self._waiting: deque[tuple[asyncio.Future[Received], int | None]] = deque()

    def put(self, message: Received) -> None:
        """Hand the message to the first who waits for it, or keep it."""
        if not self._hand_over(message):
            self._messages.append(message)

    def _hand_over(self, message: Received) -> bool:
        for waiting in self._waiting:
            future, sender = waiting
            if not future.done() and (sender is None or sender == message.sender):
                self._waiting.remove(waiting)
                future.set_result(message)
                return True
        return False

    def refuse(self, sender: int, why: str) -> None:
        """A message was dropped: whoever waits for this sender, now or next, learns that its peer is of no use."""
        for future, awaited in self._waiting:
            if awaited == sender and not future.done():
                future.set_exception(PeerLost(sender, why))
                return
        self._messages.append(Received(sender, REFUSED))

    def take(self, sender: int | None) -> Received | None:
        """The oldest message (from `sender`), or None."""
        for position, message in enumerate(self._messages):
            if message.sender == sender or (sender is None and message.payload is not REFUSED):
                del self._messages[position]
                return message
        return None

    async def wait(self, sender: int | None, future: asyncio.Future[Received]) -> Received:
        """Wait for a message (from `sender`)."""
        entry = (future, sender)
        self._waiting.append(entry)
        try:
            return await future
        except asyncio.CancelledError:
            handed_over = future.done() and not future.cancelled() and future.exception() is None
            if handed_over and not self._hand_over(future.result()):  # the next who waits may have it
                self._messages.appendleft(future.result())
            raise
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def held(self, sender: int) -> int:
        """How many messages of a sender nobody has received yet."""
        return sum(message.sender == sender for message in self._messages)

    def lose(self, is_lost: Callable[[int], bool]) -> None:
        """Tell those who wait for a lost peer."""
        for future, sender in list(self._waiting):
            if sender is not None and not future.done() and is_lost(sender):
                future.set_exception(PeerLost(sender))


class Meeting:
    """One channel of `exchange`: what has come for which round, and from whom something is still due.

    A neighbour counts as absent, and is not waited for, when it is known to be lost or to have finished, when it has
    already sent something for a later round (its message for this one will not come any more), when it came back
    from a crash and is still more than one round behind, or when time ran out twice without a word from it.
    """

    __slots__ = (
        "_ahead",
        "_behind",
        "_early",
        "_silent",
        "future",
        "got",
        "late",
        "need",
        "parcel",
        "round",
        "sent_to",
    )

    def __init__(self) -> None:
        self.round = -1
        self.need: dict[int, None] = {}
        self.got: dict[int, Any] = {}
        self.future: asyncio.Future[None] | None = None
        self.parcel: Any = None
        self.sent_to: tuple[int, ...] = ()
        self.late = 0
        self._early: dict[int, dict[int, Any]] = {}
        self._ahead: dict[int, int] = {}
        self._behind: set[int] = set()
        self._silent: set[int] = set()  # not a word since time ran out

    @property
    def active(self) -> bool:
        """Whether an exchange is under way."""
        return self.parcel is not None

    def begin(self, round: int, neighbours: Iterable[int], is_absent: Callable[[int], bool]) -> None:
        """Open the meeting for a round."""
        self.round = round
        self.got = self._early.pop(round, {})
        for old in [r for r in self._early if r < round]:
            self.late += len(self._early.pop(old))
        self.need = {}
        for j in neighbours:
            if j in self.got or self._ahead.get(j, -1) > round or j in self._behind or is_absent(j):
                continue
            self.need[j] = None

    def put(self, sender: int, round: int, payload: Any) -> bool:
        """A message has come; returns whether it is of use."""
        self._silent.discard(sender)
        stale = round <= self._ahead.get(sender, -1)  # a copy, or overtaken: says nothing about where it is now
        if not stale:
            self._ahead[sender] = round
        if not self.active:  # between two exchanges
            if round >= self.round:
                self._behind.discard(sender)
            if round <= self.round:
                self.late += 1
                return False
            _keep(self._early.setdefault(round, {}), sender, payload)
            return True
        if round >= self.round - 1:
            self._behind.discard(sender)
        elif sender in self.need and not stale:
            self._behind.add(sender)
        if round == self.round:
            _keep(self.got, sender, payload)
        elif round > self.round:
            _keep(self._early.setdefault(round, {}), sender, payload)
        else:
            self.late += 1
        if round >= self.round or sender in self._behind:
            self.need.pop(sender, None)
            self.settle()
        return round >= self.round

    def settle(self) -> None:
        """Wake the peer if nothing is due any more."""
        if not self.need and self.future is not None and not self.future.done():
            self.future.set_result(None)

    def expire(self) -> None:
        """The time is up: whoever is still due is absent."""
        self._behind |= self.need.keys() & self._silent
        self._silent |= self.need.keys()
        self.need = {}
        self.settle()

    def lose(self, is_lost: Callable[[int], bool]) -> None:
        """Do not wait for lost peers."""
        for j in [j for j in self.need if is_lost(j)]:
            del self.need[j]
        self.settle()

    def returned(self, peer: int) -> None:
        """A peer came back: its rounds start over, so what it had sent before says nothing any more."""
        self._behind.add(peer)
        self._ahead.pop(peer, None)

    def drop(self, peer: int) -> None:
        """A peer takes part no more."""
        if peer in self.need:
            del self.need[peer]
            self.settle()

    def heard(self, round: int) -> list[tuple[int, int, Any]]:
        """What peers have said last, if that is of `round` or a later one: (its round, peer, payload).

        The payload is None where it has been handed out before, or was spoilt.
        """
        found = []
        for peer, latest in self._ahead.items():
            if latest >= round:
                said = self._early.get(latest, {}).get(peer)
                found.append((latest, peer, None if said is REFUSED else said))
        return found

    def held(self, peer: int) -> int:
        """How many messages of a peer are kept for later rounds."""
        return sum(peer in early for early in self._early.values())

    def close(self) -> dict[int, Any]:
        """End the meeting; what came, in order of the sender's id."""
        self.parcel = self.future = None
        self.sent_to = ()
        got, self.got, self.need = self.got, {}, {}
        return {sender: got[sender] for sender in sorted(got) if got[sender] is not REFUSED}


def _keep(store: dict[int, Any], sender: int, payload: Any) -> None:
    if payload is not REFUSED or sender not in store:  # a spoilt copy does not undo a good one
        store[sender] = payload


class Poll:
    """Requests whose replies are awaited together; each ends once, by `put` or by `lose`.

    Attributes:
        answers: peer -> its reply.
        lost: peer -> why there is none.
        future: done when no request is open any more, or when the time is up.
    """

    __slots__ = ("_open", "answers", "future", "lost")

    def __init__(self, requests: int, future: asyncio.Future[None]) -> None:
        self.answers: dict[int, Any] = {}
        self.lost: dict[int, PeerLost] = {}
        self.future = future
        self._open = requests

    def put(self, peer: int, answer: Any) -> None:
        """The reply of a peer has come."""
        self.answers[peer] = answer
        self._close_one()

    def lose(self, peer: int, error: PeerLost) -> None:
        """No reply will come from a peer."""
        self.lost[peer] = error
        self._close_one()

    def _close_one(self) -> None:
        self._open -= 1
        if not self._open:
            self.expire()

    def expire(self) -> None:
        """Wait no longer."""
        if not self.future.done():
            self.future.set_result(None)


class Polls:
    """Requests of a peer that are open: each has a number, is part of a poll, and only who was asked can end it."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[int, tuple[Poll, int]] = {}

    @property
    def asked(self) -> list[int]:
        """Who was asked, once for each request."""
        return [to for _, to in self._open.values()]

    def add(self, number: int, poll: Poll, to: int) -> None:
        """A request was sent to a peer."""
        self._open[number] = (poll, to)

    def drop(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these any more."""
        for number in numbers:
            self._open.pop(number, None)

    def put(self, number: int, sender: int, answer: Any) -> None:
        """A reply has come."""
        poll = self._close(number, sender)
        if poll is not None:
            poll.put(sender, answer)

    def fail(self, number: int, error: PeerLost) -> None:
        """No reply will come from the error's peer."""
        poll = self._close(number, error.peer)
        if poll is not None:
            poll.lose(error.peer, error)

    def lose(self, is_lost: Callable[[int], bool], why: str | None = None) -> None:
        """No reply will come from peers that are lost."""
        for number, (_, to) in list(self._open.items()):
            if is_lost(to):
                self.fail(number, PeerLost(to) if why is None else PeerLost(to, why))

    def _close(self, number: int, peer: int) -> Poll | None:
        found = self._open.get(number)
        if found is None or found[1] != peer:
            return None
        del self._open[number]
        return found[0]
