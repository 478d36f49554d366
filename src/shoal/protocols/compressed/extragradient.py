"""Distributed extragradient, for games: a step to look ahead, and one along the operator found there.

    z_half = z - gamma F(z)        z <- z - gamma F(z_half)        F = mean_m F_m

G. M. Korpelevich, "The Extragradient Method for Finding Saddle Points and Other Problems", 1976.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from shoal.aggregation import mean
from shoal.learning import Learner
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content


@dataclass(frozen=True)
class Extragradient:
    """Each round: two means of the clients' operators, each over all of a client's data.

    Attributes:
        gamma: size of a step, above 0.
    """

    gamma: float = 0.1
    needs: ClassVar[Needs] = Needs(server=True, requests=True, reliable_links=True, optimizer=False, packs="gradient")

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma < math.inf:
            raise ValueError(f"gamma: got {self.gamma}; a finite number above 0 is allowed")

    async def __call__(self, me: Learner) -> None:
        """What the server does; a client only answers."""
        if not me.is_server:
            me.serve("operator", partial(self.operator, me), capacity=1, asker=me.server)
            return
        async for _ in me.rounds():
            half = await self.moved(me, me.model, me.model)
            me.model = await self.moved(me, me.model, half)

    async def moved(self, me: Learner, z: Tensor, at: Tensor) -> Tensor:
        """z - gamma F(at); z itself if nobody answers."""
        found = me.unpack_all(await me.request_all(me.clients, at, "operator"))
        return z - self.gamma * mean(list(found.values())) if found else z

    async def operator(self, me: Learner, sender: int, at: Content) -> Content:
        """A client's operator."""
        return await me.pack(await me.gradient(at=me.vector(at), size=None))
