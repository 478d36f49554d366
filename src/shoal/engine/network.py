"""How messages travel in a simulated world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.engine.adversary import Adversary
from shoal.engine.links import INFINITE, Link
from shoal.engine.message import Kind, Message, Parcel
from shoal.tensors.random import hash01, key

if TYPE_CHECKING:
    from shoal.engine.simulated import SimulatedWorld

LOSS, DUPLICATE, JITTER, HELD, HELD_FOR = range(5)  # purposes of a message's draws


class Network:
    """The links of all peers, and the messages on them. See `shoal.engine.links` for the model."""

    def __init__(
        self,
        world: SimulatedWorld,
        links: Sequence[Link],
        latency: list[list[float]] | None,
        adversary: Adversary | None,
    ) -> None:
        peers = len(links)
        self.links = list(links)
        self.lossy = any(link.lossy for link in links)
        self._world = world
        self._loop = world.loop
        self._ledger = world.ledger
        self._adversary = adversary
        self._byzantine = frozenset() if adversary is None else adversary.peers
        self._matrix = latency
        self._half = [link.latency / 2 for link in links]
        self._up = [link.up for link in links]
        self._down = [link.down for link in links]
        self._up_free = [0.0] * peers
        self._down_free = [0.0] * peers
        self._drawing = any(link.jitter or link.loss or link.duplication or link.reordering for link in links)
        self._last_arrival: list[dict[int, float]] = [{} for _ in links]  # by sender, then receiver
        self._number = 0
        self._key = key(world.seed, "network")

    def transmit(self, sender: int, to: int, channel: str, kind: Kind, tag: int, parcel: Parcel) -> int:
        """Send a parcel; returns the message's number."""
        if to == sender or not 0 <= to < len(self.links):
            raise ValueError(f"to: got {to}; another peer than {sender}, from 0 to {len(self.links) - 1}, is allowed")
        self._number = number = self._number + 1
        if self._adversary is not None:
            parcel = self._through_adversary(sender, to, channel, kind, tag, number, parcel)
        size = parcel.size
        account = self._ledger.account(channel)
        account.messages += 1
        account.sent += size
        self._ledger.total += size
        self._ledger.by_peer[sender] += size
        now = self._loop._now
        message = Message(sender, to, channel, kind, tag, parcel, number, now)
        message.arrives_for = self._world.members.lives[to]
        start = self._up_free[sender]
        if start < now:
            start = now
        message.left = left = self._up_free[sender] = start + size / self._up[sender]
        latency = self._half[sender] + self._half[to] if self._matrix is None else self._matrix[sender][to]
        if self._world.trace is not None:
            self._note("send", message)
        if self._drawing:
            latency = self._draw(message, start, latency)
            if latency < 0.0:
                return number
        self._fly(message, start + latency, left + latency)
        return number

    def _fly(self, message: Message, first: float, last: float) -> None:
        """The first byte reaches the receiver's downlink at `first`, the last one at `last`."""
        if self._down[message.to] == INFINITE:
            self._loop.post(last, self._arrive, message)
        else:
            self._loop.post(first, self._enter_downlink, message, last)

    def _enter_downlink(self, message: Message, last: float) -> None:
        to = message.to
        now = self._loop._now
        begin = self._down_free[to]
        if begin < now:
            begin = now
        through = self._down_free[to] = begin + message.parcel.size / self._down[to]
        self._loop.post(last if last > through else through, self._arrive, message)

    def _draw(self, message: Message, start: float, latency: float) -> float:
        """Latency with jitter, in order; below 0 if the message is lost. It begins to leave at `start`."""
        sender, to, number = message.sender, message.to, message.number
        a, b = self.links[sender], self.links[to]
        loss = max(a.loss, b.loss)
        if loss and hash01(self._key, number, LOSS) < loss:
            # it is lost on its way, not as it is sent: until then it is in flight
            self._loop.post(message.left + latency, self._lose, message, "loss")
            return -1.0
        jitter = (a.jitter + b.jitter) / 2
        if jitter:
            latency += jitter * hash01(self._key, number, JITTER)
        reordering = max(a.reordering, b.reordering)
        if reordering and hash01(self._key, number, HELD) < reordering:
            latency += 10.0 * (latency + jitter) * hash01(self._key, number, HELD_FOR)
        elif jitter and not reordering:
            # no byte may come before the last one of the message ahead, else a narrow downlink swaps the two
            earliest = self._last_arrival[sender].get(to, 0.0)
            if start + latency < earliest:
                latency = earliest - start
                while start + latency < earliest:  # rounded down
                    latency = math.nextafter(latency, INFINITE)
            self._last_arrival[sender][to] = message.left + latency
        duplication = max(a.duplication, b.duplication)
        if duplication and hash01(self._key, number, DUPLICATE) < duplication:
            self._ledger.account(message.channel).duplicated += message.parcel.size
            if self._world.trace is not None:
                self._note("duplicate", message)
            self._fly(message, message.left + 2.0 * latency, message.left + 2.0 * latency)
        return latency

    def _arrive(self, message: Message) -> None:
        world = self._world
        why = world.members.undeliverable(message)
        if why is not None:
            self._lose(message, why)
            return
        parcel = message.parcel
        parcel.check_unchanged(message.sender, message.channel)
        self._ledger.account(message.channel).delivered += parcel.size
        if world.trace is not None:
            self._note("deliver", message)
        receiver = world._peers[message.to]
        assert receiver is not None
        if not parcel.finite:
            world.log("dropped: NaN or infinity", message.to, sender=message.sender, channel=message.channel)
            receiver._refuse(message)
            return
        world.heard(message)
        try:
            receiver._deliver(message)
        except Exception as error:  # of a handler
            world._fail(receiver, error)

    def _lose(self, message: Message, why: str) -> None:
        self._ledger.account(message.channel).lost += message.parcel.size
        if self._world.trace is not None:
            self._note("lose", message, why=why)

    def _note(self, event: str, message: Message, **more: str) -> None:
        assert self._world.trace is not None
        self._world.trace.append(
            {
                "time": self._loop._now,
                "event": event,
                "message": message.number,
                "from": message.sender,
                "to": message.to,
                "channel": message.channel,
                "round": message.tag,
                "size": message.parcel.size,
                "earliest": message.left + self.delay(message.sender, message.to),
                **more,
            }
        )

    def delay(self, sender: int, to: int) -> float:
        """One-way latency in seconds, without jitter."""
        return self._half[sender] + self._half[to] if self._matrix is None else self._matrix[sender][to]

    def detection(self, a: int, b: int) -> float:
        """Seconds until one of two peers notices that the other is gone."""
        return max(self.links[a].detection, self.links[b].detection)

    def crashed(self, peer: int) -> None:
        """What waits in the uplink of a peer that crashes never leaves. (Who says goodbye sends it all.)"""
        self._up_free[peer] = self._loop._now
        self._last_arrival[peer].clear()

    def started(self, peer: int) -> None:
        """What was on its way to an earlier life does not keep a new one's downlink busy."""
        self._down_free[peer] = self._loop._now

    def _through_adversary(
        self, sender: int, to: int, channel: str, kind: Kind, tag: int, number: int, parcel: Parcel
    ) -> Parcel:
        adversary = self._adversary
        assert adversary is not None
        round = 0
        if kind is Kind.EXCHANGE:  # one draw for all neighbours; what else is sent is one message each
            round, number = tag, 0
        if sender not in self._byzantine:
            adversary.observe(channel, round, parcel.payload)
            return parcel
        return Parcel(adversary.corrupt(self._world.seed, sender, to, channel, round, number, parcel.payload))
