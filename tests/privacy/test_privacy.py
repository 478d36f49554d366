"""Exact laws and divergences against the independent restatement, closed forms and the bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.privacy import PBM, RQMLaw, epsilon_of, log_sum, renyi, renyi_of_sum
from shoal.privacy.renyi import logs
from tests.restatements.compression_b import rqm as restated

SETTINGS = [(1.0, 1.0, 16, 0.42), (1.0, 2.33, 16, 0.42), (1.0, 0.66, 16, 0.57), (0.3, 0.1, 5, 0.9), (2.0, 1.0, 2, 0.5)]
laws = pytest.mark.parametrize("setting", SETTINGS)


@laws
def test_probabilities_are_those_of_all_sets_of_kept_levels(setting: tuple[float, float, int, float]) -> None:
    """For few levels by enumeration of every set, else by the restatement's sum over brackets."""
    c, law = setting[0], RQMLaw(*setting)
    for x in np.linspace(-c, c, 13):
        p = law.pmf(float(x))
        np.testing.assert_allclose(p, restated.pmf(float(x), *setting), rtol=1e-12)
        if setting[2] <= 5:
            np.testing.assert_allclose(p, restated.pmf_by_enumeration(float(x), *setting), rtol=1e-12)
        assert p.sum() == pytest.approx(1.0, abs=1e-14)
        assert p @ law.values() == pytest.approx(x, abs=1e-14)
        assert law.variance(float(x)) == pytest.approx(restated.variance(float(x), *setting), rel=1e-12)


@given(
    clip=st.floats(0.1, 10.0), ratio=st.floats(0.05, 5.0), levels=st.integers(2, 20), q=st.floats(0.02, 0.98),
    x=st.floats(-1.0, 1.0), y=st.floats(-1.0, 1.0),
)  # fmt: skip
def test_no_two_inputs_differ_by_more_than_epsilon_and_that_is_within_the_bound(
    clip: float, ratio: float, levels: int, q: float, x: float, y: float
) -> None:
    law = RQMLaw(clip, ratio * clip, levels, q)
    found = float(np.abs(np.log(law.pmf(clip * x) / law.pmf(clip * y))).max())
    assert found <= law.epsilon() + 1e-9
    assert law.epsilon() <= law.epsilon_bound() + 1e-9


@pytest.mark.parametrize(("q", "ends", "worst"), [(0.2, 2.865, 2.911), (0.42, 5.47, 5.47), (0.57, 7.89, 7.89)])
def test_the_worst_pair_of_inputs_is_not_always_the_two_ends(q: float, ends: float, worst: float) -> None:
    law = RQMLaw(1.0, 1.0, 16, q)
    assert float(np.log(law.pmf(1.0) / law.pmf(-1.0)).max()) == pytest.approx(ends, abs=5e-3)
    assert law.epsilon() == pytest.approx(worst, abs=5e-3)
    assert law.epsilon() == pytest.approx(restated.exact_epsilon(1.0, 1.0, 16, q), rel=1e-12)
    assert law.epsilon_bound() == pytest.approx(restated.epsilon_bound(1.0, 1.0, 16, q), rel=1e-12)


def test_more_room_and_fewer_kept_levels_cost_variance_and_buy_privacy() -> None:
    base, wide, few = RQMLaw(1.0, 1.0), RQMLaw(1.0, 2.0), RQMLaw(1.0, 1.0, q=0.2)
    for other in (wide, few):
        assert other.variance(0.0) > base.variance(0.0)
        assert other.epsilon() < base.epsilon()
        assert divergence(other, 2.0) < divergence(base, 2.0)


def divergence(law: RQMLaw | PBM, alpha: float, clients: int = 10) -> float:
    return renyi_of_sum(law.pmf(1.0), law.pmf(-1.0), [law.pmf(1.0)] * (clients - 1), alpha)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 8.0, math.inf])
