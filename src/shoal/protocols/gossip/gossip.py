"""Synchronous gossip: train locally, then average with the neighbours (decentralised local SGD).

x_i <- sum_j W_ij (x_j + local steps of j), after Lian et al., "Can Decentralized Algorithms Outperform Centralized
Algorithms?", 2017 (arXiv 1705.09056), with several local steps between two averagings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shoal.learning import Learner
from shoal.protocols.needs import Needs, check_steps


@dataclass(frozen=True)
class Gossip:
    """Each round: `steps` local steps, then the weighted mean of the own and the neighbours' models.

    Attributes:
        steps: SGD steps a round.
        timeout: virtual seconds to wait for neighbours; None waits as long as the world warrants.
    """

    steps: int = 5
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(neighbours=True, packs="model")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        async for r in me.rounds(catch_up=me.adopt):
            await me.train(steps=self.steps)
            replies = await me.exchange(await me.pack(me.model), r, timeout=self.timeout)
            me.model = me.mix(me.unpack_all(replies))
