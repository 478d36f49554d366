"""Momentum with the rate inside the velocity: corrected, it follows the plain form; uncorrected, it does not."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.optim import Momentum, Param, Rule
from shoal.optim.velocity import CorrectedVelocity, Velocity
from tests.restatements import linear_scaling_warmup as restated

A = np.diag([1.0, 0.3, 0.01])


def gradient(w: np.ndarray, t: int) -> np.ndarray:
    return A @ w + 0.1 * np.sin(t + np.arange(3))


def trajectory(rule: Rule, lrs: list[float]) -> np.ndarray:
    w = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    param = Param("w", (3,))
    state = rule.views(rule.memory({"w": w}), [param])
    points = [w.clone()]
    for t, lr in enumerate(lrs):
        g = torch.from_numpy(gradient(w.numpy(), t))
        rule.step([param], [w], [g], state, t + 1.0, lr)
        points.append(w.clone())
    return torch.stack(points).numpy()


LRS = st.lists(st.floats(0.01, 0.5), min_size=2, max_size=20)
START = np.array([1.0, -2.0, 3.0])


@given(lrs=LRS, m=st.floats(0.0, 0.95))
def test_each_form_equals_its_restatement(lrs: list[float], m: float) -> None:
    for transform, expected in (
        (Momentum(m), restated.momentum_sgd),
        (Velocity(m), restated.momentum_sgd_lr_inside),
        (CorrectedVelocity(m), restated.momentum_sgd_corrected),
    ):
        found = trajectory(Rule("r", 0.1, (transform,)), lrs)
        np.testing.assert_allclose(found, expected(START, gradient, lrs, m), rtol=1e-9, atol=1e-11)


@given(lrs=LRS, m=st.floats(0.1, 0.95))
def test_the_corrected_velocity_follows_plain_momentum(lrs: list[float], m: float) -> None:
    plain, corrected = (trajectory(Rule("r", 0.1, (kind(m),)), lrs) for kind in (Momentum, CorrectedVelocity))
    np.testing.assert_allclose(corrected, plain, rtol=1e-9, atol=1e-11)


def test_without_the_correction_a_change_of_rate_leaves_another_trajectory() -> None:
    lrs = [0.1] * 5 + [0.4] * 5
    plain, inside = (trajectory(Rule("r", 0.1, (kind(0.9),)), lrs) for kind in (Momentum, Velocity))
    np.testing.assert_allclose(inside[:6], plain[:6], rtol=1e-12)
    assert np.abs(inside[7:] - plain[7:]).max() > 1e-3
