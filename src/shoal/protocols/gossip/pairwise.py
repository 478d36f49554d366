"""Asynchronous pairwise gossip: everybody trains at their own pace and now and then averages with one neighbour.

After Boyd et al., "Randomized Gossip Algorithms", 2006, and AD-PSGD (Lian et al., 2018, arXiv 1710.06952): two peers
that meet both move to the mean of their models, while the step that is being computed is added to whatever the model
has become. Without loss of messages the sum of all models changes by the steps alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from shoal.engine import PeerLost
from shoal.learning import Learner
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.payload import Content, MalformedPayload


@dataclass(frozen=True)
class Pairwise:
    """Each round: `steps` steps, then a meeting with one random neighbour.

    Attributes:
        steps: SGD steps between two meetings.
        timeout: virtual seconds to wait for the partner's answer.
    """

    steps: int = 5
    timeout: float = 30.0
    needs: ClassVar[Needs] = Needs(asynchrony=True, requests=True, neighbours=True, packs="model")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        me.serve("meet", partial(self.answer, me))
        async for r in me.rounds():
            change = await me.update(steps=self.steps)
            me.model = me.model + change
            if me.neighbours:
                await self.meet(me, me.rng("partner", r).choice(me.neighbours))

    async def meet(self, me: Learner, partner: int) -> None:
        """Ask the partner to average; add the half of the difference that it sends back."""
        try:
            async with asyncio.timeout(self.timeout):
                half = me.unpack(await me.request(partner, await me.pack(me.model), "meet"))
        except (PeerLost, TimeoutError):
            return
        except MalformedPayload as error:
            me.drop(partner, error)
            return
        me.model = me.model + half

    def answer(self, me: Learner, sender: int, theirs: Content) -> Tensor | Awaitable[Content]:
        """Move half-way to the sender's model, and tell it to do the same."""
        half = (me.unpack(theirs) - me.model) / 2
        me.model = me.model + half
        return -half if me.packer.codec is None else me.pack(-half)
