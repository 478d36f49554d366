"""Experiments in groups of real processes: they follow the simulation, refuse, fail, stop and go on all together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shoal.deployment.on_torch import _GroupRun, unfinished
from shoal.report import RunFolder
from shoal.simulation import simulate
from shoal.tensors.payload import decode
from tests.net import processes
from tests.net.processes import ROOT

from .torch_process import EXPERIMENTS, FATAL, REFUSED, SIZE, Fatal

PROCESS = "tests.deployment.torch_process"


@pytest.fixture(scope="module")
def all_seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process of a group saw of all experiments, by rank."""
    folder = tmp_path_factory.mktemp("conformance")
    started = processes.start(PROCESS, SIZE, "conformance", str(folder))
    said = processes.wait(started)
    assert [process.returncode for process in started] == [0] * SIZE, said
    assert not (folder / "runs").exists()  # what is refused leaves nothing behind
    return [decode((folder / f"{rank}.bin").read_bytes()) for rank in range(SIZE)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_group_follows_the_simulation_bit_for_bit_and_byte_for_byte(
    name: str, all_seen: list[dict[str, Any]]
) -> None:
    if name == "synchronous-sgd":
        pytest.skip("an all-reduce adds in an order of its own, and moves less")
    simulated = simulate(**EXPERIMENTS[name], batched=False)  # as in a group, peers are computed one by one
    for rank, seen in enumerate(all_seen):
        assert torch.equal(seen[name]["model"], simulated.models[rank])
        assert seen[name]["bytes"] == simulated.info["bytes"]
    assert [seen[name]["models"] for seen in all_seen] == [[0, 1, 2, 3], [1], [2], [3]]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_peers_computed_in_stacks_are_followed_as_closely_as_floats_allow(
    name: str, all_seen: list[dict[str, Any]]
) -> None:
    if name in ("demo", "gossip, coded"):
        pytest.skip("signs and roundings turn the last bits of a float into whole steps")
    simulated = simulate(**EXPERIMENTS[name])
    for rank, seen in enumerate(all_seen):
        torch.testing.assert_close(seen[name]["model"], simulated.models[rank], rtol=0, atol=1e-5)


@pytest.mark.parametrize("protocol", REFUSED)
def test_what_a_group_cannot_do_is_refused_by_all_before_anything_runs(
    protocol: str, all_seen: list[dict[str, Any]]
) -> None:
    said = {seen[f"refused, {protocol}"] for seen in all_seen}
    assert len(said) == 1
    assert REFUSED[protocol] in said.pop()


def test_processes_with_different_settings_are_told_which_differ(all_seen: list[dict[str, Any]]) -> None:
    assert all_seen[0]["refused, seeds"].startswith("ValueError: seed: got 0 at rank 0, and 1 at rank 2")
    assert all_seen[3]["refused, seeds"].startswith("ValueError: seed: got 1 at rank 3, and 0 at rank 0")


def test_a_killed_process_is_named_and_the_run_goes_on_where_all_had_been(tmp_path: Path) -> None:
    first = processes.start(PROCESS, 3, "fatal", str(tmp_path), str(tmp_path / "first"))
    said = processes.wait(first)
    assert [process.returncode for process in first] == [3, -signal.SIGKILL, 3], said
    assert all("PeerLost: peer 1 is lost: its process has given no sign of life" in said[rank] for rank in (0, 2))
    folder = tmp_path / "runs" / "fatal-001"
    failed = RunFolder(folder)
    assert (failed.facts.status, failed.info["rounds"]) == ("failed", 4)
    assert str(failed.facts.error).startswith("peer 1 is lost")

    second = processes.start(PROCESS, 3, "fatal", str(tmp_path), str(tmp_path / "second"))
    said = processes.wait(second)
    assert [process.returncode for process in second] == [0] * 3, said
    run = RunFolder(folder)
    assert (run.facts.status, run.info["rounds"], run.info["lives"]) == ("finished", 8, 2)
    assert [event["event"] for event in run.events()] == ["goes on"]
    assert not (folder / "peers").exists()

    simulated = simulate(Fatal(), **FATAL, batched=False)  # as if nothing had happened
    models = load_file(folder / "model.safetensors")
    assert all(torch.equal(models[f"peer/{i}/model"], simulated.models[i]) for i in range(3))
    assert run.info["bytes"] == simulated.info["bytes"]
    measured = [(row[1], row[3], row[4], row[5]) for row in simulated.metrics if row[3] >= 0 and row[4] == "accuracy"]
    m = run.metrics.of("accuracy")
    assert sorted(zip(m.round, m.peer, m.metric, m.value, strict=True)) == sorted(measured)


def test_ctrl_c_at_one_process_stops_all_and_leaves_a_usable_folder(tmp_path: Path) -> None:
    words = ("run", "gossip:steps=1", "--task", "digits", "--rounds", "1000000", "--evaluate", "10")
    on = f"torch:timeout=60,meeting=file://{tmp_path}/meeting"
    started = processes.start("shoal", 2, *words, "--out", str(tmp_path), "--on", on)
    kept = tmp_path / "gossip-001" / "peers" / "1"
    deadline = time.monotonic() + 90.0
    try:
        while not list(kept.glob("round-*.bin")) and time.monotonic() < deadline:
            time.sleep(0.1)
        started[1].send_signal(signal.SIGINT)
    finally:
        said = processes.wait(started, 60.0)
    assert [process.returncode for process in started] == [130, 130], said
    assert "shoal: interrupted" in said[0]
    assert said[1] == ""  # one of them speaks
    run = RunFolder(tmp_path / "gossip-001")
    assert run.facts.status == "interrupted"
    assert set(run.metrics.peer.tolist()) == {0, 1}
    assert len(load_file(run.path / "model.safetensors")) == 2
    assert (run.path / "report.html").is_file()
    assert unfinished(tmp_path, "gossip", run.info["config"]) == run.path
    assert unfinished(tmp_path, "gossip", {**run.info["config"], "seed": 1}) is None
    assert unfinished(tmp_path, "other", run.info["config"]) is None


def test_a_run_folder_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    first, second = (_GroupRun(None, None, tmp_path, None) for _ in range(2))  # type: ignore[arg-type]
    assert first._claim(tmp_path)
    assert not second._claim(tmp_path)
    first.release()
    assert second._claim(tmp_path)
    second.release()


def test_torchrun_runs_a_settings_file(tmp_path: Path) -> None:
    (tmp_path / "experiment.toml").write_text(
        'protocol = "dsgd"\ntask = "digits"\npeers = 2\nrounds = 2\nnetwork = "wan"\nname = "filed"\n'
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "shoal", "run", "experiment.toml", "--on", "torch"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run: runs/filed-001") == 1
    info = json.loads((tmp_path / "runs" / "filed-001" / "run.json").read_text())
    assert (info["status"], info["on"], info["peers"], info["rounds"]) == ("finished", "torch", 2, 2)
    assert "peer" not in info
    events = [json.loads(line) for line in (tmp_path / "runs" / "filed-001" / "log.jsonl").read_text().splitlines()]
    assert [event["settings"] for event in events] == [["network"]]
