"""The open network: every peer an endpoint of iroh, QUIC with TLS 1.3 between them, each known by its Ed25519 key.

One peer opens the network (`IrohTransport.host`) and hands out its ticket; others come by it (`IrohTransport.join`).
Whoever is in connects with everybody else. The host is needed to give ids to newcomers, and for nothing more.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from shoal.net.iroh.admission import Admission
from shoal.net.iroh.binding import load, words
from shoal.net.iroh.endpoint import bind, dial, whereabouts
from shoal.net.iroh.hello import (
    ANSWER_LIMIT,
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
from shoal.net.iroh.roster import Member, Roster
from shoal.net.iroh.ticket import Ticket, digest_of, invitation_of
from shoal.net.transport import Ears, Transport

PATIENCE = 10.0  # seconds for a handshake
STRANGERS = 64  # that may ask at a time
BACKOFF, BACKOFF_LIMIT = 0.1, 5.0  # seconds until a lost peer is dialled again: at first, at most
DEFERENCE = 1.0  # seconds that a newcomer has to dial first
STAGGER = 1.0  # seconds until the next contact of a ticket is asked, too
DEFAULT_LIMIT = 1 << 26


class Slot:
    """What a peer knows of its connection with one other.

    Attributes:
        lock: held while it is being decided which connection is the one.
        link: that one.
        call: this side's own attempt to connect, and `asked` once its hello may have been heard.
        after: the last connection that is gone.
        left: whether the other side said goodbye, and is not dialled until it comes again.
        wake: set when there is reason to dial.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.link: Link | None = None
        self.call: asyncio.Task[None] | None = None
        self.asked = False
        self.after = b""
        self.left = False
        self.wake = asyncio.Event()


