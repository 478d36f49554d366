"""Synchronous data-parallel SGD: many workers are one with the large batch, and share out one shuffle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.engine import Link, Refused, ShoalError
from shoal.optim import SGD, Rule
from shoal.optim.schedules import constant, gradual_warmup, step_decay
from shoal.protocols import SynchronousSGD
from shoal.tensors.random import shuffled

from ..restatements import linear_scaling_warmup as restated
from . import runs

SAMPLES = 60


def run(protocol: SynchronousSGD, workers: int, rule: Rule | None = None, **options: Any) -> Tensor:
    task = runs.regression(SAMPLES)
    return runs.stack(runs.run(protocol, task, runs.same(task, workers), rule, **options))


def batches(workers: int, n: int, seed: int, epochs: int) -> list[list[Any]]:
    """[step][worker]: what the restatement makes of the epochs' shuffles."""
    orders = [shuffled(seed, epoch, torch.arange(SAMPLES), SAMPLES)[0].numpy() for epoch in range(epochs)]
    return [step for order in orders for step in restated.split_epoch(order, workers, n)]


@settings(max_examples=12)
@given(workers=st.integers(1, 6), n=st.integers(1, 10), seed=st.integers(0, 99), momentum=st.sampled_from([0.0, 0.9]))
def test_the_trajectory_is_the_restatements(workers: int, n: int, seed: int, momentum: float) -> None:
    task = runs.regression(SAMPLES)
    data, steps = task.dataset.train, 7
    seen = batches(workers, n, seed, 1 + steps)[:steps]
    schedule = gradual_warmup(step_decay(0.2, [5]), start=0.05, steps=4)

    def summed(w: Any, batch: Any) -> Any:
        return len(batch) * runs.gradient(torch.from_numpy(w), data, torch.from_numpy(batch)).numpy()

    expected = restated.data_parallel_sgd(
        runs.start(task).numpy(), seen, summed, [schedule(t) for t in range(steps)], momentum, 1e-2
    )
    rule = SGD.rule(momentum=momentum, weight_decay=1e-2)
    found = run(SynchronousSGD(n, schedule, seed), workers, rule, rounds=steps)
    np.testing.assert_allclose(found.numpy(), np.tile(expected[-1], (workers, 1)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("workers", [2, 4, 6])
def test_workers_that_cover_the_set_in_a_step_are_gradient_descent(workers: int) -> None:
    task = runs.regression(SAMPLES)
    w = runs.start(task)
    for _ in range(5):
        w = w - 0.3 * runs.gradient(w, task.dataset.train)
    found = run(SynchronousSGD(SAMPLES // workers), workers, SGD.rule(0.3), rounds=5)
    torch.testing.assert_close(found, w.expand(workers, -1), rtol=1e-12, atol=1e-13)


def test_all_workers_stay_equal_bit_for_bit() -> None:
    found = run(SynchronousSGD(4, constant(0.1)), 5, SGD.rule(momentum=0.9), rounds=20)
    assert all(torch.equal(found[0], row) for row in found)


def test_an_epoch_shows_every_worker_other_samples_and_the_next_one_another_order() -> None:
    per_epoch = SAMPLES // 4 // 5
    steps = batches(4, 5, 3, 2)
    first, second = (np.concatenate([b for step in part for b in step]) for part in (steps[:3], steps[3:]))
    assert per_epoch == 3
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(SAMPLES))
    assert first.tolist() != second.tolist()


def test_without_a_schedule_the_optimizers_own_rate_counts() -> None:
    own, given_ = (
        run(SynchronousSGD(5), 3, SGD.rule(0.07), rounds=4),
        run(SynchronousSGD(5, constant(0.07)), 3, rounds=4),
    )
    assert torch.equal(own, given_)


def test_a_batch_that_the_set_does_not_hold_for_each_worker_is_refused() -> None:
    with pytest.raises((ValueError, ShoalError), match="batch: got 16 for 4 workers"):
        run(SynchronousSGD(16), 4)


def test_a_graph_that_is_not_complete_and_links_that_lose_messages_are_refused() -> None:
    with pytest.raises((ValueError, ShoalError), match="complete is needed"):
        run(SynchronousSGD(5), 4, topology="ring")
    with pytest.raises(Refused, match="lose"):
        run(SynchronousSGD(5), 3, network=[Link(loss=0.1)] * 3)
