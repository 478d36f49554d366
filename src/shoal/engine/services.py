"""What a peer does for others: handlers of requests, and the requests that wait for one."""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.engine.message import Kind, Message, Parcel
from shoal.tensors.payload import MalformedPayload

if TYPE_CHECKING:
    from shoal.engine.peer import Peer
    from shoal.engine.world import World

Handler = Callable[[int, Any], Any]


class Service(NamedTuple):
    """Who answers the requests of a channel; see `Peer.serve`."""

    handler: Handler
    capacity: int | None
    asker: int | None


class Services:
    """The services of one peer.

    Args:
        peer: whose they are.
        world: where it is.
    """

    def __init__(self, peer: Peer, world: World) -> None:
        self._peer = peer
        self._world = world
        self._open: dict[str, Service] = {}
        self._busy: Counter[str] = Counter()  # by channel: requests whose handler has not ended
        self._handling: Counter[int] = Counter()  # the same by sender
        self._queued: dict[str, deque[Message]] = {}

    def open(self, channel: str, service: Service) -> None:
        """Answer the requests of a channel, those first that have been waiting."""
        self._open[channel] = service
        for message in self._queued.pop(channel, ()):
            self.take(message)

    def take(self, message: Message) -> None:
        """Handle a request, or let it wait."""
        channel = message.channel
        service = self._open.get(channel)
        if service is None or self._full(channel, service):
            self._queued.setdefault(channel, deque()).append(message)
            return
        try:
            if service.asker is not None and message.sender != service.asker:
                raise MalformedPayload(f"{channel}: only peer {service.asker} may ask for it")
            answer = service.handler(message.sender, message.parcel.payload)
        except Exception as error:
            self._turn_down(message, error)
            return
        if inspect.isawaitable(answer):
            self._busy[channel] += 1
            self._handling[message.sender] += 1
            self._peer.spawn(self._answer_later(message, answer))
        else:
            self._reply(message, answer)

    def held(self, sender: int) -> int:
        """How many requests of a peer wait, or are being handled."""
        waiting = sum(message.sender == sender for queue in self._queued.values() for message in queue)
        return waiting + self._handling[sender]

    def _full(self, channel: str, service: Service) -> bool:
        return service.capacity is not None and self._busy[channel] >= service.capacity

    async def _answer_later(self, message: Message, answer: Awaitable[Any]) -> None:
        channel = message.channel
        try:
            self._reply(message, await answer)
        except Exception as error:
            self._turn_down(message, error)
        finally:
            self._busy[channel] -= 1
            self._handling[message.sender] -= 1
        waiting = self._queued.get(channel)  # not in the finally: a peer that dies takes up no more work
        while waiting and not self._full(channel, self._open[channel]):
            self.take(waiting.popleft())

    def _turn_down(self, message: Message, error: Exception) -> None:
        """A request made no sense to its handler: whoever sent it gets to know."""
        malformed = isinstance(error, MalformedPayload)
        if not malformed and not self._world.forgiving:
            raise error
        why = str(error) if malformed else f"{type(error).__name__}: {error}"
        self._world.log("malformed request dropped", self._peer.id, sender=message.sender, why=why)
        self._send(message, Kind.REFUSAL, Parcel(None))

    def _reply(self, message: Message, answer: Any) -> None:
        message.reply = Parcel(answer)
        self._send(message, Kind.REPLY, message.reply)

    def _send(self, message: Message, kind: Kind, parcel: Parcel) -> None:
        self._world.transmit(self._peer.id, message.sender, message.channel, kind, message.number, parcel)
