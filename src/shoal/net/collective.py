"""The world of peers that go in step: an exchange is one act of all processes of a `torch.distributed` group.

Payloads go by one gathering where everybody sends to everybody, and else to the neighbours of the round alone; a mean
over all is an all-reduce. Each process counts the bytes of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from shoal.aggregation import mean
from shoal.engine.errors import NonFinite, Refused
from shoal.engine.message import ENVELOPE, Kind, Parcel
from shoal.engine.world import Offers
from shoal.net.checkpoints import Checkpoints
from shoal.net.frames import channel_number
from shoal.net.group import Group, GroupFailed
from shoal.net.solo import everybody
from shoal.net.stepping import Act, SteppingWorld
from shoal.tensors.buffers import from_buffer, to_buffer
from shoal.tensors.payload import MalformedPayload

T = TypeVar("T")
Neighbours = Callable[[int, int], tuple[int, ...]]
Move = Callable[[str, Parcel, int, str, Tensor], Coroutine[Any, Any, T]]
OFFERS = Offers(asynchrony=False, reliable_links=True, server=False, requests=False)
TAKING_PART = (Act.EXCHANGE, Act.AVERAGE)


class CollectiveWorld(SteppingWorld):
    """The world as the peer of one process of a group sees it; a peer's id is its rank.

    Args:
        group, seed, rounds, store, together: see `SteppingWorld`.
        neighbours, in_neighbours: as of `SimulatedWorld`.
    """

    offers = OFFERS

    def __init__(
        self,
        group: Group,
        *,
        seed: int = 0,
        rounds: int = 1,
        neighbours: Neighbours | None = None,
        in_neighbours: Neighbours | None = None,
        store: Checkpoints | None = None,
        together: bool = True,
    ) -> None:
        super().__init__(group, seed=seed, rounds=rounds, store=store, together=together)
        self._neighbours = neighbours or everybody(self.size)
        self._in_neighbours = in_neighbours or self._neighbours
        self._names: dict[int, str] = {}  # of channels, by number

    # -- exchanging ------------------------------------------------------------------------------------------

    async def exchange(self, peer: int, parcel: Parcel, round: int, channel: str) -> dict[int, Any]:
        """Send to all neighbours, and collect what they send, at once; what is malformed or NaN is dropped, and logged.

        Raises:
            GroupFailed: the processes are not in the same exchange.
        """
        return await self._to_its_end(self._exchange(Act.EXCHANGE, parcel, round, channel, self._swapped))

    async def average(self, peer: int, vector: Tensor, round: int, channel: str) -> Tensor | None:
        """The mean of all peers' vectors by an all-reduce; without those that hold NaN, which is logged.

        The ledger has what a ring moves, whatever algorithm the group uses. Where peers have finished, those that are
        left exchange.

        Raises:
            GroupFailed: the processes are not in the same average, or their vectors differ in size.
        """
        return await self._to_its_end(self._exchange(Act.AVERAGE, Parcel(vector), round, channel, self._averaged))

    async def _to_its_end(self, exchange: Coroutine[Any, Any, T]) -> T:
        work = asyncio.ensure_future(exchange)
        self._tasks.add(work)  # whoever is tired of waiting goes on alone, but the act takes place
        work.add_done_callback(self._tasks.discard)
        return await asyncio.shield(work)

    async def _exchange(self, act: Act, parcel: Parcel, round: int, channel: str, move: Move[T]) -> T:
        async with self._turn:
            await self._stop_if_asked()
            what = f"{act.name.lower()} {channel!r} of round {round}"
            number = channel_number(channel) >> 1  # in 63 bits
            self._names[number] = channel
            table = await self._meet(what, act, parcel.size - ENVELOPE.size, round, number)
            await self._leave_if_told()
            self._check_in_step(table, what)
            return await move(what, parcel, round, channel, table)

    async def _swapped(self, what: str, parcel: Parcel, round: int, channel: str, table: Tensor) -> dict[int, Any]:
        got = await self.group.act(what, self._move, parcel, round, table[:, 1].tolist(), _taking_part(table))
        parcel.check_unchanged(self.id, channel)
        good = {}
        for sender, found in got.items():
            if isinstance(found, MalformedPayload):
                self.log("malformed payload dropped", self.id, sender=sender, channel=channel, why=str(found))
            elif not found.finite:
                self.log("dropped: NaN or infinity", self.id, sender=sender, channel=channel)
            else:
                good[sender] = found.payload
        return good

    async def _averaged(self, what: str, parcel: Parcel, round: int, channel: str, table: Tensor) -> Tensor:
        if not all(_taking_part(table)):
            got = await self._swapped(what, parcel, round, channel, table)
            rows = {**got, self.id: parcel.payload}
            return mean([rows[i] for i in sorted(rows)])
        if len(set(table[:, 1].tolist())) > 1:
            raise GroupFailed(f"{what}: the peers' vectors differ in size: {table[:, 1].tolist()} bytes")
        total, there = await self.group.act(what, self._reduce, parcel)
        for sender in (j for j in range(self.size) if not there[j]):
            self.log("dropped: NaN or infinity", self.id, sender=sender, channel=channel)
        if not any(there):
            raise NonFinite(f"{what}: every peer's vector holds NaN or infinity")
        return total / sum(there)

    def _reduce(self, parcel: Parcel) -> tuple[Tensor, list[bool]]:
        """The sum of the finite vectors, and whose they are."""
        vector: Tensor = parcel.payload
        present = torch.zeros(self.size, dtype=vector.dtype, device=vector.device)
        if parcel.finite:
            present[self.id] = 1
        total = torch.cat([vector if parcel.finite else torch.zeros_like(vector), present]).to(self.group.device)
        dist.all_reduce(total)
        total = total.to(vector.device)
        return total[: -self.size], [bool(flag) for flag in total[-self.size :].tolist()]

    def _check_in_step(self, table: Tensor, what: str) -> None:
        for rank, (act, _, round, channel, *_) in enumerate(table.tolist()):
            own = table[self.id].tolist()
            if act in TAKING_PART and [act, round, channel] != [own[0], *own[2:4]]:
                raise GroupFailed(
                    f"peer {self.id} has come to {what}, and peer {rank} to another one, of round {round}: "
                    "in a group all peers exchange in step, on the same channels in the same order"
                )

    def _count(self, table: Tensor) -> None:
        """Every peer's bytes, as a simulation counts them."""
        taking_part = _taking_part(table)
        ring = bool((table[:, 0] == Act.AVERAGE).all())
        for sender, (_, length, round, number, *_) in enumerate(table.tolist()):
            if not taking_part[sender]:
                continue
            account = self.ledger.account(self._names.get(number, f"{number:x}"))
            if ring:  # a part of the vector goes round twice
                size, messages = -(-length // self.size), 2 * (self.size - 1)
                there = messages
            else:
                receivers = self._neighbours(sender, round)
                size, messages = ENVELOPE.size + length, len(receivers)
                there = sum(taking_part[to] for to in receivers)
            account.messages += messages
            account.sent += size * messages
            account.delivered += size * there
            account.lost += size * (messages - there)
            self.ledger.total += size * messages
            self.ledger.by_peer[sender] += size * messages

    def _move(
        self, parcel: Parcel, round: int, lengths: Sequence[int], taking_part: Sequence[bool]
    ) -> dict[int, Parcel | MalformedPayload]:
        """Sender -> the parcel that it sent to this peer, or what is wrong with it."""
        own = self._bytes(parcel)
        n, senders = self.size, [j for j in self._in_neighbours(self.id, round) if taking_part[j]]
        if all(taking_part) and all(len(self._neighbours(j, round)) == n - 1 for j in range(n)):
            rows = self.group.gather(own, list(lengths))
            got = {j: rows[j] for j in senders}
        else:
            to = [j for j in self._neighbours(self.id, round) if taking_part[j]]
            got = self.group.swap(own, to, {j: lengths[j] for j in senders})
        return {j: _parcel(got[j]) for j in sorted(got)}

    def _bytes(self, parcel: Parcel) -> Tensor:
        return to_buffer(parcel.payload, self.group.device)

    # -- services of a World ---------------------------------------------------------------------------------

    def neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """To whom `peer` sends in a round."""
        return self._neighbours(peer, round)

    def in_neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """From whom `peer` hears in a round."""
        return self._in_neighbours(peer, round)

    def patience(self, peer: int) -> float | None:
        """None: nothing gets lost."""
        return None

    def transmit(self, sender: int, to: int, channel: str, kind: Kind, tag: int, parcel: Parcel) -> int:
        """Refuse: there are no messages but those of an exchange.

        Raises:
            Refused: always.
        """
        raise _beside(f"peer {sender} wants to send to {to} on channel {channel!r}")

    def future(self) -> asyncio.Future[Any]:
        """Refuse: nothing comes but in an exchange.

        Raises:
            Refused: always.
        """
        raise _beside(f"peer {self.id} wants to wait for a message or an answer")

    def is_lost(self, peer: int, other: int) -> bool:
        """No: if a process is lost, the group has failed."""
        return False

    def watch(self, peer: int, other: int) -> None:
        """Nobody waits for a single peer."""


def _taking_part(table: Tensor) -> list[bool]:
    return [act in TAKING_PART for act in table[:, 0].tolist()]


def _parcel(data: Tensor) -> Parcel | MalformedPayload:
    try:
        parcel = Parcel(from_buffer(data))
    except MalformedPayload as error:
        return error
    _ = parcel.finite  # looked at here, off the loop
    return parcel


def _beside(what: str) -> Refused:
    return Refused(f"{what}; in a torch.distributed group peers exchange in step, and send nothing beside that")
