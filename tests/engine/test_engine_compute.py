"""Batched compute: how jobs meet in a batch never shows in a result, and what cannot be batched still runs."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.engine import Crash, Device, PeerFailed, Restart
from shoal.engine.compute import Job, MapKernel, Pool, chunk_sizes, cut, filled, own_rows, pad
from shoal.engine.traced import Traced
from tests.engine.worlds import draws, leaves, run

POWERS = st.sampled_from([2, 4, 8, 32, 128])


# -- chunks


@given(st.integers(0, 5000), POWERS)
def test_chunks_are_powers_of_two_from_large_to_small_never_one_and_hold_all_rows(rows: int, largest: int) -> None:
    sizes = chunk_sizes(rows, largest)
    assert all(2 <= size <= largest and size & (size - 1) == 0 for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert rows <= sum(sizes) <= rows + max(1, largest // 8)
    small = [size for size in sizes if size < largest]
    assert len(small) == len(set(small))


@given(st.integers(1, 300), POWERS)
def test_cutting_keeps_every_job_in_its_place(rows: int, largest: int) -> None:
    jobs: list[Any] = list(range(rows))
    chunks = cut(jobs, largest)
    assert [job for chunk in chunks for job in chunk] == jobs
    assert [len(filled(chunk)) for chunk in chunks] == chunk_sizes(rows, largest)
    assert all(len(filled(chunk)) == len(chunk) for chunk in chunks[:-1])


@given(st.lists(st.integers(), min_size=1, max_size=9))
def test_padding_doubles_a_single_row_and_leaves_the_others(rows: list[int]) -> None:
    assert pad(rows) == (rows * 2 if len(rows) == 1 else rows)


@given(st.lists(st.integers(), min_size=1, max_size=70))
def test_filling_repeats_the_last_row_up_to_a_power_of_two(rows: list[int]) -> None:
    full = filled(rows)
    assert full[: len(rows)] == rows
    assert set(full[len(rows) :]) <= {rows[-1]}
    assert len(full) & (len(full) - 1) == 0
    assert 2 <= len(full) < 2 * max(2, len(rows))


def test_the_rows_of_a_result_change_alone() -> None:
    for stacked in (torch.zeros(4, 3), torch.zeros(3).expand(4, 3)):
        rows = own_rows(stacked)
        versions = [row._version for row in rows]
        rows[1].add_(1.0)
        assert [row.sum().item() for row in rows] == [0.0, 3.0, 0.0, 0.0]
        assert [row._version for row in rows] == [v + (i == 1) for i, v in enumerate(versions)]


# -- bit-equal under any grouping


def perceptron(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    def loss(w: Tensor) -> Tensor:
        hidden = torch.tanh(x @ w[:64].view(8, 8))
        return torch.nn.functional.cross_entropy(hidden @ w[64:].view(8, 5), y)

    gradient, value = torch.func.grad_and_value(loss)(w)
    return w - 0.1 * gradient, value


def attention(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    q = (x @ w[:64].view(8, 8)).unsqueeze(0)
    out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    normal = torch.nn.functional.layer_norm(out, (8,))
    return normal.sum(dim=1), normal.var()


def statistics(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.stack([w.mean(), w.std(), w.norm()]), torch.sort(w).values, torch.softmax(x.sum(0), 0)


def solver(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    a = w[:64].view(8, 8)
    return torch.linalg.solve(a @ a.T + torch.eye(8), x.T).T


def inputs(row: int) -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.randint(0, 5, (16,), generator=torch.Generator().manual_seed(row))
    return draws(row, 104), draws(row + 1000, 16, 8), labels


def compute(fn: Callable[..., Any], groups: list[list[int]], workers: int = 1) -> tuple[dict[int, bytes], MapKernel]:
    """Bytes of every row's result when the rows are computed in these groups."""
    kernel, pool, got = MapKernel(fn, {}), Pool(workers), {}
    for group in groups:
        jobs = {row: pool.submit(Job(kernel, inputs(row))) for row in group}
        pool.flush()
        for row, job in jobs.items():
            got[row] = b"".join(part.contiguous().numpy().tobytes() for part in leaves(job.result))
    pool.close()
    return got, kernel


