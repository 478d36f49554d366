"""Replicas stay equal bit for bit, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from shoal.aggregation import mean
from shoal.engine import Crash, Device, Leave, Link, Restart
from shoal.learning import Learner
from shoal.optim import SGD
from shoal.protocols import DistributedLion, Needs, OneBitAdam, ParallelSGD, TernGrad
from shoal.protocols.compressed.replicas import Replicated
from shoal.tensors.payload import Content

from .. import runs
from . import watched

SIZES = (7, 5, 6, 9)
SERVER = len(SIZES)


@dataclass(frozen=True)
class Plain(Replicated):
    """Gradients as they are, and their mean: what is left is the machinery."""

    needs: ClassVar[Needs] = Needs(server=True)
    shares: ClassVar[tuple[str, ...]] = ("steps", "optimizer")

    def message(self, me: Learner, g: Tensor) -> Content:
        return g

    def read(self, me: Learner, message: Content) -> Tensor:
        if not isinstance(message, Tensor):
            raise ValueError("no tensor")
        return message

    def combine(self, me: Learner, messages: Mapping[int, Tensor]) -> Content:
        return mean(list(messages.values()))

    def step(self, me: Learner, workers: int, content: Content) -> None:
        if not isinstance(content, Tensor):
            raise ValueError("no tensor")
        me.step(content)


PROTOCOLS: dict[str, Replicated] = {
    "plain": Plain(),
    "terngrad": TernGrad(),
    "distributed lion, majority": DistributedLion(0.01),
    "distributed lion, average": DistributedLion(0.01, weight_decay=0.1, average=True),
    "1-bit adam": OneBitAdam(0.01, warmup=3),
}
every = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
MOMENTUM = SGD.rule(0.1, momentum=0.9)


def equal(rows: Tensor) -> bool:
    return all(torch.equal(rows[0], row) for row in rows)


def run(protocol: Replicated, **settings: Any) -> tuple[Any, dict[int, Learner]]:
    return watched.run(protocol, SIZES, **({"rule": MOMENTUM} if protocol.needs.optimizer else {}), **settings)


def test_with_plain_gradients_it_is_parallel_sgd() -> None:
    for rule in (SGD.rule(0.1), MOMENTUM):
        _, peers = watched.run(Plain(), SIZES, rule=rule, rounds=6)
        expected, _ = watched.run(ParallelSGD(), SIZES, rule=rule, rounds=6)
        torch.testing.assert_close(watched.models(peers), runs.stack(expected).expand(5, -1), rtol=1e-13, atol=1e-15)


@every
def test_all_replicas_end_equal_bit_for_bit_after_all_steps(protocol: Replicated) -> None:
    _, peers = run(protocol, rounds=9)
    assert equal(watched.models(peers))
    assert {peer.state["step"] for peer in peers.values()} == {9}
    assert not torch.equal(peers[0].model, runs.start(runs.regression()))


@every
def test_a_first_state_goes_out_once_also_to_peers_that_start_elsewhere(protocol: Replicated) -> None:
    found, peers = run(protocol, rounds=7, init="independent")
    assert equal(watched.models(peers))
    assert found.info["bytes"]["channels"]["state"]["messages"] == 2 * len(SIZES)


@every
@pytest.mark.parametrize("restart", [0.068, 0.3])
def test_a_worker_that_was_away_is_brought_up_to_date(protocol: Replicated, restart: float) -> None:
    """A step takes 0.01 s, a loss shows after 0.05 s."""
    found, peers = run(protocol, rounds=40, faults=[Crash(0.035, 1), Restart(restart, 1)])
    assert found.status == "finished"
    assert peers[1].lives == 2
    assert equal(watched.models(peers))
    assert found.info["bytes"]["channels"]["state"]["messages"] == 2 * (len(SIZES) + 1)


@every
def test_a_server_that_crashes_goes_on_from_its_last_step(protocol: Replicated) -> None:
    plain, _ = run(protocol, rounds=8)
    found, peers = run(protocol, rounds=8, faults=[Crash(0.035, SERVER), Restart(0.2, SERVER)])
    assert equal(watched.models(peers))
    torch.testing.assert_close(runs.stack(found), runs.stack(plain), rtol=0, atol=0)


@every
def test_a_step_is_made_of_those_who_answer(protocol: Replicated) -> None:
    gone, _ = run(protocol, rounds=5, faults=[Leave(0.0, 2)])
    task = runs.regression()
    data, pieces = runs.partition(task, SIZES)
    less = (data, [piece for i, piece in enumerate(pieces) if i != 2])
    rule = MOMENTUM if protocol.needs.optimizer else None
    if isinstance(protocol, Plain):  # others draw by id
        without = runs.run(protocol, task, less, rule, rounds=5, batch=0)
        torch.testing.assert_close(runs.stack(gone), runs.stack(without), rtol=1e-13, atol=1e-15)
    assert gone.status == "finished"


@every
def test_without_any_workers_the_model_stays(protocol: Replicated) -> None:
    found, peers = run(protocol, rounds=6, faults=[Leave(0.035, i) for i in range(SERVER)])
    three, _ = run(protocol, rounds=3)
    assert found.status == "finished"
    assert torch.equal(runs.stack(found), runs.stack(three))
    assert peers[SERVER].state["step"] == 6


@every
def test_a_straggler_that_is_not_waited_for_follows(protocol: Replicated) -> None:
    patient = type(protocol)(**{**vars(protocol), "timeout": 0.05})
    devices = [Device(0.01)] * 3 + [Device(0.1)]
    found, peers = run(patient, rounds=8, devices=devices)
    assert found.status == "finished"
    assert equal(watched.models(peers))


@every
def test_lost_reordered_and_repeated_messages_do_no_harm(protocol: Replicated) -> None:
    links = [Link(latency=0.01, jitter=0.02, loss=0.15, duplication=0.3, reordering=0.3, patience=1.0)] * 5
    found, peers = run(protocol, rounds=25, network=links)
    assert found.status == "finished"
    assert found.info["bytes"]["channels"]["down"]["lost"] > 0
    behind = [peer for peer in peers.values() if peer.state.get("step", -1) < 25]
    assert len(behind) <= 2  # whose last result, or state, was lost
    assert equal(torch.stack([peer.model for peer in peers.values() if peer not in behind]))


@every
def test_nan_and_nonsense_are_left_out(protocol: Replicated) -> None:
    class Liar(type(protocol)):  # type: ignore[misc]
        def message(self, me: Learner, g: Tensor) -> Content:
            return "nonsense" if me.id == 2 and me.state["step"] == 1 else super().message(me, g)

    found, peers = run(Liar(**vars(protocol)), rounds=4)
    assert equal(watched.models(peers))
    assert [e["sender"] for e in found.events if e["event"] == "malformed payload dropped"] == [2]


def test_an_impossible_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^timeout: got -1"):
        Plain(timeout=-1.0)
