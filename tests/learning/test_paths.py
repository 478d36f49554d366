"""Stacked or one by one: which, why, and that it makes no difference but in the last digits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.learning import Learner, Shard, Trainer
from shoal.learning.objective import Supervised
from shoal.learning.requests import TrainInputs
from shoal.learning.trainer import Path
from shoal.optim import SGD, Adam, AdamW, Rule
from shoal.tensors.layout import flatten_module

from . import small

TORCH = {
    "sgd": (SGD.rule(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "nesterov": (
        SGD.rule(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adamw": (AdamW.rule(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
}


def entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy as torch has it, of every sample; the mean over places for texts."""
    losses = F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
    return losses.view(len(target), -1).mean(1)


def pair(task: Any, rule: Any, batch: int | None = 4) -> tuple[Trainer, Trainer]:
    return Trainer(task, rule, batch=batch), Trainer(task, rule, batch=batch, batched=False)


def both_ways(task: Any, rule: Any, schedule: Any, shard: Shard, seed: int = 0) -> list[Any]:
    """What training gives (stacked, one by one)."""
    results = []
    for trainer, path in zip(pair(task, rule), ("batched", "one by one"), strict=True):
        kernel = trainer.training(shard, schedule.batch, None, ())
        assert kernel.path == path
        results += small.run(kernel, [small.request(trainer, shard, schedule, seed=seed)])
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("logistic", "nesterov"),
        ("mlp", "sgd"),
        ("odd mlp", "adamw"),
        ("images", "nesterov"),  # Adam would blow up the rounding of gradients that are 0 but for it
        ("characters", "nesterov"),
    ],
)
def test_both_paths_and_a_loop_in_torch_agree(model: str, rule: str, dtype: torch.dtype) -> None:
    """Over a stream and over ragged passes."""
    task = small.task(model, dtype)
    shard = small.shards(task.dataset.train, [11])[0]
    # weights of text samples are float32, since their inputs have no floating type
    tolerance = 2e-5 if dtype == torch.float32 else (1e-6 if model == "characters" else 1e-10)
    for schedule in (small.stream(3, 11, 4, 5, 2), small.epochs(4, 11, 4, 2, 5), small.epochs(5, 11, None, 4, 0)):
        stacked, single = both_ways(task, TORCH[rule][0], schedule, shard)
        module = task.initial(0)
        small.torch_loop(module, TORCH[rule][1](module.parameters()), entropy, shard, schedule)
        assert small.close(stacked.vector, single.vector, 2e-5 if dtype == torch.float32 else 1e-10)
        assert small.close(single.vector, flatten_module(module)[0], tolerance)
        assert stacked.loss == pytest.approx(single.loss, rel=1e-5 if dtype == torch.float32 else 1e-10)
        for name in stacked.memory:
            assert small.close(stacked.memory[name], single.memory[name], 1e-4 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("rule", TORCH)
def test_a_torch_optimizer_through_a_factory_is_the_same_as_its_rule(rule: str) -> None:
    task = small.task("odd mlp", torch.float64)
    shard = small.shards(task.dataset.train, [11])[0]
    schedule = small.epochs(4, 11, 4, 3, 0)
    ours, theirs = (small.trained(t, small.request(t, shard, schedule)) for t in (
        Trainer(task, TORCH[rule][0], batch=4),
        Trainer(task, TORCH[rule][1], batch=4),
    ))  # fmt: skip
    assert small.close(ours, theirs, 1e-12)


def test_gradients_agree_with_autograd_on_both_paths() -> None:
    task = small.task("odd mlp", torch.float64)
    data = task.dataset.train
    for trainer in pair(task, SGD.rule()):
        results: dict[int, Tensor] = {}

        async def ask(me: Learner, results: dict[int, Tensor] = results) -> None:
            results[me.id] = await me.gradient(data=data[: 5 + me.id], size=None)

        small.world_of(task, ask, small.shards(data, [4, 4, 4]), SGD.rule(), trainer=trainer)
        for id, gradient in results.items():
            module = task.initial(0)
            entropy(module(data.inputs[: 5 + id]), data.targets[: 5 + id]).mean().backward()
            expected = torch.cat([p.grad.flatten() for p in module.parameters()])  # type: ignore[union-attr]
            assert small.close(gradient, expected, 1e-12)


# -- modules that need care


class Doubled(nn.Module):
    """Two layers with one weight, two biases that are added, one parameter that is not used and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(9, 9), nn.Linear(9, 9, bias=False)
        self.second.weight = self.first.weight
        self.a, self.b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.full((9,), 0.5), requires_grad=False)
        self.out = nn.Linear(9, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.first(x).tanh()) * self.frozen
        out: Tensor = self.out(hidden) + (self.a + self.b)
        return out


@pytest.mark.parametrize("rule", TORCH)
def test_shared_summed_unused_and_frozen_parameters_are_trained_as_in_torch(rule: str) -> None:
    task = small.of_module(lambda: Doubled().double(), small.classification(dtype=torch.float64))
    shard, schedule = small.shards(task.dataset.train, [11])[0], small.epochs(4, 11, 4, 3, 0)
    stacked, single = both_ways(task, TORCH[rule][0], schedule, shard)
    assert small.close(stacked.vector, single.vector, 1e-12)
    layout = Trainer(task, SGD.rule()).layout
    assert "second.weight" not in layout
    parts = layout.unflatten(single.vector)
    assert torch.equal(parts["frozen"], torch.full((9,), 0.5, dtype=torch.float64))
    module = task.initial(0)
    # torch leaves a parameter without a gradient alone; a rule sees a gradient of 0, and decays it
    module.unused.grad = torch.zeros(3, dtype=torch.float64)  # type: ignore[union-attr]
    optimizer = TORCH[rule][1]([p for p in module.parameters() if p.requires_grad])
    optimizer.zero_grad = lambda set_to_none=True: torch.optim.Optimizer.zero_grad(optimizer, set_to_none=False)
    small.torch_loop(module, optimizer, entropy, shard, schedule)
    assert small.close(single.vector, flatten_module(module)[0], 1e-12)


class Expanded(nn.Module):
    """A loss with a term that is linear in a parameter: its gradient is one number, expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(9, 4), nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return torch.cat([out[:, :3], out[:, 3:] + self.shift.sum()], 1)


@pytest.mark.parametrize("rule", TORCH)
def test_a_gradient_that_is_expanded_can_be_used_up(rule: str) -> None:
    task = small.of_module(lambda: Expanded().double(), small.classification(dtype=torch.float64))
    shard, schedule = small.shards(task.dataset.train, [11])[0], small.stream(4, 11, 4, 5, 0)
    stacked, single = both_ways(task, TORCH[rule][0], schedule, shard)
    module = task.initial(0)
    small.torch_loop(module, TORCH[rule][1](module.parameters()), entropy, shard, schedule)
    assert small.close(stacked.vector, single.vector, 1e-12)
    assert small.close(single.vector, flatten_module(module)[0], 1e-12)


# -- which path, and why


def path_of(module: Any, dataset: Any = None, objective: Any = None) -> Path:
    task = small.of_module(module, dataset)
    trainer = Trainer(task, SGD.rule(0.1), batch=4)
    shard = small.shards(task.dataset.train, [10])[0]
    path, _ = trainer.path(objective or Supervised(task.loss), shard)
    for kernel in (trainer.training(shard, 4, objective, ()), trainer.gradient(shard, 4, objective, ())):
        assert (kernel.path == "batched", kernel.why) == (path.batched, path.why)
    return path


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


class Counting(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1.0 + 0.1 * self.calls)


class Remembering(Plain):
    """Keeps what it saw in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return super().forward(x)


class Logging(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return super().forward(x)


class Moving(Plain):
    """A moving average of the inputs in a buffer, written in place or anew."""

    def __init__(self, in_place: bool, persistent: bool = True) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("average", torch.zeros(9), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        new = 0.9 * self.average + 0.1 * x.detach().mean(0)
        if self.in_place:
            self.average.copy_(new)
        else:
            self.average = new
        return super().forward(x - new)


class Branching(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Noisy(Plain):
    """Draws by a function that nobody has told Shoal about."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.empty_like(x).normal_())


SQUARE = nn.Unflatten(1, (1, 3, 3))


def between(layer: nn.Module) -> nn.Module:
    """The layer between two linear ones."""
    return nn.Sequential(nn.Linear(9, 5), layer, nn.Linear(5, 4))


ONE_BY_ONE = {
    "convolution": (lambda: nn.Sequential(SQUARE, nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 4)), "convolution"),
    "running statistics": (lambda: between(nn.BatchNorm1d(5)), "running statistics"),
    "batch statistics": (lambda: between(nn.BatchNorm1d(5, track_running_stats=False)), "differ"),
    "counter": (Counting, "attributes of its own"),
    "remembered tensor": (Remembering, "attributes of its own"),
    "log": (Logging, "attributes of its own"),
    "buffer in place": (lambda: Moving(True), "buffers"),
    "buffer anew": (lambda: Moving(False), "buffers"),
    "hidden buffer": (lambda: Moving(False, persistent=False), "attributes of its own"),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(9, 4)), "buffers"),
    "branch on data": (Branching, "vmap cannot take it"),
    "torch's generator": (Noisy, "generator"),
    "attention with dropout": (lambda: Attending(dropout=0.5), "generator"),
    "recurrent": (lambda: Recurrent(), "vmap cannot take it"),
}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.cells(x.view(-1, 3, 3))[0][:, -1])
        return out


