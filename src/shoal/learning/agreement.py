"""Whether stacked models and single ones are computed alike: by how much the numbers differ."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from shoal.engine.compute import Job
from shoal.learning.batched import BatchedGradient
from shoal.learning.given import Supply
from shoal.learning.objective import Problem
from shoal.learning.one_by_one import SingleGradient, SingleTraining
from shoal.learning.requests import GradientInputs
from shoal.optim import Rule


def gradient_difference(problem: Problem, rows: Sequence[GradientInputs], device: torch.device) -> float:
    """The largest difference between stacked and single gradients, over their largest entry.

    Args:
        problem: what is trained.
        rows: requests.
        device: where they are computed.
    """
    results = []
    problem = replace(problem, module=copy.deepcopy(problem.module))  # vmap leaves a mess if it cannot take it
    for kernel in (SingleGradient(problem, ""), BatchedGradient(problem, 0, "", device)):
        jobs = [Job(kernel, row) for row in rows]
        with torch.no_grad():
            for chunk in kernel.chunks(jobs):
                kernel.run(chunk)
        results.append(torch.stack([job.result[0] for job in jobs]).double())
    scale = results[0].abs().max().clamp_min(1e-12)
    return float((results[0] - results[1]).abs().max() / scale)


def given_difference(problem: Problem, rule: Rule, rows: Sequence[GradientInputs]) -> float:
    """The largest relative difference, between stacked and single models, of what a rule is given at its first step."""
    problem = replace(problem, module=copy.deepcopy(problem.module))  # vmap leaves a mess if it cannot take it
    supply, kernel = Supply(problem, rule), SingleTraining(problem, rule, "")
    memories = [rule.memory(problem.split(row.vector)[0], i) for i, row in enumerate(rows)]
    columns = [torch.stack([getattr(row, name) for row in rows]) for name in ("inputs", "targets", "weights")]
    keys = torch.tensor([row.key for row in rows], device=columns[0].device)
    extras = [torch.stack(column) for column in zip(*(row.extras for row in rows), strict=True)]
    state = rule.views({name: torch.stack([m[name] for m in memories]) for name in memories[0]}, problem.params)
    t = torch.ones(len(rows), dtype=torch.float64, device=columns[0].device)
    with torch.no_grad():
        trained, fixed = problem.split(torch.stack([row.vector for row in rows]))
        _, _, stacked = supply.stacked(trained, fixed, (*columns, keys, extras), state, t)
        worst = 0.0
        for i, (row, memory) in enumerate(zip(rows, memories, strict=True)):
            module = kernel.module(row.vector)
            batch = (row.inputs, row.targets, row.weights, torch.tensor(row.key), row.extras)
            _, _, single = supply.single(
                module, partial(kernel.loss, module, *batch), rule.views(memory, problem.params), 1
            )
            for ours, theirs in zip(stacked, single, strict=True):
                if ours.keys() != theirs.keys():
                    return math.inf
                for name, x in theirs.items():
                    scale = float(x.abs().max().clamp_min(1e-6))
                    worst = max(worst, float((ours[name][i] - x).abs().max()) / scale)
    return worst
