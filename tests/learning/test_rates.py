"""A learning rate for each step of a request: exact, on every path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.learning import Trainer
from shoal.learning.requests import TrainInputs
from shoal.optim import SGD, Adam, AdamW, Rule
from shoal.optim.large_batch import LAMB
from shoal.tensors.layout import flatten_module

from . import small

RATES = st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1]), min_size=6, max_size=6)
RULES: dict[str, tuple[Rule, Callable[[Any], torch.optim.Optimizer]]] = {
    "nesterov": (
        SGD.rule(1.0, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adamw": (AdamW.rule(1.0, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.1)),
}


def entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none")


def scheduled(trainer: Trainer, rates: float | Sequence[float], size: int = 11, seed: int = 0) -> TrainInputs:
    shard = small.shards(trainer.task.dataset.train, [size])[0]
    steps = 6 if isinstance(rates, float) else len(rates)
    return replace(small.request(trainer, shard, small.stream(seed, size, 4, steps, 0), seed=seed), lr=rates)


def by_hand(inputs: TrainInputs, trainer: Trainer, factory: Callable[[Any], torch.optim.Optimizer]) -> Tensor:
    """The same with torch's own scheduler."""
    module = trainer.task.initial(0)
    optimizer = factory(module.parameters())
    table = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: [*inputs.lr, 0.0][t])  # type: ignore[misc]
    for s in range(inputs.schedule.steps):
        small.torch_loop(module, optimizer, entropy, inputs.shard, inputs.part(s, s + 1).schedule)
        table.step()
    return flatten_module(module)[0]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize("path", ["batched", "one by one", "torch"])
@pytest.mark.parametrize("name", RULES)
@given(rates=RATES)
@settings(max_examples=8, deadline=None)
def test_a_schedule_is_that_of_a_torch_scheduler(name: str, path: str, rates: list[float]) -> None:
    rule, factory = RULES[name]
    optimizer = factory if path == "torch" else rule
    trainer = Trainer(small.task("odd mlp", torch.float64), optimizer, batch=4, batched=path == "batched")
    inputs = scheduled(trainer, rates)
    assert small.close(small.trained(trainer, inputs), by_hand(inputs, trainer, factory), 1e-11)


@pytest.mark.parametrize("rule", [Adam.rule(0.05), LAMB.rule(0.05)], ids=["element", "tensor"])
@pytest.mark.parametrize("batched", [True, False])
def test_the_same_rate_at_each_step_is_that_rate_bit_for_bit(rule: Rule, batched: bool) -> None:
    trainer = Trainer(small.task("odd mlp"), rule, batch=4, batched=None if batched else False)
    once, each = (small.trained(trainer, scheduled(trainer, lr)) for lr in (0.05, [0.05] * 6))
    assert torch.equal(once, each)


@pytest.mark.parametrize("rule", [Adam.rule(0.05), LAMB.rule(0.05)], ids=["element", "tensor"])
@given(first=st.integers(1, 5), rates=RATES)
@settings(max_examples=8, deadline=None)
def test_a_request_in_two_parts_is_the_whole_bit_for_bit(rule: Rule, first: int, rates: list[float]) -> None:
    trainer = Trainer(small.task("odd mlp"), rule, batch=4)
    whole = scheduled(trainer, rates)
    kernel = trainer.training(whole.shard, 4, None, ())
    (half,) = small.run(kernel, [whole.part(0, first)])
    rest = replace(whole.part(first, 6), vector=half.vector, memory=half.memory)
    (both,), (once,) = small.run(kernel, [rest]), small.run(kernel, [whole])
    assert torch.equal(both.vector, once.vector)
    assert first * half.loss + (6 - first) * both.loss == pytest.approx(6 * once.loss)


def test_stacked_requests_follow_their_own_schedules_however_long_they_are() -> None:
    trainer = Trainer(small.task("odd mlp"), Adam.rule(0.05), batch=4)
    rates: list[float | list[float]] = [[0.1, 0.0, 0.05], 0.02, [0.01] * 5, [0.3], [0.05, 0.04, 0.03, 0.02, 0.01, 0.0]]
    inputs = [scheduled(trainer, lr, seed=i) for i, lr in enumerate(rates)]
    together = small.run(trainer.training(inputs[0].shard, 4, None, ()), inputs)
    for one, result in zip(inputs, together, strict=True):
        assert torch.equal(small.trained(trainer, one), result.vector)


def test_groups_of_a_torch_optimizer_keep_their_proportions() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(9, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x))
            return out

    def factory(params: Any) -> torch.optim.Optimizer:
        first, second = list(params)[:2], list(params)[2:]
        return torch.optim.SGD([{"params": first}, {"params": second, "lr": 0.25}], lr=0.5)

    task = small.of_module(Two)
    trainer = Trainer(task, factory, batch=4)
    module = task.initial(0)
    inputs = scheduled(trainer, [0.2])
    small.torch_loop(
        module,
        torch.optim.SGD([{"params": module.a.parameters()}, {"params": module.b.parameters(), "lr": 0.1}], lr=0.2),
        entropy,
        inputs.shard,
        inputs.schedule,
    )
    assert small.close(small.trained(trainer, inputs), flatten_module(module)[0], 1e-6)
