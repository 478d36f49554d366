"""One peer as a process of its own: `python -m tests.net.iroh.peer FOLDER NUMBER host|TICKET`. It writes JSON lines.

It keeps key and roster in its folder, and lives until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from shoal.net import Ears
from shoal.net.iroh import IrohTransport, Roster, Ticket, load_or_make_key


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def main(folder: Path, wanted: int, way: str) -> None:
    secret = load_or_make_key(folder / "key")
    path = folder / "roster.json"
    roster = Roster.load(path) if path.exists() else None
    if way == "host":
        transport = await IrohTransport.host(wanted, 4, secret=secret, experiment=b"of processes", roster=roster)
    else:
        transport = await IrohTransport.join(Ticket.read(way), secret=secret, wanted=wanted, roster=roster)

    async def frame(sender: int, data: bytes | bytearray | memoryview) -> None:
        transport.send(sender, b"echo ", bytes(data))

    transport.roster.on_change = lambda it: it.save(path)
    transport.roster.save(path)
    say(id=transport.id, ticket=str(transport.ticket()))
    up, down = (lambda peer: say(up=peer)), (lambda peer, why: say(down=peer, why=why))
    await transport.start(Ears(frame, up, down))
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
