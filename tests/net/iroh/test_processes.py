"""Peers that are processes: they are killed, they come back, and the host may be gone meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from shoal.net.iroh import NetOptions, Ticket
from tests.net.iroh.party import Party, run

ROOT = Path(__file__).resolve().parents[3]
USUAL = NetOptions()


class Process:
    """A peer in a process; see `peer.py`."""

    def __init__(self, process: asyncio.subprocess.Process, first: dict[str, Any]) -> None:
        self.process, self.first = process, first

    @classmethod
    async def begin(cls, folder: Path, wanted: int, way: str) -> Process:
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH")]))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.net.iroh.peer",
            str(folder),
            str(wanted),
            way,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, "the peer ended at once; see its errors above"
        return cls(process, json.loads(line))

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def test_the_killed_are_missed_in_time_and_come_back_with_their_id_even_without_the_host(tmp_path: Path) -> None:
    processes: list[Process] = []

    async def begin(name: str, wanted: int, way: str) -> Process:
        processes.append(await Process.begin(tmp_path / name, wanted, way))
        return processes[-1]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        host = await begin("host", 0, "host")
        async with Party(4, USUAL) as party:
            party.ticket = Ticket.read(host.first["ticket"])
            watcher = await (await party.join(3, wanted=3)).start()
            first = await begin("other", 2, host.first["ticket"])
            assert (watcher.transport.id, first.first["id"]) == (3, 2)
            await watcher.sees(0, 2)

            await asyncio.gather(first.kill(), host.kill())
            killed = loop.time()
            await watcher.sees()
            assert loop.time() - killed < USUAL.dead + 2 * USUAL.beat + 3.0  # 3 s for a machine that is busy
            assert watcher.downs(0) == watcher.downs(2) == ["silent for 5 s"]

            again = await begin("other", 1, host.first["ticket"])  # through the watcher, whom its roster knows
            assert again.first["id"] == 2
            await watcher.sees(2)
            assert watcher.transport.send(2, b"are you ", b"there?")
            await watcher.until(lambda: watcher.heard)
            assert watcher.heard == [(2, b"echo are you there?")]

            await begin("host", 0, "host")  # and the host is found again, though it listens elsewhere now
            await watcher.sees(0, 2)

    async def whole() -> None:
        try:
            await main()
        finally:
            for process in processes:
                await process.kill()

    run(whole(), 90)
