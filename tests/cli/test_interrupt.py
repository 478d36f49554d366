"""Ctrl-C and kill, as a shell sees them."""

import os
import signal
import subprocess
import sys

import pytest

from shoal.report import RunFolder

# The process signals itself from within its display, in the middle of the run: no waiting, no guessing when.
SCRIPT = """
import itertools, os, signal, sys, time
from shoal.cli import main, progress

number, show = getattr(signal, sys.argv.pop(1)), progress.Lines.show

def signalling(self, state):
    show(self, state)
    if state.done >= 41:
        progress.Lines.show = show
        os.kill(os.getpid(), number)

progress.Lines.show = signalling
time.monotonic = itertools.count(step=0.2).__next__
main()
"""
WORDS = [
    "run", "gossip:steps=1", "--task", "digits", "--peers", "4",
    "--evaluate", "5", "--eval-samples", "20", "--rounds", "1000000",
]  # fmt: skip


def run(folder, signal_name):
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, signal_name, *WORDS]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_or_kill_leaves_a_usable_run_folder_and_says_where(tmp_path, shoal, signal_name):
    ended = run(tmp_path, signal_name)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "shoal: interrupted"
    assert "Traceback" not in ended.stderr
    assert "run: runs/gossip-001 (interrupted)" in ended.stdout.splitlines()
    assert "report: runs/gossip-001/report.html" in ended.stdout.splitlines()
    folder = RunFolder(tmp_path / "runs" / "gossip-001")
    assert folder.facts.status == "interrupted"
    assert folder.facts.rounds >= 10
    assert set(folder.metrics.round.tolist()) >= {0, 5, 10}
    page = (folder.path / "report.html").read_text()
    assert "interrupted" in page
    assert "interrupted" in shoal("compare", folder.path).out
    assert shoal("report", folder.path, "--out", tmp_path / "again.html").code == 0
    assert (tmp_path / "again.html").read_text() == page
    assert shoal("export", folder.path).code == 0


def test_a_killed_run_leaves_a_folder_that_can_be_compared(tmp_path, shoal):
    ended = run(tmp_path, "SIGKILL")
    assert ended.returncode == -signal.SIGKILL
    outcome = shoal("compare", "runs")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1].split()[-1] == "running"
    assert shoal("report", "runs").code == 0
