"""What a real world needs of a network: frames to others, frames from others, and who is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ears:
    """Whom a transport tells what happens. All are called on the event loop.

    Attributes:
        frame: `await frame(sender, data)`: a frame has come, whole, and in the order in which that sender sent it.
            Awaited before the sender's next frame is read, so that whoever sends too fast is slowed down.
        up: `up(peer)`: a connection is there, new or again. Frames of an earlier one come no more.
        down: `down(peer, why)`: it is gone. What was sent and had not arrived is lost.
    """

    frame: Callable[[int, bytes | bytearray | memoryview], Awaitable[None]]
    up: Callable[[int], None]
    down: Callable[[int, str], None]


class Transport(ABC):
    """Connections of one peer with the others, each known by its id and authenticated.

    Attributes:
        name: of the kind, for logs.
    """

    name: str

    @abstractmethod
    async def start(self, ears: Ears) -> None:
        """Begin to listen and to connect; connections that are lost are made again by itself."""

    @abstractmethod
    def send(self, to: int, head: bytes, body: bytes) -> bool:
        """Put a frame, in two parts that belong behind each other, in the queue to a peer.

        Returns at once. Frames to one peer arrive in order, or not at all if the connection breaks.

        Returns:
            False if it is lost at once: nobody is connected there, or more waits in the queue than is allowed.
        """

    @abstractmethod
    async def stop(self, patience: float) -> None:
        """Send what waits, for at most `patience` seconds, say goodbye, and close all connections."""
