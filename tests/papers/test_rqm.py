"""The claim's own arithmetic, and the mechanism that it compares with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shoal.papers import rqm as paper
from shoal.tensors import Layout, derive, key


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.exact(figures).holds
    assert paper.bound(figures).holds
    assert paper.divergences(figures).holds
    assert figures["D_2, Delta = 1.0 c, q = 0.42, RQM"] == pytest.approx(0.486, abs=1e-3)


def test_coins_that_are_as_private_have_the_same_divergence() -> None:
    law = paper.RQMLaw(0.3, 0.3)
    coins = paper.as_private(law, 7)
    assert paper.order_two(coins, 7) == pytest.approx(paper.order_two(law, 7), rel=1e-9)


@pytest.mark.parametrize("x", [-1.0, 0.2, 1.0])
def test_coins_come_up_heads_with_their_exact_probabilities(x: float) -> None:
    """40,000 draws, each number of heads within 5 standard errors."""
    law, layout, n = paper.PBM(1.0, 0.3), Layout.from_shapes({"x": (400,)}, dtype=torch.float64), 100
    codec = paper.Coins(law)
    rows = torch.full((n, 400), x, dtype=torch.float64)
    decoded = codec.decode_rows(codec.encode_rows(rows, {}, derive(key(1), torch.arange(n)), layout)[0], layout)
    heads = (decoded / (law.clip / (law.trials * law.theta)) + law.trials / 2).round().long().flatten().numpy()
    p, total = law.pmf(x), decoded.numel()
    found = np.bincount(heads, minlength=16) / total
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / total) + 3.0 / total).all()


@pytest.mark.parametrize(
    ("own", "other", "expected"), [(0.8, 0.79, [True, True]), (0.796, 0.8, [True, False]), (0.79, 0.8, [False, False])]
)
def test_accuracies_are_judged(own: float, other: float, expected: list[bool]) -> None:
    assert [finding.holds for finding in paper.judge(own, other, "data")] == expected


def test_rates_are_tuned_on_another_seed() -> None:
    for setting in (paper.CHECK, paper.FULL):
        assert setting.tuning_seed not in setting.seeds
