"""How a peer takes part in an open network."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass

from shoal.text import shown

STREAMS_LIMIT = 64
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class NetOptions:
    """Settings of a peer's own end of the network.

    Attributes:
        bind: "ip:port" to listen at; port 0 takes a free one. iroh listens at an IPv6 port of all interfaces besides.
        relays: "off" (direct connections only), "default" (n0's public ones, and n0's directory of addresses), or the
            URLs of one's own. A relay lets peers meet that sit behind routers; it cannot read what they say.
        beat: seconds between two signs of life to every peer.
        dead: seconds of silence after which a connection counts as lost.
        streams: over how many streams a large frame is spread.
        queue: bytes that may wait to be sent to one peer, or two of the largest frames if that is more.
        allow: public keys of all peers, in the order of their ids. Empty lets in who has an invitation.

    Raises:
        ValueError: a setting is impossible.
    """

    bind: str = "127.0.0.1:0"
    relays: tuple[str, ...] | str = "off"
    beat: float = 1.0
    dead: float = 5.0
    streams: int = 8
    queue: int = 1 << 28
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_address(self.bind):
            raise ValueError(f"bind: got {self.bind!r}; an address like 127.0.0.1:0 or [::1]:4000 is needed")
        if isinstance(self.relays, str):
            if self.relays not in ("off", "default"):
                raise ValueError(f"relays: got {self.relays!r}; off, default or a list of URLs is allowed")
        elif not self.relays or not all(re.fullmatch(r"https?://\S+", str(url)) for url in self.relays):
            raise ValueError(f"relays: got {self.relays!r}; URLs that begin with https:// are needed")
        if not (math.isfinite(self.beat) and self.beat > 0):
            raise ValueError(f"beat: got {self.beat}; seconds above 0 are allowed")
        if not (math.isfinite(self.dead) and self.dead >= 2 * self.beat):
            raise ValueError(f"dead: got {self.dead}; at least two beats, {2 * self.beat} s, are needed")
        if not 1 <= self.streams <= STREAMS_LIMIT:
            raise ValueError(f"streams: got {self.streams}; 1 to {STREAMS_LIMIT} are allowed")
        if self.queue < 1:
            raise ValueError(f"queue: got {self.queue}; bytes above 0 are allowed")
        for key in self.allow:
            if not KEY.fullmatch(key):
                raise ValueError(f"allow: got {shown(key)}; a public key is 64 digits 0-9 a-f")
        if len(set(self.allow)) < len(self.allow):
            raise ValueError("allow: a key is there twice")


def is_address(text: str) -> bool:
    """Whether a text is "ip:port", with IPv6 addresses in brackets."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        version = ipaddress.ip_address(host[1:-1] if bracketed else host).version
    except ValueError:
        return False
    return version == (6 if bracketed else 4) and re.fullmatch(r"\d{1,5}", port) is not None and int(port) < 65536
