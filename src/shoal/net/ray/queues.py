"""What waits in a hub, and what calls between hosts carry."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

CALL_BYTES = 64 << 20  # bodies that one call carries, unless a single one is larger
WAITING = 4096  # frames that may wait from one peer to another


class HostLost(ConnectionError):
    """A call to another host failed; `final`: that host will never come back."""

    def __init__(self, why: str, final: bool) -> None:
        super().__init__(why)
        self.final = final


class Batch(NamedTuple):
    """What one call carries.

    Attributes:
        host: number of the sending host.
        connection: number of the connection.
        frames: (sender, to, head, place of its body in `bodies`), in order; to NOBODY: the sender has left.
        bodies: uint8 arrays.
    """

    host: int
    connection: int
    frames: list[tuple[int, int, bytes, int]]
    bodies: list[NDArray[np.uint8]]


class Line(Protocol):
    """Calls to another host; all raise `HostLost`."""

    async def hello(self, host: int, connection: int) -> bool:
        """See `Hub.hello`."""

    async def deliver(self, batch: Batch) -> bool:
        """See `Hub.deliver`."""

    async def dropped(self, host: int, connection: int) -> None:
        """See `Hub.dropped`."""

    async def live(self) -> None:
        """Never returns: raises when the other host dies."""


def joined(head: bytes, body: bytes | NDArray[np.uint8]) -> memoryview:
    """A frame in one piece, in memory of its own: what a call carried lies in the cluster's store, which is bounded.

    numpy asks for large pages; to fill as many bytes of `bytes` or `bytearray` takes several times as long.
    """
    frame = np.empty(len(head) + len(body), dtype=np.uint8)
    frame[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    frame[len(head) :] = np.frombuffer(body, dtype=np.uint8) if isinstance(body, bytes) else body
    return frame.data


class Pipe:
    """Frames that wait from a peer to another one of the same host."""

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, bytes]] = deque()
        self.filled = asyncio.Event()
        self._bytes = 0

    def put(self, head: bytes, body: bytes, allowance: int) -> bool:
        """Add a frame; False if there is no room within the allowance, in bytes."""
        size = len(head) + len(body)
        if self.frames and (self._bytes + size > allowance or len(self.frames) >= WAITING):
            return False
        self.frames.append((head, body))
        self._bytes += size
        self.filled.set()
        return True

    def pop(self) -> None:
        """The first frame was handed over."""
        head, body = self.frames.popleft()
        self._bytes -= len(head) + len(body)
        if not self.frames:
            self.filled.clear()


class Link:
    """The connection with another host, and what waits to go there.

    Attributes:
        connection: its number, or None.
        newest: the highest number so far.
        dialled: the number under which this side tries to connect.
        broken: set while there is no connection after one was lost.
        left: peers of the other host that have left.
        filled: set while something waits.
    """

    def __init__(self, host: int, line: Line, block: Sequence[int]) -> None:
        self.host, self.line, self.block = host, line, tuple(block)
        self.connection: int | None = None
        self.newest = self.dialled = 0
        self.broken, self.filled = asyncio.Event(), asyncio.Event()
        self.left: set[int] = set()
        self._queue: deque[tuple[int, int, bytes, bytes]] = deque()
        self._waiting: dict[tuple[int, int], tuple[int, int]] = {}  # (sender, to) -> frames and bytes, sent ones too

    def put(self, sender: int, to: int, head: bytes, body: bytes, allowance: int) -> bool:
        """Add a frame; False if there is no room within the allowance of its pair, in bytes."""
        frames, size = self._waiting.get((sender, to), (0, 0))
        size += len(head) + len(body)
        if frames and (size > allowance or frames >= WAITING):
            return False
        self._waiting[sender, to] = (frames + 1, size)
        self._queue.append((sender, to, head, body))
        self.filled.set()
        return True

    def take(self, host: int, connection: int) -> Batch:
        """The first of what waits, for one call; it counts as waiting until `sent`."""
        frames: list[tuple[int, int, bytes, int]] = []
        places: dict[int, int] = {}
        bodies: list[NDArray[np.uint8]] = []
        size = 0
        while self._queue and (not frames or size + len(self._queue[0][3]) <= CALL_BYTES):
            sender, to, head, body = self._queue.popleft()
            place = places.get(id(body))
            if place is None:
                place = places[id(body)] = len(bodies)
                bodies.append(np.frombuffer(body, dtype=np.uint8))
                size += len(body)
            frames.append((sender, to, head, place))
        if not self._queue:
            self.filled.clear()
        return Batch(host, connection, frames, bodies)

    def sent(self, batch: Batch) -> None:
        """A call has returned: what it carried waits no more."""
        for sender, to, head, place in batch.frames:
            frames, size = self._waiting[sender, to]
            if frames == 1:
                del self._waiting[sender, to]
            else:
                self._waiting[sender, to] = (frames - 1, size - len(head) - len(batch.bodies[place]))

    def waits(self, sender: int) -> bool:
        """Whether something of a peer waits, or is under way."""
        return any(pair[0] == sender for pair in self._waiting)

    def drop_all(self) -> None:
        """Lose everything."""
        self._queue.clear()
        self._waiting.clear()
        self.filled.clear()
