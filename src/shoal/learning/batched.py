"""Training, gradients and losses of stacked peers: many at once, by `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.engine.compute import Job, cut, filled, own_rows
from shoal.engine.traced import Traced
from shoal.learning.batches import batches
from shoal.learning.data import Data
from shoal.learning.given import Supply
from shoal.learning.objective import Problem
from shoal.learning.requests import GradientInputs, Trained, TrainInputs, rates_of
from shoal.optim import Rule
from shoal.optim.core.rule import joined
from shoal.tensors.finite import remember_finite
from shoal.tensors.random import derive

CACHE_BYTES = 12 << 20  # stacked parameters and inputs of a chunk; 8 to 16 MiB measured best on 2 cores


def rows_per_chunk(bytes_per_row: int, on_gpu: bool) -> int:
    """Power of two of rows whose tensors fit `CACHE_BYTES`: between 4 and 64; up to 512 on a GPU."""
    if on_gpu:
        return 512 if bytes_per_row < 1 << 22 else 32
    fit = max(4, min(512, CACHE_BYTES // max(1, bytes_per_row)))
    return 1 << (fit.bit_length() - 1)


def sample_bytes(data: Data) -> int:
    """Bytes of one sample's inputs."""
    return data.inputs[0].numel() * data.inputs.element_size()


class BatchedTraining:
    """Steps stacked peers together, with a `Rule`."""

    path = "batched"

    def __init__(self, problem: Problem, rule: Rule, batch_bytes: int, why: str, device: torch.device) -> None:
        self.name = f"train with {rule.name}"
        self.why = why
        self._problem = problem
        self._rule = rule
        self._traced = problem.traced
        self._step: Callable[..., None] = partial(rule.step, problem.params)
        self._tells_loss = rule.needs_loss(problem.params)
        self._supply = Supply(problem, rule)
        if rule.by_vmap(problem.params):  # which is slow to enter
            self._step = Traced(self._step, in_place=True)
        self._largest = rows_per_chunk(problem.layout.size * 4 + batch_bytes, device.type != "cpu")

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """Cut; jobs with similar numbers of steps go together."""
        return cut(sorted(jobs, key=lambda job: -job.inputs.schedule.steps), self._largest)

    def run(self, chunk: list[Job]) -> None:
        """Train a chunk's peers, all their steps.

        Rows are in order of falling numbers of steps. A row that is done is copied out; its place goes on being
        computed, to no effect, until half of the rows are done and the rest run as a smaller stack.
        """
        rows: list[TrainInputs] = filled([job.inputs for job in chunk])
        stacked = torch.stack([row.vector for row in rows])
        memory = {name: torch.stack([row.memory[name] for row in rows]) for name in rows[0].memory}
        losses = torch.zeros(len(rows), dtype=torch.float64, device=stacked.device)
        steps = [row.schedule.steps for row in rows]
        ending: dict[int, list[int]] = {}  # number of steps -> the rows that end then, before the others
        for i, count in enumerate(steps):
            if count < steps[0]:
                ending.setdefault(count, []).append(i)
        early: dict[int, Trained] = {}

        def keep(done: int) -> None:
            for i in ending.get(done, ()):
                kept = {name: m[i].clone() for name, m in memory.items()}
                early[i] = Trained(stacked[i].clone(), kept, float(losses[i]) / max(1, done))

        keep(0)
        active = len(rows) - np.bincount(steps).cumsum()  # after each number of steps
        sizes = [_stack_size(int(active[s]), len(rows)) for s in range(steps[0])]
        view: _View | None = None
        data = batches([row.schedule for row in rows], [row.shard for row in rows], sizes)
        for s, (size, (inputs, targets, weights)) in enumerate(zip(sizes, data, strict=True)):
            if view is None or view.size != size:
                view = _View(self._problem, self._rule, rows[:size], stacked[:size], _head(memory, size))
            keys = derive(view.keys, (view.before + s).long()) if self._problem.keyed else view.keys
            rest, state, t = (inputs, targets, weights, keys, view.extras), view.state, view.before + (s + 1)
            if self._supply.due(first + s + 1 for first in view.first_steps):
                gradients, loss, given = self._supply.stacked(view.trained, view.fixed, rest, state, t)
                state = joined(state, given)
            else:
                gradients, loss = self._traced(view.trained, view.fixed, *rest)
            losses[:size] += loss
            told = [loss.double()] if self._tells_loss else []
            self._step(view.parameters, list(gradients.values()), state, t, view.lr(s), *told)
            keep(s + 1)
        means = (losses / max(1, steps[0])).tolist()
        vectors, kept = own_rows(stacked), {name: own_rows(m) for name, m in memory.items()}
        remember_finite(stacked, vectors)
        for i, job in enumerate(chunk):
            job.result = early.get(i) or Trained(vectors[i], {name: m[i] for name, m in kept.items()}, means[i])


