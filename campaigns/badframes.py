"""Bad frames of every kind, and a transport that sends them in the name of a peer that was admitted."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
import torch

from shoal.attacks.garbage import spoilt
from shoal.engine.message import ENVELOPE, MAGIC, VERSION, Kind, Parcel
from shoal.net import Ears, Transport
from shoal.net.frames import NAME_LIMIT, STRUCTURE_LIMIT, channel_number
from shoal.tensors.payload import MAX_DEPTH, decode, encode

FAR = 10_000  # rounds that no run here reaches
TEN_GB = 10 << 30
UNUSED = "unused"
SELDOM = {"structure": 0.2, "oversized": 0.2}  # they take whoever reads them, or sends them, long
CHANNELS = ["exchange", "compare", "data", "meet", "train", "log", "up", "down", "state", "steps", "vote", "gradient"]


class BadFrames:
    """Draws bad frames; those that are whole and well formed are of no use to any protocol all the same.

    Args:
        seed: of the draws.
        number: gives the number of the next message.
        channels: names that honest peers use.
        limit: bytes that a frame may have.
        seldom: kind -> how often it is drawn, others being drawn once.
    """

    def __init__(
        self,
        seed: int,
        number: Callable[[], int],
        channels: list[str],
        limit: int,
        seldom: Mapping[str, float] = SELDOM,
    ) -> None:
        self.rng, self.number, self.channels, self.limit = random.Random(seed), number, channels, limit
        self.drawn: dict[str, int] = {}
        self._earlier: list[bytes] = []
        self._kinds: dict[str, Callable[[], bytes]] = {
            name.removeprefix("_kind_"): getattr(self, name) for name in dir(self) if name.startswith("_kind_")
        }
        self._weights = [seldom.get(name, 1.0) for name in self._kinds]

    def first(self) -> list[bytes]:
        """Frames that name the channels."""
        return [self._control({"what": "channel", "name": name}) for name in [UNUSED, *self.channels]]

    def draw(self) -> bytes:
        """The next bad frame."""
        [kind] = self.rng.choices(list(self._kinds), self._weights)
        self.drawn[kind] = self.drawn.get(kind, 0) + 1
        return self._kinds[kind]()

    # -- whole frames ------------------------------------------------------------------------------------------

    def _frame(
        self, kind: int, payload: Any, *, channel: str = UNUSED, tag: int = 0, number: int | None = None
    ) -> bytes:
        body = payload if isinstance(payload, bytes) else encode(payload)
        number = self.number() if number is None else number
        made = ENVELOPE.pack(MAGIC, VERSION, kind, 0, tag, channel_number(channel), number, len(body)) + body
        if len(self._earlier) < 100:
            self._earlier.append(made)
        return made

    def _payload(self, header: Any, body: bytes = b"") -> bytes:
        """An encoded payload with any header, which may be bytes."""
        packed = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
        return b"sho\x01" + struct.pack("<I", len(packed)) + packed + body

    def _control(self, content: Any) -> bytes:
        return self._frame(Kind.CONTROL, content)

    def _useless(self) -> bytes:
        """A well-formed frame that nobody waits for."""
        x = torch.full((self.rng.randrange(1, 200),), 7.0)
        return self._frame(Kind.EXCHANGE, x, tag=FAR + self.rng.randrange(FAR), channel=self._channel())

    def _channel(self) -> str:
        return self.rng.choice([UNUSED, *self.channels])

    def _bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    # -- no frames at all --------------------------------------------------------------------------------------

    def _kind_random_bytes(self) -> bytes:
        return self._bytes(self.rng.choice([0, 1, 7, 40, 41, 300, 5000]))

    def _kind_random_body(self) -> bytes:
        return self._frame(self.rng.randrange(7), self._bytes(self.rng.randrange(200)), channel=self._channel())

    def _kind_cut_short(self) -> bytes:
        whole = self._useless()
        return whole[: self.rng.randrange(len(whole))]

    def _kind_trailing(self) -> bytes:
        return self._useless() + self._bytes(self.rng.randrange(1, 50))

    def _kind_oversized(self) -> bytes:
        return self._frame(Kind.DATA, bytes(self.limit + self.rng.randrange(100)))

    def _kind_envelope(self) -> bytes:
        """Wrong magic, version, kind, reserved bits or length: of 10 GB, for one."""
        body = encode(1)
        wrong = [
            (b"SHOT", VERSION, 0, 0, 0, 0, self.number(), len(body)),
            (MAGIC, self.rng.choice([0, 2, 255]), 0, 0, 0, 0, self.number(), len(body)),
            (MAGIC, VERSION, self.rng.randrange(7, 256), 0, 0, 0, self.number(), len(body)),
            (MAGIC, VERSION, 0, self.rng.randrange(1, 1 << 16), 0, 0, self.number(), len(body)),
            (MAGIC, VERSION, 0, 0, 0, 0, self.number(), self.rng.choice([TEN_GB, 0, 1, (1 << 64) - 1])),
        ]
        return ENVELOPE.pack(*self.rng.choice(wrong)) + body

    def _kind_payload_length(self) -> bytes:
        return self._frame(Kind.DATA, b"sho\x01" + struct.pack("<I", self.rng.choice([0, 5, (1 << 32) - 1])) + b"abc")

    def _kind_tensor_length(self) -> bytes:
        """A tensor that says it has 10 GB, or sizes that overflow, and brings nothing."""
        shape = self.rng.choice([[TEN_GB // 4], [1 << 62], [1 << 40, 1 << 40], [-1], [0, 1 << 62], [2] * 60, [1.5]])
        return self._frame(Kind.DATA, self._payload([0, self.rng.choice([0, 8, 9, 14, 15, -1, 300]), *shape]))

    def _kind_header(self) -> bytes:
        broken = [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x81" * 5000, [[]], {"a": 1}, [77], [5, TEN_GB], [5, -1]]
        wrong = [[3, 1, 2], [3, "a", 1, "a", 2], [4, "NoSuchStruct"], [4, "Trained"], [4, "Trained", "x", "y"]]
        headers = [*broken, *wrong]
        return self._frame(Kind.DATA, self._payload(self.rng.choice(headers)), channel=self._channel())

    def _kind_nested(self) -> bytes:
        depth = self.rng.choice([MAX_DEPTH + 1, 900, 20_000])
        return self._frame(Kind.DATA, self._payload(b"\x92\x02" * depth + b"\xc0"))

    def _kind_flipped(self) -> bytes:
        whole = bytearray(self._useless())
        at = self.rng.choice([*range(5), *range(ENVELOPE.size - 8, len(whole))])
        whole[at] ^= 1 << self.rng.randrange(8)
        return bytes(whole)

    # -- frames that are not allowed here ----------------------------------------------------------------------

    def _kind_replayed(self) -> bytes:
        return self.rng.choice(self._earlier) if self._earlier else b""

    def _kind_number(self) -> bytes:
        numbers = [0, 1, 2, 1 << 63, (1 << 64) - 1]
        return self._frame(Kind.REQUEST, 1, channel=self._channel(), number=self.rng.choice(numbers))

    def _kind_unnamed(self) -> bytes:
        return self._frame(self.rng.randrange(4), 1, channel=f"never named {self.rng.random()}")

    def _kind_names(self) -> bytes:
        """Thousands of names of channels."""
        name = self.rng.choice([f"more {self.rng.random()}", "x" * (NAME_LIMIT + 1), "", None, 5, ["a"], {"a": 1}])
        return self._control({"what": "channel", "name": name})

    def _kind_control(self) -> bytes:
        what = self.rng.choice(["status", "done", "nothing", "", None, [], {}, 1e300, "x" * 1000, "channel"])
        content = self.rng.choice([{"what": what}, {"what": what, "round": "x", "loss": {}}, {}, [], None, 5, "done"])
        return self._frame(self.rng.choice([Kind.CONTROL, Kind.CONTROL, Kind.GOODBYE]), content)

    def _kind_rounds(self) -> bytes:
        tag = self.rng.choice([-1, -(1 << 63), (1 << 63) - 1, 1 << 31, (1 << 31) - 1, FAR])
        return self._frame(Kind.EXCHANGE, torch.ones(3), tag=tag, channel=self._channel())

    def _kind_answers(self) -> bytes:
        """Replies and refusals to what was never asked, or not of this peer."""
        tag = self.rng.choice([0, -1, 1 << 40, (1 << 40) + self.rng.randrange(300), (1 << 63) - 1])
        return self._frame(self.rng.choice([Kind.REPLY, Kind.REFUSAL]), torch.ones(3), tag=tag, channel=self._channel())

    # -- what protocols get to see -----------------------------------------------------------------------------

    def _kind_nan(self) -> bytes:
        x = torch.full((self.rng.randrange(1, 100),), self.rng.choice([float("nan"), float("inf")]))
        return self._frame(self.rng.randrange(4), x, tag=self.rng.randrange(5), channel=self._channel())

    def _kind_garbage(self) -> bytes:
        """Something for a channel that honest peers use: requests to every handler, data, exchanges of all rounds."""
        made = spoilt(torch.ones(self.rng.randrange(1, 50)), self.rng.randrange(1 << 60))
        kind = self.rng.choice([Kind.REQUEST, Kind.DATA, Kind.EXCHANGE])
        return self._frame(kind, made, tag=self.rng.randrange(8), channel=self._channel())

    def _kind_flood(self) -> bytes:
        """Valid messages that nobody takes."""
        kind = self.rng.choice([Kind.DATA, Kind.REQUEST, Kind.EXCHANGE])
        x = torch.ones(self.rng.choice([1, 1000, 1000, 200_000]))
        return self._frame(kind, x, tag=FAR + self.rng.randrange(FAR))

    def _kind_structure(self) -> bytes:
        """Few bytes that take much memory."""
        return self._frame(Kind.DATA, self.rng.choice(_swelling()))


@lru_cache(maxsize=1)
def _swelling() -> list[bytes]:
    count = (STRUCTURE_LIMIT - 100) // 4
    return [encode(x) for x in ([None] * (4 * count), [torch.empty(0)] * count, [[]] * (2 * count))]


class Corrupting(Transport):
    """Another transport, on which everything that its own peer sends is spoilt, and bad frames go with it.

    The peer itself follows its protocol, so that whatever others expect of it, of every type and on every channel, they
    get spoilt.

    Args:
        inner: the transport.
        seed: of the draws.
    """

    def __init__(self, inner: Transport, seed: int) -> None:
        self.inner, self.name = inner, inner.name
        self.rng = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def start(self, ears: Ears) -> None:
        """As the inner one."""
        await self.inner.start(ears)

    def send(self, to: int, head: bytes, body: bytes) -> bool:
        """Send something else; but names of channels are true, and questions are not asked in vain."""
        magic, version, kind, reserved, tag, channel, number, _ = ENVELOPE.unpack(head)
        if kind in (Kind.CONTROL, Kind.GOODBYE):
            return self.inner.send(to, head, body)
        other = Parcel(spoilt(decode(body), self.rng.randrange(1 << 60)))
        head = ENVELOPE.pack(magic, version, kind, reserved, tag, channel, number, len(other.body))
        return self.inner.send(to, head, other.body)

    def raw(self, to: int, frame: bytes) -> bool:
        """Send bytes as they are."""
        return self.inner.send(to, frame, b"")

    async def stop(self, patience: float) -> None:
        """As the inner one."""
        await self.inner.stop(patience)
