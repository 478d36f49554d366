"""Runs of protocols on a problem of which everything is known: linear regression in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shoal import Run, simulate
from shoal.learning import Task, squared_error
from shoal.learning.data import Data, Dataset
from shoal.optim import SGD, Rule
from shoal.tensors.random import key, normal

WIDTH, OUTPUTS = 3, 2
SIZE = WIDTH * OUTPUTS + OUTPUTS


def regression(samples: int = 60, seed: int = 0) -> Task:
    """Half squared error of a linear map with bias."""
    draw = normal(key(seed, "regression"), (samples, WIDTH + OUTPUTS), dtype=torch.float64)
    data = Data(draw[:, :WIDTH].contiguous(), draw[:, WIDTH:].contiguous())
    build = lambda: nn.Linear(WIDTH, OUTPUTS, dtype=torch.float64)  # noqa: E731
    return Task("regression", build, Dataset("regression", data, data), squared_error, metrics={})


def gradient(w: Tensor, data: Data, rows: Tensor | None = None) -> Tensor:
    """Of the mean loss over some rows, at a flat vector (weights, then biases): in closed form."""
    x, y = (data.inputs, data.targets) if rows is None else (data.inputs[rows], data.targets[rows])
    error = x @ w[: WIDTH * OUTPUTS].view(OUTPUTS, WIDTH).T + w[WIDTH * OUTPUTS :] - y
    return torch.cat([(error.T @ x / len(x)).flatten(), error.mean(0)])


def partition(task: Task, sizes: Sequence[int]) -> tuple[Data, list[Tensor]]:
    """Blocks of the training data of given sizes."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    assert ends[-1] <= len(task.dataset.train)
    blocks = zip(sizes, ends, strict=True)
    return task.dataset.train, [torch.arange(end - size, end) for size, end in blocks]


def same(task: Task, peers: int) -> tuple[Data, list[Tensor]]:
    """Everybody holds everything."""
    return task.dataset.train, [torch.arange(len(task.dataset.train))] * peers


def run(protocol: Any, task: Task, pieces: tuple[Data, list[Tensor]], rule: Rule | None = None, **settings: Any) -> Run:
    """A run over ideal links, unless others are given."""
    options: dict[str, Any] = {"network": "ideal", "topology": "complete", "rounds": 1, "seed": 3, "workers": 1}
    return simulate(
        protocol,
        task=task,
        partition=pieces,
        optimizer=rule or SGD.rule(0.1),
        peers=len(pieces[1]),
        **{**options, **settings},
    )


def start(task: Task, seed: int = 3, peer: int | None = None) -> Tensor:
    """The vector from which a run begins; with independent initialisation that of a peer."""
    from shoal.tensors.layout import flatten_module

    return flatten_module(task.initial(key(seed, "init") if peer is None else key(seed, "init", peer)))[0]


def nothing() -> Rule:
    """A rule that does not move: what is left of a protocol is its mixing."""
    return SGD.rule(0.0)


def stack(run: Run) -> Tensor:
    """Final models [n, d] by increasing id."""
    return torch.stack([run.models[id] for id in sorted(run.models)])
