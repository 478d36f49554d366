"""The same protocol by real processes and in the simulated world: the same models, round by round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from tests.deployment.machines import Machines, peer_folders

from campaigns.outcome import Options, Outcome
from shoal.report import RunFolder
from shoal.simulation import simulate
from shoal.simulation.settings import Settings

EXPERIMENT = """protocol = "{protocol}"
task = "digits"
model = "mlp:hidden=16"
partition = "dirichlet:0.5"
topology = "{topology}"
peers = {peers}
rounds = 3
evaluate = 1
seed = 11
"""
PROTOCOLS = {  # synchronous ones: server or not, and what is wanted of the topology
    "gossip:steps=3": "ring",
    "dsgd": "exponential",
    "decavg:steps=3": "ring",
    "variance-corrected:steps=3": "ring",
    "one-byte": "complete",
    "demo": "complete",
    "fedavg:steps=3": "",
    "fedvote:steps=3": "",
    "parallel-sgd": "",
    "local-sgd:steps=3": "",
    "proxskip-vip": "",
    "masha1": "",
    "extragradient": "",
    "savic:steps=3": "",
    "terngrad": "",
    "distributed-lion": "",
    "onebit-adam": "",
}
SHORT = ("dsgd",)
TOLERANCE = 1e-5


def run(options: Options) -> Outcome:
    """8 processes of every synchronous protocol; in the short form 3 of one."""
    outcome = Outcome("conformance")
    processes = 3 if options.short else 8
    for number, (protocol, topology) in enumerate(PROTOCOLS.items()):
        if options.short and protocol not in SHORT:
            continue
        options.tell(f"conformance: {protocol}, {processes} processes")
        folder = options.folder / str(number)
        folder.mkdir()
        distance = farthest(folder, protocol, topology, processes)
        outcome.figures[protocol] = distance
        outcome.check(f"after three rounds every model is the simulation's to {TOLERANCE:g}", distance <= TOLERANCE)
    return outcome


def farthest(folder: Path, protocol: str, topology: str, processes: int) -> float:
    """The largest difference of an entry of a model between real peers and the simulation; infinity if one failed."""
    peers = processes if topology else processes - 1
    file = folder / "experiment.toml"
    file.write_text(EXPERIMENT.format(protocol=protocol, topology=topology or "ring", peers=peers))
    simulated = simulate(out=None, **Settings.read(file))
    machines = Machines(folder)
    try:
        codes = [machine.end() for machine in machines.network(file.name, processes - 1)]
        if any(codes):
            return float("inf")
    finally:
        machines.stop()
    worst = 0.0
    for run_folder in peer_folders(folder / "runs"):
        id = RunFolder(run_folder).facts.peer
        if id in simulated.models:
            model = load_file(run_folder / "model.safetensors")[f"peer/{id}/model"]
            worst = max(worst, float(np.abs(np.asarray(model - simulated.models[id])).max()))
    return worst
