"""Samples without a server: who is here, who answers, and how it becomes known that somebody comes or goes.

Every peer has a view of all (`views`), which travels with what it sends. The sample of a round are the first in the
view's order that answer a ping. Who joins tells random peers, who count it in when they merge a view next; who leaves
tells such, too. After MoDeST, de Vos et al., 2023 (arXiv 2302.13837).

Silent candidates are not replaced one by one, which takes a timeout each. As many are asked at a time as should do if
the same share of them answers as of those asked last; the second time twice as many, then four times and so on. The
sample is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from shoal.learning import Learner
from shoal.protocols.gossip.views import COUNTERS, View, hash_order
from shoal.tensors.payload import MalformedPayload, Payload, expect_whole

T = TypeVar("T")


@dataclass(frozen=True)
class Here(Payload, name="sampling.Here"):
    """A sign of life, with the latest round that its sender knows of, and the counter of its membership."""

    round: int
    counter: int


@dataclass(frozen=True)
class Known(Payload, name="sampling.Known"):
    """The answer to who joins: the latest round, the counter with which it counts as in, whether the run is over."""

    round: int
    counter: int
    over: bool


class Sampler:
    """One peer's part in the sampling: answers on the channels "ping" and "join", and listens on "leave".

    Args:
        me: the peer.
        size: peers in a sample, and those who are told of a coming or going.
        window: rounds for which a sign of life counts.
        timeout: seconds to wait for an answer.
        last: the latest round that there may be; later ones in what others send are malformed.
        kept: a tensor of `View`, where the peer had one before it was restarted.

    Attributes:
        view: who is here; this peer joins by a counter larger than any before.
        over: what is told to those who join.
        heard: when anybody last answered, or came of their own accord, in seconds of the world's clock.
        met: when somebody last came of their own accord.
    """

    def __init__(
        self, me: Learner, *, size: int, window: int, timeout: float, last: int, kept: Any | None = None
    ) -> None:
        self.me, self.size, self.window, self.timeout, self.last = me, size, window, timeout, last
        self.view = View.start(me.peers) if kept is None else View.read(kept, me.peers, last)
        self.view.renew(me.id, joined=True)
        self.over = False
        self.heard = self.met = me.now()
        self._newcomers: dict[int, Here] = {}
        self._joins = 0
        self._share = 1.0  # of those who were asked last, how many answered

    def listen(self) -> None:
        """Answer others from now on, and tell some when this peer leaves."""
        self.me.serve("ping", self._on_ping)
        self.me.serve("join", self._on_join)
        self.me.spawn(receive(self.me, "leave", self._read_here, self._on_leave))
        self.me.at_leave(self._leave)

    # -- samples ---------------------------------------------------------------------------------------------

    def candidates(self, round: int) -> list[int]:
        """Whom to ask for a sample, in order."""
        return self.view.candidates(round, self.window, self.me.id)

    async def live(self, round: int, count: int) -> list[int]:
        """The first `count` of a sample that answer, this peer included; fewer if there are not so many."""
        waiting, found, factor = self.candidates(round), list[int](), 1
        while waiting and len(found) < count:
            asked = math.ceil((count - len(found)) * factor / self._share)
            wave, waiting, factor = waiting[:asked], waiting[asked:], 2 * factor
            signs = await self._ask([peer for peer in wave if peer != self.me.id], "ping", self._read_here)
            for peer, here in signs.items():
                self._greet(peer, here)
            found += [peer for peer in wave if peer in signs or peer == self.me.id]
        return found[:count]

    async def _ask(self, peers: list[int], channel: str, read: Callable[[Any], T]) -> dict[int, T]:
        """Peer -> what it answers to a sign of life; those who are silent are absent."""
        replies = await self.me.request_all(peers, self._here(), channel, timeout=self.timeout)
        answers = self.me.read_all(replies, read)
        self._share = (len(answers) + 1) / (len(peers) + 1)
        return answers

    def met_with(self, sender: int, round: int, view: View) -> None:
        """Something of a round came, with its sender's view. Who has joined since the last time is counted in now."""
        self.heard = self.met = self.me.now()
        self.view.merge(view)
        self.view.touch(sender, max(round, self.view.latest))
        for peer, here in self._newcomers.items():
            self.view.touch(peer, here.round)
            self.view.admit(peer, here.counter, True)
        self._newcomers.clear()
        self._stay()

    # -- comings and goings ----------------------------------------------------------------------------------

    async def join(self) -> dict[int, Known]:
        """Tell random peers that this one is here; what they know."""
        me, view = self.me, self.view
        self._joins += 1
        answers = await self._ask(self._some("join", self._joins), "join", self._read_known)
        for peer, known in answers.items():
            self.heard = me.now()
            view.touch(peer, max(view.latest, known.round))
            view.admit(me.id, known.counter, True)
        return answers

    def others(self) -> list[int]:
        """Those who are in, as far as this peer knows, without itself."""
        return [peer for peer, joined in enumerate(self.view.joined) if joined and peer != self.me.id]

    def _some(self, purpose: str, number: int) -> list[int]:
        """Random peers: the sample of a coming round, drawn from all who are in. They will take part before long, and
        what they know spreads from there; of as few others, none may be sampled for long.
        """
        draw = self.me.rng(purpose, self.view.counter[self.me.id], number)
        round = self.view.latest + draw.randint(self.window // 2, self.window)  # what is known may be half a window old
        order = hash_order(self.me.peers, round)
        return [peer for peer in order if self.view.joined[peer] and peer != self.me.id][: self.size]

    def _leave(self) -> None:
        self.view.renew(self.me.id, joined=False)
        for peer in self._some("leave", 0):
            self.me.send(peer, self._here(), "leave")

    def _stay(self) -> None:
        """If others say that this peer has left, it joins by a larger counter than theirs."""
        if not self.view.joined[self.me.id]:
            self.view.renew(self.me.id, joined=True)

    def _here(self) -> Here:
        return Here(self.view.latest, self.view.counter[self.me.id])

    def _greet(self, peer: int, here: Here) -> None:
        self.heard = self.me.now()
        self.view.touch(peer, max(self.view.latest, here.round))
        self.view.admit(peer, here.counter, True)

    def _on_ping(self, sender: int, payload: Any) -> Here:
        self._greet(sender, self._read_here(payload))
        self.met = self.me.now()
        return self._here()

    def _on_join(self, sender: int, payload: Any) -> Known:
        here, view = self._read_here(payload), self.view
        self._newcomers[sender] = Here(max(view.latest, here.round), here.counter)
        left = not view.joined[sender] and view.counter[sender] >= here.counter
        counter = min(view.counter[sender] + 1, COUNTERS) if left else here.counter
        return Known(view.latest, counter, self.over)

    def _on_leave(self, sender: int, here: Here) -> None:
        self.view.admit(sender, here.counter, False)

    def _read_here(self, payload: Any) -> Here:
        if not isinstance(payload, Here):
            raise MalformedPayload(f"payload: got {type(payload).__name__}; a Here is needed")
        return Here(
            expect_whole("round", payload.round, high=self.last),
            expect_whole("counter", payload.counter, high=COUNTERS),
        )

    def _read_known(self, payload: Any) -> Known:
        if not isinstance(payload, Known):
            raise MalformedPayload(f"payload: got {type(payload).__name__}; a Known is needed")
        round, counter = (
            expect_whole("round", payload.round, high=self.last),
            expect_whole("counter", payload.counter, high=COUNTERS),
        )
        return Known(round, counter, payload.over is True)


async def receive(me: Learner, channel: str, read: Callable[[Any], Any], take: Callable[[int, Any], None]) -> None:
    """Give what comes on a channel to `take(sender, read(payload))`, as long as the peer lives.

    What `read` refuses by a ValueError is malformed: dropped, and logged.
    """
    while True:
        sender, payload = await me.receive(channel)
        for content in me.read_all({sender: payload}, read).values():
            take(sender, content)
