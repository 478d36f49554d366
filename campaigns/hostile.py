"""An admitted member of a real network that sends bad frames, a stranger, and a wrong invitation: honest peers finish.

The hostile member is a process with a key of its own that was let in. It speaks QUIC as it should, since what does not
never reaches a peer, and over that it sends everything that `badframes` draws, and its own part of the protocol spoilt.
That many frames come before the protocol begins, and more while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.torch import load_file
from tests.deployment.machines import Machine, Machines, entries, peer_folders, wait_for

from campaigns.badframes import CHANNELS, SELDOM, BadFrames, Corrupting
from campaigns.outcome import Options, Outcome
from shoal.report import RunFolder
from shoal.simulation import simulate
from shoal.simulation.settings import Settings

EXPERIMENT = """protocol = "{protocol}"
task = "digits"
model = "mlp:hidden=16"
topology = "complete"
peers = {peers}
rounds = 5
seed = 5

[net]
beat = 0.5
dead = 5.0
linger = 3.0
patience = 60.0
"""
TOLERANCE = 1e-5
GROWTH = 64  # MB of resident memory of an honest peer, from the middle third of the frames to the last, by medians
EVERY = 0.5  # seconds between two looks at it: what is on its way at a moment comes and goes
AT_A_TIME = 32
QUEUED = 1 << 21  # bytes that the hostile member lets wait


def run(options: Options) -> Outcome:
    """100,000 frames to 4 honest peers; in the short form 1,000 to 2."""
    outcome = Outcome("hostile")
    peers, frames = (3, 1000) if options.short else (5, 100_000)
    strangers(options, outcome)
    for protocol in ("dsgd",) if options.short else ("dsgd", "parallel-sgd"):
        folder = options.folder / protocol.partition(":")[0]
        folder.mkdir()
        (folder / "experiment.toml").write_text(EXPERIMENT.format(protocol=protocol, peers=peers))
        options.tell(f"hostile: {frames} bad frames, {protocol}")
        attack(folder, protocol, frames, outcome)
    return outcome


def attack(folder: Path, protocol: str, frames: int, outcome: Outcome) -> None:
    """One network with a hostile member."""
    settings = Settings.read(folder / "experiment.toml")
    simulated = simulate(out=None, attack=f"nan:{1 / settings['peers']}", **settings)
    [hostile] = simulated.info["byzantine"]
    size = settings["peers"] + (protocol == "parallel-sgd")
    machines = Machines(folder)
    opener = size - 1 if protocol == "parallel-sgd" else next(i for i in range(size) if i != hostile)
    memory: list[tuple[float, dict[int, int]]] = []
    try:
        first = machines.shoal("up", "experiment.toml", "--http", "off", "--id", opener)
        ticket = first.ticket
        honest = [i for i in range(size) if i not in (hostile, opener)]
        early, late = honest[:-1], honest[-1]  # the protocol begins when the last one comes
        started: list[Machine] = [first]
        started += [machines.shoal("join", ticket, "--http", "off", "--id", i) for i in early]
        member = _start(machines, _member, ticket, str(folder), hostile, frames, size - 2)
        said = folder / "hostile.json"

        def sent() -> dict[str, Any]:
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, Any] = json.loads(said.read_text())
                return found
            return {"sent": 0}

        def all_sent() -> bool:
            share = sent()["sent"] / frames
            memory.append((share, {m.process.pid: resident(m.process.pid) for m in started}))
            time.sleep(EVERY)
            return share >= 1.0

        wait_for(all_sent, machines.told, limit=1800.0)
        started.append(machines.shoal("join", ticket, "--http", "off", "--id", late))
        codes = [machine.end() for machine in started]
        member.process.join(30)
    finally:
        machines.stop()
    growth = {pid: grown(memory, pid) / 2**20 for pid in memory[-1][1]}
    outcome.check("every honest peer finishes", not any(codes))
    outcome.check(f"no honest peer grows by {GROWTH} MB while it is attacked", max(growth.values()) < GROWTH)
    folders = {int(f.name.rpartition("-")[2]): f for f in peer_folders(folder / "runs")}
    worst, refused = 0.0, {}
    for id in {*early, late, opener}:
        facts = RunFolder(folders[id]).facts
        outcome.check("every honest peer's run is stored as finished", facts.status == "finished")
        found = [e for e in entries(folders[id], "malformed frame refused") if e["sender"] == hostile]
        refused[id] = max((int(e["count"]) for e in found), default=0)
        others = {e["sender"] for e in entries(folders[id]) if "sender" in e} - {hostile}
        outcome.check("nothing of an honest peer is refused", not others)
        if id in simulated.models:
            model = load_file(folders[id] / "model.safetensors")[f"peer/{id}/model"]
            worst = max(worst, float(np.abs(np.asarray(model - simulated.models[id])).max()))
    outcome.check("refusals are logged", all(refused[id] > 0 for id in (*early, opener)))
    outcome.check(
        f"models are those of a simulation in which nothing comes of the hostile peer, to {TOLERANCE:g}",
        worst <= TOLERANCE,
    )
    outcome.figures[protocol] = {
        "frames": sent(),
        "refused at least, by peer": refused,
        "growth MB": {pid: round(mb, 1) for pid, mb in growth.items()},
        "largest difference": worst,
    }


def grown(memory: list[tuple[float, dict[int, int]]], pid: int) -> float:
    """Bytes by which the median of the last third is above that of the middle third, or of what there is before."""
    last = [held[pid] for share, held in memory if share >= 2 / 3]
    middle = [held[pid] for share, held in memory if 1 / 3 <= share < 2 / 3] or [held[pid] for _, held in memory]
    return statistics.median(last) - statistics.median(middle)


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _start(machines: Machines, function: Any, *arguments: Any) -> Machine:
    process = machines._context.Process(target=function, args=arguments)
    process.start()
    machine = Machine(process, machines.folder / "hostile")
    machines.started.append(machine)
    return machine


# -- the hostile member, in its own process ----------------------------------------------------------------------------


def _member(ticket: str, folder: str, id: int, frames: int, others: int) -> None:
    os.chdir(folder)
    asyncio.run(_misbehave(ticket, Path(folder), id, frames, others))


async def _misbehave(ticket: str, folder: Path, id: int, frames: int, others: int) -> None:
    from shoal.deployment.life import Ears, live
    from shoal.deployment.network import Place, enter_network
    from shoal.net.iroh import Ticket

    entered = await enter_network(Ticket.read(ticket), Place(folder / "runs", id), 60.0)
    corrupting = Corrupting(entered.transport, seed=id)
    nodes: list[Any] = []
    life = asyncio.ensure_future(
        live(
            dataclasses.replace(entered, transport=corrupting),  # type: ignore[arg-type]
            entered.experiment.parts("cpu"),
            ears=Ears(began=lambda node, url: nodes.append(node)),
        )
    )
    try:
        while not nodes or len(nodes[0].world.members.here) < min(others, 1):
            await asyncio.sleep(0.01)
        await _send(nodes[0].world, corrupting, folder, frames)
        await asyncio.wait([life], timeout=20.0)
    finally:
        life.cancel()
        with contextlib.suppress(BaseException):
            await life


async def _send(world: Any, transport: Corrupting, folder: Path, frames: int) -> None:
    def number() -> int:
        world._number += 1
        return int(world._number)

    bad = BadFrames(1, number, CHANNELS, world.limit, SELDOM | {"oversized": 0.01})  # each ends a connection
    named: dict[int, Any] = {}
    sent, last = 0, 0.0
    while sent < frames or world.members.here:
        for to in sorted(world.members.here):
            link = transport.inner._slots[to].link  # type: ignore[attr-defined]
            if link is None or link._waiting > QUEUED:
                continue
            if named.get(to) is not link:
                named[to] = link
                for frame in bad.first():
                    transport.raw(to, frame)
            for _ in range(AT_A_TIME):
                sent += transport.raw(to, bad.draw())
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            content = json.dumps({"sent": sent, "kinds": bad.drawn})
            (folder / "hostile.tmp").write_text(content)
            (folder / "hostile.tmp").replace(folder / "hostile.json")
        await asyncio.sleep(0.002)


# -- strangers ---------------------------------------------------------------------------------------------------------


def strangers(options: Options, outcome: Outcome) -> None:
    """A wrong invitation, and a key that is not on the list of those who may come; others finish all the same."""
    from shoal.net.iroh import Ticket, load_or_make_key, public

    options.tell("hostile: strangers")
    folder = options.folder / "strangers"
    folder.mkdir()
    keys = [folder / "host.key", folder / "friend.key"]
    allowed = [public(load_or_make_key(key)) for key in keys]
    text = EXPERIMENT.format(protocol="dsgd", peers=2)
    (folder / "open.toml").write_text(text)
    (folder / "listed.toml").write_text(f"{text}allow = {json.dumps(allowed)}\n")
    machines = Machines(folder)
    try:
        first = machines.shoal("up", "open.toml", "--http", "off", "--out", "open")
        real = Ticket.read(first.ticket)
        forged = msgspec.structs.replace(real, invitation=secrets.token_bytes(len(real.invitation)))
        stranger = machines.shoal("join", str(forged), "--http", "off", "--timeout", 10, "--out", "forged")
        outcome.check("a wrong invitation is refused, and the stranger is told", _refused(stranger, "invitation"))
        friend = machines.shoal("join", first.ticket, "--http", "off", "--out", "open")
        listed = machines.shoal("up", "listed.toml", "--http", "off", "--out", "listed", "--key", keys[0])
        unknown = machines.shoal("join", listed.ticket, "--http", "off", "--timeout", 10, "--out", "unknown")
        outcome.check("a key that is not listed is refused, in spite of a ticket, and told", _refused(unknown, "key"))
        known = machines.shoal("join", listed.ticket, "--http", "off", "--out", "listed", "--key", keys[1])
        codes = [machine.end() for machine in (first, friend, listed, known)]
        outcome.check("those who were invited, or are listed, finish all the same", not any(codes))
    finally:
        machines.stop()


def _refused(machine: Machine, why: str) -> bool:
    return machine.end() != 0 and "Traceback" not in machine.err and why in machine.err
