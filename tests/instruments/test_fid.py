"""Fréchet distances against closed forms and scipy's matrix square root; moments in parts; the trained features."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from shoal.instruments.features import (
    SIZE,
    WEIGHTS,
    FashionFeatures,
    fashion_features,
    made_how,
    save_features,
    train_features,
)
from shoal.instruments.fid import FID, Moments, frechet_distance
from tests.restatements.instruments import fid as restated

F64 = torch.float64


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def covariance(seed: int, d: int, rank: int | None = None) -> Tensor:
    a = random(seed, d, rank or d)
    return a @ a.T


def by_scipy(m1: Tensor, c1: Tensor, m2: Tensor, c2: Tensor) -> float:
    """The published form, with the square root of C1 C2, which is not symmetric."""
    a, b = c1.numpy(), c2.numpy()
    root = scipy.linalg.sqrtm(a @ b)
    gap = (m1 - m2).numpy()
    return float(gap @ gap + np.trace(a) + np.trace(b) - 2.0 * np.trace(root).real)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_the_distance_is_scipys(seed: int, d: int) -> None:
    m1, m2, c1, c2 = (
        random(seed, d),
        random(seed + 1, d),
        covariance(seed + 2, d, d + 3),
        covariance(seed + 3, d, d + 3),
    )
    expected = by_scipy(m1, c1, m2, c2)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("form", [restated.root_trace_schur, restated.root_trace_symmetric])
def test_sets_are_at_the_restatements_distance(form: Callable[[Any, Any], float]) -> None:
    x, y = 1.0 + random(1, 300, 6) @ random(2, 6, 6), random(3, 200, 6).exp()
    expected = restated.fid(x.numpy(), y.numpy(), form)
    assert FID(lambda s: s, batch=64)(x, y) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_commuting_covariances_have_a_closed_form(seed: int, d: int) -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2 of standard deviations along common axes; some of them 0."""
    q = torch.linalg.qr(random(seed, d, d))[0]
    s1, s2 = random(seed + 1, d).abs(), random(seed + 2, d).abs()
    s1[::3] = 0.0
    m1, m2 = random(seed + 3, d), random(seed + 4, d)
    found = frechet_distance(m1, q @ s1.square().diag() @ q.T, m2, q @ s2.square().diag() @ q.T)
    expected = float((m1 - m2).square().sum() + (s1 - s2).square().sum())
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)  # roots of zeros halve the digits


def test_singular_covariances_give_a_real_number() -> None:
    """Of rank one: a a^T and b b^T, at distance |a|^2 + |b|^2 - 2 |<a, b>|."""
    a, b, zero = random(1, 20), random(2, 20), torch.zeros(20, dtype=F64)
    found = frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b))
    assert found == pytest.approx(float(a @ a + b @ b - 2.0 * (a @ b).abs()), rel=1e-6)
    assert frechet_distance(a, torch.zeros(20, 20), b, torch.zeros(20, 20)) == pytest.approx(float((a - b) @ (a - b)))


def test_equal_sets_are_at_distance_zero() -> None:
    x = 3.0 + random(1, 500, 20) @ random(2, 20, 20)
    assert FID(lambda s: s)(x, x.flip(0)) < 1e-6
    assert FID(lambda s: s[:, [0, 0, 1]])(x, x) < 1e-6  # a feature twice


def test_units_count_squared() -> None:
    x, y = random(1, 400, 5), 1.0 + 2.0 * random(2, 400, 5)
    assert FID(lambda s: 10.0 * s)(x, y) == pytest.approx(100.0 * FID(lambda s: s)(x, y), rel=1e-9)


def test_gaussians_are_at_their_distance_up_to_sampling() -> None:
    x, y = random(1, 100_000, 3), random(2, 100_000, 3) * torch.tensor([1.0, 2.0, 0.5], dtype=F64) + 1.0
    assert FID(lambda s: s)(x, y) == pytest.approx(3.0 + 1.0 + 0.25, rel=0.02)


# -- moments ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_moments_of_parts_add_up(seed: int, sizes: list[int]) -> None:
    x = 5.0 + random(seed, sum(sizes) + 2, 4)
    total = Moments.of(x[:2])
    for part in x[2:].split(sizes):
        total = total + Moments.of(part)
    assert total.count == len(x)
    torch.testing.assert_close(total.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total.covariance, torch.from_numpy(np.cov(x.numpy().T)), rtol=1e-10, atol=1e-10)


