"""Decentralised averaging (DecAvg): average with the neighbours by amount of data, then train; relays only average.

w_i <- sum_{j in N(i) + i} s_j w_j / sum_{j in N(i) + i} s_j, then local SGD on D_i, with s_j = |D_j| for peers with
data. L. Palmieri et al., "Exploring the Impact of Disrupted Peer-to-Peer Communications on Fully Decentralized
Learning in Disaster Scenarios", 2023 (arXiv 2310.02986).

To the letter a relay, with |D_j| = 0, would weigh nothing and so carry nothing from one neighbour to the next. It has
the weight of a share of data here. The sums run over those who are there: when peers are gone, the weights of the
others make one again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from shoal.learning import Learner
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content, Payload, expect, expect_whole


@dataclass(frozen=True)
class Weighed(Payload):
    """What a peer sends: its packed model, and on how many samples it trains (0: a relay)."""

    model: Content
    samples: int


@dataclass(frozen=True)
class DecAvg:
    """Each round: the mean with the neighbours, weighted by samples; then, with data, local steps.

    Attributes:
        steps: SGD steps a round; set `epochs` to make passes over the own data instead.
        epochs: local passes, instead of steps.
        relay: how many samples a relay counts for; None: as many as those with data around have on average.
        timeout: virtual seconds to wait for neighbours; None waits as long as the world warrants.
    """

    steps: int = 5
    epochs: int | None = None
    relay: float | None = None
    timeout: float | None = None
    needs: ClassVar[Needs] = Needs(neighbours=True, data=False, packs="model")

    def __post_init__(self) -> None:
        if self.relay is not None and not self.relay > 0:
            raise ValueError(f"relay: got {self.relay}; a number above 0, or None, is allowed")

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        async for r in me.rounds(catch_up=partial(adopt, me)):
            replies = await me.exchange(Weighed(await me.pack(me.model), me.samples), r, timeout=self.timeout)
            read = me.read_all(replies, counted)
            models = me.unpack_all({j: reply.model for j, reply in read.items()})
            shares = self.shares({me.id: me.samples, **{j: read[j].samples for j in models}})
            me.model = me.mix(models, shares)
            if me.samples:
                await me.train(None if self.epochs else self.steps, epochs=self.epochs)

    def shares(self, samples: Mapping[int, int]) -> dict[int, float]:
        """Peer -> its weight in the mean, from peer -> its number of samples; the weights sum to 1."""
        held = [count for count in samples.values() if count]
        relay = self.relay or (sum(held) / len(held) if held else 1.0)
        s = {j: count or relay for j, count in samples.items()}
        total = sum(s.values())
        return {j: weight / total for j, weight in s.items()}


def adopt(me: Learner, replies: Mapping[int, Content]) -> None:
    """Take the neighbours' models, after an absence."""
    me.adopt({j: reply.model for j, reply in me.read_all(replies, counted).items()})


def counted(reply: Content) -> Weighed:
    """A neighbour's message; raises MalformedPayload if it is none."""
    weighed = expect(reply, Weighed)
    expect_whole("samples", weighed.samples)
    return weighed
