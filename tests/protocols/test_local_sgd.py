"""Local SGD with an outer step against the restatement of He, Zhuang and Wu, and its reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal import Run
from shoal.compression import Identity
from shoal.engine import Leave
from shoal.optim import SGD, AdamW, Rule
from shoal.protocols import FedAvg, LocalSGD, ParallelSGD
from tests.restatements.compression_b import local_sgd_scaling as restated

from . import runs

SIZES = (7, 20, 13)
LR = 0.07


def trained(protocol: Any, rule: Rule | None = None, sizes: tuple[int, ...] = SIZES, **settings: Any) -> Tensor:
    """The server's final model; batches are whole shards unless others are given."""
    task = runs.regression()
    options = {"batch": 0, **settings}
    return served(runs.run(protocol, task, runs.partition(task, sizes), rule or SGD.rule(LR), **options))


def served(run: Run) -> Tensor:
    (model,) = run.models.values()
    return model


def gradients() -> list[Callable[[Any, int], Any]]:
    task = runs.regression()
    data, pieces = runs.partition(task, SIZES)
    return [lambda w, step, rows=rows: runs.gradient(torch.from_numpy(w), data, rows).numpy() for rows in pieces]


@pytest.mark.parametrize(("steps", "outer_lr", "mu"), [(1, 1.0, 0.0), (4, 1.0, 0.0), (3, 0.6, 0.8), (5, 0.9, 0.5)])
def test_rounds_are_those_of_the_restatement(steps: int, outer_lr: float, mu: float) -> None:
    start = runs.start(runs.regression()).numpy()
    expected, _ = restated.local_sgd(start, gradients(), rounds=6, H=steps, lr=LR, outer_lr=outer_lr, mu=mu)
    found = trained(LocalSGD(steps, outer_lr, mu), rounds=6)
    np.testing.assert_allclose(found.numpy(), expected[-1], rtol=1e-12, atol=1e-13)


def test_adamw_keeps_its_moments_at_the_workers_as_in_the_restatement() -> None:
    start = runs.start(runs.regression()).numpy()
    expected, _ = restated.local_adamw(start, gradients(), rounds=5, H=3, lr=0.02, outer_lr=0.7, mu=0.9)
    found = trained(LocalSGD(3), AdamW.rule(0.02, weight_decay=0.0), rounds=5)
    np.testing.assert_allclose(found.numpy(), expected[-1], rtol=1e-9, atol=1e-12)


def test_one_step_and_plain_averaging_is_parallel_sgd_on_the_same_batches() -> None:
    local, parallel = (trained(protocol, rounds=9, batch=4) for protocol in (LocalSGD(1, 1.0, 0.0), ParallelSGD()))
    torch.testing.assert_close(local, parallel, rtol=1e-12, atol=1e-13)


def test_plain_averaging_of_equal_shards_is_fedavg_without_memory() -> None:
    settings: dict[str, Any] = {"sizes": (10, 10, 10), "rounds": 4, "batch": 5}
    local, fedavg = (trained(protocol, **settings) for protocol in (LocalSGD(6, 1.0, 0.0), FedAvg(steps=6)))
    torch.testing.assert_close(local, fedavg, rtol=1e-12, atol=1e-13)


def test_momentum_within_goes_on_from_round_to_round() -> None:
    rule = SGD.rule(LR, momentum=0.9)
    once, often = (trained(LocalSGD(h, 1.0, 0.0), rule, (20,), rounds=r) for h, r in ((6, 1), (2, 3)))
    torch.testing.assert_close(once, often, rtol=1e-12, atol=1e-13)


def test_the_mean_is_over_the_workers_that_are_there() -> None:
    gone = trained(LocalSGD(3), rounds=4, faults=[Leave(0.0, 2)])
    torch.testing.assert_close(gone, trained(LocalSGD(3), sizes=SIZES[:2], rounds=4), rtol=1e-12, atol=1e-13)


def test_without_compression_a_codec_changes_nothing() -> None:
    assert torch.equal(trained(LocalSGD(2), rounds=3), trained(LocalSGD(2), rounds=3, codec=Identity()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: got -1"),
        ({"outer_lr": 0.0}, "outer_lr: got 0.0"),
        ({"outer_momentum": 1.0}, "outer_momentum: got 1.0"),
        ({"timeout": 0.0}, "timeout: got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalSGD(**settings)
