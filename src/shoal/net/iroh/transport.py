"""The open network: every peer an endpoint of iroh, QUIC with TLS 1.3 between them, each known by its Ed25519 key.

One peer opens the network (`IrohTransport.host`) and hands out its ticket; others come by it (`IrohTransport.join`).
Whoever is in connects with everybody else. The host is needed to give ids to newcomers, and for nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import msgspec

from shoal.net.iroh.admission import Admission, check_opening
from shoal.net.iroh.asking import PATIENCE, ask, ask_all, myself
from shoal.net.iroh.binding import load, words
from shoal.net.iroh.endpoint import bind, close, dial, whereabouts
from shoal.net.iroh.hello import (
    EXPERIMENT_LIMIT,
    HELLO_LIMIT,
    Hello,
    Refusal,
    Refused,
    Welcome,
    read_message,
    write_message,
)
from shoal.net.iroh.identity import public
from shoal.net.iroh.link import FAREWELL, Link
from shoal.net.iroh.options import NetOptions
from shoal.net.iroh.roster import Forged, Member, Roster
from shoal.net.iroh.slot import Slot
from shoal.net.iroh.sparing import Sparing
from shoal.net.iroh.ticket import Ticket, digest_of, invitation_of
from shoal.net.transport import Ears, Transport

STRANGERS = 64  # that may be about to say hello, at a time
HELLO_PATIENCE = 5.0  # seconds that they have
DEFERENCE = 1.0  # seconds that a newcomer has to dial first
WANDER = 5.0  # seconds between two looks at this peer's own addresses
PARTING = 2.0  # seconds for last words
DEFAULT_LIMIT = 1 << 26


class IrohTransport(Transport):
    """Connections over iroh; made by `host` or `join`.

    Attributes:
        id: of this peer.
        key: its public key.
        peers: how many the network has at most.
        experiment: its text.
        limit: bytes that a frame may have (default 64 MiB), the same at all peers; set it before `start`.
        roster: who belongs to the network; its `on_change` is the place to save it.
        on_log: called as `on_log(event, peer, **details)` with what is worth a line in a log.
    """

    name = "iroh"

    def __init__(
        self, endpoint: Any, secret: bytes, options: NetOptions, roster: Roster, experiment: bytes, invitation: bytes
    ) -> None:
        self.key = public(secret)
        me = roster.find(self.key)
        assert me is not None
        self.id, self.peers, self.experiment, self.roster = me.id, roster.peers, experiment, roster
        self.limit = DEFAULT_LIMIT
        self.on_log: Callable[..., None] | None = None
        self._endpoint, self._secret, self._options, self._invitation = endpoint, secret, options, invitation
        issuer = secret if roster.issuer == self.key else None
        self._admission = Admission(roster, issuer, invitation, options.allow)
        self._life = os.urandom(8)
        self._slots: dict[int, Slot] = {}
        self._ears: Ears | None = None
        self._stopping = False
        self._handshakes = 0
        self._sparing = Sparing()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._go(self._accept())
        self._go(self._wander())

    # -- coming in -------------------------------------------------------------------------------------------

    @classmethod
    async def host(
        cls,
        id: int,
        peers: int,
        *,
        secret: bytes,
        experiment: bytes,
        options: NetOptions | None = None,
        roster: Roster | None = None,
    ) -> IrohTransport:
        """Open a network, or open it again.

        Args:
            id: of this peer.
            peers: how many there may be.
            secret: this peer's key, see `identity.load_or_make_key`.
            experiment: its text, for those who join; up to 1 MiB.
            options: of this end of the network.
            roster: of an earlier life of this peer.

        Raises:
            ValueError: an argument is impossible, or the roster is of another network.
            OSError: the address is not to be had.
            MissingIroh: iroh is not installed.
        """
        options = options or NetOptions()
        if len(experiment) > EXPERIMENT_LIMIT:
            raise ValueError(f"experiment: has {len(experiment)} bytes; at most {EXPERIMENT_LIMIT} are allowed")
        key, digest = public(secret), digest_of(experiment)
        roster = Roster(peers, key, digest) if roster is None else roster
        check_opening(id, peers, key, digest, options.allow, roster)
        endpoint = await bind(secret, options)
        try:
            roster.take(myself(endpoint, key, secret, id, roster.find(key)).proved(secret, digest))
            return cls(endpoint, secret, options, roster, experiment, invitation_of(secret, digest))
        except BaseException:
            await close(endpoint)
            raise

    @classmethod
    async def join(
        cls,
        ticket: Ticket,
        *,
        secret: bytes,
        options: NetOptions | None = None,
        wanted: int | None = None,
        timeout: float = 30.0,
        roster: Roster | None = None,
    ) -> IrohTransport:
        """Come into a network: as a newcomer by the ticket's issuer, or again by anybody who is there.

        Args:
            ticket: from the network's host or any member.
            secret: this peer's key. Whoever was in before has its old id again.
            options: of this end of the network.
            wanted: the id to have; refused if it is taken. A known key has its old id in any case.
            timeout: seconds to try.
            roster: of an earlier life of this peer: more members to ask.

        Raises:
            Refused: they do not let this peer in; the text says why.
            ConnectionError: nobody answers.
            ValueError: the roster is of another network, or the ticket this peer's own.
            OSError: the address is not to be had.
            MissingIroh: iroh is not installed.
        """
        options = options or NetOptions()
        key, issuer = public(secret), ticket.contacts[0].key
        if roster is not None and (roster.issuer, roster.digest) != (issuer, ticket.digest):
            raise ValueError("roster: is of another network than the ticket; use a new folder for this one")
        earlier = [] if roster is None else list(roster)
        contacts = {m.key: m for m in [*ticket.contacts, *earlier] if m.key != key}
        if not contacts:
            raise ValueError("ticket: it is this peer's own; a network is opened again by its host")
        known = None if roster is None else roster.find(key)
        endpoint = await bind(secret, options)
        try:
            me = myself(endpoint, key, secret, wanted or 0, known)
            hello = Hello("join", os.urandom(8), os.urandom(8), b"", ticket.digest, ticket.invitation, wanted, me)
            welcome = await ask_all(endpoint, list(contacts.values()), hello, timeout)
            if welcome.issuer != issuer or digest_of(welcome.experiment) != ticket.digest:
                raise Refused("the network that answers has another issuer or experiment than the ticket says")
            full = Roster(welcome.peers, issuer, ticket.digest).filled([*earlier, *welcome.roster])
            mine = full.find(key)
            if mine is None:
                raise Refused("the roster that was sent does not have this peer in it")
            if (mine.addresses, mine.relay) != (me.addresses, me.relay):  # the network knew a later one of this peer
                full.take(myself(endpoint, key, secret, mine.id, mine))
            return cls(endpoint, secret, options, full, welcome.experiment, ticket.invitation)
        except BaseException:
            await close(endpoint)
            raise

    @classmethod
    async def resume(
        cls,
        roster: Roster,
        *,
        secret: bytes,
        experiment: bytes,
        invitation: bytes,
        options: NetOptions | None = None,
    ) -> IrohTransport:
        """Come back as a member by what an earlier life has kept, whether anybody is there or not.

        Args:
            roster: from an earlier life; this peer is in it.
            secret: this peer's key.
            experiment: its text.
            invitation: of the ticket by which this peer came.
            options: of this end of the network.

        Raises:
            ValueError: the roster is of another experiment, or this peer is not in it.
            OSError: the address is not to be had.
        """
        options = options or NetOptions()
        key = public(secret)
        known = roster.find(key)
        if known is None or roster.digest != digest_of(experiment):
            raise ValueError("roster: is of another key or experiment; use a new folder, or the old key and experiment")
        endpoint = await bind(secret, options)
        try:
            roster.take(myself(endpoint, key, secret, known.id, known))
            return cls(endpoint, secret, options, roster, experiment, invitation)
        except BaseException:
            await close(endpoint)
            raise

    def adopt(self, *, beat: float, dead: float, streams: int) -> None:
        """Take the network's own settings, see `NetOptions`, for all connections from now on; before `start`."""
        self._options = replace(self._options, beat=beat, dead=dead, streams=streams)

    def ticket(self) -> Ticket:
        """A ticket for others: the issuer is its first contact, and this peer one more."""
        issuer = self.roster.find(self.roster.issuer)
        contacts = [member for member in (issuer, self.roster[self.id]) if member is not None]
        return Ticket(tuple(dict.fromkeys(contacts)), self._invitation, self.roster.digest)

    # -- Transport -------------------------------------------------------------------------------------------

    async def start(self, ears: Ears) -> None:
        """Begin to connect with everybody in the roster."""
        self._ears = ears
        for member in self.roster:
            self._slot(member.id)

    def send(self, to: int, head: bytes, body: bytes) -> bool:
        """See `Transport.send`. A queue that overflows ends the connection, which is then made anew.

        Raises:
            ValueError: the frame is over the limit.
        """
        size = len(head) + len(body)
        if size > self.limit:
            raise ValueError(f"frame of {size} bytes is over the limit of {self.limit}")
        slot = self._slots.get(to)
        return slot is not None and slot.link is not None and slot.link.send(head, body)

    async def stop(self, patience: float) -> None:
        """See `Transport.stop`."""
        self._stopping = True
        links = [slot.link for slot in self._slots.values() if slot.link is not None]
        for link in links:
            link.leave()
        try:
            if links:
                await asyncio.wait([link.over for link in links], timeout=patience)
        finally:
            for link in links:
                link.end(FAREWELL)
            if links:
                await asyncio.wait([link.over for link in links], timeout=PARTING)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await close(self._endpoint)

    # -- those who come --------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        while (incoming := await self._endpoint.accept_next()) is not None:
            if self._handshakes >= STRANGERS:
                await incoming.ignore()
            else:
                self._handshakes += 1
                self._go(self._incoming(incoming))

    async def _incoming(self, incoming: Any) -> None:
        iroh = load()
        connection, kept = None, False
        try:
            try:
                async with asyncio.timeout(HELLO_PATIENCE):
                    connection = await (await incoming.accept()).connect()
                    stream = await connection.accept_bi()
                    hello = await read_message(stream.recv(), Hello, HELLO_LIMIT)
            finally:
                self._handshakes -= 1
            async with asyncio.timeout(PATIENCE):
                kept = await self._greet(connection, stream, hello)
            if not kept:  # the other side closes once it has read the answer
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(connection.closed(), PARTING)
        except (iroh.IrohError, OSError, ValueError) as error:
            key = "" if connection is None else str(connection.remote_id())
            self._log("handshake failed", None, why=words(error), key=key)
        finally:
            if connection is not None and not kept:
                connection.close(0, b"")

    async def _greet(self, connection: Any, stream: Any, hello: Hello) -> bool:
        """Answer a hello; returns whether the connection stays."""
        key = str(connection.remote_id())
        try:
            if key == self.key:
                raise Refused("this is the key of the peer itself: does it run twice?")
            member, news = self._admission.admit(key, hello)
            if news:
                self._spread([member])
            welcome = Welcome(self._life, self.peers, self.roster.issuer, member, tuple(self.roster), b"")
            slot = self._slots.get(member.id)
            if hello.aim == "join":
                if slot is not None and slot.link is not None and slot.link.is_lively():
                    raise Refused("a peer with this key is connected: does it run twice?", final=False)
                await write_message(stream.send(), msgspec.structs.replace(welcome, experiment=self.experiment))
                return False
            await self._let_in(connection, stream, hello, welcome)
            return True
        except Refused as error:
            if error.final:
                self._log("refused", self.roster.id_of(key), why=str(error), key=key)
            with contextlib.suppress(load().IrohError):  # it may have gone already
                await write_message(stream.send(), Refusal(str(error)[:400], error.final))
            return False

    async def _let_in(self, connection: Any, stream: Any, hello: Hello, welcome: Welcome) -> None:
        """Take a connection that another member has made."""
        if self._ears is None or self._stopping:
            raise Refused("is not ready for connections", final=False)
        member = welcome.you
        slot = self._slot(member.id, DEFERENCE)
        link = self._link(connection, stream, member, hello.link, hello.life, dialled=False)
        slot.give_way(member.key < self.key)
        async with slot.lock:
            if objection := slot.objection(link, hello.after, member.key < self.key):
                raise Refused(objection, final=False)
            await write_message(stream.send(), welcome)
            await self._hold(slot, link)

    # -- connections -----------------------------------------------------------------------------------------

    def _slot(self, id: int, delay: float = 0.0) -> Slot:
        slot = self._slots.get(id)
        if slot is None:
            slot = self._slots[id] = Slot()
            if id != self.id:
                self._go(self._keep(id, slot, delay))
        return slot

    async def _keep(self, id: int, slot: Slot, delay: float) -> None:
        """Dial a peer whenever it is not connected."""
        await asyncio.sleep(delay)
        while not self._stopping:
            if slot.link is not None or slot.left:
                slot.wake.clear()
                await slot.wake.wait()
                await asyncio.sleep(slot.pause())
                continue
            slot.call = call = self._go(self._call(id, slot))
            await asyncio.wait([call])
            slot.call, slot.asked = None, False
            if not call.cancelled() and (error := call.exception()) is not None:
                slot.failures += 1
                if slot.failures & (slot.failures - 1) == 0:
                    self._log("cannot connect", id, why=words(error), count=slot.failures)
                await asyncio.sleep(slot.pause())

    async def _call(self, id: int, slot: Slot) -> None:
        name = os.urandom(8)
        connection, kept = await dial(self._endpoint, self.roster[id], PATIENCE), False
        try:
            async with slot.lock:
                if slot.link is not None:
                    return
                slot.asked = True
                me = self.roster[self.id]
                hello = Hello("link", self._life, name, slot.after, self.roster.digest, b"", None, me)
                stream, welcome = await ask(connection, hello)
                if welcome.you.id != self.id:
                    raise ConnectionError(f"knows this peer as {welcome.you.id}, and it is {self.id}")
                link = self._link(connection, stream, self.roster[id], name, welcome.life, dialled=True)
                kept, slot.call = True, None
                await self._hold(slot, link)
            self._learn(list(welcome.roster), id)
        finally:
            if not kept:
                connection.close(0, b"")

    def _link(self, connection: Any, stream: Any, member: Member, id: bytes, life: bytes, *, dialled: bool) -> Link:
        return Link(connection, stream, member, self._options, self.limit, id=id, life=life, dialled=dialled)

    async def _hold(self, slot: Slot, link: Link) -> None:
        """Make a connection the one with that peer. The slot's lock is held."""
        if slot.link is not None:
            slot.link.end("a newer connection takes its place")
            await asyncio.wait([slot.link.over])
        if self._ears is None or self._stopping:
            link.connection.close(0, b"is not ready for connections")
            return
        slot.begin(link)
        self._ears.up(link.member.id)
        self._go(self._live(slot, link, self._ears))

    async def _live(self, slot: Slot, link: Link, ears: Ears) -> None:
        id = link.member.id

        def lost(why: str) -> None:
            slot.end(link)
            ears.down(id, why)

        await link.run(lambda data: ears.frame(id, data), lambda members: self._learn(members, id), lost)

    # -- the roster ------------------------------------------------------------------------------------------

    async def _wander(self) -> None:
        """Tell the others when this peer's own addresses change."""
        while True:
            await asyncio.sleep(WANDER)
            mine = self.roster[self.id]
            addresses, relay = whereabouts(self._endpoint)
            if addresses and (set(addresses), relay) != (set(mine.addresses), mine.relay):
                now = myself(self._endpoint, self.key, self._secret, self.id, mine)
                self.roster.take(now)
                self._spread([now])

    def _learn(self, members: list[Member], source: int) -> None:
        """Take over what is new in others' entries, and tell on.

        Raises:
            Forged: an entry is not signed by whom it should be.
        """
        news = []
        for member in members:
            if member.key == self.key:
                continue
            try:
                if self.roster.take(member):
                    news.append(member)
            except Forged:
                raise
            except ValueError as error:
                self._log("roster entry refused", source, why=str(error))
        if news:
            self._spread(news)

    def _spread(self, members: list[Member]) -> None:
        for slot in self._slots.values():
            if slot.link is not None:
                slot.link.tell(members)
        if self._ears is not None:
            for member in members:
                self._slot(member.id, DEFERENCE)

    # -- small things ----------------------------------------------------------------------------------------

    def _go(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _log(self, event: str, peer: int | None, **details: Any) -> None:
        if self.on_log is not None and (left_out := self._sparing.allows(event)) is not None:
            self.on_log(event, peer, **details, **({"left_out": left_out} if left_out else {}))
