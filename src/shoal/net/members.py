"""Who is here, as one real peer knows it, and who needs it still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Members:
    """The other peers.

    Attributes:
        here: those that are connected.
        done: whether the peer itself has finished its protocol.
        late: whether somebody had begun before the peer itself did.
    """

    def __init__(self) -> None:
        self.here: set[int] = set()
        self.done = self.late = False
        self._met: set[int] = set()
        self._silent: set[int] = set()  # connected, and have not greeted yet
        self._finished: set[int] = set()
        self._gone_since: dict[int, float] = {}
        self._begun: float | None = None
        self._changed: set[asyncio.Future[None]] = set()

    def begin(self) -> None:
        """The peer's protocol begins: whoever connects from now on joins or returns."""
        self._begun = time.monotonic()

    @property
    def begun(self) -> bool:
        """Whether the peer's protocol has begun."""
        return self._begun is not None

    def greeted(self, other: int, begun: bool) -> None:
        """A peer says whether it had begun when the connection with it was made."""
        self.late = self.late or (begun and not self.begun)
        self._silent.discard(other)
        self._tell()

    async def wait_for_greetings(self, timeout: float) -> None:
        """Wait until all who are connected have said whether they had begun."""
        await self.wait(lambda: not self._silent, timeout)

    def finish(self) -> None:
        """The peer's protocol has ended."""
        self.done = True

    def came(self, other: int) -> bool:
        """A connection is there; returns whether `other` has missed something: it is back, or joins late."""
        missed = self._begun is not None or other in self._met
        self.here.add(other)
        self._silent.add(other)
        self._met.add(other)
        self._finished.discard(other)
        self._gone_since.pop(other, None)
        self._tell()
        return missed

    def went(self, other: int) -> None:
        """The connection is gone."""
        self.here.discard(other)
        self._silent.discard(other)
        self._gone_since.setdefault(other, time.monotonic())
        self._tell()

    def left(self, other: int) -> None:
        """A peer says goodbye: it will not come back soon."""
        self._gone_since[other] = float("-inf")
        self._tell()

    def finished(self, other: int) -> None:
        """A peer has finished its protocol."""
        self._finished.add(other)
        self._tell()

    @property
    def ended(self) -> set[int]:
        """The others that have finished their protocol."""
        return set(self._finished)

    @property
    def departed(self) -> set[int]:
        """The others that said goodbye, and are not back."""
        return {other for other, since in self._gone_since.items() if since == float("-inf")}

    def _tell(self) -> None:
        changed, self._changed = self._changed, set()
        for future in changed:
            if not future.done():
                future.set_result(None)

    async def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until a condition on the members holds; returns whether it does."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    future = asyncio.get_running_loop().create_future()
                    self._changed.add(future)
                    try:
                        await future
                    finally:
                        self._changed.discard(future)
        except TimeoutError:
            return False
        return True

    def awaited(self, linger: float) -> set[int]:
        """Peers that may need this one still: not finished, and here, or gone for less than `linger` seconds."""
        now = time.monotonic()
        return {
            other
            for other in self._met - self._finished
            if other not in self._gone_since or now - self._gone_since[other] < linger
        }

    async def wait_for_all(self, linger: float, me: int, server: int | None = None) -> set[int]:
        """Wait until no peer needs this one any more; see `awaited`.

        Nobody can tell a peer that is slow from one that only says so, and one peer must not keep all others for
        ever. So once the server has finished, or in a world without one more than half of the peers, the rest is
        waited for `linger` seconds more; without a server for as long again as the run took by then, if that is longer.

        Returns:
            Those who were given up.
        """
        began = time.monotonic() if self._begun is None else self._begun
        end = float("inf")
        while self.awaited(linger):
            now = time.monotonic()
            if end == float("inf") and self._is_over(me, server):
                end = now + (linger if server is not None else max(linger, now - began))
            if now >= end:
                break
            await self.wait(lambda: not self.awaited(linger), timeout=min(1.0, end - now))
        return self.awaited(linger)

    def _is_over(self, me: int, server: int | None) -> bool:
        if server is not None:
            return server == me or server in self._finished
        return 2 * (len(self._finished) + 1) > len(self._met) + 1
