"""Rand-k: exact moments by the restatement in `sparsifiers.py`, places drawn evenly, and sizes."""

from __future__ import annotations

import pytest
import torch

from shoal.compression import PlainRandK, RandK
from shoal.compression.rand_k import Drawn
from shoal.tensors.payload import encoded_size

from ..restatements.compression_b import sparsifiers as restated
from .vectors import flat, sent, spread_of, vector, wide


def test_entries_come_through_at_k_places_times_the_factor_and_nowhere_else() -> None:
    layout = wide()
    x = vector(layout)
    k = round(0.1 * layout.size)
    for codec, factor in ((RandK(0.1), layout.size / k), (PlainRandK(0.1), 1.0)):
        _, decoded = sent(codec, x, layout)
        places = decoded.nonzero().squeeze(1).numpy()
        assert len(places) == k
        assert decoded.tolist() == (torch.from_numpy(restated.keep(x.numpy(), places)) * factor).tolist()


def test_variances_are_the_exact_ones_over_all_sets() -> None:
    layout = flat(10)
    x = vector(layout)
    mean, unbiased, contractive = restated.rand_k_moments(x.numpy(), 3)
    torch.testing.assert_close(torch.from_numpy(mean), x)
    assert spread_of(RandK(0.3), x, layout, 20_000) == pytest.approx(unbiased, rel=0.04)
    assert spread_of(PlainRandK(0.3), x, layout, 20_000) == pytest.approx(contractive, rel=0.04)
    square = float(x.square().sum())
    assert unbiased == pytest.approx((10 / 3 - 1) * square)
    assert contractive == pytest.approx((1 - 3 / 10) * square)


def test_pairs_of_places_are_equally_frequent() -> None:
    """Chi-squared over all pairs of 2 places among 8: 28 of them, 27 degrees of freedom, 99.99% below 65."""
    layout, n = flat(8), 14_000
    codec = PlainRandK(0.25)
    payloads, _ = codec.encode_rows(torch.ones(n, 8, dtype=torch.float64), {}, torch.arange(n) * 31, layout)
    hit = codec.decode_rows(payloads, layout) != 0
    pairs = torch.tensor([[i, j] for i in range(8) for j in range(i)])
    counts = (hit[:, pairs[:, 0]] & hit[:, pairs[:, 1]]).sum(0).double()
    assert int(counts.sum()) == n
    assert float(((counts - n / 28) ** 2 / (n / 28)).sum()) < 65.0


def test_places_do_not_travel() -> None:
    layout = wide()
    payload, _ = sent(RandK(0.1), vector(layout), layout)
    assert isinstance(payload, Drawn)
    assert payload.values.numel() == round(0.1 * layout.size)
    assert encoded_size(payload) < payload.values.nbytes + 60


def test_the_key_of_the_draws_is_not_sent() -> None:
    payload, _ = sent(RandK(), vector(wide()), wide(), draw=1234)
    assert isinstance(payload, Drawn)
    assert payload.key != 1234


def test_it_is_not_for_models() -> None:
    assert "model" not in RandK().suits
