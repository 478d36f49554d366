"""A peer: what a protocol sees of the world it runs in."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from shoal.engine.errors import PeerLost
from shoal.engine.mailbox import REFUSED, Box, Meeting, Poll, Polls
from shoal.engine.message import Kind, Message, Parcel, Received
from shoal.engine.rounds import Rounds
from shoal.engine.services import Handler, Service, Services
from shoal.engine.state import State
from shoal.tensors.random import key
from shoal.text import shown

if TYPE_CHECKING:
    from shoal.engine.world import World

SPOILT = "what it sent held NaN or infinity"
current: contextvars.ContextVar[Peer | None] = contextvars.ContextVar("shoal_peer", default=None)


class Peer:
    """One participant. Everything a protocol may know or do, in any world.

    Attributes:
        id: number of the peer, 0 to n - 1.
        state: what survives a crash; see `State`.
        lives: how often the peer has been started, 1 at first.
    """

    def __init__(self, id: int, world: World, state: State | None = None) -> None:
        self.id = id
        self.state = State() if state is None else state
        self.lives = 1
        self._world = world
        self._boxes: dict[str, Box] = {}
        self._meetings: dict[str, Meeting] = {}
        self._services = Services(self, world)
        self._polls = Polls()
        self._ended: set[int] = set()  # peers that have finished their protocol, as far as their world tells
        self._awaiting: dict[_Waits, str | Callable[[], str]] = {}
        self._farewells: list[Callable[[], None]] = []
        self._round = 0
        self._key = key(world.seed, "peer", id)

    # -- who and when ----------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the world began."""
        return self._world.now()

    @property
    def round(self) -> int:
        """The round that `rounds` is in."""
        return self._round

    @property
    def is_late(self) -> bool:
        """Whether others may have begun before this life of the peer: it joins, or has been restarted."""
        return self._world.is_late(self)

    @property
    def planned_rounds(self) -> int:
        """How many rounds `rounds` counts if it is given no number."""
        return self._world.rounds

    @property
    def neighbours(self) -> tuple[int, ...]:
        """Peers to which this one sends in its present round."""
        return self._world.neighbours(self.id, self._round)

    @property
    def in_neighbours(self) -> tuple[int, ...]:
        """Peers from which this one hears in its present round."""
        return self._world.in_neighbours(self.id, self._round)

    @property
    def peers(self) -> int:
        """Number of peers in the world, present or not."""
        return self._world.size

    @property
    def server(self) -> int | None:
        """The peer with the server role, if the world has one."""
        return self._world.server

    @property
    def is_server(self) -> bool:
        """Whether this peer has the server role."""
        return self._world.server == self.id

    @property
    def clients(self) -> list[int]:
        """All peers but the one with the server role."""
        return [i for i in range(self._world.size) if i != self._world.server]

    @property
    def waiting_for(self) -> list[str]:
        """What the protocol awaits at the moment, in words for a report: one entry for each task that waits."""
        return [what if isinstance(what, str) else what() for what in self._awaiting.values()]

    def key(self, purpose: str, *parts: int) -> int:
        """A 64-bit key for draws from `shoal.tensors.random`; the same for the same seed, peer and arguments."""
        return key(self._key, purpose, *parts)

    def rng(self, purpose: str, *parts: int) -> random.Random:
        """A generator seeded by (seed, peer, purpose, parts), as `me.rng("partner", r).choice(me.neighbours)`."""
        return random.Random(self.key(purpose, *parts))

    # -- messages --------------------------------------------------------------------------------------------

    def send(self, to: int, payload: Any, channel: str = "data") -> None:
        """Send a payload. Sending is not delivery: it may be late or lost, and nothing tells.

        Raises:
            ValueError: `to` is this peer, or no peer at all.
        """
        self._world.transmit(self.id, to, channel, Kind.DATA, 0, Parcel(payload))

    async def receive(self, channel: str = "data", from_: int | None = None) -> Received:
        """The next message of a channel (from one peer, if named), as `(sender, payload)`.

        Raises:
            PeerLost: `from_` is gone, after the time that its link needs to notice, or what it sent was dropped for
                holding NaN.
        """
        box = self._boxes.get(channel)
        if box is None:
            box = self._boxes[channel] = Box()
        found = box.take(from_)
        if found is not None:
            if found.payload is REFUSED:
                raise PeerLost(found.sender, SPOILT)
            return found
        future: asyncio.Future[Received] = self._world.future()
        if from_ is not None:
            self._world.watch(self.id, from_)
        with self._waits(f"receive({channel!r}{'' if from_ is None else f', from_={from_}'})"):
            return await box.wait(from_, future)

    async def exchange(
        self, payload: Any, round: int, *, timeout: float | None = None, channel: str = "exchange"
    ) -> dict[int, Any]:
        """Send to all neighbours and collect what they send for the same round.

        Args:
            payload: what every out-neighbour gets.
            round: the round's number; messages of other rounds are kept for later or dropped as late.
            timeout: seconds to wait; None waits as long as it takes, in a world that loses messages the link's
                `patience`.

        Returns:
            In-neighbour id -> payload, by increasing id; those who are late, lost or behind are absent.
        """
        world = self._world
        if world.in_step:
            with self._waits(f"exchange({channel!r}, round {round})"):
                return await world.exchange(self.id, Parcel(payload), round, channel)
        meeting = self._meetings.get(channel)
        if meeting is None:
            meeting = self._meetings[channel] = Meeting()
        if meeting.active:
            raise RuntimeError(f"exchange: peer {self.id} is already in an exchange on channel {channel!r}")
        parcel = Parcel(payload)
        meeting.begin(round, world.in_neighbours(self.id, round), self._is_absent)
        meeting.parcel = parcel
        meeting.sent_to = world.neighbours(self.id, round)
        for to in meeting.sent_to:
            world.transmit(self.id, to, channel, Kind.EXCHANGE, round, parcel)
        try:
            if meeting.need:
                await self._meet(meeting, channel, world.patience(self.id) if timeout is None else timeout)
        finally:
            got = meeting.close()
        return got

    async def _meet(self, meeting: Meeting, channel: str, timeout: float | None) -> None:
        meeting.future = self._world.future()
        timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, meeting.expire)
        for j in meeting.need:
            self._world.watch(self.id, j)
        try:
            with self._waits(lambda: f"exchange({channel!r}, round {meeting.round}) from peers {_some(meeting.need)}"):
                await meeting.future
        finally:
            if timer is not None:
                timer.cancel()

    async def request(self, to: int, payload: Any = None, channel: str = "request") -> Any:
        """Ask a peer and await its reply: what its handler for `channel` returns.

        Raises:
            PeerLost: the peer is gone, after the time that its link needs to notice, or it dropped the request, or
                this peer the reply, for holding NaN.
        """
        poll = Poll(1, self._world.future())
        number = self._ask(to, Parcel(payload), channel, poll)
        try:
            with self._waits(f"request({channel!r}) to peer {to}"):
                await poll.future
        finally:
            self._polls.drop([number])
        if to in poll.lost:
            raise poll.lost[to]
        return poll.answers[to]

    async def request_all(
        self,
        peers: Sequence[int],
        payload: Any = None,
        channel: str = "request",
        *,
        timeout: float | None = None,
    ) -> dict[int, Any]:
        """Ask several peers the same and await all replies.

        Args:
            peers: whom to ask.
            payload, channel: as of `request`.
            timeout: seconds to wait; None waits as long as it takes, in a world that loses messages the link's
                `patience`.

        Returns:
            Peer -> reply, in order of `peers`; those who are late or lost are absent.
        """
        asked = list(dict.fromkeys(peers))
        if not asked:
            return {}
        parcel, poll = Parcel(payload), Poll(len(asked), self._world.future())
        numbers = [self._ask(to, parcel, channel, poll) for to in asked]
        wait = self._world.patience(self.id) if timeout is None else timeout
        timer = None if wait is None else asyncio.get_running_loop().call_later(wait, poll.expire)
        try:
            with self._waits(f"request_all({channel!r}) to peers {_some(asked)}"):
                await poll.future
        finally:
            if timer is not None:
                timer.cancel()
            self._polls.drop(numbers)
        return {to: poll.answers[to] for to in asked if to in poll.answers}

    def _ask(self, to: int, parcel: Parcel, channel: str, poll: Poll) -> int:
        number = self._world.transmit(self.id, to, channel, Kind.REQUEST, 0, parcel)
        self._polls.add(number, poll, to)
        self._world.watch(self.id, to)
        return number

    def serve(self, channel: str, handler: Handler, capacity: int | None = None, asker: int | None = None) -> None:
        """Answer requests of a channel.

        Each request is handled at most once. A copy of it, where links duplicate messages, is not handled again: if
        the reply was sent already, it is sent once more, so that it may get through where the first was lost. Nobody
        asks again by itself: a request, or a reply, of which every copy is lost leaves the asker waiting.

        Args:
            channel: name of the channel.
            handler: `handler(sender, payload)`; what it returns, or what its coroutine returns, is the reply.
            capacity: how many requests are handled at a time, None for no limit; the others wait in order.
            asker: the one peer that may ask, as the server its clients; None: anybody. Others are refused, and that
                is logged.

        What is asked comes from another machine and may be anything: a handler that cannot take it raises
        `MalformedPayload`, and the asker gets `PeerLost`.
        """
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity: got {capacity}; at least 1, or None, is allowed")
        self._services.open(channel, Service(handler, capacity, asker))

    # -- work and time ---------------------------------------------------------------------------------------

    async def compute(self, fn: Callable[..., Any], *tensors: Tensor, seconds: float = 0.0, **static: Any) -> Any:
        """Apply a pure function to tensors; what many peers ask for runs as one batch.

        Args:
            fn: function of one peer's tensors, batched by `torch.func.vmap` where that can take it. The same
                function object must be passed by all peers: a module-level function, not a fresh lambda.
            tensors: its arguments.
            seconds: how long it takes on this peer's device, in virtual seconds.
            static: further keyword arguments; hashable, equal for all peers of a batch.
        """
        return await self._world.compute(self, fn, tensors, seconds, static)

    async def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""
        with self._waits(f"sleep({seconds:g})"):
            await asyncio.sleep(seconds)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine beside the protocol; it ends with the peer. If it raises, the run fails."""
        return self._world.spawn(self, coroutine)

    def record(self, name: str, value: float) -> None:
        """Add a number to the run's metrics, with this peer's id, round and time.

        Args:
            name: of the metric.
            value: a number, or a tensor that holds one.

        Raises:
            ValueError: it is neither.
        """
        try:
            number = float(value)
        except (TypeError, ValueError):
            got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
            raise ValueError(f"record: {name}: got {got}; one number is allowed") from None
        self._world.record(self, name, number)

    def rounds(self, count: int | None = None, *, catch_up: Callable[[dict[int, Any]], None] | None = None) -> Rounds:
        """`async for r in me.rounds(100)`: count rounds durably.

        Each finished round commits `me.state` atomically. A peer that comes back after a crash continues with the
        first round that it had not finished.

        Args:
            count: number of rounds; None takes the run's setting.
            catch_up: for protocols in which a peer may be absent for some rounds. A peer that comes back, or joins
                late, leaves out the rounds between that one and those of which its neighbours speak in `exchange`, so
                that they count it again; before it does, `catch_up` gets what each neighbour has said last (peer ->
                payload). If they disagree where they are, their lower median is believed.
        """
        return Rounds(self, self._world.rounds if count is None else count, catch_up)

    async def commit(self) -> None:
        """Keep the state as it is now, atomically: for peers that answer others and count no rounds of their own, and
        for what must survive in the middle of a round.
        """
        await self._world.commit(self)

    def at_leave(self, say: Callable[[], None]) -> None:
        """Call `say()` when this peer is about to leave of its own will: it may send, and cannot wait for anything.

        A peer that crashes says nothing.
        """
        self._farewells.append(say)

    # -- called by the world ---------------------------------------------------------------------------------

    def _say_goodbye(self) -> None:
        for say in self._farewells:
            say()

    def _is_lost(self, other: int) -> bool:
        return self._world.is_lost(self.id, other)

    def _is_absent(self, other: int) -> bool:
        return other in self._ended or self._world.is_lost(self.id, other)

    def _deliver(self, message: Message) -> None:
        kind = message.kind
        payload = message.parcel.payload
        if kind is Kind.EXCHANGE:
            meeting = self._meetings.get(message.channel)
            if meeting is None:
                meeting = self._meetings[message.channel] = Meeting()
            meeting.put(message.sender, message.tag, payload)
        elif kind is Kind.REQUEST:
            if not message.taken:
                message.taken = True
                self._services.take(message)
            elif message.reply is not None and message.reply.unchanged:
                self._world.transmit(
                    self.id, message.sender, message.channel, Kind.REPLY, message.number, message.reply
                )
        elif kind is Kind.REPLY:
            self._polls.put(message.tag, message.sender, payload)
        elif kind is Kind.REFUSAL:
            why = "it dropped the request, which was malformed or held NaN or infinity"
            self._polls.fail(message.tag, PeerLost(message.sender, why))
        else:
            box = self._boxes.get(message.channel)
            if box is None:
                box = self._boxes[message.channel] = Box()
            box.put(Received(message.sender, payload))

    def _recheck(self) -> None:
        """Somebody may have been lost: tell everything that waits."""
        for meeting in self._meetings.values():
            if meeting.active:
                meeting.lose(self._is_lost)
        self._polls.lose(self._is_lost)
        for box in self._boxes.values():
            box.lose(self._is_lost)

    def _returned(self, other: int) -> None:
        """A peer came back (or the way to it healed): it lost what was sent meanwhile, so send it again."""
        self._ended.discard(other)
        for channel, meeting in self._meetings.items():
            meeting.returned(other)
            if meeting.active and other in meeting.sent_to:
                self._world.transmit(self.id, other, channel, Kind.EXCHANGE, meeting.round, meeting.parcel)
        self._polls.lose(lambda to: to == other, "it was out of reach for a while, and the request may be lost")

    def _finished(self, other: int) -> None:
        """A peer has finished its protocol: it takes part in no exchange any more, but still answers requests."""
        self._ended.add(other)
        for meeting in self._meetings.values():
            meeting.drop(other)

    def _met_in(self, round: int) -> tuple[int, dict[int, Any]] | None:
        """The latest round of which the neighbours speak that are not behind `round`, and what they say; None if
        nothing tells."""
        heard = [(r, j, said) for meeting in self._meetings.values() for r, j, said in meeting.heard(round)]
        if not heard:
            return None
        where = sorted(r for r, *_ in heard)[(len(heard) - 1) // 2]
        return where, {j: said for r, j, said in sorted(heard, key=lambda each: each[1]) if said is not None}

    def _held(self, sender: int) -> int:
        """How many messages of a peer wait here to be taken, or are requests that are being handled."""
        boxed = sum(box.held(sender) for box in self._boxes.values())
        met = sum(meeting.held(sender) for meeting in self._meetings.values())
        return boxed + met + self._services.held(sender)

    def _waits(self, what: str | Callable[[], str]) -> _Waits:
        return _Waits(self, what)

    def _refuse(self, message: Message) -> None:
        """A message was dropped for the NaN in it: whoever waits for it, here or at the sender, gets to know."""
        sender, channel = message.sender, message.channel
        if message.kind is Kind.EXCHANGE:
            self._meetings.setdefault(channel, Meeting()).put(sender, message.tag, REFUSED)
        elif message.kind is Kind.REQUEST:
            self._world.transmit(self.id, sender, channel, Kind.REFUSAL, message.number, Parcel(None))
        elif message.kind is Kind.REPLY:
            self._polls.fail(message.tag, PeerLost(sender, SPOILT))
        elif message.kind is Kind.DATA:
            self._boxes.setdefault(channel, Box()).refuse(sender, SPOILT)


class _Waits:
    """While it is entered, a report of blocked peers says what this one waits for."""

    __slots__ = ("_peer", "_token", "_what")

    def __init__(self, peer: Peer, what: str | Callable[[], str]) -> None:
        self._peer = peer
        self._what = what

    def __enter__(self) -> None:
        self._peer._awaiting[self] = self._what

    def __exit__(self, *error: object) -> None:
        self._peer._awaiting.pop(self, None)


def _some(items: Any, most: int = 8) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
