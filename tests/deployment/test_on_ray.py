"""The same experiments on a Ray cluster: they follow the simulation, and outlive hosts that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.deployment.on_ray import run_on_ray
from shoal.engine import ShoalError
from shoal.report import RunFolder, write_report
from shoal.simulation import Run, simulate
from shoal.simulation.simulate import Progress
from tests.net.ray.sessions import session

COMMON = {"task": "digits", "peers": 4, "partition": "dirichlet:0.5", "topology": "ring", "rounds": 3, "seed": 11}
LONG = {**COMMON, "topology": "complete", "rounds": 100_000, "evaluate": 10, "eval_samples": 50}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with session() as module:
        yield module


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"hosts": 5}, "hosts: got 5; 1 to 4, the number of peers, is allowed"),
        ({"gpus_per_host": -1.0}, "gpus_per_host: got -1.0"),
        ({"peeers": 3}, "'peeers' is not a setting"),
    ],
)
def test_what_is_impossible_is_refused_before_a_cluster_is_looked_for(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run_on_ray(**{"address": "nowhere:1", **COMMON, **more})


@pytest.mark.parametrize("protocol", ["gossip:steps=3", "dsgd", "fedavg:steps=3"])
def test_synchronous_protocols_follow_the_simulation(ray: Any, protocol: str, tmp_path: Path) -> None:
    simulated = simulate(protocol, **COMMON)
    run = run_on_ray(protocol=protocol, hosts=2, out=tmp_path, network="wan", **COMMON)
    assert run.models.keys() == simulated.models.keys()
    for id, model in run.models.items():
        torch.testing.assert_close(model, simulated.models[id], rtol=0, atol=1e-5)
    for name in ("loss", "accuracy"):
        assert run.curve(name) == pytest.approx(simulated.curve(name), abs=1e-5)
        assert run.final(name) == pytest.approx(simulated.final(name), abs=1e-5)
    sent = run.info["bytes"]
    assert sent["by_peer"] == simulated.info["bytes"]["by_peer"]
    assert sent["channels"] == simulated.info["bytes"]["channels"]
    assert [entry["settings"] for entry in run.events] == ["network"]
    assert run.folder is not None
    folder = RunFolder(run.folder)
    assert (folder.facts.status, folder.facts.rounds, len(folder.metrics)) == ("finished", 3, len(run.metrics))
    assert write_report([folder], tmp_path / "report.html").exists()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Killer:
    """Lets a long run go on for a while, kills its second host, lets it go on for longer, and interrupts it."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.killed: int | None = None
        self.run: Run | None = None
        self.rounds_then = 0
        self.asked = False

    def __call__(self, state: Progress) -> None:
        self.run = state.run
        if self.killed is None and state.done >= self.rounds:
            self.killed, self.rounds_then = state.run.info["hosts"][1]["process"], state.done
            os.kill(self.killed, signal.SIGKILL)
        elif self.killed is not None and not self.asked and self.enough(state):
            self.asked = True
            interrupt()

    def enough(self, state: Progress) -> bool:
        return state.done > self.rounds_then + 4 * self.rounds


class Awaiter(Killer):
    """Waits until the host's peers are back and have committed more than before."""

    def enough(self, state: Progress) -> bool:
        return super().enough(state) and "host restarted" in {e["event"] for e in state.run.events}


def run_with(killer: Killer, tmp_path: Path, **more: Any) -> Run:
    with pytest.raises(KeyboardInterrupt):
        run_on_ray(protocol="gossip:steps=1", hosts=2, out=tmp_path / "runs", progress=killer, **LONG, **more)
    assert killer.run is not None
    for host in killer.run.info["hosts"]:
        assert gone(host["process"])
    return killer.run


def gone(process: int) -> bool:
    """Whether a process has ended, within a while."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_peers_outlive_a_host_that_is_killed_and_ctrl_c_leaves_a_usable_folder(ray: Any, tmp_path: Path) -> None:
    killer = Killer(40)
    run = run_with(killer, tmp_path)
    rounds = {peer: max(r for _, r, _, p, _, _ in run.metrics if p == peer) for peer in range(4)}
    assert min(rounds[0], rounds[1]) > max(rounds[2], rounds[3])
    [lost] = [entry for entry in run.events if entry["event"] == "host lost"]
    assert lost["peers"] == [2, 3]
    noticed = [entry for entry in run.events if entry["event"] == "lost"]
    assert {entry["peer"] for entry in noticed} == {2, 3}
    folder = RunFolder(tmp_path / "runs" / "gossip-001")
    assert folder.facts.status == "interrupted"
    assert run.models.keys() == {0, 1}
    assert run.info["summary"]["accuracy"]["mean"] > 0.5


def test_a_host_that_dies_is_started_again_and_its_peers_go_on_from_their_store(ray: Any, tmp_path: Path) -> None:
    run = run_with(Awaiter(40), tmp_path, store=tmp_path / "store")
    assert run.models.keys() == {0, 1, 2, 3}
    reached = [r for _, r, _, peer, name, _ in run.metrics if peer == 3 and name == "loss"]
    assert reached == sorted(set(reached))  # no round is done twice, and none begins anew
    for event in ("host lost", "host restarted"):
        assert [entry["peers"] for entry in run.events if entry["event"] == event] == [[2, 3]]
    assert not list((tmp_path / "store").iterdir())


def test_a_protocol_that_fails_fails_the_run_with_its_own_words(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(ShoalError, match=r"peer \d failed at .* NaN or infinite"):
        run_on_ray(protocol="gossip", hosts=1, out=tmp_path, optimizer="sgd", lr=1e30, **COMMON)
    facts = RunFolder(tmp_path / "gossip-001").facts
    assert facts.status == "failed"
    assert "NaN" in str(facts.error)
