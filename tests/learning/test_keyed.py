"""Randomness inside models: a function of the key, not of the path, the peer's place or torch's generator."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.learning import Learner, Net, Trainer
from shoal.learning.keyed import KeyedRandomness
from shoal.learning.requests import GradientInputs
from shoal.optim import SGD

from . import small

X = torch.ones(40, 50)
FUNCTIONS: dict[str, Callable[[], Tensor]] = {
    "dropout": lambda: F.dropout(X, 0.3),
    "module": lambda: nn.Dropout(0.3)(X),
    "module in place": lambda: nn.Dropout(0.3, inplace=True)(X.clone()),
    "rand": lambda: torch.rand(40, 50),
    "rand of a shape": lambda: torch.rand((40, 50), dtype=torch.float64),
    "randn": lambda: torch.randn(40, 50),
    "rand_like": lambda: torch.rand_like(X),
    "randn_like": lambda: torch.randn_like(X, dtype=torch.float64),
    "bernoulli": lambda: torch.bernoulli(X * 0.7),
}


@pytest.fixture(autouse=True)
def _generator() -> None:
    """Torch's own generator, from a fixed seed."""
    torch.manual_seed(0)


def drawn(name: str, key: int) -> Tensor:
    with KeyedRandomness(torch.tensor(key)):
        return FUNCTIONS[name]()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_key_gives_the_same_draw_and_another_key_another(name: str) -> None:
    state = torch.get_rng_state()
    assert torch.equal(drawn(name, 3), drawn(name, 3))
    assert not torch.equal(drawn(name, 3), drawn(name, 4))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_form_is_that_of_torch(name: str) -> None:
    ours, theirs = drawn(name, 5), FUNCTIONS[name]()
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    # 2,000 draws of a standard deviation of at most 1: the difference of two means is 0 +- 0.032
    assert float((ours.mean() - theirs.mean()).abs()) < 0.15
    assert float((ours.std() - theirs.std()).abs()) < 0.15


def test_draws_of_one_forward_pass_differ() -> None:
    with KeyedRandomness(torch.tensor(3)) as mode:
        a, b = torch.rand(50), torch.rand(50)
    assert not torch.equal(a, b)
    assert mode.used == 2


@settings(deadline=None)
@given(p=st.floats(0.0, 1.0), key=st.integers(0, 2**62))
def test_dropout_keeps_or_drops_and_scales_what_it_keeps(p: float, key: int) -> None:
    x = torch.arange(1.0, 101.0, dtype=torch.float64)
    with KeyedRandomness(torch.tensor(key)):
        out = F.dropout(x, p)
    kept = out != 0
    assert torch.isfinite(out).all()
    if p < 1.0:
        torch.testing.assert_close(out[kept], x[kept] / (1.0 - p))
    assert bool(kept.all()) if p == 0.0 else True
    assert not bool(kept.any()) if p == 1.0 else True


def test_dropout_of_a_model_in_evaluation_does_nothing() -> None:
    with KeyedRandomness(torch.tensor(1)) as mode:
        assert torch.equal(nn.Dropout(0.5).eval()(X), X)
        assert torch.equal(F.dropout(X, 0.5, training=False), X)
    assert mode.used <= 2


def test_stacked_keys_draw_what_each_draws_alone() -> None:
    keys = torch.arange(7)

    def one(key: Tensor, x: Tensor) -> Tensor:
        with KeyedRandomness(key):
            return F.dropout(x, 0.4) + torch.randn_like(x)

    together = torch.func.vmap(one)(keys, X[:7])
    assert torch.equal(together, torch.stack([one(key, x) for key, x in zip(keys, X[:7], strict=True)]))


# -- in training


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


