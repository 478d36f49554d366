"""How the processes of a `torch.distributed` group go through a protocol together.

Every act begins with a table to which each process adds a row: what it is about to do, how many bytes it brings, for
which round and channel, and the last round that it has committed. So all know the same before anything long moves:
who takes part, and that somebody has finished, failed, or was asked to stop, upon which all leave the protocol at
once. With the table, rank 0 gets what the others have measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from shoal.engine.errors import ShoalError
from shoal.engine.ledger import Ledger
from shoal.engine.peer import Peer
from shoal.engine.state import State
from shoal.engine.world import World
from shoal.net.checkpoints import Checkpoints
from shoal.net.group import Group, GroupFailed
from shoal.net.solo import SoloWorld
from shoal.tensors.buffers import placed
from shoal.tensors.payload import Content

Metric = tuple[float, int, int, int, str, float]
EVENTS = 1000  # of the log, kept in memory
ROWS = 200  # of this peer's metrics, kept with its state: rank 0 may not have stored them


class Act(enum.IntEnum):
    """What a process is about to do."""

    EXCHANGE = 0
    DONE = 1  # its protocol has ended, and it waits for the others
    STOP = 2  # it was asked to stop
    FAILED = 3  # its protocol raised
    AVERAGE = 4  # an exchange of which all want the mean


class SteppingWorld(SoloWorld):
    """What a world in step does about its peer's life; what it exchanges is up to who derives from it.

    Args:
        group: the processes.
        seed, rounds: see `World`.
        store: where the peer's states are durable; None keeps nothing.
        together: whether peers exchange, so that they can go on together only after a round that all have finished.

    Attributes:
        ledger: bytes sent by all peers, by channel, as a simulation counts them.
        metrics: rows (time, round, bytes, peer, name, value): of this peer; at rank 0, of all, as far as told.
        events: the log, likewise.
        on_commit: called as `on_commit(peer)` when the peer has committed its state.
        on_log: called with each entry of this peer's log.
        earlier: seconds that went by in earlier lives.
    """

    in_step = True

    def __init__(
        self,
        group: Group,
        *,
        seed: int = 0,
        rounds: int = 1,
        store: Checkpoints | None = None,
        together: bool = True,
    ) -> None:
        self.group, self.id, self.size = group, group.rank, group.size
        self.seed, self.rounds, self.server = seed, rounds, None
        self.ledger = Ledger([0] * self.size)
        self.metrics: list[Metric] = []
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self.on_commit: Callable[[Any], None] | None = None
        self.on_log: Callable[[dict[str, Any]], None] | None = None
        self.earlier = 0.0
        self._store = store
        self._began = time.monotonic()
        self._tasks = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shoal-compute")
        self._together = together
        self._turn, self._committing = asyncio.Lock(), asyncio.Lock()
        self._committed = self._all_committed = 0
        self._told = 0  # rows of `metrics` and entries of the log that rank 0 has
        self._untold: list[dict[str, Any]] = []
        self._failure = ""
        self._stopping = False
        self._common: Act | None = None  # why all leave the protocol

    # -- running ---------------------------------------------------------------------------------------------

    async def run(
        self,
        protocol: Callable[[Any], Coroutine[Any, Any, Any]],
        *,
        make_peer: Callable[[int, World, State | None], Peer] = Peer,
        resume: int | None = None,
    ) -> bool:
        """Run `protocol(peer)` here, as all processes do, until all have ended.

        Args:
            protocol: coroutine function of a peer.
            make_peer: builds the peer from (id, world, restored state or None).
            resume: round of a checkpoint in the store to go on after; None begins anew.

        Returns:
            Whether the protocols came to their ends: False if one of the processes was asked to stop.

        Raises:
            PeerLost: a process is gone.
            PeerFailed: the protocol raised here.
            GroupFailed: it raised elsewhere.
        """
        state = None
        if self._store is not None and resume is not None:
            restored, kept = self._store.go_back(resume)
            state = State(placed(dict(restored), self.group.device))
            self._restore(kept, resume)
        elif self._store is not None:
            self._store.begin_anew()
        self.peer = make_peer(self.id, self, state)
        self.peer.lives = 1 if self._store is None else self._store.begin_life()
        self._failed = asyncio.get_running_loop().create_future()
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._began = time.monotonic()
        if resume is not None and self.id == 0:
            self.log("goes on", after=resume)
        try:
            await self._live(protocol)
        finally:
            await self._end()
        return self._common is None

    async def _live(self, protocol: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
        main = self._launch(self.peer, protocol(self.peer))
        work = asyncio.ensure_future(self._until_failure(asyncio.shield(main)))
        both: set[asyncio.Future[Any]] = {work, self._left}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._left.done():
            work.cancel()
            self._left.result()
        elif (error := work.exception()) is None:
            await self._wait_for_the_others()
        else:
            await self._tell_failure(error)

    async def _wait_for_the_others(self) -> None:
        async with self._turn:
            while self._common is None:
                table = await self._meet("waiting for the others", Act.STOP if self._stopping else Act.DONE)
                if bool((table[:, 0] == Act.DONE).all()):
                    return
        self._left.result()

    async def _tell_failure(self, error: BaseException) -> None:
        """Raise an error of the protocol, once the others know of it; that of the group as it was."""
        cause = error.__cause__ or error
        if self.group.broken:
            raise cause if isinstance(cause, ShoalError) else error
        self._failure = f"{type(cause).__name__}: {cause}"
        with contextlib.suppress(ShoalError):  # the first error is the one to be seen
            async with self._turn:
                await self._meet("telling a failure", Act.FAILED)
            self._left.exception()
        raise error

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Let all processes leave the protocol, at the next exchange or commit."""
        self._stopping = True

    def close(self) -> None:
        """End the thread that computes."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- steps -----------------------------------------------------------------------------------------------

    async def _meet(self, what: str, act: Act, length: int = 0, round: int = 0, channel: int = 0) -> Tensor:
        """The table of all processes' rows, after rank 0 got what the others have measured since the last one."""
        news = self._news()
        row = [act, length, round, channel, self._committed, len(news)]
        table, told = await self.group.act(what, self._table, row, news)
        for content in told.values():
            self._hear(content)
        self._all_committed = int(table[:, 4].min())
        failed = (table[:, 0] == Act.FAILED).nonzero()[:, 0].tolist()
        if failed:
            self._common = Act.FAILED
            why = told.get(failed[0], {}).get("failure") or "see what it wrote itself"
            self._left.set_exception(GroupFailed(f"peer {failed[0]} failed: {why}"))
        elif bool((table[:, 0] == Act.STOP).any()):
            self._common = Act.STOP
            self._left.set_result(None)
        else:
            self._count(table)
        return table

    def _table(self, row: list[int], news: bytes) -> tuple[Tensor, dict[int, dict[str, Any]]]:
        table = self.group.table(row)
        lengths = {rank: size for rank, size in enumerate(table[:, 5].tolist()) if size}
        if self.id != 0:
            if news:
                self.group.swap(self.group.buffer(news), [0], {})
            return table, {}
        got = self.group.swap(None, [], lengths)
        return table, {rank: json.loads(data.cpu().numpy().tobytes()) for rank, data in got.items()}

    async def _stop_if_asked(self) -> None:
        """Go no further if somebody wants this process to stop; the others get to know."""
        if self._stopping and self._common is None:
            await self._meet("stopping", Act.STOP)
        await self._leave_if_told()

    async def _leave_if_told(self) -> None:
        if self._common is not None:
            await asyncio.get_running_loop().create_future()  # until `run` cancels the protocol

    @abstractmethod
    def _count(self, table: Tensor) -> None:
        """Count what all peers are going to send."""

    # -- what rank 0 is told -----------------------------------------------------------------------------------

    def _news(self) -> bytes:
        if self.id == 0:
            return b""
        rows, events = self.metrics[self._told :], self._untold
        self._told, self._untold = len(self.metrics), []
        content = {"rows": rows, "events": events, "failure": self._failure}
        return json.dumps(content).encode() if any(content.values()) else b""

    def _hear(self, content: dict[str, Any]) -> None:
        self.metrics.extend((*row[:4], row[4], row[5]) for row in content["rows"])
        self.events.extend(content["events"])

    async def conclude(self, content: dict[str, Content]) -> list[dict[str, Any]]:
        """At rank 0 what every process brings when all have left the protocol, by rank; elsewhere nothing."""
        async with self._turn:
            news = self._news()
            found = await self.group.collect("concluding", {**content, "news": news})
        for told in found:
            if told["news"]:
                self._hear(json.loads(told["news"]))
        return found

    async def forget(self) -> None:
        """The run is stored: once all have come here, this peer's states are dropped."""
        async with self._turn:
            await self.group.act("ending", self.group.table, [0])
        if self._store is not None:
            self._store.remove()

    # -- services of a World ---------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the peer's protocol began, in its first life if `earlier` says how long that is ago."""
        return self.earlier + time.monotonic() - self._began

    def is_late(self, peer: Peer) -> bool:
        """All begin together, and go on together."""
        return False

    async def commit(self, peer: Peer) -> None:
        """Write the peer's state to its store, off the loop; durable when this returns."""
        snapshot, round = peer.state.snapshot(), int(peer.state.get("round", 0))
        if self._store is not None:
            rows = [row for row in self.metrics[-ROWS * self.size :] if row[3] == self.id][-ROWS:]
            kept = {"ledger": self.ledger.as_dict(), "seconds": self.now(), "rows": rows}
            least = self._all_committed if self._together else round
            async with self._committing:
                await asyncio.to_thread(lambda store: store.keep(round, snapshot.encode(), kept, least), self._store)
        self._committed = round
        if self.on_commit is not None:
            self.on_commit(peer)
        if self._stopping:
            async with self._turn:
                await self._stop_if_asked()

    def _restore(self, kept: dict[str, Any], round: int) -> None:
        self.earlier, ledger = float(kept["seconds"]), kept["ledger"]
        self.ledger = Ledger(list(ledger["by_peer"]), {}, int(ledger["total"]))
        for name, counts in ledger["channels"].items():
            account = self.ledger.account(name)
            for what in ("messages", "sent", "delivered", "lost"):
                setattr(account, what, int(counts[what]))
        self.metrics.extend(tuple(row) for row in kept["rows"] if row[1] < round)
        self._committed = self._all_committed = round

    def record(self, peer: Peer, name: str, value: float) -> None:
        """Add a row to `metrics`."""
        self.metrics.append((self.now(), peer.round, self.ledger.total, peer.id, name, value))

    def log(self, event: str, peer: int | None = None, **details: Any) -> None:
        """Add an entry to the log."""
        entry = {"time": self.now(), "event": event, "peer": self.id if peer is None else peer, **details}
        self.events.append(entry)
        if self.id != 0:
            self._untold.append(entry)
        if self.on_log is not None:
            self.on_log(entry)
