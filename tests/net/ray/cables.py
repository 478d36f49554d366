"""Lines between hubs within one process, for tests without a cluster: hosts die, come back, and calls fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shoal.net.ray import Batch, HostLost, Hub


class Rack:
    """The hosts of a cluster.

    Attributes:
        calls: deliveries as they were made, by pair of hosts.
        under_way: deliveries of a pair that have not returned, and the most that there were.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], allowance: int = 1 << 24) -> None:
        self.blocks, self.allowance = blocks, allowance
        self.hubs: dict[int, Hub] = {}
        self.deaths: dict[int, asyncio.Event] = {}
        self.calls: dict[tuple[int, int], list[Batch]] = {}
        self.under_way: dict[tuple[int, int], int] = {}
        self.most = 0
        self.failing = 0  # so many deliveries are going to fail, though their host lives
        self.restarts = False

    def start(self, host: int) -> Hub:
        """A new life of a host."""
        hub = self.hubs[host] = Hub(host, self.blocks, self.allowance)
        self.deaths[host] = asyncio.Event()
        hub.meet({other: Cable(self, host, other) for other in range(len(self.blocks)) if other != host})
        return hub

    async def kill(self, host: int) -> None:
        """End it without a word."""
        await self.hubs.pop(host).close()
        self.deaths[host].set()

    async def close(self) -> None:
        for host in list(self.hubs):
            await self.kill(host)


class Cable:
    """The `Line` from one host to another."""

    def __init__(self, rack: Rack, near: int, far: int) -> None:
        self.rack, self.near, self.far = rack, near, far

    async def _call(self, method: Callable[[Hub], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        hub = self.rack.hubs.get(self.far)
        if hub is None:
            raise HostLost("no such process", not self.rack.restarts)
        result = await method(hub)
        if self.rack.hubs.get(self.far) is not hub:
            raise HostLost("it died meanwhile", not self.rack.restarts)
        return result

    async def hello(self, host: int, connection: int) -> bool:
        return bool(await self._call(lambda hub: hub.hello(host, connection)))

    async def deliver(self, batch: Batch) -> bool:
        rack, pair = self.rack, (self.near, self.far)
        rack.calls.setdefault(pair, []).append(batch)
        rack.under_way[pair] = rack.under_way.get(pair, 0) + 1
        rack.most = max(rack.most, rack.under_way[pair])
        try:
            if rack.failing:
                rack.failing -= 1
                raise HostLost("the network had a moment", False)
            return bool(await self._call(lambda hub: hub.deliver(batch)))
        finally:
            rack.under_way[pair] -= 1

    async def dropped(self, host: int, connection: int) -> None:
        await self._call(lambda hub: hub.dropped(host, connection))

    async def live(self) -> None:
        death = self.rack.deaths[self.far]
        await death.wait()
        raise HostLost("it died", not self.rack.restarts)
