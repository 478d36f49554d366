"""Estimates of the diagonal of a loss's Hessian: v * (Hessian v) for random signs v, whose expectation it is.

M. F. Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1989; C. Bekas, E. Kokiopoulou,
Y. Saad, "An Estimator for the Diagonal of a Matrix", 2007. The product is exact, by differentiating twice.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shoal.engine.compute import Job
from shoal.learning.kernels import GradientInputs, OneByOne
from shoal.learning.objective import Problem
from shoal.tensors.random import uniform


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
            v = signs(row.key, row.vector)
            along = self.problem.split(v)[0]
            # The fast forms of attention have no second derivative.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                key = torch.tensor(row.key)
                loss = self.loss(module, row.inputs, row.targets, row.weights, key, row.extras)
                first = torch.autograd.grad(loss, list(trained.values()), create_graph=True, allow_unused=True)
                pairs = [(g, along[name]) for name, g in zip(trained, first, strict=True) if g is not None]
                slope = torch.stack([(g * part).sum() for g, part in pairs]).sum()
                second = self._second(slope, list(trained.values()))
            result = torch.zeros_like(row.vector)
            views = self.problem.split(result)[0]
            for name, product in zip(trained, second, strict=True):
                if product is not None:
                    views[name].copy_(product * along[name])
            job.result = result

    def _second(self, slope: Tensor, parameters: list[torch.nn.Parameter]) -> tuple[Tensor | None, ...]:
        if not slope.requires_grad:  # the gradient is constant
            return (None,) * len(parameters)
        return torch.autograd.grad(slope, parameters, allow_unused=True)


def signs(key: int, like: Tensor) -> Tensor:
    """-1 and 1 with equal chance, in the form of a vector [d]."""
    draw = uniform(key, like.shape[0]).to(like.device)
    return torch.where(draw < 0.5, -1.0, 1.0).to(like.dtype)
