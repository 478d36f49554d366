"""Federated averaging against its formula, and going on when clients do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal import Run
from shoal.engine import Crash, Device, Leave, Link, Restart
from shoal.optim import SGD, Adam
from shoal.protocols import FedAvg

from . import runs

LR = 0.1
SIZES = (5, 10, 20, 1)
WHOLE = FedAvg(batch=None)


def fedavg(protocol: FedAvg, sizes: tuple[int, ...] = SIZES, **settings: Any) -> Run:
    task = runs.regression()
    return runs.run(protocol, task, runs.partition(task, sizes), **settings)


def served(run: Run) -> Tensor:
    """The server's final model."""
    (model,) = run.models.values()
    return model


def by_hand(sizes: tuple[int, ...], rounds: int, epochs: int = 1, present: Any = None) -> Tensor:
    """Rounds of whole-shard epochs, averaged over the clients `present(round)` by their samples."""
    task = runs.regression()
    data, pieces = runs.partition(task, sizes)
    w = runs.start(task)
    for r in range(rounds):
        total, weight = torch.zeros_like(w), 0
        for k in range(len(sizes)) if present is None else present(r):
            own = w
            for _ in range(epochs):
                own = own - LR * runs.gradient(own, data, pieces[k])
            total += sizes[k] * own
            weight += sizes[k]
        w = total / weight if weight else w
    return w


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5), rounds=st.integers(1, 4))
def test_all_clients_one_epoch_and_whole_batches_are_gradient_descent_on_the_pooled_data(
    sizes: list[int], rounds: int
) -> None:
    task = runs.regression()
    data, pieces = runs.partition(task, sizes)
    w = runs.start(task)
    for _ in range(rounds):
        w = w - LR * runs.gradient(w, data, torch.cat(pieces))
    found = served(fedavg(WHOLE, tuple(sizes), rounds=rounds))
    torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-13)


def test_several_epochs_are_averaged_by_samples() -> None:
    found = served(fedavg(FedAvg(epochs=3, batch=None), rounds=4))
    torch.testing.assert_close(found, by_hand(SIZES, 4, epochs=3), rtol=1e-12, atol=1e-13)


def test_one_client_is_training_alone() -> None:
    """Whatever the batches: 2 rounds of 3 steps are 6 steps of the same stream."""
    alone = fedavg(FedAvg(steps=3, batch=4), (17,), rounds=2)
    once = fedavg(FedAvg(steps=6, batch=4), (17,), rounds=1)
    torch.testing.assert_close(served(alone), served(once), rtol=1e-12, atol=1e-13)


def test_a_batch_as_large_as_any_shard_is_the_whole_shard() -> None:
    found = served(fedavg(FedAvg(epochs=2, batch=50), rounds=2))
    torch.testing.assert_close(found, served(fedavg(FedAvg(epochs=2, batch=None), rounds=2)), rtol=1e-12, atol=1e-13)


def test_the_runs_own_batch_is_the_default() -> None:
    models = [served(fedavg(FedAvg(batch=b), rounds=2, batch=own)) for b, own in ((-1, 4), (4, 32), (None, 4))]
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_clients_do_not_carry_their_momentum_from_round_to_round() -> None:
    """One whole-batch step a round: momentum has nothing to add if it starts from 0 each time."""
    plain, heavy = (served(fedavg(WHOLE, rounds=4, rule=rule)) for rule in (SGD.rule(LR), SGD.rule(LR, momentum=0.9)))
    torch.testing.assert_close(plain, heavy, rtol=1e-12, atol=1e-13)


# -- who takes part


@pytest.mark.parametrize(
    ("fraction", "clients", "asked"),
    [(1.0, 7, 7), (0.29, 100, 29), (0.1, 7, 1), (0.01, 7, 1), (0.5, 7, 3), (0.7, 10, 7)],
)
def test_a_fraction_of_the_clients_is_asked_each_round(fraction: float, clients: int, asked: int) -> None:
    task = runs.regression(200)
    run = runs.run(FedAvg(fraction, steps=0), task, runs.partition(task, [1] * clients), rounds=3, eval_peers=1)
    assert run.info["bytes"]["channels"]["train"]["messages"] == 3 * 2 * asked


def test_participants_are_drawn_afresh_each_round_from_the_seed() -> None:
    def asked(seed: int) -> list[set[int]]:
        run = fedavg(FedAvg(0.5, batch=None), (3,) * 8, rounds=6, seed=seed, trace=True)
        rounds: list[set[int]] = []
        for event in run.trace or ():
            if event["event"] == "send" and event["from"] == 8:
                if not rounds or len(rounds[-1]) == 4:
                    rounds.append(set())
                rounds[-1].add(event["to"])
        return rounds

    first = asked(3)
    assert [len(chosen) for chosen in first] == [4] * 6
    assert len({frozenset(chosen) for chosen in first}) > 1
    assert first == asked(3)
    assert first != asked(4)


def test_the_average_is_over_those_who_were_asked() -> None:
    run = fedavg(FedAvg(0.5, batch=None), trace=True)
    chosen = [event["to"] for event in run.trace or () if event["event"] == "send" and event["from"] == 4]
    assert len(chosen) == 2
    torch.testing.assert_close(served(run), by_hand(SIZES, 1, present=lambda r: chosen), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"^fraction: got"):
        FedAvg(fraction)