def test_divergences_of_sums_are_the_restatements(alpha: float) -> None:
    setting = (1.0, 1.0, 16, 0.42)
    rest = [1.0, -0.3, 0.7]
    law, coins = RQMLaw(*setting), PBM(1.0, 0.26)
    found = renyi_of_sum(law.pmf(1.0), law.pmf(-1.0), [law.pmf(x) for x in rest], alpha)
    assert found == pytest.approx(restated.renyi_of_sum(1.0, -1.0, rest, alpha, *setting), rel=1e-10)
    found = renyi_of_sum(coins.pmf(1.0), coins.pmf(-1.0), [coins.pmf(x) for x in rest], alpha)
    assert found == pytest.approx(restated.pbm_renyi_of_sum(1.0, -1.0, rest, alpha, 1.0, 15, 0.26), rel=1e-10)


def test_divergences_grow_with_their_order_and_shrink_with_company() -> None:
    law = RQMLaw(1.0, 1.0)
    orders = [divergence(law, alpha) for alpha in (0.5, 1.0, 1.5, 2.0, 4.0, 32.0, math.inf)]
    assert orders == sorted(orders)
    assert orders[-1] <= law.epsilon() + 1e-9
    company = [divergence(law, 2.0, n) for n in (1, 2, 5, 20)]
    assert company == sorted(company, reverse=True)


def test_the_sum_of_coins_is_binomial_down_to_where_float64_ends() -> None:
    """300 clients of 15 fair coins are 4,500 coins: the rarest sum has probability 2**-4500."""
    one = logs(PBM(1.0, 1e-9).pmf(0.0))
    total = log_sum([one] * 300)
    n = 4500
    expected = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in (0, 7, 2250)
    ]
    np.testing.assert_allclose(total[[0, 7, 2250]], expected, rtol=1e-9)


def test_gaussians_on_a_grid_have_the_closed_forms() -> None:
    """D_alpha = alpha mu^2 / 2, and epsilon close to what is known for alpha -> infinity of rounds."""
    z = np.arange(-400, 401) / 20.0
    p, q = (logs(np.exp(-((z - mu) ** 2) / 2.0) / np.exp(-((z - mu) ** 2) / 2.0).sum()) for mu in (0.5, 0.0))
    for alpha in (0.5, 2.0, 5.0):
        assert renyi(p, q, alpha) == pytest.approx(alpha / 8.0, rel=1e-6)
    delta = 1e-5
    found = epsilon_of({a / 10: a / 10 / 8.0 for a in range(11, 1000)}, delta)
    classic = 1.0 / 8.0 + math.sqrt(2.0 * math.log(1.0 / delta) / 4.0)  # Mironov's conversion at its best order
    assert 0.5 * classic < found < classic


def test_what_cannot_happen_under_one_input_is_infinitely_telling() -> None:
    p, q = logs(np.array([0.5, 0.5])), logs(np.array([1.0, 0.0]))
    assert renyi(p, q, 2.0) == math.inf
    assert renyi(q, p, 2.0) == pytest.approx(math.log(2.0))
    assert renyi(p, p, 3.0) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("target", [0.1, 1.0])
def test_coins_of_a_variance_have_it(target: float) -> None:
    coins = PBM.of_variance(target, 1.0, 30)
    assert coins.variance(0.0) == pytest.approx(target)
    for x in (-1.0, 0.2):
        p, values = coins.pmf(x), coins.values()
        assert p @ values == pytest.approx(x, abs=1e-12)
        assert p @ values**2 - x**2 == pytest.approx(coins.variance(x))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RQMLaw(0.0, 1.0), "clip"),
        (lambda: RQMLaw(1.0, 0.0), "delta"),
        (lambda: RQMLaw(1.0, 1.0, 1), "levels"),
        (lambda: RQMLaw(1.0, 1.0, 4, 1.0), "q"),
        (lambda: RQMLaw(1.0, 1.0).pmf(1.1), "x"),
        (lambda: PBM(1.0, 0.5), "theta"),
        (lambda: PBM(1.0, 0.2).pmf(-2.0), "x"),
        (lambda: renyi(np.zeros(1), np.zeros(1), 0.0), "alpha"),
        (lambda: epsilon_of({1.0: 1.0}, 0.1), "divergences"),
        (lambda: epsilon_of({2.0: 1.0}, 1.0), "delta"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got"):
        make()  # type: ignore[operator]
