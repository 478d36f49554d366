"""Power laws and the time model, in closed form and against the restatement of He, Zhuang and Wu."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.learning.scaling import Cluster, data_parallel_seconds, fit_power_law, local_seconds
from tests.restatements.compression_b import local_sgd_scaling as restated

positive = st.floats(1e-3, 1e6)
SIZES = st.lists(positive, min_size=2, max_size=8, unique_by=lambda x: round(math.log(x), 2))


@given(SIZES, st.floats(1e-2, 1e8), st.floats(0.01, 2.0))
def test_an_exact_law_is_found_again(sizes: list[float], scale: float, alpha: float) -> None:
    law = fit_power_law(sizes, [(scale / x) ** alpha for x in sizes])
    assert law.alpha == pytest.approx(alpha, rel=1e-6)
    assert math.log(law.scale) == pytest.approx(math.log(scale), abs=1e-4)
    assert law.r_squared == pytest.approx(1.0)
    assert law(sizes[0]) == pytest.approx((scale / sizes[0]) ** alpha, rel=1e-6)


@given(st.data(), SIZES)
def test_fits_are_those_of_the_restatement(data: st.DataObject, sizes: list[float]) -> None:
    losses = data.draw(st.lists(st.floats(0.1, 10.0), min_size=len(sizes), max_size=len(sizes)))
    law, other = fit_power_law(sizes, losses), restated.fit_law(sizes, losses)
    assert law.alpha == pytest.approx(other.alpha, rel=1e-9, abs=1e-12)
    assert law.r_squared == pytest.approx(other.r_squared, abs=1e-9)


def test_equal_losses_are_a_law_without_scale() -> None:
    law = fit_power_law([1.0, 2.0, 4.0], [3.0, 3.0, 3.0])
    assert (law.alpha, law.r_squared) == (0.0, 1.0)
    assert math.isnan(law.scale)


def test_a_law_explains_nothing_of_losses_without_a_trend() -> None:
    law = fit_power_law([1.0, 2.0, 4.0], [1.0, 5.0, 1.0])
    assert law.r_squared == pytest.approx(0.0)
    assert law(3.0) == pytest.approx(5.0 ** (1 / 3))


@given(st.integers(1, 50), positive, st.integers(1, 64), positive, positive)
def test_times_are_those_of_the_restatement(h: int, compute: float, k: int, size: float, bandwidth: float) -> None:
    cluster = Cluster(k, bandwidth)
    expected = restated.data_parallel_seconds(h, compute, k, size, bandwidth)
    assert data_parallel_seconds(h, compute, size, cluster) == pytest.approx(expected)
    assert local_seconds(h, compute, size, cluster) == pytest.approx(
        restated.local_sgd_seconds(h, compute, k, size, bandwidth)
    )
    assert local_seconds(h, compute, size, cluster, inner=Cluster(4, 1e9)) == pytest.approx(
        restated.two_stage_seconds(h, compute, 4, 1e9, k, bandwidth, size)
    )


def test_on_slow_links_local_training_takes_a_steps_share_of_the_time() -> None:
    slow = Cluster(4, 1.0)
    assert data_parallel_seconds(10, 0.0, 100.0, slow) == pytest.approx(10 * local_seconds(10, 0.0, 100.0, slow))


@pytest.mark.parametrize(
    ("sizes", "losses", "message"),
    [
        ([1.0, 2.0], [1.0], "losses: got 1 for 2 sizes"),
        ([1.0, 1.0], [1.0, 2.0], "sizes: got .* at least two different"),
        ([0.0, 1.0], [1.0, 2.0], "sizes: got .* above 0"),
        ([1.0, 2.0], [1.0, math.nan], "losses: got .* above 0"),
    ],
)
def test_what_has_no_law_is_refused(sizes: list[float], losses: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(sizes, losses)
