"""MoDeST on real machines: 12 processes, of which some are killed for good and others come back; learning goes on."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.deployment.machines import Machine, Machines, entries, peer_folders, wait_for

from campaigns.outcome import Options, Outcome
from shoal.report import RunFolder

EXPERIMENT = """protocol = "modest:sample={sample},aggregators=2,success=0.6,steps=10,ping=0.5,timeout=3,patience=60"
task = "digits"
model = "mlp:hidden=16"
partition = "dirichlet:1.0"
peers = {peers}
rounds = {rounds}
evaluate = 1
seed = 23

[net]
beat = 0.25
dead = 2.0
linger = 5.0
"""


def run(options: Options) -> Outcome:
    """12 peers, of which 4 die for good and 2 come back; in the short form, 6, 1 and 1."""
    outcome = Outcome("modest")
    peers, sample, rounds, dead, back = (6, 3, 25, 1, 1) if options.short else (12, 4, 60, 4, 2)
    (options.folder / "experiment.toml").write_text(EXPERIMENT.format(peers=peers, sample=sample, rounds=rounds))
    machines = Machines(options.folder)
    options.tell(f"modest: {peers} processes, {dead} of which die and {back} come back")
    try:
        _trial(outcome, machines, peers, rounds, dead, back)
    except AssertionError as error:  # of a limit of time
        options.tell(str(error)[-3000:])
        outcome.check("every process that lives ends by itself, in time", False)
    finally:
        machines.stop()
    return outcome


def _trial(outcome: Outcome, machines: Machines, peers: int, rounds: int, dead: int, back: int) -> None:
    first, *_ = machines.network("experiment.toml", peers - 1)
    runs = machines.folder / "runs"
    wait_for(lambda: len(list(peer_folders(runs))) == peers, machines.told)
    folders = list(peer_folders(runs))
    alive = {id: _machine(machines, id, peers) for id in range(peers)}
    victims = random.Random(5).sample([id for id in alive if alive[id] is not first], dead + back)
    wait_for(lambda: _reached(folders) >= rounds // 5, machines.told)
    before = {id: _accuracy(folders[id]) for id in alive if id not in victims}
    killed_at = _reached(folders)
    for id in victims:
        alive[id].kill()
    time.sleep(1.0)
    for id in victims[:back]:
        alive[id] = machines.shoal("join", first.ticket, "--id", id, "--http", "off")
    left = [id for id in alive if id not in victims[back:]]
    codes = {id: alive[id].end() for id in left}
    outcome.check("every process that lives ends by itself, in time", set(codes.values()) == {0})
    facts = {id: RunFolder(folders[id]).facts for id in left}
    outcome.check(
        "all who live, and who came back, have the result of the last round",
        all((f.status, f.rounds) == ("finished", rounds) for f in facts.values()),
    )
    after = {id: facts[id].summary["accuracy"].mean for id in before}
    gained = sum(after[id] - before[id] for id in before) / len(before)
    outcome.check("accuracy of those who live rises after the kills", gained > 0.0)
    outcome.figures |= {
        "killed for good": victims[back:],
        "came back": victims[:back],
        "killed in round": killed_at,
        "rounds": rounds,
        "accuracy before": {str(id): round(a, 4) for id, a in before.items()},
        "accuracy at the end": {str(id): round(f.summary["accuracy"].mean, 4) for id, f in facts.items()},
    }


def _machine(machines: Machines, id: int, peers: int) -> Machine:
    def found() -> list[Machine]:
        return [m for m in machines.started if f"peer {id} of {peers}" in m.err]

    wait_for(lambda: bool(found()), machines.told)
    return found()[0]


def _reached(folders: list[Path]) -> int:
    return max(int(entry["round"]) for folder in folders for entry in [{"round": 0}, *entries(folder, "measured")])


def _accuracy(folder: Path) -> float:
    return max((float(entry["accuracy"]) for entry in entries(folder, "measured")), default=0.0)
