"""`shoal nowcast`: runs are recorded, a nowcaster is trained on them, and says how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shoal.optim.nino import load


def test_a_nowcaster_is_made_from_recorded_runs_and_says_how(shoal: Any) -> None:
    runs = ("--runs", 2, "--steps", 120, "--batch", 8, "--families", "digits-cnn")
    done = shoal("nowcast", "record", "runs", *runs)
    assert done.value("recorded") == ["2 runs in runs"]
    assert "recording: 100%, digits-cnn" in done.err
    refused = shoal("nowcast", "record", "runs", *runs, "--every", 10).complaint
    assert refused.startswith(
        "folder: runs/00000.safetensors was recorded with every 5, not 10; the same settings, or another folder"
    )
    done = shoal("nowcast", "train", "runs", "--out", "n.safetensors", "--width", 4, "--steps", 2, "--horizon", 5)
    assert done.value("nowcaster") == ["n.safetensors"]
    assert done.value("error on runs that were held out")[0].startswith("nowcaster 0.")
    assert "training: 100%, error " in done.err
    told = json.loads(shoal("nowcast", "about", "n.safetensors").out)
    assert told["shape"]["width"] == 4
    assert told["training"]["settings"]["steps"] == 2
    assert told["training"]["recorded"]["steps"] == 120
    assert load(Path("n.safetensors")).shape.horizon == 5
    diverged = shoal("nowcast", "train", "runs", "--out", "d.safetensors", "--width", 4, "--steps", 6, "--lr", 1e30)
    assert diverged.code == 2
    assert diverged.err.splitlines()[-1] == (
        "shoal: lr: got 1e+30, with which the training diverged; a smaller one is needed"
    )
    assert not Path("d.safetensors").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_trained(shoal: Any) -> None:
    Path("file").write_text("")
    Path("folder").mkdir()
    shoal("nowcast", "record", "runs", "--runs", 1, "--steps", 240, "--batch", 8, "--families", "digits-cnn")
    for out, why in (("file/n", "Not a directory"), ("folder", "Is a directory")):
        assert shoal("nowcast", "train", "runs", "--out", out).complaint == f"out: cannot write {out}: {why}"
    assert shoal("nowcast", "record", "file").complaint == "out: cannot write file: Not a directory"


def test_the_package_s_own_is_told_without_a_file(shoal: Any) -> None:
    told = json.loads(shoal("nowcast", "about").out)
    assert told["network"] == "graph"


def test_what_cannot_be_is_said_in_a_line(shoal: Any) -> None:
    assert shoal("nowcast", "train", "none").complaint.startswith("folder: there is no recorded run in none")
    assert shoal("nowcast", "about", "none").complaint == "path: there is no file none"
    Path("folder").mkdir()
    assert shoal("nowcast", "about", "folder").complaint == "path: there is no file folder"
    assert shoal("nowcast", "record", "--steps", 4).complaint.startswith("every: got 5; at most the 4 steps of a run")
    assert shoal("nowcast", "record", "--families", "x").complaint.startswith("families: got x; allowed are digits-mlp")
    assert shoal("run", "gossip", "--optimizer", "nino+adam").complaint.startswith(
        "optimizer: nino+adam: rule: got adam for nino, which forecasts whole models"
    )
