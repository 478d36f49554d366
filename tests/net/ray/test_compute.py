"""Jobs of a simulation on Ray workers: the same bits as in threads, each object sent once, workers that may die."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from shoal.engine import PeerFailed
from shoal.engine.compute import Job, MapKernel, Pool
from shoal.learning import Shard
from shoal.learning.data import Data
from shoal.net.ray import ray_workers
from shoal.simulation import Run, simulate
from shoal.simulation.computing import check_compute
from shoal.simulation.parts import Parts
from shoal.simulation.settings import Settings
from shoal.simulation.simulate import _Experiment
from tests.net.ray.sessions import session

COMMON = {"task": "digits", "peers": 9, "partition": "dirichlet:0.5", "rounds": 3, "seed": 11}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with session() as module:
        yield module


@pytest.fixture(scope="module")
def dispatch(ray: Any) -> Iterator[Any]:
    """Two workers, the same for all tests."""
    with ray_workers(2, shared=(Data, Shard)) as made:
        yield made


def run_there(dispatch: Any, protocol: str, **settings: Any) -> Run:
    return _Experiment(Parts(Settings.of(protocol=protocol, **settings), {}, None), None, None, dispatch).run()


def test_by_name(ray: Any) -> None:
    here = simulate("gossip", **COMMON)
    there = simulate("gossip", compute="ray:1", **COMMON)
    assert there.metrics == here.metrics
    assert there.info["config"]["compute"] == "ray:1"


@pytest.mark.parametrize(
    ("protocol", "more"),
    [
        ("gossip:steps=3", {"optimizer": "adamw"}),
        ("dsgd", {"codec": "int8"}),
        ("fedavg", {"codec": "ef+topk:0.1"}),
        ("pairwise", {"model": "cnn"}),
    ],
)
def test_results_are_those_of_threads_bit_for_bit(dispatch: Any, protocol: str, more: dict[str, Any]) -> None:
    here, there = simulate(protocol, **COMMON, **more), run_there(dispatch, protocol, **COMMON, **more)
    assert there.metrics == here.metrics
    assert there.models.keys() == here.models.keys()
    for id, model in here.models.items():
        assert torch.equal(model, there.models[id])
    assert there.info["compute"] == here.info["compute"]


def scaled(x: Tensor) -> Tensor:
    return x * 2 + 1


def results(pool: Pool, kernel: MapKernel, rows: list[Tensor]) -> list[Tensor]:
    jobs = [pool.submit(Job(kernel, (row,))) for row in rows]
    return [pool.finish(job) for job in jobs]


def test_a_worker_that_dies_is_replaced_and_its_chunks_are_computed_again(ray: Any, dispatch: Any) -> None:
    rows = [torch.full((5,), float(i)) for i in range(40)]
    pool, kernel = Pool(dispatch=dispatch), MapKernel(lambda x: scaled(x), {}, largest=4)
    expected = [scaled(row) for row in rows]
    assert all(map(torch.equal, results(pool, kernel, rows), expected))
    process = ray.get(dispatch._hands[0].actor.__ray_call__.remote(lambda worker: os.getpid()))
    os.kill(process, signal.SIGKILL)
    assert all(map(torch.equal, results(pool, kernel, rows), expected))
    assert dispatch._deaths == 1


def test_an_error_comes_back_as_it_was_raised(dispatch: Any) -> None:
    def refuses(x: Tensor) -> Tensor:
        if float(x.sum()) > 0:  # vmap cannot take it, so that it runs one by one, there
            raise LookupError("not this one")
        return x

    pool = Pool(dispatch=dispatch)
    with pytest.raises(LookupError, match="not this one"):
        results(pool, MapKernel(refuses, {}), [torch.ones(2), torch.zeros(2)])
    assert torch.equal(results(pool, MapKernel(scaled, {}), [torch.ones(2)])[0], torch.full((2,), 3.0))


def test_what_a_peer_raises_fails_the_run_with_its_own_words(dispatch: Any) -> None:
    with pytest.raises(PeerFailed, match="NaN or infinite"):
        run_there(dispatch, "gossip", **COMMON, lr=1e30)


def test_shared_objects_are_stored_once_and_forgotten_with_the_last_who_has_them(dispatch: Any) -> None:
    data = Data(torch.arange(12.0).view(6, 2), torch.zeros(6))
    shards = [Shard(data, torch.tensor([i, i + 1])) for i in range(4)]
    kernel = _Sums()
    gc.collect()
    pool, before = Pool(dispatch=dispatch), len(dispatch._references)
    for _ in range(3):
        jobs = [pool.submit(Job(kernel, shard)) for shard in shards]
        found = [pool.finish(job) for job in jobs]
        assert found == [float(data.inputs[i : i + 2].sum()) for i in range(4)]
    assert len(dispatch._references) == before + 1 + 4 + 1  # data, shards, kernel
    del jobs, shards, data, kernel, pool
    gc.collect()
    assert len(dispatch._references) == before


class _Sums:
    """A kernel whose jobs are shards."""

    name, path, why = "sums", "one by one", "a test"

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        return [[job] for job in jobs]

    def run(self, chunk: list[Job]) -> None:
        for job in chunk:
            job.result = float(job.inputs.data.inputs[job.inputs.indices].sum())


def test_tensors_of_all_kinds_come_back_equal(ray: Any) -> None:
    from shoal.net.ray.compute import dump, load

    kept = torch.arange(3)
    given = {
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "short": torch.arange(5, dtype=torch.bfloat16),
        "turned": torch.arange(6).view(2, 3).T,
        "known": kept,
        "words": ["a", None, 1.5],
    }
    bundle = dump(given, lambda value: 7 if value is kept else None)
    back = load(bundle, {7: kept}, copy=True, device=torch.device("cpu"))
    assert back["known"] is kept
    assert back["words"] == given["words"]
    for name in ("empty", "scalar", "short", "turned"):
        assert back[name].dtype == given[name].dtype
        assert torch.equal(back[name], given[name])
        back[name].add_(1)  # in memory of its own
    assert sum(map(len, bundle.buffers)) == 4 + 5 * 2 + 6 * 8


def test_work_is_halved_until_every_worker_has_some(ray: Any) -> None:
    from shoal.net.ray.compute import spread

    for sizes in ([32], [32, 32, 8, 2], [2], [5], []):
        for workers in (1, 3, 4, 9):
            jobs = iter(range(100))
            work: Any = [(None, [next(jobs) for _ in range(size)]) for size in sizes]
            cut = spread(work, workers)
            assert [job for _, chunk in cut for job in chunk] == list(range(sum(sizes)))
            assert all(len(chunk) >= 2 for _, chunk in cut)
            assert len(cut) >= workers or all(len(chunk) < 4 for _, chunk in cut)


@pytest.mark.parametrize("text", ["rya:2", "ray:2,3,4", "threads:2"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="compute: "):
        check_compute(text)
    with pytest.raises(ValueError, match="compute: "):
        simulate("gossip", task="digits", compute=text)


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers: got 0"):
        simulate("gossip", compute="ray:0", **COMMON)
