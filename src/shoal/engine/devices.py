"""How fast a peer computes: virtual seconds a training step takes on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat

from shoal.tensors.random import hash01, key


@dataclass(frozen=True)
class Device:
    """One peer's computer.

    Attributes:
        seconds_per_step: virtual seconds for one training step.
        jitter: relative spread; step t takes `seconds_per_step * (1 + jitter * u)`, u uniform in [0, 1) and keyed by
            (seed, t), so that a replayed step takes as long as it did.
        seed: key of this device's draws.
    """

    seconds_per_step: float = 0.01
    jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.seconds_per_step < math.inf:
            raise ValueError(f"seconds_per_step: got {self.seconds_per_step}; a finite number >= 0 is allowed")
        if not 0.0 <= self.jitter < math.inf:
            raise ValueError(f"jitter: got {self.jitter}; a finite number >= 0 is allowed")

    def finish_times(self, start: float, first_step: int, steps: int, slowness: float = 1.0) -> list[float]:
        """Virtual times at which each of `steps` steps ends, the first of which begins at `start`.

        `slowness` is a factor on every step's time.
        """
        each: Iterable[float]
        if self.jitter == 0.0:
            each = repeat(slowness * self.seconds_per_step, steps)
        else:
            each = (slowness * self.step_seconds(s) for s in range(first_step, first_step + steps))
        return list(accumulate(each, initial=start))[1:]

    def step_seconds(self, step: int) -> float:
        """Seconds that step number `step` takes."""
        if self.jitter == 0.0:
            return self.seconds_per_step
        return self.seconds_per_step * (1.0 + self.jitter * hash01(self.seed, step))


def uniform(peers: int, seconds: float = 0.01, *, seed: int = 0, jitter: float = 0.0) -> list[Device]:
    """All peers equally fast."""
    return [Device(seconds, jitter, key(seed, "device", i)) for i in range(peers)]


def lognormal(
    peers: int, seconds: float = 0.01, *, spread: float = 0.5, seed: int = 0, jitter: float = 0.0
) -> list[Device]:
    """Speeds with a log-normal spread: `seconds * exp(spread * z_i)`, z_i standard normal, keyed by peer."""
    result = []
    for i in range(peers):
        own = key(seed, "device", i)
        u, v = hash01(own, 1), hash01(own, 2)
        z = math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v)
        result.append(Device(seconds * math.exp(spread * z), jitter, own))
    return result


def stragglers(
    peers: int,
    seconds: float = 0.01,
    *,
    share: float = 0.1,
    factor: float = 10.0,
    seed: int = 0,
    jitter: float = 0.0,
) -> list[Device]:
    """A keyed `share` of the peers is `factor` times slower than the rest."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share: got {share}; a fraction in [0, 1] is allowed")
    if not 1.0 <= factor < math.inf:
        raise ValueError(f"factor: got {factor}; a finite number >= 1 is allowed")
    order = sorted(range(peers), key=lambda i: (hash01(key(seed, "straggler"), i), i))
    slow = set(order[: round(share * peers)])
    return [Device(seconds * (factor if i in slow else 1.0), jitter, key(seed, "device", i)) for i in range(peers)]


def given(seconds: Sequence[float], *, seed: int = 0, jitter: float = 0.0) -> list[Device]:
    """One named speed a peer, in seconds per step."""
    return [Device(float(s), jitter, key(seed, "device", i)) for i, s in enumerate(seconds)]
