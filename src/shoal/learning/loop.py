"""The training loop that everybody writes, as a kernel: for optimizers that are more than a rule or a factory.

Module and optimizer live from one request to the next, so that nothing has to survive `state_dict`. Gradients come
from `backward()`, so that hooks run; an optimizer whose `step` insists on a closure gets one; one with `eval()` and
`train()` shows the weights it wants to be judged by.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.engine.compute import Job
from shoal.learning.batches import batches
from shoal.learning.objective import Problem
from shoal.learning.one_by_one import OneByOne, rate_setter
from shoal.learning.requests import Trained, TrainInputs
from shoal.optim import second_derivatives
from shoal.tensors.layout import load_into
from shoal.tensors.random import derive

MakeOptimizer = Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]


@dataclass(eq=False)
class Running:
    """A model in training.

    Attributes:
        module, optimizer: which belong together.
        set_rate: sets the learning rate.
        closure: whether `optimizer.step` has to be given one.
        graph: whether that one returns the loss with its graph, and leaves differentiating to the optimizer.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    set_rate: Callable[[float], None]
    closure: bool
    graph: bool


class TorchLoop(OneByOne):
    """Trains models one by one; a request's memory is its `Running`, None at first.

    Args:
        problem: what is trained.
        make: from named parameters to the optimizer.
        lr: learning rate that `make` was told. Where an optimizer begins with another multiple of it, the rates of a
            request are multiplied likewise.
    """

    def __init__(self, problem: Problem, make: MakeOptimizer, lr: float) -> None:
        super().__init__(problem, "a torch optimizer steps one module at a time")
        self.name = "train in a torch loop"
        self._make, self._lr = make, lr

    def run(self, chunk: list[Job]) -> None:
        """Train each."""
        for job in chunk:
            with torch.enable_grad():
                job.result = self._train(job.inputs)

    def _begin(self, row: TrainInputs) -> Running:
        module = copy.deepcopy(self._template).to(row.vector.device).train()
        load_into(module, row.vector, self.problem.layout)
        optimizer = self._make([(name, p) for name, p in module.named_parameters() if p.requires_grad])
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        needed = closure is not None and closure.default is inspect.Parameter.empty
        graph = bool(getattr(optimizer, "needs_graph", False))
        needed = needed or graph or getattr(optimizer, "needs_loss", False)
        if hasattr(core := getattr(optimizer, "core", optimizer), "watch"):
            core.watch(module)
        own = float(optimizer.param_groups[0]["lr"]) / self._lr
        set_rate = rate_setter(optimizer)
        return Running(module, optimizer, lambda lr: set_rate(lr * own), needed, graph)

    def _train(self, row: TrainInputs) -> Trained:
        running: Running = row.memory or self._begin(row)
        optimizer = running.optimizer
        total = 0.0
        data = batches([row.schedule], [row.shard], [1] * row.schedule.steps)
        for s, (inputs, targets, weights) in enumerate(data):
            random = self.problem.keyed or self.problem.seeded
            noise = derive(row.key, row.first_step + s) if random else torch.tensor(row.key)
            losses: list[float] = []

            batch = (inputs[0], targets[0], weights[0], noise)
            closure: Any = partial(self._loss if running.graph else self._backward, running, batch, row.extras, losses)
            running.set_rate(row.rate(s))
            if running.closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            total += losses[0]
        return Trained(self._shown(running), running, total / max(1, row.schedule.steps))

    def _loss(
        self, running: Running, batch: tuple[Tensor, Tensor, Tensor, Tensor], extras: Any, losses: list[float]
    ) -> Tensor:
        """The loss of one batch, which is added to `losses`; second derivatives are there."""
        with second_derivatives() if running.graph else contextlib.nullcontext():
            loss = self.loss(running.module, *batch, extras)
        losses.append(float(loss.detach()))
        return loss

    def _backward(
        self, running: Running, batch: tuple[Tensor, Tensor, Tensor, Tensor], extras: Any, losses: list[float]
    ) -> float:
        """Gradients of one batch, fresh; the loss is added to `losses`."""
        running.optimizer.zero_grad()
        self._loss(running, batch, extras, losses).backward()
        return losses[-1]

    def _shown(self, running: Running) -> Tensor:
        """The weights by which the optimizer wants to be judged."""
        show: Any = getattr(running.optimizer, "eval", None)
        back: Any = getattr(running.optimizer, "train", None)
        if show is None or back is None:
            return self.vector(running.module)
        show()
        vector = self.vector(running.module)
        back()
        return vector


def state_bytes(running: Running) -> int:
    """Bytes of the tensors that the optimizer keeps, numbers of steps not counted."""
    optimizer: Any = running.optimizer
    if hasattr(optimizer, "state_bytes"):
        return int(optimizer.state_bytes())
    tensors = (v for own in optimizer.state.values() for v in own.values() if isinstance(v, Tensor) and v.dim())
    return sum(v.numel() * v.element_size() for v in tensors)
