"""RAdam: the restated way, torch's way, and the closed form of its rectification."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.optim.radam import RAdam, length, rectification
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import radam as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))


@settings(max_examples=40)
@given(rates, betas, st.floats(1e-8, 1e-2), st.floats(0, 0.5), st.sampled_from([4.0, 5.0, 7.5]), st.booleans())
def test_radam_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, decay: float, threshold: float, degenerated: bool
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
    same |= {"rho_threshold": threshold, "degenerated_to_sgd": degenerated}
    follow(
        lambda p: RAdam(p, **same, decoupled_weight_decay=True),
        lambda p: restated.RAdam(p, **same),
        missing(quadratic()),
        steps=50,
    )


def test_radam_trains_a_network_the_restated_way() -> None:
    follow(
        lambda p: RAdam(p, lr=0.02),
        lambda p: restated.RAdam(p, lr=0.02, rho_threshold=5.0),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.02 * 0.97**step,
    )


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.7, 0.9), (0.9, 0.5)])
def test_radam_goes_torchs_way(decoupled: bool, betas: tuple[float, float]) -> None:
    same: dict[str, Any] = {"lr": 0.02, "betas": betas, "weight_decay": 0.1, "decoupled_weight_decay": decoupled}
    assert_as_torch(lambda p: RAdam(p, **same), lambda p: torch.optim.RAdam(p, **same))


def test_the_first_lengths_and_rectifications_are_the_known_ones() -> None:
    """beta2 = 0.9: rho_inf = 19."""
    expected = [19 - 2 * t * 0.9**t / (1 - 0.9**t) for t in range(1, 9)]
    assert [length(float(t), 0.9) for t in range(1, 9)] == pytest.approx(expected, rel=1e-12)
    assert length(1.0, 0.9) == pytest.approx(1.0, abs=1e-12)  # one gradient is one gradient
    rho = expected[7]
    r = ((rho - 4) * (rho - 2) * 19 / (15 * 17 * rho)) ** 0.5
    assert rectification(8.0, 0.9) == pytest.approx(r, rel=1e-12)


@given(st.floats(0.7, 0.9999), st.integers(7, 5000))
def test_rectification_rises_to_one(beta2: float, t: int) -> None:
    r = [float(rectification(float(s), beta2)) for s in (t, t + 1, 50 / (1 - beta2))]
    assert 0.0 <= r[0] <= r[1] <= 1.0
    assert r[2] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("threshold", "first"), [(4.0, 5), (5.0, 6)])
def test_steps_become_adaptive_at_the_fifth_by_the_text_and_at_the_sixth_by_the_code(
    threshold: float, first: int
) -> None:
    """Adaptive steps do not grow with the gradients; those of momentum do."""
    steps = [
        torch.cat(path(lambda p: RAdam(p, lr=0.1, rho_threshold=threshold, eps=0.0), [0.0], [g] * 8)).diff()
        for g in (1.0, 64.0)
    ]
    same = [bool(torch.isclose(a, b, rtol=1e-9)) for a, b in zip(*steps, strict=True)]
    assert same == [t >= first for t in range(1, 9)]
    torch.testing.assert_close(steps[0][: first - 1], torch.full((first - 1,), -0.1, dtype=torch.float64))


@given(st.floats(0.0, 0.6), st.floats(0.0, 0.95), st.lists(st.floats(-2, 2), min_size=1, max_size=40))
def test_a_short_memory_is_never_adaptive(beta2: float, beta1: float, gradients: list[float]) -> None:
    values = path(lambda p: RAdam(p, lr=0.1, betas=(beta1, beta2), rho_threshold=4.0), [0.3], gradients)
    x, m = 0.3, 0.0
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        x -= 0.1 * m / (1 - beta1**t)
        assert float(values[t]) == pytest.approx(x, rel=1e-9, abs=1e-11)


def test_skipped_steps_change_nothing_but_the_moments() -> None:
    gradients = [1.0, -2.0, 0.5, 3.0, 1.0, 1.0]
    skipping = path(
        lambda p: RAdam(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True, degenerated_to_sgd=False),
        [1.0],
        gradients,
    )
    assert [float(v) for v in skipping[:6]] == [1.0] * 6
    stepping = path(lambda p: RAdam(p, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True), [1.0], gradients)
    # the sixth steps are the same function of the same moments, up to the decay of where they start
    moved = [float(v[6] - 0.95 * v[5]) for v in (skipping, stepping)]
    assert moved[0] == pytest.approx(moved[1], rel=1e-12)


def test_the_rectified_rate_varies_much_less_than_adams() -> None:
    """Variance of r / sqrt(v^) over Gaussian gradients, late and early: nearly the same; that of 1 / sqrt(v^) falls."""
    g = torch.randn(40, 20000, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    beta2, v, variances = 0.97, torch.zeros(20000, dtype=torch.float64), {}
    for t in range(1, 41):
        v = beta2 * v + (1 - beta2) * g[t - 1] ** 2
        rate = (1 - beta2**t) ** 0.5 / v.sqrt()
        variances[t] = float(rate.var()), float((rectification(float(t), beta2) * rate).var())
    assert variances[8][0] > 3.0 * variances[40][0]
    assert 0.5 < variances[8][1] / variances[40][1] < 2.0


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "weight_decay": 0.1},
    {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "degenerated_to_sgd": False},
    {"lr": 0.05, "betas": (0.8, 0.5)},
]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(RAdam, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(RAdam, case)


def test_state_is_two_numbers_an_entry() -> None:
    assert bytes_per_entry(RAdam) == 8
