"""How training, gradients and evaluations of many peers are computed: stacked, or one by one."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shoal.engine.compute import Job, cut, filled, own_rows
from shoal.engine.traced import Traced
from shoal.learning.batches import Schedule, Shard, batches
from shoal.learning.data import Data
from shoal.learning.given import Supply
from shoal.learning.keyed import KeyedRandomness
from shoal.learning.objective import Net, Problem, apart, called, weighted
from shoal.learning.task import Task
from shoal.optim import Rule
from shoal.optim.core.rule import joined
from shoal.tensors.finite import remember_finite
from shoal.tensors.layout import load_into
from shoal.tensors.random import derive

_generator = threading.Lock()  # torch has one generator for all threads
CACHE_BYTES = 12 << 20  # stacked parameters and inputs of a chunk; 8 to 16 MiB measured best on 2 cores
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(eq=False, slots=True)
class TrainInputs:
    """One peer's training request.

    Attributes:
        vector: model to start from [d].
        shard, schedule: which samples each step sees.
        lr: learning rate, or one for each step.
        key: for randomness inside the model; step number `first_step + s` is mixed in.
        first_step: steps this optimizer has done before.
        memory: the optimizer's state: flat buffers by name, or what a torch optimizer keeps.
        extras: further tensors of the objective.
    """

    vector: Tensor
    shard: Shard
    schedule: Schedule
    lr: float | Sequence[float]
    key: int
    first_step: int = 0
    memory: Any = None
    extras: tuple[Tensor, ...] = ()

    def rate(self, step: int) -> float:
        """Learning rate of a step of the request, 0 at first."""
        return self.lr if isinstance(self.lr, int | float) else float(self.lr[step])

    def part(self, first: int, until: int) -> TrainInputs:
        """The steps from `first` to before `until` of the request, from the same vector and memory."""
        schedule = replace(self.schedule, steps=until - first, skip=self.schedule.skip + first)
        lr = self.lr if isinstance(self.lr, int | float) else self.lr[first:until]
        return replace(self, schedule=schedule, lr=lr, first_step=self.first_step + first)


@dataclass(eq=False, slots=True)
class Trained:
    """What training gives: the new vector, the optimizer's state, and the mean loss over its steps."""

    vector: Tensor
    memory: Any
    loss: float


@dataclass(eq=False, slots=True)
class GradientInputs:
    """One peer's gradient request: at `vector`, on given samples with weights that sum to 1."""

    vector: Tensor
    inputs: Tensor
    targets: Tensor
    weights: Tensor
    key: int
    extras: tuple[Tensor, ...] = ()


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


def rates_of(rows: Sequence[TrainInputs]) -> Tensor:
    """Learning rates [steps, n], float64; [1, n] if none changes. Rows that are done keep their last one."""
    if all(isinstance(row.lr, int | float) for row in rows):
        return torch.tensor([[row.lr for row in rows]], dtype=torch.float64)
    last = [max(0, row.schedule.steps - 1) for row in rows]
    table = [[row.rate(min(s, end)) for row, end in zip(rows, last, strict=True)] for s in range(max(last) + 1)]
    return torch.tensor(table, dtype=torch.float64)


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
                    totals[name] += float(score(output, part.targets).double().sum())
            job.result = {name: total / len(data) for name, total in totals.items()}
