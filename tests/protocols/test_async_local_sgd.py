"""Asynchronous local SGD against the restatement's rules and simulator, and a world in which workers die."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal import Run
from shoal.engine import Crash, Leave, Restart
from shoal.engine.devices import given as devices_of
from shoal.optim import SGD
from shoal.protocols import AsyncLocalSGD
from shoal.protocols.local.async_local_sgd import OUTER, Outer, dylu
from shoal.tensors.random import normal
from tests.restatements.compression_b import async_local_sgd as restated

from . import runs

SIZES = (7, 20, 13)
SPEEDS = (0.31, 0.77, 1.9)
LR = 0.07


def run_of(protocol: Any, arrivals: int, speeds: tuple[float, ...] = SPEEDS, **settings: Any) -> Run:
    task = runs.regression()
    options = {"batch": 0, "rounds": arrivals, "devices": devices_of(speeds), "evaluate": 1, **settings}
    return runs.run(protocol, task, runs.partition(task, SIZES[: len(speeds)]), SGD.rule(LR), **options)


def served(run: Run) -> Tensor:
    (model,) = run.models.values()
    return model


def local(worker: int, shard: int, theta: Any, steps: int, before: int) -> Any:
    """The restatement's workers: worker w has shard w."""
    task = runs.regression()
    data, pieces = runs.partition(task, SIZES)
    w = torch.from_numpy(theta)
    for _ in range(steps):
        w = w - LR * runs.gradient(w, data, pieces[worker])
    return w.numpy()


def simulated(outer: Any, steps: list[int], arrivals: int, grace: float = 0.0, **more: Any) -> restated.Run:
    start = runs.start(runs.regression()).numpy()
    return restated.simulate(start, SPEEDS, steps, local, outer, arrivals=arrivals, grace=grace, **more)


# -- the rules

vectors = st.integers(0, 2**40).map(lambda k: normal(k, 5, dtype=torch.float64))


@given(st.lists(vectors, min_size=9, max_size=9), st.integers(1, 4), st.floats(0.0, 1.0))
def test_delayed_nesterov_is_the_restatements_arrival_by_arrival(gs: list[Tensor], n: int, share: float) -> None:
    outer = Outer(n, lr=0.3, beta=0.8, c=share / n)
    theta, m, delta = (torch.zeros(5, dtype=torch.float64) for _ in range(3))
    other = restated.outer_start(theta.numpy())
    for t, g in enumerate(gs):
        down, m, delta = OUTER["delayed-nesterov"](outer, t, g, m, delta)
        theta = theta - down
        other = restated.delayed_nesterov(other, g.numpy(), n, 0.3, 0.8, share / n)
        np.testing.assert_allclose(theta.numpy(), other.theta, rtol=1e-12, atol=1e-13)


@given(st.lists(vectors, min_size=6, max_size=6))
def test_one_worker_is_torchs_nesterov(gs: list[Tensor]) -> None:
    for name in ("delayed-nesterov", "nesterov"):
        p = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
        optimizer = torch.optim.SGD([p], lr=0.3, momentum=0.9, nesterov=True)
        theta, m, delta = (torch.zeros(5, dtype=torch.float64) for _ in range(3))
        for t, g in enumerate(gs):
            p.grad = g
            optimizer.step()
            down, m, delta = OUTER[name](Outer(1, 0.3, 0.9), t, g, m, delta)
            theta = theta - down
            torch.testing.assert_close(theta, p.data, rtol=1e-12, atol=1e-13)


@given(st.lists(vectors, min_size=4, max_size=4), st.permutations(range(4)))
def test_without_c_n_arrivals_are_one_nesterov_step_on_their_mean_in_any_order(gs: list[Tensor], order: Any) -> None:
    m0, theta = normal(1, 5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    m, delta = m0, torch.zeros(5, dtype=torch.float64)
    for t, i in enumerate(order):
        down, m, delta = OUTER["delayed-nesterov"](Outer(4, 0.7, 0.9), t, gs[i], m, delta)
        theta = theta - down
    mean = torch.stack(gs).mean(0)
    torch.testing.assert_close(m, 0.9 * m0 + mean)
    torch.testing.assert_close(theta, -0.7 * (mean + 0.9 * m))
    assert not delta.any()


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=6), st.integers(1, 60))
def test_steps_by_speed_are_the_restatements(seconds: list[float], steps: int) -> None:
    given = dict(enumerate(seconds))
    found = [dylu(w, given, steps) for w in given]
    # As seconds, whose quotients are exact here, so that neither side has to forgive a rounding.
    assert found == restated.dylu_steps([float(42 / s) for s in seconds], steps)
    assert max(found) == max(1, steps)


