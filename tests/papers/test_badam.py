"""The claim's own arithmetic: its exact criteria, the adapters, and how accuracies are judged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shoal.learning import Task
from shoal.learning.data import load
from shoal.learning.models import mlp
from shoal.optim import AdamW
from shoal.papers import badam as paper


def test_the_exact_criteria_hold() -> None:
    assert paper.one_block({}).holds
    assert paper.frozen({}).holds
    assert paper.memory({}).holds


def test_what_moves_while_it_should_be_frozen_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> int:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01)
        return 0

    monkeypatch.setattr(paper, "stepped", careless)
    assert not paper.frozen({}).holds


def test_gradients_are_measured_before_they_are_dropped() -> None:
    model = paper.layers()
    assert paper.stepped(model, AdamW(model.parameters()), 0) == sum(p.nbytes for p in model.parameters())
    first = next(iter(model.children()))
    for p in first.parameters():
        p.requires_grad_(False)
    rest = [p for p in model.parameters() if p.requires_grad]
    assert paper.stepped(model, AdamW(rest), 1) == sum(p.nbytes for p in rest)


def test_adapters_begin_as_nothing_and_are_all_that_is_trained() -> None:
    dataset = load("digits")
    task = paper.adapted(Task("digits", mlp(dataset, hidden=16), dataset), rank=2)
    model = task.initial(3)
    x = dataset.train.inputs[:4]
    bare = nn.Sequential(*(m.base if isinstance(m, paper.Adapted) else m for m in model.children()))
    torch.testing.assert_close(model(x), bare(x))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["1.down", "1.up", "3.down", "3.up"]
    layer = model[1]  # type: ignore[index]
    nn.init.ones_(layer.up)
    merged = layer.base.weight + layer.up @ layer.down
    torch.testing.assert_close(layer(x.flatten(1)), x.flatten(1) @ merged.T + layer.base.bias)


@pytest.mark.parametrize(
    ("ours", "expected"), [(0.85, [True, True, True]), (0.83, [False, True, True]), (0.805, [False, False, True])]
)
def test_accuracies_are_judged_with_a_margin_of_a_point(ours: float, expected: list[bool]) -> None:
    means = {"BAdam": ours, "AdamW": 0.855, "LoRA": 0.80, "SGD": 0.6}
    assert [finding.holds for finding in paper.contest(means, "task")] == expected
