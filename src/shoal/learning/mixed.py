"""Stacked training where rows have rules of their own: one gradient for all, then a step rule by rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shoal.engine.compute import Job, own_rows, pad
from shoal.engine.traced import Traced
from shoal.learning.batched import rows_per_chunk
from shoal.learning.batches import batches
from shoal.learning.objective import Problem
from shoal.learning.requests import Trained, TrainInputs, rates_of
from shoal.optim import Rule
from shoal.tensors.random import derive


@dataclass(eq=False, slots=True)
class RuledInputs(TrainInputs):
    """A training request with a rule; all requests of a chunk have equally many steps."""

    rule: Rule | None = None


class MixedTraining:
    """Steps stacked models together, each with the rule of its request.

    Results are those of `BatchedTraining` with that rule, however rows meet.
    """

    path = "batched"

    def __init__(self, problem: Problem, batch_bytes: int, why: str, device: torch.device) -> None:
        self.name = "train with several rules"
        self.why = why
        self._problem = problem
        self._steps: dict[int, tuple[Rule, Callable[..., None]]] = {}
        self.largest = rows_per_chunk(problem.layout.size * 4 + batch_bytes, device.type != "cpu")

    def chunks(self, jobs: list[Job], least: int = 1) -> list[list[Job]]:
        """Even parts that fit the cache, at least so many if there are rows for it; rows of a rule stay together."""
        for job in jobs:
            self._step_of(job.inputs.rule)  # made here, on one thread
        ordered = sorted(jobs, key=lambda job: list(self._steps).index(id(job.inputs.rule)))
        count = max(min(least, len(jobs) // 2), -(-len(jobs) // self.largest), 1)
        edges = [len(jobs) * i // count for i in range(count + 1)]
        return [ordered[a:b] for a, b in itertools.pairwise(edges)]

    def _step_of(self, rule: Rule) -> Callable[..., None]:
        found = self._steps.get(id(rule))
        if found is None:
            step: Callable[..., None] = partial(rule.step, self._problem.params)
            if rule.by_vmap(self._problem.params):
                step = Traced(step, in_place=True)
            found = self._steps[id(rule)] = rule, step
        return found[1]

    def run(self, chunk: list[Job]) -> None:
        """Train a chunk's models, all their steps."""
        rows: list[RuledInputs] = pad([job.inputs for job in chunk])
        problem, count = self._problem, rows[0].schedule.steps
        stacked = torch.stack([row.vector for row in rows])
        device = stacked.device
        trained, fixed = problem.split(stacked)
        groups = [_Group(problem, list(some), self._step_of) for _, some in _runs(rows)]
        keys = torch.tensor([row.key for row in rows], device=device)
        before = torch.tensor([row.first_step for row in rows], dtype=torch.float64, device=device)
        extras = [torch.stack(column) for column in zip(*(row.extras for row in rows), strict=True)]
        rates = rates_of(rows).to(device)
        losses = torch.zeros(len(rows), dtype=torch.float64, device=device)
        data = batches([row.schedule for row in rows], [row.shard for row in rows], [len(rows)] * count)
        for s, (inputs, targets, weights) in enumerate(data):
            noise = derive(keys, (before + s).long()) if problem.keyed else keys
            gradients, loss = problem.traced(trained, fixed, inputs, targets, weights, noise, extras)
            losses += loss
            lr = rates[min(s, len(rates) - 1)]
            for group, part in zip(groups, _slices(groups), strict=True):
                group.step(
                    [p[part] for p in trained.values()],
                    [g[part] for g in gradients.values()],
                    before[part] + (s + 1),
                    lr[part],
                    loss[part],
                )
        vectors, means = own_rows(stacked), (losses / max(1, count)).tolist()
        kept = [memory for group in groups for memory in group.memories()]
        for i, job in enumerate(chunk):
            job.result = Trained(vectors[i], kept[i], means[i])


class _Group:
    """Neighbouring rows of one rule, with their optimizer's state."""

    def __init__(self, problem: Problem, rows: Sequence[RuledInputs], step_of: Callable[[Rule], Any]) -> None:
        rule = rows[0].rule
        assert rule is not None
        self.size = len(rows)
        self._step = step_of(rule)
        rows = pad(rows)  # a stack of one takes other ways through products, and rounds differently
        self._memory = {name: torch.stack([row.memory[name] for row in rows]) for name in rows[0].memory}
        self._views = rule.views(self._memory, problem.params)
        self._tells_loss = rule.needs_loss(problem.params)

    def step(self, parameters: list[Tensor], gradients: list[Tensor], t: Tensor, lr: Tensor, loss: Tensor) -> None:
        """One step of its rows, in place."""
        told = [loss.double()] if self._tells_loss else []
        if self.size > 1:
            self._step(parameters, gradients, self._views, t, lr, *told)
            return
        doubled = [p.repeat(2, *[1] * (p.dim() - 1)) for p in parameters]
        twice = [g.repeat(2, *[1] * (g.dim() - 1)) for g in gradients]
        self._step(doubled, twice, self._views, t.repeat(2), lr.repeat(2), *(x.repeat(2) for x in told))
        for p, both in zip(parameters, doubled, strict=True):
            p.copy_(both[:1])

    def memories(self) -> list[dict[str, Tensor]]:
        """The state of each row."""
        rows = {name: own_rows(m) for name, m in self._memory.items()}
        return [{name: own[i] for name, own in rows.items()} for i in range(self.size)]


def _runs(rows: Sequence[RuledInputs]) -> Any:
    return itertools.groupby(rows, key=lambda row: id(row.rule))


def _slices(groups: Sequence[_Group]) -> list[slice]:
    ends = list(itertools.accumulate(group.size for group in groups))
    return [slice(end - group.size, end) for group, end in zip(groups, ends, strict=True)]
