"""Gradient noise: statistics against loops, laws against a restatement written without seeing the code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from shoal.instruments import Surface
from shoal.instruments.noise import (
    SGDLaw,
    SignLaw,
    drawn_sign_rate,
    fit_tradeoff,
    gradient_statistics,
    hessian_diagonal,
    noise_scale_of_norms,
    normal_signs,
    per_sample_gradients,
)
from shoal.learning import Task
from shoal.learning.data import Data, Point, digits, quadratic, quadratic_loss, text
from shoal.learning.models import cnn, mlp, transformer
from shoal.tensors.random import key, normal, uniform
from tests.restatements.instruments import surge

from .small import hessian


def tasks() -> dict[str, Task]:
    images, characters = digits(), text(characters=3000, context=6)
    return {
        "mlp": Task("mlp", mlp(images, hidden=5), images),
        "cnn": Task("cnn", cnn(images, channels=2), images),
        "image transformer": Task("it", transformer(images, width=8, layers=1), images),
        "text": Task("text", transformer(characters, width=8, layers=1), characters),
    }


@pytest.mark.parametrize("name", ["mlp", "cnn", "image transformer", "text"])
def test_gradients_of_samples_are_those_taken_one_by_one(name: str) -> None:
    task = tasks()[name]
    model, some = task.initial(3), task.dataset.train[:7]
    found = torch.cat(list(per_sample_gradients(model, task.loss, some.inputs, some.targets, chunk=3)))
    for i in range(7):
        alone = Surface(model, task.loss, some.inputs[i : i + 1], some.targets[i : i + 1]).gradient()
        torch.testing.assert_close(found[i], alone, rtol=1e-4, atol=1e-6)


class Scaled(nn.Module):
    """x times a number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def test_a_parameter_may_be_a_number() -> None:
    x = torch.tensor([[1.0], [-3.0], [0.5]])
    (found,) = per_sample_gradients(Scaled(), lambda output, target: output.sum(1).square(), x, torch.zeros(3))
    torch.testing.assert_close(found, 4.0 * x.square())


def test_a_module_that_vmap_cannot_take_goes_one_by_one() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w if float(x.sum()) > 0 else -x * self.w

    x = torch.tensor([[1.0, 2.0], [-3.0, 1.0]])
    (found,) = per_sample_gradients(Branching(), lambda output, target: output.sum(1), x, torch.zeros(2))
    assert found.tolist() == [[1.0, 2.0], [3.0, -1.0]]


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_statistics_are_mean_and_variance_of_the_rows(chunk: int | None) -> None:
    task = tasks()["mlp"]
    model, some = task.initial(0), task.dataset.train[:11]
    rows = torch.cat(list(per_sample_gradients(model, task.loss, some.inputs, some.targets))).double()
    found = gradient_statistics(model, task.loss, some.inputs, some.targets, chunk=chunk, draws=3)
    torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.variance, rows.var(0), rtol=1e-4, atol=1e-12)
    # Each draw is a sum of deviations with signs, so that it is in their span, and its length is right on the mean.
    away = rows - rows.mean(0)
    signs = torch.linalg.lstsq(away.T, found.draws.T * math.sqrt(10)).solution.T
    torch.testing.assert_close(signs @ away, found.draws * math.sqrt(10), rtol=1e-3, atol=1e-6)


def test_draws_have_the_covariance() -> None:
    data = quadratic(dimension=4, samples=40, noise=1.0, dtype=torch.float64)
    model = Point(4).double()
    found = gradient_statistics(model, quadratic_loss, data.train.inputs, data.train.targets, draws=4000)
    rows = torch.cat(list(per_sample_gradients(model, quadratic_loss, data.train.inputs, data.train.targets)))
    torch.testing.assert_close(found.draws.T @ found.draws / 4000, rows.T.cov(), rtol=0.1, atol=0.03)


