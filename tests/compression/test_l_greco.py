"""Levels layer by layer against the independent restatement and brute force; what a sender remembers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal.compression import Codec, FedZip, Identity, LGreCo, Memory, l_greco
from shoal.compression.codec import field_of
from shoal.compression.l_greco import Layered, choose, knapsack
from shoal.tensors import Layout, key, normal, uniform
from shoal.tensors.payload import Content, Payload
from tests.restatements.compression_b import l_greco as restated

LAYOUT = Layout.from_shapes({"a": (30, 20), "b": (20,), "c": (8, 40), "d": (5, 5)}, dtype=torch.float64)


def tables(layers: int, levels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors that fall and sizes that grow with the level, as a family's do."""
    draws = uniform(key(seed, "tables"), (2, layers, levels), dtype=torch.float64).numpy()
    return np.cumsum(draws[0], 1)[:, ::-1].copy(), np.cumsum(np.ceil(100 * draws[1]), 1)


@given(layers=st.integers(1, 5), levels=st.integers(2, 6), seed=st.integers(0, 500), alpha=st.floats(0.6, 2.0))
def test_choices_are_the_restatements(layers: int, levels: int, seed: int, alpha: float) -> None:
    errors, sizes = tables(layers, levels, seed)
    default, buckets = levels // 2, 300
    assert choose(errors, sizes, default, alpha, buckets) == restated.choose(
        errors, sizes, [default] * layers, alpha, buckets
    )


@given(seed=st.integers(0, 300))
def test_no_combination_within_the_rounding_is_smaller(seed: int) -> None:
    """Brute force over 6^5 combinations is no larger than the programme, which is no larger than with 1 - L/D of it."""
    errors, sizes = tables(5, 6, seed)
    budget, buckets = float(errors[:, 3].sum()), 2000
    e = restated.discretise(errors, budget, buckets)
    size, chosen = knapsack(e, sizes, buckets)
    assert restated.brute_force(errors, sizes, budget)[0] <= size
    assert size <= restated.brute_force(errors, sizes, (1 - 5 / buckets) * budget)[0]
    if chosen:
        assert sum(errors[l, c] for l, c in enumerate(chosen)) <= budget * (1 + 1e-12)
        assert size == sum(sizes[l, c] for l, c in enumerate(chosen))


@given(seed=st.integers(0, 300), alpha=st.floats(1.0, 3.0))
def test_with_all_of_the_error_it_is_never_larger_than_uniform_and_never_worse(seed: int, alpha: float) -> None:
    errors, sizes = tables(4, 5, seed)
    chosen = list(enumerate(choose(errors, sizes, 2, alpha, 10_000)))
    assert sum(sizes[place] for place in chosen) <= sizes[:, 2].sum()
    assert sum(errors[place] for place in chosen) <= alpha * errors[:, 2].sum() * (1 + 1e-12)


def test_a_default_that_loses_nothing_leaves_the_cheapest_of_those() -> None:
    errors, sizes = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), np.array([[1.0, 5.0, 4.0], [3.0, 2.0, 6.0]])
    assert choose(errors, sizes, 1, 1.0, 100) == [2, 1]


# -- the codec


@dataclass(frozen=True)
class Kept(Payload):
    values: Tensor


@dataclass(frozen=True)
class Counting(Codec):
    """For tests: the first share of the entries, and a memory of how many messages there were."""

    share: float

    def start(self, layout: Layout, device: torch.device | None = None) -> Memory:
        return {"seen": torch.zeros(1 + int(10 * self.share), dtype=layout.dtype, device=device)}

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        k = int(self.share * layout.size)
        return [Kept(row[:k].clone()) for row in rows], {"seen": memory["seen"] + 1}

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        rows = torch.zeros(len(payloads), layout.size, dtype=layout.dtype)
        for row, payload in zip(rows, payloads, strict=True):
            values = field_of(payload, Kept, "values", layout.dtype, [int(self.share * layout.size)])
            row[: len(values)] = values
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        return ()


