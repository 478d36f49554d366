"""Estimates of the diagonal of a loss's Hessian: v * (Hessian v) for random signs v, whose expectation it is.

M. F. Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1989; C. Bekas, E. Kokiopoulou,
Y. Saad, "An Estimator for the Diagonal of a Matrix", 2007. The product is exact, by differentiating twice.
"""

from __future__ import annotations

import torch

from shoal.engine.compute import Job
from shoal.learning.objective import Problem
from shoal.learning.one_by_one import OneByOne
from shoal.learning.requests import GradientInputs
from shoal.optim.core import curvature
from shoal.tensors.random import rademacher


class Curvature(OneByOne):
    """Estimates one by one; inputs as of gradients, a result is [d]."""

    def __init__(self, problem: Problem, why: str) -> None:
        super().__init__(problem, why)
        self.name = "curvature"

    def run(self, chunk: list[Job]) -> None:
        """Differentiate the gradient along the signs."""
        for job in chunk:
            row: GradientInputs = job.inputs
            module = self.module(row.vector)
            trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
            signs = rademacher(row.key, row.vector.shape, dtype=row.vector.dtype, device=row.vector.device)
            along = self.problem.split(signs)[0]
            with torch.enable_grad(), curvature.second_derivatives():
                key = torch.tensor(row.key)
                loss = self.loss(module, row.inputs, row.targets, row.weights, key, row.extras)
                parameters = list(trained.values())
                first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
                found = curvature.diagonal(first, parameters, [along[name] for name in trained])
            result = torch.zeros_like(row.vector)
            views = self.problem.split(result)[0]
            for name, estimate in zip(trained, found, strict=True):
                views[name].copy_(estimate)
            job.result = result
