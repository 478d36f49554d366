"""A module that an update rule trains step by step, for instruments that look at it in between."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from shoal.learning.objective import apart
from shoal.learning.task import Loss
from shoal.optim import Param, Rule


class Stepper:
    """Trains a module in place, in evaluation mode, so that the loss is a function of parameters and samples alone.

    Args:
        module: what is trained.
        loss: `loss(output, target) -> [B]`.
        rule: how.
        seed: for rules that draw random numbers.
        watch: called with the gradients of each step, before it.

    Raises:
        ValueError: the rule needs more than gradients and the loss (AdaHessian, AdaFisher).
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        rule: Rule,
        seed: int = 0,
        watch: Callable[[list[Tensor]], object] = lambda gradients: None,
    ) -> None:
        self.module, self.loss, self.rule = module.eval(), loss, rule
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        self.params = [Param(name, tuple(p.shape), p.dtype) for name, p in named.items()]
        asked = rule.given(self.params)
        if asked:
            raise ValueError(
                f"rule: got {rule.name}, whose steps need {', '.join(asked)}; rules of gradients and losses are allowed"
            )
        self.steps, self._watch = 0, watch
        self._state = rule.views(rule.memory({name: p.detach() for name, p in named.items()}, seed), self.params)
        self._tells = rule.needs_loss(self.params)

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One step by the mean loss of some samples.

        Returns:
            Losses [B] and outputs, both of before the step.
        """
        with torch.enable_grad():
            outputs = self.module(inputs)
            losses = self.loss(outputs, targets)
            mean = losses.mean()
            found = torch.autograd.grad(mean, self.parameters, allow_unused=True)
        losses, outputs, value = losses.detach(), outputs.detach(), float(mean.detach())
        if math.isfinite(value):
            gradients = apart(
                [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
            )
            self._watch(gradients)
            self.steps += 1
            told = value if self._tells else None
            with torch.no_grad():
                places = [p.detach() for p in self.parameters]
                self.rule.step(self.params, places, gradients, self._state, float(self.steps), self.rule.lr, told)
        return losses, outputs

    @property
    def finite(self) -> bool:
        """Whether all parameters are numbers."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters)
