"""Keys, draws and shuffles: known answers, the three laws of draws, and the distributions."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.func import vmap

from shoal.tensors.bits import CHUNK, mix, mix_int
from shoal.tensors.random import (
    _sqrt,
    derive,
    generator,
    hash01,
    integers,
    key,
    normal,
    permutation,
    philox,
    rademacher,
    shuffled,
    uniform,
)

KEYS = st.integers(0, 2**63 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
SIZES = (1, 2, 3, 5, 8, 15, 17, 31, 63, 64, 65, 1001)  # around the widths of vector registers

DRAWS = {
    "uniform": lambda keys, shape: uniform(keys, shape),
    "uniform, double": lambda keys, shape: uniform(keys, shape, dtype=torch.float64),
    "normal": lambda keys, shape: normal(keys, shape),
    "normal, double": lambda keys, shape: normal(keys, shape, dtype=torch.float64),
    "rademacher": lambda keys, shape: rademacher(keys, shape),
    "integers": lambda keys, shape: integers(keys, 77, shape),
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


def identical(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit: also the signs of zeros."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize(
    ("key_words", "counter", "answer"),
    [
        ("00000000 00000000", "00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff", "ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("a4093822 299f31d0", "243f6a88 85a308d3 13198a2e 03707344", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_answers_published_with_random123(key_words: str, counter: str, answer: str) -> None:
    low, high = (int(word, 16) for word in key_words.split())
    packed = (high << 32 | low) - (2**64 if high >> 31 else 0)
    words = philox(torch.tensor(packed), torch.tensor([int(word, 16) for word in counter.split()]))
    assert [f"{word:08x}" for word in words.tolist()] == answer.split()


@draws
@pytest.mark.parametrize("size", SIZES)
def test_stacked_keys_draw_what_single_keys_draw(draw, size: int) -> None:
    keys = derive(3, torch.arange(7))
    stacked = draw(keys, size)
    for i, single in enumerate(keys):
        assert identical(stacked[i], draw(single, size))
        assert identical(stacked[i], draw(int(single), (size,)))


@draws
def test_stacking_in_other_numbers_of_rows_changes_nothing_even_across_chunks(draw) -> None:
    keys = derive(4, torch.arange(600))
    whole = draw(keys, 131)
    for rows in (1, 3, 64, 599):
        assert identical(whole[:rows], draw(keys[:rows], 131))
    assert identical(whole, draw(keys.reshape(20, 30), 131).reshape(600, 131))
    assert identical(draw(5, 70_001)[:69_999], draw(5, 69_999))


@draws
def test_vmap_over_scalar_keys_draws_what_stacked_keys_draw(draw) -> None:
    keys = derive(5, torch.arange(9))
    assert identical(vmap(lambda k: draw(k, (3, 7)))(keys), draw(keys, (3, 7)))


def test_vmap_may_derive_permute_and_take_a_bound_for_each_key() -> None:
    keys, highs = derive(6, torch.arange(9)), torch.arange(1, 10)
    assert identical(vmap(lambda k: permutation(k, 31))(keys), permutation(keys, 31))
    assert identical(vmap(lambda k: derive(k, "step", 4))(keys), derive(keys, "step", 4))
    assert identical(vmap(lambda k, h: integers(k, h, 50))(keys, highs), integers(keys, highs, 50))


@draws
@given(key=KEYS, size=st.integers(0, 50), more=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_a_short_draw_is_the_beginning_of_a_long_one(draw, key: int, size: int, more: int) -> None:
    assert identical(draw(key, size), draw(key, size + more)[:size])


def test_draws_of_one_number_have_the_shape_of_the_keys() -> None:
    for draw in DRAWS.values():
        assert draw(1, ()).shape == ()
        assert draw(derive(1, torch.arange(3)), ()).shape == (3,)
        assert draw(torch.empty(0, dtype=torch.int64), (2,)).shape == (0, 2)
        assert draw(torch.empty(2, 0, dtype=torch.int64), (0, 2)).shape == (2, 0, 0, 2)


def test_draws_of_one_key_differ_by_function_and_purpose() -> None:
    drawn = [
        uniform(8, 64),
        uniform(8, 64, purpose=1),
        uniform(8, 64, purpose=2**40),
        uniform(8, 64, purpose="noise"),
        integers(8, 2**24, 64) / 2**24,
        uniform(9, 64),
    ]
    for a, b in itertools.combinations(drawn, 2):
        assert (a - b).abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_uniform_on_a_grid_in_the_unit_interval(dtype: torch.dtype) -> None:
    x = uniform(derive(10, torch.arange(100)), 3000, dtype=dtype)
    scaled = x.double() * 2 ** (24 if dtype == torch.float32 else 53)
    assert (scaled == scaled.floor()).all()
    assert x.min() >= 0
    assert x.max() < 1
    assert stats.kstest(x.flatten().numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_random_signs_are_those_of_a_uniform_draw_less_a_half_in_every_dtype(dtype: torch.dtype) -> None:
    keys = derive(14, torch.arange(20))
    x = rademacher(keys, (30, 100), purpose="signs", dtype=dtype)
    assert x.dtype == dtype
    wanted = np.where(uniform(keys, (30, 100), purpose="signs").numpy() < 0.5, -1.0, 1.0)
    assert np.array_equal(x.double().numpy(), wanted)


def test_random_signs_have_equal_chances_and_do_not_know_their_neighbours() -> None:
    x = rademacher(derive(15, torch.arange(100)), 4000).numpy()
    assert stats.binomtest(int((x > 0).sum()), x.size).pvalue > 0.01
    for lag in (1, 2, 4):  # four words come out of one call of the generator
        assert stats.binomtest(int((x[:, lag:] * x[:, :-lag] > 0).sum()), x[:, lag:].size).pvalue > 0.01
    assert stats.binomtest(int((x[1:] * x[:-1] > 0).sum()), x[1:].size).pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_normal_and_its_numbers_are_independent(dtype: torch.dtype) -> None:
    x = normal(derive(11, torch.arange(100)), 4000, dtype=dtype)
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 0.01
    for powers in (x, x**2):  # those of one block of the generator lie beside each other
        for lag in (1, 2, 3, 4):
            r = np.corrcoef(powers[:, lag:].flatten(), powers[:, :-lag].flatten())[0, 1]
            assert abs(r) < 4 / math.sqrt(x.numel())


def test_normal_in_single_and_double_agree_with_the_library_functions_on_the_same_words() -> None:
    from shoal.tensors.random import _box_muller

    u = uniform(12, 10_000, dtype=torch.float64) * 2**32 + 1
    turn = (uniform(13, 10_000, dtype=torch.float64) - 0.5) * (math.pi / 2)
    signs = integers(14, 4, 10_000)
    angle = turn + math.pi / 4
    r = torch.sqrt(-2 * torch.log(u / 2**32))
    expected = torch.stack((r * angle.cos() * (1 - 2 * (signs & 1)), r * angle.sin() * (1 - (signs & 2))), -1)
    assert (_box_muller(u, 32, turn, signs) - expected).abs().max() < 1e-14
    single = _box_muller(u.float(), 32, turn.float(), signs)
    assert (single - expected).abs().median() < 1e-6
    small = u < 2**31  # near 2**32, rounding u to single already moves a tiny radius
    assert (single - expected)[small].abs().max() < 2e-6


@given(key=KEYS, high=st.integers(1, 2**31))
@settings(max_examples=50, deadline=None)
def test_integers_are_in_range(key: int, high: int) -> None:
    x = integers(key, high, 40)
    assert 0 <= int(x.min()) <= int(x.max()) < high


@pytest.mark.parametrize("high", [1, 2, 3, 10, 100])
def test_integers_are_uniform(high: int) -> None:
    counts = integers(derive(15, torch.arange(50)), high, 2000).flatten().bincount(minlength=high)
    assert len(counts) == high
    assert high == 1 or stats.chisquare(counts.numpy()).pvalue > 0.01


@given(key=KEYS, high=st.integers(1, 2**31), block=st.integers(0, 20))
@settings(deadline=None)
def test_integers_are_the_upper_half_of_64_bits_times_the_bound(key: int, high: int, block: int) -> None:
    w = philox(torch.tensor(key), torch.tensor([block, 3, 0, 0])).tolist()
    expected = [((w[i] << 32 | w[i + 1]) * high) >> 64 for i in (0, 2)]
    assert integers(key, high, 2 * block + 2)[-2:].tolist() == expected


def test_permutation_is_one_and_every_order_is_equally_likely() -> None:
    orders = permutation(derive(16, torch.arange(24_000)), 4)
    assert (orders.sort(-1).values == torch.arange(4)).all()
    counts = (orders * torch.tensor([64, 16, 4, 1])).sum(-1).bincount()
    assert (counts > 0).sum() == 24
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 0.01


@given(seed=KEYS, parts=st.lists(st.one_of(INT64, st.text(max_size=5)), max_size=4), cut=st.integers(0, 4))
def test_a_key_of_a_key_is_a_key_of_all_parts(seed: int, parts: list[int | str], cut: int) -> None:
    whole = key(seed, *parts)
    assert 0 <= whole < 2**63
    assert key(key(seed, *parts[:cut]), *parts[cut:]) == whole


@given(seed=KEYS, parts=st.lists(INT64, min_size=1, max_size=5), more=INT64, name=st.text(max_size=5))
@settings(deadline=None)
def test_derived_keys_are_chained_scalar_keys(seed: int, parts: list[int], more: int, name: str) -> None:
    derived = derive(seed, torch.tensor(parts), name, more)
    assert derived.tolist() == [key(seed, part, name, more) for part in parts]
    assert derive(derived, 1).tolist() == [key(k, 1) for k in derived.tolist()]
    assert derive(torch.tensor(seed), "a").tolist() == key(seed, "a") == int(derive(seed, "a"))


def test_derive_broadcasts() -> None:
    keys = derive(derive(1, torch.arange(3))[:, None], torch.arange(4))
    assert keys.tolist() == [[key(1, i, j) for j in range(4)] for i in range(3)]


def test_keys_do_not_collide_or_depend_on_order() -> None:
    parts = [*range(50), *map(str, range(50))]
    keys = {key(seed, a, b) for seed in (0, 1) for a in parts for b in parts}
    assert len(keys) == 2 * len(parts) ** 2


def test_keys_and_hashes_are_the_same_in_a_process_with_other_string_hashes() -> None:
    code = "from shoal.tensors.random import *; print(key(1, 'peer', 2), float(normal(1, purpose='x')), hash01(1, 2))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{key(1, 'peer', 2)} {float(normal(1, purpose='x'))} {hash01(1, 2)}\n"}


def test_values_are_pinned_so_that_old_seeds_replay() -> None:
    assert key(0, "peer", 1) == 1697933148401220631
    assert hash01(1, 2, 3) == 0.7326582662591473
    assert uniform(0, 3).tolist() == [0.41724807024002075, 0.9146023988723755, 0.451726496219635]
    assert normal(0, 3).tolist() == [1.4525361061096191, 0.057960037142038345, 0.3963322937488556]
    assert normal(0, 2, dtype=torch.float64).tolist() == [0.7229423967017495, -1.2611798808661203]
    assert integers(0, 1000, 4).tolist() == [817, 372, 500, 187]
    assert rademacher(0, 6).tolist() == [-1.0, 1.0, -1.0, -1.0, -1.0, 1.0]
    assert permutation(0, 6).tolist() == [1, 5, 0, 3, 2, 4]
    assert shuffled(0, 0, torch.arange(10), 10).tolist() == [[8, 5, 7, 0, 3, 6, 9, 4, 1, 2]]


@given(INT64)
def test_mixing_is_the_same_on_python_ints_and_arrays(x: int) -> None:
    expected = mix_int(x % 2**64)
    assert int(mix(np.array([x]))[0]) % 2**64 == expected
    assert int(mix(torch.tensor([x]))[0]) % 2**64 == expected


@given(st.lists(st.integers(-(2**70), 2**70), max_size=4))
def test_hash01_is_in_the_unit_interval(numbers: list[int]) -> None:
    assert 0 <= hash01(*numbers) < 1


def test_hash01_is_uniform_along_each_argument_and_uncorrelated_between_neighbours() -> None:
    seed = key(0, "links")
    for draw in (lambda i: hash01(seed, i), lambda i: hash01(seed, i, 7), lambda i: hash01(seed, 7, 3, i)):
        x = [draw(i) for i in range(20_000)]
        assert stats.kstest(x, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 0.03
    assert len({hash01(), hash01(0), hash01(0, 0), hash01(1), hash01(0, 1), hash01(1, 0)}) == 6


def test_a_generator_is_seeded_by_its_key() -> None:
    a, b, c = (torch.rand(4, generator=generator(k)) for k in (1, 1, 2))
    assert identical(a, b)
    assert not identical(a, c)


@given(
    keys=st.lists(KEYS, min_size=1, max_size=4),
    epoch=st.integers(0, 2**40),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_shuffled_is_a_bijection_for_every_key_epoch_and_size(keys: list[int], epoch: int, data) -> None:
    sizes = data.draw(st.lists(st.integers(1, 200), min_size=len(keys), max_size=len(keys)))
    for k, size in zip(keys, sizes, strict=True):
        assert sorted(shuffled(k, epoch, torch.arange(size), size)[0].tolist()) == list(range(size))
    positions = torch.arange(200).expand(len(keys), -1) % torch.tensor(sizes)[:, None]
    rows = shuffled(torch.tensor(keys), epoch, positions, torch.tensor(sizes))
    for row, k, size in zip(rows, keys, sizes, strict=True):
        assert identical(row[:size], shuffled(k, epoch, torch.arange(size), size)[0])


@pytest.mark.parametrize("size", [*range(1, 40), 99, 100, 101, 1797, 4096])
def test_shuffled_is_a_bijection_for_small_and_awkward_sizes(size: int) -> None:
    elements = shuffled(derive(1, torch.arange(5)), 3, torch.arange(size), size)
    assert (elements.sort(-1).values == torch.arange(size)).all()


@pytest.mark.parametrize("size", [2**31 + 1, 2**40, 2**48 - 1, 2**48])
def test_shuffled_keeps_elements_apart_and_in_range_for_huge_sizes(size: int) -> None:
    elements = shuffled(1, 0, torch.cat((torch.arange(5000), torch.arange(size - 5000, size))), size)[0]
    assert len(elements.unique()) == 10_000
    assert 0 <= int(elements.min()) < size // 100
    assert size - size // 100 <= int(elements.max()) < size


def test_shuffled_takes_epochs_by_element() -> None:
    keys, sizes = derive(2, torch.arange(6)), torch.tensor([1, 2, 3, 50, 60, 7])
    counter = torch.arange(100).expand(6, 100)
    epochs, positions = counter // sizes[:, None], counter % sizes[:, None]
    together = shuffled(keys, epochs, positions, sizes)
    for i, size in enumerate(sizes.tolist()):
        for epoch in range(100 // size):
            part = together[i, epoch * size : (epoch + 1) * size]
            assert identical(part, shuffled(keys[i : i + 1], epoch, torch.arange(size), size)[0])


def test_shuffled_in_arrays_of_torch_is_shuffled_in_arrays_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, sizes = derive(3, torch.arange(50)), torch.arange(1, 51)
    positions = torch.arange(400).expand(50, -1) % sizes[:, None]
    with_numpy = shuffled(keys, positions // 7, positions, sizes)
    monkeypatch.setattr("shoal.tensors.shuffle.array_of", lambda x: None)
    assert identical(shuffled(keys, positions // 7, positions, sizes), with_numpy)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9, 16, 17, 30])
def test_shuffled_spreads_pairs_of_positions_evenly(size: int) -> None:
    orders = shuffled(derive(4, torch.arange(30_000)), 0, torch.arange(size), size)
    by_epoch = shuffled(4, torch.arange(30_000)[:, None], torch.arange(size).expand(30_000, size), size)
    worst = 1.0
    for x in (orders, by_epoch):
        for i, j in {(0, 1), (0, size - 1), (size // 2, size - 1)} - {(1, 1)}:
            counts = (x[:, i] * size + x[:, j]).bincount(minlength=size * size).reshape(size, size)
            apart = counts[~torch.eye(size, dtype=torch.bool)] if i != j else counts.diagonal()
            worst = min(worst, stats.chisquare(apart.numpy()).pvalue)
    assert worst > 1e-4


def test_consecutive_elements_of_a_large_shuffle_look_independent() -> None:
    order = shuffled(5, 0, torch.arange(60_000), 60_000)[0].double().numpy()
    for lag in (1, 2, 245, 246, 247):  # 246 is the width of the network's columns
        assert abs(np.corrcoef(order[lag:], order[:-lag])[0, 1]) < 0.02
        steps = (order[lag:] - order[:-lag]) % 60_000
        assert stats.kstest(steps / 60_000, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: key(-1), "seed"),
        (lambda: key(2**63), "seed"),
        (lambda: key(0, 2**63), "parts"),
        (lambda: derive(0, 2**63), "parts"),
        (lambda: derive(torch.tensor([1.0])), "int64"),
        (lambda: uniform(-1), "keys"),
        (lambda: uniform(0, (2, -1)), "shape"),
        (lambda: uniform(0, dtype=torch.float16), "dtype"),
        (lambda: rademacher(-1), "keys"),
        (lambda: rademacher(0, dtype=torch.int8), "dtype must be a floating-point one, got torch.int8"),
        (lambda: normal(0, purpose=-1), "purpose"),
        (lambda: integers(0, 0), "high"),
        (lambda: integers(0, 2**31 + 1), "high"),
        (lambda: integers(torch.arange(3), torch.arange(3)), "high"),
        (lambda: integers(torch.arange(3), torch.arange(1, 3)), "high"),
        (lambda: philox(torch.tensor(0), torch.zeros(3, dtype=torch.int64)), "counters"),
        (lambda: shuffled(0, 0, 0, 0), "sizes"),
        (lambda: shuffled(2**63, 0, 0, 1), "keys"),
        (lambda: shuffled(0, 0, 5, 5), "positions"),
        (lambda: shuffled(0, 0, -1, 5), "positions"),
        (lambda: shuffled(torch.arange(2), 0, torch.zeros(3, 4, dtype=torch.int64), 5), "shapes"),
        (lambda: shuffled(torch.zeros(2, 2, dtype=torch.int64), 0, 0, 5), "keys"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_roots_are_those_of_the_standard_also_where_memory_cannot_be_read(dtype: torch.dtype) -> None:
    """Against numpy, which takes the processor's instruction; under vmap by correction of torch's."""
    x = torch.cat([uniform(3, 20_000, dtype=dtype) * 45.0, torch.tensor([0.0, 1.0, 2.0, 1e-30], dtype=dtype)])
    exact = torch.from_numpy(np.sqrt(x.numpy()))
    assert torch.equal(_sqrt(x), exact)
    assert torch.equal(torch.func.vmap(_sqrt)(x.view(-1, 4)).flatten(), exact)


@pytest.mark.parametrize(
    "draw", [uniform, normal, lambda k, d: integers(k, 1000, d)], ids=["uniform", "normal", "integers"]
)
@pytest.mark.parametrize("d", [CHUNK // 3, 4 * CHUNK + 5])
def test_rows_longer_and_shorter_than_a_piece_are_those_drawn_alone(draw, d: int) -> None:
    keys = derive(key(4), torch.arange(6).view(2, 3))
    stacked = draw(keys, d)
    assert stacked.shape == (2, 3, d)
    assert all(identical(stacked[i, j], draw(keys[i, j], d)) for i in range(2) for j in range(3))