STACKED = {
    "plain": Plain,
    "dropout": lambda: between(nn.Dropout(0.5)),
    "layer norm": lambda: between(nn.LayerNorm(5)),
    "attention": lambda: Attending(0.0),
    "shared weights": Doubled,
}


class Attending(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.heads, self.out = nn.MultiheadAttention(3, 1, dropout, batch_first=True), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, 3, 3)
        out: Tensor = self.out(self.heads(rows, rows, rows)[0].flatten(1))
        return out


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_what_cannot_or_should_not_be_stacked_runs_one_by_one_and_says_why(name: str) -> None:
    module, why = ONE_BY_ONE[name]
    path = path_of(module)
    assert not path.batched
    assert why in path.why


@pytest.mark.parametrize("name", STACKED)
def test_what_can_be_stacked_is(name: str) -> None:
    assert path_of(STACKED[name]) == Path(True, "vmap takes it")


def test_one_by_one_for_the_asking() -> None:
    trainer = Trainer(small.task("mlp"), SGD.rule(), batched=False)
    kernel = trainer.training(small.shards(trainer.task.dataset.train, [5])[0], 4, None, ())
    assert (kernel.path, kernel.why) == ("one by one", "asked for")


def test_a_torch_optimizer_runs_one_by_one() -> None:
    trainer = Trainer(small.task("mlp"), torch.optim.Adagrad)
    kernel = trainer.training(small.shards(trainer.task.dataset.train, [5])[0], 4, None, ())
    assert kernel.path == "one by one"
    assert "torch optimizer" in kernel.why


