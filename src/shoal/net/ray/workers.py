"""Workers on a Ray cluster that compute for a simulation; what they do is in `shoal.net.ray.compute`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from shoal.engine.compute import Dispatch
from shoal.net.ray.cluster import cluster


@contextmanager
def ray_workers(
    workers: int = 2,
    address: str = "local",
    *,
    shared: Sequence[type] = (),
    device: str | torch.device = "cpu",
) -> Iterator[Dispatch]:
    """Workers for a `Pool`, within the block.

    Args:
        workers: number of them.
        address: of the cluster; see `shoal.net.ray.cluster`.
        shared: types of objects that go to each worker once. Whoever changes such an object makes a new one.
        device: torch device of the tensors; on a GPU, each worker has one of its own.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no cluster, or one with too few GPUs.
    """
    if workers < 1:
        raise ValueError(f"workers: got {workers}; at least 1 is allowed")
    with cluster(address) as ray:
        from shoal.net.ray.compute import RayWorkers

        dispatch = RayWorkers(ray, workers, tuple(shared), torch.device(device))
        try:
            yield dispatch
        finally:
            dispatch.close()
