"""One connection with one peer: frames and roster entries in order, signs of life, a goodbye.

On the stream on which the peers met, each side sends records: kind (1 byte), length (8, big endian), content. A
frame of `LARGE` bytes or more leaves only its length there and how many streams carry it: see `stripes`.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from shoal.net.iroh.binding import words
from shoal.net.iroh.options import STREAMS_LIMIT, NetOptions
from shoal.net.iroh.roster import Member
from shoal.net.iroh.stripes import gather, scatter

RECORD = struct.Struct(">BQ")
FRAME, STRIPED, ROSTER, GOODBYE = range(4)
LARGE = 1 << 20  # bytes from which a frame is striped
ROSTER_LIMIT, TOLD = 1 << 20, 256  # bytes of entries told at a time, at most; and how many are
BATCH = 1 << 18  # bytes of small records that are written together
BUFFER = 1 << 18  # bytes that are asked for at a time
FAREWELL = "said goodbye"

Hear = Callable[[bytes | memoryview], Awaitable[None]]


class Violation(Exception):
    """The other side broke the rules of the connection."""


class Link:
    """A connection that was let in.

    Args:
        connection, stream: iroh's.
        member: who is on the other side.
        options: of this side.
        limit: bytes that a frame may have.
        id: of the connection, as its hello says.
        life: of the other side.
        dialled: whether this side did.

    Attributes:
        left: whether the other side has said goodbye.
        violated: whether it has broken the rules.
        over: done, with the reason, once the connection is gone and nothing of it will be heard any more.
    """

    def __init__(
        self,
        connection: Any,
        stream: Any,
        member: Member,
        options: NetOptions,
        limit: int,
        *,
        id: bytes,
        life: bytes,
        dialled: bool,
    ) -> None:
        self.connection, self.member, self.id, self.life, self.dialled = connection, member, id, life, dialled
        self.heard = asyncio.get_running_loop().time()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._options, self._limit = options, limit
        self._sender, self._receiver = stream.send(), stream.recv()
        self._queue: deque[tuple[int, bytes, bytes]] = deque()
        self._waiting, self._bound = 0, max(options.queue, 2 * limit)
        self._more = asyncio.Event()
        self._leaving = self.left = self.violated = False
        self._flushed = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._incoming: dict[int, Any] = {}
        self._arrived = asyncio.Event()

    # -- from above ------------------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes) -> bool:
        """Put a frame in the queue; False if it is lost at once. A queue that overflows ends the connection."""
        if self._leaving or self._ended.done():
            return False
        size = len(head) + len(body)
        if self._waiting + size > self._bound:
            self.end(f"over {self._bound} bytes wait to be sent: it takes too few")
            return False
        self._put(STRIPED if size >= LARGE else FRAME, head, body)
        return True

    def tell(self, members: list[Member]) -> None:
        """Send entries of the roster."""
        if not self._leaving and not self._ended.done():
            for i in range(0, len(members), TOLD):
                self._put(ROSTER, b"", msgspec.msgpack.encode(members[i : i + TOLD]))

    def leave(self) -> None:
        """Send what waits, say goodbye, and end when the other side has said so, too."""
        if not self._leaving:
            self._put(GOODBYE, b"", b"")
            self._leaving = True

    def is_lively(self) -> bool:
        """Whether the other side gave a sign of life when it last should have."""
        return asyncio.get_running_loop().time() - self.heard < 2.5 * self._options.beat

    def end(self, why: str) -> None:
        """End the connection now."""
        if not self._ended.done():
            self._ended.set_result(why)

    def _put(self, kind: int, head: bytes, body: bytes) -> None:
        self._queue.append((kind, head, body))
        self._waiting += len(head) + len(body)
        self._more.set()

    # -- its life --------------------------------------------------------------------------------------------

    async def run(self, hear: Hear, told: Callable[[list[Member]], None], lost: Callable[[str], None]) -> None:
        """Live until the connection is gone.

        Args:
            hear: awaited with each frame before the next is read.
            told: called with entries of the roster.
            lost: called with the reason once the connection is gone; then `over` is done.
        """
        tasks = [
            self._task(self._read(hear, told)),
            self._task(self._write()),
            self._task(self._streams()),
            self._task(self._datagrams()),
            self._task(self._beat()),
        ]
        why = "this side was cancelled"
        try:
            why = await asyncio.shield(self._ended)
        finally:
            for task in tasks:
                task.cancel()
            self.connection.close(0, why.encode()[:200])
            await asyncio.gather(*tasks, return_exceptions=True)
            lost(why)
            self.over.set_result(why)

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(self._failed)
        return task

    def _failed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            why = words(error)
            self.left = self.left or why.endswith(FAREWELL)
            self.violated = self.violated or isinstance(error, Violation)
            self.end(FAREWELL if self.left else why)

    # -- out -------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        stripes: list[Any] = []
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
            batch, kind = self._batch()
            if batch:
                await self._sender.write_all(batch)
            elif kind == STRIPED:
                _, head, body = self._queue.popleft()
                if not stripes:
                    stripes = await self._open()
                size = len(head) + len(body)
                await self._sender.write_all(RECORD.pack(STRIPED, size) + bytes([len(stripes)]))
                await scatter(stripes, head, body)
                self._waiting -= size
            else:
                break
        await self._sender.write_all(RECORD.pack(GOODBYE, 0))
        await self._sender.finish()
        await self._sender.stopped()
        self._flushed.set()

    def _batch(self) -> tuple[bytes, int]:
        """Small records from the queue's front, joined, and the kind of the one behind them."""
        parts: list[bytes] = []
        size = 0
        while self._queue and size < BATCH:
            kind, head, body = self._queue[0]
            if kind not in (FRAME, ROSTER):
                return b"".join(parts), kind
            self._queue.popleft()
            length = len(head) + len(body)
            parts += (RECORD.pack(kind, length), head, body)
            size += RECORD.size + length
            self._waiting -= length
        return b"".join(parts), FRAME

    async def _open(self) -> list[Any]:
        stripes = []
        for i in range(self._options.streams):
            stripe = await self.connection.open_uni()
            await stripe.write_all(bytes([i]))
            stripes.append(stripe)
        return stripes

    # -- in --------------------------------------------------------------------------------------------------

    async def _read(self, hear: Hear, told: Callable[[list[Member]], None]) -> None:
        records = Buffered(self._receiver, self._noticed)
        while True:
            kind, size = RECORD.unpack(await records.take(RECORD.size))
            if kind == FRAME:
                self._check(size, min(self._limit, LARGE - 1))
                await hear(await records.take(size))
            elif kind == STRIPED:
                count = (await records.take(1))[0]
                self._check(size, self._limit)
                await hear(await gather(await self._stripes(count), size, self._noticed))
            elif kind == ROSTER:
                self._check(size, ROSTER_LIMIT)
                self._told(await records.take(size), told)
            elif kind == GOODBYE:
                break
            else:
                raise Violation(f"record of unknown kind {kind}")
        self.left = True
        self.leave()
        await self._flushed.wait()
        self.end(FAREWELL)

    def _told(self, data: bytes, told: Callable[[list[Member]], None]) -> None:
        try:
            told(msgspec.msgpack.decode(data, type=list[Member]))
        except (ValueError, RecursionError) as error:
            raise Violation(f"roster: {error}") from None

    def _check(self, size: int, limit: int) -> None:
        if size > limit:
            raise Violation(f"record of {size} bytes is over the limit of {limit}")

    def _noticed(self) -> None:
        self.heard = asyncio.get_running_loop().time()

    async def _streams(self) -> None:
        while True:
            stream = await self.connection.accept_uni()
            index = (await stream.read_exact(1))[0]
            if index >= STREAMS_LIMIT or index in self._incoming:
                raise Violation(f"stream {index} is one too many")
            self._incoming[index] = stream
            self._arrived.set()

    async def _stripes(self, count: int) -> list[Any]:
        """The first `count` streams of the other side."""
        if not 1 <= count <= STREAMS_LIMIT:
            raise Violation(f"a frame over {count} streams")
        while not all(i in self._incoming for i in range(count)):
            self._arrived.clear()
            await self._arrived.wait()
        return [self._incoming[i] for i in range(count)]

    # -- signs of life ---------------------------------------------------------------------------------------

    async def _datagrams(self) -> None:
        while True:
            await self.connection.read_datagram()
            self._noticed()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        beat, dead = self._options.beat, self._options.dead
        looked = told = loop.time()
        self.connection.send_datagram(b"\0")
        while True:
            await asyncio.sleep(beat / 2)
            now = loop.time()
            if now - told > 0.9 * beat:
                self.connection.send_datagram(b"\0")
                told = now
            self.heard += max(0.0, now - looked - beat)  # this side itself stood still: no reason to blame the other
            looked = now
            if now - self.heard > dead:
                self.end(f"silent for {dead:g} s")


class Buffered:
    """A stream that is read in large bites.

    Args:
        stream: iroh's.
        noticed: called when something came.
    """

    def __init__(self, stream: Any, noticed: Callable[[], None]) -> None:
        self._stream, self._noticed = stream, noticed
        self._buffer, self._at = b"", 0

    async def take(self, size: int) -> bytes:
        """The next `size` bytes, all of them.

        Raises:
            EOFError: the stream ended before.
        """
        if len(self._buffer) - self._at < size:
            parts = [self._buffer[self._at :]]
            missing = size - len(parts[0])
            while missing > 0:
                part = await self._stream.read(BUFFER)
                if not part:
                    raise EOFError("the stream ended without a goodbye")
                self._noticed()
                parts.append(part)
                missing -= len(part)
            self._buffer, self._at = b"".join(parts), 0
        found = self._buffer[self._at : self._at + size]
        self._at += size
        return found
