"""Real processes on loopback, started by the `shoal` command: they follow the simulation, and survive what happens.

`SHOAL_PEERS=8` runs the long form, with as many peers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from shoal.report import RunFolder
from shoal.simulation import simulate
from shoal.simulation.settings import Settings
from tests.deployment.machines import Machines, entries, peer_folders, wait_for

pytest.importorskip("iroh", reason="iroh is not installed")
PEERS = int(os.environ.get("SHOAL_PEERS", "3"))
COMMON = 'task = "digits"\nmodel = "mlp:hidden=16"\npartition = "dirichlet:0.5"\ntopology = "ring"\nseed = 11\n'
NET = "[net]\nbeat = 0.25\ndead = 2.0\nlinger = 20.0\n"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    started = Machines(tmp_path)
    yield started
    started.stop()


def write(folder: Path, protocol: str, peers: int, rounds: int, more: str = "") -> str:
    (folder / "experiment.toml").write_text(
        f'protocol = "{protocol}"\npeers = {peers}\nrounds = {rounds}\nevaluate = 1\n{COMMON}{more}{NET}'
    )
    return "experiment.toml"


def curves(folder: Path, peer: int) -> dict[tuple[int, str], float]:
    """(round, metric) -> value, of one peer."""
    metrics = RunFolder(folder).metrics
    rows = zip(metrics.round, metrics.metric, metrics.peer, metrics.value, strict=True)
    return {(int(r), str(name)): float(value) for r, name, who, value in rows if who == peer}


@pytest.mark.parametrize("protocol", ["gossip:steps=3", "dsgd", "fedavg:steps=3"])
def test_synchronous_protocols_follow_the_simulation(machines: Machines, tmp_path: Path, protocol: str) -> None:
    holders = PEERS - 1 if protocol.startswith("fedavg") else PEERS
    file = write(tmp_path, protocol, holders, rounds=3)
    settings = Settings.read(tmp_path / file)
    simulated = simulate(out=tmp_path / "simulated", **settings)
    for machine in machines.network(file, PEERS - 1):
        assert machine.end() == 0, machines.told()
    folders = list(peer_folders(tmp_path / "runs"))
    assert [folder.name for folder in folders] == [f"peer-{i}" for i in range(PEERS)]
    compared = 0
    for id, folder in enumerate(folders):
        facts = RunFolder(folder).facts
        assert (facts.status, facts.peer, facts.on) == ("finished", id, "iroh")
        models = load_file(folder / "model.safetensors")
        if id in simulated.models:
            np.testing.assert_allclose(models[f"peer/{id}/model"], simulated.models[id], rtol=0, atol=1e-5)
        expected = curves(simulated.folder, id)
        found = curves(folder, id)
        for place in expected.keys() & found.keys():
            assert found[place] == pytest.approx(expected[place], abs=1e-5), place
            compared += 1
    learners = 1 if protocol.startswith("fedavg") else PEERS
    assert compared >= learners * 4 * 2  # rounds 0 to 3, loss and accuracy


def test_pairwise_gossip_learns_as_in_simulations(machines: Machines, tmp_path: Path) -> None:
    file = write(tmp_path, "pairwise:steps=20", PEERS, rounds=40)
    settings = Settings.read(tmp_path / file)
    finals = [simulate(out=None, **{**settings, "seed": seed}).final() for seed in range(6)]
    for machine in machines.network(file, PEERS - 1):
        assert machine.end() == 0, machines.told()
    real = np.mean([RunFolder(folder).facts.summary["accuracy"].mean for folder in peer_folders(tmp_path / "runs")])
    spread = 3 * np.std(finals, ddof=1)
    assert np.mean(finals) - spread <= real <= np.mean(finals) + spread, (finals, real)


def test_killed_peers_go_on_at_their_last_committed_round(machines: Machines, tmp_path: Path) -> None:
    """The one that opened the network, and one that joined, are killed; the others do not wait for them."""
    rounds = 40
    file = write(tmp_path, "gossip:steps=20", PEERS, rounds)
    first, *others = machines.network(file, PEERS - 1)
    ticket = first.ticket
    wait_for(lambda: len(list(peer_folders(tmp_path / "runs"))) == PEERS, machines.told)
    folders = list(peer_folders(tmp_path / "runs"))
    last = next(m for m in others if f"peer {PEERS - 1} of" in m.err)
    victims = {0: first, PEERS - 1: last}
    wait_for(lambda: all(len(entries(folders[id], "measured")) >= 3 for id in victims), machines.told)
    for machine in victims.values():
        machine.kill()
    measured = {id: max(entry["round"] for entry in entries(folders[id], "measured")) for id in victims}
    wait_for(lambda: {entry["peer"] for entry in entries(folders[1], "lost")} >= set(victims), machines.told)
    back = [machines.shoal("up", file, "--http", "off"), machines.shoal("join", ticket, "--http", "off")]
    for machine in (*back, *(m for m in others if m is not last)):
        assert machine.end() == 0, machines.told()
    assert back[0].ticket == ticket
    assert list(peer_folders(tmp_path / "runs")) == folders
    for id, folder in enumerate(folders):
        lives = entries(folder, "begins")
        again = lives[-1]["round"]
        assert [entry["lives"] for entry in lives] == ([1, 2] if id in victims else [1])
        assert measured.get(id, 0) <= again < rounds
        facts = RunFolder(folder).facts
        assert (facts.status, facts.rounds) == ("finished", rounds)
        found = [r for r, name in curves(folder, id) if name == "accuracy"]
        assert found == sorted(found)
        lost = {again - 1} if id in victims else set()  # committed, and killed while it was evaluated
        left = entries(folder, "catches up")
        assert id in victims or not left
        lost |= {r for entry in left for r in range(entry["left"], entry["round"])}
        assert set(range(rounds + 1)) - set(found) <= lost
        assert (np.diff(RunFolder(folder).metrics.time) >= 0).all()
        assert (np.diff(RunFolder(folder).metrics.bytes) >= 0).all()


def test_a_stopped_network_goes_on_by_the_same_commands(machines: Machines, tmp_path: Path) -> None:
    rounds = 40
    file = write(tmp_path, "gossip:steps=20", PEERS, rounds)
    started = machines.network(file, PEERS - 1)
    ticket = started[0].ticket
    wait_for(lambda: len(list(peer_folders(tmp_path / "runs"))) == PEERS, machines.told)
    folders = list(peer_folders(tmp_path / "runs"))
    wait_for(lambda: all(len(entries(folder, "measured")) >= 3 for folder in folders), machines.told)
    for machine in started:
        machine.send(signal.SIGTERM)
    for machine in started:
        assert machine.end() == 130, machines.told()
        assert machine.err.splitlines()[-1] == "shoal: interrupted"
    reached = [RunFolder(folder).facts for folder in folders]
    assert {facts.status for facts in reached} == {"interrupted"}
    again = [machines.shoal("join", ticket, "--http", "off") for _ in range(PEERS - 1)]
    again.append(machines.shoal("up", file, "--http", "off"))
    for machine in again:
        assert machine.end() == 0, machines.told()
    assert again[-1].ticket == ticket
    assert list(peer_folders(tmp_path / "runs")) == folders
    for folder, before in zip(folders, reached, strict=True):
        assert (RunFolder(folder).facts.status, RunFolder(folder).facts.rounds) == ("finished", rounds)
        first, second = (entry["round"] for entry in entries(folder, "begins"))
        assert first == 0
        assert second in (before.rounds, before.rounds + 1)  # the latter where a commit was under way at the end
