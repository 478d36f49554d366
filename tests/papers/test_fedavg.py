"""FedAvg's trajectory against the restatement's on the same clients and batches, and the claim's own arithmetic."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shoal import Run, simulate
from shoal.learning import Task
from shoal.learning.data import Data, Dataset, load
from shoal.papers import fedavg as paper
from shoal.protocols import FedAvg
from shoal.tensors.random import key, normal

from ..restatements import fedavg as restated

Array = NDArray[np.float64]
SIZES, WIDTH, LR = (7, 12, 3, 20, 5, 13), 4, 0.05


class Watched:
    """Half squared error of a linear model, which notes the numbers of each training step's samples."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        if output.requires_grad:  # not where a task is tried or evaluated
            self.steps.append(target[:, 1].long().tolist())
        return 0.5 * (output[:, 0] - target[:, 0]).square()


def watched_task() -> tuple[Task, Watched]:
    count = sum(SIZES)
    draw = normal(key(5, "data"), (count, WIDTH + 1), dtype=torch.float64)
    numbered = torch.stack([draw[:, WIDTH], torch.arange(count, dtype=torch.float64)], 1)
    train = Data(draw[:, :WIDTH].contiguous(), numbered)
    test = Data(train.inputs[:1], torch.tensor([[0.0, -1.0]], dtype=torch.float64))
    watched = Watched()
    build = lambda: nn.Linear(WIDTH, 1, bias=False, dtype=torch.float64)  # noqa: E731
    return Task("numbered", build, Dataset("numbered", train, test), watched, metrics={}), watched


def federate(task: Task, protocol: FedAvg, rounds: int, **settings: Any) -> Array:
    """The server's model after training one by one in a single thread, so that steps are noted in their order."""
    rows = list(torch.arange(sum(SIZES)).split(SIZES))
    options: dict[str, Any] = {"batched": False, "workers": 1, "network": "ideal", "seed": 8, "lr": LR, **settings}
    run = simulate(
        protocol, task=task, partition=(task.dataset.train, rows), peers=len(SIZES), rounds=rounds, **options
    )
    return np.asarray(paper.model_of(run).numpy())


def noted_rounds(steps: list[list[int]], epochs: int, batch: int | None, asked: int) -> list[dict[int, list[Any]]]:
    """For each round, client -> its batches, as numbers within its own data."""
    starts = np.cumsum([0, *SIZES[:-1]])
    clients: list[tuple[int, list[Any]]] = []
    position = 0
    while position < len(steps):
        k = int(np.searchsorted(starts, steps[position][0], side="right")) - 1
        count = epochs * (1 if batch is None else math.ceil(SIZES[k] / batch))
        own = [np.array(b) - starts[k] for b in steps[position : position + count]]
        assert sorted(np.concatenate(own).tolist()) == sorted([*range(SIZES[k])] * epochs)
        clients.append((k, own))
        position += count
    return [dict(clients[i : i + asked]) for i in range(0, len(clients), asked)]


