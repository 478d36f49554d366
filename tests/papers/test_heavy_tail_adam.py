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


def test_wrong_classes_are_alike() -> None:
    """Of the whole matrix of logits, the same slopes and losses."""
    shares, w, whole = zipf(7), torch.zeros(7, 2, dtype=torch.float64), torch.zeros(7, 7, dtype=torch.float64)
    for _ in range(20):
        w, whole = w - 3.0 * paper.pull(w, shares), whole - 3.0 * paper.slope(whole, shares)
    torch.testing.assert_close(w[:, 0], whole.diagonal(), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(w[1:, 1], whole[1:, 0], rtol=1e-12, atol=0.0)


def test_the_spread_is_taken_where_the_mean_loss_is_reached() -> None:
    """Gradient descent's against its restatement; steps of equal length on all classes leave none behind."""
    shares = zipf(20)
    found, step = paper.spread("gradient descent", 2.0, shares, 0.5)
    for t, reached in ((step - 1, False), (step, True)):
        losses = torch.as_tensor(restated.gradient_descent_losses(shares.numpy(), 2.0, t))
        assert bool(shares @ losses <= 0.5) is reached
    assert found == pytest.approx(float(losses[-2:].mean() / (shares @ losses)))
    assert paper.spread("Adam", 0.1, shares, 0.5)[0] == pytest.approx(1.0, abs=1e-6)
    assert paper.spread("Adam", 0.1, shares, -1.0, limit=3)[1] == 3
    with pytest.raises(ValueError, match=r"^name: got 'adam'; .* is allowed"):
        paper.spread("adam", 0.1, shares, 0.5)


def test_equal_shares_spoil_the_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "zipf", lambda classes: torch.full((classes,), 1 / classes, dtype=torch.float64))
    assert not paper.rarest("check", {}, classes=50).holds


def test_halves_are_split_at_the_mean_share() -> None:
    bins = FrequencyBins(torch.tensor([0, 1, 1, 1]), (1, 3), (30, 6))
    curves = FrequencyCurves(bins, (0,), {"x": torch.tensor([[1.0, 5.0]], dtype=torch.float64)}, {"x": 0.1})
    assert paper.halves(curves, "x") == (1.0, 5.0)


def test_a_check_tries_every_other_rate() -> None:
    assert paper.contenders("check", "Adam")["Adam"].rates == (3e-4, 3e-3, 3e-2)
    assert list(paper.contenders("full", "sign", "Adam")) == ["Adam", "sign"]
