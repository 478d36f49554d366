"""The durable counter of a peer's rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.engine.peer import Peer


class Rounds:
    """What `Peer.rounds` gives: an asynchronous iterator over the rounds that a peer has not finished.

    Attributes:
        count: how many rounds there are.
    """

    def __init__(self, peer: Peer, count: int, catch_up: Callable[[dict[int, Any]], None] | None = None) -> None:
        if count < 0:
            raise ValueError(f"rounds: got {count}; a number >= 0 is allowed")
        self._peer = peer
        self.count = count
        self._adopt = catch_up if peer.is_late else None  # None, too, once nobody is ahead
        self._next = int(peer.state.get("round", 0))
        self._started = False

    def __aiter__(self) -> Rounds:
        return self

    async def __anext__(self) -> int:
        peer = self._peer
        if self._started:
            self._next += 1
            if self._adopt is not None:
                self._catch_up(self._adopt)
            peer.state["round"] = self._next
            await peer._world.commit(peer)
        self._started = True
        if self._next >= self.count:
            raise StopAsyncIteration
        peer._round = self._next
        return self._next

    def _catch_up(self, adopt: Callable[[dict[int, Any]], None]) -> None:
        """Go on with the round after the one of which the neighbours have spoken last."""
        over = self._next
        found = self._peer._met_in(over - 1)
        if found is None:
            return
        where, said = found
        if where < over:
            self._adopt = None
            return
        self._next = min(where + 1, self.count)
        self._peer._world.log("catches up", self._peer.id, left=over, round=self._next)
        adopt(said)

    def skip_to(self, over: int) -> None:
        """Let the round that is under way end as number `over - 1`, so that `over` rounds are over: for a peer that
        took no part in those between, and does not go through them.

        Raises:
            ValueError: that would be an earlier round than the one under way.
        """
        if over <= self._next:
            raise ValueError(f"over: got {over}; in round {self._next}, a number from {self._next + 1} on is allowed")
        self._next = over - 1
