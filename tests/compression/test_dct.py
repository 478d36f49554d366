"""The cosine transform and the strongest frequencies against their restatement and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from shoal.compression import DCT
from shoal.compression.dct import Frequencies, inverse, side, strongest, transform
from shoal.tensors import Layout, integers, key, normal
from shoal.tensors.payload import encode

from ..restatements.compression import demo as restated

LAYOUT = Layout.from_shapes({"w": (12, 20), "b": (12,), "conv": (6, 2, 3, 2), "prime": (7, 4)}, dtype=torch.float64)


def test_chunks_have_the_largest_divisor_as_side() -> None:
    for n in range(1, 130):
        assert side(n, 16) == restated.chunk_length(n, 16)


@pytest.mark.parametrize("chunk", [1, 4, 16, 64])
def test_the_transform_is_the_restatements_and_scipys_and_comes_back(chunk: int) -> None:
    x = normal(key(1, "x"), LAYOUT.size, dtype=torch.float64)
    for layer in LAYOUT:
        grid = DCT(1, chunk).grid(layer)
        own = x[layer.slice].clone()
        c = transform(own, grid)
        expected = restated.transform(own.view(layer.shape).numpy(), chunk)
        np.testing.assert_allclose(c.numpy(), expected, rtol=1e-11, atol=1e-13)
        first = own.view(grid.rows, grid.columns)[: grid.h, : grid.w].numpy()
        np.testing.assert_allclose(c[0].view(grid.h, grid.w).numpy(), dctn(first, norm="ortho"), rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(inverse(c, grid), own, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("k", [1, 3, 1000])
def test_the_strongest_are_sent_and_the_rest_is_orthogonal(k: int) -> None:
    codec, x = DCT(k, 4), normal(key(2, "x"), LAYOUT.size, dtype=torch.float64)
    payload, _ = codec.encode(x, {}, 0, LAYOUT)
    q = codec.decode(payload, LAYOUT)
    for layer in LAYOUT:
        own = x[layer.slice].view(layer.shape).numpy()
        c = restated.transform(own, 4)
        expected = restated.inverse(restated.merged([restated.top_k(c, k)], c.shape[1]), layer.shape, 4)
        np.testing.assert_allclose(q[layer.slice].view(layer.shape).numpy(), expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(q.square().sum() + (x - q).square().sum(), x.square().sum(), rtol=1e-12, atol=0.0)
    if k == 1000:
        torch.testing.assert_close(q, x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("k", "chunk", "values"), [(2, 4, "float32"), (5, 16, "float16"), (1000, 4, "bfloat16")])
def test_a_message_has_the_bits_of_the_formula(k: int, chunk: int, values: str) -> None:
    """Whole bytes for the places of each layer, and 200 bytes at most for the envelope."""
    layout = Layout.from_shapes({s.name: s.shape for s in LAYOUT})
    codec = DCT(k, chunk, values)
    payload, _ = codec.encode(normal(3, layout.size), {}, 0, layout)
    assert isinstance(payload, Frequencies)
    width = 32 if values == "float32" else 16
    size = 0
    for layer in layout:
        chunks, entries, kept = restated.coefficients_sent(layer.shape, chunk, k)
        bits = restated.message_bits(layer.shape, chunk, k, value_bits=0) if kept < entries else 0
        size += -(-bits // 8) + chunks * kept * width // 8
    assert payload.places.numel() + payload.values.numel() * width // 8 == size
    assert len(encode(payload)) <= size + 200


def test_coefficients_are_averaged_over_those_who_sent_them() -> None:
    codec = DCT(2, 4)
    rows = normal(torch.tensor([5, 6, 7]), LAYOUT.size, dtype=torch.float64)
    payloads, _ = codec.encode_rows(rows, {}, torch.zeros(3, dtype=torch.int64), LAYOUT)
    found = codec.merge(payloads, LAYOUT)
    for layer in LAYOUT:
        messages = [restated.top_k(restated.transform(r[layer.slice].view(layer.shape).numpy(), 4), 2) for r in rows]
        grid = codec.grid(layer)
        expected = restated.inverse(restated.merged(messages, grid.size), layer.shape, 4)
        np.testing.assert_allclose(found[layer.slice].view(layer.shape).numpy(), expected, rtol=1e-11, atol=1e-13)


def test_places_that_repeat_or_leave_the_chunk_are_refused() -> None:
    layout = Layout.from_shapes({"x": (6,)})
    codec = DCT(2, 6)
    for packed in (0b001001, 0b111001):  # places 1, 1 and 1, 7
        with pytest.raises(ValueError, match="must increase"):
            codec.decode(Frequencies(torch.tensor([packed], dtype=torch.uint8), torch.ones(2)), layout)


@pytest.mark.parametrize(("settings", "why"), [((0,), "^k"), ((1, 0), "^chunk"), ((1, 4, "int8"), "^values")])
def test_impossible_settings_are_refused(settings: tuple[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DCT(*settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (7, 64, 5), (30, 16, 16), (2, 4096, 32)])
def test_the_strongest_are_the_largest_in_order_of_place(n: int, m: int, k: int, dtype: torch.dtype) -> None:
    """Whether all are different or many equal."""
    for sizes in (normal(key(7), (n, m)).abs().to(dtype), integers(key(8), 3, (n, m)).to(dtype)):
        places = strongest(sizes, k)
        assert places.shape == (n, k)
        assert bool((places.diff() > 0).all())
        assert torch.equal(sizes.gather(1, places).sort().values, sizes.sort().values[:, m - k :])
