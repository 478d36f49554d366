"""Messages inside a world, and the envelope that their size counts."""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple

from torch import Tensor

from shoal.engine.errors import Mutated
from shoal.tensors.finite import all_finite
from shoal.tensors.payload import encode, encoded_size

ENVELOPE = struct.Struct("<4sBBHqQQQ")  # magic, version, kind, reserved, round or tag, channel, number, body bytes
MAGIC = b"SHOL"
VERSION = 1


class Kind(enum.IntEnum):
    """What a message is for."""

    DATA = 0
    EXCHANGE = 1
    REQUEST = 2
    REPLY = 3
    GOODBYE = 4
    REFUSAL = 5  # answers a request that was dropped
    CONTROL = 6  # from one real world to another; never reaches a peer


class Received(NamedTuple):
    """What `receive` returns."""

    sender: int
    payload: Any


class Parcel:
    """A payload on its way: its size, and whether it is still what was sent. Shared by all its receivers."""

    __slots__ = ("_body", "_finite", "_tensors", "payload", "size")

    def __init__(self, payload: Any) -> None:
        found: list[Tensor] = []
        self.payload = payload
        self.size = ENVELOPE.size + encoded_size(payload, found)
        self._finite: bool | None = None
        self._body: bytes | None = None
        self._tensors = [(tensor, tensor._version) for tensor in found]

    @property
    def finite(self) -> bool:
        """Whether all its floating-point tensors are free of NaN and infinity."""
        if self._finite is None:
            self._finite = all(all_finite(tensor) for tensor, _ in self._tensors)
        return self._finite

    @property
    def unchanged(self) -> bool:
        """Whether no tensor of the payload was changed in place since it was sent."""
        return all(tensor._version == version for tensor, version in self._tensors)

    def check_unchanged(self, sender: int, channel: str) -> None:
        """Raise `Mutated` if a tensor of the payload was changed in place since it was sent."""
        for tensor, version in self._tensors:
            if tensor._version != version:
                raise Mutated(
                    f"peer {sender} changed a tensor in place after sending it on {channel!r}; "
                    "send a copy, or assign a new tensor instead of changing this one"
                )

    @property
    def body(self) -> bytes:
        """The payload as bytes; encoded once, however many receivers it has."""
        if self._body is None:
            self._body = encode(self.payload)
        return self._body

    def head(self, kind: Kind, tag: int, channel: int, number: int) -> bytes:
        """The envelope that goes before `body` on a wire."""
        return ENVELOPE.pack(MAGIC, VERSION, kind, 0, tag, channel, number, len(self.body))

    def frame(self, kind: Kind, tag: int, channel: int, number: int) -> bytes:
        """The message as it goes over a wire; `size` is its length."""
        return self.head(kind, tag, channel, number) + self.body


class Message:
    """One parcel from one peer to another, under way in a simulated world. What links duplicate is one object still."""

    __slots__ = (
        "arrives_for", "channel", "kind", "left", "number", "parcel", "reply", "sender", "sent", "tag", "taken", "to",
    )  # fmt: skip

    def __init__(
        self,
        sender: int,
        to: int,
        channel: str,
        kind: Kind,
        tag: int,
        parcel: Parcel,
        number: int,
        sent: float,
    ) -> None:
        self.sender = sender
        self.to = to
        self.channel = channel
        self.kind = kind
        self.tag = tag
        self.parcel = parcel
        self.number = number
        self.sent = sent
        self.left = sent  # when its last byte is on its way: a crash of the sender before that loses it
        self.taken = False  # a request: its handler was called, or will be when there is capacity
        self.reply: Parcel | None = None  # a request's, once it was sent
        self.arrives_for = 0  # the receiver's life for which it was sent: a restart in between loses it
