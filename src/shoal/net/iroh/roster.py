"""Who belongs to a network: every member's id, key and addresses, in entries that cannot be forged.

Whoever opened the network, its issuer, signs that a key has an id (`proof`); each member signs where it can be reached
(`seal`), with a stamp that grows from life to life. So a roster may be learnt from anybody: what is false in it is
refused, and of two addresses of a member the later one holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from shoal.files import atomically
from shoal.net.iroh.identity import is_signed, sign
from shoal.net.iroh.options import is_address
from shoal.text import shown

FORMAT = 1
ADDRESSES_LIMIT = 16
Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Address = Annotated[str, msgspec.Meta(max_length=64)]
Signature = Annotated[bytes, msgspec.Meta(max_length=64)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Forged(ValueError):
    """An entry that is not signed by whom it should be."""


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One peer of a network.

    Attributes:
        id: number of the peer.
        key: its public key.
        addresses: where it listens, "ip:port".
        relay: URL of the relay that reaches it, too.
        stamp: the higher, the later its addresses were told: milliseconds since 1970, as a rule.
        seal: its own signature of addresses, relay and stamp.
        proof: the issuer's signature of id and key.
    """

    id: Count
    key: Key
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=ADDRESSES_LIMIT)]
    relay: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    stamp: Count = 0
    seal: Signature = b""
    proof: Signature = b""

    def sealed(self, secret: bytes) -> Member:
        """This entry, signed by the member itself."""
        return msgspec.structs.replace(self, seal=sign(secret, self._contact()))

    def proved(self, secret: bytes, digest: bytes) -> Member:
        """This entry, signed by the issuer of the network whose experiment has that digest."""
        return msgspec.structs.replace(self, proof=sign(secret, self._membership(digest)))

    def is_proved(self, issuer: str, digest: bytes) -> bool:
        """Whether the issuer says that this key has this id."""
        return is_signed(issuer, self._membership(digest), self.proof)

    def check(self) -> None:
        """See whether the addresses are some, and the member's own word.

        Raises:
            Forged: they are not.
        """
        if not all(is_address(address) for address in self.addresses):
            raise Forged(f"peer {self.id}: {shown(self.addresses, 200)} are no addresses")
        if not is_signed(self.key, self._contact(), self.seal):
            raise Forged(f"peer {self.id}: its addresses are not signed by {self.key[:10]}…")

    def _contact(self) -> bytes:
        return b"shoal contact\0" + msgspec.msgpack.encode((self.addresses, self.relay, self.stamp))

    def _membership(self, digest: bytes) -> bytes:
        return b"shoal member\0" + msgspec.msgpack.encode((digest, self.id, self.key))


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A roster on disk."""

    format: int
    peers: int
    issuer: Key
    digest: bytes
    members: tuple[Member, ...]


class Roster:
    """The members of a network, by id.

    Args:
        peers: how many there may be; ids are 0 to peers - 1.
        issuer: public key of who opened the network.
        digest: of its experiment, see `ticket.digest_of`.

    Attributes:
        on_change: called with the roster whenever a member was added or has moved, before anybody is told; the place
            to `save` it.
    """

    def __init__(self, peers: int, issuer: str, digest: bytes) -> None:
        self.peers, self.issuer, self.digest = peers, issuer, digest
        self.on_change: Callable[[Roster], None] | None = None
        self._members: dict[int, Member] = {}
        self._ids: dict[str, int] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter([self._members[id] for id in sorted(self._members)])

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, id: int) -> bool:
        return id in self._members

    def __getitem__(self, id: int) -> Member:
        return self._members[id]

    def id_of(self, key: str) -> int | None:
        """The id of a public key, or None."""
        return self._ids.get(key)

    def find(self, key: str) -> Member | None:
        """The member with a public key."""
        id = self._ids.get(key)
        return None if id is None else self._members[id]

    def lowest_free(self) -> int | None:
        """The lowest id that nobody has, or None if all are taken."""
        return next((id for id in range(self.peers) if id not in self._members), None)

    def take(self, member: Member) -> bool:
        """Add a member, or take over where it is now.

        Returns:
            Whether that is news.

        Raises:
            Forged: the issuer or the member has not signed it.
            ValueError: it contradicts another one.
        """
        known = self._members.get(member.id)
        if known == member:
            return False
        if not 0 <= member.id < self.peers:
            raise ValueError(f"peer {member.id}: ids are 0 to {self.peers - 1}")
        if (known is not None and known.key != member.key) or self._ids.get(member.key, member.id) != member.id:
            raise ValueError(f"peer {member.id}: another one has that id, or the key {member.key[:10]}…")
        if known is not None and known.stamp >= member.stamp:
            return False
        member.check()
        if not member.is_proved(self.issuer, self.digest):
            raise Forged(f"peer {member.id}: the network's issuer has not signed that {member.key[:10]}… is it")
        self._members[member.id], self._ids[member.key] = member, member.id
        try:
            if self.on_change is not None:
                self.on_change(self)
        except BaseException:  # what could not be kept is not known
            del self._members[member.id], self._ids[member.key]
            if known is not None:
                self._members[member.id], self._ids[member.key] = known, known.id
            raise
        return True

    def save(self, path: Path) -> None:
        """Write the roster to a JSON file, whole or not at all."""
        file = _File(FORMAT, self.peers, self.issuer, self.digest, tuple(self))
        with atomically(path) as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(file)))

    @classmethod
    def load(cls, path: Path) -> Roster:
        """The roster in a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged.
        """
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_File)
            if file.format != FORMAT:
                raise ValueError(f"is of format {file.format}; this version reads {FORMAT}")
            return cls(file.peers, file.issuer, file.digest).filled(file.members)
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise ValueError(f"{path}: is damaged ({error}); remove it to learn the members anew") from None

    def filled(self, members: Iterable[Member]) -> Roster:
        """This roster, with members added.

        Raises:
            ValueError: see `take`.
        """
        for member in members:
            self.take(member)
        return self
