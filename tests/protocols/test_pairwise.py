"""Asynchronous pairwise gossip: the sum of all models changes by the steps alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shoal import Run
from shoal.engine import Crash, Device, Link, Restart
from shoal.learning import Learner
from shoal.optim import SGD
from shoal.protocols import Pairwise
from shoal.topology import exponential, ring, star

from . import runs

UNEQUAL = [Device(0.01 * (1 + i)) for i in range(6)]
SLOW = [Link(latency=0.03, jitter=0.05, up=2000.0, down=3000.0)] * 6


def pairwise(rule: Any, peers: int = 6, **settings: Any) -> Run:
    task = runs.regression()
    options: dict[str, Any] = {"topology": "complete", "init": "independent", "batch": 2, "rounds": 12}
    steps = settings.pop("steps", 2)
    return runs.run(Pairwise(steps), task, runs.partition(task, [5] * peers), rule, **{**options, **settings})


def starts(peers: int = 6) -> Tensor:
    task = runs.regression()
    return torch.stack([runs.start(task, peer=i) for i in range(peers)])


@pytest.mark.parametrize("settings", [{}, {"devices": UNEQUAL}, {"devices": UNEQUAL, "network": SLOW}])
@pytest.mark.parametrize("topology", [ring(6), star(6), exponential(6)])
def test_meetings_conserve_the_sum_of_the_models(topology: Any, settings: dict[str, Any]) -> None:
    """Also while several are on their way, on graphs of any degree, directed ones included."""
    after = runs.stack(pairwise(runs.nothing(), topology=topology, **settings))
    torch.testing.assert_close(after.sum(0), starts().sum(0), rtol=1e-12, atol=1e-12)


def test_meetings_bring_the_models_together() -> None:
    after = runs.stack(pairwise(runs.nothing(), rounds=40, devices=UNEQUAL))
    assert float((after - after.mean(0)).norm()) < 1e-3 * float((starts() - starts().mean(0)).norm())


def test_with_steps_the_sum_changes_by_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[Tensor] = []
    update = Learner.update

    async def noted(self: Learner, *args: Any, **options: Any) -> Tensor:
        change = await update(self, *args, **options)
        changes.append(change)
        return change

    monkeypatch.setattr(Learner, "update", noted)
    after = runs.stack(pairwise(SGD.rule(0.1, momentum=0.5), devices=UNEQUAL, network=SLOW))
    assert len(changes) == 6 * 12
    expected = starts().sum(0) + torch.stack(changes).sum(0)
    torch.testing.assert_close(after.sum(0), expected, rtol=1e-11, atol=1e-11)
    assert float(torch.stack(changes).norm()) > 0.1


def test_two_peers_are_equal_after_a_meeting() -> None:
    """Peer 0 is fast: both of its meetings are over before peer 1 has done a step."""
    devices = [Device(0.001), Device(10.0)]
    after = runs.stack(pairwise(runs.nothing(), 2, rounds=1, devices=devices, until=5.0))
    torch.testing.assert_close(after, starts(2).mean(0).expand(2, -1), rtol=1e-12, atol=1e-13)


def test_nobody_waits_for_a_slow_peer() -> None:
    """9 peers out of 10 rounds of 2 steps of 0.01 s are done at 0.2 s, however long the last one takes."""
    run = pairwise(SGD.rule(0.1), devices=[Device(0.01)] * 5 + [Device(1.0)], rounds=10)
    ends = {i: max(row[0] for row in run.metrics if row[3] == i and row[1] == 10) for i in range(6)}
    assert max(ends[i] for i in range(5)) == pytest.approx(0.2)
    assert ends[5] == pytest.approx(20.0)


def test_a_step_goes_on_top_of_what_the_model_has_become_meanwhile() -> None:
    """A meeting in the middle of a step of the partner is not undone by the step."""
    task = runs.regression()
    data, pieces = runs.partition(task, [5, 5])
    x = starts(2)
    devices = [Device(0.01), Device(1.0)]
    run = runs.run(
        Pairwise(steps=1),
        task,
        (data, pieces),
        SGD.rule(0.1),
        rounds=1,
        devices=devices,
        batch=0,
        init="independent",
        until=1.5,
    )
    step = [-0.1 * runs.gradient(x[i], data, pieces[i]) for i in (0, 1)]
    mean = (x[0] + step[0] + x[1]) / 2  # they meet at 0.01 s, and again when peer 1 has done its step at 1 s
    expected = (mean + mean + step[1]) / 2
    torch.testing.assert_close(runs.stack(run), expected.expand(2, -1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "settings",
    [
        {"faults": [Crash(0.05, 1), Restart(0.4, 1)]},
        {"faults": [Crash(0.05, i) for i in range(1, 6)]},
        {"network": [Link(latency=0.01, loss=0.2, duplication=0.2)] * 6},
    ],
)
def test_it_goes_on_without_those_who_are_gone_and_with_what_is_lost(settings: dict[str, Any]) -> None:
    run = pairwise(SGD.rule(0.1), init="common", **settings)
    assert run.status == "finished"
    curve = run.curve("loss", peer=0)
    assert curve[-1, 0] == 12
    assert curve[-1, 1] < curve[0, 1]


def test_without_neighbours_it_is_training_alone() -> None:
    task = runs.regression()
    pieces = runs.partition(task, [10])
    a, b = (
        runs.stack(runs.run(name, task, pieces, SGD.rule(0.1), rounds=3, batch=4))
        for name in ("pairwise:2", "isolated:2")
    )
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