# -- the server's optimizer


def test_a_server_step_of_rate_one_is_the_average() -> None:
    plain, stepped = (served(fedavg(FedAvg(2 / 3, server=rule), rounds=3)) for rule in (None, SGD.rule(1.0)))
    torch.testing.assert_close(plain, stepped, rtol=1e-12, atol=1e-13)


def test_server_momentum_runs_along_the_pseudo_gradient() -> None:
    data, pieces = runs.partition(runs.regression(), SIZES)
    w, m = runs.start(runs.regression()), torch.zeros(runs.SIZE, dtype=torch.float64)
    for _ in range(5):
        m = 0.9 * m + LR * runs.gradient(w, data, torch.cat(pieces))  # w - average, for one whole-batch step
        w = w - 0.5 * m
    found = served(fedavg(FedAvg(batch=None, server=SGD.rule(0.5, momentum=0.9)), rounds=5))
    torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-13)


def test_server_adam_is_torchs_on_the_pseudo_gradient() -> None:
    data, pieces = runs.partition(runs.regression(), SIZES)
    w = torch.nn.Parameter(runs.start(runs.regression()))
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(5):
        w.grad = LR * runs.gradient(w.detach(), data, torch.cat(pieces))
        optimizer.step()
    found = served(fedavg(FedAvg(batch=None, server=Adam.rule(0.05)), rounds=5))
    torch.testing.assert_close(found, w.detach(), rtol=1e-10, atol=1e-12)


# -- when something goes wrong


def test_a_client_that_is_gone_is_left_out() -> None:
    gone = fedavg(WHOLE, rounds=3, faults=[Crash(0.0, 2)])
    torch.testing.assert_close(served(gone), by_hand(SIZES, 3, present=lambda r: (0, 1, 3)), rtol=1e-12, atol=1e-13)


def test_a_client_counts_again_when_it_is_back() -> None:
    """A step takes 0.01 s, a loss shows after 0.05 s: the crash is in round 1, and the restart in round 2."""
    run = fedavg(WHOLE, rounds=5, faults=[Crash(0.015, 1), Restart(0.068, 1)])
    assert run.status == "finished"
    present = {1: (0, 2, 3), 2: (0, 2, 3)}
    expected = by_hand(SIZES, 5, present=lambda r: present.get(r, (0, 1, 2, 3)))
    torch.testing.assert_close(served(run), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("fault", [Crash, Leave])
def test_without_any_clients_the_model_stays(fault: Any) -> None:
    run = fedavg(WHOLE, rounds=5, faults=[fault(0.025, i) for i in range(4)])
    assert run.status == "finished"
    torch.testing.assert_close(served(run), by_hand(SIZES, 2), rtol=1e-12, atol=1e-13)


def test_a_client_that_sends_nan_is_left_out_and_named() -> None:
    run = fedavg(WHOLE, rounds=3, attack="nan:0.25")
    (bad,) = run.info["byzantine"]
    expected = by_hand(SIZES, 3, present=lambda r: [i for i in range(4) if i != bad])
    torch.testing.assert_close(served(run), expected, rtol=1e-12, atol=1e-13)
    assert {event.get("sender") for event in run.events if "NaN" in event["event"]} == {bad}


def test_with_loss_of_messages_all_rounds_are_done_and_the_loss_falls() -> None:
    links = [Link(latency=0.01, loss=0.2, patience=1.0)] * 5
    run = fedavg(FedAvg(epochs=2, batch=4), rounds=30, network=links)
    assert run.status == "finished"
    curve = run.curve("loss")
    assert curve[-1, 0] == 30
    assert curve[-1, 1] < curve[0, 1]
    assert run.info["bytes"]["channels"]["train"]["lost"] > 0


def test_a_server_that_crashes_between_rounds_goes_on_from_the_last_one() -> None:
    """Once its clients are done with what it had asked before."""
    plain = fedavg(WHOLE, rounds=6)
    crashed = fedavg(WHOLE, rounds=6, faults=[Crash(0.035, 4), Restart(0.2, 4)])
    torch.testing.assert_close(served(plain), served(crashed), rtol=1e-12, atol=1e-13)


def test_a_server_that_is_back_before_its_clients_are_done_goes_on() -> None:
    plain = fedavg(WHOLE, rounds=6)
    crashed = fedavg(WHOLE, rounds=6, faults=[Crash(0.035, 4), Restart(0.037, 4)])
    torch.testing.assert_close(served(plain), served(crashed), rtol=1e-12, atol=1e-13)


def test_a_straggler_that_is_not_waited_for_is_left_out() -> None:
    devices = [Device(0.01)] * 3 + [Device(0.1)]
    run = fedavg(FedAvg(batch=None, timeout=0.05), rounds=4, devices=devices)
    assert run.status == "finished"
    torch.testing.assert_close(served(run), by_hand(SIZES, 4, present=lambda r: (0, 1, 2)), rtol=1e-12, atol=1e-13)


def test_messages_that_arrive_twice_do_no_harm() -> None:
    links = [Link(latency=0.01, duplication=0.5)] * 5
    run = fedavg(WHOLE, rounds=10, network=links)
    torch.testing.assert_close(served(run), by_hand(SIZES, 10), rtol=1e-12, atol=1e-13)
    assert run.info["bytes"]["channels"]["train"]["duplicated"] > 0
