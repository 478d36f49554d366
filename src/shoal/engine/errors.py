"""What can go wrong in a world, as exceptions that say what to do."""

from __future__ import annotations


class ShoalError(Exception):
    """Base of the errors that are shown to a user as one line, without a traceback."""


class PeerLost(ShoalError):
    """The awaited peer is gone: crashed, left, or cut off for longer than the link needs to notice.

    Attributes:
        peer: id of the peer that is gone.
    """

    def __init__(self, peer: int, why: str = "it does not answer") -> None:
        super().__init__(f"peer {peer} is lost: {why}")
        self.peer = peer


class Deadlock(ShoalError):
    """No peer can ever go on: nothing is ready, scheduled or in flight, and somebody still waits."""


class Livelock(ShoalError):
    """Timers keep firing, but for long no peer has committed a round, computed, recorded or said anything new."""


class PeerFailed(ShoalError):
    """A peer's protocol raised; the original exception is the `__cause__`.

    Attributes:
        peer: id of the peer whose protocol raised.
    """

    def __init__(self, peer: int, now: float, error: BaseException) -> None:
        super().__init__(f"peer {peer} failed at {now:.6g} s: {type(error).__name__}: {error}")
        self.peer = peer


class NonFinite(ShoalError):
    """A peer's own model, gradient or data became NaN or infinite."""


class Mutated(ShoalError):
    """A tensor that was sent or committed was changed in place afterwards."""


class Refused(ShoalError, ValueError):
    """A protocol needs what this world does not have, or a setting is impossible."""
