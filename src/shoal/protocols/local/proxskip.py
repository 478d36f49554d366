"""ProxSkip for variational inequalities: local steps, a mean now and then by a common coin, and control variates.

    x_hat_i = x_i - gamma (g_i - h_i)
    heads (probability p):  x_i <- mean_j (x_hat_j - (gamma / p) h_j),   h_i <- h_i + (p / gamma) (x_i - x_hat_i)
    tails:                  x_i <- x_hat_i

S. Zhang, S. Choudhury, S. U. Stich, N. Loizou, "Communication-Efficient Gradient Descent-Accent Methods for Distributed
Variational Inequalities: Unified Analysis and Local Updates", 2023 (arXiv 2306.05100). On games
(`shoal.learning.games`) g_i estimates the operator, on other tasks the gradient. gamma = 1 / (2 l), p = sqrt(gamma mu),
for operators that are l-cocoercive and mu-strongly monotone; h_i goes to F_i(x*), and sum_i h_i stays 0 while all
clients answer.

All flips up to a mean are made from a key that everybody has, so that a round is one mean and a number of local steps
with a geometric distribution. With p = 1 and the whole operator it is distributed gradient descent(-ascent).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from shoal.aggregation import mean
from shoal.learning import Learner
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content, Payload, expect, expect_whole
from shoal.tensors.random import hash01, key

Estimate = Callable[[Learner, Tensor, float], Awaitable[Tensor]]
"""(peer, where [d], q) -> g_i there [d]."""


async def whole(me: Learner, x: Tensor, q: float) -> Tensor:
    """F_i(x), of all the peer's data."""
    return await me.gradient(at=x, size=None)


async def minibatch(me: Learner, x: Tensor, q: float) -> Tensor:
    """F_i(x) on the next batch."""
    return await me.gradient(at=x)


async def loopless_svrg(me: Learner, x: Tensor, q: float) -> Tensor:
    """F_ib(x) - F_ib(w) + F_i(w) on a batch b; then w becomes x with probability q, drawn by each peer for itself."""
    count = int(me.state.get("estimates", 0))
    if "reference" not in me.state:
        me.state["reference"], me.state["at reference"] = x, await me.gradient(at=x, size=None)
    batch = me.key("estimate", count)
    g: Tensor = await me.gradient(at=x, batch=batch) - await me.gradient(at=me.state["reference"], batch=batch)
    g = g + me.state["at reference"]
    me.state["estimates"] = count + 1
    if me.rng("reference", count).random() < q:
        me.state["reference"], me.state["at reference"] = x, await me.gradient(at=x, size=None)
    return g


ESTIMATORS: Mapping[str, Estimate] = {"whole": whole, "minibatch": minibatch, "svrg": loopless_svrg}


@dataclass(frozen=True)
class Meeting(Payload):
    """What the server sends: the mean, and the number of the round."""

    model: Tensor
    round: int


def flips(coin: int, round: int, p: float) -> int:
    """Local steps of a round: flips of the common coin up to the first heads, at least 1."""
    # The first number of a uniform variable's geometric one: P(count > n) = (1 - p)^n.
    u = hash01(key(coin, "proxskip"), round)
    return 1 if p == 1.0 else 1 + math.floor(math.log1p(-u) / math.log1p(-p))


@dataclass(frozen=True)
class ProxSkipVIP:
    """Each round: local steps by the coin, then a mean of all clients at the server.

    Attributes:
        gamma: size of a local step, above 0.
        p: probability of a mean after a step, in (0, 1].
        estimator: "whole" (descent-ascent), "minibatch" (stochastic) or "svrg" (loopless SVRG).
        q: probability with which SVRG's reference is renewed after a step.
        coin: seed of the coin that all peers share.
        project: of the mean, onto a convex set; None: there is no constraint.
    """

    gamma: float = 0.1
    p: float = 0.1
    estimator: str = "whole"
    q: float = 0.1
    coin: int = 0
    project: Callable[[Tensor], Tensor] | None = None
    needs: ClassVar[Needs] = Needs(server=True, requests=True, reliable_links=True, optimizer=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma < math.inf:
            raise ValueError(f"gamma: got {self.gamma}; a finite number above 0 is allowed")
        for name, value in (("p", self.p), ("q", self.q)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"{name}: got {value}; a number in (0, 1] is allowed")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator: got {self.estimator!r}; allowed are {', '.join(ESTIMATORS)}")

    async def __call__(self, me: Learner) -> None:
        """What the server does; a client only answers."""
        if not me.is_server:
            me.serve("steps", partial(self.wander, me), capacity=1, asker=me.server)
            return
        async for r in me.rounds():
            replies = await me.request_all(me.clients, Meeting(me.model, r), "steps")
            rows = list(me.unpack_all(replies).values())
            if rows:
                average = mean(rows)
                me.model = average if self.project is None else self.project(average)

    async def wander(self, me: Learner, sender: int, meeting: Content) -> Tensor:
        """A client's part: the control variate from the last mean, local steps, and what the next mean is over."""
        meeting = expect(meeting, Meeting)
        x, r = me.vector(meeting.model), expect_whole("round", meeting.round)
        h: Tensor = me.state.get("h", torch.zeros_like(x))
        if me.state.get("met") == r - 1:  # who missed a mean keeps its h
            h = h + self.p / self.gamma * (x - me.state["x_hat"])
        for _ in range(flips(self.coin, r, self.p)):
            x = x - self.gamma * (await ESTIMATORS[self.estimator](me, x, self.q) - h)
        me.state["h"], me.state["x_hat"], me.state["met"] = h, x, r
        await me.commit()
        return x - self.gamma / self.p * h
