"""The codec RQM draws by the exact law, and sums of its messages decode to the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shoal.compression import RQM
from shoal.compression.rqm import Quantised, Total
from shoal.tensors import Layout, derive, key, normal, uniform
from tests.restatements.compression_b import rqm as restated

WIDE = torch.float64


@pytest.mark.parametrize(("delta", "levels", "q"), [(1.0, 16, 0.42), (0.4, 5, 0.8), (2.33, 16, 0.42), (1.0, 2, 0.3)])
@pytest.mark.parametrize("x", [-1.0, -0.31, 0.0, 0.77, 1.0])
def test_levels_come_with_their_exact_probabilities(delta: float, levels: int, q: float, x: float) -> None:
    """60,000 draws against the restatement's probabilities, each within 5 standard errors."""
    n = 60_000
    codec, p = RQM(1.0, delta, levels, q), restated.pmf(x, 1.0, delta, levels, q)
    u = [uniform(key(3, name), n, dtype=WIDE) for name in ("a", "b", "c")]
    found = np.bincount(codec.quantise(torch.full((n,), x), *u).numpy(), minlength=levels) / n
    assert (np.abs(found - p) <= 5.0 * np.sqrt(p * (1 - p) / n) + 3.0 / n).all()


@pytest.mark.parametrize("x", [-0.9, 0.1])
def test_how_many_levels_are_left_out_is_geometric(x: float) -> None:
    """By a grid of draws, exact to its spacing: the level below x when rounded down."""
    n, q, m = 200_000, 0.42, 16
    codec, B = RQM(1.0, 1.0, m, q), restated.levels(1.0, 1.0, m)
    grid = (torch.arange(n, dtype=WIDE) + 0.5) / n
    down = codec.quantise(torch.full((n,), x), grid, grid, torch.ones(n, dtype=WIDE))
    cell = int(np.flatnonzero(x >= B)[-1])
    expected = [(1.0 - q) ** cell if a == 0 else q * (1.0 - q) ** (cell - a) for a in range(cell + 1)]
    np.testing.assert_allclose(np.bincount(down.numpy(), minlength=cell + 1) / n, expected, atol=2.0 / n)


def test_a_sum_decodes_to_the_mean_of_what_was_sent() -> None:
    layout, codec = Layout.from_shapes({"x": (300,)}, dtype=WIDE), RQM(0.5, 0.7)
    rows = normal(key(1, "x"), (7, 300), dtype=WIDE)
    payloads, _ = codec.encode_rows(rows, {}, derive(key(2), torch.arange(7)), layout)
    total = codec.combine(payloads, layout)
    assert total.clients == 7
    codes = torch.stack([next(iter(codec.streams(p, layout))).long() for p in payloads]).numpy()
    mean = codec.decode_total(total, layout)
    np.testing.assert_allclose(mean.numpy(), restated.decode(codes.sum(0), 7, 0.5, 0.7, 16), rtol=1e-12)
    torch.testing.assert_close(mean, codec.decode_rows(payloads, layout).mean(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("levels", "bits"), [(2, 1), (3, 2), (16, 4), (17, 5), (300, 9)])
def test_a_level_takes_the_bits_that_it_needs(levels: int, bits: int) -> None:
    layout = Layout.from_shapes({"x": (1000,)})
    payload, _ = RQM(1.0, levels=levels).encode(normal(key(1), 1000), {}, 1, layout)
    assert isinstance(payload, Quantised)
    assert 8 * len(payload.levels) == restated.bits_per_client(1000, levels) == 1000 * bits


def test_what_lies_beyond_is_clipped_entry_by_entry() -> None:
    layout, codec = Layout.from_shapes({"x": (4,)}), RQM(1.0, 0.5)
    big, clipped = torch.tensor([9.0, -9.0, 0.2, 1.0]), torch.tensor([1.0, -1.0, 0.2, 1.0])
    a, b = (codec.decode(codec.encode(x, {}, 5, layout)[0], layout) for x in (big, clipped))
    assert torch.equal(a, b)


def test_sums_out_of_range_and_unknown_levels_are_refused() -> None:
    layout, codec = Layout.from_shapes({"x": (4,)}), RQM(1.0, levels=5)
    with pytest.raises(ValueError, match="a level of 7"):
        codec.decode(Quantised(torch.full((2,), 255, dtype=torch.uint8)), layout)
    with pytest.raises(ValueError, match="out of range"):
        codec.decode_total(Total(torch.full((4,), 9, dtype=torch.int32), 2), layout)
    with pytest.raises(ValueError, match="payloads: got none"):
        codec.combine([], layout)


@pytest.mark.parametrize("settings", [{"clip": 0.0}, {"delta": -1.0}, {"levels": 1}, {"q": 0.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(settings))}: got"):
        RQM(**settings)  # type: ignore[arg-type]
