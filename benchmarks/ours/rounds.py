"""D-SGD by 8 real processes on loopback, 1 M parameters: `rounds.py <topology> <rounds> <steps>`.

As deployed: iroh with TLS, states kept on disk each round. The last line of the output is what a trace of it says, as
JSON: when each peer computed in a round, and when what it sent was on its way.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.rivals.common import tick
from shoal.deployment import Node, real_parts
from shoal.engine.message import Kind
from shoal.net import RealWorld, Store, frame_limit
from shoal.net.iroh import IrohTransport, NetOptions, Ticket, load_or_make_key
from shoal.simulation.settings import Settings

PEERS, HIDDEN = 8, 13_333  # 999,985 parameters of 64-13333-10


def main(topology: str, rounds: int, steps: int) -> None:
    settings = Settings.of(
        protocol=f"dsgd:steps={steps}",
        task="digits",
        model=f"mlp:hidden={HIDDEN}",
        peers=PEERS,
        rounds=rounds,
        topology=topology,
        evaluate=rounds,
        eval_samples=32,
        seed=1,
    )
    context = multiprocessing.get_context("fork")  # what is imported is there already
    tickets: Any = context.Queue()
    traces: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=live, args=(i, settings, Path(folder), tickets, traces)) for i in range(PEERS)
        ]
        for process in processes:
            process.start()
        found = dict(traces.get(timeout=300) for _ in processes)
        for process in processes:
            process.join(60)
    assert all(process.exitcode == 0 for process in processes)
    print(json.dumps(timeline({i: found[i] for i in sorted(found)})))


def live(id: int, settings: Settings, folder: Path, tickets: Any, traces: Any) -> None:
    """One peer, in its process."""
    torch.set_num_threads(1)
    trace = asyncio.run(_live(id, settings, folder / str(id), tickets))
    traces.put((id, trace))


async def _live(id: int, settings: Settings, folder: Path, tickets: Any) -> list[list[Any]]:
    folder.mkdir()
    parts, _ = real_parts(settings)
    secret, options = load_or_make_key(folder / "key"), NetOptions()
    if id == 0:
        transport = await IrohTransport.host(0, PEERS, secret=secret, experiment=b"rounds", options=options)
        for _ in range(PEERS - 1):
            tickets.put(str(transport.ticket()))
    else:
        ticket = Ticket.read(await asyncio.to_thread(tickets.get))
        transport = await IrohTransport.join(ticket, secret=secret, options=options, wanted=id)
    transport.limit = frame_limit(parts.trainer.layout.size)
    world = RealWorld(
        id,
        PEERS,
        transport,
        limit=transport.limit,
        seed=settings.seed,
        rounds=settings.rounds,
        neighbours=parts.topology.neighbours,
        in_neighbours=parts.topology.in_neighbours,
        store=Store(folder),
    )
    node = Node(parts, id, world)
    trace = traced(node, world)
    await world.run(node.protocol, make_peer=node.make_peer, company=PEERS - 1, linger=5.0)
    return trace


def traced(node: Node, world: RealWorld) -> list[list[Any]]:
    """Note [what, round, begin, end, whom]: "compute", "sent" (to all), "got" (from one); and tick."""
    trace: list[list[Any]] = []
    make, committed, transmit, perform = node.make_peer, world.on_commit, world.transmit, world.perform
    assert committed is not None

    def transmitted(sender: int, to: int, channel: str, kind: Kind, tag: int, parcel: Any) -> int:
        if kind is Kind.EXCHANGE:
            trace.append(["sent", tag, time.time(), 0.0, to])
        return transmit(sender, to, channel, kind, tag, parcel)

    async def performed(peer: Any, job: Any, seconds: float) -> Any:
        began = time.time()
        result = await perform(peer, job, seconds)
        trace.append(["compute", peer.round, began, time.time(), -1])
        return result

    def made(*arguments: Any) -> Any:
        peer = make(*arguments)
        deliver = peer._deliver

        def delivered(message: Any) -> None:
            if message.kind is Kind.EXCHANGE:
                trace.append(["got", message.tag, 0.0, time.time(), message.sender])
            deliver(message)

        peer._deliver = delivered
        if node.id == 0:
            tick("start")
        return peer

    def on_commit(peer: Any) -> None:
        committed(peer)
        if node.id == 0:
            tick("round")

    world.transmit, world.perform = transmitted, performed  # type: ignore[method-assign]
    world.on_commit, node.make_peer = on_commit, made  # type: ignore[method-assign]
    return trace


def timeline(trace: dict[int, list[list[Any]]]) -> dict[str, Any]:
    """Medians over peers and rounds, and the middle round of all peers as it went, in seconds.

    A peer's sending lasts from handing over its model to the delivery at the last neighbour. "inside" is the share of
    it in which the peer computed; "hidden", of the shorter of the two, how much the round is shorter than both in turn.
    """
    got = {(i, r, sender): end for i, es in trace.items() for what, r, _, end, sender in es if what == "got"}
    rows: list[dict[str, float]] = []
    for i, events in trace.items():
        for r in sorted({event[1] for event in events if event[0] == "compute"}):
            sent = [e for e in events if e[0] == "sent" and e[1] == r]
            computed = [e for e in events if e[0] == "compute" and e[1] == r]
            arrivals = [got[to, r, i] for _, _, _, _, to in sent if (to, r, i) in got]
            heard = [e[3] for e in events if e[0] == "got" and e[1] == r]
            if r == 0 or not (sent and computed and arrivals and heard):
                continue
            rows.append(
                {
                    "peer": float(i),
                    "number": float(r),
                    "send": min(e[2] for e in sent),
                    "delivered": max(arrivals),
                    "begin": computed[0][2],
                    "end": computed[-1][3],
                    "over": max(*heard, computed[-1][3]),
                }
            )
    sending = [row["delivered"] - row["send"] for row in rows]
    computing = [row["end"] - row["begin"] for row in rows]
    whole = [row["over"] - min(row["send"], row["begin"]) for row in rows]
    both = [max(0.0, min(row["delivered"], row["end"]) - max(row["send"], row["begin"])) for row in rows]
    hidden = [(s + c - w) / min(s, c) for s, c, w in zip(sending, computing, whole, strict=True)]
    middle = statistics.median_low([row["number"] for row in rows])
    shown = [row for row in rows if row["number"] == middle]
    zero = min(row["send"] for row in shown)
    return {
        "sending": statistics.median(sending),
        "computing": statistics.median(computing),
        "round": statistics.median(whole),
        "inside": sum(both) / sum(sending),
        "hidden": min(1.0, max(0.0, statistics.median(hidden))),
        "timeline": [
            {name: round(row[name] - zero, 4) for name in ("send", "delivered", "begin", "end", "over")}
            for row in shown
        ],
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    tick("done")
