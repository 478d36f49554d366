"""What is said before anything else on a connection: who asks for what, and the answer."""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from shoal.net.iroh.roster import Count, Key, Member

ALPN = b"shoal/1"
HELLO_LIMIT = 1 << 13  # bytes; the only ones that are read of a stranger
ANSWER_LIMIT = 1 << 24
EXPERIMENT_LIMIT = 1 << 20
LENGTH = struct.Struct(">I")
Nonce = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]


class Refused(PermissionError):
    """The other side does not let this peer in.

    Attributes:
        final: whether it is of no use to ask again.
    """

    def __init__(self, reason: str, final: bool = True) -> None:
        super().__init__(reason)
        self.final = final


class Hello(msgspec.Struct, tag="hello", frozen=True, forbid_unknown_fields=True):
    """Who dialled, and what for.

    Attributes:
        aim: "join" asks for id, roster and experiment; "link" for a connection that stays.
        life: drawn anew whenever a peer starts.
        link: drawn anew for each connection.
        after: the last connection with this peer that the asking one knows to be gone.
        digest: of the experiment.
        invitation: from the ticket, or empty.
        wanted: the id that a newcomer would like.
        me: the asking peer. Of one that is no member yet only the addresses count.
    """

    aim: Literal["join", "link"]
    life: Nonce
    link: Nonce
    after: Annotated[bytes, msgspec.Meta(max_length=8)]
    digest: Annotated[bytes, msgspec.Meta(max_length=32)]
    invitation: Annotated[bytes, msgspec.Meta(max_length=64)]
    wanted: Count | None
    me: Member


class Welcome(msgspec.Struct, tag="welcome", frozen=True, forbid_unknown_fields=True):
    """Come in.

    Attributes:
        life: of the answering peer.
        peers: how many the network has at most.
        issuer: public key of who opened it.
        you: the asking peer's entry in the roster.
        roster: everybody that is known, the answering peer included.
        experiment: its text, for those who join.
    """

    life: Nonce
    peers: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    issuer: Key
    you: Member
    roster: tuple[Member, ...]
    experiment: Annotated[bytes, msgspec.Meta(max_length=EXPERIMENT_LIMIT)]


class Refusal(msgspec.Struct, tag="refusal", frozen=True, forbid_unknown_fields=True):
    """Stay out.

    Attributes:
        reason: in words.
        final: whether it is of no use to ask again.
    """

    reason: Annotated[str, msgspec.Meta(max_length=400)]
    final: bool


Message = TypeVar("Message")


async def write_message(stream: Any, message: msgspec.Struct) -> None:
    """Write a message to a stream, its length before it."""
    data = msgspec.msgpack.encode(message)
    await stream.write_all(LENGTH.pack(len(data)) + data)


async def read_message(stream: Any, kind: type[Message], limit: int) -> Message:
    """The next message of a stream.

    Args:
        stream: iroh's, to be read from.
        kind: what it must be.
        limit: bytes that it may have.

    Raises:
        ValueError: it is something else, or too long.
    """
    (size,) = LENGTH.unpack(await stream.read_exact(LENGTH.size))
    if size > limit:
        raise ValueError(f"message of {size} bytes is over the limit of {limit}")
    return msgspec.msgpack.decode(await stream.read_exact(size), type=kind)
