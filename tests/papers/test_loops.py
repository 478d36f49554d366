"""Sweeps of learning rates: which rates, what is averaged, which one is best, in closed form."""

import math
from functools import partial

import pytest
import torch

from shoal.learning import Task
from shoal.learning.data import digits
from shoal.learning.models import mlp
from shoal.papers.loops import accuracies, around, best, good_rates, swept, trained


def test_rates_are_half_a_decade_apart_and_symmetric_about_the_middle() -> None:
    assert around(0.15, 2) == pytest.approx([0.015, 0.015 * 10**0.5, 0.15, 0.15 * 10**0.5, 1.5])
    assert around(1.0, 3, 2) == pytest.approx([10**-1.5, 10**-0.5, 10**0.5, 10**1.5])


def test_a_sweep_is_the_mean_of_separate_runs_and_what_diverges_has_no_loss() -> None:
    data = digits()
    task, how = Task("digits", mlp(data, 8, 1), data), {"steps": 20, "batch": 16}
    found = swept(task, torch.optim.SGD, [0.1, 1e30], seeds=(1, 2), **how)
    runs = [trained(task, partial(torch.optim.SGD, lr=0.1), seed=seed, **how) for seed in (1, 2)]
    assert found[0.1] == {what: (runs[0][what] + runs[1][what]) / 2 for what in ("accuracy", "loss")}
    assert found[1e30]["accuracy"] == 0.0
    assert math.isnan(found[1e30]["loss"])
    assert accuracies(found) == {0.1: found[0.1]["accuracy"], 1e30: 0.0}


def test_the_lowest_of_equally_good_rates_is_the_best() -> None:
    assert best({1.0: 0.8, 0.1: 0.8, 10.0: 0.7}) == (0.1, 0.8)


def test_rates_are_good_that_are_near_the_better_of_the_two_bests() -> None:
    ours, theirs = {0.1: 0.5, 1.0: 0.625, 10.0: 0.75}, {0.1: 0.875, 1.0: 0.0}
    assert good_rates(ours, theirs, within=0.25) == (2, 1)
    assert good_rates(theirs, ours, within=0.125) == (1, 1)