@pytest.mark.parametrize(
    ("fraction", "epochs", "batch"), [(1.0, 1, None), (0.5, 1, None), (0.5, 3, 5), (0.34, 2, 4), (1.0, 2, 50)]
)
def test_the_trajectory_is_the_restatements_with_the_same_clients_and_batches(
    fraction: float, epochs: int, batch: int | None
) -> None:
    rounds, protocol = 4, FedAvg(fraction, epochs=epochs, batch=batch)
    task, watched = watched_task()
    start = federate(task, protocol, 0)
    watched.steps.clear()
    final = federate(task, protocol, rounds)
    asked = restated.clients_per_round(fraction, len(SIZES))
    # The first step is not a client's: the trainer looks whether the loss draws random numbers.
    noted = noted_rounds(watched.steps[1:], epochs, batch, asked)
    assert len(noted) == rounds
    assert all(len(r) == asked for r in noted)
    data = task.dataset.train
    clients = [
        restated.ClientData(x.numpy(), y[:, 0].numpy())
        for x, y in zip(data.inputs.split(SIZES), data.targets.split(SIZES), strict=True)
    ]
    expected = restated.fedavg(
        start, clients, lambda w, x, y: x.T @ (x @ w - y) / len(x), [sorted(r) for r in noted], noted, LR
    )
    np.testing.assert_allclose(final, expected[-1], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(federate(task, protocol, 2), expected[2], rtol=1e-12, atol=1e-14)
    if batch is None and epochs == 1:
        sgd = restated.fedsgd(
            start, clients, lambda w, x, y: x.T @ (x @ w - y) / len(x), [sorted(r) for r in noted], LR
        )
        np.testing.assert_allclose(final, sgd[-1], rtol=1e-12, atol=1e-14)


def test_stacked_clients_go_the_way_of_clients_one_by_one() -> None:
    protocol = FedAvg(0.5, epochs=3, batch=5)
    single = federate(watched_task()[0], protocol, 4)

    def plain(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output[:, 0] - target[:, 0]).square()

    task = watched_task()[0]
    stacked = federate(Task("plain", task.model, task.dataset, plain, metrics={}), protocol, 4, batched=True)
    np.testing.assert_allclose(stacked, single, rtol=1e-12, atol=1e-14)


# -- the claim


def test_the_exact_criterion_holds() -> None:
    figures: dict[str, float] = {}
    assert paper.pooled_descent((7,), figures).holds
    assert figures["pooled descent: relative error"] < 1e-13


@pytest.mark.parametrize("race", [paper.CHECK, paper.FULL])
def test_both_methods_get_as_many_rates_and_are_tuned_on_another_seed(race: paper.Race) -> None:
    assert race.tuning_seed not in race.seeds
    for part in paper.PARTITIONS:
        fast, slow = (race.rates[method, part] for method in paper.METHODS)
        assert len(fast) == len(slow)
        np.testing.assert_allclose(np.diff(np.log(fast)), np.diff(np.log(slow)), atol=1e-12)
        assert race.rounds["FedSGD", part] >= paper.FEWER * race.rounds["FedAvg", part]


@pytest.mark.parametrize(
    ("fast", "slow", "factor", "holds"),
    [
        (10.0, 30.0, 3.0, True),
        (10.0, 29.0, 2.9, False),
        (10.0, math.inf, 24.0, True),
        (math.inf, 30.0, 0.0, False),
        (math.inf, math.inf, 0.0, False),
    ],
)
def test_a_method_that_never_arrives_counts_against_the_claim_in_doubt(
    monkeypatch: pytest.MonkeyPatch, fast: float, slow: float, factor: float, holds: bool
) -> None:
    rounds: Mapping[str, float] = {"FedAvg": fast, "FedSGD": slow}
    monkeypatch.setattr(paper, "rounds_needed", lambda race, dataset, method, *rest: (rounds[method], 0.5))
    figures: dict[str, float] = {}
    finding = paper.speedup(paper.CHECK, load("digits"), "iid", figures)
    assert finding.holds is holds
    assert figures["times fewer rounds, iid"] == pytest.approx(factor)
    assert all(map(math.isfinite, figures.values()))


def test_the_rate_with_fewest_rounds_is_taken_and_else_the_most_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {0.025: (9.0, 0.9), 0.05: (5.0, 0.6), 0.1: (math.inf, 0.5), 0.2: (math.inf, 0.0)}
    monkeypatch.setattr(paper, "rounds_needed", lambda race, dataset, method, part, lr, seed: found[lr])
    best = lambda: paper.best_rate(paper.FULL, load("digits"), "FedAvg", "iid", {})  # noqa: E731
    assert best() == 0.05
    found.update({0.025: (math.inf, 0.4), 0.05: (math.inf, 0.45)})
    assert best() == 0.1


def test_pairs_hold_disjoint_samples_and_start_together_or_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def untrained(protocol: str, **settings: Any) -> Run:
        seen.append(settings["partition"][1])
        return simulate("isolated:0", **{**settings, "rounds": 0})

    monkeypatch.setattr(paper, "simulate", untrained)
    digits = load("digits")
    common, apart = (paper.pairs(paper.CHECK, digits, init, 3) for init in ("common", "independent"))
    held = torch.cat(seen[0])
    assert len(held.unique()) == len(held)
    assert common.shape == apart.shape == (5, 3)
    torch.testing.assert_close(common, common[:1, :1].expand(5, 3))
    assert bool((apart[:, 0] != apart[:, 2]).all())
