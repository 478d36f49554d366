"""Peers as processes of their own, started by the `shoal` command, for tests.

A server process that has imported what they need forks them, so that none pays for it again; what each runs is `main`,
as at a terminal, with its output in files.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 240.0  # seconds that anything may take, on a busy machine
PRELOADED = ["shoal.cli", "shoal.cli.running", "shoal.deployment.life", "shoal.net.iroh", "sklearn.datasets"]
TICKET = re.compile(r"^ticket: (\S+)$", re.MULTILINE)


def _command(words: list[str], folder: str, stem: str) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ["COLUMNS"] = "80"
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{stem}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = ["shoal", *words]
    from shoal.cli import main

    main()


@dataclass
class Machine:
    """A process that runs a command.

    Attributes:
        process: as multiprocessing has it.
        stem: of the files of its output.
    """

    process: Any
    stem: Path

    @property
    def out(self) -> str:
        return _text(self.stem.with_suffix(".out"))

    @property
    def err(self) -> str:
        return _text(self.stem.with_suffix(".err"))

    @property
    def ticket(self) -> str:
        """The ticket that it prints, awaited."""
        wait_for(lambda: TICKET.search(self.out) is not None or not self.process.is_alive(), self.told)
        found = TICKET.search(self.out)
        assert found is not None, self.told()
        return found[1]

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.join()

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        self.process.join(LIMIT)
        assert self.process.exitcode is not None, self.told()
        return int(self.process.exitcode)

    def told(self) -> str:
        return f"{self.stem.name}:\n{self.out}\n{self.err}"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class Machines:
    """Starts commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Machine] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def shoal(self, *words: object, folder: Path | None = None) -> Machine:
        stem = self.folder / f"machine-{len(self.started)}"
        arguments = ([str(word) for word in words], str(folder or self.folder), str(stem))
        process = self._context.Process(target=_command, args=arguments)
        process.start()
        machine = Machine(process, stem)
        self.started.append(machine)
        return machine

    def network(self, file: str, others: int, *words: object) -> list[Machine]:
        """`shoal up`, and as many `shoal join`."""
        first = self.shoal("up", file, "--http", "off", *words)
        ticket = first.ticket
        return [first, *(self.shoal("join", ticket, "--http", "off") for _ in range(others))]

    def told(self) -> str:
        return "\n".join(machine.told() for machine in self.started)

    def stop(self) -> None:
        for machine in self.started:
            if machine.process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    machine.kill()


def wait_for(condition: Callable[[], bool], told: Callable[[], str], limit: float = LIMIT) -> None:
    """Look again and again whether something has happened."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, told()
        time.sleep(0.02)


def entries(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Entries of a run's log, of one kind or all."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line, while it is written
            found.append(json.loads(line))
    return [entry for entry in found if event in (None, entry["event"])]


def peer_folders(out: Path) -> Iterator[Path]:
    """The run folders of all peers below a folder, by id."""
    yield from sorted(out.glob("*/peer-*"), key=lambda path: int(path.name.rpartition("-")[2]))
