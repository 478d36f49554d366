"""What a peer knows of its connection with one other, and the rule that lets both sides keep the same one."""

from __future__ import annotations

import asyncio
import random

from shoal.net.iroh.link import Link

BACKOFF, BACKOFF_LIMIT = 0.1, 5.0  # seconds until a peer is dialled again: at first, at most
SETTLED = 10.0  # seconds after which a connection that is lost was no failure


class Slot:
    """The place for the connection with one other peer.

    Attributes:
        lock: held while it is decided which connection is the one.
        link: that one.
        call: this side's own attempt to connect.
        asked: whether that attempt's hello may have been heard.
        after: the last connection that is gone.
        left: whether the other side said goodbye; it is not dialled until it has come again.
        failures: attempts in a row that failed, and connections that did not last.
        wake: set when there is reason to dial.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.link: Link | None = None
        self.call: asyncio.Task[None] | None = None
        self.asked = False
        self.after = b""
        self.left = False
        self.failures = 0
        self.wake = asyncio.Event()
        self._began = self._barred = float("-inf")

    def begin(self, link: Link) -> None:
        """A connection is the one."""
        self.link, self.left, self._began = link, False, asyncio.get_running_loop().time()

    def end(self, link: Link) -> None:
        """It is gone."""
        now = asyncio.get_running_loop().time()
        self.link, self.after, self.left = None, link.id, link.left
        self.failures = 0 if now - self._began > SETTLED else self.failures + 1
        if link.violated:
            self._barred = now + BACKOFF_LIMIT
        self.wake.set()

    def pause(self) -> float:
        """Seconds to wait before the other side is dialled again."""
        backoff = min(BACKOFF_LIMIT, BACKOFF * 2.0 ** min(self.failures, 10)) * random.uniform(0.5, 1.0)
        return max(backoff, self._barred - asyncio.get_running_loop().time())

    def give_way(self, preferred: bool) -> None:
        """A hello has come while this side may be dialling, too: of two attempts one goes on.

        One whose hello may have been heard gives way to the peer with the lower key alone (`preferred`), any other to
        everybody. So the attempt that goes on is the same on both sides, and nobody gives up both.
        """
        if self.call is not None and (preferred or not self.asked):
            self.call.cancel()

    def objection(self, new: Link, after: bytes, preferred: bool) -> str | None:
        """Why a connection that the other side has made does not replace the one that is there, or None if it does.

        Args:
            new: the connection.
            after: the one that the other side knows to be gone.
            preferred: whether the other side has the lower key.
        """
        old = self.link
        if asyncio.get_running_loop().time() < self._barred:
            return "broke the rules of the connection a moment ago"
        if old is None or old.over.done():
            return None
        if new.life != old.life:  # its process is a new one, or two processes have one key, of which the first stays
            return "a peer with this key is connected: does it run twice?" if old.is_lively() else None
        if old.dialled and after != old.id and not preferred:
            return "is connected already"
        return None
