"""Omniscient measurements: what the models of a simulated world are worth, off its clock and off its ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from shoal.engine import SimulatedWorld
from shoal.engine.compute import Dispatch, Job, Pool
from shoal.engine.errors import NonFinite
from shoal.engine.simulated import Metric
from shoal.learning import Learner, Trainer
from shoal.learning.data import Data
from shoal.learning.data.dataset import first_not_finite
from shoal.tensors.random import key, permutation

MEAN = -1  # id under which the mean model of all peers is reported
QUEUE = 64


class Probe:
    """Evaluates models as peers commit their rounds.

    Args:
        world: where metrics are added.
        trainer: computes.
        every: evaluate rounds that are multiples of this.
        last: and this round.
        watched: peers that are evaluated.
        averaged: peers whose mean model and consensus distance are evaluated, as many of them as are there.
        samples: test samples used.
        workers: threads.
        dispatch: computes instead of them; see `Pool`.
    """

    def __init__(
        self,
        world: SimulatedWorld,
        trainer: Trainer,
        *,
        every: int,
        last: int,
        watched: Iterable[int],
        averaged: Iterable[int],
        samples: int,
        workers: int,
        dispatch: Dispatch | None = None,
    ) -> None:
        self._world = world
        self._trainer = trainer
        self._every, self._last = every, last
        self._watched = frozenset(watched)
        self._averaged = frozenset(averaged)
        self._pool = Pool(workers, trainer.device, dispatch)
        test = trainer.task.dataset.test
        chosen = permutation(key(world.seed, "test samples"), len(test))[:samples] if samples < len(test) else None
        self._test = test if chosen is None else test[chosen]
        self._queue: list[tuple[Metric, Tensor]] = []
        # One round's models as a rule, so that what is shown and stored on the way is not older than that.
        self._most = min(QUEUE, len(self._watched) + 1)
        self._sums: dict[int, tuple[int, Tensor, Tensor, float]] = {}
        self._counted, self._up = -1, 0
        self.latest: dict[str, float] = {}

    def committed(self, peer: Learner) -> None:
        """A peer has finished a round.

        Raises:
            NonFinite: it is watched, and its model has NaN or infinity in it.
        """
        r = int(peer.state["round"])
        if r % self._every and r != self._last:
            return
        vector: Tensor = peer.state["model"]
        if peer.id in self._watched:
            if first_not_finite(vector) is not None:
                raise NonFinite(f"the model of peer {peer.id} has NaN or infinity in it after round {r}")
            self._ask(peer.id, r, vector)
        if peer.id in self._averaged:
            self._add(r, vector)

    def start(self, peers: Iterable[Learner]) -> None:
        """Evaluate the models before the first round."""
        for peer in peers:
            if peer.id in self._watched:
                self._ask(peer.id, 0, peer.state["model"])

    def _add(self, r: int, vector: Tensor) -> None:
        # Sums of differences from the first model: those of the models themselves would cancel to noise.
        count, first, total, squares = self._sums.get(r, (0, vector, torch.zeros_like(vector), 0.0))
        difference = vector - first
        count, squares = count + 1, squares + float(difference.square().sum())
        self._sums[r] = (count, first, total.add_(difference), squares)
        if count >= self._present():
            del self._sums[r]
            offset = total / count
            distance = max(0.0, squares / count - float(offset.square().sum()))
            self._ask(MEAN, r, first + offset)
            self._note(r, MEAN, "consensus", distance)

    def _present(self) -> int:
        """How many of the averaged peers are there; counted anew only when one has come or gone."""
        members = self._world.members
        if self._counted != members.changes:
            self._counted, self._up = members.changes, sum(map(members.up, self._averaged))
        return self._up

    def _ask(self, peer: int, r: int, vector: Tensor) -> None:
        row = (self._world.now(), r, self._world.ledger.total, peer, "", 0.0)
        self._queue.append((row, vector))
        if len(self._queue) >= self._most:
            self.flush()

    def _note(self, r: int, peer: int, name: str, value: float) -> None:
        self._world.metrics.append((self._world.now(), r, self._world.ledger.total, peer, name, value))

    def flush(self) -> None:
        """Evaluate what has piled up, and add it to the world's metrics."""
        queue, self._queue = self._queue, []
        results = self.evaluate([vector for _, vector in queue], self._test)
        for ((time, r, sent, peer, _, _), _), scores in zip(queue, results, strict=True):
            self._world.metrics += [(time, r, sent, peer, name, value) for name, value in scores.items()]
        own = [scores for ((*_, peer, _, _), _), scores in zip(queue, results, strict=True) if peer != MEAN]
        for name in own[0] if own else ():
            self.latest[name] = math.fsum(scores[name] for scores in own) / len(own)

    def evaluate(self, vectors: list[Tensor], data: Data) -> list[dict[str, float]]:
        """Mean loss and metrics of several models; one that several peers share is computed once."""
        kernel = self._trainer.evaluation()
        jobs = {id(vector): Job(kernel, (vector, data)) for vector in vectors}
        for job in jobs.values():
            self._pool.submit(job)
        if jobs:
            self._pool.flush()
        return [jobs[id(vector)].result for vector in vectors]

    def close(self) -> None:
        """End the worker threads."""
        self._pool.close()
