"""The claim's own arithmetic: exact criteria, grids of equal budgets, stacked training, and how contests are judged."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shoal.learning.data.images import FASHION_MNIST, find
from shoal.learning.gans import GAN, dense_gan, mixture
from shoal.optim import TTUR, constant
from shoal.papers import ttur_fid as paper
from tests.restatements.instruments import fid as restated


def test_the_exact_criteria_hold() -> None:
    assert all(finding.holds for finding in paper.exact({}))


def test_the_toy_is_the_restatements() -> None:
    """With the same noise."""
    random = torch.Generator().manual_seed(4)
    noise = [torch.randn(2, 1, generator=random, dtype=torch.float64)[:, 0] for _ in range(40)]
    found = paper.play(constant(3e-3), constant(3e-2), 40, 4, paths=1)
    path = restated.two_time_scales(0.5, 0.5, 3e-3, 3e-2, 40, lambda t: (float(noise[t][0]), float(noise[t][1])))
    expected = torch.tensor([math.hypot(x, y) for x, y in path[1:]], dtype=torch.float64)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("rates", [3, 4])
def test_grids_are_equally_long_over_one_range(rates: int) -> None:
    pairs, single = paper.grids(rates)
    assert len(set(pairs)) == len(set(single)) == rates * (rates - 1)
    assert all(a != b for a, b in pairs)
    assert all(a == b for a, b in single)
    for ends in (min, max):
        assert ends(r for pair in pairs for r in pair) == pytest.approx(ends(r for r, _ in single))


def losses(gan: GAN, x: Tensor, z: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The generator's and the discriminator's."""
    g, d, softplus = gan.generator, gan.discriminator, torch.nn.functional.softplus
    return lambda: softplus(-d(g(z))).mean(), lambda: (softplus(-d(x)) + softplus(d(g(z)))).mean()


def test_stacked_gans_train_as_one_does_alone() -> None:
    """Against TTUR of two of torch's Adams, with the same batches and noise."""
    data, seeds, pairs = mixture(500, seed=3)[0], (5, 6), [(1e-3, 3e-3), (2e-3, 1e-3)]
    stacked = paper.trained(lambda: dense_gan(2, 3, 8), data, pairs, seeds, steps=5, batch=16)
    for found, (a, b), seed in zip(stacked, pairs, seeds, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            gan = dense_gan(2, 3, 8)
        optimizer = TTUR.of(
            torch.optim.Adam,
            gan.generator.parameters(),
            gan.discriminator.parameters(),
            generator_lr=a,
            discriminator_lr=b,
            betas=(0.5, 0.999),
        )
        random = torch.Generator().manual_seed(seed)
        for _ in range(5):
            x = data[torch.randint(500, (16,), generator=random)]
            optimizer.step(*losses(gan, x, torch.randn(16, 3, generator=random)))
        for p, expected in zip(found.parameters(), gan.generator.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("two", "holds"), [((0.1, 0.2, 0.299), True), ((0.1, 0.2, 0.301), False)])
def test_contests_are_judged_by_means(two: tuple[float, ...], holds: bool) -> None:
    assert paper.judged("mixture", [(0.1, 0.2), (0.3, 0.3)], two, (0.3, 0.2, 0.1)).holds is holds


def test_digits_are_drawn_large() -> None:
    assert paper.large(torch.rand(2, 64)).shape == (2, 784)
    x = torch.rand(2, 784)
    assert paper.large(x) is x


@pytest.mark.skipif(find(FASHION_MNIST) is None, reason="Fashion-MNIST is not on this machine")
def test_the_distance_rises_with_noise_and_blur() -> None:
    figures: dict[str, float] = {}
    assert [finding.holds for finding in paper.spoilt(figures, 500)] == [True, True]
    assert figures["FID, noise 0"] < 1e-6
    assert figures["FID, blur 1"] < 1e-6
