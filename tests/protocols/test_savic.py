"""SAVIC against the restatement, and what a diagonal that is known exactly does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal import Run, simulate
from shoal.learning import Task
from shoal.learning.data import Data, Dataset, quadratic_loss
from shoal.learning.data.synthetic import Point
from shoal.optim import SGD
from shoal.protocols import SAVIC, LocalSGD
from shoal.tensors.random import normal
from tests.restatements.compression_b import savic as restated

from . import runs

SIZES = (7, 20, 13)


def served(run: Run) -> Tensor:
    (model,) = run.models.values()
    return model


def play(protocol: Any, task: Task, pieces: Any, rounds: int) -> Run:
    """A run over ideal links without an optimizer; batches are whole shards."""
    options: dict[str, Any] = {"network": "ideal", "seed": 3, "workers": 1, "batch": 0, "peers": len(pieces[1])}
    return simulate(protocol, task=task, partition=pieces, rounds=rounds, **options)


def found(protocol: Any, rounds: int) -> Tensor:
    task = runs.regression()
    return served(play(protocol, task, runs.partition(task, SIZES), rounds))


@pytest.mark.parametrize("where", ["global", "local"])
@pytest.mark.parametrize("scaling", ["adam", "rmsprop"])
def test_rounds_are_those_of_the_restatement(where: Any, scaling: Any) -> None:
    """Batches are whole shards, so that estimates and steps have the same gradients on both sides."""
    task = runs.regression()
    data, pieces = runs.partition(task, SIZES)
    gradient = lambda m, x: runs.gradient(torch.from_numpy(x), data, pieces[m]).numpy()  # noqa: E731
    expected, _, _, _ = restated.run(
        runs.start(task).numpy(),
        lambda r, m, x, s: gradient(m, x),
        lambda r, m, x: gradient(m, x),
        clients=3,
        rounds=5,
        steps=4,
        gamma=0.02,
        rule=scaling,
        beta=0.7,
        alpha=0.05,
        scaling=where,
    )
    model = found(SAVIC(4, scaling, 0.02, 0.7, 0.05, where), 5)
    np.testing.assert_allclose(model.numpy(), expected[-1], rtol=1e-10, atol=1e-12)


def test_where_the_floor_is_above_every_estimate_it_is_local_sgd() -> None:
    scaled, plain = SAVIC(4, gamma=5.0, alpha=100.0), LocalSGD(4, 1.0, 0.0)
    task = runs.regression()
    pieces = runs.partition(task, SIZES)
    local = served(runs.run(plain, task, pieces, SGD.rule(0.05), rounds=6, batch=0))
    torch.testing.assert_close(found(scaled, 6), local, rtol=1e-12, atol=1e-13)


def bowl() -> tuple[Task, Tensor]:
    """A diagonal quadratic of condition 1e3, the same for all samples, and its minimiser."""
    a = torch.logspace(-3, 0, 6, dtype=torch.float64)
    b = normal(9, 6, dtype=torch.float64)
    data = Data(b.expand(8, -1).contiguous(), a.expand(8, -1).contiguous())
    return Task("bowl", lambda: Point(6).double(), Dataset("bowl", data, data), quadratic_loss, metrics={}), b


@pytest.mark.parametrize("where", ["global", "local"])
def test_oasis_without_memory_lands_on_the_minimum_of_a_diagonal_quadratic_in_one_step(where: str) -> None:
    task, minimum = bowl()
    pieces = (task.dataset.train, [torch.arange(2 * i, 2 * i + 2) for i in range(4)])
    run = play(SAVIC(1, "oasis", 1.0, 0.0, 1e-8, where), task, pieces, 1)
    torch.testing.assert_close(served(run), minimum, rtol=1e-12, atol=1e-12)
    plain = served(runs.run(LocalSGD(1, 1.0, 0.0), task, pieces, SGD.rule(1.9), rounds=100, batch=0))
    assert (plain - minimum).norm() > 0.1 * minimum.norm()


def test_global_scaling_sends_as_many_numbers_again() -> None:
    task = runs.regression()
    pieces = runs.partition(task, SIZES)
    channels = [play(SAVIC(2, where=where), task, pieces, 3).info["bytes"]["channels"] for where in ("global", "local")]
    assert channels[0]["estimate"]["messages"] == channels[0]["train"]["messages"] == 2 * 3 * 3
    assert "estimate" not in channels[1]


def test_the_first_renewal_takes_the_estimate_alone() -> None:
    """However long the memory: D starts at the estimate, not at a thousandth of it."""
    short, long = (found(SAVIC(3, "rmsprop", 0.01, beta, 0.01), 1) for beta in (0.0, 0.999))
    assert torch.equal(short, long)


@pytest.mark.parametrize(
    "settings",
    [{"gamma": 0.0}, {"alpha": 0.0}, {"beta": 1.0}, {"scaling": "lion"}, {"where": "nowhere"}, {"steps": -1}],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: got"):
        SAVIC(**settings)
