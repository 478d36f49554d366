"""MASHA: extragradient with compressed messages both ways, for games.

z = w at first, and everybody knows F(w); device m keeps F_m(w). With F = mean_m F_m, tau in [0, 1):

    z_half = tau z + (1 - tau) w - gamma F(w)
    MASHA1:  g = Q(mean_m Q_m(F_m(z_half) - F_m(w))),    z <- z_half - gamma g                  Q unbiased, e.g. rand-k
    MASHA2:  c_m = C(gamma (F_m(z_half) - F_m(w)) + e_m),  e_m <- what C left out
             g = C(mean_m c_m + e),  e <- what C left out,  z <- z_half - g              C with error feedback: top-k
    with probability 1 - tau:  w <- z; devices send F_m(w), the server answers F(w), both whole

A. Beznosikov, P. Richtarik, M. Diskin, M. Ryabinin, A. Gasnikov, "Distributed Methods with Compressed Communication for
Solving Variational Inequalities, with Theoretical Guarantees", 2021 (arXiv 2110.03313); without constraints. The run's
codec encodes at the devices and, with a memory of its own, at the server; without one and with tau = 0 it is plain
extragradient. In MASHA2 gamma is within what is encoded, and so within the errors. 1 - tau about k / d makes whole
messages cost as much as encoded ones.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from shoal.aggregation import mean
from shoal.compression import ErrorFeedback, Identity
from shoal.learning import Learner
from shoal.protocols.needs import Needs
from shoal.tensors.payload import Content, MalformedPayload, Payload, expect_whole


@dataclass(frozen=True)
class Whole(Payload):
    """All that a device has to know: z, w and F(w), before round `round`."""

    z: Tensor
    w: Tensor
    operator: Tensor
    round: int


@dataclass(frozen=True)
class Answer(Payload):
    """The server's compressed answer of the round before `round`."""

    g: Content
    round: int


@dataclass(frozen=True)
class Renewed(Payload):
    """w is the z of the round before `round`, and F(w) the mean of what the devices sent."""

    operator: Tensor
    round: int