def task(dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    return small.of_module(lambda: dropping().to(dtype), small.classification(dtype=dtype))


@pytest.mark.parametrize("schedule", [small.stream(3, 11, 4, 4, 0), small.epochs(3, 11, 4, 2, 0)])
def test_both_paths_drop_the_same(schedule: small.Schedule) -> None:
    """In ragged batches too: the draws of a batch's samples do not depend on its padding."""
    vectors = []
    for batched in (None, False):
        trainer = Trainer(task(torch.float64), SGD.rule(0.1), batch=4, batched=batched)
        shard = small.shards(trainer.task.dataset.train, [11])[0]
        vectors.append(small.trained(trainer, small.request(trainer, shard, schedule)))
    assert small.close(*vectors, 1e-12)


@pytest.mark.parametrize("batched", [None, False])
def test_gradients_drop_by_the_key_and_nothing_else(batched: bool | None) -> None:
    trainer = Trainer(task(), SGD.rule(), batched=batched)
    data = trainer.task.dataset.train
    shard = small.shards(data, [11])[0]
    kernel = trainer.gradient(shard, 8, None, ())
    weights = torch.full((8,), 1 / 8)
    ask = [GradientInputs(trainer.initial(0), data.inputs[:8], data.targets[:8], weights, key) for key in (1, 2, 1, 3)]
    one, two, again, three = (gradient for gradient, _ in small.run(kernel, ask))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert not torch.equal(two, three)


@pytest.mark.parametrize("batched", [None, False])
def test_every_step_of_every_peer_drops_other_units(batched: bool | None) -> None:
    """Seen in which rows of the last layer get no gradient; across train calls, rounds and resets of the optimizer."""
    data = small.classification(samples=1)
    seen: list[tuple[bool, ...]] = []

    async def protocol(me: Learner) -> None:
        for reset in (False, False, True, False, True):
            if reset:
                me.reset_optimizer()
            for _ in range(3):
                moved = (await me.update(steps=1)) != 0
                seen.append(tuple(me.layout.unflatten(moved)["2.weight"].any(0).tolist()))

    module = nn.Sequential(nn.Linear(9, 64), nn.Dropout(0.5), nn.Linear(64, 4))
    own = small.of_module(lambda: copy.deepcopy(module), data)
    pieces = small.shards(data.train, [1, 1, 1])
    small.world_of(own, protocol, pieces, SGD.rule(0.1), batch=1, batched=batched)
    assert len(seen) == 45
    assert len(set(seen)) == 45


def test_every_gradient_on_the_next_batch_drops_other_units() -> None:
    data = small.classification(samples=1)
    seen: list[tuple[bool, ...]] = []

    async def protocol(me: Learner) -> None:
        for _ in range(4):
            seen.append(tuple(((await me.gradient()) != 0).tolist()))

    module = nn.Sequential(nn.Linear(9, 64), nn.Dropout(0.5), nn.Linear(64, 4))
    own = small.of_module(lambda: copy.deepcopy(module), data)
    small.world_of(own, protocol, small.shards(data.train, [1, 1]), SGD.rule(0.1), batch=1)
    assert len(set(seen)) == 8


@pytest.mark.parametrize("batched", [None, False])
def test_training_cut_in_two_drops_what_it_drops_at_once(batched: bool | None) -> None:
    async def halves(me: Learner) -> None:
        await me.train(steps=2)
        await me.train(steps=3)

    async def whole(me: Learner) -> None:
        await me.train(steps=5)

    shard = small.shards(task().dataset.train, [11])[0]
    a, b = (small.alone(task(), protocol, shard, SGD.rule(0.1), batched=batched).model for protocol in (halves, whole))
    assert torch.equal(a, b)


@pytest.mark.parametrize("batched", [None, False])
def test_an_objective_may_draw_too(batched: bool | None) -> None:
    """Noise on the inputs, drawn by the objective with a further tensor; torch's own generator is left alone."""

    def noisy(net: Net, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return F.cross_entropy(net(x + scale * torch.randn_like(x)), y, reduction="none")

    async def protocol(me: Learner) -> None:
        await me.train(steps=3, objective=noisy, extras=[torch.tensor(0.5)])

    plain = small.task("mlp")
    shard = small.shards(plain.dataset.train, [11])[0]
    state = torch.get_rng_state()
    a, b = (small.alone(plain, protocol, shard, SGD.rule(0.1), batched=batched, seed=seed).model for seed in (1, 1))
    other = small.alone(plain, protocol, shard, SGD.rule(0.1), batched=batched, seed=2).model
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(state, torch.get_rng_state())


class Sampling(nn.Module):
    """Draws when it is evaluated, too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x + torch.randn_like(x))
        return out


def test_a_model_that_draws_in_evaluation_is_evaluated_alike_each_time() -> None:
    own = small.of_module(Sampling)
    scores = []

    async def protocol(me: Learner) -> None:
        scores.append(await me.evaluate())
        scores.append(await me.evaluate())

    small.world_of(own, protocol, small.shards(own.dataset.train, [20]), SGD.rule(0.1))
    assert scores[0] == scores[1]
