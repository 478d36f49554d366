"""Several peers of a network on one loop, and what each of them has heard."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from shoal.net import Ears
from shoal.net.iroh import IrohTransport, Member, NetOptions, Roster, Ticket
from shoal.net.iroh.asking import ask, myself
from shoal.net.iroh.endpoint import bind, dial
from shoal.net.iroh.hello import Hello
from shoal.net.iroh.identity import public

EXPERIMENT = b"an experiment"
QUICK = NetOptions(beat=0.1, dead=0.5)
T = TypeVar("T")


def secret(i: int) -> bytes:
    """The secret key of the i-th peer of the tests."""
    return hashlib.sha256(b"test key %d" % i).digest()


def key(i: int) -> str:
    return public(secret(i))


def run(main: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
    """The result of a coroutine, which leaves no task behind."""

    async def whole() -> T:
        result = await asyncio.wait_for(main, timeout)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return asyncio.run(whole())


class Guest:
    """A peer that writes down what it hears.

    Attributes:
        heard: (sender, frame), in order.
        story: ("up" or "down", peer, reason), in order.
        log: (event, peer, details).
        open: while it is cleared, no frame is taken.
    """

    def __init__(self, transport: IrohTransport) -> None:
        self.transport = transport
        self.heard: list[tuple[int, bytes]] = []
        self.story: list[tuple[str, int, str]] = []
        self.log: list[tuple[str, int | None, dict[str, Any]]] = []
        self.here: set[int] = set()
        self.open = asyncio.Event()
        self.open.set()
        self._changed = asyncio.Event()
        transport.on_log = self._logged

    def _logged(self, event: str, peer: int | None, **details: Any) -> None:
        self.log.append((event, peer, details))
        self._changed.set()

    async def _frame(self, sender: int, data: bytes | bytearray | memoryview) -> None:
        await self.open.wait()
        self.heard.append((sender, bytes(data)))
        self._changed.set()

    def _up(self, peer: int) -> None:
        assert peer not in self.here, "up twice"
        self.here.add(peer)
        self.story.append(("up", peer, ""))
        self._changed.set()

    def _down(self, peer: int, why: str) -> None:
        assert peer in self.here, "down twice"
        self.here.discard(peer)
        self.story.append(("down", peer, why))
        self._changed.set()

    async def start(self) -> Guest:
        await self.transport.start(Ears(self._frame, self._up, self._down))
        return self

    async def until(self, condition: Any) -> None:
        """Wait until `condition()` holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def sees(self, *others: int) -> None:
        """Wait until exactly these are connected."""
        await self.until(lambda: self.here == set(others))

    def downs(self, peer: int) -> list[str]:
        return [why for what, who, why in self.story if (what, who) == ("down", peer)]

    def ups(self, peer: int) -> int:
        return sum((what, who) == ("up", peer) for what, who, _ in self.story)


class Party(AbstractAsyncContextManager["Party"]):
    """A network whose peers are stopped at the end. The i-th has the key `secret(i)`."""

    def __init__(self, peers: int, options: NetOptions | None = None, experiment: bytes = EXPERIMENT) -> None:
        self.peers, self.options, self.experiment = peers, options, experiment
        self.guests: list[Guest] = []
        self.ticket: Ticket

    async def host(self, *, id: int = 0, roster: Roster | None = None) -> Guest:
        transport = await IrohTransport.host(
            id, self.peers, secret=secret(0), experiment=self.experiment, options=self.options, roster=roster
        )
        self.ticket = Ticket.read(str(transport.ticket()))
        return self._added(transport)

    async def join(self, i: int, ticket: Ticket | None = None, **more: Any) -> Guest:
        more = {"options": self.options, "timeout": 10.0} | more
        return self._added(await IrohTransport.join(ticket or self.ticket, secret=secret(i), **more))

    def _added(self, transport: IrohTransport) -> Guest:
        guest = Guest(transport)
        self.guests.append(guest)
        return guest

    async def all_started(self, n: int) -> list[Guest]:
        """A host and n - 1 others, all connected."""
        guests = [await self.host(), *[await self.join(i) for i in range(1, n)]]
        for guest in guests:
            await guest.start()
        for guest in guests:
            await guest.sees(*set(range(n)) - {guest.transport.id})
        return guests

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(guest.transport.stop(1.0) for guest in self.guests))


class Rogue:
    """A member that keeps to no rules: its connection by hand.

    Attributes:
        connection: iroh's.
        sender, receiver: the two directions of the stream on which it said hello.
    """

    def __init__(self, endpoint: Any, connection: Any, stream: Any) -> None:
        self.endpoint, self.connection = endpoint, connection
        self.sender, self.receiver = stream.send(), stream.recv()

    @classmethod
    async def enter(cls, party: Party, i: int, to: Guest) -> Rogue:
        """Come in as the i-th peer, and connect with one other."""
        member = await party.join(i)
        mine = member.transport.roster.find(key(i))
        theirs = member.transport.roster[to.transport.id]
        await member.transport.stop(0.0)
        party.guests.remove(member)
        endpoint = await bind(secret(i), NetOptions())
        return await cls.dial(endpoint, i, theirs, mine, party.ticket.digest)

    @classmethod
    async def dial(cls, endpoint: Any, i: int, theirs: Member, mine: Member | None, digest: bytes) -> Rogue:
        """Connect as the i-th peer, which is a member."""
        connection = await dial(endpoint, theirs, 5.0)
        me = myself(endpoint, key(i), secret(i), 0, mine)
        stream, _ = await ask(connection, Hello("link", b"a rogue.", bytes([i] * 8), b"", digest, b"", None, me))
        return cls(endpoint, connection, stream)

    async def leave(self) -> None:
        self.connection.close(0, b"")
        await self.endpoint.close()
