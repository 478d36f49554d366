"""A Ray cluster: one of our own on this machine, or one that is there. And calls from actor to actor."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shoal.engine.errors import ShoalError
from shoal.net.ray.queues import Batch, HostLost

READY = 120.0  # seconds within which all actors must have begun

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": no machine but this one, as Ray's default is on a Mac; read once


def need_ray() -> Any:
    """The module ray.

    Raises:
        ImportError: it is not installed; the text says how to get it.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"Ray is needed here: pip install 'shoal[ray]' ({error})") from None
    return ray


@contextmanager
def cluster(address: str = "local") -> Iterator[Any]:
    """Connect with a Ray cluster, unless this process is connected already; yields the module ray.

    Signals go on meaning what they meant. A local cluster listens on the loopback interface alone, and ends with the
    block. Statistics are not sent to Ray's makers, unless RAY_USAGE_STATS_ENABLED says so.

    Args:
        address: "local" starts a cluster on this machine, "auto" finds one that runs here (or that RAY_ADDRESS names),
            "HOST:PORT" is a cluster's head, and "ray://HOST:10001" a cluster that this machine is no part of.

    Raises:
        ImportError: Ray, or what it needs for "ray://", is not installed.
        ValueError: there is no cluster at the address.
    """
    if address == "local":
        os.environ.setdefault(LOOPBACK, "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = need_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options["include_dashboard"] = False
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, AssertionError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "grpc" in str(error):
            raise ImportError(f"ray: {address} needs Ray's client: pip install 'ray[client]'") from error
        token = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
        raise ValueError(f"ray: no cluster at {address!r} ({line:.200}){token}") from error
    finally:
        _restore(kept)
    try:
        yield ray
    finally:
        ray.shutdown()
        _restore(kept)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Ray takes SIGTERM for itself."""
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            try:
                signal.signal(number, handler)
            except ValueError:  # in another thread than the main one nothing was changed, and nothing can be
                return


def cpus_of_each(actors: int, nodes: Sequence[float]) -> float:
    """The most CPUs that so many actors can have, each on one machine: a whole number, or 1/k of one.

    Args:
        actors: number of actors.
        nodes: CPUs of every machine.

    >>> cpus_of_each(2, [8, 3]), cpus_of_each(3, [8, 3]), cpus_of_each(5, [3, 1])
    (4.0, 3.0, 0.5)
    """
    for cpus in range(int(max(nodes, default=0)), 0, -1):
        if sum(have // cpus for have in nodes) >= actors:
            return float(cpus)
    whole = sum(int(have) for have in nodes)
    return 1.0 / math.ceil(actors / max(1, whole))


def first_answers(ray: Any, calls: Sequence[Any], what: str, asked: Sequence[bool] = ()) -> list[Any]:
    """What fresh actors answer; the end of the list is missing if `asked`, to stop, is not empty any more.

    Args:
        ray: the module, connected.
        calls: references, one an actor.
        what: the actors are, for errors.
        asked: see `shoal.interrupt.deferred`.

    Raises:
        ShoalError: an actor could not begin, or had no place within `READY` seconds.
    """
    found: list[Any] = []
    end = time.monotonic() + READY
    for call in calls:
        while not asked and not ray.wait([call], timeout=0.25)[0]:
            if time.monotonic() > end:
                raise ShoalError(
                    f"{what}: {len(calls) - len(found)} of {len(calls)} did not begin within {READY:g} s; "
                    "the cluster is busy, or too small for so many"
                )
        if asked:
            break
        try:
            found.append(ray.get(call))
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
            why = lines[-1] if lines else type(error).__name__
            raise ShoalError(f"{what}: one could not begin: {why:.300}") from error
    return found


class RayLine:
    """Calls to an actor whose methods are those of a `Hub`; from within another actor.

    Args:
        actor: its handle.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def hello(self, host: int, connection: int) -> bool:
        """See `Hub.hello`."""
        return bool(await _answer(self._actor.hello.remote(host, connection)))

    async def deliver(self, batch: Batch) -> bool:
        """See `Hub.deliver`."""
        return bool(await _answer(self._actor.deliver.remote(batch)))

    async def dropped(self, host: int, connection: int) -> None:
        """See `Hub.dropped`."""
        await _answer(self._actor.dropped.remote(host, connection))

    async def live(self) -> None:
        """See `Hub.live`."""
        await _answer(self._actor.live.remote())


async def _answer(reference: Any) -> Any:
    from ray.exceptions import ActorDiedError, RayError

    try:
        return await reference
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HostLost(f"{type(error).__name__}: {lines[0]:.160}", isinstance(error, ActorDiedError)) from None
