"""Distributed Lion against its restatement and against Lion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shoal import simulate
from shoal.optim import Lion
from shoal.protocols import DistributedLion, Isolated
from shoal.tensors import packed_bits_size

from ...restatements.compression import distributed_lion as restated
from .. import runs
from . import watched


@pytest.mark.parametrize("workers", [1, 3, 4])
@pytest.mark.parametrize("zero", [0, -1])
@pytest.mark.parametrize("average", [False, True])
def test_the_trajectory_is_the_restatements(workers: int, zero: int, average: bool) -> None:
    sizes = (7, 5, 6, 9)[:workers]
    start = runs.start(runs.regression())
    kind: Any = "average" if average else "majority"
    method = restated.DistributedLion(
        start.numpy(), workers, lr=0.02, betas=(0.8, 0.95), weight_decay=0.3, aggregation=kind, zero=zero, tie=zero
    )
    for _ in range(15):
        method.step(watched.gradients(torch.from_numpy(method.x), sizes).numpy())
    _, peers = watched.run(DistributedLion(0.02, (0.8, 0.95), 0.3, average, zero), sizes, rounds=15)
    np.testing.assert_allclose(
        watched.models(peers).numpy(), np.tile(method.x, (workers + 1, 1)), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equal_gradients_everywhere_are_lion_bit_for_bit(workers: int, average: bool, decay: float) -> None:
    task = runs.regression()
    pieces = runs.same(task, workers)
    protocol = DistributedLion(0.01, weight_decay=decay, average=average)
    _, peers = watched.run(protocol, task=task, pieces=pieces, rounds=12)
    alone, _ = watched.run(Isolated(1), task=task, pieces=pieces, rule=Lion.rule(0.01, weight_decay=decay), rounds=12)
    assert torch.equal(watched.models(peers), runs.stack(alone)[:1].expand(workers + 1, -1))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("workers", [3, 4])
def test_bytes_are_those_of_the_formula(average: bool, workers: int) -> None:
    """Messages without zeros: ceil(d / 8) bytes up, and so many symbols down, beside 200 bytes of envelopes."""
    rounds = 3
    protocol = DistributedLion(1e-3, average=average, zero=-1)
    run = simulate(protocol, task="digits", model="mlp:128", peers=workers, rounds=rounds, batch=8, seed=5)
    d, count = run.info["parameters"], rounds * workers
    channels = {name: account["sent"] for name, account in run.info["bytes"]["channels"].items()}
    up = count * packed_bits_size(d, 1)
    bits = workers.bit_length() if average else 1  # N + 1 symbols
    down = count * packed_bits_size(d, bits)
    assert up < channels["up"] <= up + 240 * (count + workers)
    assert down < channels["down"] <= down + 240 * count


def test_zeros_are_kept_in_a_third_symbol_or_become_a_sign() -> None:
    """Of a weight whose input is always 0 there is no gradient."""
    task = runs.regression()
    task.dataset.train.inputs[:, 1] = 0.0
    w = runs.start(task)
    dead = torch.tensor([1, 1 + runs.WIDTH])
    for zero, moves in ((0, 0.0), (-1, 0.05), (1, -0.05)):
        found, _ = watched.run(DistributedLion(0.01, zero=zero), task=task, rounds=5)
        torch.testing.assert_close(runs.stack(found)[0][dead], w[dead] + moves, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"lr": -1.0}, "^lr"),
        ({"betas": (0.9, 1.0)}, "^betas"),
        ({"weight_decay": -1.0}, "^weight"),
        ({"zero": 2}, "^z"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DistributedLion(**settings)
