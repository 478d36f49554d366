"""Training, gradients, losses and evaluations of peers one by one, each thread with a module of its own."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.engine.compute import Job
from shoal.learning.batches import batches
from shoal.learning.given import Supply
from shoal.learning.keyed import KeyedRandomness
from shoal.learning.objective import Net, Problem, apart, called, weighted
from shoal.learning.requests import GradientInputs, Trained, TrainInputs
from shoal.learning.task import Task, check_score
from shoal.optim import Rule
from shoal.tensors.layout import load_into
from shoal.tensors.random import derive

_generator = threading.Lock()  # torch has one generator for all threads
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(eq=False)
class OneByOne:
    """Runs jobs singly, each thread with a module of its own."""

    problem: Problem
    why: str
    path: str = "one by one"
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        # A copy that nothing else uses: the batched kernels may be recording on the problem's own in another thread.
        self._template = copy.deepcopy(self.problem.module)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; its threads make modules of their own."""
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """One job a chunk."""
        return [[job] for job in jobs]

    def module(self, vector: Tensor) -> nn.Module:
        """This thread's module, with the vector's values."""
        module: nn.Module | None = getattr(self._local, "module", None)
        if module is None or self.problem.stateful:
            module = self._local.module = copy.deepcopy(self._template).to(vector.device)
        module.train()
        load_into(module, vector, self.problem.layout)
        return module

    def vector(self, module: nn.Module) -> Tensor:
        """The module's values as a new vector."""
        values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return self.problem.layout.flatten({name: values[name].detach() for name in self.problem.layout.names})

    def loss(
        self, module: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor, key: Tensor, extras: Any
    ) -> Tensor:
        """Weighted loss of one batch, without its padding."""
        real = weights != 0
        if not bool(real.all()):
            inputs, targets, weights = inputs[real], targets[real], weights[real]
        net = Net(partial(called, module), {name: p for name, p in module.named_parameters() if p.requires_grad})
        with contextlib.ExitStack() as stack:
            if self.problem.keyed:
                stack.enter_context(KeyedRandomness(key))
            if self.problem.seeded:
                stack.enter_context(_seeded(int(key)))
            return weighted(self.problem.objective(net, inputs, targets, *extras), weights)


@contextlib.contextmanager
def _seeded(key: int) -> Iterator[None]:
    """Torch's own generator, seeded from a key, for functions that `KeyedRandomness` does not cover."""
    with _generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        yield


_Step = Callable[[Callable[[], Tensor], int], float]


def _differentiated(
    loss_of: Callable[[], Tensor], parameters: Sequence[Tensor]
) -> tuple[Sequence[Tensor | None], Tensor]:
    """Gradients, None for what the loss does not depend on, and the loss."""
    with torch.enable_grad():
        loss = loss_of()
        return torch.autograd.grad(loss, parameters, allow_unused=True), loss.detach()


