"""LARS and LAMB against their restatements, and the schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.large_batch import LAMB, LARS, warmup_polynomial
from tests.optim.following import NETWORK_SHAPES, SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import large_batch_reality as restated

adapted = st.sampled_from([None, False, True])


def all_of(adapt: bool | None) -> list[bool] | None:
    return None if adapt is None else [adapt] * len(SHAPES)


@settings(max_examples=20)
@given(
    st.floats(1e-2, 10.0), st.floats(0, 0.99), st.sampled_from([0.0, 0.1]), st.floats(1e-3, 0.1), adapted, st.booleans()
)
def test_lars_goes_the_restated_way(
    lr: float, momentum: float, weight_decay: float, trust: float, adapt: bool | None, in_buffer: bool
) -> None:
    chosen = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    chosen |= {"trust_coefficient": trust, "lr_in_buffer": in_buffer}
    schedule = warmup_polynomial(lr, steps=60, warmup_steps=7, power=2.0)
    follow(
        lambda p: LARS(p, **chosen, adapt=adapt),  # type: ignore[arg-type]
        lambda p: restated.LARS(p, **chosen, adapt=all_of(adapt)),  # type: ignore[arg-type]
        missing(quadratic(condition=10.0)),
        rates=schedule,
    )


@settings(max_examples=20)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(1e-10, 1e-2),
    st.sampled_from([0.0, 0.1]),
    adapted,
)
def test_lamb_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, adapt: bool | None
) -> None:
    chosen = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    follow(
        lambda p: LAMB(p, **chosen, adapt=adapt),  # type: ignore[arg-type]
        lambda p: restated.LAMB(p, **chosen, adapt=all_of(adapt)),  # type: ignore[arg-type]
        missing(quadratic()),
        rates=warmup_polynomial(lr, steps=60, warmup_steps=6),
    )


def test_they_train_a_network_the_restated_way() -> None:
    follow(lambda p: LARS(p, 5.0), lambda p: restated.LARS(p, lr=5.0), network(), shapes=NETWORK_SHAPES)
    follow(lambda p: LAMB(p, 0.02), lambda p: restated.LAMB(p, lr=0.02), network(), shapes=NETWORK_SHAPES)


@pytest.mark.parametrize("zero", ["weights", "gradient"])
def test_a_norm_of_zero_makes_the_ratio_one(zero: str) -> None:
    w = nn.Parameter(torch.full((2, 2), 0.0 if zero == "weights" else 0.5, dtype=torch.float64))
    w.grad = torch.full_like(w, 0.25 if zero == "weights" else 0.0)
    expected = 0.0 - 2.0 * 0.25 if zero == "weights" else 0.5 * (1.0 - 2.0 * 0.1)
    LARS([w], lr=2.0, weight_decay=0.1).step()
    torch.testing.assert_close(w.detach(), torch.full_like(w, expected), rtol=1e-14, atol=0)

    w = nn.Parameter(torch.full((2, 2), 0.0 if zero == "weights" else 0.5, dtype=torch.float64))
    w.grad = torch.full_like(w, 0.25 if zero == "weights" else 0.0)
    LAMB([w], lr=0.1, eps=0.0 if zero == "weights" else 1e-6, weight_decay=0.0).step()
    expected = -0.1 if zero == "weights" else 0.5
    torch.testing.assert_close(w.detach(), torch.full_like(w, expected), rtol=1e-14, atol=0)


def test_steps_of_lamb_are_as_long_as_rate_times_weights() -> None:
    ps = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
    optimizer, gradients = LAMB(ps, lr=0.2, adapt=True), quadratic()
    for step in range(10):
        before = [p.detach().clone() for p in ps]
        torch_gradients(ps, gradients, step)
        optimizer.step()
        for p, q in zip(ps, before, strict=True):
            assert float((p.detach() - q).norm()) == pytest.approx(0.2 * float(q.norm()), rel=1e-12)


@given(st.floats(1e-6, 1e6))
@settings(max_examples=10)
def test_lars_without_decay_does_not_see_the_scale_of_a_loss(factor: float) -> None:
    runs = []
    for scale in (1.0, factor):
        p = nn.Parameter(torch.linspace(1, 2, 6, dtype=torch.float64).view(2, 3))
        optimizer = LARS([p], lr=1.0, trust_coefficient=0.05, weight_decay=0.0)
        for _ in range(20):
            p.grad = scale * p.detach() * torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
            optimizer.step()
        runs.append(p.detach())
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-10, atol=1e-12)


def test_the_two_places_of_the_rate_agree_while_it_is_constant() -> None:
    runs = []
    for in_buffer in (False, True):
        ps = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
        optimizer = LARS(ps, 2.0, trust_coefficient=0.02, lr_in_buffer=in_buffer)
        for step in range(20):
            torch_gradients(ps, quadratic(), step)
            optimizer.step()
        runs.append(ps)
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_groups_say_which_tensors_are_adapted() -> None:
    matrix, vector = (nn.Parameter(torch.from_numpy(p)) for p in starts(((3, 3), (4,))))
    expected = restated.LAMB(
        [matrix.detach().numpy().copy(), vector.detach().numpy().copy()], lr=0.1, adapt=[False, True]
    )
    optimizer = LAMB([{"params": [matrix], "adapt": False}, {"params": [vector], "adapt": True}], lr=0.1)
    for step in range(5):
        torch_gradients([matrix, vector], quadratic(((3, 3), (4,))), step)
        expected.step([matrix.grad.numpy(), vector.grad.numpy()])  # type: ignore[union-attr]
        optimizer.step()
    for p, q in zip((matrix, vector), expected.params, strict=True):
        torch.testing.assert_close(p.detach(), torch.from_numpy(q), rtol=1e-12, atol=1e-12)


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(LARS, {"lr": 1.0, "trust_coefficient": 0.02})
    assert_stacks(LARS, {"lr": 1.0, "trust_coefficient": 0.02, "lr_in_buffer": True})
    assert_stacks(LAMB, {"lr": 0.05})
    assert_stacks(LAMB, {"lr": 0.05, "adapt": False})


def test_state_is_one_number_a_weight_for_lars_and_two_for_lamb() -> None:
    for cls, numbers in ((LARS, 1), (LAMB, 2)):
        ps = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
        optimizer = cls(ps, lr=0.1)
        for p in ps:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.state_bytes() == 4 * numbers * sum(p.numel() for p in ps)


def test_what_is_not_adapted_is_stepped_the_same_when_compiled() -> None:
    for cls, options in ((LARS, {}), (LARS, {"lr_in_buffer": True}), (LAMB, {})):
        runs = []
        for compiled in (False, True):
            p = nn.Parameter(torch.linspace(-1, 2, 200))
            optimizer = cls([p], lr=0.05, compile=compiled, **options)  # type: ignore[arg-type]
            for step in range(20):
                p.grad = p.detach() * torch.linspace(0.1, 1, 200) + 0.01 * step
                optimizer.step()
            runs.append(p.detach())
        torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-6)


@given(st.integers(0, 20), st.integers(1, 30), st.floats(0, 2), st.floats(0, 1), st.floats(0.5, 3))
def test_the_schedule_is_the_restated_one(warmup: int, rest: int, peak: float, final: float, power: float) -> None:
    steps = warmup + rest
    schedule = warmup_polynomial(peak, steps=steps, warmup_steps=warmup, final=final, power=power)
    numbers = {"steps": steps, "warmup_steps": warmup, "peak": peak, "final": final, "power": power}
    for t in range(steps):
        assert schedule(t) == pytest.approx(restated.learning_rate(t + 1, **numbers), rel=1e-12, abs=1e-15)  # type: ignore[arg-type]
    assert schedule(steps - 1) == final == schedule(steps + 100)
    if warmup:
        assert schedule(warmup - 1) == pytest.approx(peak)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("warmup_steps", {"steps": 5, "warmup_steps": 5}),
        ("peak", {"peak": -1.0}),
        ("final", {"final": float("inf")}),
        ("power", {"power": 0.0}),
    ],
)
def test_schedules_that_make_no_sense_are_refused_by_name(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        warmup_polynomial(**{"peak": 1.0, "steps": 10, "warmup_steps": 2, **options})  # type: ignore[arg-type]
