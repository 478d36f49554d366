"""Top-k against the restatement in `tests/restatements/compression_b/sparsifiers.py`; bounds and sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.compression import ErrorFeedback, TopK
from shoal.compression.top_k import Sparse, kept, largest_places
from shoal.tensors import Layout, key, normal

from ..restatements.compression_b import sparsifiers as restated
from .vectors import flat, sent, vector, wide


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.5, 1e-30]), min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_of_equal_magnitudes_the_earlier_place(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    for dtype in (torch.float64, torch.bfloat16):  # the second one has no numpy
        x = torch.tensor(values, dtype=dtype)
        assert largest_places(x, k).tolist() == restated.top_k_places(x.double().numpy(), k).tolist()


def test_the_largest_of_each_layer() -> None:
    layout = wide()
    x = vector(layout)
    _, decoded = sent(TopK(0.1, "layer"), x, layout)
    for s in layout:
        part = x[s.slice].numpy()
        expected = restated.keep(part, restated.top_k_places(part, kept(s.size, 0.1)))
        assert decoded[s.slice].tolist() == expected.tolist()


@pytest.mark.parametrize("density", [0.003, 0.2, 1.0])
def test_what_is_lost_is_at_most_the_share_left_out(density: float) -> None:
    layout = wide()
    x = vector(layout)
    _, decoded = sent(TopK(density), x, layout)
    k = kept(layout.size, density)
    assert int(decoded.count_nonzero()) == k
    assert float((decoded - x).square().sum()) <= (1 - k / layout.size) * float(x.square().sum())
    assert torch.equal(decoded[decoded != 0], x[decoded != 0])


def test_values_of_16_bits_are_off_by_their_rounding() -> None:
    layout = wide()
    full, half = (sent(TopK(0.1, values=v), vector(layout), layout)[1] for v in ("full", "bf16"))
    assert torch.equal(half, full.bfloat16().double())


def test_places_take_a_third_of_what_numbers_of_32_bits_would() -> None:
    d = 100_000
    layout = Layout.from_shapes({"x": (d,)})
    payload, _ = sent(TopK(0.01), normal(key(4), d), layout)
    assert isinstance(payload, Sparse)
    assert payload.values.nbytes == 4 * 1000
    assert 8 * payload.places.nbytes < 1000 * 8.3 < restated.top_k_bits(d, 1000) - 32 * 1000
    entropy = d * (0.01 * math.log2(100) + 0.99 * math.log2(1 / 0.99))
    assert 8 * payload.places.nbytes > 0.97 * entropy


def test_steps_with_error_feedback_are_those_of_the_restatement() -> None:
    layout, gamma, k = flat(40), 0.05, 4
    codec = ErrorFeedback(TopK(0.1))
    x = vector(layout)
    other, errors = x.numpy().copy(), torch.zeros(1, 40, dtype=torch.float64).numpy()
    memory = codec.start(layout)
    for step in range(12):
        noise = normal(key(8, step), 40, dtype=torch.float64)
        payload, memory = codec.encode(gamma * (x + noise), memory, 0, layout)
        other, errors, _ = restated.top_k_step(other, errors, other[None] + noise.numpy()[None], gamma, k)
        x = x - codec.decode(payload, layout)
        torch.testing.assert_close(x, torch.from_numpy(other), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.1}, "density"),
        ({"per": "row"}, "per"),
        ({"values": "x"}, "values"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got"):
        TopK(**settings)
