"""SAVIC: local SGD whose steps are scaled by a diagonal that is renewed at averages only.

    between averages:  x_m <- x_m - gamma g_m / D_hat,    D_hat = max(alpha, |D|)
    at an average:     x_m <- mean_m x_m;  then D is renewed from an estimate H at the mean, t = 0, 1, ...
    Adam, RMSProp:     D^2 <- beta_t D^2 + (1 - beta_t) H^2,   H a stochastic gradient
    OASIS:             D   <- beta_t D + (1 - beta_t) H,       H = v * (Hessian v), v of signs
    beta_t = beta;  Adam: (beta - beta^(t+1)) / (1 - beta^(t+1));  and 0 for the first renewal

S. Chezhegov et al., "Local Methods with Adaptivity via Scaling", 2024 (arXiv 2406.00846). With "global" scaling the
clients' estimates are averaged and D is common, at the price of as many numbers again both ways; with "local" scaling
each client has its own D. t counts renewals, from 0, which makes Adam's rule its bias-corrected mean of H^2. The
first renewal, before any local step, takes the estimate alone: with beta near 1 a D that starts at 0 would make steps
hundreds of times too long.

alpha is what keeps steps finite where an estimate happens to be 0; the analysis' small alpha (1e-8) makes a coordinate
whose gradient was 0 once leap by gamma g / alpha.
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
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.payload import Content, Payload, expect


def squared(d: Tensor, estimate: Tensor, beta: float) -> Tensor:
    """The root of the mean of squares."""
    return (beta * d.square() + (1.0 - beta) * estimate.square()).sqrt()


def linear(d: Tensor, estimate: Tensor, beta: float) -> Tensor:
    """The mean, sign included."""
    return beta * d + (1.0 - beta) * estimate


def constant_beta(beta: float, t: int) -> float:
    """beta, and 0 at first."""
    return beta if t else 0.0


def adam_beta(beta: float, t: int) -> float:
    """What makes the mean of squares Adam's, corrected for its start; 0 at first."""
    return (beta - beta ** (t + 1)) / (1.0 - beta ** (t + 1))


async def by_gradient(me: Learner) -> Tensor:
    """The gradient on the next batch."""
    return await me.gradient()


async def by_curvature(me: Learner) -> Tensor:
    """The Hessian's diagonal as seen along random signs, on the next batch."""
    return await me.curvature()


@dataclass(frozen=True)
class Scaling:
    """How D follows the estimates."""

    estimate: Callable[[Learner], Awaitable[Tensor]]
    renew: Callable[[Tensor, Tensor, float], Tensor]
    beta: Callable[[float, int], float]


SCALINGS: Mapping[str, Scaling] = {
    "adam": Scaling(by_gradient, squared, adam_beta),
    "rmsprop": Scaling(by_gradient, squared, constant_beta),
    "oasis": Scaling(by_curvature, linear, constant_beta),
}


@dataclass(frozen=True)
class Start(Payload):
    """The mean, and the common D if there is one."""

    model: Tensor
    diagonal: Tensor | None


@dataclass(frozen=True)
class SAVIC:
    """Each round: D is renewed, every client takes `steps` scaled local steps, and the server averages.

    Attributes:
        steps: local steps a round.
        scaling: "adam", "rmsprop" or "oasis".
        gamma: size of a step, above 0.
        beta: memory of D, in [0, 1).
        alpha: least scale, above 0.
        where: "global" (one D for all) or "local".
    """

    steps: int = 10
    scaling: str = "adam"
    gamma: float = 0.001
    beta: float = 0.999
    alpha: float = 1e-3
    where: str = "global"
    needs: ClassVar[Needs] = Needs(server=True, requests=True, optimizer=False, packs="update")

    def __post_init__(self) -> None:
        check_steps(self.steps)
        for name, value in (("gamma", self.gamma), ("alpha", self.alpha)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name}: got {value}; a finite number above 0 is allowed")
        if not 0.0 <= self.beta < 1.0:
            raise ValueError(f"beta: got {self.beta}; a number in [0, 1) is allowed")
        for name, allowed in (("scaling", tuple(SCALINGS)), ("where", ("global", "local"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; allowed are {', '.join(allowed)}")

    async def __call__(self, me: Learner) -> None:
        """What the server does; a client only answers."""
        if not me.is_server:
            me.serve("estimate", partial(self.estimate, me), capacity=1, asker=me.server)
            me.serve("train", partial(self.train, me), capacity=1, asker=me.server)
            return
        async for _ in me.rounds():
            if self.where == "global":
                estimates = me.unpack_all(await me.request_all(me.clients, me.model, "estimate"))
                if estimates:
                    self.renew(me, mean(list(estimates.values())))
            start = Start(me.model, me.state.get("diagonal") if self.where == "global" else None)
            changes = me.unpack_all(await me.request_all(me.clients, start, "train"))
            if changes:
                me.model = me.model + mean(list(changes.values()))

    def renew(self, me: Learner, estimate: Tensor) -> None:
        """D from one more estimate."""
        rule, t = SCALINGS[self.scaling], int(me.state.get("renewals", 0))
        before = me.state.get("diagonal", torch.zeros_like(estimate))
        me.state["diagonal"] = rule.renew(before, estimate, rule.beta(self.beta, t))
        me.state["renewals"] = t + 1

    async def estimate(self, me: Learner, sender: int, model: Content) -> Content:
        """A client's estimate at the mean."""
        me.model = me.vector(model)
        return await me.pack(await SCALINGS[self.scaling].estimate(me), "estimate")

    async def train(self, me: Learner, sender: int, start: Content) -> Content:
        """A client's scaled local steps."""
        start = expect(start, Start)
        given = None if start.diagonal is None else me.vector(start.diagonal)
        me.model = model = me.vector(start.model)
        if given is None:
            self.renew(me, await SCALINGS[self.scaling].estimate(me))
        diagonal: Tensor = me.state["diagonal"] if given is None else given
        scale = diagonal.abs().clamp_min(self.alpha)
        for _ in range(self.steps):
            me.model = me.model - self.gamma * (await me.gradient() / scale)
        await me.commit()
        return await me.pack(me.model - model)
