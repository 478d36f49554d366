"""One life of a peer on the open network: from its place there to its end, or until it is stopped."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.deployment.board import Board
from shoal.deployment.experiment import Net
from shoal.deployment.logbook import Logbook, tee
from shoal.deployment.network import Entered
from shoal.deployment.node import Node
from shoal.deployment.reporter import Reporter
from shoal.deployment.web import remove_url, serve, write_url
from shoal.learning import Shard
from shoal.net import RealWorld, Store, frame_limit
from shoal.simulation.parts import Parts

Hear = Callable[[dict[str, Any]], None]


def _nothing(*anything: object) -> None:
    pass


@dataclass(frozen=True)
class Ears:
    """Whom a life tells how it goes.

    Attributes:
        began: `began(node, url)`: it is about to begin; the page is at `url`, or nowhere.
        event: each entry of the log.
    """

    began: Callable[[Node, str | None], None] = field(default=_nothing)
    event: Hear = field(default=_nothing)


async def live(
    entered: Entered,
    parts: Parts,
    *,
    shard: Shard | None = None,
    http: tuple[str, int] | None = None,
    ears: Ears | None = None,
) -> Node:
    """Live as a peer until the protocol has ended and nobody needs this peer any more.

    If it is cancelled, it says goodbye to the others, stores what it has, marked as interrupted, and returns.

    Args:
        entered: the peer's place.
        parts: of the experiment.
        shard: its own data, instead of its part of the experiment's.
        http: host and port of the page; None: no page.
        ears: whom to tell.

    Returns:
        The node, with its run stored.

    Raises:
        PeerFailed: the protocol raised; what there is is stored, marked as failed.
        ValueError: the state on disk is damaged, or the page cannot be shown.
    """
    ears = ears or Ears()
    transport, net = entered.transport, entered.experiment.net
    logbook = Logbook(entered.folder)
    try:
        world = _world(entered, parts)
        node = Node(parts, transport.id, world, shard=shard, folder=entered.folder, logbook=logbook, on="iroh")
        world.on_log = tee(logbook.write, ears.event)
        transport.on_log = world.log
        async with AsyncExitStack() as stack:
            url = await _watched(stack, node, entered.folder, http)
            ears.began(node, url)
            await _run(node, world, net, parts.size)
        if node.status == "finished":
            entered.home.remember(finished=True)
        return node
    finally:
        await transport.stop(0.0)
        logbook.close()


def _world(entered: Entered, parts: Parts) -> RealWorld:
    s, transport = parts.settings, entered.transport
    layout = parts.trainer.layout
    transport.limit = frame_limit(layout.size)
    patience = entered.experiment.net.patience
    return RealWorld(
        transport.id,
        parts.size,
        transport,
        limit=transport.limit,
        seed=s.seed,
        rounds=s.rounds,
        server=parts.server,
        neighbours=parts.topology.neighbours,
        in_neighbours=parts.topology.in_neighbours,
        store=Store(entered.home.folder),
        patience=None if math.isinf(patience) else patience,
    )


async def _watched(stack: AsyncExitStack, node: Node, folder: Path, http: tuple[str, int] | None) -> str | None:
    """Keep a board as long as the stack is open, and show it; returns where."""
    board = Board(node.id, node.world.size, node.parts.name, node.parts.settings.rounds)
    url = None
    if http is not None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            server = await serve(board, *http)
        for warning in caught:
            node.world.log("warning", node.id, why=str(warning.message))
        stack.push_async_callback(server.close)
        url = server.url
        write_url(folder, url)
        stack.callback(remove_url, folder)
    await stack.enter_async_context(Reporter(node, board))
    return url


async def _run(node: Node, world: RealWorld, net: Net, size: int) -> None:
    company = size - 1 if net.company is None else min(net.company, size - 1)
    try:
        await world.run(node.protocol, make_peer=node.make_peer, company=company, linger=net.linger)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()  # it was heard, and what follows is not to be cancelled
        await node.finish("interrupted")
    except Exception as error:
        await node.finish("failed", error.__cause__ or error)
        raise
    else:
        await node.finish("finished")
