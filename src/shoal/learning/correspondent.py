"""A peer whose vectors travel packed, and are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from shoal.aggregation import mean
from shoal.engine.compute import Job
from shoal.engine.peer import Peer
from shoal.engine.state import State
from shoal.engine.world import World
from shoal.learning.packing import Packed, Packer, PackInputs
from shoal.tensors.bits import name_number
from shoal.tensors.payload import Content

Weights = Mapping[int, float]
T = TypeVar("T")


class Correspondent(Peer):
    """A peer with a model that others get to know.

    Its state: `codec` and `packed` (what the codec remembers, and how often it was used, by channel).

    Attributes:
        model: a flat vector [d].
        packer: how vectors travel; shared by all peers, and never changed.
    """

    model: Tensor

    def __init__(self, id: int, world: World, state: State | None, *, packer: Packer, weights: Any = None) -> None:
        super().__init__(id, world, state)
        self.packer = packer
        self._row = weights

    # -- sending ---------------------------------------------------------------------------------------------

    async def pack(self, vector: Tensor, channel: str = "data") -> Content:
        """A vector [d] as what travels: encoded, if the run has a codec. Takes no virtual time.

        What many peers pack at one time is encoded together. A codec with a memory has one for each channel; where
        receivers get different vectors, name a channel for each.

        Args:
            vector: as the model's layout has it; what it is (model, update, gradient) is what `needs` declares.
            channel: name of the memory.

        Returns:
            For `unpack` at the receiver.
        """
        kernel = self.packer.kernel
        if kernel is None:
            return vector
        count = int(self.state.get("packed", {}).get(channel, 0))
        part, rest = self.packer.split(vector)
        memory = self.state.get("codec", {}).get(channel)
        if memory is None:
            memory = kernel.codec.start(kernel.layout, vector.device)
        inputs = PackInputs(part, memory, self.key("codec", name_number(channel), count))
        payload, memory = await self._world.perform(self, Job(kernel, inputs), 0.0)
        self.state["codec"] = {**self.state.get("codec", {}), channel: memory}
        self.state["packed"] = {**self.state.get("packed", {}), channel: count + 1}
        return payload if rest is None else Packed(payload, rest)

    def unpack(self, payload: Content) -> Tensor:
        """The vector [d] that a peer packed.

        Raises:
            MalformedPayload: it is not one.
        """
        return self.packer.unpack(payload)

    def vector(self, payload: Content) -> Tensor:
        """The vector [d] that a peer sent as it is, whatever the run's codec.

        Raises:
            MalformedPayload: it is none.
        """
        return self.packer.plain(payload)

    def unpack_all(self, payloads: Mapping[int, Content]) -> dict[int, Tensor]:
        """Peer -> vector [d], in the order of `payloads`; what is malformed is dropped, and logged."""
        good, bad = self.packer.unpack_all(payloads)
        for peer, why in bad.items():
            self.drop(peer, why)
        return good

    def read_all(self, payloads: Mapping[int, Content], read: Callable[[Content], T]) -> dict[int, T]:
        """Peer -> `read(payload)`, in the order of `payloads`; where that raises ValueError, the payload is malformed,
        dropped and logged. For protocols with a format of their own.
        """
        good = {}
        for peer, payload in payloads.items():
            try:
                good[peer] = read(payload)
            except ValueError as error:
                self.drop(peer, error)
        return good

    def drop(self, sender: int, why: object) -> None:
        """Log that what a peer sent is dropped, since it is malformed."""
        self._world.log("malformed payload dropped", self.id, sender=sender, why=str(why))

    # -- averaging -------------------------------------------------------------------------------------------

    async def average(self, vector: Tensor, round: int, *, channel: str = "exchange") -> Tensor:
        """The mean of all peers' vectors [d], of those who are there: the same bits at each of them.

        As `pack`, `exchange` with everybody, and the sum in the order of ids; in a world that adds up what travels
        unencoded (an all-reduce), in its order. For peers of whom each hears all the others.

        Args:
            vector: as the model's layout has it.
            round, channel: as of `exchange`.
        """
        if (
            self.packer.codec is None
            and (found := await self._world.average(self.id, vector, round, channel)) is not None
        ):
            return found
        packed = await self.pack(vector)
        vectors = self.unpack_all({**await self.exchange(packed, round, channel=channel), self.id: packed})
        return mean([vectors[i] for i in sorted(vectors)])

    def mix(
        self, replies: Mapping[int, Tensor], weights: Weights | None = None, *, own: Tensor | None = None
    ) -> Tensor:
        """The weighted mean of the own model and those of neighbours.

        Args:
            replies: neighbour -> vector [d], as `exchange` returns it; what is none is dropped, and logged.
            weights: peer -> weight, the own included; default: the topology's row for this peer and round. The
                weight of a missing neighbour goes to oneself.
            own: vector that stands for this peer; default: the model.
        """
        vector = self.model if own is None else own
        row = weights if weights is not None else self._mixing_row()
        others = []
        for j, reply in replies.items():
            if not isinstance(reply, Tensor) or reply.shape != vector.shape:
                self.drop(j, f"payload: got {type(reply).__name__}; a vector {list(vector.shape)} is needed")
            elif j in row:
                others.append((row[j], reply))
        result = vector * (1.0 - math.fsum(weight for weight, _ in others))
        for weight, reply in others:
            result.add_(reply, alpha=weight)
        return result

    def adopt(self, replies: Mapping[int, Content]) -> None:
        """Take the mean of packed models in place of the own one; for whoever has been away.

        Args:
            replies: neighbour -> what it sent; what is malformed is left out, and nothing changes if all is.
        """
        models = self.unpack_all(replies)
        if models:
            self.model = mean(list(models.values()))

    def _mixing_row(self) -> Weights:
        if self._row is None:
            share = 1.0 / (1 + len(self.in_neighbours))
            return dict.fromkeys(self.in_neighbours, share)
        row: Weights = self._row(self.id, self._round)
        return row