def test_a_large_mean_costs_no_digits() -> None:
    """At 1e8 times the spread the mean of squares less the square of the mean has no digits left."""
    x = random(3, 4000, 2)
    far = x + 1e8
    total = sum((Moments.of(part) for part in far.split(300)[1:]), Moments.of(far[:300]))
    torch.testing.assert_close(total.covariance, Moments.of(far - 1e8).covariance, rtol=1e-6, atol=1e-6)


def test_batches_do_not_change_the_distance() -> None:
    x, y = random(1, 230, 4), 0.5 + random(2, 170, 4)
    whole = FID(torch.sin, batch=1000)(x, y)
    assert FID(torch.sin, batch=7)(x, y) == pytest.approx(whole, rel=1e-9)
    fid = FID(torch.sin)
    assert fid(fid.moments(iter(x.split(50))), list(y.split(60))) == pytest.approx(whole, rel=1e-9)


# -- too few, and bad input ------------------------------------------------------------------------------------------


def test_few_samples_bring_a_warning_and_too_few_are_refused() -> None:
    x = random(1, 1000, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FID(lambda s: s)(x, x[:100])
    with pytest.warns(UserWarning, match="fake: got 99 samples for 10 features.*biased upwards; 100 or more"):
        FID(lambda s: s)(x, x[:99])
    with pytest.raises(ValueError, match="fake: got 10 samples for 10 features; more samples than features"):
        FID(lambda s: s)(x, x[:10])
    with pytest.raises(ValueError, match=r"real: got 99 samples .*at least 100 are allowed"):
        FID(lambda s: s, strict=True)(x[:99], x)


def test_bad_input_is_named() -> None:
    m, c = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match=r"cov2: got shape \(3, 3\)"):
        frechet_distance(m, c, m, torch.eye(3))
    with pytest.raises(ValueError, match="mean2: got NaN"):
        frechet_distance(m, c, m * float("nan"), c)
    with pytest.raises(ValueError, match="cov1: got an eigenvalue of -1"):
        frechet_distance(m, -c, m, c)
    with pytest.raises(ValueError, match="cov2: got a matrix that is not symmetric"):
        frechet_distance(m, c, m, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="features: got int"):
        FID(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples: got NaN"):
        FID(lambda s: s / 0.0)(torch.zeros(50, 2), torch.zeros(50, 2))
    with pytest.raises(ValueError, match="samples: got none"):
        FID(lambda s: s).moments([])
    with pytest.raises(ValueError, match="got 3 dimensions after 2"):
        Moments.of(torch.ones(2, 2)) + Moments.of(torch.ones(2, 3))


# -- the features that come with it ----------------------------------------------------------------------------------


def test_the_file_is_small_and_says_how_it_was_made() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    made = made_how()
    assert made["command"] == "python -m shoal.instruments.features"
    assert float(str(made["test accuracy"])) > 0.85
    features = fashion_features()
    images = torch.rand(3, 784, generator=torch.Generator().manual_seed(0))
    assert features(images).shape == (3, SIZE)
    assert torch.equal(features(images), features(images.view(3, 1, 28, 28)))
    assert not any(p.requires_grad for p in features.parameters())


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    save_features(FashionFeatures(), own, {"by": "a test"})
    assert made_how(own) == {"by": "a test"}
    tensors = load_file(own)
    for change, message in (
        ({**tensors, "out.bias": torch.zeros(9)}, r"out.bias of shape \(9,\); \(10,\) is allowed"),
        ({k: v for k, v in tensors.items() if k != "out.bias"}, "out.bias of shape None"),
        ({**tensors, "out.bias": torch.full((10,), float("nan"))}, "holds NaN"),
    ):
        save_file(change, own)
        with pytest.raises(ValueError, match=message):
            fashion_features(own)
    own.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        fashion_features(own)
    with pytest.raises(FileNotFoundError, match="makes it"):
        fashion_features(tmp_path / "none")


def test_training_is_reproducible_and_learns() -> None:
    """Two kinds of images, told apart by which half is bright."""
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (256,), generator=random)
    images = torch.rand(256, 784, generator=random) * 0.3
    images[labels == 1, :392] += 0.7
    one, two = (train_features(images, labels, epochs=3, batch=32, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert float((one.logits(images).argmax(1) == labels).double().mean()) > 0.95
    with pytest.raises(ValueError, match="images: got"):
        train_features(images[:, :5], labels)
