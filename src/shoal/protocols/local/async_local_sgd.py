"""Asynchronous local SGD: each worker's change moves the server's model as it arrives, and nobody waits for others.

With N workers, the change g = theta_start - theta_local of the arrival t = 0, 1, ... and delayed Nesterov (DN):

    Delta <- Delta + g
    (t + 1) mod N = 0:  m <- beta m + Delta / N;   theta <- theta - lr ((1 - c N + c) beta m + g / N);   Delta <- 0
    otherwise:          theta <- theta - lr (c beta m + g / N)
    DyLU:  H_w = floor(H v_w / max v) steps, v in steps a second, so that all take equally long

B. Liu et al., "Asynchronous Local-SGD Training for Language Modeling", 2024 (arXiv 2401.09135). "nesterov" is the naive
rule, a Nesterov step on g / N at each arrival; "sgd" has no momentum. All three divide by N, so that N arrivals of a
rule move about as far as one synchronous step of the same rate.

A worker has the data it has: the publication's central store of shards, from which the least visited one is drawn, is
not here. H_w is at least 1.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from shoal.engine import PeerLost
from shoal.learning import Learner
from shoal.protocols.local.local_sgd import check_outer
from shoal.protocols.needs import Needs, check_steps
from shoal.tensors.payload import Content, MalformedPayload, Payload, expect, expect_whole
from shoal.text import shown


@dataclass(frozen=True)
class Outer:
    """What the server steps by.

    Attributes:
        workers: N, those that there were at the start.
        lr, beta: rate and momentum.
        c: share of the momentum that each arrival gets, in [0, 1 / N].
    """

    workers: int
    lr: float
    beta: float
    c: float = 0.0


Step = Callable[[Outer, int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(settings, arrival t, g, m, Delta), all [d] -> (what theta goes down by, m, Delta)."""


