"""Hosts that are far apart, over slow links that lose packets, and a partition that heals: everybody finishes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from tests.deployment.machines import Machine, Machines, _command, entries, peer_folders, wait_for

from campaigns.hosts import Router, Wire, address, become, why_not
from campaigns.outcome import Options, Outcome
from shoal.report import RunFolder

EXPERIMENT = """protocol = "{protocol}"
task = "digits"
model = "mlp:hidden={hidden}"
topology = "complete"
peers = {peers}
rounds = {rounds}
evaluate = 1
seed = 11

[net]
beat = 0.5
dead = {dead}
linger = 60.0
"""


def run(options: Options) -> Outcome:
    """4 hosts, and a partition of 10 s; in the short form 3 hosts, and 6 s."""
    outcome = Outcome("links")
    if (why := why_not()) is not None:
        outcome.skipped.append(why)
        return outcome
    outcome.figures["wire"] = vars(Wire())
    if options.short:
        divided(options, outcome, "gossip:steps=5", hosts=3, rounds=25, seconds=6.0, dead=1.5)
    else:
        divided(options, outcome, "gossip:steps=5", hosts=4, rounds=80, seconds=10.0, dead=5.0)
        divided(options, outcome, "pairwise:steps=5", hosts=4, rounds=80, seconds=10.0, dead=5.0)
        larger(options, outcome)
    return outcome


class Hosts(Machines):
    """Commands on hosts of their own."""

    def __init__(self, folder: Path, router: Router) -> None:
        super().__init__(folder)
        self.router = router

    def on(self, host: int, *words: object) -> Machine:
        """Run a command on a host, which listens at its address."""
        stem = self.folder / f"host-{host}"
        everything = [*map(str, words), "--http", "off", "--bind", f"{address(host)}:0"]
        arguments = (host, self.router.path, everything, str(self.folder), str(stem))
        process = self._context.Process(target=_hosted, args=arguments)
        process.start()
        machine = Machine(process, stem)
        self.started.append(machine)
        return machine

    def all(self, hosts: int) -> list[Machine]:
        """Peer i on host i."""
        first = self.on(0, "up", "experiment.toml", "--id", 0)
        ticket = first.ticket
        return [first, *(self.on(i, "join", ticket, "--id", i, "--out", f"runs-{i}") for i in range(1, hosts))]

    def folders(self, hosts: int) -> list[Path]:
        """Their run folders, once all are there."""

        def found() -> list[Path]:
            places = [self.folder / ("runs" if i == 0 else f"runs-{i}") for i in range(hosts)]
            return [path for place in places for path in peer_folders(place)]

        wait_for(lambda: len(found()) == hosts, self.told)
        return found()


def _hosted(host: int, router: str, words: list[str], folder: str, stem: str) -> None:
    become(host, router)
    _command(words, folder, stem)


def divided(
    options: Options, outcome: Outcome, protocol: str, *, hosts: int, rounds: int, seconds: float, dead: float
) -> None:
    """A run in whose middle host 0 and half of the others are cut off from the rest."""
    options.tell(f"links: {protocol}, {hosts} hosts, a partition of {seconds:g} s")
    folder = options.folder / protocol.partition(":")[0]
    folder.mkdir()
    text = EXPERIMENT.format(protocol=protocol, hidden=16, peers=hosts, rounds=rounds, dead=dead)
    (folder / "experiment.toml").write_text(text)
    router = Router(folder / "router", Wire())
    machines = Hosts(folder, router)
    began = time.monotonic()
    try:
        started = machines.all(hosts)
        folders = machines.folders(hosts)
        wait_for(lambda: all(_rounds(f) >= 3 for f in folders), machines.told)
        side = range((hosts + 1) // 2)
        cut_at = time.time()
        router.divide(side)
        time.sleep(seconds)
        router.divide(())
        healed_at = time.time()
        codes = [machine.end() for machine in started]
    finally:
        machines.stop()
        router.close()
    outcome.check("every host finishes", not any(codes))
    facts = [RunFolder(f).facts for f in folders]
    outcome.check("all rounds are done", all((f.status, f.rounds) == ("finished", rounds) for f in facts))
    noticed: dict[frozenset[int], float] = {}
    mended: dict[frozenset[int], float] = {}
    for i, f in enumerate(folders):
        for e in entries(f, "lost"):
            if cut_at < e["at"] < healed_at + dead and e["why"] != "said goodbye":
                noticed.setdefault(frozenset({i, e["peer"]}), e["at"] - cut_at)
        for e in entries(f, "connected again"):
            if e["at"] > healed_at:
                mended.setdefault(frozenset({i, e["peer"]}), e["at"] - healed_at)
    across = {frozenset({i, j}) for i in range(hosts) for j in range(hosts) if (i in side) != (j in side)}
    outcome.check("every pair that is cut off notices it, and no other pair is lost", set(noticed) == across)
    outcome.check("every pair that was cut off is connected again", across <= set(mended))
    accuracies = [f.summary["accuracy"].mean for f in facts]
    outcome.figures[protocol] = {
        "seconds": round(time.monotonic() - began, 1),
        "noticed after": _spread(list(noticed.values())),
        "mended after": _spread(list(mended.values())),
        "accuracies": [round(a, 4) for a in accuracies],
        "packets": {"carried": router.carried, "lost": router.lost, "cut off": router.cut},
    }


def larger(options: Options, outcome: Outcome) -> None:
    """Models of a megabyte, which take several streams."""
    options.tell("links: large models")
    folder = options.folder / "larger"
    folder.mkdir()
    text = EXPERIMENT.format(protocol="dsgd", hidden=3500, peers=3, rounds=4, dead=5.0)
    (folder / "experiment.toml").write_text(text)
    router = Router(folder / "router", Wire())
    machines = Hosts(folder, router)
    try:
        started = machines.all(3)
        folders = machines.folders(3)
        codes = [machine.end() for machine in started]
    finally:
        machines.stop()
        router.close()
    outcome.check("every host finishes", not any(codes))
    measured = [[e["at"] for e in entries(f, "measured")] for f in folders]
    outcome.figures["larger"] = {
        "parameters": RunFolder(folders[0]).info["parameters"],
        "seconds a round": round(statistics.median((at[-1] - at[0]) / 4 for at in measured), 2),
        "lost": sum(e["why"] != "said goodbye" for f in folders for e in entries(f, "lost")),
    }


def _rounds(folder: Path) -> int:
    return max((int(e["round"]) for e in entries(folder, "measured")), default=0)


def _spread(values: list[float]) -> dict[str, Any]:
    return {"least": round(min(values), 2), "most": round(max(values), 2)} if values else {}
