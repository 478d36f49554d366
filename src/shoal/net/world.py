"""The real world: one peer, on the wall clock, behind a transport. The same `Peer`, and the same protocols."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal.engine.ledger import Ledger
from shoal.engine.message import Kind, Message, Parcel
from shoal.engine.peer import Peer
from shoal.engine.state import Snapshot, State
from shoal.engine.world import Offers, World
from shoal.net.frames import Frame, MalformedFrame, Reader, channel_number, read_frame, weight
from shoal.net.members import Members
from shoal.net.solo import SoloWorld
from shoal.net.store import Store
from shoal.net.transport import Ears, Transport

Neighbours = Callable[[int, int], tuple[int, ...]]
Metric = tuple[float, int, int, int, str, float]
LARGE = 1 << 18  # bytes in memory from which a frame is decoded off the loop
HELD, HELD_LARGE = 256, 8  # messages of one sender, and large ones, that may wait here to be taken
ROUNDS_LIMIT = 1 << 31  # a round beyond it is no round
EVENTS = 1000  # of the log, kept in memory
GREETING = 1.0  # seconds that those who are connected have to say whether they had begun
LIVES_SHIFT = 40  # numbers of messages of one life of a peer


class RealWorld(SoloWorld):
    """The world as one peer sees it that shares it with others on other machines.

    Args:
        id: of the peer that lives here.
        peers: number of peers, present or not.
        transport: connects it with the others.
        limit: bytes that a frame may have; see `frames.frame_limit`.
        seed, rounds, server: see `World`.
        neighbours, in_neighbours: as of `SimulatedWorld`.
        store: where the peer's state is durable; None keeps nothing.
        patience: seconds that `exchange` waits; None waits for whoever is connected.

    Attributes:
        ledger: bytes sent, by channel.
        received: bytes received, by channel.
        refused: malformed frames, by sender.
        metrics: rows (time, round, bytes sent, peer, name, value) of `Peer.record`.
        events: the end of the log.
        members: who is here.
        earlier: seconds that went by between the first life's beginning and this one's.
        on_commit: called as `on_commit(peer)` when the peer has committed its state.
        on_log: called with each entry of the log.
        on_control: called as `on_control(sender, content)` with what other worlds tell beside what peers say.
    """

    def __init__(
        self,
        id: int,
        peers: int,
        transport: Transport,
        *,
        limit: int,
        seed: int = 0,
        rounds: int = 1,
        server: int | None = None,
        neighbours: Neighbours | None = None,
        in_neighbours: Neighbours | None = None,
        store: Store | None = None,
        patience: float | None = None,
    ) -> None:
        if not 0 <= id < peers:
            raise ValueError(f"id: got {id}; a number from 0 to {peers - 1} is allowed")
        self.id, self.size, self.seed, self.rounds, self.server = id, peers, seed, rounds, server
        self.transport, self.limit = transport, limit
        self.offers = Offers(server=server is not None)
        self.ledger = Ledger([0] * peers)
        self.received: dict[str, int] = {}
        self.refused: dict[int, int] = {}
        self.metrics: list[Metric] = []
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self.on_commit: Callable[[Any], None] | None = None
        self.on_log: Callable[[dict[str, Any]], None] | None = None
        self.on_control: Callable[[int, dict[str, Any]], None] | None = None
        everybody = tuple(i for i in range(peers) if i != id)
        self._neighbours = neighbours or (lambda peer, round: everybody)
        self._in_neighbours = in_neighbours or self._neighbours
        self._store, self._patience = store, patience
        self._readers: dict[int, Reader] = {}
        self._names: dict[int, dict[int, str]] = {}  # of channels, by the peer that named them
        self._noted: dict[tuple[str, int], int] = {}  # how often a sender was the reason of an entry of the log
        self._named: dict[int, set[str]] = {}
        self._number = 0
        self.earlier = 0.0
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._committing = asyncio.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shoal-compute")
        self.members = Members()

    # -- running ---------------------------------------------------------------------------------------------

    async def run(
        self,
        protocol: Callable[[Any], Coroutine[Any, Any, Any]],
        *,
        make_peer: Callable[[int, World, State | None], Peer] = Peer,
        company: int = 0,
        linger: float = 30.0,
    ) -> Peer:
        """Run `protocol(peer)` to its end, and stay until the others need this peer no more.

        Args:
            protocol: coroutine function of a peer.
            make_peer: builds the peer from (id, world, restored state or None).
            company: how many others must be connected before a first life begins; a later one waits for one of them.
            linger: seconds after which a peer that is gone is not waited for at the end, and for which a later life
                waits for the others at the beginning.

        Returns:
            The peer, with its final state.

        Raises:
            PeerFailed: the protocol raised.
        """
        lives = 1 if self._store is None else self._store.begin_life()
        self._number = lives << LIVES_SHIFT
        state = None if self._store is None else self._store.load()
        self.peer = peer = make_peer(self.id, self, state)
        peer.lives = lives
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self.transport.start(Ears(self._frame, self._up, self._down))
            if state is None:
                await self.members.wait(lambda: len(self.members.here) >= company)
            else:
                await self.members.wait(lambda: bool(self.members.here) or company == 0, timeout=linger)
            await self.members.wait_for_greetings(GREETING)
            self._began = time.monotonic()
            await self._live(peer, protocol)
            self._tell_all({"what": "done"})
            self.members.finish()
            await self._until_failure(self._stay(linger))
        finally:
            await self._end()
        return peer

    async def _live(self, peer: Peer, protocol: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        self.members.begin()
        main = self._launch(peer, protocol(peer))
        await self._until_failure(asyncio.shield(main))

    async def _stay(self, linger: float) -> None:
        given_up = await self.members.wait_for_all(linger, self.id, self.server)
        if given_up:
            self.log("not waited for any longer", peers=sorted(given_up))

    def _say_goodbye(self) -> None:
        """Let the peer's protocol say that it leaves, if it has not come to its end."""
        if not self.members.done:
            try:
                self.peer._say_goodbye()
            except Exception as error:
                self.log("goodbye failed", self.id, why=f"{type(error).__name__}: {error}")

    async def _end(self) -> None:
        self._say_goodbye()
        for task in list(self._tasks):
            task.cancel()
        for to in sorted(self.members.here):
            self._post(to, Kind.GOODBYE, {})
        await self.transport.stop(5.0)
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- services of a World ---------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the peer's protocol began, in its first life if `earlier` says how long that is ago."""
        return self.earlier + time.monotonic() - self._began

    def is_late(self, peer: Peer) -> bool:
        """Whether the peer has lived before, or somebody who was connected had begun."""
        return peer.lives > 1 or self.members.late

    def neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """To whom `peer` sends in a round."""
        return self._neighbours(peer, round)

    def in_neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """From whom `peer` hears in a round."""
        return self._in_neighbours(peer, round)

    def patience(self, peer: int) -> float | None:
        """As given: whoever is connected loses nothing, and whoever is not is not waited for."""
        return self._patience

    def transmit(self, sender: int, to: int, channel: str, kind: Kind, tag: int, parcel: Parcel) -> int:
        """Send a parcel; returns the message's number."""
        if to == sender or not 0 <= to < self.size:
            raise ValueError(f"to: got {to}; another peer than {sender}, from 0 to {self.size - 1}, is allowed")
        account = self.ledger.account(channel)
        account.messages += 1
        account.sent += parcel.size
        self.ledger.total += parcel.size
        self.ledger.by_peer[sender] += parcel.size
        named = self._named.get(to)
        if named is not None and channel not in named:
            named.add(channel)
            self._post(to, Kind.CONTROL, {"what": "channel", "name": channel})
        self._number = number = self._number + 1
        if named is None or not self._put(to, kind, tag, channel_number(channel), number, parcel):
            account.lost += parcel.size
        return number

    def _put(self, to: int, kind: Kind, tag: int, channel: int, number: int, parcel: Parcel) -> bool:
        return self.transport.send(to, parcel.head(kind, tag, channel, number), parcel.body)

    def _post(self, to: int, kind: Kind, content: dict[str, Any]) -> None:
        """Tell another world something."""
        self._number += 1
        self._put(to, kind, 0, 0, self._number, Parcel(content))

    def _tell_all(self, content: dict[str, Any]) -> None:
        for to in sorted(self.members.here):
            self._post(to, Kind.CONTROL, content)

    def tell_all(self, what: str, content: dict[str, Any]) -> None:
        """Tell all connected worlds something; their `on_control` gets it.

        Args:
            what: its kind; "channel", "hello" and "done" are the world's own.
            content: numbers and short texts.
        """
        self._tell_all({**content, "what": what})

    def is_lost(self, peer: int, other: int) -> bool:
        """Whether `other` is not connected."""
        return other not in self.members.here

    def watch(self, peer: int, other: int) -> None:
        """If `other` is not connected, tell the peer soon."""
        if other not in self.members.here:
            asyncio.get_running_loop().call_soon(self.peer._recheck)

    async def commit(self, peer: Peer) -> None:
        """Write the peer's state to its store, off the loop; durable when this returns."""
        snapshot = peer.state.snapshot()
        cancelled = None
        if self._store is not None:
            saving = asyncio.ensure_future(self._save(self._store, snapshot))
            try:
                await asyncio.shield(saving)
            except asyncio.CancelledError as error:  # what has begun is written, lest a later state comes before it
                cancelled = error
                await saving
        if self.on_commit is not None:
            self.on_commit(peer)
        if cancelled is not None:
            raise cancelled

    async def _save(self, store: Store, snapshot: Snapshot) -> None:
        async with self._committing:
            await asyncio.to_thread(lambda: store.save(snapshot.encode()))

    def record(self, peer: Peer, name: str, value: float) -> None:
        """Add a row to `metrics`."""
        self.metrics.append((self.now(), peer.round, self.ledger.total, peer.id, name, value))

    def log(self, event: str, peer: int | None = None, **details: Any) -> None:
        """Add an entry to the log.

        Of what a `sender` does again and again only the first, second, fourth, eighth ... time is logged, with its
        `count`, so that nobody can fill another one's disk.
        """
        if (sender := details.get("sender")) is not None:
            details["count"] = count = self._noted[event, sender] = self._noted.get((event, sender), 0) + 1
            if count & (count - 1):
                return
        entry = {"time": self.now(), "event": event, "peer": self.id if peer is None else peer, **details}
        self.events.append(entry)
        if self.on_log is not None:
            self.on_log(entry)

    # -- what the transport hears ----------------------------------------------------------------------------

    def _up(self, other: int) -> None:
        reader = self._readers[other] = Reader(self.limit, self._names.get(other))
        self._names[other], self._named[other] = reader.names, set()
        back = self.members.came(other)
        self.log("connected" if not back else "connected again", other)
        if back:
            self.peer._returned(other)
        self._post(other, Kind.CONTROL, {"what": "hello", "begun": self.members.begun})
        if self.members.done:
            self._post(other, Kind.CONTROL, {"what": "done"})

    def _down(self, other: int, why: str) -> None:
        if other in self.members.here:
            self.members.went(other)
            self._readers.pop(other, None)
            self._named.pop(other, None)
            self.log("lost", other, why=why)
            self.peer._recheck()

    async def _frame(self, sender: int, data: bytes | bytearray | memoryview) -> None:
        reader = self._readers.get(sender)
        if reader is None:
            return
        try:
            large = weight(data) >= LARGE
            frame = await asyncio.to_thread(read_frame, data, reader.limit) if large else read_frame(data, reader.limit)
            if self._readers.get(sender) is not reader:  # the connection broke meanwhile
                return
            reader.admit(frame)
            if frame.kind in (Kind.CONTROL, Kind.GOODBYE):
                self._control(sender, reader, frame)
            else:
                await self._message(sender, reader, frame, len(data), large)
        except MalformedFrame as error:
            self._refuse(sender, str(error))
        except Exception as error:  # nothing that others send may stop this peer
            self._refuse(sender, f"{type(error).__name__}: {error}")

    def _refuse(self, sender: int, why: str) -> None:
        self.refused[sender] = self.refused.get(sender, 0) + 1
        self.log("malformed frame refused", self.id, sender=sender, why=why)

    def _control(self, sender: int, reader: Reader, frame: Frame) -> None:
        content = frame.payload
        if not isinstance(content, dict):
            raise MalformedFrame(f"control: got {type(content).__name__}; a dict is needed")
        what = content.get("what")
        if frame.kind is Kind.GOODBYE:
            self.members.left(sender)
        elif what == "channel":
            reader.learn(content.get("name"))
        elif what == "hello":
            self.members.greeted(sender, content.get("begun") is True)
        elif what == "done":
            self.members.finished(sender)
            self.peer._finished(sender)
        elif self.on_control is not None:
            self.on_control(sender, content)

    async def _message(self, sender: int, reader: Reader, frame: Frame, size: int, large: bool) -> None:
        kind, peer, channel = frame.kind, self.peer, reader.name(frame.channel)
        if kind is Kind.EXCHANGE and not (
            0 <= frame.tag < ROUNDS_LIMIT and sender in self._in_neighbours(self.id, frame.tag)
        ):
            raise MalformedFrame(f"exchange: round {frame.tag} is none in which {sender} sends to {self.id}")
        if kind in (Kind.DATA, Kind.EXCHANGE, Kind.REQUEST):
            held = peer._held(sender)
            if held >= (HELD_LARGE if large else HELD):
                raise MalformedFrame(f"{held} messages of peer {sender} wait here already")
        parcel = await asyncio.to_thread(_looked_at, frame.payload) if large else _looked_at(frame.payload)
        if self._readers.get(sender) is not reader:
            return
        message = Message(sender, self.id, channel, kind, frame.tag, parcel, frame.number, self.now())
        if not parcel.finite:
            self.log("dropped: NaN or infinity", self.id, sender=sender, channel=channel)
            peer._refuse(message)
            return
        self.received[channel] = self.received.get(channel, 0) + size
        peer._deliver(message)


def _looked_at(payload: Any) -> Parcel:
    """A parcel that knows already whether it is finite."""
    parcel = Parcel(payload)
    _ = parcel.finite
    return parcel
