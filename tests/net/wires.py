"""A transport within one process, for tests of what lies above it: frames go from queue to queue, wires can be cut."""

from __future__ import annotations

import asyncio

from shoal.net import Ears, Transport


class Wires:
    """Connects the transports of several worlds that run on one loop."""

    def __init__(self) -> None:
        self.ends: dict[int, WireTransport] = {}
        self.cut: set[frozenset[int]] = set()

    def transport(self, id: int) -> WireTransport:
        return WireTransport(self, id)

    def connect(self, a: int, b: int) -> None:
        for me, other in ((a, b), (b, a)):
            self.ends[me].connected(other)

    def disconnect(self, a: int, b: int) -> None:
        for me, other in ((a, b), (b, a)):
            if me in self.ends:
                self.ends[me].disconnected(other)


class WireTransport(Transport):
    """One end. Every transport that starts is connected with those that are there."""

    name = "wires"

    def __init__(self, wires: Wires, id: int) -> None:
        self.wires, self.id = wires, id
        self.queues: dict[int, asyncio.Queue[bytes]] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def start(self, ears: Ears) -> None:
        self.ears = ears
        self.wires.ends[self.id] = self
        for other in list(self.wires.ends):
            if other != self.id:
                self.wires.connect(self.id, other)

    def connected(self, other: int) -> None:
        queue = self.queues[other] = asyncio.Queue()  # what other sends
        self.ears.up(other)
        self.tasks[other] = asyncio.ensure_future(self._hear(other, queue))

    def disconnected(self, other: int) -> None:
        if self.queues.pop(other, None) is not None:
            self.tasks.pop(other).cancel()
            self.ears.down(other, "the wire was cut")

    async def _hear(self, other: int, queue: asyncio.Queue[bytes]) -> None:
        while True:
            await self.ears.frame(other, await queue.get())

    def send(self, to: int, head: bytes, body: bytes) -> bool:
        return self.inject(to, head + body)

    def inject(self, to: int, data: bytes) -> bool:
        end = self.wires.ends.get(to)
        if end is None or self.id not in end.queues:
            return False
        end.queues[self.id].put_nowait(data)
        return True

    def waiting(self, other: int) -> int:
        """Frames that the other end has not heard yet."""
        end = self.wires.ends.get(other)
        return end.queues[self.id].qsize() if end is not None and self.id in end.queues else 0

    async def stop(self, patience: float) -> None:
        while any(self.waiting(other) for other in self.queues):
            await asyncio.sleep(0)
        self.wires.ends.pop(self.id, None)
        for other in list(self.queues):
            self.disconnected(other)
            if other in self.wires.ends:
                self.wires.ends[other].disconnected(self.id)
