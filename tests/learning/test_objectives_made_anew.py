"""Objectives made anew for each request: computed together where they are the same, told apart where they are not."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from shoal.learning import Trainer
from shoal.learning.batches import stream
from shoal.learning.objective import identity
from shoal.learning.trainer import MANY
from shoal.optim import SGD

from . import small

SCALE = 1.0


def scaled(factor: Any) -> Any:
    return lambda net, x, y: factor * (net(x) - y).square().sum(-1)


def test_same_code_with_same_contents_is_one_objective() -> None:
    w = torch.ones(2)
    assert identity(scaled(2.0)) == identity(scaled(2.0))
    assert identity(scaled(w)) == identity(scaled(w))
    assert identity(partial(scaled, 3)) == identity(partial(scaled, 3))
    assert identity(lambda net, x, y: x) != identity(lambda net, x, y: y)
    for other in (3.0, 2, w, torch.ones(2), "2.0"):
        assert identity(scaled(2.0)) != identity(scaled(other))
    assert identity(scaled(0.0)) != identity(scaled(-0.0))
    assert identity(scaled(w)) != identity(scaled(w.clone()))


def test_what_may_change_unseen_is_told_apart(monkeypatch: Any) -> None:
    def listed(box: list[float]) -> Any:
        return lambda net, x, y: box[0] * x

    def reading() -> Any:
        return lambda net, x, y: SCALE * x

    box, before = [1.0], identity(reading())
    assert identity(listed(box)) != identity(listed(box))
    assert before == identity(reading())
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert before != identity(reading())


def test_a_lambda_for_each_request_has_one_kernel_and_tensors_without_end_are_told() -> None:
    task = small.of_module(lambda: torch.nn.Linear(3, 2, dtype=torch.float64), small.regression())
    shard = small.shards(task.dataset.train, [20])[0]
    trainer = Trainer(task, SGD.rule(0.1), batch=4)
    batch = stream(0, 20, 4, 1, 0).batch
    kernels = {id(trainer.training(shard, batch, scaled(0.5), ())) for _ in range(2 * MANY)}
    assert len(kernels) == 1
    assert trainer.advice is None
    anew: list[Tensor] = [torch.full((), float(i)) for i in range(MANY)]
    assert len({id(trainer.training(shard, batch, scaled(w), ())) for w in anew}) == MANY
    assert trainer.advice is not None
    assert "extras" in trainer.advice
