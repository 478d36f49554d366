"""Learning-rate schedules against the float64 restatement of the linear scaling rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.optim.large_batch import warmup_polynomial
from shoal.optim.schedules import (
    constant,
    constant_warmup,
    gradual_warmup,
    large_minibatch,
    linear_scaling,
    power_decay,
    step_decay,
    warmup_cosine,
)
from tests.restatements import linear_scaling_warmup as restated

RATES = st.floats(1e-4, 10.0)


@given(batch=st.integers(1, 10**6), base=RATES)
def test_the_rate_is_proportional_to_the_batch(batch: int, base: float) -> None:
    assert linear_scaling(batch, base_lr=base) == pytest.approx(restated.reference_lr(batch, base), rel=1e-12)


@given(epoch=st.integers(1, 9), start=RATES, target=RATES, warmup=st.integers(0, 4))
def test_gradual_warmup_then_decay_equals_the_restatement(epoch: int, start: float, target: float, warmup: int) -> None:
    schedule = gradual_warmup(step_decay(target, [6 * epoch, 8 * epoch]), start=start, steps=warmup * epoch)
    expected = restated.gradual_warmup(10 * epoch, epoch, start, target, warmup, milestones=(6, 8))
    np.testing.assert_allclose([schedule(t) for t in range(10 * epoch)], expected, rtol=1e-12)


@given(epoch=st.integers(1, 9), start=RATES, target=RATES)
def test_constant_warmup_equals_the_restatement(epoch: int, start: float, target: float) -> None:
    schedule = constant_warmup(step_decay(target, [6 * epoch]), start=start, steps=2 * epoch)
    expected = restated.constant_warmup(8 * epoch, epoch, start, target, 2, milestones=(6,))
    np.testing.assert_allclose([schedule(t) for t in range(8 * epoch)], expected, rtol=1e-12)


@pytest.mark.parametrize("batch", [64, 256, 1024, 8192])
def test_the_papers_recipe_equals_the_restatement(batch: int) -> None:
    epoch = 7
    schedule = large_minibatch(batch, epoch)
    np.testing.assert_allclose(
        [schedule(t) for t in range(90 * epoch)], restated.imagenet_schedule(batch, epoch), rtol=1e-12
    )


def test_warmup_meets_the_schedule_without_a_jump() -> None:
    schedule = gradual_warmup(constant(0.8), start=0.2, steps=6)
    rises = np.diff([schedule(t) for t in range(8)])
    np.testing.assert_allclose(rises[:6], 0.1)
    assert rises[6] == 0.0


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf")])
def test_impossible_rates_are_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr"):
        constant(lr)


@given(peak=RATES, final=RATES, steps=st.integers(2, 40), data=st.data())
def test_a_cosine_after_a_warmup_is_the_closed_form(peak: float, final: float, steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    schedule = warmup_cosine(peak, steps=steps, warmup_steps=warmup, final=final)
    rising = peak * np.arange(1, warmup + 1) / max(1, warmup)
    falling = final + (peak - final) * (1 + np.cos(np.pi * np.arange(1, steps - warmup + 1) / (steps - warmup))) / 2
    expected = np.concatenate([rising, falling, [final, final]])
    np.testing.assert_allclose([schedule(t) for t in range(steps + 2)], expected, rtol=1e-12, atol=1e-12 * peak)


@pytest.mark.parametrize("warmup", [-1, 5, 6])
def test_a_warmup_that_leaves_no_step_is_refused(warmup: int) -> None:
    with pytest.raises(ValueError, match=f"warmup_steps: got {warmup}"):
        warmup_cosine(0.1, steps=5, warmup_steps=warmup)


@pytest.mark.parametrize("wrong", ["1e-3", None, [1], float("nan"), True])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lr", constant),
        ("batch", linear_scaling),
        ("base_lr", lambda v: linear_scaling(8, base_lr=v)),
        ("milestones", lambda v: step_decay(1.0, [v, 5])),
        ("milestones", lambda v: step_decay(1.0, v if v != [1] else None)),
        ("factor", lambda v: step_decay(1.0, [1], factor=v)),
        ("start", lambda v: gradual_warmup(constant(1.0), start=v, steps=3)),
        ("steps", lambda v: constant_warmup(constant(1.0), start=0.1, steps=v)),
        ("schedule", lambda v: gradual_warmup(v, start=0.1, steps=1)),
        ("power", lambda v: power_decay(1.0, v)),
        ("steps", lambda v: power_decay(1.0, 0.5, v)),
        ("peak", lambda v: warmup_cosine(v, steps=5)),
        ("steps", lambda v: warmup_cosine(1.0, steps=v)),
        ("warmup_steps", lambda v: warmup_cosine(1.0, steps=5, warmup_steps=v)),
        ("steps", lambda v: warmup_polynomial(1.0, steps=v, warmup_steps=0)),
        ("warmup_steps", lambda v: warmup_polynomial(1.0, steps=5, warmup_steps=v)),
        ("epoch", lambda v: large_minibatch(512, v)),
        ("warmup", lambda v: large_minibatch(512, 10, warmup=v)),
    ],
)
def test_what_is_no_number_is_refused_by_name(name: str, make: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got .*allowed$"):
        make(wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    assert warmup_cosine(np.float32(1.0), steps=np.int64(4), warmup_steps=np.int32(2))(1) == 1.0
    assert step_decay(1.0, np.array([2, 4]))(3) == pytest.approx(0.1)