class IrohTransport(Transport):
    """Connections over iroh; made by `host` or `join`.

    Attributes:
        id: of this peer.
        peers: how many the network has at most.
        experiment: its text.
        limit: bytes that a frame may have (default 64 MiB); set it before `start`.
        roster: who belongs to the network.
        on_log: called as `on_log(event, peer, **details)` with what is worth a line in a log.
    """

    name = "iroh"

    def __init__(
        self, endpoint: Any, secret: bytes, options: NetOptions, roster: Roster, experiment: bytes, invitation: bytes
    ) -> None:
        self.peers, self.experiment, self.roster = roster.peers, experiment, roster
        self.limit = DEFAULT_LIMIT
        self.on_log: Callable[..., None] | None = None
        self.key = public(secret)
        me = roster.find(self.key)
        assert me is not None
        self.id = me.id
        self._endpoint, self._options, self._invitation = endpoint, options, invitation
        issuer = secret if roster.issuer == self.key else None
        self._admission = Admission(roster, issuer, invitation, options.allow)
        self._life = os.urandom(8)
        self._slots: dict[int, Slot] = {}
        self._ears: Ears | None = None
        self._stopping = False
        self._strangers = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._go(self._accept())

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
            peers: how many it may have.
            secret: this peer's key, see `identity.load_or_make_key`.
            experiment: its text, for those who join; up to 1 MiB.
            options: of this end of the network.
            roster: from an earlier life.

        Raises:
            ValueError: an argument is impossible, or the roster is of another network.
            OSError: the address is not to be had.
        """
        options = options or NetOptions()
        key, digest = public(secret), digest_of(experiment)
        if not 0 <= id < peers:
            raise ValueError(f"id: got {id}; a number from 0 to {peers - 1} is allowed")
        if len(experiment) > EXPERIMENT_LIMIT:
            raise ValueError(f"experiment: has {len(experiment)} bytes; at most {EXPERIMENT_LIMIT} are allowed")
        if options.allow and len(options.allow) != peers:
            raise ValueError(f"allow: has {len(options.allow)} keys; there are {peers} peers")
        if options.allow and options.allow[id] != key:
            raise ValueError(f"allow: this peer's key is {key}, and the list has {options.allow[id]} for id {id}")
        roster = roster or Roster(peers, key, digest)
        if (roster.peers, roster.issuer, roster.digest) != (peers, key, digest):
            raise ValueError("roster: is of another key or experiment; use a new folder, or the old key and experiment")
        endpoint = await bind(secret, options)
        try:
            known = roster.find(key)
            roster.take(_myself(endpoint, key, secret, id, known).proved(secret, digest))
            return cls(endpoint, secret, options, roster, experiment, invitation_of(secret, digest))
        except BaseException:
            await endpoint.close()
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
            roster: from an earlier life: more members to ask.

        Raises:
            Refused: they do not let this peer in; the text says why.
            ConnectionError: nobody answers.
            OSError: the address is not to be had.
        """
        options = options or NetOptions()
        key = public(secret)
        if roster is not None and roster.digest != ticket.digest:
            raise ValueError("roster: is of another experiment than the ticket; use a new folder")
        endpoint = await bind(secret, options)
        try:
            known = None if roster is None else roster.find(key)
            me = _myself(endpoint, key, secret, wanted or 0, known)
            hello = Hello("join", os.urandom(8), os.urandom(8), b"", ticket.digest, ticket.invitation, wanted, me)
            contacts = {m.key: m for m in [*ticket.contacts, *(roster or ())] if m.key != key}
            welcome = await _ask_all(endpoint, list(contacts.values()), hello, timeout)
            if digest_of(welcome.experiment) != ticket.digest:
                raise Refused("the experiment that was sent is not the one of the ticket")
            if welcome.issuer != ticket.contacts[0].key:
                raise Refused("the network that answered is not the one of the ticket")
            full = Roster(welcome.peers, welcome.issuer, ticket.digest).filled([*(roster or ()), *welcome.roster])
            mine = full.find(key)
            if mine is None:
                raise Refused("the roster that was sent does not have this peer in it")
            if mine.addresses != me.addresses or mine.relay != me.relay:
                full.take(
                    msgspec.structs.replace(me, id=mine.id, proof=mine.proof, stamp=mine.stamp + 1).sealed(secret)
                )
            return cls(endpoint, secret, options, full, welcome.experiment, ticket.invitation)
        except BaseException:
            await endpoint.close()
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
            roster.take(_myself(endpoint, key, secret, known.id, known))
            return cls(endpoint, secret, options, roster, experiment, invitation)
        except BaseException:
            await endpoint.close()
            raise

    def ticket(self) -> Ticket:
        """A ticket for others: the issuer is its first contact, and this peer one more."""
        issuer = self.roster.find(self.roster.issuer)
        contacts = [m for m in (issuer, self.roster[self.id]) if m is not None]
        return Ticket(tuple(dict.fromkeys(contacts)), self._invitation, self.roster.digest)

    # -- Transport -------------------------------------------------------------------------------------------

    async def start(self, ears: Ears) -> None:
        """Begin to connect with everybody in the roster."""
        self._ears = ears
        for member in self.roster:
            self._slot(member.id)

    def send(self, to: int, head: bytes, body: bytes) -> bool:
        """See `Transport.send`. A queue that overflows ends the connection, which is then made anew."""
        slot = self._slots.get(to)
        return slot is not None and slot.link is not None and slot.link.send(head, body)

    async def stop(self, patience: float) -> None:
        """See `Transport.stop`."""
        self._stopping = True
        links = [slot.link for slot in self._slots.values() if slot.link is not None]
        for link in links:
            link.leave()
        if links:
            await asyncio.wait([link.over for link in links], timeout=patience)
        for link in links:
            link.end(FAREWELL)
        if links:
            await asyncio.wait([link.over for link in links], timeout=1.0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._endpoint.close()

    # -- those who come --------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        while (incoming := await self._endpoint.accept_next()) is not None:
            if self._strangers >= STRANGERS:
                await incoming.ignore()
            else:
                self._strangers += 1
                self._go(self._incoming(incoming))

    async def _incoming(self, incoming: Any) -> None:
        iroh = load()
        connection = None
        kept = False
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await (await incoming.accept()).connect()
                stream = await connection.accept_bi()
                kept = await self._greet(connection, stream)
                if not kept:
                    await connection.closed()  # the asking side closes, once it has read the answer
        except (iroh.IrohError, TimeoutError, ValueError) as error:
            who = "" if connection is None else str(connection.remote_id())
            self._log("stranger", None, why=words(error), key=who)
        finally:
            self._strangers -= 1
            if connection is not None and not kept:
                connection.close(0, b"")

    async def _greet(self, connection: Any, stream: Any) -> bool:
        """Hear who comes, and answer; returns whether the connection stays."""
        hello = await read_message(stream.recv(), Hello, HELLO_LIMIT)
        key = str(connection.remote_id())
        try:
            member, news = self._admission.admit(key, hello)
            if news:
                self._spread([member])
            welcome = Welcome(self._life, self.peers, self.roster.issuer, member, tuple(self.roster), b"")
            if hello.aim == "join":
                welcome = msgspec.structs.replace(welcome, experiment=self.experiment)
                await write_message(stream.send(), welcome)
                return False
            if self._ears is None or self._stopping or member.id == self.id:
                raise Refused("is not ready for connections", final=False)
            slot = self._slot(member.id)
            link = self._link(connection, stream, member, hello.link, hello.life, dialled=False)
            if slot.call is not None and (not slot.asked or key < self.key):
                slot.call.cancel()  # of two that dial at once, the one with the lower key goes on
            async with slot.lock:
                if not self._prefers(link, slot, hello.after):
                    raise Refused("is connected already", final=False)
                await write_message(stream.send(), welcome)
                await self._hold(slot, link)
            return True
        except Refused as error:
            if error.final:
                self._log("refused", None, why=str(error), key=key)
            await write_message(stream.send(), Refusal(str(error)[:400], error.final))
            return False

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
        failures = 0
        await asyncio.sleep(delay)
        while not self._stopping:
            if slot.link is not None or slot.left:
                slot.wake.clear()
                await slot.wake.wait()
                failures = 0
                continue
            slot.call = call = self._go(self._call(id, slot))
            await asyncio.wait([call])
            slot.call, slot.asked = None, False
            error = None if call.cancelled() else call.exception()
            if error is not None:
                failures += 1
                if failures & (failures - 1) == 0:
                    self._log("cannot connect", id, why=str(error), count=failures)
                await asyncio.sleep(min(BACKOFF_LIMIT, BACKOFF * 2**failures) * random.uniform(0.5, 1.0))

    async def _call(self, id: int, slot: Slot) -> None:
        member, me = self.roster[id], self.roster[self.id]
        name = os.urandom(8)
        hello = Hello("link", self._life, name, slot.after, self.roster.digest, b"", None, me)
        connection = await dial(self._endpoint, member, PATIENCE)
        kept = False
        try:
            async with slot.lock:
                if slot.link is not None:
                    return
                slot.asked = True
                stream, welcome = await _ask(connection, hello)
                link = self._link(connection, stream, member, name, welcome.life, dialled=True)
                kept, slot.call = True, None
                await self._hold(slot, link)
            self._learn(list(welcome.roster), None)
        finally:
            if not kept:
                connection.close(0, b"")

    def _link(self, connection: Any, stream: Any, member: Member, id: bytes, life: bytes, *, dialled: bool) -> Link:
        return Link(connection, stream, member, self._options, self.limit, id=id, life=life, dialled=dialled)

    def _prefers(self, new: Link, slot: Slot, after: bytes) -> bool:
        """Whether a new connection replaces the one that is there. Of two, both sides keep the same.

        Args:
            new: the new one.
            slot: has the one that is there.
            after: the connection that the dialling side knows to be gone.
        """
        old = slot.link
        if old is None or old.over.done():
            return True
        if new.life != old.life:  # its process is a new one; or two have one key, of which the first stays
            return asyncio.get_running_loop().time() - old.heard > 2.5 * self._options.beat
        if after == old.id or new.dialled == old.dialled:  # who dials has given the old one up
            return True
        return new.dialled == (self.key < new.member.key)

    async def _hold(self, slot: Slot, link: Link) -> None:
        """Make a connection the one with that peer. The slot's lock is held."""
        assert self._ears is not None
        if slot.link is not None:
            slot.link.end("a newer connection takes its place")
            await asyncio.wait([slot.link.over])
        slot.link, slot.left = link, False
        self._ears.up(link.member.id)
        self._go(self._live(slot, link))

    async def _live(self, slot: Slot, link: Link) -> None:
        assert self._ears is not None
        id, ears = link.member.id, self._ears

        def told(members: list[Member]) -> None:
            self._learn(members, id)

        try:
            await link.run(lambda data: ears.frame(id, data), told, lambda why: self._lost(slot, link, why))
        finally:
            slot.wake.set()

    def _lost(self, slot: Slot, link: Link, why: str) -> None:
        assert self._ears is not None
        slot.link, slot.after, slot.left = None, link.id, link.left
        self._ears.down(link.member.id, why)

    # -- the roster ------------------------------------------------------------------------------------------

    def _learn(self, members: list[Member], source: int | None) -> None:
        """Take over what is new in others' entries, and tell on."""
        news = []
        for member in members:
            if member.key == self.key:
                continue
            try:
                if self.roster.take(member):
                    news.append(member)
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
        if self.on_log is not None:
            self.on_log(event, peer, **details)


def _myself(endpoint: Any, key: str, secret: bytes, id: int, known: Member | None) -> Member:
    """This peer's entry, signed by itself, and by the issuer if it was before."""
    addresses, relay = whereabouts(endpoint)
    stamp = max(int(time.time() * 1000), 0 if known is None else known.stamp + 1)
    if known is not None:
        id = known.id
    return Member(id, key, addresses, relay, stamp, proof=b"" if known is None else known.proof).sealed(secret)


async def _ask(connection: Any, hello: Hello) -> tuple[Any, Welcome]:
    """Say hello on a connection; returns the stream, and the answer.

    Raises:
        Refused: that is the answer.
        ConnectionError: there is none, or nonsense.
    """
    iroh = load()
    try:
        async with asyncio.timeout(PATIENCE):
            stream = await connection.open_bi()
            await write_message(stream.send(), hello)
            answer = await read_message(stream.recv(), Welcome | Refusal, ANSWER_LIMIT)  # type: ignore[arg-type]
    except TimeoutError:
        raise ConnectionError("does not answer the hello") from None
    except (iroh.IrohError, ValueError) as error:
        raise ConnectionError(words(error)) from None
    if isinstance(answer, Refusal):
        raise Refused(answer.reason, answer.final)
    return stream, answer


async def _ask_all(endpoint: Any, contacts: list[Member], hello: Hello, timeout: float) -> Welcome:
    """Ask contacts to be let in, one a moment after the other, until one says yes or no."""
    said: dict[int, str] = {}

    async def ask(member: Member, delay: float) -> Welcome:
        await asyncio.sleep(delay)
        while True:
            try:
                connection = await dial(endpoint, member, PATIENCE)
                try:
                    return (await _ask(connection, hello))[1]
                finally:
                    connection.close(0, b"")
            except Refused as error:
                said[member.id] = str(error)
                if error.final:
                    raise
            except ConnectionError as error:
                said.setdefault(member.id, str(error))
            await asyncio.sleep(random.uniform(0.5, 1.0))

    tasks = [asyncio.ensure_future(ask(member, i * STAGGER)) for i, member in enumerate(contacts)]
    try:
        async with asyncio.timeout(timeout):
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
    except TimeoutError:
        text = "; ".join(f"peer {id}: {why}" for id, why in said.items()) or "no answer"
        raise ConnectionError(f"nobody let this peer in within {timeout:g} s ({text})") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
