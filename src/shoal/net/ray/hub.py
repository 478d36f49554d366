"""Frames between blocks of peers: directly within a block, by calls from host to host beyond it.

Calls do not keep their order on a cluster, where large arguments take another way than small ones. So one call at a
time is under way from a host to another. It carries whatever waits for that host, and returns when that was handed
over: order is kept, and who cannot follow slows the senders down. A body that goes to several peers of a block travels
once.

Of two hosts the lower one connects. Every connection has a number, higher than that of the one before, and what was
sent under another number is refused: a frame arrives in order or, if the connection breaks, not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.net.ray.queues import Batch, HostLost, Line, Link, Pipe, joined
from shoal.net.transport import Ears, Transport

PAUSE = 0.2  # seconds between two attempts to connect
NOBODY = -1
LEFT = "it has left"


class Hub:
    """Connects the peers of one host with each other, and with those of other hosts.

    Args:
        number: of this host.
        blocks: the peers of every host.
        allowance: bytes that may wait from one peer to another.
    """

    def __init__(self, number: int, blocks: Sequence[Sequence[int]], allowance: int) -> None:
        self.number, self.blocks, self.allowance = number, [tuple(block) for block in blocks], allowance
        self._host = {peer: host for host, block in enumerate(self.blocks) for peer in block}
        self._ears: dict[int, Ears] = {}
        self._pipes: dict[tuple[int, int], Pipe] = {}
        self._links: dict[int, Link] = {}
        self._opened = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def transport(self, id: int) -> RayTransport:
        """The transport of a peer of this host."""
        if id not in self.blocks[self.number]:
            raise ValueError(f"id: got {id}; peers of host {self.number} are {self.blocks[self.number]}")
        return RayTransport(self, id)

    def meet(self, lines: Mapping[int, Line]) -> None:
        """Learn how to call the other hosts, and connect with them once all peers of this one listen."""
        for host, line in lines.items():
            link = self._links[host] = Link(host, line, self.blocks[host])
            self._begin(self._send(link))
            if self.number < host:
                self._begin(self._connect(link))

    async def close(self) -> None:
        """Break all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what other hosts call -------------------------------------------------------------------------------

    async def hello(self, host: int, connection: int) -> bool:
        """A host connects; returns whether that is now the connection: an older one it is not."""
        await self._opened.wait()
        link = self._links[host]
        if connection <= link.newest:
            return connection == link.connection
        self._went(link, "it connects anew")
        self._came(link, connection)
        return True

    async def deliver(self, batch: Batch) -> bool:
        """Frames come in; returns, when they are handed over, whether the connection was the present one."""
        link = self._links[batch.host]
        if link.connection is None and batch.connection == link.dialled:  # it knows earlier than this side
            self._came(link, batch.connection)
        if link.connection != batch.connection:
            return False
        pairs: dict[tuple[int, int], list[tuple[bytes, int]]] = {}
        for sender, to, head, body in batch.frames:
            pairs.setdefault((sender, to), []).append((head, body))
        await asyncio.gather(*(self._hand_over(link, batch, *pair, rows) for pair, rows in pairs.items()))
        for sender, to in pairs:
            if to == NOBODY and sender not in link.left:
                link.left.add(sender)
                self._tell_down([sender], LEFT)
        return True

    async def _hand_over(self, link: Link, batch: Batch, sender: int, to: int, rows: list[tuple[bytes, int]]) -> None:
        for head, body in rows:
            ears = self._ears.get(to)
            if ears is None or link.connection != batch.connection:
                return
            await ears.frame(sender, joined(head, batch.bodies[body]))

    async def dropped(self, host: int, connection: int) -> None:
        """A host that does not connect itself has lost the connection."""
        link = self._links.get(host)
        if link is not None and link.connection == connection:
            self._went(link, "it lost the connection")

    async def live(self) -> None:
        """Never returns; who awaits it learns of this host's death."""
        await asyncio.Event().wait()

    # -- connections -----------------------------------------------------------------------------------------

    async def _connect(self, link: Link) -> None:
        await self._opened.wait()
        while True:
            link.dialled = connection = max(link.newest + 1, time.time_ns())
            try:
                accepted = await link.line.hello(self.number, connection)
            except HostLost as lost:
                self._went(link, str(lost))
                if lost.final:
                    return
                accepted = False
            if not accepted:
                await asyncio.sleep(PAUSE)
                continue
            if link.connection is None and link.newest < connection:  # else it came, and may be gone again already
                self._came(link, connection)
            await link.broken.wait()

    async def _watch(self, link: Link, connection: int) -> None:
        """Notice at once that the other host dies."""
        try:
            await link.line.live()
        except HostLost as lost:
            if link.connection != connection:
                return
            self._went(link, str(lost))
            if not lost.final and self.number > link.host:
                await self._complain(link, connection)

    async def _complain(self, link: Link, connection: int) -> None:
        """Ask the host that connects to do so again, in case that it has not noticed."""
        while link.connection is None:
            try:
                await link.line.dropped(self.number, connection)
                return
            except HostLost as lost:
                if lost.final:
                    return
            await asyncio.sleep(PAUSE)

    def _came(self, link: Link, connection: int) -> None:
        link.connection = link.newest = connection
        link.broken.clear()
        link.left.clear()
        for ears in list(self._ears.values()):
            for peer in link.block:
                ears.up(peer)
        self._begin(self._watch(link, connection))

    def _went(self, link: Link, why: str) -> None:
        if link.connection is None:
            return
        link.connection = None
        link.drop_all()
        link.broken.set()
        self._tell_down([peer for peer in link.block if peer not in link.left], why)

    def _tell_down(self, peers: Sequence[int], why: str) -> None:
        for ears in list(self._ears.values()):
            for peer in peers:
                ears.down(peer, why)

    async def _send(self, link: Link) -> None:
        while True:
            await link.filled.wait()
            connection = link.connection
            if connection is None:
                link.drop_all()
                continue
            batch = link.take(self.number, connection)
            try:
                taken = await link.line.deliver(batch)
                why = "it knows another connection"
            except HostLost as lost:
                taken, why = False, str(lost)
            if link.connection == connection:
                link.sent(batch)
                if not taken:
                    self._went(link, why)
                    if self.number > link.host:
                        self._begin(self._complain(link, connection))

    # -- for the transports ----------------------------------------------------------------------------------

    def attach(self, id: int, ears: Ears) -> None:
        """A peer of this host begins to listen."""
        others = dict(self._ears)
        self._ears[id] = ears
        for other, theirs in others.items():
            for pair in ((id, other), (other, id)):
                self._pipes[pair] = pipe = Pipe()
                self._begin(self._carry(pair, pipe))
            ears.up(other)
            theirs.up(id)
        for link in self._links.values():
            if link.connection is not None:
                for peer in link.block:
                    if peer not in link.left:
                        ears.up(peer)
        if len(self._ears) == len(self.blocks[self.number]):
            self._opened.set()

    def send(self, sender: int, to: int, head: bytes, body: bytes) -> bool:
        """See `Transport.send`."""
        if self._host.get(to) == self.number:
            pipe = self._pipes.get((sender, to))
            return pipe is not None and pipe.put(head, body, self.allowance)
        link = self._links.get(self._host.get(to, NOBODY))
        if link is None or link.connection is None or to in link.left:
            return False
        return link.put(sender, to, head, body, self.allowance)

    async def _carry(self, pair: tuple[int, int], pipe: Pipe) -> None:
        """Frames from a peer to another one of this host."""
        sender, to = pair
        while True:
            await pipe.filled.wait()
            ears = self._ears.get(to)
            if ears is None:
                return
            head, body = pipe.frames[0]
            await ears.frame(sender, joined(head, body))
            pipe.pop()

    async def detach(self, id: int, patience: float) -> None:
        """A peer of this host listens no more: what it has sent goes on its way first, within `patience` seconds."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self._waits(id):
            await asyncio.sleep(0.005)
        if self._ears.pop(id, None) is None:
            return
        for pair in [pair for pair in self._pipes if id in pair]:
            del self._pipes[pair]
        self._tell_down([id], LEFT)
        for link in self._links.values():
            if link.connection is not None:
                link.put(id, NOBODY, b"", b"", self.allowance)

    def _waits(self, id: int) -> bool:
        pipes = any(pipe.frames for (sender, _), pipe in self._pipes.items() if sender == id)
        return pipes or any(link.waits(id) for link in self._links.values())


class RayTransport(Transport):
    """One peer's end of a hub.

    Attributes:
        id: of the peer.
    """

    name = "ray"

    def __init__(self, hub: Hub, id: int) -> None:
        self.id, self._hub = id, hub

    async def start(self, ears: Ears) -> None:
        """Listen to the peers of the block and, once all of these listen, to those of other hosts."""
        self._hub.attach(self.id, ears)

    def send(self, to: int, head: bytes, body: bytes) -> bool:
        """Put a frame in the queue to a peer; see `Transport.send`."""
        return self._hub.send(self.id, to, head, body)

    async def stop(self, patience: float) -> None:
        """Let go what waits, for at most `patience` seconds, and leave."""
        await self._hub.detach(self.id, patience)
