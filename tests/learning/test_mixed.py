"""Stacked rows with rules of their own: what each gets is what its rule alone gives, bit for bit."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest
import torch

from shoal.learning import Trainer
from shoal.learning.mixed import MixedTraining, RuledInputs
from shoal.learning.objective import Supervised
from shoal.learning.requests import TrainInputs
from shoal.optim import LAMB, SGD, Adam, MicroAdam, Rule

from . import small

RULES = [
    Adam.rule(0.05),
    Adam.rule(0.05, betas=(0.5, 0.9)),
    SGD.rule(0.1),
    SGD.rule(0.1, momentum=0.9),
    LAMB.rule(0.02),
    MicroAdam.rule(0.02),
]


def ruled(inputs: TrainInputs, rule: Rule) -> RuledInputs:
    return RuledInputs(**{field.name: getattr(inputs, field.name) for field in fields(TrainInputs)}, rule=rule)


@pytest.mark.parametrize("model", ["odd mlp", "images"])
@pytest.mark.parametrize("least", [1, 2, 3, 8])
def test_rows_get_what_their_rule_alone_gives_however_they_meet(model: str, least: int) -> None:
    draw = random.Random(least)
    task = small.task(model)
    inputs: list[RuledInputs] = []
    expected: list[Any] = []
    for rule in RULES:
        trainer = Trainer(task, rule, batch=3)
        shard = small.shards(task.dataset.train, [13])[0]
        own = []
        for i in range(draw.randrange(1, 4)):
            schedule = small.stream(i, 13, 3, 4, draw.randrange(30))
            own.append(small.request(trainer, shard, schedule, seed=i, first_step=draw.randrange(20)))
            own[-1].lr = draw.choice([0.02, [0.1, 0.05, 0.0, 0.01]])
        expected += small.run(trainer.training(shard, 3, None, ()), own)
        inputs += [ruled(one, rule) for one in own]
    path, problem = trainer.path(Supervised(task.loss), shard)
    assert path.batched
    kernel = MixedTraining(problem, 0, "", trainer.device)
    order = draw.sample(range(len(inputs)), len(inputs))
    jobs = [small.Job(kernel, inputs[i]) for i in order]
    chunks = kernel.chunks(jobs, least)
    assert len(chunks) == max(1, min(least, len(jobs) // 2))
    with torch.no_grad():
        for chunk in chunks:
            kernel.run(chunk)
    for i, job in zip(order, jobs, strict=True):
        assert torch.equal(job.result.vector, expected[i].vector)
        assert job.result.loss == expected[i].loss
        assert job.result.memory.keys() == expected[i].memory.keys()
        assert all(torch.equal(job.result.memory[name], value) for name, value in expected[i].memory.items())