def test_the_simple_noise_scale_of_a_point_is_that_of_its_data() -> None:
    b = normal(5, (60, 3), dtype=torch.float64) + 1.0
    ones = torch.ones_like(b)
    found = gradient_statistics(Point(3).double(), quadratic_loss, b, ones)  # the gradient of a sample is -b
    trace, mean = float(b.var(0).sum()), float(b.mean(0).square().sum())
    assert found.simple_noise_scale(of=60) == pytest.approx(trace / mean, rel=1e-9)
    assert found.simple_noise_scale() == pytest.approx(trace / (mean - trace / 60), rel=1e-9)
    centred = gradient_statistics(Point(3).double(), quadratic_loss, b - b.mean(0), ones)
    assert centred.simple_noise_scale() == math.inf
    with pytest.raises(ValueError, match="of: got 59; at least the 60 samples"):
        found.simple_noise_scale(of=59)


def test_norms_at_two_batch_sizes_give_the_simple_noise_scale() -> None:
    trace, squared = 7.0, 0.25
    at = {b: squared + trace / b for b in (4, 64)}
    assert noise_scale_of_norms(4, 64, at[4], at[64]) == pytest.approx(trace / squared)
    with pytest.raises(ValueError, match="small, large: got 8 and 8"):
        noise_scale_of_norms(8, 8, 1.0, 1.0)


# -- the laws ----------------------------------------------------------------------------------------------------------


def problem(seed: int, d: int = 6) -> tuple[Tensor, Tensor, Tensor, SignLaw]:
    root = uniform(key(seed, "H"), (d, d), dtype=torch.float64)
    matrix = root @ root.T
    mean = 0.1 * uniform(key(seed, "mu"), d, dtype=torch.float64) - 0.02
    deviation = 0.5 + uniform(key(seed, "sigma"), d, dtype=torch.float64)
    return mean, deviation, matrix, SignLaw(mean, deviation, lambda v: matrix @ v, matrix.diagonal())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sign_law_is_the_restated_one(seed: int) -> None:
    mean, deviation, matrix, law = problem(seed)
    mu, sigma, H = mean.numpy(), deviation.numpy(), matrix.numpy()
    assert law.noise_scale == pytest.approx(surge.noise_batch(mu, sigma, H), rel=1e-12)
    assert law.peak == pytest.approx(surge.largest_rate(mu, sigma, H), rel=1e-12)
    for batch in (1, 7, 300, 10**6):
        assert law.rate(batch) == pytest.approx(surge.best_rate(mu, sigma, H, batch), rel=1e-12)
        assert law.gain(batch) == pytest.approx(surge.best_gain(mu, sigma, H, batch), rel=1e-12)
        expected = surge.surge_rate(law.peak, law.noise_scale, batch)
        assert law.approximate(batch) == pytest.approx(expected, rel=1e-12)
    assert law.rate(math.inf) == pytest.approx(float(mean.abs().sum() / (mean.sign() @ matrix @ mean.sign())))


def test_no_peak_is_told_where_there_is_none() -> None:
    one = torch.ones(2, dtype=torch.float64)
    matrix = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    law = SignLaw(one, one, lambda v: matrix @ v, matrix.diagonal())
    assert law.noise_scale == math.inf
    assert math.isnan(law.peak)
    assert law.rate(4) > 0
    bent = SignLaw(one, one, lambda v: -v, -one)
    assert math.isnan(bent.rate(4))
    assert math.isnan(bent.gain(4))


def test_coordinates_without_any_gradient_count_for_nothing() -> None:
    mean, deviation, matrix, law = problem(1, d=4)
    wide = torch.zeros(5, 5, dtype=torch.float64)
    wide[:4, :4], wide[4, 4] = matrix, 100.0
    pad = torch.zeros(1, dtype=torch.float64)
    wider = SignLaw(torch.cat([mean, pad]), torch.cat([deviation, pad]), lambda v: wide @ v, wide.diagonal())
    assert wider.rate(32) == pytest.approx(law.rate(32), rel=1e-12)
    assert wider.noise_scale == pytest.approx(law.noise_scale, rel=1e-12)