@pytest.mark.parametrize("name", [*ONE_BY_ONE, *STACKED])
def test_every_module_can_be_trained_twice_alike_on_its_path(name: str) -> None:
    """Whoever trained before in the same thread, and whatever torch's generator has drawn."""
    module = STACKED[name] if name in STACKED else ONE_BY_ONE[name][0]
    task = small.of_module(module)
    trainer = Trainer(task, SGD.rule(0.1, momentum=0.9), batch=4)
    shard = small.shards(task.dataset.train, [10])[0]
    kernel = trainer.training(shard, 4, None, ())

    def ask(seed: int) -> TrainInputs:
        return small.request(trainer, shard, small.stream(seed, 10, 4, 3, 0), seed=seed)

    torch.manual_seed(1)
    alone = small.run(kernel, [ask(7)])[0]
    state = torch.get_rng_state()
    among = small.run(kernel, [ask(seed) for seed in (1, 2, 7, 3)])[2]
    assert torch.equal(alone.vector, among.vector)
    assert alone.loss == among.loss
    assert math.isfinite(alone.loss)
    assert torch.equal(state, torch.get_rng_state())


# -- buffers


def batch_norm(dtype: torch.dtype = torch.float64) -> nn.Module:
    return nn.Sequential(nn.Linear(9, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).to(dtype)


@pytest.mark.parametrize("rule", ["sgd", "nesterov"])
def test_running_statistics_are_trained_and_carried_in_the_vector(rule: str) -> None:
    task = small.of_module(batch_norm, small.classification(dtype=torch.float64))
    shard = small.shards(task.dataset.train, [11])[0]

    async def train(me: Learner) -> None:
        await me.train(steps=3)
        await me.train(steps=2)

    me = small.alone(task, train, shard, TORCH[rule][0], batch=4)
    module = task.initial(0)
    schedule = small.stream(me.key("batches"), 11, 4, 5, 0)
    small.torch_loop(module, TORCH[rule][1](module.parameters()), entropy, shard, schedule)
    parts = me.layout.unflatten(me.model)
    for name, value in module.state_dict().items():
        assert small.close(parts[name].double(), value.double(), 1e-12), name
    assert int(parts["1.num_batches_tracked"]) == 5
    assert float(parts["1.running_mean"].abs().max()) > 0.0


def test_a_moving_average_in_a_buffer_is_carried_in_the_vector() -> None:
    task = small.of_module(lambda: Moving(False).double(), small.classification(dtype=torch.float64))
    shard, schedule = small.shards(task.dataset.train, [11])[0], small.stream(1, 11, 4, 5, 0)
    trainer = Trainer(task, SGD.rule(0.1))
    module = task.initial(0)
    small.torch_loop(module, torch.optim.SGD(module.parameters(), lr=0.1), entropy, shard, schedule)
    vector = small.trained(trainer, small.request(trainer, shard, schedule))
    assert small.close(vector, flatten_module(module)[0], 1e-12)
    assert float(trainer.layout.select(vector, role="buffer").abs().max()) > 0.0


def test_evaluation_uses_the_running_statistics_and_leaves_them() -> None:
    task = small.of_module(batch_norm, small.classification(dtype=torch.float64))
    seen: dict[str, float] = {}

    async def train(me: Learner) -> None:
        await me.train(epochs=2)
        before = me.model
        seen.update(await me.evaluate())
        assert me.model is before

    me = small.alone(task, train, small.shards(task.dataset.train, [20])[0], SGD.rule(0.1))
    module = task.initial(0)
    module.load_state_dict({name: part.clone() for name, part in me.layout.unflatten(me.model).items()})
    module.eval()
    data = small.shards(task.dataset.train, [20])[0]
    inputs, targets = data.data.inputs[data.indices], data.data.targets[data.indices]
    with torch.no_grad():
        output = module(inputs)
    assert seen["loss"] == pytest.approx(float(entropy(output, targets).mean()), rel=1e-12)
    assert seen["accuracy"] == pytest.approx(float((output.argmax(1) == targets).double().mean()))


@pytest.mark.parametrize("rule", [SGD.rule(0.1), Adam.rule(0.01)])
def test_a_padded_batch_does_not_show_in_a_model_whose_samples_touch_each_other(rule: Rule) -> None:
    """Batch normalisation without running statistics: padding would shift the batch's mean."""

    def build() -> nn.Module:
        layers = nn.Linear(9, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 4)
        return nn.Sequential(*layers).double()

    task = small.of_module(build, small.classification(dtype=torch.float64))
    shard, schedule = small.shards(task.dataset.train, [9])[0], small.epochs(1, 9, None, 3, 0)
    assert schedule.batch > 9
    vectors = [small.trained(t, small.request(t, shard, schedule)) for t in pair(task, rule)]
    assert small.close(*vectors, 1e-12)


# -- a run's log


def test_the_pool_reports_kernels_with_their_paths_and_reasons() -> None:
    from shoal import simulate
    from shoal.learning.models import cnn

    dataset = small.classification(samples=40, width=16)
    image = small.of_module(cnn(dataset, channels=1), dataset)
    for task, batched in ((image, "one by one"), (small.task("mlp"), "batched")):
        run = simulate("isolated", task=task, peers=2, rounds=1, batch=4, seed=1)
        report = {entry["kernel"]: entry for entry in run.info["compute"]}
        assert report["train with sgd"]["path"] == batched
        assert report["train with sgd"]["why"]
