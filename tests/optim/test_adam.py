"""Adam against its restatement."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.optim.adam import Adam
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adam as restated

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
