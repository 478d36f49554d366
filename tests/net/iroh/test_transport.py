"""Transports on one loop, each with an endpoint of its own: frames, order, who is up and down."""

from __future__ import annotations

import asyncio
import os

import pytest

from shoal.net import Ears
from shoal.net.iroh import IrohTransport, Ticket

pytest.importorskip("iroh", reason="iroh is not installed")


def test_a_frame_goes_both_ways_by_ticket() -> None:
    async def main() -> list[tuple[int, int, bytes]]:
        got: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue()
        up: asyncio.Queue[int] = asyncio.Queue()

        def ears(me: int) -> Ears:
            async def frame(sender: int, data: bytes | bytearray | memoryview) -> None:
                await got.put((me, sender, bytes(data)))

            return Ears(frame, up.put_nowait, lambda peer, why: None)

        host = await IrohTransport.host(0, 2, secret=os.urandom(32), experiment=b"an experiment")
        other = await IrohTransport.join(Ticket.read(str(host.ticket())), secret=os.urandom(32))
        assert (other.id, other.peers, other.experiment) == (1, 2, b"an experiment")
        await host.start(ears(0))
        await other.start(ears(1))
        assert {await up.get(), await up.get()} == {0, 1}
        assert host.send(1, b"he", b"re")
        assert other.send(0, b"", b"there")
        found = sorted([await got.get(), await got.get()])
        await asyncio.gather(host.stop(5.0), other.stop(5.0))
        return found

    assert asyncio.run(asyncio.wait_for(main(), 30)) == [(0, 1, b"there"), (1, 0, b"here")]
