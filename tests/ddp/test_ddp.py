"""Optimizers that communicate, in two real processes over gloo, against the simulated protocols."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shoal.protocols import DeMo, DistributedLion, OneBitAdam

from ..protocols.compressed import watched
from .process import SIZES, STEPS

SIMULATED: dict[str, Any] = {
    "majority": DistributedLion(0.02, weight_decay=0.1),
    "average": DistributedLion(0.02, average=True),
    "1-bit adam": OneBitAdam(0.03, warmup=5),
    "demo": DeMo(0.02, 2, 0.8, 3),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each process wrote."""
    folder = tmp_path_factory.mktemp("processes")
    root = Path(__file__).parents[2]
    commands = [[sys.executable, "-m", "tests.ddp.process", str(rank), "2", str(folder)] for rank in range(2)]
    processes = [subprocess.Popen(c, cwd=root, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [load_file(str(folder / f"{rank}.safetensors")) for rank in range(2)]


@pytest.mark.parametrize("name", SIMULATED)
def test_processes_end_equal_bit_for_bit_and_where_the_protocol_does(name: str, ends: list[dict[str, Tensor]]) -> None:
    first, second = (end[f"end of {name}"] for end in ends)
    assert torch.equal(first, second)
    _, peers = watched.run(SIMULATED[name], SIZES, rounds=STEPS)
    torch.testing.assert_close(first, peers[0].model, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("name", "times"), [("majority", 20.0), ("1-bit adam", 20.0), ("demo", 100.0)])
def test_messages_are_smaller_than_ddps_buckets(name: str, times: float, ends: list[dict[str, Tensor]]) -> None:
    """One bit an entry is 32 times smaller, but for envelopes and sizes (some 200 bytes of 1,032 + 200)."""
    for end in ends:
        assert int(end["bytes of ddp"]) == 4 * (128 * 64 + 64)
        assert times * int(end[f"bytes of {name}"]) <= int(end["bytes of ddp"])


@pytest.mark.parametrize("name", ["majority", "1-bit adam", "demo"])
def test_nan_in_one_process_is_refused_by_all_and_nothing_moves(name: str, ends: list[dict[str, Tensor]]) -> None:
    assert [bool(end[f"refused by {name}"]) for end in ends] == [True, True]