@dataclass(frozen=True)
class MASHA1:
    """Each round: one compressed exchange, and with probability 1 - tau a whole one. With unbiased codecs.

    Attributes:
        gamma: size of a step, above 0.
        tau: weight of z against w, in [0, 1).
    """

    gamma: float = 0.1
    tau: float = 0.9
    needs: ClassVar[Needs] = Needs(server=True, requests=True, reliable_links=True, optimizer=False, packs="gradient")

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma < math.inf:
            raise ValueError(f"gamma: got {self.gamma}; a finite number above 0 is allowed")
        if not 0.0 <= self.tau < 1.0:
            raise ValueError(f"tau: got {self.tau}; a number in [0, 1) is allowed")

    def check_codec(self, me: Learner) -> None:
        """Refuse a codec that the method does not converge with."""
        codec = me.packer.codec
        if codec is not None and not codec.unbiased:
            raise ValueError(f"codec: {type(codec).__name__} is not unbiased, as randk and qsgd are; or take masha2")

    def message(self, difference: Tensor) -> Tensor:
        """What is encoded, from F_m(z_half) - F_m(w)."""
        return difference

    def moved(self, half: Tensor, g: Tensor) -> Tensor:
        """The new z, from z_half and the answer as it was decoded."""
        return half - self.gamma * g

    def half(self, me: Learner) -> Tensor:
        """z_half."""
        z, w, f = me.state["z"], me.state["w"], me.state["operator"]
        half: Tensor = self.tau * z + (1.0 - self.tau) * w - self.gamma * f
        return half

    # -- the server

    async def __call__(self, me: Learner) -> None:
        """What the server does; a device only answers."""
        self.check_codec(me)
        if not me.is_server:
            me.serve("difference", partial(self.difference, me), capacity=1, asker=me.server)
            me.serve("reference", partial(self.reference, me), capacity=1, asker=me.server)
            return
        in_step: set[int] = set()
        async for r in me.rounds():
            if "w" not in me.state:
                me.state["z"] = me.state["w"] = me.model
                await self.renew(me, await me.request_all(me.clients, me.model, "reference"))
            replies = await self.ask(me, r, in_step)
            found = me.unpack_all(replies)
            in_step = set(found)
            await self.answer(me, r, list(found.values()))
            if in_step and me.rng("renew", r).random() >= self.tau:
                me.state["w"] = me.state["z"]
                await self.renew(me, await me.request_all(sorted(in_step), me.state["next"], "reference"))
                me.state["next"] = Renewed(me.state["operator"], r + 1)
            me.model = me.state["z"]

    async def ask(self, me: Learner, r: int, in_step: set[int]) -> dict[int, Content]:
        """The devices' encoded differences; those who were not there in the last round get everything whole."""
        whole = Whole(me.state["z"], me.state["w"], me.state["operator"], r)
        behind = [k for k in me.clients if k not in in_step]
        near, far = await asyncio.gather(
            me.request_all(sorted(in_step), me.state.get("next"), "difference"),
            me.request_all(behind, whole, "difference"),
        )
        both = {**near, **far}
        return {k: both[k] for k in sorted(both)}

    async def answer(self, me: Learner, r: int, differences: list[Tensor]) -> None:
        """Encode the mean and move as the devices will."""
        if not differences:
            return
        g = await me.pack(mean(differences), "answer")
        me.state["z"] = self.moved(self.half(me), me.unpack(g))
        me.state["next"] = Answer(g, r + 1)

    async def renew(self, me: Learner, replies: dict[int, Content]) -> None:
        """F(w) from the devices' whole ones; without any, what was known stays."""
        operators = me.read_all(replies, me.vector)
        if operators:
            me.state["operator"] = mean(list(operators.values()))
        elif "operator" not in me.state:
            raise ValueError("masha: no device answered at the start")

    # -- a device

    async def difference(self, me: Learner, sender: int, news: Content) -> Content:
        """Catch up with the server, and encode the difference of the operators."""
        if isinstance(news, Whole):
            z, w, operator = (me.vector(x) for x in (news.z, news.w, news.operator))
            round = expect_whole("round", news.round)
            if "w" not in me.state or not bool((me.state["w"] == w).all()) or "own" not in me.state:
                me.state["own"] = await me.gradient(at=w, size=None)
            me.state["z"], me.state["w"], me.state["operator"] = z, w, operator
        else:
            round = self.follow(me, news)
        me.state["at"] = round
        half = self.half(me)
        packed = await me.pack(self.message(await me.gradient(at=half, size=None) - me.state["own"]))
        me.state["half"] = half
        await me.commit()
        return packed

    async def reference(self, me: Learner, sender: int, news: Content) -> Tensor:
        """Move w to z, and send the whole operator there."""
        if isinstance(news, Tensor):
            me.state["z"] = me.vector(news)
        else:
            me.state["at"] = self.follow(me, news)
        me.state["w"] = me.state["z"]
        own: Tensor = await me.gradient(at=me.state["w"], size=None)
        me.state["own"] = own
        await me.commit()
        return own

    def follow(self, me: Learner, news: Content) -> int:
        """Take the step of the last round, unless it was taken before; the round that comes now."""
        if not isinstance(news, Answer | Renewed):
            raise MalformedPayload(f"payload: got {type(news).__name__}; an Answer or a Renewed is needed")
        expect_whole("round", news.round)
        last = (news.round,) if isinstance(news, Renewed) else (news.round - 1, news.round)
        if "half" not in me.state or me.state["at"] not in last:
            raise MalformedPayload(f"round {news.round}: this device was last in step in another one")
        if isinstance(news, Renewed):
            me.state["operator"] = me.vector(news.operator)
        elif me.state["at"] == news.round - 1:
            me.state["z"] = self.moved(me.state["half"], me.unpack(news.g))
        return news.round


@dataclass(frozen=True)
class MASHA2(MASHA1):
    """As `MASHA1`, with codecs that have error feedback, as `ef+topk`."""

    def check_codec(self, me: Learner) -> None:
        """Refuse a codec that the method does not converge with."""
        codec = me.packer.codec
        if codec is not None and not isinstance(codec, ErrorFeedback | Identity):
            raise ValueError(f"codec: {type(codec).__name__} has no error feedback; take ef+ before its name")

    def message(self, difference: Tensor) -> Tensor:
        """What is encoded; the codec adds the error."""
        return self.gamma * difference

    def moved(self, half: Tensor, g: Tensor) -> Tensor:
        """The new z; gamma is in the messages."""
        return half - g
