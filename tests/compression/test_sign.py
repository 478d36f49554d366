"""Signs: the identity of the error, one bit an entry, and the restatement in `sign_error_feedback.py`."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.compression import ErrorFeedback, Sign
from shoal.compression.sign import Signs
from shoal.tensors import Layout, key, normal

from ..restatements.compression_b import sign_error_feedback as restated
from .vectors import flat, sent, vector, wide


def test_one_layer_is_the_restatement() -> None:
    layout = flat(400)
    x = vector(layout)
    x[::9] = 0.0
    expected = torch.from_numpy(restated.compress(x.numpy()))
    torch.testing.assert_close(sent(Sign(), x, layout)[1], expected, rtol=1e-14, atol=0.0)


def test_what_is_lost_is_the_norm_less_the_mean_magnitude_layer_by_layer() -> None:
    layout = wide()
    x = vector(layout)
    _, decoded = sent(Sign(), x, layout)
    for segment in layout:
        part, lost = x[segment.slice], (decoded - x)[segment.slice].square().sum()
        expected = part.square().sum() - part.abs().sum() ** 2 / segment.size
        torch.testing.assert_close(lost, expected, rtol=1e-12, atol=0.0)
        phi = restated.density(part.numpy())
        torch.testing.assert_close(
            lost / part.square().sum(), torch.tensor(1.0 - phi, dtype=torch.float64), rtol=1e-10, atol=0.0
        )


def test_zero_is_positive_and_scales_move_the_result_in_proportion() -> None:
    layout = flat(4)
    x = torch.tensor([0.0, -0.0, -3.0, 1.0], dtype=torch.float64)
    assert sent(Sign(), x, layout)[1].tolist() == [1.0, 1.0, -1.0, 1.0]
    assert sent(Sign(), 8.0 * x, layout)[1].tolist() == [8.0, 8.0, -8.0, 8.0]


@pytest.mark.parametrize("d", [1, 8, 9, 1000])
def test_the_size_is_a_bit_an_entry_and_a_number_a_layer(d: int) -> None:
    layout = Layout.from_shapes({"x": (d,), "none": (0, 2), "y": (3,)})
    payload, _ = sent(Sign(), vector(layout), layout)
    assert isinstance(payload, Signs)
    assert payload.bits.nbytes == math.ceil((d + 3) / 8)
    assert payload.scales.nbytes == 4 * 2


def test_steps_with_error_feedback_are_those_of_the_restatement() -> None:
    """Two senders, mean of their messages, ten steps down a quadratic."""
    layout, gamma = flat(30), 0.07
    codec = ErrorFeedback(Sign())
    x = vector(layout)
    other, errors = x.numpy().copy(), torch.zeros(2, 30, dtype=torch.float64).numpy()
    memories = [codec.start(layout)] * 2
    for step in range(10):
        noise = normal(key(3, step), (2, 30), dtype=torch.float64)
        got = torch.zeros_like(x)
        for i in range(2):
            payload, memories[i] = codec.encode(gamma * (x + noise[i]), memories[i], 0, layout)
            got += codec.decode(payload, layout) / 2
        gradients = other[None] + noise.numpy()
        other, errors, _ = restated.step(other, errors, gradients, gamma)
        x = x - got
        torch.testing.assert_close(x, torch.from_numpy(other), rtol=1e-10, atol=1e-12)
