"""One of several real processes: `python -m tests.net.group_process FOLDER`; writes what it saw.

What is run here is run by the tests in a simulated world, too, and compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import torch

from shoal import topology
from shoal.engine import Peer
from shoal.net.collective import CollectiveWorld
from shoal.net.group import Group
from shoal.tensors.payload import encode
from shoal.topology import Topology

SIZE, ROUNDS = 4, 5
TOPOLOGIES: dict[str, Topology] = {
    "complete": topology.complete(SIZE),
    "ring": topology.ring(SIZE),
    "directed": topology.exponential(SIZE),
    "changing": topology.one_peer_exponential(SIZE),
    "star": topology.star(SIZE),
    "matching": topology.random_matching(SIZE, seed=3),
}
Protocol = Callable[[Any], Coroutine[Any, Any, Any]]


async def averaging(me: Peer) -> None:
    """Gossip of a vector, in payloads of several kinds, whose sizes differ from peer to peer and round to round."""
    x = torch.arange(3.0) + me.id
    async for r in me.rounds():
        told = {"x": x, "words": "so" * me.id, "numbers": [r, None, 0.5], "empty": torch.zeros(0, me.id * r)}
        got = await me.exchange(told, r)
        for other, content in got.items():
            assert content["words"] == "so" * other
            assert content["empty"].shape == (0, other * r)
        x = (x + sum(content["x"] for content in got.values())) / (1 + len(got))
        me.state["x"] = x


async def two_channels(me: Peer) -> None:
    """Two exchanges in a round, of which one is not waited for by everybody."""
    heard = []
    for r in range(3):
        heard.append(sorted(await me.exchange(me.id, r, channel="a")))
        if me.id == 1:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(me.exchange(me.id, r, channel="b"), 1e-6)
        else:
            heard.append(sorted(await me.exchange(me.id, r, channel="b")))
    me.state["heard"] = heard


async def leaving_early(me: Peer) -> None:
    """Who has finished is absent."""
    me.state["heard"] = []
    async for r in me.rounds(1 + me.id):
        me.state["heard"] = [*me.state["heard"], sorted(await me.exchange(me.id, r))]


async def spoilt(me: Peer) -> None:
    """What peer 1 sends holds NaN."""
    me.state["heard"] = sorted(await me.exchange(torch.full((2,), float("nan") if me.id == 1 else 1.0), 0))


async def sending(me: Peer) -> None:
    """What a group does not have."""
    said = []
    for attempt in (me.request(1 - me.id % 2), me.receive(), _send(me)):
        try:
            await attempt
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    me.state["said"] = said


async def _send(me: Peer) -> None:
    me.send((me.id + 1) % SIZE, 1)


async def failing(me: Peer) -> None:
    """Peer 2 makes a mistake in round 1."""
    async for r in me.rounds():
        await me.exchange(me.id, r)
        if me.id == 2 and r == 1:
            raise KeyError("a mistake")


async def out_of_step(me: Peer) -> None:
    """Peer 3 is in another round than the others."""
    await me.exchange(me.id, 1 if me.id == 3 else 0)


async def endless(me: Peer) -> None:
    """Until somebody is asked to stop, which is peer 1 in round 4."""
    async for r in me.rounds(10**6):
        await me.exchange(me.id, r)
        if me.id == 1 and r == 4:
            me._world.stop()


async def meaning(me: Peer) -> None:
    """Means of everybody's vectors; in round 1 peer 2 has NaN, and peer 3 takes part in two rounds only."""
    means = []
    async for r in me.rounds(2 if me.id == 3 else 3):
        x = torch.arange(5.0) * (1 + me.id) + r
        if (me.id, r) == (2, 1):
            x[0] = float("nan")
        means.append(await me._world.average(me.id, x, r, "mean"))
    me.state["means"] = means


async def unequal(me: Peer) -> None:
    """Vectors of which no mean can be taken."""
    await me._world.average(me.id, torch.zeros(5 + me.id), 0, "mean")


class Garbling(CollectiveWorld):
    """A world whose process 1 sends bytes that are no payload."""

    def _bytes(self, parcel: Any) -> Any:
        data = super()._bytes(parcel)
        return torch.full_like(data, 7) if self.id == 1 else data


async def once(me: Peer) -> None:
    me.state["heard"] = sorted(await me.exchange(me.id, 0))


async def run(group: Group, protocol: Protocol, kind: Any = CollectiveWorld, **settings: Any) -> dict[str, Any]:
    """What this process saw of a protocol."""
    world = kind(group, **{"seed": 7, "rounds": ROUNDS, **settings})
    try:
        error, ended = "", await world.run(protocol)
    except Exception as problem:
        error, ended = f"{type(problem).__name__}: {problem}", False
    told = await world.conclude({"id": world.id})
    world.close()
    return {
        "ended": ended,
        "error": error,
        "state": dict(world.peer.state),
        "ledger": world.ledger.as_dict(),
        "events": [{k: v for k, v in event.items() if k != "time"} for event in world.events],
        "told": [of["id"] for of in told],
    }


async def main(group: Group) -> dict[str, Any]:
    """Everything that is tested, in one group of processes."""
    seen = {}
    for name, graph in TOPOLOGIES.items():
        settings = {"neighbours": graph.neighbours, "in_neighbours": graph.in_neighbours}
        seen[f"averaging, {name}"] = await run(group, averaging, **settings)
    for protocol in (two_channels, leaving_early, spoilt, sending, failing, out_of_step, endless, meaning, unequal):
        seen[protocol.__name__] = await run(group, protocol)
    ring = {"neighbours": TOPOLOGIES["ring"].neighbours}
    seen["garbled, complete"] = await run(group, once, Garbling)
    seen["garbled, ring"] = await run(group, once, Garbling, **ring)
    seen["shared"] = await group.share("sharing", {"rank": group.rank, "long": "x" * 1000 * group.rank})
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    joined = Group.join(timeout=60.0, dead=20.0, meeting=f"file://{folder}/meeting")
    result = asyncio.run(main(joined))
    (folder / f"{os.environ['RANK']}.bin").write_bytes(encode(result))
    joined.leave()
