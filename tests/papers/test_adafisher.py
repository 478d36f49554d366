"""The claim's own arithmetic: its exact criteria, and how sweeps are judged."""

import pytest
import torch
from torch import nn

from shoal.papers import adafisher as paper


def test_the_exact_criteria_hold() -> None:
    assert paper.one_sample({}).holds
    assert paper.without_fisher({}).holds


def test_corrected_momentum_is_adams_numerator() -> None:
    """With beta2 = 0 and eps = 0 Adam divides it by |g|."""
    ours, theirs = (nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(2))
    first, second = paper.CorrectedMomentum([ours], 0.1), torch.optim.Adam([theirs], 0.1, betas=(0.9, 0.0), eps=0.0)
    for step in range(4):
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0 if step % 2 else 1.0], dtype=torch.float64)
        ours.grad, theirs.grad = signs.clone(), signs.clone()
        first.step()
        second.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("best", "plain", "by_half_a_point"), [(0.851, True, False), (0.856, True, True)])
def test_margins_are_in_points(best: float, plain: bool, by_half_a_point: bool) -> None:
    scores = {"AdaFisher": {0.1: best, 1.0: 0.2}, "Adam": {0.1: 0.3, 1.0: 0.85}}
    assert paper.above(scores, "Adam").holds is plain
    assert paper.above(scores, "Adam", 0.005).holds is by_half_a_point


def test_good_rates_are_counted_from_the_better_best() -> None:
    ours = {0.1: 0.80, 1.0: 0.83, 10.0: 0.84}
    assert paper.as_flat(ours, {0.1: 0.84, 1.0: 0.83, 10.0: 0.0}).holds
    assert not paper.as_flat(ours, {0.1: 0.86, 1.0: 0.86, 10.0: 0.0}).holds
