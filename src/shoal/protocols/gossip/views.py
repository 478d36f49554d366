"""Who is here, as far as one peer knows: views that travel with what is sent, and samples that all draw alike.

A view says of each peer in which round it was active last, a counter, and whether it is in or has left. Of two views
the later activity and the membership with the larger counter hold, so that merging them in any order ends in the same.
Of MoDeST, de Vos et al., 2023 (arXiv 2302.13837).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import md5
from typing import Any

import torch
from torch import Tensor

from shoal.tensors.payload import MalformedPayload

COUNTERS = 1_000_000  # more lives than any peer has


class View:
    """What one peer knows of all.

    Attributes:
        active: the last round in which each peer is known to have been active, from 0 on.
        counter: of its latest known joining or leaving, from 0 on.
        joined: whether it is in.
        latest: the latest round of all.
    """

    __slots__ = ("active", "counter", "joined", "latest")

    def __init__(self, active: list[int], counter: list[int], joined: list[bool]) -> None:
        self.active, self.counter, self.joined = active, counter, joined
        self.latest = max(active)

    @classmethod
    def start(cls, peers: int) -> View:
        """With everybody in, and nobody active yet."""
        return cls([0] * peers, [0] * peers, [True] * peers)

    @classmethod
    def read(cls, payload: Any, peers: int, last: int) -> View:
        """The view in a tensor that anybody may have sent.

        Args:
            payload: as `tensor` returns it.
            peers: number of peers.
            last: the latest round that there may be.

        Raises:
            MalformedPayload: it is something else, or a number in it is out of range.
        """
        if not isinstance(payload, Tensor) or payload.dtype != torch.int32 or payload.shape != (3, peers):
            got = f"{payload.dtype} {list(payload.shape)}" if isinstance(payload, Tensor) else type(payload).__name__
            raise MalformedPayload(f"view: got {got}; torch.int32 [3, {peers}] is needed")
        rows = payload.tolist()
        for name, row, most in zip(("round", "counter", "membership"), rows, (last, COUNTERS, 1), strict=True):
            if min(row) < 0 or max(row) > most:
                raise MalformedPayload(f"view: got the {name} {min(row) if min(row) < 0 else max(row)}; 0 to {most}")
        return cls(rows[0], rows[1], [bool(inside) for inside in rows[2]])

    def tensor(self) -> Tensor:
        """The view as it travels: int32 [3, peers], of activity, counters and memberships."""
        return torch.tensor([self.active, self.counter, self.joined], dtype=torch.int32)

    def touch(self, peer: int, round: int) -> None:
        """A peer was active in a round."""
        if round > self.active[peer]:
            self.active[peer] = round
            self.latest = max(self.latest, round)

    def admit(self, peer: int, counter: int, joined: bool) -> None:
        """A peer has joined or left; news that are no newer than what is known change nothing."""
        if counter > self.counter[peer]:
            self.counter[peer], self.joined[peer] = counter, joined

    def renew(self, peer: int, joined: bool) -> None:
        """A peer joins or leaves, by the next counter."""
        self.admit(peer, min(self.counter[peer] + 1, COUNTERS), joined)

    def merge(self, other: View) -> None:
        """Learn what the other view knows better."""
        for peer, (active, counter) in enumerate(zip(other.active, other.counter, strict=True)):
            if active > self.active[peer]:
                self.active[peer] = active
            if counter > self.counter[peer]:
                self.counter[peer], self.joined[peer] = counter, other.joined[peer]
        self.latest = max(self.latest, other.latest)

    def candidates(self, round: int, window: int, own: int) -> list[int]:
        """Whom to ask for the sample of a round, in the order in which to ask.

        Args:
            round: number of the round.
            window: rounds for which a sign of life counts.
            own: the peer whose view this is; it counts itself always.
        """
        oldest, active, joined = round - window, self.active, self.joined
        order = hash_order(len(active), round)
        return [peer for peer in order if (joined[peer] and active[peer] >= oldest) or peer == own]


@lru_cache(maxsize=256)
def hash_order(peers: int, round: int) -> tuple[int, ...]:
    """All peers, 0 to `peers` - 1, in the order of MD5("<peer>-<round>")."""
    digests = [md5(b"%d-%d" % (peer, round), usedforsecurity=False).digest() for peer in range(peers)]
    return tuple(sorted(range(peers), key=digests.__getitem__))
