"""`shoal diagnose`: what it prints and leaves behind, Ctrl-C, and one line for what cannot be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

WORDS = ("diagnose", "digits", "--steps", 6, "--samples", 24, "--batch", 16)


def test_a_diagnosis_prints_sentences_and_leaves_numbers_and_a_page(shoal, tmp_path) -> None:
    outcome = shoal(*WORDS, "--only", "sharpness, noise", "--optimizer", "sgd:momentum=0.9")
    assert outcome.code == 0
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == [
        "Training",
        "Sharpness",
        "Gradient noise and batch size",
        "diagnosis",
        "report",
    ]
    assert outcome.value("report") == ["diagnosis/report.html"]
    assert "training: 17%" in outcome.err
    content = json.loads((tmp_path / "diagnosis" / "diagnosis.json").read_text())
    assert content["subject"]["optimizer"] == "sgd:momentum=0.9"
    assert list(content["found"]) == ["sharpness", "noise"]
    page = (tmp_path / "diagnosis" / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)  # nothing is fetched


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("diagnose", "digit"), "task: 'digit' is unknown; did you mean 'digits'?"),
        (("diagnose", "digits", "--only", "noises"), "only: 'noises' is unknown; did you mean 'noise'?"),
        (("diagnose", "digits", "--steps", "x"), "--steps: got 'x'"),
        (("diagnose", "nowhere.at_all:f"), "task: cannot import nowhere.at_all:f: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_is_one_line(shoal, tmp_path, words, message) -> None:
    lines = [line for line in shoal(*words).err.splitlines() if line != "preparing"]
    assert len(lines) == 1
    assert lines[0].startswith(f"shoal: {message}")
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import os, signal, sys
from shoal.cli import main, progress

call = progress.StageLines.__call__

def signalling(self, stage, *how_far):
    call(self, stage, *how_far)
    if stage == "noise":
        os.kill(os.getpid(), signal.SIGINT)

progress.StageLines.__call__ = signalling
main()
"""


def test_ctrl_c_leaves_what_was_found(tmp_path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, *map(str, WORDS), "--only", "sharpness,noise"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "shoal: interrupted"
    assert "Traceback" not in ended.stderr
    assert "diagnosis: diagnosis/diagnosis.json (interrupted)" in ended.stdout.splitlines()
    content = json.loads((tmp_path / "diagnosis" / "diagnosis.json").read_text())
    assert list(content["found"]) == ["sharpness"]
    assert content["finished"] is False
