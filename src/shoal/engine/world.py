"""What a peer needs of the world it runs in, simulated or real."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from shoal.engine.compute import Job
from shoal.engine.message import Kind, Parcel

if TYPE_CHECKING:
    from shoal.engine.peer import Peer


@dataclass(frozen=True)
class Offers:
    """What a world has, to be compared with what a protocol needs (`shoal.protocols.needs`).

    Attributes:
        asynchrony: peers go on at their own pace.
        reliable_links: no message is lost on its way between two peers that are there.
        server: one peer has the server role.
        requests: peers can send messages beside exchanges, ask and answer.
    """

    asynchrony: bool = True
    reliable_links: bool = True
    server: bool = True
    requests: bool = True


class World(ABC):
    """The services behind `Peer`.

    Attributes:
        offers: what it has, and another world may lack.
        size: number of peers, present or not.
        seed: seed of all draws.
        rounds: default number of rounds of a protocol.
        server: id of the peer with the server role, or None.
        wall_clock: time passes while something is computed; what a device would take is of no interest.
        in_step: `exchange` is one act of all peers, see `World.exchange`.
        forgiving: a request that its handler cannot take is refused and logged, whatever the handler raised; else
            the run fails, since a fault of the protocol is more likely than bad input.
    """

    wall_clock: bool = False
    in_step: bool = False
    forgiving: bool = False
    offers: Offers
    size: int
    seed: int
    rounds: int
    server: int | None = None

    @abstractmethod
    def now(self) -> float:
        """Seconds since the world began."""

    @abstractmethod
    def neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """To whom `peer` sends in a round."""

    @abstractmethod
    def in_neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """From whom `peer` hears in a round."""

    @abstractmethod
    def patience(self, peer: int) -> float | None:
        """Seconds that `exchange` waits by default; None where nothing gets lost silently."""

    @abstractmethod
    def transmit(self, sender: int, to: int, channel: str, kind: Kind, tag: int, parcel: Parcel) -> int:
        """Send a parcel; returns the message's number."""

    async def exchange(self, peer: int, parcel: Parcel, round: int, channel: str) -> dict[int, Any]:
        """Where `in_step`: send to all neighbours, and collect what they send, at once; see `Peer.exchange`.

        Raises:
            NotImplementedError: the world is not in step, and exchanges message by message.
        """
        raise NotImplementedError

    async def average(self, peer: int, vector: Tensor, round: int, channel: str) -> Tensor | None:
        """Where a world adds up what all peers send while it is on its way: the mean, the same bits at each of them.

        None: the peers send to one another what they average, as by default.
        """
        return None

    @abstractmethod
    def is_lost(self, peer: int, other: int) -> bool:
        """Whether `peer` knows by now that `other` is gone."""

    @abstractmethod
    def watch(self, peer: int, other: int) -> None:
        """`peer` begins to wait for `other`: it must be told if that is in vain."""

    @abstractmethod
    async def commit(self, peer: Peer) -> None:
        """Make the peer's state durable, atomically."""

    @abstractmethod
    async def perform(self, peer: Peer, job: Job, seconds: float) -> Any:
        """Compute a job that takes `seconds` on the peer's device; returns its result."""

    @abstractmethod
    async def compute(
        self,
        peer: Peer,
        fn: Callable[..., Any],
        tensors: tuple[Tensor, ...],
        seconds: float,
        static: dict[str, Any],
    ) -> Any:
        """See `Peer.compute`."""

    @abstractmethod
    def spawn(self, peer: Peer, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """See `Peer.spawn`."""

    def is_late(self, peer: Peer) -> bool:
        """See `Peer.is_late`."""
        return peer.lives > 1 or self.now() > 0.0

    def slowness(self, peer: int) -> float:
        """Factor on the peer's compute times, 1 as a rule."""
        return 1.0

    @abstractmethod
    def record(self, peer: Peer, name: str, value: float) -> None:
        """See `Peer.record`."""

    @abstractmethod
    def log(self, event: str, peer: int | None = None, **details: Any) -> None:
        """Add a line to the run's log."""

    def future(self) -> asyncio.Future[Any]:
        """A future of the running loop."""
        return asyncio.Future(loop=asyncio.get_running_loop())
