"""Losses by class frequency: bins, curves and closed forms, against a restatement written without seeing the code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from shoal.instruments.frequencies import (
    Reweighted,
    class_counts,
    class_weights,
    flow_losses,
    flow_margin,
    frequency_bins,
    frequency_curves,
    losses_by_bin,
    sign_losses,
    some_of,
    zipf,
)
from shoal.learning import Contender, Task, cross_entropy
from shoal.learning.data import Data, Dataset, heavy_tail, text
from shoal.learning.models import logistic, transformer
from shoal.optim import SGD
from shoal.tensors.random import integers, normal
from tests.restatements.instruments import class_imbalance as restated


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_universal_curve_is_the_one_found_by_bisection(classes: int) -> None:
    x = torch.cat([torch.zeros(1), torch.logspace(-6, 7, 60)]).double()
    expected = torch.from_numpy(restated.universal_margin(x.numpy(), classes))
    torch.testing.assert_close(flow_margin(x, classes), expected, rtol=1e-10, atol=1e-12)


def test_small_steps_follow_the_flows() -> None:
    shares = zipf(20)
    np.testing.assert_allclose(shares.numpy(), restated.zipf(20))
    descended = restated.gradient_descent_losses(shares.numpy(), 0.05, 400)
    np.testing.assert_allclose(flow_losses(shares, 20.0, 20).numpy(), descended, rtol=0.01)
    signed = restated.gradient_descent_losses(shares.numpy(), 0.01, 150, sign=True)
    np.testing.assert_allclose(sign_losses(shares, 1.5, 20).numpy(), signed, rtol=1e-9)


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_bins_are_the_restated_ones_without_the_empty(bins: int) -> None:
    for seed in range(5):
        counts = integers(seed, 50, 30) + 1
        counts[3] = 400
        place = torch.from_numpy(restated.class_bins(counts.numpy(), bins))
        found = frequency_bins(counts, bins)
        assert torch.equal(found.of_class, torch.unique(place, return_inverse=True)[1])
        assert sum(found.samples) == int(counts.sum())
        assert [int(counts[found.of_class == b].sum()) for b in range(len(found))] == list(found.samples)
        assert found.frequencies == sorted(found.frequencies, reverse=True)


def test_classes_without_samples_are_in_no_bin() -> None:
    found = frequency_bins(torch.tensor([0, 5, 0, 5]), 2)
    assert found.of_class.tolist() == [-1, 0, -1, 1]
    with pytest.raises(ValueError, match="got 0 bins and 3 samples"):
        frequency_bins(torch.tensor([3]), 0)


def test_losses_of_bins_are_means_over_their_samples() -> None:
    inputs, targets = normal(1, (300, 4)), integers(2, 6, 300)
    targets = torch.minimum(targets, integers(3, 6, 300))
    model = nn.Linear(4, 6)
    found = frequency_bins(class_counts(targets, 6), 3)
    losses = cross_entropy(model(inputs), targets).detach()
    expected = restated.bin_losses(losses.double().numpy(), targets.numpy(), found.of_class.numpy(), len(found))
    measured = losses_by_bin(model, Data(inputs, targets), found)
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-6)


def test_every_character_of_a_text_counts() -> None:
    dataset = text(characters=4000, context=8)
    data, classes = dataset.train, dataset.classes
    assert classes is not None
    model = transformer(dataset, width=8, layers=1)()
    found = frequency_bins(class_counts(data.targets, classes), 5)
    assert sum(found.samples) == data.targets.numel()
    weights = torch.tensor(found.samples, dtype=torch.float64)
    mean = float((losses_by_bin(model, data, found) * weights).sum() / weights.sum())
    assert mean == pytest.approx(float(cross_entropy(model(data.inputs), data.targets).double().mean()), rel=1e-5)
    assert len(some_of(data, 80)) == 10
    assert len(some_of(data, None)) == len(data)


def test_curves_are_those_of_plain_training_at_the_best_rate() -> None:
    dataset = heavy_tail(4, seed=1)
    task = Task("tail", logistic(dataset), dataset)
    sgd = Contender(SGD, rates=(0.01, 0.3, 1e9))
    found = frequency_curves(task, {"sgd": sgd}, steps=20, batch=None, bins=4, marks=(0, 20))
    assert found.rates == {"sgd": 0.3}
    model = task.initial(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    data = dataset.train
    ends = []
    for _ in range(2):
        ends.append(losses_by_bin(model, data, found.bins))
        for _ in range(20):
            optimizer.zero_grad()
            cross_entropy(model(data.inputs), data.targets).mean().backward()
            optimizer.step()
    torch.testing.assert_close(found.losses["sgd"], torch.stack(ends), rtol=1e-4, atol=1e-5)
    assert found.losses["sgd"][0].tolist() == pytest.approx([math.log(15)] * 4, abs=0.2)


def test_it_tells_of_every_step_and_between_what_is_measured() -> None:
    told: list[tuple[str, int, int]] = []
    contenders = {name: Contender(SGD, rates=(0.1, 0.3)) for name in ("one", "two")}
    task = Task("heavy", logistic(heavy_tail(3)), heavy_tail(3))
    frequency_curves(
        task, contenders, steps=4, batch=8, marks=(0, 2, 4), samples=16, tell=lambda *which: told.append(which)
    )
    steps = {name: [done for who, done, _ in told if who == name] for name in contenders}
    assert steps == {"one": [*range(1, 9), 8, 8, 8], "two": [*range(9, 17), 16, 16, 16]}


def test_a_task_without_classes_is_refused() -> None:
    data = Data(torch.zeros(3, 2), torch.zeros(3, 1))
    task = Task("r", lambda: nn.Linear(2, 1), Dataset("r", data, data))
    with pytest.raises(ValueError, match="r has no classes"):
        frequency_curves(task)
    with pytest.raises(ValueError, match="classes as whole numbers"):
        class_counts(torch.zeros(2), 3)


def test_weights_of_classes_are_inverse_roots_with_a_mean_of_one() -> None:
    counts = torch.tensor([90, 9, 1, 0])
    weights = class_weights(counts)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0)
    assert float(weights[1] / weights[0]) == pytest.approx(math.sqrt(10), rel=1e-6)
    assert weights[3] == 0
    output, target = normal(1, (5, 3, 4)), integers(2, 4, (5, 3))
    expected = torch.stack(
        [
            torch.stack([weights[t] * nn.functional.cross_entropy(o, t) for o, t in zip(row, own, strict=True)]).mean()
            for row, own in zip(output, target, strict=True)
        ]
    )
    torch.testing.assert_close(Reweighted(weights)(output, target), expected)
