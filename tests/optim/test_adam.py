"""Adam against its restatement, and in the form of an analysis against another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.optim.adam import Adam
from tests.optim.agreement import assert_compiles, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adam as restated
from tests.restatements.optimizers import generalized_smooth

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))


@given(rates, betas, st.floats(1e-10, 1e-2))
def test_adam_goes_the_restated_way(lr: float, betas: tuple[float, float], eps: float) -> None:
    settings = {"lr": lr, "betas": betas, "eps": eps}
    follow(
        lambda p: Adam(p, **settings),  # type: ignore[arg-type]
        lambda p: restated.Adam(p, **settings),  # type: ignore[arg-type]
        missing(quadratic()),
    )


def test_adam_trains_a_network_the_restated_way() -> None:
    follow(lambda p: Adam(p, lr=0.02), lambda p: restated.Adam(p, lr=0.02), network(), shapes=NETWORK_SHAPES)


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(Adam, {"lr": 0.05, "weight_decay": 0.1})


# -- other forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("betas", "zeta", "v0"), [((0.8, 0.9), 1e-3, 1.0), ((0.9, 0.99), 1e-8, 1e-4)])
def test_without_correction_and_with_eps_below_the_root_it_is_the_restated_one(
    betas: tuple[float, float], zeta: float, v0: float
) -> None:
    follow(
        lambda p: Adam(p, lr=0.03, betas=betas, eps=zeta, bias_correction=False, eps_in_root=True, v0=v0),
        lambda p: generalized_smooth.Adam(p, lr=0.03, betas=betas, zeta=zeta, v0=v0),
        quadratic(seed=6),
    )


def test_eps_below_the_root_does_not_matter_where_it_is_zero() -> None:
    gradients = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for correction in (True, False):
        ways = [
            path(
                lambda p, inside=inside, correction=correction: Adam(  # type: ignore[misc]
                    p, lr=0.1, eps=0.0, eps_in_root=inside, bias_correction=correction
                ),
                [0.0] * 5,
                gradients,
            )
            for inside in (False, True)
        ]
        torch.testing.assert_close(ways[0], ways[1], rtol=1e-12, atol=1e-12)


def test_without_correction_the_first_step_is_that_of_the_plain_averages() -> None:
    values = path(lambda p: Adam(p, lr=1.0, betas=(0.9, 0.99), eps=0.0, bias_correction=False), [0.0], [3.0])
    assert float(values[-2] - values[-1]) == pytest.approx(0.1 / 0.01**0.5)


def test_other_forms_stack_and_compile() -> None:
    settings = {"lr": 0.05, "eps": 0.01, "bias_correction": False, "eps_in_root": True, "v0": 0.5}
    assert_stacks(Adam, settings)
    assert_compiles(Adam, settings)
    assert_stacks(Adam, {"eps": 0.01, "eps_in_root": True})
    assert_compiles(Adam, {"eps": 0.01, "eps_in_root": True})
