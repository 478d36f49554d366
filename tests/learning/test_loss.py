"""Losses without gradients, of several models at once: what they are, and that company does not change them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.engine import NonFinite, PeerFailed
from shoal.learning import Learner, Shard
from shoal.learning.models import cnn
from shoal.optim import SGD
from shoal.tensors import key, normal
from shoal.tensors.layout import flatten_module, load_into

from . import small

TASK = small.task("odd mlp", torch.float64)
PIECES = small.shards(TASK.dataset.train, [11, 7, 20, 9, 16])


def asked(
    at: Any, pieces: list[Shard] = PIECES, task: Any = TASK, **options: Any
) -> tuple[dict[int, Any], list[float]]:
    """What each peer is told of `loss(at=at(me), **)`, and when."""
    found: dict[int, Any] = {}
    times: list[float] = []
    settings = {name: options.pop(name) for name in ("batched",) if name in options}

    async def protocol(me: Learner) -> None:
        found[me.id] = await me.loss(at=at(me), batch=key(5, "batch", me.id), **options)
        times.append(me.now())

    small.world_of(task, protocol, pieces, SGD.rule(0.1), batch=4, **settings)
    return found, times


def models(me: Learner, k: int = 3) -> Tensor:
    return me.model + 0.3 * normal(key(1, "models", me.id), (k, me.model.numel()), dtype=me.model.dtype)


@pytest.mark.parametrize("batched", [None, False], ids=["stacked", "one by one"])
def test_it_is_the_mean_loss_over_the_samples(batched: bool | None) -> None:
    """All samples in order, against torch's own cross-entropy."""
    found, _ = asked(models, size=None, batched=batched)
    module, data = TASK.initial(0), TASK.dataset.train
    layout = flatten_module(module)[1]
    start = flatten_module(TASK.initial(0))[0]
    for id, shard in enumerate(PIECES):
        for j, vector in enumerate(start + 0.3 * normal(key(1, "models", id), (3, layout.size), dtype=torch.float64)):
            load_into(module, vector, layout)
            expected = F.cross_entropy(module(data.inputs[shard.indices]), data.targets[shard.indices])
            torch.testing.assert_close(found[id][j], expected.detach(), rtol=1e-12, atol=1e-13)


def test_its_difference_along_a_direction_is_the_gradients() -> None:
    """On the same batch, with a smooth activation: (L(+) - L(-)) / 2 eps = z . g, to eps^2."""
    checked = []

    async def protocol(me: Learner) -> None:
        z, eps, batch = normal(key(2, me.id), me.model.numel(), dtype=torch.float64), 1e-5, key(3, me.id)
        plus, minus = await me.loss(at=torch.stack([me.model + eps * z, me.model - eps * z]), batch=batch)
        gradient = await me.gradient(batch=batch)
        torch.testing.assert_close((plus - minus) / (2 * eps), z @ gradient, rtol=1e-7, atol=1e-9)
        checked.append(me.id)

    small.world_of(TASK, protocol, PIECES, SGD.rule(0.1), batch=4)
    assert len(checked) == len(PIECES)


@pytest.mark.parametrize("name", ["odd mlp", "mlp", "logistic"])
def test_bits_do_not_depend_on_the_other_peers(name: str) -> None:
    task = small.task(name)
    together, _ = asked(models, small.shards(task.dataset.train, [11, 7, 20, 9, 16]), task)

    async def protocol(me: Learner) -> None:
        if me.id == 3:
            assert torch.equal(await me.loss(at=models(me), batch=key(5, "batch", 3)), together[3])

    small.world_of(task, protocol, small.shards(task.dataset.train, [11, 7, 20, 9, 16]), SGD.rule(0.1), batch=4)


def test_one_model_gives_a_scalar_and_the_own_one_is_the_default() -> None:
    one, _ = asked(lambda me: me.model)
    none, _ = asked(lambda me: None)
    stack, _ = asked(lambda me: me.model[None])
    for id in one:
        assert one[id].shape == ()
        assert stack[id].shape == (1,)
        assert one[id] == none[id] == stack[id][0]


def test_a_forward_pass_takes_a_third_of_a_step() -> None:
    _, times = asked(models)
    assert times == [pytest.approx(0.01)] * len(PIECES)
    _, times = asked(lambda me: None)
    assert times == [pytest.approx(0.01 / 3)] * len(PIECES)


def test_models_that_vmap_is_not_used_for_agree_with_their_gradients() -> None:
    dataset = small.classification(width=16)
    task = small.of_module(cnn(dataset, channels=2), dataset)
    found, _ = asked(models, small.shards(dataset.train, [9, 8]), task)
    assert found[0].shape == (3,)
    single, _ = asked(lambda me: models(me)[1], small.shards(dataset.train, [9, 8]), task)
    assert all(torch.equal(found[id][1], single[id]) for id in found)


def test_the_same_batch_key_gives_the_same_loss_and_another_one_another() -> None:
    seen: dict[int, list[float]] = {}

    async def protocol(me: Learner) -> None:
        seen[me.id] = [float(await me.loss(batch=b)) for b in (1, 1, 2)]

    small.world_of(TASK, protocol, PIECES, SGD.rule(0.1), batch=4)
    for first, again, other in seen.values():
        assert first == again != other


@pytest.mark.parametrize("shape", [(3,), (0, 7), (2, 3)])
def test_what_is_no_model_is_refused(shape: tuple[int, ...]) -> None:
    async def protocol(me: Learner) -> None:
        with pytest.raises(ValueError, match=r"^at: got"):
            await me.loss(at=torch.zeros(shape, dtype=torch.float64))

    small.world_of(TASK, protocol, PIECES, SGD.rule(0.1), batch=4)


def test_a_loss_that_is_infinite_is_an_error_that_names_the_peer() -> None:
    with pytest.raises((NonFinite, PeerFailed), match="peer 0"):
        asked(lambda me: me.model * float("inf"))
