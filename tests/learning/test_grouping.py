"""How requests meet in a batch never shows: the same bits in any grouping, order, chunk size, thread or world."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.engine.compute import Job, Kernel, Pool
from shoal.learning import Learner, Trainer
from shoal.learning.requests import GradientInputs, TrainInputs
from shoal.optim import SGD, Adam, AdamW, Rule
from shoal.optim.coordinate_clip import coordinate_clip
from shoal.optim.rotated import rotated

from . import small

ROWS = 40
MODELS = ("logistic", "mlp", "odd mlp", "images", "characters")
RULES = {
    "sgd": SGD.rule(0.2),
    "momentum": SGD.rule(0.1, momentum=0.9),
    "nesterov": SGD.rule(0.1, momentum=0.9, nesterov=True),
    "decay": SGD.rule(0.1, momentum=0.5, weight_decay=0.01),
    "adam": Adam.rule(0.05),
    "adamw": AdamW.rule(0.05, weight_decay=0.1),
    "clipped": coordinate_clip(SGD.rule(0.1, momentum=0.9), 0.3),
    "rotated": rotated(AdamW.rule(0.05, weight_decay=0.1), side=8),
}
ACTIVATIONS = {  # those whose last entries torch computes by another formula than the rest, and two that it does not
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


def requests(trainer: Trainer, draw: random.Random, rows: int = ROWS, batch: int = 3) -> list[TrainInputs]:
    """Requests that differ in everything in which requests of one kernel may: shard, stream, steps, rate, history."""
    pieces = small.shards(trainer.task.dataset.train, [draw.randrange(1, 20) for _ in range(rows)])
    result = []
    for i, shard in enumerate(pieces):
        schedule = small.stream(i, len(shard), batch, draw.randrange(0, 5), draw.randrange(0, 60))
        inputs = small.request(trainer, shard, schedule, seed=i % 4, first_step=draw.randrange(0, 200))
        inputs.lr *= draw.choice((0.5, 1.0))
        result.append(inputs)
    return result


def shuffled_results(kernel: Kernel, inputs: list[Any], chunk: int | None, draw: random.Random) -> list[Any]:
    """The results in the order of the inputs, which are computed in a random order."""
    order = draw.sample(range(len(inputs)), len(inputs))
    results = small.run(kernel, [inputs[i] for i in order], chunk)
    return [result for _, result in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.vector, b.vector)
        assert a.loss == b.loss
        assert a.memory.keys() == b.memory.keys()
        assert all(torch.equal(a.memory[name], b.memory[name]) for name in a.memory)


def assert_any_grouping(trainer: Trainer, inputs: list[TrainInputs], chunks: tuple[int | None, ...]) -> None:
    kernel = trainer.training(inputs[0].shard, inputs[0].schedule.batch, None, ())
    assert kernel.path == "batched"
    alone = small.run(kernel, inputs, 1)
    draw = random.Random(5)
    for chunk in chunks:
        assert_same(alone, shuffled_results(kernel, inputs, chunk, draw))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", ["logistic", "odd mlp"])
def test_training_gives_the_same_bits_in_any_chunks(model: str, rule: str) -> None:
    trainer = Trainer(small.task(model), RULES[rule], batch=3)
    assert_any_grouping(trainer, requests(trainer, random.Random(1)), (2, 3, 5, 17, 40, None))


@pytest.mark.parametrize(("model", "rule"), [("mlp", "nesterov"), ("images", "adam"), ("characters", "adamw")])
def test_larger_models_give_the_same_bits_in_any_chunks(model: str, rule: str) -> None:
    trainer = Trainer(small.task(model), RULES[rule], batch=3)
    assert_any_grouping(trainer, requests(trainer, random.Random(2), rows=19), (2, 3, 17, None))


@pytest.mark.parametrize("model", MODELS)
def test_models_in_float64_give_the_same_bits_in_any_chunks(model: str) -> None:
    trainer = Trainer(small.task(model, torch.float64), RULES["adamw"], batch=3)
    assert_any_grouping(trainer, requests(trainer, random.Random(3), rows=11), (5, None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_gives_the_same_bits_in_any_chunks(activation: str, dtype: torch.dtype) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(9, 7), ACTIVATIONS[activation](), nn.Linear(7, 4)).to(dtype)

    trainer = Trainer(small.of_module(build, small.classification(dtype=dtype)), SGD.rule(1.0), batch=3)
    assert_any_grouping(trainer, requests(trainer, random.Random(4)), (2, 5, None))


@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(1, 9),
    hidden=st.integers(1, 9),
    batch=st.integers(1, 6),
    rows=st.integers(1, 12),
    chunk=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_models_and_batches_of_any_size_give_the_same_bits(
    width: int, hidden: int, batch: int, rows: int, chunk: int, seed: int
) -> None:
    dataset = small.classification(width=width, classes=3)
    task = small.of_module(lambda: nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 3)), dataset)
    trainer = Trainer(task, SGD.rule(0.5, momentum=0.9), batch=batch)
    inputs = requests(trainer, random.Random(seed), rows=rows, batch=batch)
    assert_any_grouping(trainer, inputs, (chunk,))


def ragged(trainer: Trainer, batch: int | None) -> list[TrainInputs]:
    """One or two passes over shards of 5 to 11 samples: batches of unequal size, of which some are padded."""
    sizes = [5 + i % 7 for i in range(23)]
    pieces = small.shards(trainer.task.dataset.train, sizes)
    schedules = [small.epochs(i, n, batch, 1 + i % 2, 3 * i) for i, n in enumerate(sizes)]
    return [small.request(trainer, s, c, seed=i % 3) for i, (s, c) in enumerate(zip(pieces, schedules, strict=True))]


@pytest.mark.parametrize("model", ["odd mlp", "characters"])
def test_ragged_epochs_give_the_same_bits_in_any_chunks(model: str) -> None:
    trainer = Trainer(small.task(model), RULES["momentum"], batch=4)
    assert_any_grouping(trainer, ragged(trainer, 4), (2, 5, 17, None))


def test_whole_shards_of_one_bucket_give_the_same_bits_in_any_chunks() -> None:
    trainer = Trainer(small.task("odd mlp"), RULES["momentum"], batch=None)
    by_size: dict[int, list[TrainInputs]] = {}
    for inputs in ragged(trainer, None):
        by_size.setdefault(inputs.schedule.batch, []).append(inputs)
    assert any(len({len(inputs.shard) for inputs in group}) > 1 for group in by_size.values())
    for group in by_size.values():
        assert_any_grouping(trainer, group, (2, 5, None))


def test_requests_by_steps_and_by_epochs_may_meet_in_one_chunk() -> None:
    trainer = Trainer(small.task("mlp"), RULES["adam"], batch=4)
    streams = requests(trainer, random.Random(6), rows=9, batch=4)
    mixed = [inputs for pair in zip(streams, ragged(trainer, 4), strict=False) for inputs in pair]
    assert_any_grouping(trainer, mixed, (2, 5, None))


@pytest.mark.parametrize("model", ["odd mlp", "images", "characters"])
def test_gradients_are_the_same_bits_in_any_chunks(model: str) -> None:
    trainer = Trainer(small.task(model), SGD.rule(), batch=3)
    data = trainer.task.dataset.train
    weights = torch.full((3,), 1 / 3)
    inputs = []
    for i in range(17):
        rows = torch.arange(3) + i
        inputs.append(GradientInputs(trainer.initial(i), data.inputs[rows], data.targets[rows], weights, i))
    kernel = trainer.gradient(small.shards(data, [5])[0], 3, None, ())
    alone = [small.run(kernel, [one])[0] for one in inputs]
    for rows in (2, 7, 17):
        for start in range(0, 17, rows):
            for (g, loss), (g1, loss1) in zip(
                small.run(kernel, inputs[start : start + rows]), alone[start : start + rows], strict=True
            ):
                assert torch.equal(g, g1)
                assert loss == loss1


@pytest.mark.parametrize("batched", [True, False])
def test_two_threads_give_the_bits_of_one(batched: bool) -> None:
    trainer = Trainer(small.task("odd mlp"), RULES["adam"], batch=3, batched=None if batched else False)
    inputs = requests(trainer, random.Random(7), rows=150)
    kernel = trainer.training(inputs[0].shard, 3, None, ())
    results = []
    for workers in (1, 2):
        pool = Pool(workers)
        jobs = [pool.submit(Job(kernel, one)) for one in inputs]
        pool.flush()
        pool.close()
        results.append([job.result for job in jobs])
    assert_same(*results)


# -- through a world


def vectors(
    task: Any, rule: Rule, ids: set[int], protocol: Callable[[Learner], Any] | None = None, **options: Any
) -> dict[int, Any]:
    """Final models of the peers of `ids` that train by themselves while the others do nothing."""

    async def isolated(me: Learner) -> None:
        if me.id not in ids:
            return
        async for r in me.rounds(3):
            if r == 1:
                await me.train(epochs=1)
            else:
                await me.train(steps=1 + (me.id + r) % 3)
            if me.id % 3 == 0:
                await me.sleep(0.013)

    pieces = small.shards(task.dataset.train, [4 + (5 * i) % 9 for i in range(9)])
    learners = small.world_of(task, isolated, pieces, rule, batch=3, init=lambda id: id, **options)
    return {id: learners[id].model for id in ids}


@pytest.mark.parametrize(("model", "rule"), [("odd mlp", "adam"), ("characters", "momentum")])
def test_peers_simulated_together_or_in_smaller_groups_get_the_same_bits(model: str, rule: str) -> None:
    task = small.task(model)
    together = vectors(task, RULES[rule], set(range(9)))
    for group in ({0}, {1, 5}, {2, 3, 4, 6, 7, 8}):
        for id, vector in vectors(task, RULES[rule], group).items():
            assert torch.equal(vector, together[id])


def test_threads_of_a_world_do_not_show() -> None:
    task = small.task("odd mlp")
    one, two = (vectors(task, RULES["adamw"], set(range(9)), workers=workers) for workers in (1, 2))
    assert all(torch.equal(one[id], two[id]) for id in one)