# -- whole runs


@pytest.mark.parametrize("name", ["delayed-nesterov", "nesterov", "sgd"])
def test_without_a_pace_arrivals_are_those_of_the_restatements_simulator(name: str) -> None:
    rules = {
        "delayed-nesterov": partial(restated.delayed_nesterov, N=3, lr=0.5, beta=0.6, c=0.2),
        "nesterov": partial(restated.nesterov, lr=0.5, beta=0.6, weight=1 / 3),
        "sgd": partial(restated.nesterov, lr=0.5, beta=0.0, weight=1 / 3),
    }
    expected = simulated(rules[name], [4, 4, 4], 12)
    c = 0.2 if name == "delayed-nesterov" else 0.0
    found = run_of(AsyncLocalSGD(4, 0.5, 0.6, c=c, outer=name, pace="equal"), 12)
    assert max(arrival.staleness for arrival in expected.arrivals) > 3
    np.testing.assert_allclose(served(found).numpy(), expected.outer.theta, rtol=1e-11, atol=1e-12)


def test_with_a_pace_and_a_window_all_arrive_together_as_in_the_restatement() -> None:
    steps = restated.dylu_steps([1 / s for s in SPEEDS], 20)
    assert steps == [20, 8, 3]
    rule = partial(restated.delayed_nesterov, N=3, lr=0.5, beta=0.6)
    expected = simulated(rule, steps, 9, grace=3.0)
    assert [arrival.staleness for arrival in expected.arrivals] == [0, 1, 2] * 3
    found = run_of(AsyncLocalSGD(20, 0.5, 0.6, grace=3.0), 9)
    # Within the window order does not matter to the result after all three, for c = 0.
    np.testing.assert_allclose(served(found).numpy(), expected.outer.theta, rtol=1e-11, atol=1e-12)


def test_a_worker_that_is_gone_holds_nobody_up() -> None:
    run = run_of(AsyncLocalSGD(4, 0.5, 0.6, outer="sgd", pace="equal"), 30, faults=[Leave(5.0, 0)])
    still = run_of(AsyncLocalSGD(4, 0.5, 0.6, outer="sgd", pace="equal"), 30)
    assert run.status == "finished"
    assert run.info["virtual_seconds"] > still.info["virtual_seconds"]
    # After its end the other two come at their own speeds: 1 / 3.08 + 1 / 7.6 arrivals a second.
    assert run.info["virtual_seconds"] == pytest.approx(5.0 + (30 - 4) / (1 / 3.08 + 1 / 7.6), rel=0.1)


def test_a_worker_that_comes_back_works_again() -> None:
    faults = [Crash(3.0, 0), Restart(4.0, 0)]
    back = run_of(AsyncLocalSGD(4, pace="equal", retry=1.0), 40, faults=faults).info["virtual_seconds"]
    gone = run_of(AsyncLocalSGD(4, pace="equal", retry=1.0), 40, faults=faults[:1]).info["virtual_seconds"]
    assert back < 0.6 * gone


def test_the_server_comes_back_with_its_momentum_and_its_count() -> None:
    """It crashes between arrivals; every arrival is counted once."""
    protocol = AsyncLocalSGD(4, 0.5, 0.6, retry=0.5)
    run = run_of(protocol, 12, faults=[Crash(4.0, 3), Restart(4.5, 3)])
    assert run.status == "finished"
    rounds = [row[1] for row in run.metrics if row[4] == "loss"]
    assert sorted(set(rounds)) == list(range(13))
    losses = run.curve("loss")[:, 1]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outer": "adam"}, "outer: got 'adam'"),
        ({"pace": "fast"}, "pace: got 'fast'"),
        ({"grace": -1.0}, "grace, retry: got -1.0"),
        ({"retry": 0.0}, "grace, retry: got"),
        ({"outer_lr": -1.0}, "outer_lr"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AsyncLocalSGD(**settings)


def test_more_momentum_than_there_is_is_refused() -> None:
    with pytest.raises(Exception, match=r"c: got 0.5 for 3 workers"):
        run_of(AsyncLocalSGD(4, c=0.5), 3)
