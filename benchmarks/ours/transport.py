"""Bytes between two processes on loopback, over bare iroh and over the transport, turn and turn about.

`python -m benchmarks.ours.transport [TURNS]`. In each turn 40 MB go to the other process and one byte comes back when
all are there: over one stream and over eight of a bare connection, each written in one go, over eight in pieces of
half a MB, and as one frame of `IrohTransport`. Then 1 KB goes there and back, on a stream that stays open and as a
frame. The last line is JSON: the seconds of everything, by arm.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from shoal.net import Ears
from shoal.net.iroh import IrohTransport, Ticket
from shoal.net.iroh.binding import load

SIZE, STREAMS, SMALL, PINGS = 40_000_000, 8, 1024, 200
PIECE = 1 << 19
ARMS = {"one stream": (1, SIZE), "eight streams": (STREAMS, SIZE), "eight streams, in pieces": (STREAMS, PIECE)}
ALPN = b"bare"
Act = Callable[[], Awaitable[None]]
iroh = load()


async def endpoint() -> Any:
    options = iroh.EndpointOptions(
        alpns=[ALPN], preset=iroh.preset_minimal(), relay_mode=iroh.RelayMode.disabled(), bind_addr="127.0.0.1:0"
    )
    return await iroh.Endpoint.bind(options)


# --- the far process ---


async def bare(connection: Any) -> None:
    """Take a transfer over as many streams as the first byte on the bidirectional stream says, or give a ping back."""
    stream = await connection.accept_bi()
    back, there = stream.send(), stream.recv()
    while count := (await there.read_exact(1))[0]:
        if count > STREAMS:
            await back.write_all(await there.read_exact(SMALL))
            continue
        streams = [await connection.accept_uni() for _ in range(count)]
        parts = await asyncio.gather(*map(whole, streams))
        assert sum(map(len, parts)) == SIZE
        await back.write_all(b"k")


async def whole(stream: Any) -> bytes:
    parts = []
    while part := await stream.read(PIECE):
        parts.append(part)
    return b"".join(parts)


async def far() -> None:
    raw = await endpoint()
    host = await IrohTransport.host(0, 2, secret=os.urandom(32), experiment=b"")
    gone = asyncio.Event()

    async def frame(sender: int, data: bytes | bytearray | memoryview) -> None:
        assert len(data) in (SIZE, SMALL)
        host.send(sender, b"k", b"" if len(data) == SIZE else data)

    await host.start(Ears(frame, lambda peer: None, lambda peer, why: gone.set()))
    print(json.dumps([str(raw.id()), raw.addr().direct_addresses(), str(host.ticket())]), flush=True)
    await bare(await (await (await raw.accept_next()).accept()).connect())
    await gone.wait()
    await host.stop(1.0)


# --- the near one ---


async def near(turns: int) -> None:
    argv = [sys.executable, "-m", "benchmarks.ours.transport", "far"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    id, addresses, ticket = json.loads(await process.stdout.readline())
    raw = await endpoint()
    connection = await raw.connect(iroh.EndpointAddr(iroh.EndpointId.from_string(id), None, addresses), ALPN)
    stream = await connection.open_bi()
    ready, answers = asyncio.Event(), asyncio.Queue[int]()

    async def frame(sender: int, data: bytes | bytearray | memoryview) -> None:
        answers.put_nowait(len(data))

    transport = await IrohTransport.join(Ticket.read(ticket), secret=os.urandom(32))
    await transport.start(Ears(frame, lambda peer: ready.set(), lambda peer, why: None))
    await ready.wait()
    content, small = os.urandom(SIZE), os.urandom(SMALL)

    async def spread(count: int, piece: int) -> None:
        async def write(part: bytes) -> None:
            one = await connection.open_uni()
            for at in range(0, len(part), piece):
                await one.write_all(part[at : at + piece])
            await one.finish()

        await stream.send().write_all(bytes([count]))
        await asyncio.gather(*(write(content[i * SIZE // count : (i + 1) * SIZE // count]) for i in range(count)))
        await stream.recv().read_exact(1)

    async def framed(data: bytes) -> None:
        assert transport.send(0, b"", data)
        await answers.get()

    async def ping() -> None:
        await stream.send().write_all(b"\xff" + small)
        await stream.recv().read_exact(SMALL)

    transfers: dict[str, Act] = {arm: partial(spread, *how) for arm, how in ARMS.items()}
    transfers["transport"] = partial(framed, content)
    pings: dict[str, Act] = {"one stream": ping, "transport": partial(framed, small)}
    found = {"size": SIZE, "transfers": await alternate(transfers, turns), "pings": await alternate(pings, PINGS)}
    await stream.send().write_all(b"\0")
    await transport.stop(5.0)
    await process.wait()
    print(json.dumps(found))


async def alternate(arms: dict[str, Act], turns: int) -> dict[str, list[float]]:
    """Seconds of each arm's act, turn by turn; a first one warms up."""
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(turns + 1):
        for arm, act in arms.items():
            began = time.perf_counter()
            await act()
            seconds[arm].append(time.perf_counter() - began)
    return {arm: each[1:] for arm, each in seconds.items()}


if __name__ == "__main__":
    what = (sys.argv[1:] or ["20"])[0]
    asyncio.run(far() if what == "far" else near(int(what)))
