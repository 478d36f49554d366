"""Tickets: one word that says where a network is and lets its holder in."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from typing import Annotated

import msgspec

from shoal.net.iroh.options import is_address
from shoal.net.iroh.roster import Address, Count, Member
from shoal.text import shown

PREFIX = "shoal1"
INVITATION_BYTES, DIGEST_BYTES = 16, 32
LENGTH_LIMIT = 8192


class _Contact(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    id: Count
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=16)]
    relay: Annotated[str, msgspec.Meta(max_length=256)] | None


class _Content(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    contacts: Annotated[tuple[_Contact, ...], msgspec.Meta(min_length=1, max_length=16)]
    invitation: Annotated[bytes, msgspec.Meta(max_length=64)]
    digest: Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Ticket(msgspec.Struct, frozen=True):
    """What a newcomer needs. `str(ticket)` is one word; keep it as secret as its invitation is meant to be.

    Attributes:
        contacts: members to ask. The first is the issuer, who gives ids to newcomers; a returning member may be let in
            by any.
        invitation: the secret that lets newcomers in; empty where an allow-list does.
        digest: of the experiment, so that nobody can foist another one on the newcomer.
    """

    contacts: tuple[Member, ...]
    invitation: bytes
    digest: bytes

    def __str__(self) -> str:
        contacts = tuple(_Contact(m.id, bytes.fromhex(m.key), m.addresses, m.relay) for m in self.contacts)
        data = msgspec.msgpack.encode(_Content(contacts, self.invitation, self.digest))
        data += zlib.crc32(data).to_bytes(4, "big")
        return PREFIX + base64.b32encode(data).decode().rstrip("=").lower()

    @classmethod
    def read(cls, text: str) -> Ticket:
        """The ticket that a word stands for.

        Raises:
            ValueError: it stands for none.
        """
        word = text.strip()
        if not word.startswith(PREFIX):
            raise ValueError(f"ticket: got {shown(word, 60)}; a word that begins with {PREFIX} is needed")
        if len(word) > LENGTH_LIMIT:
            raise ValueError(f"ticket: has {len(word)} letters; at most {LENGTH_LIMIT} are allowed")
        code = word[len(PREFIX) :].upper()
        try:
            data = base64.b32decode(code + "=" * (-len(code) % 8))
            content, check = data[:-4], data[-4:]
            if zlib.crc32(content).to_bytes(4, "big") != check:
                raise ValueError
            found = msgspec.msgpack.decode(content, type=_Content)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            raise ValueError(f"ticket: {word[:20]}… is damaged, or cut short; copy the whole word again") from None
        if not all(is_address(address) for contact in found.contacts for address in contact.addresses):
            raise ValueError(f"ticket: {word[:20]}… has addresses that are none")
        contacts = tuple(Member(c.id, c.key.hex(), c.addresses, c.relay) for c in found.contacts)
        return cls(contacts, found.invitation, found.digest)


def digest_of(experiment: bytes) -> bytes:
    """What stands for an experiment: the SHA-256 digest of its text."""
    return hashlib.sha256(experiment).digest()


def invitation_of(secret: bytes, digest: bytes) -> bytes:
    """The invitation to an issuer's network.

    It follows from the secret key, so that tickets stay good when the issuer restarts.
    """
    return hashlib.blake2b(b"shoal invitation\0" + digest, key=secret, digest_size=INVITATION_BYTES).digest()
