"""Identical replicas: a server and its workers hold one model, and take the same steps by small messages.

In step t the server asks the workers for what they make of their next gradient, combines it, and sends the result back
with the question of step t + 1; server and workers then step by the same arithmetic, so that their replicas are equal
bit for bit. Questions and messages go over the channel "up", results over "down" (both with the few bytes of a question
or an acknowledgement the other way). A worker whose replica is not at the step that it is asked for, since it is new,
has crashed or has missed a result, is sent the whole state, over "state"; everybody is, before the first step.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from shoal.learning import Learner
from shoal.protocols.needs import check_steps
from shoal.tensors.payload import Content, MalformedPayload, Payload, expect, expect_whole


@dataclass(frozen=True)
class Result(Payload):
    """What takes all replicas from a step to the next: made of the messages of `workers` workers, if there are any."""

    step: int
    workers: int
    content: Content


@dataclass(frozen=True)
class Replica(Payload):
    """A whole replica after `step` steps: the model [d], and the other parts of the state that all share."""

    step: int
    model: Tensor
    rest: dict[str, Any]


@dataclass(frozen=True)
class Replicated(ABC):
    """Base of protocols with replicas. A round is a step.

    Workers that do not answer in time are left out of a step, and hear of it like the others. Buffers that training
    changes are nobody's gradient, and stay as they were.

    Attributes:
        timeout: virtual seconds to wait for the workers; None waits as long as the world warrants.
        shares: names in `me.state` of what replicas share beside the model.
        asks: channel of the server's question.
    """

    timeout: float | None = field(default=None, kw_only=True)
    shares: ClassVar[tuple[str, ...]] = ()
    asks: ClassVar[str] = "up"

    def __post_init__(self) -> None:
        check_steps(None, self.timeout)

    @abstractmethod
    def message(self, me: Learner, g: Tensor) -> Content:
        """What a worker sends of its gradient (of the trained part, [m]); changes its own state."""

    @abstractmethod
    def read(self, me: Learner, message: Content) -> Any:
        """A message as numbers; raises ValueError if it is malformed."""

    @abstractmethod
    def combine(self, me: Learner, messages: Mapping[int, Any]) -> Content:
        """What the server answers to the messages read, at least one, by increasing id of the worker."""

    @abstractmethod
    def step(self, me: Learner, workers: int, content: Content) -> None:
        """Move a replica by what the server answered to so many workers; raises ValueError if it is malformed."""

    async def __call__(self, me: Learner) -> None:
        """What the server does; a worker only answers."""
        if not me.is_server:
            self.serve(me)
            return
        async for _ in me.rounds():
            read = me.read_all(await self.collect(me), partial(self.read, me))
            result = Result(self.at(me), len(read), self.combine(me, read) if read else None)
            self._move(me, result)
            me.state["result"] = result
        await self._finish(me)

    def serve(self, me: Learner) -> None:
        """A worker's part."""
        me.serve("down", partial(self._hear, me), asker=me.server)
        me.serve("state", partial(self._install, me), asker=me.server)
        me.serve(self.asks, partial(self._answer, me), capacity=1, asker=me.server)

    async def collect(self, me: Learner) -> dict[int, Content]:
        """The server tells the last result and asks for messages: worker -> message, by increasing id."""
        telling = asyncio.create_task(self._tell(me))
        try:
            replies = await self._ask(me, me.clients)
        finally:
            telling.cancel()
        behind = [i for i, reply in replies.items() if reply is None]
        if behind:
            await self._bring_up(me, behind)
            replies |= await self._ask(me, behind)
        return {i: replies[i] for i in sorted(replies) if replies[i] is not None}

    def at(self, me: Learner) -> int:
        """How many steps this replica has taken; -1: it has not been given a first state."""
        return int(me.state.get("step", 0 if me.is_server else -1))

    async def _ask(self, me: Learner, workers: list[int]) -> dict[int, Content]:
        return await me.request_all(workers, self.at(me), self.asks, timeout=self.timeout)

    async def _tell(self, me: Learner) -> dict[int, Content]:
        """Send the last result; worker -> where it says that its replica is."""
        if "result" not in me.state:
            return {}
        return await me.request_all(me.clients, me.state["result"], "down", timeout=self.timeout)

    async def _bring_up(self, me: Learner, workers: list[int]) -> None:
        rest = {name: me.state[name] for name in self.shares if name in me.state}
        await me.request_all(workers, Replica(self.at(me), me.model, rest), "state", timeout=self.timeout)

    async def _finish(self, me: Learner) -> None:
        """The last result has no question after it, which would have found those who are behind."""
        heard = me.read_all(await self._tell(me), partial(expect_whole, "step", low=-1))
        behind = [i for i, step in heard.items() if step != self.at(me)]
        if behind:
            await self._bring_up(me, behind)

    async def _answer(self, me: Learner, sender: int, question: Content) -> Content:
        """A worker's message for a step, the same if it is asked again; None if its replica is not there."""
        step = expect_whole("step", question)
        if self.at(me) != step:
            return None
        if me.state.get("sent", {}).get("step") != step:
            g, _ = me.packer.split(await me.gradient())
            if self.at(me) != step:  # taken without this worker, which was too slow
                return None
            me.state["sent"] = {"step": step, "message": self.message(me, g)}
        message: Content = me.state["sent"]["message"]
        return message

    def _hear(self, me: Learner, sender: int, result: Any) -> int:
        """A worker hears a result, perhaps twice or too early; it says where its replica is."""
        result = expect(result, Result)
        expect_whole("workers", result.workers, high=me.peers)
        if expect_whole("step", result.step) == self.at(me):
            try:
                self._move(me, result)
            except ValueError as error:
                raise MalformedPayload(str(error)) from error
        return self.at(me)

    def _install(self, me: Learner, sender: int, replica: Any) -> None:
        """A worker takes over a whole replica; what is its own (momentum, errors, place in its data) stays."""
        replica = expect(replica, Replica)
        step = expect_whole("step", replica.step)
        me.model = me.vector(replica.model)
        me.state.update({name: replica.rest[name] for name in self.shares if name in replica.rest})
        me.state["step"] = step

    def _move(self, me: Learner, result: Result) -> None:
        if result.workers:
            self.step(me, result.workers, result.content)
        me.state["step"] = result.step + 1
