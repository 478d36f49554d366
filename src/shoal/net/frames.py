"""Frames: messages as they go over a wire. An envelope with magic, version and lengths, then an encoded payload.

Nothing in a frame is executed, and nothing is allocated on the word of a length: a frame is read whole, up to a
limit, before it is looked at. What is refused is a `MalformedFrame` that says why.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from shoal.engine.message import ENVELOPE, MAGIC, VERSION, Kind
from shoal.tensors.bits import LOW64, name_number
from shoal.tensors.payload import MalformedPayload, decode
from shoal.text import shown

NAMES_LIMIT = 256  # channels that one sender may name, in all its connections
NAME_LIMIT = 100  # characters of a channel's name
OVERHEAD = 1 << 20  # bytes that a frame may have beside its model-sized vectors
STRUCTURE_LIMIT = 1 << 16  # bytes of a payload that are neither of tensors nor strings of bytes
SWELL = 150  # times as much memory may these take when they are decoded (an empty tensor: 600 bytes for 4)
NUMBER_LIMIT = 1 << 63  # a reply carries the number of its request as a signed one


class MalformedFrame(ValueError):
    """Bytes that are not a frame, or not one that is allowed here and now; the text says what is wrong."""


class Frame(NamedTuple):
    """What a frame says.

    Attributes:
        kind: what it is for.
        tag: round of an exchange, or number of the request that is answered.
        channel: number of the channel, see `channel_number`.
        number: of the message; increases from message to message of a connection.
        payload: decoded.
    """

    kind: Kind
    tag: int
    channel: int
    number: int
    payload: Any


def channel_number(name: str) -> int:
    """The number in [0, 2**64) that stands for a channel's name in envelopes."""
    return name_number(name) & LOW64


def weight(data: bytes | bytearray | memoryview) -> int:
    """Bytes of memory that a frame takes at most once it is decoded."""
    try:
        structure: int = _STRUCTURE.unpack_from(data, ENVELOPE.size + 4)[0]
    except struct.error:
        structure = 0  # it is cut short
    return len(data) + SWELL * min(structure, STRUCTURE_LIMIT)


def read_frame(data: bytes | bytearray | memoryview, limit: int) -> Frame:
    """What a frame says.

    Args:
        data: a whole frame, or anything that claims to be one.
        limit: bytes that it may have at most.

    Raises:
        MalformedFrame: it is none, or too long.
    """
    view = memoryview(data).cast("B")
    if len(view) > limit:
        raise MalformedFrame(f"frame of {len(view)} bytes is over the limit of {limit}")
    if len(view) < ENVELOPE.size:
        raise MalformedFrame(f"frame of {len(view)} bytes is cut short")
    magic, version, kind, reserved, tag, channel, number, body = ENVELOPE.unpack_from(view)
    if magic != MAGIC:
        raise MalformedFrame(f"frame must begin with {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise MalformedFrame(f"frame of version {version}; this is version {VERSION}: update the older one of the two")
    if kind not in _KINDS or reserved:
        raise MalformedFrame(f"frame of unknown kind {kind}, {reserved}")
    if not 0 < number < NUMBER_LIMIT:
        raise MalformedFrame(f"message of number {number}; 1 to {NUMBER_LIMIT - 1} is allowed")
    if body != len(view) - ENVELOPE.size:
        raise MalformedFrame(f"frame announces {body} bytes and has {len(view) - ENVELOPE.size}")
    try:
        payload = decode(view[ENVELOPE.size :], limit=limit, structure=STRUCTURE_LIMIT)
    except MalformedPayload as error:
        raise MalformedFrame(str(error)) from None
    return Frame(_KINDS[kind], tag, channel, number, payload)


_KINDS = {int(kind): kind for kind in Kind}
_STRUCTURE = struct.Struct("<I")  # at 4 in a payload


class Reader:
    """The frames of one connection: in order, each number higher than the one before, on channels that were named.

    Args:
        limit: bytes that a frame may have at most.
        names: number -> name of the channels that the sender named in earlier connections, which it may still use,
            and which count.

    Attributes:
        names: those that it has named by now.
    """

    def __init__(self, limit: int, names: Mapping[int, str] | None = None) -> None:
        self.limit = limit
        self.names = dict(names or {})
        self._last = 0

    def read(self, data: bytes | bytearray | memoryview) -> Frame:
        """What the next frame says.

        Raises:
            MalformedFrame: it is none, too long, or was there before.
        """
        return self.admit(read_frame(data, self.limit))

    def admit(self, frame: Frame) -> Frame:
        """The frame, if it is new.

        Raises:
            MalformedFrame: its number was there before.
        """
        if frame.number <= self._last:
            raise MalformedFrame(f"message {frame.number} after message {self._last}: it was replayed")
        self._last = frame.number
        return frame

    def name(self, channel: int) -> str:
        """The name of a channel.

        Raises:
            MalformedFrame: the sender did not say it.
        """
        found = self.names.get(channel)
        if found is None:
            raise MalformedFrame(f"channel {channel:#x} was not named")
        return found

    def learn(self, name: Any) -> None:
        """The sender names a channel that it is going to use.

        Raises:
            MalformedFrame: no name, too long a name, or too many.
        """
        if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
            raise MalformedFrame(
                f"channel: got {shown(name, 120)}; a name of at most {NAME_LIMIT} characters is allowed"
            )
        number = channel_number(name)
        if len(self.names) >= NAMES_LIMIT and number not in self.names:
            raise MalformedFrame(f"channel: more than {NAMES_LIMIT} names")
        self.names[number] = name


def frame_limit(parameters: int, itemsize: int = 4) -> int:
    """Bytes to allow in a frame where models have so many parameters: four models, and what goes with them."""
    return 4 * parameters * itemsize + OVERHEAD
