"""Measures for `benchmarks.cluster`, printed as JSON: frames between two actors, and jobs on two workers.

python -m benchmarks.ours.cluster <repetitions>
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shoal.engine.compute import Job, Pool, cut
from shoal.net import Ears
from shoal.net.ray import Batch, Hub, RayLine, cluster, ray_workers
from shoal.optim import SGD

FRAME = 40_000_000  # bytes
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)  # parameters
JOBS = 8


class End:
    """One of two actors that send each other frames, by a hub or by plain calls."""

    def __init__(self, number: int) -> None:
        self.number, self.hub = number, Hub(number, [[0], [1]], 1 << 30)
        self.arrived, self.up = asyncio.Event(), asyncio.Event()

    async def hello(self, host: int, connection: int) -> bool:
        return await self.hub.hello(host, connection)

    async def deliver(self, batch: Batch) -> bool:
        return await self.hub.deliver(batch)

    async def live(self) -> None:
        await self.hub.live()

    async def meet(self, other: Any) -> None:
        self.other = other
        self.hub.meet({1 - self.number: RayLine(other)})
        self.transport = self.hub.transport(self.number)
        await self.transport.start(Ears(self.frame, lambda peer: self.up.set(), lambda peer, why: None))
        await self.up.wait()

    async def frame(self, sender: int, data: Any) -> None:
        if len(data) > 100:
            self.transport.send(sender, b"", b"thanks")
        else:
            self.arrived.set()

    async def plain(self, array: Any) -> None:
        """Takes what it gets into memory of its own, as everybody has to: what a call carries is read-only."""
        array.copy()

    async def push(self, size: int, times: int, by_hub: bool) -> list[float]:
        """Seconds from sending to the answer."""
        found = []
        for _ in range(times):
            body = os.urandom(size)
            began = time.perf_counter()
            if by_hub:
                self.arrived.clear()
                self.transport.send(1 - self.number, b"head", body)
                await self.arrived.wait()
            else:
                await self.other.plain.remote(np.frombuffer(body, dtype=np.uint8))
            found.append(time.perf_counter() - began)
        return found


def frames(ray: Any, times: int) -> dict[str, list[float]]:
    actor = ray.remote(End).options(num_cpus=0.5, max_concurrency=100)
    ends = [actor.remote(0), actor.remote(1)]
    ray.get([ends[0].meet.remote(ends[1]), ends[1].meet.remote(ends[0])])
    found: dict[str, list[float]] = {"by the hub": [], "plain call": []}
    ray.get([ends[0].push.remote(FRAME, 2, by_hub) for by_hub in (True, False)])
    for _ in range(times):
        for name, by_hub in (("by the hub", True), ("plain call", False)):
            found[name] += ray.get(ends[0].push.remote(FRAME, 3, by_hub))
    for end in ends:
        ray.kill(end)
    return found


class Echo:
    """Jobs that compute nothing: what is left is the way there and back."""

    name, path, why = "echo", "batched", "nothing to compute"

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        return cut(jobs, 2)

    def run(self, chunk: list[Job]) -> None:
        for job in chunk:
            job.result = job.inputs + 0.0


def way(dispatch: Any, size: int, times: int) -> list[float]:
    """Seconds a job."""
    pool, kernel = Pool(dispatch=dispatch), Echo()
    vectors: list[Tensor] = [torch.zeros(size) for _ in range(JOBS)]
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        jobs = [pool.submit(Job(kernel, vector)) for vector in vectors]
        pool.flush()
        assert all(len(job.result) == size for job in jobs)
        found.append((time.perf_counter() - began) / JOBS)
    return found[1:]


def step(size: int, times: int) -> list[float]:
    """Seconds of a step of SGD on 32 images of a two-layer network with about `size` parameters, one thread."""
    width = max(1, size // 795)
    model = nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = SGD(model.parameters(), lr=0.01)
    inputs, targets = torch.randn(32, 784), torch.arange(32) % 10
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(time.perf_counter() - began)
    return found[1:]


def main() -> None:
    times = int(sys.argv[1])
    torch.set_num_threads(1)
    with cluster() as ray:
        found: dict[str, Any] = {"frames": frames(ray, times), "way": {}, "step": {}}
        with ray_workers(2) as dispatch:
            for size in SIZES:
                found["way"][size] = way(dispatch, size, times)
                found["step"][size] = step(size, times)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