@pytest.mark.parametrize("fn", [perceptron, attention, statistics, solver])
@given(order=st.permutations(range(40)), cuts=st.sets(st.integers(1, 39)), workers=st.integers(1, 2))
@settings(max_examples=12, deadline=None)
def test_results_are_bit_equal_however_the_rows_are_grouped_and_ordered(
    fn: Any, order: list[int], cuts: set[int], workers: int
) -> None:
    edges = [0, *sorted(cuts), 40]
    groups = [order[a:b] for a, b in itertools.pairwise(edges)]
    (together, kernel), (apart, _) = compute(fn, [list(range(40))]), compute(fn, groups, workers)
    assert kernel.path == "batched"
    assert together == apart


@pytest.mark.parametrize("fn", [perceptron, attention, statistics, solver])
def test_batched_and_one_by_one_agree_to_rounding(fn: Any) -> None:
    kernel, pool = MapKernel(fn, {}), Pool()
    jobs = [pool.submit(Job(kernel, inputs(row))) for row in range(13)]
    pool.flush()
    assert kernel.path == "batched"
    for row, job in enumerate(jobs):
        for got, expected in zip(leaves(job.result), leaves(fn(*inputs(row))), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(2, 33))
@settings(max_examples=40, deadline=None)
def test_matrix_products_of_any_shape_are_bit_equal_in_pairs_and_in_crowds(
    seed: int, m: int, k: int, n: int, rows: int
) -> None:
    a = [draws(seed + i, m, k) for i in range(rows)]
    b = [draws(seed + 99 + i, k, n) for i in range(rows)]

    def product(groups: list[list[int]]) -> dict[int, bytes]:
        kernel, pool, got = MapKernel(torch.matmul, {}), Pool(), {}
        for group in groups:
            jobs = {i: pool.submit(Job(kernel, (a[i], b[i]))) for i in group}
            pool.flush()
            got |= {i: job.result.numpy().tobytes() for i, job in jobs.items()}
        return got

    assert product([list(range(rows))]) == product([[i] for i in range(rows)])


def test_the_answer_to_a_single_job_is_the_same_as_in_company() -> None:
    alone, _ = compute(perceptron, [[5]])
    company, _ = compute(perceptron, [[1, 2, 5, 7, 8]])
    assert alone[5] == company[5]


# -- replayed recordings


def literal_changed_by_index(x: Tensor) -> Tensor:
    weights = torch.tensor([1.0, 2.0])
    weights[0] = weights[0] + 1.0
    return x * weights


def literal_changed_whole(x: Tensor) -> Tensor:
    weights = torch.tensor([1.0, 2.0])
    weights += 1.0
    return x * weights


def zeros_changed(x: Tensor) -> Tensor:
    total = torch.zeros(2)
    total[1] = 5.0
    total += x.sum()
    return total


def argument_changed(x: Tensor) -> Tensor:
    x = x * 1
    x.view(2, 1).mul_(3.0)
    return x + x.detach()


def aliases(x: Tensor) -> Tensor:
    y = x.view(2).reshape(2).detach()
    y = y.clone()
    y[0] = -1.0
    return y + x.unsqueeze(0).expand(1, 2).squeeze(0)


def unused_work(x: Tensor) -> Tensor:
    (x / 0.0).sum()
    parts = torch.stack([x, x + 1]).unbind(0)
    return parts[1]


@pytest.mark.parametrize(
    "fn", [literal_changed_by_index, literal_changed_whole, zeros_changed, argument_changed, aliases, unused_work]
)
def test_a_function_means_the_same_in_every_batch_whatever_it_does_to_its_own_tensors(fn: Any) -> None:
    rows = [draws(i, 2) for i in range(5)]
    before = [row.clone() for row in rows]
    kernel = MapKernel(fn, {})
    for _ in range(3):
        pool = Pool()
        jobs = [pool.submit(Job(kernel, (row,))) for row in rows]
        pool.flush()
        for row, job in zip(rows, jobs, strict=True):
            torch.testing.assert_close(job.result, fn(row.clone()), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(row, old) for row, old in zip(rows, before, strict=True))


