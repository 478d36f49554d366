"""The exact criteria of the claims about data-parallel methods, which fail where the method is another one."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.compression import Ternary
from shoal.papers import data_parallel, demo, distributed_lion, onebit_adam, terngrad
from shoal.protocols import DistributedLion


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert terngrad.unbiased(1_000, figures).holds
    assert distributed_lion.as_lion(figures).holds
    assert onebit_adam.telescoping(figures).holds
    assert onebit_adam.small(32, figures).holds
    assert demo.transforms(figures).holds
    assert demo.small(32, figures).holds


def test_they_fail_for_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terngrad, "Ternary", lambda: Ternary(0.5))  # clips more than is accounted for
    assert not terngrad.unbiased(1_000, {}).holds
    monkeypatch.setattr(distributed_lion, "DistributedLion", lambda lr, average: DistributedLion(2 * lr))
    assert not distributed_lion.as_lion({}).holds
    forgetful = lambda m, g, error, beta1, layout: (onebit_adam.one_bit(m + g, layout), torch.zeros_like(m))  # noqa: E731
    monkeypatch.setattr(onebit_adam, "compensated", forgetful)
    assert not onebit_adam.telescoping({}).holds


def test_a_run_that_diverged_counts_as_nothing_and_never_arrives() -> None:
    assert data_parallel.final(None) == 0.0
    assert data_parallel.to_target(None, 0.5) == math.inf
