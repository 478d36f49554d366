"""The claim's own arithmetic: its exact criterion, and the halves that losses are taken over."""

from __future__ import annotations

import pytest
import torch

from shoal.instruments.frequencies import FrequencyBins, FrequencyCurves, zipf
from shoal.papers import heavy_tail_adam as paper
from tests.restatements.instruments import class_imbalance as restated


def test_the_closed_form_holds() -> None:
    assert paper.closed_form({}, classes=60).holds


def test_steps_on_one_hot_inputs_are_the_restated_ones() -> None:
    shares, w = zipf(12), torch.zeros(12, 12, dtype=torch.float64)
    for _ in range(30):
        w -= 0.7 * paper.slope(w, shares)
    assert paper.losses_of(w).tolist() == pytest.approx(restated.gradient_descent_losses(shares.numpy(), 0.7, 30))


def test_halves_are_split_at_the_mean_share() -> None:
    bins = FrequencyBins(torch.tensor([0, 1, 1, 1]), (1, 3), (30, 6))
    curves = FrequencyCurves(bins, (0,), {"x": torch.tensor([[1.0, 5.0]], dtype=torch.float64)}, {"x": 0.1})
    assert paper.halves(curves, "x") == (1.0, 5.0)


def test_a_check_tries_every_other_rate() -> None:
    assert paper.contenders("check", "Adam")["Adam"].rates == (3e-4, 3e-3, 3e-2)
    assert list(paper.contenders("full", "sign", "Adam")) == ["Adam", "sign"]
