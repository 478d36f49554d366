"""Small tasks, worlds and loops for the tests of learning and of protocols."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shoal.engine import Device, SimulatedWorld, State, World
from shoal.engine.compute import Job, Kernel
from shoal.learning import Learner, Shard, Task, Trainer
from shoal.learning.batches import Schedule as Schedule
from shoal.learning.batches import batches
from shoal.learning.batches import epochs as epochs
from shoal.learning.batches import stream as stream
from shoal.learning.data import Data, Dataset
from shoal.learning.models import logistic, mlp, transformer
from shoal.learning.requests import GradientInputs, TrainInputs
from shoal.optim import Rule
from shoal.tensors.random import key, normal

Build = Callable[[], nn.Module]


def classification(samples: int = 60, width: int = 9, classes: int = 4, seed: int = 0, **options: Any) -> Dataset:
    """Random inputs [samples, width] with random labels."""
    inputs = normal(key(seed, "inputs"), (samples, width)).to(options.get("dtype", torch.float32))
    targets = torch.arange(samples) % classes
    return Dataset("random", Data(inputs, targets), Data(inputs, targets), classes)


def characters(samples: int = 40, context: int = 5, symbols: int = 7, seed: int = 0) -> Dataset:
    """Random texts: int64 [samples, context], with a symbol for each place as target."""
    draws = (normal(key(seed, "text"), (2, samples, context)).abs() * 1e4).long() % symbols
    data = Data(draws[0], draws[1])
    return Dataset("text", data, data, symbols)


def regression(samples: int = 30, width: int = 3, outputs: int = 2, seed: int = 0) -> Dataset:
    """Random inputs and targets in float64."""
    draw = normal(key(seed, "regression"), (samples, width + outputs), dtype=torch.float64)
    data = Data(draw[:, :width].contiguous(), draw[:, width:].contiguous())
    return Dataset("regression", data, data)


def task(name: str, dtype: torch.dtype = torch.float32) -> Task:
    """A task by the name of its model; sizes are odd where nothing forbids it."""
    if name == "characters":
        dataset = characters()
        build = transformer(dataset, width=8, layers=1, heads=2)
    else:
        dataset = classification(width=7 if name == "odd mlp" else 9, dtype=dtype)
        build = {
            "logistic": lambda: logistic(dataset),
            "mlp": lambda: mlp(dataset, hidden=8),
            "odd mlp": lambda: mlp(dataset, hidden=5, depth=2, activation="tanh"),
            "images": lambda: transformer(dataset, width=8, layers=1, heads=2),
        }[name]()
    return Task(name, lambda: build().to(dtype), dataset)


def of_module(build: Build, dataset: Dataset | None = None, **options: Any) -> Task:
    """A classification task with a module of one's own."""
    return Task("own", build, dataset or classification(), **options)


def shards(data: Data, sizes: Sequence[int]) -> list[Shard]:
    """Shards of given sizes, one after the other, from the start again where the data ends."""
    result, start = [], 0
    for size in sizes:
        result.append(Shard(data, (torch.arange(size) * 3 + start) % len(data)))
        start += size
    return result


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two vectors agree to a tolerance relative to the larger one's largest entry."""
    scale = max(float(a.detach().abs().max()), float(b.detach().abs().max()), 1e-30)
    return float((a.detach() - b.detach()).abs().max()) <= tolerance * scale


# -- kernels without a world


def request(
    trainer: Trainer, shard: Shard, schedule: Schedule, *, seed: int = 0, first_step: int = 0, lr: float | None = None
) -> TrainInputs:
    """A training request from the model initialised under `seed`, with a fresh optimizer."""
    vector, rule = trainer.initial(seed), trainer.optimizer
    memory = trainer.memory(vector, 0) if isinstance(rule, Rule) else None
    rate = lr if lr is not None else (rule.lr if isinstance(rule, Rule) else 0.0)
    return TrainInputs(vector, shard, schedule, rate, key(seed, "noise"), first_step, memory)


def run(kernel: Kernel, requests: Sequence[TrainInputs | GradientInputs], chunk: int | None = None) -> list[Any]:
    """Results in the order of the requests; chunks as the kernel cuts them, or of a given size."""
    jobs = [Job(kernel, inputs) for inputs in requests]
    if chunk is None:
        chunks = kernel.chunks(jobs)
    else:
        ordered = sorted(jobs, key=lambda job: -job.inputs.schedule.steps)
        chunks = [ordered[i : i + chunk] for i in range(0, len(ordered), chunk)]
    with torch.no_grad():
        for part in chunks:
            kernel.run(part)
    return [job.result for job in jobs]


def trained(trainer: Trainer, inputs: TrainInputs) -> Tensor:
    """The vector after one request, alone."""
    kernel = trainer.training(inputs.shard, inputs.schedule.batch, None, ())
    result: Tensor = run(kernel, [inputs])[0].vector
    return result


def torch_loop(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    shard: Shard,
    schedule: Schedule,
) -> nn.Module:
    """The training that a schedule stands for, as one would write it by hand; `loss` is per sample."""
    module.train()
    for inputs, targets, weights in batches([schedule], [shard], [1] * schedule.steps):
        real = weights[0] > 0
        optimizer.zero_grad()
        loss(module(inputs[0][real]), targets[0][real]).mean().backward()
        optimizer.step()
    return module


# -- worlds


def world_of(
    task: Task,
    protocol: Callable[[Learner], Coroutine[Any, Any, Any]],
    pieces: Sequence[Shard | None],
    optimizer: Any,
    *,
    batch: int | None = 4,
    batched: bool | None = None,
    devices: Sequence[Device] | None = None,
    init: Callable[[int], int] = lambda id: 0,
    row: Any = None,
    until: float | None = None,
    trainer: Trainer | None = None,
    **settings: Any,
) -> dict[int, Learner]:
    """The learners after a protocol has run in a simulated world, by id; one peer a piece of data."""
    trainer = trainer or Trainer(task, optimizer, batch=batch, batched=batched)
    devices = devices or [Device(0.01) for _ in pieces]
    world = SimulatedWorld(len(pieces), devices=devices, **settings)
    learners: dict[int, Learner] = {}

    def make(id: int, world: World, state: State | None) -> Learner:
        learners[id] = Learner(
            id,
            world,
            state,
            trainer=trainer,
            shard=pieces[id],
            device=devices[id],
            weights=row,
            init_seed=init(id),
        )
        return learners[id]

    world.run(protocol, make_peer=make, until=until)
    return learners


def alone(
    task: Task, protocol: Callable[[Learner], Coroutine[Any, Any, Any]], shard: Shard, optimizer: Any, **options: Any
) -> Learner:
    """The only learner of a world of one, after the protocol has run."""
    return world_of(task, protocol, [shard], optimizer, **options)[0]