class SingleTraining(OneByOne):
    """Trains peers one by one, with a `Rule` or with any torch optimizer."""

    def __init__(self, problem: Problem, rule: Rule | OptimizerFactory, why: str) -> None:
        super().__init__(problem, why)
        self.name = f"train with {rule.name if isinstance(rule, Rule) else 'a torch optimizer'}"
        self._rule = rule
        self._supply = Supply(problem, rule) if isinstance(rule, Rule) else None

    def run(self, chunk: list[Job]) -> None:
        """Train one peer."""
        for job in chunk:
            job.result = self._train(job.inputs)

    def _train(self, row: TrainInputs) -> Trained:
        module = self.module(row.vector)
        parameters = [p for p in module.parameters() if p.requires_grad]
        step, memory = self._stepper(row, module, parameters)
        total = 0.0
        data = batches([row.schedule], [row.shard], [1] * row.schedule.steps)
        for s, (inputs, targets, weights) in enumerate(data):
            random = self.problem.keyed or self.problem.seeded
            key = derive(row.key, row.first_step + s) if random else torch.tensor(row.key)
            total += step(
                partial(self.loss, module, inputs[0], targets[0], weights[0], key, row.extras), row.first_step + s + 1
            )
        return Trained(self.vector(module), memory(), total / max(1, row.schedule.steps))

    def _stepper(
        self, row: TrainInputs, module: nn.Module, parameters: list[nn.Parameter]
    ) -> tuple[_Step, Callable[[], Any]]:
        """(step(loss of the batch, t) -> its value, memory())."""
        rule, supply = self._rule, self._supply
        if not isinstance(rule, Rule) or supply is None:
            return self._torch_stepper(self._rule, row, parameters)  # type: ignore[arg-type]
        flat = {name: buffer.clone() for name, buffer in row.memory.items()}
        state = rule.views(flat, self.problem.params)

        def step(loss_of: Callable[[], Tensor], t: int) -> float:
            given: list[dict[str, Tensor]] | None = None
            if supply.due([t]):
                found, loss, given = supply.single(module, loss_of, state, t)
            else:
                found, loss = _differentiated(loss_of, parameters)
            value, rate = float(loss), row.rate(t - row.first_step - 1)
            whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            own = [p.data for p in parameters]
            rule.step(self.problem.params, own, apart(whole), state, float(t), rate, value, given)
            return value

        return step, lambda: flat

    def _torch_stepper(
        self, factory: OptimizerFactory, row: TrainInputs, parameters: list[nn.Parameter]
    ) -> tuple[_Step, Callable[[], Any]]:
        optimizer = factory(parameters)
        set_rate = rate_setter(optimizer)
        if row.memory:
            state = {int(i): dict(values) for i, values in row.memory["state"].items()}
            optimizer.load_state_dict({"state": copy.deepcopy(state), "param_groups": row.memory["param_groups"]})

        def step(loss_of: Callable[[], Tensor], t: int) -> float:
            gradients, loss = _differentiated(loss_of, parameters)
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            if not isinstance(row.lr, int | float):
                set_rate(row.rate(t - row.first_step - 1))
            optimizer.step()
            optimizer.zero_grad()
            return float(loss)

        def memory() -> Any:
            kept = optimizer.state_dict()
            return {
                "state": {str(i): v for i, v in kept["state"].items()},
                "param_groups": kept["param_groups"],
            }

        return step, memory


def rate_setter(optimizer: torch.optim.Optimizer) -> Callable[[float], None]:
    """A function that sets the learning rate of a fresh optimizer: the first group's, and the others' in proportion."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    shares = [rate / rates[0] if rates[0] else 1.0 for rate in rates]

    def set_rate(lr: float) -> None:
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = lr * share

    return set_rate


class SingleGradient(OneByOne):
    """Gradients one by one."""

    def __init__(self, problem: Problem, why: str) -> None:
        super().__init__(problem, why)
        self.name = "gradient"

    def run(self, chunk: list[Job]) -> None:
        """Set the result to (gradient [d], loss)."""
        for job in chunk:
            row: GradientInputs = job.inputs
            module = self.module(row.vector)
            with torch.enable_grad():
                key = torch.tensor(row.key)
                loss = self.loss(module, row.inputs, row.targets, row.weights, key, row.extras)
                trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
                gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            result = torch.zeros_like(row.vector)
            views = self.problem.split(result)[0]
            for name, g in zip(trained, gradients, strict=True):
                if g is not None:
                    views[name].copy_(g)
            job.result = (result, float(loss.detach()))


class SingleLoss(OneByOne):
    """Losses one by one."""

    def __init__(self, problem: Problem, why: str) -> None:
        super().__init__(problem, why)
        self.name = "loss"

    def run(self, chunk: list[Job]) -> None:
        """Set the result to the losses [k] of a stack [k, d]."""
        for job in chunk:
            row: GradientInputs = job.inputs
            key = torch.tensor(row.key)
            job.result = torch.stack(
                [
                    self.loss(self.module(vector), row.inputs, row.targets, row.weights, key, row.extras)
                    for vector in row.vector
                ]
            )


class Evaluation(OneByOne):
    """Mean loss and metrics of a model over samples, one model at a time: large products are fast as they are."""

    SAMPLES = 2048

    def __init__(self, problem: Problem, task: Task) -> None:
        super().__init__(problem, "the samples of one model already fill the cores")
        self.name = "evaluate"
        self._task = task

    def run(self, chunk: list[Job]) -> None:
        """Inputs are (vector, Data); the result is a dictionary of means."""
        for job in chunk:
            vector, data = job.inputs
            module = self.module(vector).eval()
            scores = {"loss": self._task.loss, **self._task.metrics}
            totals = dict.fromkeys(scores, 0.0)
            for start in range(0, len(data), self.SAMPLES):
                part = data[start : start + self.SAMPLES]
                with KeyedRandomness(torch.tensor(start)):
                    output = module(part.inputs)
                for name, score in scores.items():
                    values = score(output, part.targets)
                    check_score(name, values, len(part))
                    totals[name] += float(values.double().sum())
            job.result = {name: total / len(data) for name, total in totals.items()}
