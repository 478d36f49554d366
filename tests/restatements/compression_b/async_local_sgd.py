"""Asynchronous local SGD with delayed Nesterov (DN) and dynamic local updates (DyLU), restated in float64 NumPy.

B. Liu, R. Chhaparia, A. Douillard, S. Kale, A. A. Rusu, J. Shen, A. Szlam, M. Ranzato, "Asynchronous Local-SGD
Training for Language Modeling", arXiv:2401.09135 (2024); simulator: google-deepmind/asyncdiloco (without DN).

    worker w: takes theta, makes H_w local steps on a shard, sends g = theta_start - theta_local, takes the new theta
    server, arrival t = 0, 1, ...:   Delta <- Delta + g
      (t + 1) mod N = 0:  m <- beta m + Delta / N;   theta <- theta - lr ((1 - c N + c) beta m + g / N);   Delta <- 0
      otherwise:          theta <- theta - lr (c beta m + g / N)
    DyLU:  H_w = floor(H v_w / max v)

Over N arrivals m is applied (1 - cN + c) + (N - 1) c = 1 times. For c = 0 and all g given, N arrivals from (theta, m)
make the Nesterov step theta - lr (beta m' + mean g), m' = beta m + mean g, whatever their order; for c > 0 the momentum
is still being spread when they end.

Choices where the source leaves or contradicts itself:

* H_w is at least 1. The simulator's own "scale_steps" has at least 5. floor is of the exact ratio of the given floats.
* Grace period, as in the simulator: the first arrival opens a window; who arrives within `grace` after it is served
  too, in order of arrival; then all who were served start at once from the newest theta. The clock then stands at the
  last arrival served, not at the end of the window: the simulator knows that nobody else will come. A real server
  does not.
* With grace = 0 workers that arrive at exactly the same time are served together. Equal times: the lower worker first.
  DyLU makes arrival times nearly equal, not equal, in floats: without a grace period their order is that of rounding.
* Shards: the least visited one, of equal ones the lowest (the simulator draws). A visit counts when the task starts.
* N of DN is the number of workers at the start, also when some die. A worker that dies at time t sends nothing after t.
* The simulator weighs the pseudo-gradients of the naive rule by sqrt(N) / N; the weight is an argument.
* Floats: d down for each start, d up for each arrival.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor, inf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outer:
    """theta, momentum and buffer [d], and the number of arrivals."""

    theta: Array
    m: Array
    buffer: Array
    t: int = 0


def outer_start(theta: Array) -> Outer:
    """Return the state before the first arrival."""
    return Outer(theta.copy(), np.zeros_like(theta), np.zeros_like(theta))


def delayed_nesterov(s: Outer, g: Array, N: int, lr: float, beta: float = 0.9, c: float = 0.0) -> Outer:
    """Return the state after the arrival of g [d]; c in [0, 1 / N]."""
    buffer = s.buffer + g
    if (s.t + 1) % N == 0:
        m = beta * s.m + buffer / N
        theta = s.theta - lr * ((1.0 - c * N + c) * beta * m + g / N)
        return Outer(theta, m, np.zeros_like(buffer), s.t + 1)
    return Outer(s.theta - lr * (c * beta * s.m + g / N), s.m, buffer, s.t + 1)


def nesterov(s: Outer, g: Array, lr: float, beta: float = 0.9, weight: float = 1.0) -> Outer:
    """Return the state after a Nesterov step on weight * g: the naive asynchronous rule, and the synchronous one."""
    g = weight * g
    m = beta * s.m + g
    return replace(s, theta=s.theta - lr * (g + beta * m), m=m, t=s.t + 1)


def dylu_steps(steps_per_second: Sequence[float], H: int) -> list[int]:
    """Return H_w for every worker: at least 1, H for the fastest."""
    fastest = Fraction(max(steps_per_second))
    return [max(1, floor(Fraction(v) * H / fastest)) for v in steps_per_second]


@dataclass(frozen=True)
class Arrival:
    """One arrival: time, worker, shard, local steps, updates applied since the worker took theta, theta afterwards."""

    time: float
    worker: int
    shard: int
    steps: int
    staleness: int
    theta: Array


Local = Callable[[int, int, Array, int, int], Array]
"""(worker, shard, theta, number of steps, steps done before on this shard) -> theta after them."""


@dataclass(frozen=True)
class Run:
    """The arrivals in order, the outer state after them, and the floats sent."""

    arrivals: list[Arrival]
    outer: Outer
    floats_up: int
    floats_down: int


def simulate(
    theta: Array,
    seconds_per_step: Sequence[float],
    steps: Sequence[int],
    local: Local,
    outer: Callable[[Outer, Array], Outer],
    *,
    arrivals: int,
    shards: int = 1,
    grace: float = 0.0,
    deaths: Mapping[int, float] | None = None,
) -> Run:
    """Simulate until `arrivals` have come or all workers are dead; steps[w] local steps of seconds_per_step[w] each."""
    deaths = deaths or {}
    n = len(seconds_per_step)
    server = outer_start(theta)
    visits, done = [0] * shards, [0] * shards
    finish = [0.0] * n
    tasks: list[tuple[int, int, Array, Array]] = [(0, 0, theta, theta)] * n
    log: list[Arrival] = []
    down = 0

    def begin(w: int, now: float) -> None:
        nonlocal down
        shard = visits.index(min(visits))
        end = local(w, shard, server.theta, steps[w], done[shard])
        visits[shard] += 1
        done[shard] += steps[w]
        tasks[w] = (shard, server.t, server.theta, end)
        finish[w] = now + steps[w] * seconds_per_step[w]
        if finish[w] > deaths.get(w, inf):
            finish[w] = inf
        down += theta.size

    for w in range(n):
        begin(w, 0.0)
    while len(log) < arrivals and min(finish) < inf:
        first = min(finish)
        window = sorted((time, w) for w, time in enumerate(finish) if time - first <= grace and time < inf)
        for time, w in window[: arrivals - len(log)]:
            shard, taken, begun, end = tasks[w]
            staleness = server.t - taken
            server = outer(server, begun - end)
            log.append(Arrival(time, w, shard, steps[w], staleness, server.theta))
        if len(log) < arrivals:
            for _, w in sorted(window, key=lambda item: item[1]):
                begin(w, window[-1][0])
    return Run(log, server, len(log) * theta.size, down)


def synchronous(
    theta: Array,
    seconds_per_step: Sequence[float],
    H: int,
    local: Local,
    *,
    rounds: int,
    lr: float,
    beta: float = 0.9,
) -> tuple[list[tuple[float, Array]], int]:
    """Run DiLoCo, a shard a worker: all make H steps and wait for the slowest, then one Nesterov step on the mean.

    Returns (time, theta) after each round and the floats sent up by all workers together.
    """
    n = len(seconds_per_step)
    server, log = outer_start(theta), list[tuple[float, Array]]()
    for r in range(rounds):
        pushes = [server.theta - local(w, w, server.theta, H, r * H) for w in range(n)]
        server = nesterov(server, np.mean(pushes, axis=0), lr, beta)
        log.append(((r + 1) * H * max(seconds_per_step), server.theta))
    return log, rounds * n * theta.size