def test_signs_that_are_drawn_independently_like_the_laws_rate_best() -> None:
    mean, deviation, matrix, law = problem(2)
    for batch in (64, 1024):  # smaller ones take more draws
        signs = normal_signs(mean, deviation, batch, 100_000, seed=batch)
        slope, curvature = (signs @ mean).mean(), ((signs @ matrix) * signs).sum(1).mean()
        assert float(slope / curvature) == pytest.approx(law.rate(batch), rel=0.02)
        few = drawn_sign_rate(signs[:50], mean, lambda v: matrix @ v)
        assert few == pytest.approx(float((signs[:50] @ mean).sum() / ((signs[:50] @ matrix) * signs[:50]).sum()))


def test_sgds_law_is_the_restated_one_where_coordinates_are_independent() -> None:
    mean, deviation, matrix, _ = problem(0)
    noise = float((matrix.diagonal() * deviation.square()).sum())
    law = SGDLaw(float(mean @ mean), float(mean @ matrix @ mean), noise)
    mu, sigma, H = mean.numpy(), deviation.numpy(), matrix.numpy()
    assert law.noise_scale == pytest.approx(surge.sgd_noise_batch(mu, sigma, H), rel=1e-12)
    for batch in (1, 100, 10**5):
        assert law.rate(batch) == pytest.approx(surge.sgd_best_rate(mu, sigma, H, batch), rel=1e-12)


def test_sgds_rate_on_a_quadratic_is_best_by_drawing_batches() -> None:
    data = quadratic(dimension=5, samples=64, noise=0.5, dtype=torch.float64).train
    model = Point(5).double()
    surface = Surface(model, quadratic_loss, data.inputs, data.targets)
    found = gradient_statistics(model, quadratic_loss, data.inputs, data.targets, draws=3000)
    law, rows = SGDLaw.of(found, surface.hvp), torch.cat(list(per_sample_gradients(model, quadratic_loss, *pair(data))))
    for batch in (2, 16):
        drawn = rows[torch.randint(64, (20_000, batch), generator=torch.Generator().manual_seed(1))].mean(1)
        slope = (drawn @ found.mean).mean()
        curvature = (drawn * (drawn @ torch.diag(data.targets[0]))).sum(1).mean()
        assert law.rate(batch) == pytest.approx(float(slope / curvature), rel=0.05)


def pair(data: Data) -> tuple[Tensor, Tensor]:
    return data.inputs, data.targets


def test_the_diagonal_is_that_of_the_hessian() -> None:
    surface, matrix = hessian()
    exact = hessian_diagonal(surface.hvp, surface.size, probes=None)
    torch.testing.assert_close(exact, matrix.diagonal(), rtol=1e-9, atol=1e-12)
    diagonal = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
    once = hessian_diagonal(lambda v: diagonal @ v, 5, probes=1)
    torch.testing.assert_close(once, diagonal.diagonal())
    mean = hessian_diagonal(surface.hvp, surface.size, probes=3000)
    assert float(mean.sum()) == pytest.approx(float(matrix.trace()), rel=0.1)


def test_the_tradeoff_of_speed_and_data_is_recovered() -> None:
    least_steps, least_samples = 40.0, 8000.0
    batches = [10, 50, 200, 1000]
    found = fit_tradeoff(batches, [least_steps + least_samples / b for b in batches])
    assert found.least_steps == pytest.approx(least_steps)
    assert found.error < 1e-9
    steps = found.steps(77)
    expected = surge.noise_batch_from_trade_off(steps, 77 * steps, found.least_steps, found.least_samples)
    assert found.noise_scale == pytest.approx(expected) == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("batches", "steps", "message"),
    [([8, 8], [1, 2], "two or more different"), ([8, 16], [1.0, math.inf], "finite ones above 0")],
)
def test_a_tradeoff_needs_numbers(batches: list[float], steps: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_tradeoff(batches, steps)


def test_nothing_to_train_or_a_single_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 trained parameters"):
        next(iter(per_sample_gradients(nn.Flatten(), quadratic_loss, torch.zeros(2, 1), torch.zeros(2, 1))))
    with pytest.raises(ValueError, match="got 1 samples; at least 2"):
        gradient_statistics(Point(1), quadratic_loss, torch.zeros(1, 1), torch.zeros(1, 1))
