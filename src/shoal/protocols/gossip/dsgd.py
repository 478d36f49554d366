"""Decentralised SGD: mix the models, and subtract gradients taken at the unmixed ones.

x_i <- sum_j W_ij x_j - lr g_i(x_i), Lian et al., 2017 (arXiv 1705.09056). Since neither half waits for the other, a
round takes as long as the slower of the two: the step is computed while the models travel.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from shoal.learning import Learner
from shoal.protocols.needs import Needs, check_steps


@dataclass(frozen=True)
class DSGD:
    """Each round: the mean with the neighbours, plus the change by `steps` steps from the unmixed model.

    Attributes:
        steps: SGD steps a round; 1 is the published method.
        timeout: virtual seconds to wait for neighbours; None waits as long as the world warrants.
    """

    steps: int = 1
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(neighbours=True, packs="model")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        async for r in me.rounds(catch_up=me.adopt):
            packed = await me.pack(me.model)
            replies, change = await asyncio.gather(
                me.exchange(packed, r, timeout=self.timeout), me.update(steps=self.steps)
            )
            me.model = me.mix(me.unpack_all(replies)).add_(change)
