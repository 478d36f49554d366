"""What a Ray actor does: it hosts a block of an experiment's peers, each in a real world of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shoal import __version__
from shoal.deployment.node import Node, real_parts
from shoal.engine import ShoalError
from shoal.net import RealWorld, Store, frame_limit
from shoal.net.ray import Batch, Hub, RayLine
from shoal.simulation.settings import Settings
from shoal.tensors.payload import encode

REPORT_EVERY = 0.5  # seconds
FRAMES_WAITING = 8  # largest frames that may wait from one peer to another


@dataclass(frozen=True)
class Plan:
    """What hosts are told, plain data.

    Attributes:
        settings: of the experiment, as `Settings.model_dump` gives them.
        name: of the run.
        blocks: the peers of every host.
        wanted: peers whose final models are stored.
        threads: that torch may use in each peer's computing.
        store: folder, the same on all hosts, where the peers' states are durable; None keeps nothing.
        linger: seconds after which a peer that is gone is not waited for at the end.
    """

    settings: dict[str, Any]
    name: str
    blocks: list[list[int]]
    wanted: list[int]
    threads: int
    store: str | None
    linger: float


class Host:
    """A block of peers. Its methods run on the event loop of a Ray actor.

    Args:
        number: of this host.
        plan: the same for all.
    """

    def __init__(self, number: int, plan: Plan) -> None:
        torch.set_num_threads(plan.threads)
        self.number, self.plan = number, plan
        self.born = time.time_ns()
        self.parts, _ = real_parts(Settings.of(**plan.settings), plan.name)
        limit = frame_limit(self.parts.trainer.layout.size, self.parts.trainer.layout.dtype.itemsize)
        self._hub = Hub(number, plan.blocks, FRAMES_WAITING * limit)
        self._lives = {id: _Life(self, id, limit) for id in plan.blocks[number]}
        self._tasks: list[asyncio.Task[None]] = []

    async def ready(self) -> dict[str, Any]:
        """What this host is: its version of Shoal, its machine and process, and where it computes."""
        return {
            "shoal": __version__,
            "machine": socket.gethostname(),
            "process": os.getpid(),
            "device": str(self.parts.device),
            "peers": self.plan.blocks[self.number],
        }

    # -- other hosts call these ------------------------------------------------------------------------------

    async def hello(self, host: int, connection: int) -> bool:
        """See `Hub.hello`."""
        return await self._hub.hello(host, connection)

    async def deliver(self, batch: Batch) -> bool:
        """See `Hub.deliver`."""
        return await self._hub.deliver(batch)

    async def dropped(self, host: int, connection: int) -> None:
        """See `Hub.dropped`."""
        await self._hub.dropped(host, connection)

    async def live(self) -> None:
        """See `Hub.live`."""
        await self._hub.live()

    # -- the driver calls these ------------------------------------------------------------------------------

    async def run(self, hosts: Sequence[Any], company: int) -> list[dict[str, Any]]:
        """Let the block's peers live; called again, it waits for those that live already.

        Args:
            hosts: the actors, in order of their numbers.
            company: as of `RealWorld.run`.

        Returns:
            The outcome of each peer.
        """
        if not self._tasks:
            self._hub.meet({host: RayLine(actor) for host, actor in enumerate(hosts) if host != self.number})
            self._tasks = [asyncio.ensure_future(life.live(company)) for life in self._lives.values()]
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return [life.outcome() for life in self._lives.values()]

    async def stop(self) -> None:
        """End the peers' lives; `run` returns then."""
        for task in self._tasks:
            task.cancel()

    async def report(self, life: int | None, seen: dict[int, tuple[int, int]]) -> list[dict[str, Any]]:
        """What is new since the last report; comes after a while.

        Args:
            life: of the host, as it was when it last reported.
            seen: peer -> rows and log entries that are known of that life.
        """
        await asyncio.sleep(REPORT_EVERY)
        known = seen if life == self.born else {}
        return [one.news(*known.get(id, (0, 0))) for id, one in self._lives.items()]


class _Life:
    """One peer of a host."""

    def __init__(self, host: Host, id: int, limit: int) -> None:
        parts, plan = host.parts, host.plan
        self._host, self.id = host, id
        self._log: list[dict[str, Any]] = []
        self._error: dict[str, Any] | None = None
        self.world = RealWorld(
            id,
            parts.size,
            host._hub.transport(id),
            limit=limit,
            seed=parts.settings.seed,
            rounds=parts.settings.rounds,
            server=parts.server,
            neighbours=parts.topology.neighbours,
            in_neighbours=parts.topology.in_neighbours,
            store=None if plan.store is None else Store(Path(plan.store) / f"peer-{id}"),
        )
        self.world.on_log = self._log.append
        self.node = Node(parts, id, self.world, on="ray")

    async def live(self, company: int) -> None:
        node, error = self.node, None
        try:
            await self.world.run(
                node.protocol, make_peer=node.make_peer, company=company, linger=self._host.plan.linger
            )
            status = "finished"
        except asyncio.CancelledError:
            status = "interrupted"
        except Exception as problem:
            status, error = "failed", problem
        if error is not None:
            cause = error.__cause__ or error
            self._error = {
                "text": str(error),
                "mendable": isinstance(cause, ValueError | ShoalError),
                "traceback": "".join(traceback.format_exception(error)),
            }
        await node.finish(status, error)

    def news(self, rows: int, entries: int) -> dict[str, Any]:
        """What the driver does not know yet, and the figures of this moment."""
        node, world = self.node, self.world
        now = world.now()
        return {
            "peer": self.id,
            "life": self._host.born,
            "began": time.time() - now,
            "now": now,
            "status": node.status,
            "round": 0 if node.peer is None else int(node.peer.state.get("round", 0)),
            "latest": node.latest,
            "known": (rows, entries),
            "rows": world.metrics[rows:],
            "log": self._log[entries:],
            "sent": world.ledger.total,
            "channels": {name: account.as_dict() for name, account in world.ledger.channels.items()},
            "received": dict(world.received),
            "error": self._error,
        }

    def outcome(self) -> dict[str, Any]:
        """The end of the peer's life, with its final model if that is wanted."""
        node, found = self.node, self.news(0, 0)
        found["scores"] = {name: values["mean"] for name, values in node.result.info.get("summary", {}).items()}
        wanted = self.id in self._host.plan.wanted and node.peer is not None
        found["model"] = encode(node.peer.state["model"]) if wanted and node.peer is not None else None
        return found