GRID = tuple(Counting(share) for share in (0.25, 0.5, 0.75, 1.0))


def uneven(seed: int) -> Tensor:
    """A vector whose first layer has all its weight in its first quarter, and the second none there."""
    x = normal(key(seed, "x"), LAYOUT.size, dtype=torch.float64)
    x[150:600] *= 1e-3
    x[620:700] *= 1e-3
    return x


def levels_of(codec: LGreCo, messages: int) -> list[list[int]]:
    memory, found = codec.start(LAYOUT), []
    for message in range(messages):
        payload, memory = codec.encode(uneven(message), memory, message, LAYOUT)
        assert isinstance(payload, Layered)
        found.append(payload.levels.tolist())
    return found


def test_levels_are_chosen_every_so_often_from_what_was_sent_before() -> None:
    found = levels_of(LGreCo(GRID, 2, every=3, window=2), 7)
    assert found[:3] == [[2, 2, 2]] * 3
    assert found[3] == found[4] == found[5]
    assert found[3][0] == 0  # its first quarter is nearly all there is
    codec = LGreCo(GRID, 2, every=3, window=2)
    mean = (uneven(1) + uneven(2)) / 2
    assert found[3] == choose(*codec.table(mean, 3, LAYOUT), 2, 1.0, codec.buckets)


def test_what_a_layers_codec_remembers_begins_anew_when_its_level_changes() -> None:
    codec = LGreCo(GRID, 2, every=2, window=1)
    memory = codec.start(LAYOUT)
    seen = []
    for message in range(4):
        _, memory = codec.encode(uneven(message), memory, message, LAYOUT)
        seen.append((memory["levels"].tolist(), [float(memory[f"0.{c}.seen"][0]) for c in range(4)]))
    assert seen[1] == ([2, 2, 2], [0.0, 0.0, 2.0, 0.0])
    assert seen[2][0][0] == 0
    assert seen[3][1] == [2.0, 0.0, 2.0, 0.0]


def test_what_has_one_dimension_is_sent_as_it_is() -> None:
    codec, x = l_greco("fedzip"), uneven(3)
    decoded = codec.decode(codec.encode(x, codec.start(LAYOUT), 1, LAYOUT)[0], LAYOUT)
    assert torch.equal(decoded[600:620], x[600:620])
    assert not torch.equal(decoded, x)


def test_uniform_levels_decode_to_what_each_layer_alone_would() -> None:
    codec, x = LGreCo((FedZip(0.1), Identity()), 0), uneven(4)
    decoded = codec.decode(codec.encode(x, codec.start(LAYOUT), 1, LAYOUT)[0], LAYOUT)
    whole = FedZip(0.1).decode(FedZip(0.1).encode(x, {}, 1, LAYOUT)[0], LAYOUT)
    for name in ("a", "c", "d"):
        assert torch.equal(decoded[LAYOUT[name].slice], whole[LAYOUT[name].slice])


def test_senders_of_one_stack_may_have_other_levels_each() -> None:
    codec = LGreCo(GRID, 2, every=1)
    rows = torch.stack([uneven(1), uneven(2).flip(0)])
    memory = {name: torch.stack([value, value]) for name, value in codec.start(LAYOUT).items()}
    for message in range(2):
        payloads, memory = codec.encode_rows(rows, memory, torch.tensor([message, message]), LAYOUT)
    first, second = (payload.levels.tolist() for payload in payloads if isinstance(payload, Layered))
    assert first != second


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"levels": GRID[:1], "default": 0}, "levels"),
        ({"levels": GRID, "default": 4}, "default"),
        ({"levels": GRID, "default": 0, "alpha": 0.0}, "alpha"),
        ({"levels": GRID, "default": 0, "every": 0}, "every"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got"):
        LGreCo(**settings)  # type: ignore[arg-type]


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^family: got 'none'; allowed are fedzip, powersgd"):
        l_greco("none")