def _head(memory: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    return {name: m[:size] for name, m in memory.items()}


class _View:
    """The leading rows of a chunk, as the traced gradient and the rule take them."""

    def __init__(
        self, problem: Problem, rule: Rule, rows: list[TrainInputs], stacked: Tensor, memory: dict[str, Tensor]
    ) -> None:
        self.size = len(rows)
        self.trained, self.fixed = problem.split(stacked)
        self.parameters = list(self.trained.values())
        self.state = rule.views(memory, problem.params)
        options: dict[str, Any] = {"device": stacked.device}
        self._lr = rates_of(rows).to(stacked.device)
        self.first_steps = {row.first_step for row in rows}
        self.before = torch.tensor([row.first_step for row in rows], dtype=torch.float64, **options)
        self.keys = torch.tensor([row.key for row in rows], **options)
        self.extras = [torch.stack(column) for column in zip(*(row.extras for row in rows), strict=True)]

    def lr(self, step: int) -> Tensor:
        """Learning rates [n] of a step, 0 at first."""
        return self._lr[step] if len(self._lr) > 1 else self._lr[0]


def _stack_size(active: int, rows: int) -> int:
    """Power of two that holds the active rows, at least 2, at most all."""
    return min(rows, max(2, 1 << (active - 1).bit_length()))


class BatchedGradient:
    """Gradients of stacked peers."""

    path = "batched"

    def __init__(self, problem: Problem, batch_bytes: int, why: str, device: torch.device) -> None:
        self.name = "gradient"
        self.why = why
        self._problem = problem
        self._traced = problem.traced
        self._largest = rows_per_chunk(problem.layout.size * 4 + batch_bytes, device.type != "cpu")

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """Cut to chunks."""
        return cut(jobs, self._largest)

    def run(self, chunk: list[Job]) -> None:
        """Set each result to (gradient [d], loss)."""
        rows: list[GradientInputs] = filled([job.inputs for job in chunk])
        stacked = torch.stack([row.vector for row in rows])
        trained, fixed = self._problem.split(stacked)
        inputs, targets, weights = (
            torch.stack([getattr(row, name) for row in rows]) for name in ("inputs", "targets", "weights")
        )
        keys = torch.tensor([row.key for row in rows], device=stacked.device)
        extras = [torch.stack(column) for column in zip(*(row.extras for row in rows), strict=True)]
        gradients, loss = self._traced(trained, fixed, inputs, targets, weights, keys, extras)
        result = torch.zeros_like(stacked)
        for name, part in self._problem.split(result)[0].items():
            part.copy_(gradients[name])
        vectors = own_rows(result)
        remember_finite(result, vectors)
        for job, vector, value in zip(chunk, vectors, loss.tolist(), strict=False):
            job.result = (vector, value)


class BatchedLoss:
    """Losses of stacked models, several of each peer on one batch."""

    path = "batched"

    def __init__(self, problem: Problem, batch_bytes: int, why: str, device: torch.device) -> None:
        self.name = "loss"
        self.why = why
        self._problem = problem
        self._traced = problem.traced_losses
        self._largest = rows_per_chunk(problem.layout.size * 4 + batch_bytes, device.type != "cpu")

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """Cut; a job's `vector` is a stack [k, d] itself."""
        most = max(len(job.inputs.vector) for job in jobs)
        return cut(jobs, max(1, self._largest // most))

    def run(self, chunk: list[Job]) -> None:
        """Set each result to its models' losses [k]."""
        given: list[GradientInputs] = [job.inputs for job in chunk]
        rows: list[GradientInputs] = filled([replace(row, vector=vector) for row in given for vector in row.vector])
        trained, fixed = self._problem.split(torch.stack([row.vector for row in rows]))
        inputs, targets, weights = (
            torch.stack([getattr(row, name) for row in rows]) for name in ("inputs", "targets", "weights")
        )
        keys = torch.tensor([row.key for row in rows], device=inputs.device)
        extras = [torch.stack(column) for column in zip(*(row.extras for row in rows), strict=True)]
        losses = self._traced(trained, fixed, inputs, targets, weights, keys, extras)
        start = 0
        for job in chunk:
            job.result = losses[start : start + len(job.inputs.vector)].clone()
            start += len(job.inputs.vector)
