"""AdamW and SGDW: the restated way in both conventions of the decay, torch's way, and the publication's helpers."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.adamw import SGDW, AdamW, normalised_weight_decay, restart_multiplier, warm_restarts
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, Array, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adamw as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))


class Scheduled:
    """A restatement in the publication's form, whose schedule is set by the rate: eta = lr / first lr."""

    def __init__(self, restatement: Any) -> None:
        self.restatement, self.first = restatement, restatement.lr
        self.step = restatement.step

    @property
    def params(self) -> list[Array]:
        return self.restatement.params  # type: ignore[no-any-return]

    @property
    def lr(self) -> float:
        return self.first * self.restatement.eta  # type: ignore[no-any-return]

    @lr.setter
    def lr(self, lr: float) -> None:
        self.restatement.eta = lr / self.first


@settings(max_examples=30)
@given(rates, betas, st.floats(1e-8, 1e-2), st.floats(0, 0.5))
def test_adamw_goes_the_restated_way(lr: float, betas: tuple[float, float], eps: float, decay: float) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
    follow(
        lambda p: AdamW(p, **same),
        lambda p: restated.AdamW(p, **same, decay_times_lr=True),
        missing(quadratic()),
        rates=lambda step: lr * (1 + step % 4),
    )


@settings(max_examples=30)
@given(rates, betas, st.floats(0, 0.2), st.lists(st.floats(0, 2), min_size=60, max_size=60))
def test_the_published_adamw_goes_the_restated_way_under_any_schedule(
    lr: float, betas: tuple[float, float], decay: float, etas: list[float]
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": decay}
    follow(
        lambda p: AdamW(p, **same, decay_times_lr=False),
        lambda p: Scheduled(restated.AdamW(p, **same)),
        missing(quadratic()),
        rates=lambda step: lr * etas[step],
    )


@settings(max_examples=30)
@given(
    rates,
    st.floats(0, 0.95),
    st.floats(0, 0.2),
    st.booleans(),
    st.lists(st.floats(0, 2), min_size=60, max_size=60),
)
def test_the_published_sgdw_goes_the_restated_way_under_any_schedule(
    lr: float, momentum: float, decay: float, nesterov: bool, etas: list[float]
) -> None:
    same: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": decay, "nesterov": nesterov}
    follow(
        lambda p: SGDW(p, **same, decay_times_lr=False),
        lambda p: Scheduled(restated.SGDW(p, **same)),
        missing(quadratic()),
        rates=lambda step: lr * etas[step],
    )


def test_they_train_a_network_the_restated_way() -> None:
    for ours, theirs in ((AdamW, restated.AdamW), (SGDW, restated.SGDW)):
        same: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
        follow(
            lambda p, ours=ours, same=same: ours(p, **same),  # type: ignore[misc]
            lambda p, theirs=theirs, same=same: theirs(p, **same, decay_times_lr=True),  # type: ignore[misc]
            network(),
            shapes=NETWORK_SHAPES,
            rates=lambda step: 0.05 * 0.97**step,
        )


@pytest.mark.parametrize("amsgrad", [False, True])
def test_by_default_adamw_is_torchs(amsgrad: bool) -> None:
    assert_as_torch(
        lambda p: AdamW(p, lr=0.03, weight_decay=0.2, amsgrad=amsgrad),
        lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.2, amsgrad=amsgrad),
        rates=lambda step: 0.03 * 0.98**step,
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_at_a_constant_rate_sgdw_without_decay_is_torchs_sgd(nesterov: bool) -> None:
    assert_as_torch(
        lambda p: SGDW(p, lr=0.03, momentum=0.8, nesterov=nesterov),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.8, nesterov=nesterov),
    )


def test_without_momentum_sgdw_is_sgd_with_an_l2_term() -> None:
    """lam' = lam / lr."""
    assert_as_torch(
        lambda p: SGDW(p, lr=0.04, momentum=0.0, weight_decay=0.02, decay_times_lr=False),
        lambda p: torch.optim.SGD(p, lr=0.04, weight_decay=0.5),
    )


@given(st.floats(1e-3, 0.5), st.floats(1e-3, 0.5), st.floats(-3, 3))
def test_without_gradients_the_decay_is_geometric(lr: float, decay: float, start: float) -> None:
    powers = torch.arange(6, dtype=torch.float64)
    for cls in (AdamW, SGDW):
        for times_lr, kept in ((True, 1 - lr * decay), (False, 1 - decay)):
            values = path(
                lambda p, c=cls, t=times_lr: c(p, lr=lr, weight_decay=decay, decay_times_lr=t),  # type: ignore[misc]
                [start],
                [0.0] * 5,
            )
            torch.testing.assert_close(torch.cat(values), start * kept**powers)


def test_an_l2_term_in_adam_moves_by_the_rate_whatever_its_strength() -> None:
    for decay in (0.01, 1.0):
        values = path(lambda p, d=decay: Adam(p, lr=0.01, weight_decay=d), [2.0], [0.0])  # type: ignore[misc]
        assert float(values[0] - values[1]) == pytest.approx(0.01, rel=1e-5)


