"""Which samples a step sees: every one once an epoch, wherever one starts, stops or looks from."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.learning import Shard
from shoal.learning.batches import Schedule, batches, bucket, epochs, stream
from shoal.learning.data import Data

SIZES = st.integers(1, 40)
KEYS = st.integers(0, 2**63 - 1)


def numbered(size: int, offset: int = 0) -> Shard:
    """A shard whose samples are their own numbers; it holds every second row of its data."""
    values = torch.arange(2 * size, dtype=torch.float64) + offset
    return Shard(Data(values[:, None], values.long()), torch.arange(size) * 2)


def drawn(schedule: Schedule, shard: Shard | None = None) -> list[tuple[list[float], list[float]]]:
    """Numbers of the samples of each batch, and their weights."""
    shard = shard or numbered(schedule.size)
    rows = batches([schedule], [shard], [1] * schedule.steps)
    return [(inputs[0, :, 0].tolist(), weights[0].tolist()) for inputs, _, weights in rows]


def samples(schedule: Schedule) -> list[float]:
    """Numbers of all samples with a weight above 0, in order."""
    return [x for numbers, weights in drawn(schedule) for x, w in zip(numbers, weights, strict=True) if w > 0]


@settings(deadline=None)
@given(key=KEYS, size=SIZES, batch=st.integers(1, 50), position=st.integers(0, 200))
def test_a_stream_shows_every_sample_once_an_epoch(key: int, size: int, batch: int, position: int) -> None:
    seen = samples(stream(key, size, batch, -(-3 * size // batch), position))
    start = -position % size
    for epoch in range(start, len(seen) - size + 1, size):
        assert sorted(seen[epoch : epoch + size]) == [2.0 * i for i in range(size)]


@settings(deadline=None)
@given(key=KEYS, size=SIZES, batch=st.integers(1, 20), first=st.integers(0, 6), second=st.integers(0, 6))
def test_a_stream_cut_in_two_gives_the_same_batches(key: int, size: int, batch: int, first: int, second: int) -> None:
    whole = stream(key, size, batch, first + second, 7)
    head = stream(key, size, batch, first, 7)
    tail = stream(key, size, batch, second, head.position_after)
    assert drawn(head) + drawn(tail) == drawn(whole)
    assert tail.position_after == whole.position_after == 7 + batch * (first + second)


@settings(deadline=None)
@given(
    key=KEYS,
    size=SIZES,
    batch=st.none() | st.integers(1, 50),
    count=st.integers(0, 3),
    position=st.integers(0, 100),
    cut=st.integers(0, 100),
)
def test_a_request_cut_by_steps_gives_the_same_batches(
    key: int, size: int, batch: int | None, count: int, position: int, cut: int
) -> None:
    whole = epochs(key, size, batch, count, position)
    cut = min(cut, whole.steps)
    head, tail = whole._replace(steps=cut), whole._replace(steps=whole.steps - cut, skip=cut)
    assert drawn(head) + drawn(tail) == drawn(whole)
    assert tail.position_after == whole.position_after


@settings(deadline=None)
@given(
    key=KEYS,
    size=SIZES,
    batch=st.none() | st.integers(1, 50),
    count=st.integers(1, 3),
    position=st.integers(0, 100),
)
def test_passes_show_every_sample_once_each_and_end_where_the_next_begins(
    key: int, size: int, batch: int | None, count: int, position: int
) -> None:
    schedule = epochs(key, size, batch, count, position)
    seen = samples(schedule)
    for start in range(0, count * size, size):
        assert sorted(seen[start : start + size]) == [2.0 * i for i in range(size)]
    assert len(seen) == count * size
    assert schedule.position_after % size == 0
    assert schedule.position_after >= position + count * size - (size - 1)


@settings(deadline=None)
@given(key=KEYS, size=SIZES, batch=st.integers(1, 20), count=st.integers(1, 3), whole=st.integers(0, 5))
def test_a_stream_and_passes_from_the_same_place_show_the_same_order(
    key: int, size: int, batch: int, count: int, whole: int
) -> None:
    assume(size % batch == 0)
    steps = count * size // batch
    assert samples(epochs(key, size, batch, count, whole * size)) == samples(
        stream(key, size, batch, steps, whole * size)
    )


@settings(deadline=None)
@given(key=KEYS, size=st.integers(2, 40), batch=st.integers(1, 40), done=st.integers(0, 100))
def test_a_stream_goes_on_after_an_unfinished_pass_with_what_that_has_left(
    key: int, size: int, batch: int, done: int
) -> None:
    schedule = epochs(key, size, batch, 1, 0)
    part = schedule._replace(steps=min(done, schedule.steps - 1))
    rest = stream(key, size, 1, size - part.position_after, part.position_after)
    assert sorted(samples(part) + samples(rest)) == [2.0 * i for i in range(size)]


@given(
    schedules=st.lists(
        st.tuples(KEYS, SIZES, st.sampled_from(("stream", "epochs")), st.integers(0, 60)), min_size=1, max_size=6
    ),
    batch=st.integers(1, 20),
)
@settings(deadline=None)
def test_the_weights_of_a_batch_are_equal_and_sum_to_one(
    schedules: list[tuple[int, int, str, int]], batch: int
) -> None:
    made = [
        stream(key, size, batch, 2, position) if kind == "stream" else epochs(key, size, batch, 2, position)
        for key, size, kind, position in schedules
    ]
    for schedule in made:
        for _, weights in drawn(schedule):
            real = [w for w in weights if w]
            assert max(real) == min(real)
            assert sum(weights) == pytest.approx(1.0, abs=1e-12)
            assert len(weights) == schedule.batch


@settings(deadline=None)
@given(key=KEYS, size=SIZES, batch=st.integers(1, 20))
def test_only_the_last_batch_of_a_pass_is_smaller(key: int, size: int, batch: int) -> None:
    counts = [sum(w > 0 for w in weights) for _, weights in drawn(epochs(key, size, batch, 2, 0))]
    rest = size % batch
    one_pass = [batch] * (size // batch) + [rest] * (rest > 0)
    assert counts == one_pass * 2


@settings(deadline=None)
@given(size=st.integers(1, 10_000))
def test_the_padding_of_a_whole_shard_is_less_than_a_quarter(size: int) -> None:
    padded = bucket(size)
    assert size <= padded < max(size + 1, 1.25 * size)
    assert bucket(padded) == padded
    schedule = epochs(1, size, None, 1, 0)
    assert (schedule.steps, schedule.batch) == (1, padded)


def test_buckets_are_few() -> None:
    assert len({bucket(size) for size in range(1, 1025)}) <= 4 * 11


@given(
    schedules=st.lists(
        st.tuples(KEYS, SIZES, st.sampled_from(("stream", "epochs")), st.integers(0, 60), st.integers(0, 5)),
        min_size=2,
        max_size=6,
    ),
    batch=st.integers(1, 9),
    shared=st.booleans(),
)
@settings(deadline=None)
def test_a_row_gets_its_own_batches_whoever_stands_beside_it(
    schedules: list[tuple[int, int, str, int, int]], batch: int, shared: bool
) -> None:
    """Streams beside passes, equal or different data objects."""
    made, shards = [], []
    for i, (key, size, kind, position, steps) in enumerate(schedules):
        if kind == "stream":
            made.append(stream(key, size, batch, steps, position))
        else:
            made.append(epochs(key, size, batch, 5, position)._replace(steps=steps, batch=batch))
        shards.append(numbered(size, offset=0 if shared else 1000 * i))
    if shared:
        data = numbered(40).data
        shards = [Shard(data, shard.indices) for shard in shards]
    order = sorted(range(len(made)), key=lambda i: -made[i].steps)
    sizes = [sum(made[i].steps > s for i in order) for s in range(made[order[0]].steps)]
    rows: list[list[tuple[list[float], list[float]]]] = [[] for _ in order]
    together = batches([made[i] for i in order], [shards[i] for i in order], sizes)
    for (inputs, targets, weights), size in zip(together, sizes, strict=True):
        assert inputs.shape[0] == targets.shape[0] == weights.shape[0] == size
        assert torch.equal(inputs[..., 0].long(), targets)
        for j in range(size):
            rows[order[j]].append((inputs[j, :, 0].tolist(), weights[j].tolist()))
    assert rows == [drawn(schedule, shard) for schedule, shard in zip(made, shards, strict=True)]


def test_a_long_request_in_blocks_of_index_entries_is_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = stream(3, 7, 4, 50, 2)
    whole = drawn(schedule)
    monkeypatch.setattr("shoal.learning.batches.BLOCK", 9)
    assert drawn(schedule) == whole


def test_peers_with_equal_shards_but_other_keys_see_other_orders() -> None:
    orders = {tuple(samples(stream(key, 12, 12, 1, 0))) for key in range(50)}
    assert len(orders) == 50


def test_over_many_epochs_every_sample_comes_first_about_equally_often() -> None:
    first = Counter(samples(stream(9, 5, 5, 1000, 0))[::5])
    assert len(first) == 5
    assert max(first.values()) < 270  # mean 200, standard deviation 12.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_have_the_type_of_the_inputs_and_suit_whole_number_inputs(dtype: torch.dtype) -> None:
    def weights_for(inputs: Tensor) -> Tensor:
        shard = Shard(Data(inputs, torch.zeros(5)), torch.arange(5))
        return next(batches([stream(0, 5, 2, 1, 0)], [shard], [1]))[2]

    assert weights_for(torch.zeros(5, 3, dtype=dtype)).dtype == dtype
    assert weights_for(torch.zeros(5, 3, dtype=torch.int64)).dtype == torch.get_default_dtype()
