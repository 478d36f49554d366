"""What rules are given beside gradients: stacked models against as many optimizers in loops of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shoal.engine import PeerFailed
from shoal.engine.compute import Job
from shoal.learning import Task, Trainer
from shoal.learning.batched import BatchedTraining
from shoal.learning.batches import batches, stream
from shoal.learning.given import Supply
from shoal.learning.objective import Supervised
from shoal.learning.one_by_one import SingleTraining
from shoal.learning.requests import TrainInputs
from shoal.optim import SANIA, AdaFisher, AdaHessian, Optimizer, Rule, Transform, second_derivatives
from shoal.simulation import simulate
from shoal.tensors.layout import load_into

from . import small

RULES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (AdaHessian, {"lr": 0.01, "weight_decay": 0.1}),
    (AdaFisher, {"lr": 1e-3, "t_cov": 3, "weight_decay": 0.1}),
    (SANIA, {"preconditioner": "hutchinson", "eps": 0.05}),
    (SANIA, {"preconditioner": "newton", "eps": 0.05, "cg_steps": 4}),
]
SIZES, EARLIER, STEPS = [12, 7, 3], [0, 2, 1], 5


@pytest.mark.parametrize("model", ["odd mlp", "images"])
@pytest.mark.parametrize(("cls", "settings"), RULES, ids=["adahessian", "adafisher", "hutchinson", "newton"])
def test_stacked_and_single_models_go_the_way_of_separate_optimizers(
    cls: type[Optimizer], settings: dict[str, Any], model: str
) -> None:
    """Uneven shards, so that batches are padded; each model with steps before, and signs, of its own."""
    task = small.task(model, torch.float64)
    rule = cls.rule(**settings)
    trainer = Trainer(task, rule, batch=5)
    shards = small.shards(task.dataset.train, SIZES)
    path, problem = trainer.path(Supervised(task.loss), shards[0], rule=rule)
    assert path.batched
    single, stacked = SingleTraining(problem, rule, ""), BatchedTraining(problem, rule, 0, "", torch.device("cpu"))
    modules, optimizers, rows = [], [], []
    for peer, (shard, earlier) in enumerate(zip(shards, EARLIER, strict=True)):
        vector = trainer.initial(peer)
        module = task.initial(peer)
        load_into(module, vector, trainer.layout)
        own: Any = {**settings, **({"seed": peer} if "seed" in cls.arguments else {})}
        optimizer: Any = cls(module.named_parameters(), **own)  # type: ignore[arg-type]
        if hasattr(optimizer, "watch"):
            optimizer.watch(module)
        memory = trainer.memory(vector, peer)
        if earlier:
            before = TrainInputs(vector, shard, stream(peer, len(shard), 5, earlier, 0), rule.lr, 0, 0, memory)
            loop(task, module, optimizer, before)
            (trained,) = run(single, [before])
            vector, memory = trained.vector, trained.memory
        rows.append(
            TrainInputs(vector, shard, stream(peer, len(shard), 5, STEPS, earlier), rule.lr, 0, earlier, memory)
        )
        modules.append(module)
        optimizers.append(optimizer)
    for module, optimizer, row in zip(modules, optimizers, rows, strict=True):
        loop(task, module, optimizer, row)
    for kernel in (single, stacked):
        for trained, module in zip(run(kernel, rows), modules, strict=True):
            assert small.close(trained.vector, single.vector(module), 1e-9), kernel.path


def loop(task: Task, module: nn.Module, optimizer: Any, row: TrainInputs) -> None:
    data = batches([row.schedule], [row.shard], [1] * row.schedule.steps)
    for inputs, targets, weights in data:
        real = weights[0] != 0

        def closure(x: Tensor = inputs[0][real], y: Tensor = targets[0][real], w: Tensor = weights[0][real]) -> Tensor:
            with second_derivatives():
                loss = (task.loss(module(x), y) * w).sum()
            if not optimizer.needs_graph:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)


def run(kernel: Any, rows: list[TrainInputs]) -> list[Any]:
    jobs = [Job(kernel, row) for row in rows]
    with torch.no_grad():
        for chunk in kernel.chunks(jobs):
            kernel.run(chunk)
    return [job.result for job in jobs]


class Shuffled(nn.Module):
    """A linear layer that sees samples in its second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(9, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Two positions a sample."""
        both = torch.stack([x, x.sin()])
        return self.second(torch.tanh(self.first(both))).sum(0)  # type: ignore[no-any-return]


def test_factors_that_stacking_cannot_give_are_taken_one_by_one_and_the_reason_is_told() -> None:
    task = small.of_module(lambda: Shuffled().double(), small.classification(dtype=torch.float64))
    rule = AdaFisher.rule()
    trainer = Trainer(task, rule, batch=5)
    shard = small.shards(task.dataset.train, [9])[0]
    assert trainer.path(Supervised(task.loss), shard)[0].batched
    path, _ = trainer.path(Supervised(task.loss), shard, rule=rule)
    assert not path.batched
    assert "adafisher" in path.why
    assert trainer.training(shard, 5, None, ()).path == "one by one"
    assert trainer.gradient(shard, 5, None, ()).path == "batched"
    assert Trainer(task, AdaHessian.rule(), batch=5).training(shard, 5, None, ()).path == "batched"


@pytest.mark.parametrize(
    "name", ["adahessian", "adafisher:t_cov=3", "sania:preconditioner=hutchinson", "sania:preconditioner=newton"]
)
def test_peers_train_with_it_by_name(name: str) -> None:
    common = {"task": "digits", "peers": 3, "rounds": 2, "seed": 5, "partition": "dirichlet:0.5", "eval_samples": 50}
    batched, single = (simulate("gossip:steps=3", **common, optimizer=name, batched=b) for b in (True, False))
    assert batched.info["compute"][0]["path"] == "batched"
    for i in batched.models:
        torch.testing.assert_close(batched.models[i], single.models[i], rtol=1e-3, atol=1e-4)


def test_a_gradient_from_elsewhere_is_refused() -> None:
    with pytest.raises(PeerFailed, match=r"adafisher needs more of its own batch \(inputs, outputs\)"):
        simulate("terngrad", task="digits", peers=2, rounds=1, optimizer="adafisher")


def test_what_nobody_supplies_is_refused() -> None:
    class Odd(Transform):
        given = ("moon",)

    task = small.task("logistic")
    trainer = Trainer(task, Rule("odd", 0.1, (Odd(),)))
    problem = trainer.path(Supervised(task.loss), small.shards(task.dataset.train, [9])[0])[1]
    with pytest.raises(ValueError, match="optimizer: odd asks for moon, which nobody supplies"):
        Supply(problem, Rule("odd", 0.1, (Odd(),)))


def test_factors_of_a_model_without_layers_are_refused() -> None:
    """Which would be steps of momentum alone."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 9))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

    task = small.of_module(Bare, small.classification())
    trainer = Trainer(task, AdaFisher.rule(), batch=5)
    with pytest.raises(
        ValueError, match="optimizer: adafisher asks for layers' factors, which Bare has none of; a model"
    ):
        trainer.training(small.shards(task.dataset.train, [9])[0], 5, None, ())
