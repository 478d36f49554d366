"""The ternary codec against its restatement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shoal.compression import Ternary
from shoal.compression.symbols import Symbols, pack_signs, pack_sum, unpack_signs, unpack_sum
from shoal.compression.ternary import BLOCK, clipped, maxima, packed_trits
from shoal.tensors import Layout, derive, key, normal, uniform, unpack_trits

from ..restatements.compression import terngrad as restated

LAYOUT = Layout.from_shapes({"weight": (40, 30), "bias": (30,), "scale": (1,)}, dtype=torch.float64)


def gradient(seed: int) -> torch.Tensor:
    return normal(key(seed, "gradient"), LAYOUT.size, dtype=torch.float64) * 1e-3


@pytest.mark.parametrize("c", [0.7, 2.5])
def test_clipping_is_at_population_deviations_of_the_layer(c: float) -> None:
    g = gradient(1)
    found = clipped(g, LAYOUT, c)
    for name in ("weight", "bias"):
        part = LAYOUT[name].slice
        np.testing.assert_allclose(found[part], restated.clip(g[part].numpy(), c), rtol=1e-12)
    assert not torch.equal(found, g)
    assert torch.equal(found[LAYOUT["scale"].slice], g[LAYOUT["scale"].slice])  # sigma = 0: left alone


def test_clipping_knows_no_scale() -> None:
    g = gradient(1).float()
    for scale in (1e-30, 1e30):
        expected = clipped(g, LAYOUT, 1.0).double() * scale
        torch.testing.assert_close(clipped(g * scale, LAYOUT, 1.0).double(), expected, rtol=1e-5, atol=0.0)


def test_trits_are_the_restatements_for_the_same_draws() -> None:
    g = gradient(2)
    scales = maxima(g, LAYOUT) * torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64)
    found = unpack_trits(packed_trits(g, scales, 77, LAYOUT), LAYOUT.size)
    u = uniform(derive(77, 0), LAYOUT.size, dtype=torch.float64)
    for layer, scale in zip(LAYOUT, scales.tolist(), strict=True):
        expected = restated.ternarise(g[layer.slice].numpy(), scale, u[layer.slice].numpy())
        assert found[layer.slice].tolist() == expected.tolist()


def test_what_is_sent_has_three_levels_and_the_stated_variance() -> None:
    """Of 800 draws: the mean is the clipped gradient, within 5 standard errors of the restatement's variance."""
    g, n = gradient(3), 800
    codec = Ternary(1.5)
    payloads, _ = codec.encode_rows(g.expand(n, -1), {}, derive(key(6, "draws"), torch.arange(n)), LAYOUT)
    decoded = codec.decode_rows(payloads, LAYOUT)
    cut = clipped(g, LAYOUT, 1.5)
    for layer in LAYOUT:
        own, exact = decoded[:, layer.slice], cut[layer.slice]
        s = float(exact.abs().max())
        assert set(own.unique().tolist()) <= {-s, 0.0, s}
        deviation = torch.from_numpy(restated.variance(exact.numpy(), s)).sqrt() / n**0.5
        assert bool(((own.mean(0) - exact).abs() <= 5.0 * deviation + 1e-15).all())


def test_a_scale_for_each_layer_has_a_lower_variance_than_one_for_all() -> None:
    sizes = torch.cat([torch.full((s.size,), 10.0**i, dtype=torch.float64) for i, s in enumerate(LAYOUT)])
    g = gradient(4) * sizes
    whole = Layout.from_shapes({"all": (LAYOUT.size,)}, dtype=torch.float64)
    spread = {}
    for name, layout in (("layer", LAYOUT), ("all", whole)):
        payloads, _ = Ternary(None).encode_rows(g.expand(400, -1), {}, torch.arange(400), layout)
        spread[name] = float(Ternary(None).decode_rows(payloads, layout).var(0).sum())
    assert spread["layer"] < 0.9 * spread["all"]


def test_long_vectors_are_drawn_block_by_block_with_layers_across_the_borders() -> None:
    layout = Layout.from_shapes({"a": (BLOCK - 3,), "b": (7,), "c": (BLOCK + 11,), "d": (2,)})
    g = normal(key(9, "g"), layout.size) * torch.repeat_interleave(
        torch.tensor([1.0, 1e-3, 10.0, 0.0]), torch.tensor([s.size for s in layout])
    )
    scales = maxima(g, layout)
    trits = unpack_trits(packed_trits(g, scales, 4, layout), layout.size)
    u = torch.cat([uniform(derive(4, i), BLOCK) for i in range(3)])[: layout.size]
    for layer, scale in zip(layout, scales, strict=True):
        x = g[layer.slice]
        expected = torch.where(u[layer.slice] < x.abs() / scale, x.sign(), 0.0)
        assert torch.equal(trits[layer.slice].float(), expected)


# -- symbols


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 40])
def test_sums_come_back_and_take_the_fewest_symbols(n: int) -> None:
    signs = torch.where(uniform(key(n, "signs"), (n, 103)) < 0.5, -1, 1)
    total = signs.sum(0)
    packed = pack_sum(total, n)
    assert packed.levels == n + 1
    assert torch.equal(unpack_sum(packed, 103, n), total.int())
    signs[0, 5] = 0
    packed = pack_sum(signs.sum(0), n)
    assert packed.levels == 2 * n + 1
    assert torch.equal(unpack_sum(packed, 103, n), signs.sum(0).int())


def test_signs_take_a_bit_and_with_zeros_three_levels() -> None:
    signs = torch.tensor([1, -1, 1, 1, -1, -1, 1, 1, -1])
    assert pack_signs(signs).packed.numel() == 2
    assert torch.equal(unpack_signs(pack_signs(signs), 9), signs.int())
    signs[3] = 0
    assert (pack_signs(signs).levels, pack_signs(signs).packed.numel()) == (3, 2)
    assert torch.equal(unpack_signs(pack_signs(signs), 9), signs.int())


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ("x", "Symbols is needed"),
        (Symbols(torch.zeros(2, dtype=torch.uint8), 5), "5 levels"),
        (Symbols(torch.zeros(3, dtype=torch.uint8), 2), r"\[3\]"),
        (Symbols(torch.full((2,), 250, dtype=torch.uint8), 3), "242"),
    ],
)
def test_nonsense_is_refused(payload: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unpack_signs(payload, 9)  # type: ignore[arg-type]


def test_an_entry_beyond_the_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="entry 7 of 7 levels"):
        unpack_sum(Symbols(torch.full((3,), 255, dtype=torch.uint8), 7), 8, 3)
