"""Starts the processes of a group, with time limits, and none left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(module: str, size: int, *words: str) -> list[subprocess.Popen[str]]:
    """`python -m module words` in `size` processes, each with its RANK."""
    base = {**os.environ, "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return [
        subprocess.Popen(command, cwd=ROOT, env={**base, "RANK": str(rank)}, text=True, **pipes) for rank in range(size)
    ]


def wait(processes: list[subprocess.Popen[str]], timeout: float = 120.0) -> list[str]:
    """What each has written when all have ended; none lives on."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
