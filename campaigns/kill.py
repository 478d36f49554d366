"""Peers that are killed at random moments and started again: nobody hangs, and no committed round is lost.

The protocols are those in which all peers go in step, so that simulations tell how accurate runs without kills are.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from tests.deployment.machines import Machine, Machines, entries, peer_folders, wait_for

from campaigns.outcome import Options, Outcome
from shoal.report import RunFolder
from shoal.simulation import simulate
from shoal.simulation.settings import Settings

EXPERIMENT = """protocol = "{protocol}"
task = "digits"
model = "mlp:hidden=16"
partition = "iid"
topology = "exponential"
peers = {peers}
rounds = {rounds}
evaluate = 1
seed = 11

[net]
beat = 0.25
dead = 2.0
linger = 60.0
"""
PROTOCOLS = ("gossip:steps=20", "dsgd")
VICTIMS = 3
SEEDS = 10  # of the simulations whose spread is the measure
SPREADS = 4.0  # standard deviations


def run(options: Options) -> Outcome:
    """20 repetitions with 8 peers; in the short form, 2 with 4."""
    outcome = Outcome("kill")
    peers, rounds, repetitions = (4, 25, 2) if options.short else (8, 60, 20)
    unkilled: dict[str, list[float]] = {}
    for repetition in range(repetitions):
        protocol = PROTOCOLS[repetition % len(PROTOCOLS)]
        folder = options.folder / str(repetition)
        folder.mkdir()
        file = folder / "experiment.toml"
        file.write_text(EXPERIMENT.format(protocol=protocol, peers=peers, rounds=rounds))
        if protocol not in unkilled and not options.short:
            options.tell(f"kill: {protocol} unkilled, as simulated with {SEEDS} seeds")
            unkilled[protocol] = accuracies(file)
        options.tell(f"kill: {repetition + 1} of {repetitions}, {protocol}")
        machines = Machines(folder)
        began = time.monotonic()
        try:
            killed = Trial(machines, peers, rounds, seed=repetition).run()
        except AssertionError as error:  # of a limit of time
            options.tell(str(error)[-3000:])
            outcome.check("every process ends by itself, in time, with exit code 0", False)
            continue
        finally:
            machines.stop()
        outcome.check("every process ends by itself, in time, with exit code 0", killed.ended)
        outcome.check("no life begins before the last round that an earlier one had committed", killed.kept)
        outcome.check("all peers finish all rounds", killed.complete)
        if (
            not options.short
        ):  # with few peers, and few rounds, nearly all of the data is gone for nearly all of the time
            mean, spread = statistics.mean(unkilled[protocol]), statistics.stdev(unkilled[protocol])
            fits = all(abs(accuracy - mean) <= SPREADS * spread for accuracy in killed.survivors)
            outcome.check(f"survivors' final accuracy is within {SPREADS:g} spreads of runs in which nobody dies", fits)
        outcome.figures.setdefault("repetitions", []).append(
            {
                "protocol": protocol,
                "killed": killed.victims,
                "seconds": round(time.monotonic() - began, 1),
                "survivors": [round(a, 4) for a in killed.survivors],
                "returned": [round(a, 4) for a in killed.returned],
            }
        )
    outcome.figures["unkilled"] = {name: [round(a, 4) for a in found] for name, found in unkilled.items()}
    return outcome


def accuracies(file: Path) -> list[float]:
    """Final accuracies of all peers of an experiment in which nothing happens, over several seeds."""
    found: list[float] = []
    for seed in range(SEEDS):
        settings = Settings.read(file)
        settings.update(seed=seed, evaluate=settings["rounds"])
        result = simulate(out=None, **settings)
        found += [result.curve("accuracy", peer=id)[-1][1] for id in result.models]
    return found


class Trial:
    """One run with kills.

    Attributes:
        victims: who was killed, and in which round as far as could be seen.
        ended, kept, complete: see `run`.
        survivors, returned: final accuracies of those who were never killed, and of the others. Who comes back takes
            up its own round again, in which it is alone if the others are further by then.
    """

    def __init__(self, machines: Machines, peers: int, rounds: int, seed: int) -> None:
        self.machines, self.peers, self.rounds, self.rng = machines, peers, rounds, random.Random(seed)
        self.runs = machines.folder / "runs"
        self.victims: list[tuple[int, int]] = []

    def run(self) -> Trial:
        """Start all, kill some, start these again, and look at what they leave."""
        machines = self.machines
        first, *_ = machines.network("experiment.toml", self.peers - 1)
        ticket = first.ticket
        wait_for(lambda: len(list(peer_folders(self.runs))) == self.peers, machines.told)
        self.folders = list(peer_folders(self.runs))
        alive = {id: self._machine(id) for id in range(self.peers)}
        whom = self.rng.sample(range(self.peers), min(VICTIMS, self.peers - 1))
        for id in whom:
            at = self.rng.randrange(1, self.rounds // 2)
            wait_for(lambda at=at: self._reached() >= at, machines.told)  # type: ignore[misc]
            time.sleep(self.rng.uniform(0.0, 0.2))
            if not alive[id].process.is_alive():
                continue
            alive[id].kill()
            self.victims.append((id, self._round(id)))
            time.sleep(self.rng.uniform(0.0, 3.0))
            again = ("up", "experiment.toml") if alive[id] is first else ("join", ticket)
            alive[id] = machines.shoal(*again, "--http", "off")
        codes = [machine.end() for machine in alive.values()]
        self.ended = codes == [0] * self.peers
        lives = [entries(folder, "begins") for folder in self.folders]
        self.kept = all(self._kept(id, [int(entry["round"]) for entry in lives[id]]) for id in range(self.peers))
        facts = [RunFolder(folder).facts for folder in self.folders]
        self.complete = all((f.status, f.rounds) == ("finished", self.rounds) for f in facts)
        finals = {id: f.summary["accuracy"].mean for id, f in enumerate(facts)}
        gone = {id for id, _ in self.victims}
        self.survivors = [finals[id] for id in finals if id not in gone]
        self.returned = [finals[id] for id in finals if id in gone]
        return self

    def _machine(self, id: int) -> Machine:
        def found() -> list[Machine]:
            return [m for m in self.machines.started if f"peer {id} of {self.peers}" in m.err]

        wait_for(lambda: bool(found()), self.machines.told)
        return found()[0]

    def _round(self, id: int) -> int:
        return max((int(entry["round"]) for entry in entries(self.folders[id], "measured")), default=0)

    def _reached(self) -> int:
        return max(self._round(id) for id in range(self.peers))

    def _kept(self, id: int, begins: list[int]) -> bool:
        """Whether each later life began at or after what had been measured, and so committed, when the one before it
        was killed."""
        known = [r for victim, r in self.victims if victim == id]
        return begins == sorted(begins) and len(begins) == len(known) + 1 and all(map(int.__ge__, begins[1:], known))
