"""Runs whose peers can be looked at afterwards: a run itself only shows the server's model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shoal import Run, simulate
from shoal.learning import Learner, Task
from shoal.learning.data import Data
from shoal.optim import Rule

from .. import runs


class Watched:
    """A protocol that remembers its peers, in their last life."""

    def __init__(self, protocol: Any) -> None:
        self.protocol, self.needs = protocol, protocol.needs
        self.peers: dict[int, Learner] = {}

    async def __call__(self, me: Learner) -> None:
        self.peers[me.id] = me
        await self.protocol(me)


def run(
    protocol: Any,
    sizes: Sequence[int] = (6, 6, 6),
    *,
    task: Task | None = None,
    pieces: tuple[Data, list[Tensor]] | None = None,
    rule: Rule | None = None,
    **settings: Any,
) -> tuple[Run, dict[int, Learner]]:
    """A run on the linear regression in float64, whole shards as batches; and its peers, a server last."""
    task = task or runs.regression()
    pieces = pieces or runs.partition(task, sizes)
    watched = Watched(protocol)
    if protocol.needs.optimizer:
        settings["optimizer"] = rule or runs.SGD.rule(0.1)
    defaults: dict[str, Any] = {"network": "ideal", "rounds": 1, "seed": 3, "workers": 1, "batch": 0}
    defaults |= {"peers": len(pieces[1]), "partition": pieces, "topology": "complete"}
    found = simulate(watched, task=task, **{**defaults, **settings})
    return found, watched.peers


def models(peers: dict[int, Learner]) -> Tensor:
    """Models [n, d] by increasing id."""
    return torch.stack([peers[i].model for i in sorted(peers)])


def gradients(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The workers' gradients [n, d] at x, in closed form."""
    data, pieces = runs.partition(runs.regression(), sizes)
    return torch.stack([runs.gradient(x, data, piece) for piece in pieces])
