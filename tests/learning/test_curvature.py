"""Estimates of the Hessian's diagonal against the Hessian that torch.func writes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shoal.learning import Learner, Task, Trainer
from shoal.optim import SGD
from shoal.tensors.layout import Layout
from shoal.tensors.random import rademacher

from . import small


def estimated(task: Task, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(estimate, signs, Hessian) of a whole shard."""
    shard = small.shards(task.dataset.train, [12])[0]
    found: dict[str, Any] = {}

    async def protocol(me: Learner) -> None:
        found["at"], found["key"] = me.model, me.key("curvature", 0)
        found["estimate"] = await me.curvature(size=None)

    small.alone(task, protocol, shard, SGD.rule(0.1))
    module, data = task.initial(0), task.dataset.train[shard.indices]
    layout = Layout.of(module)

    def loss(w: Tensor) -> Tensor:
        return task.loss(torch.func.functional_call(module, layout.unflatten(w), (data.inputs,)), data.targets).mean()

    signs = rademacher(found["key"], found["at"].shape, dtype=found["at"].dtype)
    return found["estimate"], signs, torch.func.hessian(loss)(found["at"])


@pytest.mark.parametrize("name", ["logistic", "odd mlp"])
def test_an_estimate_is_signs_times_hessian_times_signs(name: str) -> None:
    found, v, hessian = estimated(small.task(name, torch.float64), torch.float64)
    torch.testing.assert_close(found, v * (hessian @ v), rtol=1e-10, atol=1e-12)
    assert set(v.tolist()) == {-1.0, 1.0}


def test_attention_has_second_derivatives() -> None:
    found, _, _ = _only_estimate(small.task("characters"))
    assert torch.isfinite(found).all()
    assert found.abs().max() > 0


def _only_estimate(task: Task) -> tuple[Tensor, None, None]:
    result: list[Tensor] = []

    async def protocol(me: Learner) -> None:
        result.append(await me.curvature())

    small.alone(task, protocol, small.shards(task.dataset.train, [12])[0], SGD.rule(0.1))
    return result[0], None, None


def test_the_mean_of_many_signs_is_the_diagonal() -> None:
    h = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]])
    v = rademacher(torch.arange(2000), 3)
    mean = (v * (v @ h)).mean(0)
    torch.testing.assert_close(mean, h.diagonal(), rtol=0.0, atol=0.05)


def test_a_batch_of_the_stream_is_used_and_the_model_stays() -> None:
    task = small.task("logistic")
    trainer = Trainer(task, SGD.rule(0.1), batch=4)

    async def protocol(me: Learner) -> None:
        before = me.model.clone()
        await me.curvature()
        assert me.state["position"] == 4
        assert torch.equal(me.model, before)

    small.alone(task, protocol, small.shards(task.dataset.train, [12])[0], SGD.rule(0.1), trainer=trainer)