def test_the_schedule_is_remembered_when_the_state_is_saved() -> None:
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = AdamW([p], lr=0.4, weight_decay=0.1, decay_times_lr=False)
    optimizer.param_groups[0]["lr"] = 0.2
    state = copy.deepcopy(optimizer.state_dict())
    optimizer = AdamW([p], lr=0.05, weight_decay=0.1, decay_times_lr=False)
    optimizer.load_state_dict(state)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert float(p.detach()) == pytest.approx(0.95, rel=1e-12)


def test_groups_have_first_rates_of_their_own() -> None:
    a, b, c = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(3))
    groups: list[dict[str, Any]] = [{"params": [a]}, {"params": [b], "lr": 0.02}, {"params": [c], "base_lr": 0.2}]
    optimizer = AdamW(groups, lr=0.1, weight_decay=0.1, decay_times_lr=False)
    for p in (a, b, c):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert [float(p.detach()) for p in (a, b, c)] == pytest.approx([0.9, 0.9, 0.95], rel=1e-12)


@given(st.floats(0, 40), st.floats(0.5, 9), st.sampled_from([1.0, 1.5, 2.0]))
def test_restarts_are_where_they_are_restated_to_be(epoch: float, first: float, longer: float) -> None:
    ours = restart_multiplier(epoch, first_period=first, period_multiplier=longer)
    if min(epoch % first, first - epoch % first) > 1e-9:  # a restart, where rounding decides
        theirs = restated.restart_multiplier(epoch, first_period=first, period_multiplier=longer)
        assert ours == pytest.approx(theirs, abs=1e-9)
    assert 0.0 <= ours <= 1.0


@pytest.mark.parametrize("longer", [1, 3])
def test_each_restart_begins_at_one_and_each_period_ends_near_zero(longer: int) -> None:
    begin, period = 0, 4
    for _ in range(4):
        epochs = (begin, begin + period / 2, begin + period - 1e-6)
        at = [restart_multiplier(epoch, first_period=4, period_multiplier=longer) for epoch in epochs]
        assert at == pytest.approx([1.0, 0.5, 0.0], abs=1e-9)
        begin, period = begin + period, period * longer


def test_warm_restarts_are_the_multiplier_times_the_rate() -> None:
    schedule = warm_restarts(0.3, first_period=10, period_multiplier=2)
    assert [schedule(t) for t in (0, 5, 10, 20, 30)] == pytest.approx([0.3, 0.15, 0.3, 0.15, 0.3])


@given(st.floats(0, 1), st.integers(1, 4096), st.integers(1, 10**6), st.floats(0.5, 300))
def test_normalised_decay_is_the_restated_one(norm: float, batch: int, points: int, epochs: float) -> None:
    ours = normalised_weight_decay(norm, batch_size=batch, points=points, epochs=epochs)
    theirs = restated.normalised_weight_decay(norm, batch_size=batch, points=points, epochs=epochs)
    assert ours == pytest.approx(theirs, rel=1e-12)
    longer = normalised_weight_decay(norm, batch_size=batch, points=points, epochs=4 * epochs)
    assert longer == pytest.approx(ours / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("first_period", lambda: warm_restarts(0.1, first_period=0)),
        ("period_multiplier", lambda: warm_restarts(0.1, first_period=2, period_multiplier=0.5)),
        ("lr", lambda: warm_restarts(math.nan, first_period=2)),
        ("epoch", lambda: restart_multiplier(-1.0, first_period=2)),
        ("points", lambda: normalised_weight_decay(0.1, batch_size=1, points=0, epochs=1)),
        ("epochs", lambda: normalised_weight_decay(0.1, batch_size=1, points=1, epochs=0)),
        ("base_lr", lambda: AdamW([nn.Parameter(torch.zeros(1))], base_lr=0.0)),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, make: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make()


CASES: list[tuple[Any, dict[str, Any]]] = [
    (AdamW, {"lr": 0.05, "weight_decay": 0.1}),
    (AdamW, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True, "decay_times_lr": False, "base_lr": 0.04}),
    (SGDW, {"lr": 0.05, "weight_decay": 0.1, "nesterov": True}),
    (SGDW, {"lr": 0.05, "weight_decay": 0.1, "decay_times_lr": False, "base_lr": 0.04}),
]


@pytest.mark.parametrize(("cls", "case"), CASES)
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, case: dict[str, Any]) -> None:
    assert_stacks(cls, case)


@pytest.mark.parametrize(("cls", "case"), CASES)
def test_one_compiled_loop_does_the_same(cls: Any, case: dict[str, Any]) -> None:
    assert_compiles(cls, case)


def test_state_is_the_moments() -> None:
    assert bytes_per_entry(AdamW) == 8
    assert bytes_per_entry(AdamW, {"amsgrad": True}) == 12
    assert bytes_per_entry(SGDW) == 4
    assert bytes_per_entry(SGDW, {"momentum": 0.0}) == 0