def constant(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tensor([5.0, 5.0]), torch.zeros(2)


def test_results_that_do_not_depend_on_the_row_are_still_one_tensor_a_row() -> None:
    kernel = MapKernel(constant, {})
    for _ in range(2):
        pool = Pool()
        jobs = [pool.submit(Job(kernel, (draws(i, 2),))) for i in range(3)]
        pool.flush()
        assert [[part.tolist() for part in job.result] for job in jobs] == [[[5.0, 5.0], [0.0, 0.0]]] * 3
        for part in jobs[0].result:
            part.add_(100.0)
        assert [[part.tolist() for part in job.result] for job in jobs[1:]] == [[[5.0, 5.0], [0.0, 0.0]]] * 2


@given(st.integers(2, 9), st.lists(st.integers(1, 5), max_size=3), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=20, deadline=None)
def test_a_replay_has_the_bits_of_the_function_for_every_shape_it_meets(
    rows: int, shape: list[int], dtype: torch.dtype
) -> None:
    def fn(x: dict[str, Tensor], y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = torch.sin(x["a"]) * y + 0.5
        return z.sum(), {"z": z, "w": torch.where(z > 0, z, -z)}

    traced = Traced(torch.func.vmap(fn))
    for seed in range(3):
        a, y = draws(seed, rows, *shape, dtype=dtype), draws(seed + 50, rows, *shape, dtype=dtype)
        total, parts = traced({"a": a}, y)
        expected_total, expected = torch.func.vmap(fn)({"a": a}, y)
        assert torch.equal(total, expected_total)
        assert list(parts) == list(expected)
        assert all(torch.equal(parts[name], expected[name]) for name in parts)


# -- what vmap cannot take


def looks_at_a_value(x: Tensor) -> Tensor:
    return x * 2 if x.sum().item() > 0 else x * 3


def branches(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x * 2
    return x * 3


def shape_depends_on_values(x: Tensor) -> Tensor:
    return x[x > 0].sum()


class Counts(torch.nn.Module):
    """A module with a side effect: it counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


@pytest.mark.parametrize("fn", [looks_at_a_value, branches, shape_depends_on_values])
def test_a_function_that_cannot_be_batched_runs_one_by_one_and_the_report_says_why(fn: Any) -> None:
    kernel, pool = MapKernel(fn, {}), Pool()
    rows = [draws(i, 4) for i in range(7)]
    jobs = [pool.submit(Job(kernel, (row,))) for row in rows]
    pool.flush()
    assert all(torch.equal(job.result, fn(row)) for row, job in zip(rows, jobs, strict=True))
    [entry] = pool.report()
    assert entry["kernel"] == f"compute {fn.__name__}"
    assert entry["path"] == "one by one"
    assert entry["why"].startswith("vmap cannot take it: ")
    assert len(entry["why"]) > len("vmap cannot take it: ")


def test_a_module_with_side_effects_runs_one_by_one() -> None:
    kernel, pool = MapKernel(Counts(), {}), Pool()
    jobs = [pool.submit(Job(kernel, (torch.full((2,), float(i)),))) for i in range(5)]
    pool.flush()
    assert kernel.path == "one by one"
    assert [job.result.tolist() for job in jobs] == [[2.0 * i] * 2 for i in range(5)]


def test_the_report_names_the_batched_path_as_well() -> None:
    _, kernel = compute(statistics, [[0, 1]])
    assert (kernel.name, kernel.path, kernel.why) == ("compute statistics", "batched", "vmap takes it")


def fails(x: Tensor) -> Tensor:
    raise ArithmeticError("no such thing")


def test_an_error_of_the_function_itself_reaches_the_user() -> None:
    async def protocol(me: Any) -> None:
        await me.compute(fails, torch.zeros(1))

    with pytest.raises(PeerFailed, match="ArithmeticError: no such thing"):
        run(2, protocol)


# -- in a world


def affine(x: Tensor, *, slope: float = 1.0) -> Tensor:
    return slope * x + 1.0


def test_static_arguments_make_batches_of_their_own() -> None:
    got: dict[int, list[float]] = {}

    async def protocol(me: Any) -> None:
        x = torch.tensor([float(me.id)])
        one, two = await asyncio.gather(me.compute(affine, x), me.compute(affine, x, slope=1.0 + me.id % 2))
        got[me.id] = [one.item(), two.item()]

    world = run(6, protocol)
    assert got == {i: [i + 1.0, (1.0 + i % 2) * i + 1.0] for i in range(6)}
    assert world.pool.computed == 12


def test_shapes_may_differ_from_peer_to_peer() -> None:
    got: dict[int, Tensor] = {}

    async def protocol(me: Any) -> None:
        got[me.id] = await me.compute(affine, torch.ones(1 + me.id % 3, 2))

    run(7, protocol)
    assert {i: tuple(x.shape) for i, x in got.items()} == {i: (1 + i % 3, 2) for i in range(7)}
    assert all((x == 2.0).all() for x in got.values())


class Counting:
    """A kernel that notes how many jobs each flush brings."""

    name, path, why = "counting", "batched", "for the test"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        self.batches.append(len(jobs))
        return [jobs]

    def run(self, chunk: list[Job]) -> None:
        for job in chunk:
            job.result = job.inputs


def test_work_waits_until_the_clock_needs_it_and_then_all_of_it_runs_at_once() -> None:
    kernel = Counting()

    async def protocol(me: Any) -> None:
        for i in range(5):
            assert await me._world.perform(me, Job(kernel, (me.id, i)), 1.0) == (me.id, i)

    run(20, protocol)
    assert kernel.batches == [20] * 5


def test_peers_of_different_speed_share_batches_too() -> None:
    kernel = Counting()

    async def protocol(me: Any) -> None:
        for i in range(20):
            await me._world.perform(me, Job(kernel, i), 1.0 + 0.013 * me.id)

    run(20, protocol)
    assert sum(kernel.batches) == 400
    assert len(kernel.batches) <= 400 / 5


def test_a_result_is_there_after_its_seconds_and_not_before() -> None:
    ends: list[float] = []

    async def protocol(me: Any) -> None:
        await me.compute(affine, torch.zeros(1), seconds=0.5 * (1 + me.id))
        ends.append(me.now())

    run(3, protocol, devices=[Device()] * 3)
    assert ends == [0.5, 1.0, 1.5]


def test_work_of_a_peer_that_died_or_gave_up_is_not_done() -> None:
    kernel = Counting()

    async def protocol(me: Any) -> None:
        try:
            async with asyncio.timeout(1.0 if me.id == 1 else 100.0):
                await me._world.perform(me, Job(kernel, me.id), 5.0)
        except TimeoutError:
            pass

    run(4, protocol, faults=[Crash(2.0, 2), Restart(2.5, 2)])
    assert kernel.batches == [2, 1] or kernel.batches == [3]
    assert sum(kernel.batches) == 3, "peers 0 and 3, and the second life of peer 2"


@pytest.mark.parametrize("workers", [2, 3])
def test_results_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    def results(workers: int) -> list[bytes]:
        got: dict[tuple[int, int], bytes] = {}

        async def protocol(me: Any) -> None:
            w, x, y = inputs(me.id)
            rng = random.Random(me.id)
            for step in range(4):
                seconds = rng.choice([0.1, 0.2, 0.35])
                (w, value), normal = await asyncio.gather(
                    me.compute(perceptron, w, x, y, seconds=seconds), me.compute(attention, w, x, y)
                )
                got[me.id, step] = b"".join(t.numpy().tobytes() for t in (w, value, *normal))

        run(90, protocol, workers=workers)
        return [got[key] for key in sorted(got)]

    assert results(workers) == results(1)


def test_the_number_of_threads_of_torch_is_given_back() -> None:
    torch.set_num_threads(2)

    async def protocol(me: Any) -> None:
        assert torch.get_num_threads() == 1

    run(1, protocol)
    assert torch.get_num_threads() == 2
