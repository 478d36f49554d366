"""Stopping: the first Ctrl-C or SIGTERM asks, the second ends the process, and what others handle is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The process signals itself, so that nothing depends on when.
SCRIPT = """
import os, signal, sys
from shoal.interrupt import stopping, terminate_as_interrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
terminate_as_interrupt()
asked = []
with stopping(lambda: asked.append(True)):
    for word in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, word))
        print("goes on", len(asked), flush=True)
print("ends", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def run(*signals: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *signals], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_the_first_asks_and_the_second_ends_at_once(first: str, second: str) -> None:
    assert run(first) == (0, ["goes on 1", "ends True"])
    assert run(first, second) == (130, ["goes on 1"])


def test_signals_that_something_else_handles_are_left_alone() -> None:
    from shoal.interrupt import stopping

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stopping(lambda: heard.append(-1)):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] * 2