def delayed_nesterov(outer: Outer, t: int, g: Tensor, m: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Momentum every N arrivals, from their mean; each arrival counts at once."""
    n, lr, beta, c = outer.workers, outer.lr, outer.beta, outer.c
    delta = delta + g
    if (t + 1) % n:
        return lr * (c * beta * m + g / n), m, delta
    m = beta * m + delta / n
    return lr * ((1.0 - c * n + c) * beta * m + g / n), m, torch.zeros_like(delta)


def nesterov(outer: Outer, t: int, g: Tensor, m: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A Nesterov step at each arrival, whatever model it started from."""
    m = outer.beta * m + g / outer.workers
    return outer.lr * (g / outer.workers + outer.beta * m), m, delta


def sgd(outer: Outer, t: int, g: Tensor, m: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """No momentum."""
    return outer.lr * g / outer.workers, m, delta


def dylu(worker: int, seconds: Mapping[int, float], steps: int) -> int:
    """H_w from measured seconds a step: `steps` for the fastest worker, at least 1 for any."""
    # The billionth keeps a step that exact arithmetic has.
    ratio = min(seconds.values()) / seconds[worker] if seconds[worker] > 0.0 else 1.0
    return max(1, math.floor(steps * ratio + 1e-9))


def equal(worker: int, seconds: Mapping[int, float], steps: int) -> int:
    """The same number for everybody."""
    return steps


OUTER: Mapping[str, Step] = {"delayed-nesterov": delayed_nesterov, "nesterov": nesterov, "sgd": sgd}
PACE: Mapping[str, Callable[[int, Mapping[int, float], int], int]] = {"dylu": dylu, "equal": equal}


@dataclass(frozen=True)
class Work(Payload):
    """What the server hands out: its model, and for how many steps."""

    model: Tensor
    steps: int


@dataclass(frozen=True)
class Pushed(Payload):
    """What a worker returns: the packed change of the model, and how long it took."""

    change: Content
    seconds: float


@dataclass(eq=False)
class _Arrival:
    """A change that came, by its worker, who waits for `go` to be set."""

    worker: int
    change: Tensor
    go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class AsyncLocalSGD:
    """Each round is one arrival; `rounds` counts arrivals. A worker that is gone is tried again now and then.

    Attributes:
        steps: local steps H of the fastest worker, of the run's optimizer, whose memory stays at its worker.
        outer_lr: rate of the server, above 0.
        outer_momentum: its momentum beta, in [0, 1).
        c: share of the momentum that each arrival gets, in [0, 1 / N] ("delayed-nesterov" only).
        outer: "delayed-nesterov", "nesterov" or "sgd".
        pace: "dylu", or "equal" for H steps at every worker.
        grace: virtual seconds after an arrival in which others are served, too, before all of them get the new model.
        timeout: virtual seconds to wait for a worker before its task is given up; None waits until it is known to be
            gone. On links that lose messages one is needed, longer than any task takes.
        retry: virtual seconds before a worker that was lost is asked again.
    """

    steps: int = 50
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    c: float = 0.0
    outer: str = "delayed-nesterov"
    pace: str = "dylu"
    grace: float = 0.0
    timeout: float | None = None
    retry: float = 60.0
    needs: ClassVar[Needs] = Needs(asynchrony=True, requests=True, server=True, packs="update")

    def __post_init__(self) -> None:
        check_steps(self.steps, self.timeout)
        check_outer(self.outer_lr, self.outer_momentum)
        for name, allowed in (("outer", OUTER), ("pace", PACE)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if not (self.grace >= 0.0 and self.retry > 0.0):
            raise ValueError(f"grace, retry: got {self.grace}, {self.retry}; seconds >= 0 and > 0 are allowed")

    async def __call__(self, me: Learner) -> None:
        """What the server does; a worker only answers."""
        if not me.is_server:
            me.serve("train", partial(self.train, me), capacity=1, asker=me.server)
            me.serve("measure", partial(self.measure, me), capacity=1, asker=me.server)
            return
        settings = Outer(len(me.clients), self.outer_lr, self.outer_momentum, self.c)
        if not 0.0 <= self.c * settings.workers <= 1.0:
            raise ValueError(f"c: got {self.c} for {settings.workers} workers; a number in [0, 1 / N] is allowed")
        arrivals: asyncio.Queue[_Arrival] = asyncio.Queue()
        workers = [me.spawn(self.keep_busy(me, worker, arrivals)) for worker in me.clients]
        served: list[_Arrival] = []
        async for t in me.rounds():
            arrival = await arrivals.get()
            self.step(me, settings, t, -arrival.change)
            served.append(arrival)
            if len(served) == 1:  # it opens the window, and the last of the window closes it
                me.spawn(self.release(me, served))
        for task in workers:
            task.cancel()

    def step(self, me: Learner, settings: Outer, t: int, g: Tensor) -> None:
        """The server's step at arrival t; running statistics in the model are averaged."""
        zero = torch.zeros_like(g)
        m, delta = me.state.get("momentum", zero), me.state.get("waiting", zero)
        down, m, delta = OUTER[self.outer](settings, t, g, m, delta)
        trained = me.layout.where(role=("trainable", "personal"))
        me.model = me.model - torch.where(trained, down, g / settings.workers)
        me.state["momentum"], me.state["waiting"] = m, delta

    async def release(self, me: Learner, served: list[_Arrival]) -> None:
        """At the end of the window, hand the new model to those who were served in it."""
        await me.sleep(self.grace)
        for arrival in served:
            arrival.go.set()
        served.clear()

    async def keep_busy(self, me: Learner, worker: int, arrivals: asyncio.Queue[_Arrival]) -> None:
        """Hand a worker one task after the other."""
        while True:
            try:
                async with asyncio.timeout(self.timeout):
                    arrival = _Arrival(worker, await self.ask(me, worker))
            except (PeerLost, TimeoutError, MalformedPayload) as error:
                if isinstance(error, MalformedPayload):
                    me.drop(worker, error)
                await me.sleep(self.retry)
                continue
            arrivals.put_nowait(arrival)
            await arrival.go.wait()

    async def ask(self, me: Learner, worker: int) -> Tensor:
        """The change [d] by one task of a worker, whose speed is measured by it."""
        name, pace = str(worker), PACE[self.pace]
        if pace is not equal and name not in me.state.get("seconds", {}):
            self.note(me, name, await me.request(worker, None, "measure"))
        seconds = {int(k): v for k, v in me.state.get("seconds", {}).items()}
        steps = pace(worker, seconds, self.steps)
        pushed = expect(await me.request(worker, Work(me.model, steps), "train"), Pushed)
        change = me.unpack(pushed.change)
        if steps:
            self.note(me, name, pushed.seconds / steps)
        return change

    def note(self, me: Learner, worker: str, seconds: Content) -> None:
        """Keep a worker's seconds a step."""
        if not isinstance(seconds, int | float) or not 0.0 <= seconds < math.inf:
            raise MalformedPayload(f"seconds: got {shown(seconds)}; a finite number >= 0 is allowed")
        me.state["seconds"] = {**me.state.get("seconds", {}), worker: float(seconds)}

    async def train(self, me: Learner, sender: int, work: Content) -> Pushed:
        """A worker's part of a round."""
        began, work = me.now(), expect(work, Work)
        steps = expect_whole("steps", work.steps, high=self.steps)
        me.model = model = me.vector(work.model)
        await me.train(steps)
        took = me.now() - began
        return Pushed(await me.pack(me.model - model), took)

    async def measure(self, me: Learner, sender: int, nothing: None) -> float:
        """Seconds that a step takes here; stream and optimizer stay as they are."""
        began = me.now()
        await me.gradient(batch=me.key("measure"))
        return me.now() - began
