"""Keeps a node's board: tells the others how this peer is, hears how they are, and notes what happens."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from shoal import __version__
from shoal.deployment.board import Board
from shoal.deployment.status import SCORES, WAITS, clean

if TYPE_CHECKING:
    from shoal.deployment.node import Node


class Reporter:
    """While it is entered (`async with`), a board shows how a node and those connected with it are.

    Args:
        node: whose world has `members`, `ledger`, `received`, `refused`, `tell_all` and hooks, as `RealWorld`.
        board: where it is put.
        every: seconds between two statuses.
    """

    def __init__(self, node: Node, board: Board, every: float = 1.0) -> None:
        self._node, self._board, self._every = node, board, every
        self._world = node.world
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reporter:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Take the world's hooks, hand on what was hooked there before, and begin to report."""
        self._before = self._world.on_control, self._world.on_log
        self._world.on_control, self._world.on_log = self._heard, self._logged
        self._task = asyncio.get_running_loop().create_task(self._report())

    async def stop(self) -> None:
        """Put the last status on the board, tell it whoever is still connected, and let go of the hooks."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        self._world.on_control, self._world.on_log = self._before
        self.tell()

    async def _report(self) -> None:
        while True:
            try:
                self.tell()
            except Exception as error:  # whoever only watches stops nothing
                self._board.log({"event": "report failed", "peer": self._node.id, "why": repr(error)})
            await asyncio.sleep(self._every)

    def tell(self) -> None:
        """Report now."""
        members = self._world.members
        self._board.here(members.here)
        self._board.ended(members.ended)
        status = self._board.mine(**self._fields())
        self._world.tell_all("status", status.content())

    def _fields(self) -> dict[str, Any]:
        node, world, peer = self._node, self._world, self._node.peer
        done = node.status == "running" and world.members.done
        scores = {name: float(value) for name, value in node.latest.items() if math.isfinite(value)}
        return {
            "state": "finished" if done else node.status,
            "round": 0 if peer is None else int(peer.state.get("round", 0)),
            "scores": dict(list(scores.items())[:SCORES]),
            "scored": self._scored(),
            "sent": world.ledger.total,
            "received": sum(world.received.values()),
            "refused": sum(world.refused.values()),
            "waits": [] if peer is None else [clean(what) for what in peer.waiting_for[:WAITS]],
            "lives": 1 if peer is None else peer.lives,
            "here": len(world.members.here),
            "version": __version__,
        }

    def _scored(self) -> int:
        """The round of the latest scores: of the last row among the metrics that holds one of them."""
        rows = reversed(self._world.metrics)
        return next((row[1] for row in rows if row[3] == self._node.id and row[4] in self._node.latest), 0)

    def _heard(self, sender: int, content: dict[str, Any]) -> None:
        before = self._before[0]
        if content.get("what") == "status":
            self._board.heard(sender, content)
        elif before is not None:
            before(sender, content)

    def _logged(self, entry: dict[str, Any]) -> None:
        self._board.log(entry)
        if self._before[1] is not None:
            self._before[1](entry)
