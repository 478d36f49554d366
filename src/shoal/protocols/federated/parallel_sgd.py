"""Parallel SGD: one model, and in each step the mean of the gradients that all peers take at it.

x <- x - lr (1/m) sum_j g_j(x), with g_j the gradient of peer j's next batch: SGD with the m batches as one large one,
the centralised baseline of decentralised SGD. Peers draw the batches that `DSGD` with one step a round draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from shoal.aggregation import mean
from shoal.learning import Learner
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content


@dataclass(frozen=True)
class ParallelSGD:
    """Each round one step, by the server and with the run's optimizer (a stackable `Rule`).

    Running statistics in the model are nobody's gradient, and stay as they were initialised.

    Attributes:
        timeout: virtual seconds to wait for the peers; None waits as long as the world warrants. The mean is over those
            who answered.
    """

    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(server=True, requests=True, packs="gradient")

    async def __call__(self, me: Learner) -> None:
        """What the server does; the others only answer."""
        if not me.is_server:
            me.serve("gradient", partial(self.gradient, me), asker=me.server)
            return
        async for _ in me.rounds():
            replies = await me.request_all(me.clients, me.model, "gradient", timeout=self.timeout)
            gradients = me.unpack_all(replies)
            if gradients:
                me.step(mean(list(gradients.values())))

    async def gradient(self, me: Learner, sender: int, model: Content) -> Content:
        """A peer's part: the gradient at the server's model on its own next batch."""
        return await me.pack(await me.gradient(at=me.vector(model)))
