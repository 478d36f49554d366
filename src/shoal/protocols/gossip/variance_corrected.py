"""Gossip whose averages keep every layer's variance, so that peers need not start from a common model.

x_i <- rescaled(c x_i + (1 - c) mean_j x_j) over the neighbours j, after local steps; Tian et al., "Vanishing Variance
Problem in Fully Decentralized Neural-Network Systems", 2024 (arXiv 2404.04616). There a peer averages whenever enough
models have come in; here it waits for its neighbours each round, as in `Gossip`. Optimizer state stays local.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shoal.aggregation import variance_corrected
from shoal.learning import Learner
from shoal.protocols.needs import Needs, check_steps


@dataclass(frozen=True)
class VarianceCorrected:
    """Each round: `steps` local steps, then the neighbours' mean with its layers' variances restored.

    Attributes:
        steps: SGD steps a round.
        c: weight of the own model in the average, in [0, 1]; the neighbours share the rest equally.
        target: variance that a layer is given: "follow-others", "conservative" or "follow-self".
        e: added to the variances whose quotient is taken; well below 1 / fan-in of the widest layer.
        timeout: virtual seconds to wait for neighbours; None waits as long as the world warrants.
    """

    steps: int = 5
    c: float = 0.0
    target: str = "follow-others"
    e: float = 1e-8
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(neighbours=True, packs="model")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        async for r in me.rounds(catch_up=me.adopt):
            await me.train(steps=self.steps)
            replies = await me.exchange(await me.pack(me.model), r, timeout=self.timeout)
            rows = list(me.unpack_all(replies).values())
            if rows:
                me.model = variance_corrected(
                    rows, own=me.model, layout=me.layout, c=self.c, target=self.target, e=self.e
                )
