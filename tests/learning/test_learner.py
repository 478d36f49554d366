"""The peer that learns: what it shows while it trains, what it keeps, and that anybody can recompute its gradients."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.engine import Crash, Device, NonFinite, PeerFailed, Restart, Slow
from shoal.learning import Learner, Net, Shard, Trainer
from shoal.learning.data import Data
from shoal.optim import SGD, Adam
from shoal.tensors.layout import flatten_module

from . import small

STEP = 0.01
RULES = {"sgd": SGD.rule(0.2), "momentum": SGD.rule(0.1, momentum=0.9), "adam": Adam.rule(0.05)}
WAYS = {"batched": (RULES["adam"], None), "one by one": (RULES["adam"], False), "torch": (torch.optim.Adam, None)}


def shard(size: int = 11) -> Shard:
    return small.shards(small.task("odd mlp").dataset.train, [size])[0]


def after(protocol: Any, rule: Any = RULES["adam"], **options: Any) -> Learner:
    """A learner of its own world, after the protocol."""
    return small.alone(small.task("odd mlp"), protocol, shard(), rule, batch=4, **options)


def trained(steps: int, rule: Any = RULES["adam"], **options: Any) -> Learner:
    async def train(me: Learner) -> None:
        await me.train(steps=steps)

    return after(train, rule, **options)


def state_of(me: Learner) -> dict[str, Any]:
    return {name: me.state.get(name) for name in ("steps", "position")}


# -- looking at it while it trains


@pytest.mark.parametrize("way", WAYS)
def test_whoever_looks_at_the_model_sees_the_steps_done_by_then(way: str) -> None:
    rule, batched = WAYS[way]
    seen: dict[int, Tensor] = {}

    async def look(me: Learner) -> None:
        for done in range(6):
            seen[done] = me.model
            await me.sleep(STEP)

    async def protocol(me: Learner) -> None:
        await me.sleep(STEP / 2)
        task = me.spawn(me.train(steps=5))
        await me.sleep(STEP / 2)
        await look(me)
        await task

    me = after(protocol, rule, batched=batched)
    for done, model in seen.items():
        assert torch.equal(model, trained(done, rule, batched=batched).model)
    assert torch.equal(me.model, trained(5, rule, batched=batched).model)


def test_a_step_shows_from_the_moment_that_it_ends() -> None:
    seen: list[Tensor] = []

    async def protocol(me: Learner) -> None:
        task = me.spawn(me.train(steps=2))
        await me.sleep(0.0)
        seen.append(me.model)
        for wait in (0.25, 0.25, 0.5):
            await me.sleep(wait)
            seen.append(me.model)
        await task

    me = after(protocol, RULES["sgd"], devices=[Device(0.5)])
    initial, one = seen[0], seen[2]
    assert torch.equal(initial, me.trainer.initial(0))
    assert torch.equal(seen[1], initial)
    assert not torch.equal(one, initial)
    assert torch.equal(seen[3], me.model)
    assert not torch.equal(me.model, one)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_training_that_is_cancelled_keeps_the_steps_done(way: str, done: int) -> None:
    rule, batched = WAYS[way]

    async def protocol(me: Learner) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout((done + 0.5) * STEP):
                await me.train(steps=5)
        assert state_of(me) == {"steps": done, "position": 4 * done}
        await me.train(steps=5 - done)

    me = after(protocol, rule, batched=batched)
    assert torch.equal(me.model, trained(5, rule, batched=batched).model)
    assert state_of(me) == {"steps": 5, "position": 20}


def test_epochs_that_are_cancelled_leave_the_stream_after_what_was_seen() -> None:
    async def protocol(me: Learner) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5 * STEP):
                await me.train(epochs=2)
        assert state_of(me) == {"steps": 1, "position": 4}
        await me.train(epochs=1)
        assert state_of(me) == {"steps": 1 + 3, "position": 22}

    after(protocol)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("done", [0, 2, 5])
def test_a_model_that_is_set_during_training_is_trained_on(way: str, done: int) -> None:
    """Steps, stream, learning rate schedule and optimizer state go on as if nothing had happened."""
    rule, batched = WAYS[way]

    async def interrupted(me: Learner) -> None:
        task = me.spawn(me.train(steps=5))
        await me.sleep((done + 0.5) * STEP if done < 5 else 5 * STEP)
        me.model = me.model * 0.5
        assert torch.equal(me.model, me.model)
        await task

    async def in_two(me: Learner) -> None:
        if done:
            await me.train(steps=done)
        me.model = me.model * 0.5
        if done < 5:
            await me.train(steps=5 - done)

    one, two = (after(protocol, rule, batched=batched) for protocol in (interrupted, in_two))
    assert torch.equal(one.model, two.model)
    assert state_of(one) == state_of(two) == {"steps": 5, "position": 20}
    for name in one.state.get("optimizer") or ():
        if name != "param_groups":
            assert str(one.state["optimizer"][name]) == str(two.state["optimizer"][name])


def test_training_may_be_changed_twice_looked_at_and_cancelled() -> None:
    async def busy(me: Learner) -> None:
        task = me.spawn(me.train(steps=6))
        await me.sleep(1.5 * STEP)
        me.model = me.model + 1.0
        await me.sleep(1.0 * STEP)
        looked = me.model
        me.model = looked - 1.0
        await me.sleep(2.0 * STEP)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def plain(me: Learner) -> None:
        await me.train(steps=1)
        me.model = me.model + 1.0
        await me.train(steps=1)
        me.model = me.model - 1.0
        await me.train(steps=2)

    one, two = after(busy), after(plain)
    assert torch.equal(one.model, two.model)
    assert state_of(one) == state_of(two) == {"steps": 4, "position": 16}


def test_training_returns_the_mean_loss_over_all_its_steps() -> None:
    losses: list[float] = []

    async def protocol(me: Learner) -> None:
        losses.append(await me.train(steps=2))
        losses.append(await me.train(steps=3))
        losses.append(await me.train(steps=0))

    async def interrupted(me: Learner) -> None:
        task = me.spawn(me.train(steps=5))
        await me.sleep(2.5 * STEP)
        me.model = me.model * 1.0
        losses.append(await task)

    async def whole(me: Learner) -> None:
        losses.append(await me.train(steps=5))

    for each in (protocol, interrupted, whole):
        after(each)
    two, three, none, in_parts, at_once = losses
    assert none == 0.0
    assert at_once == pytest.approx((2 * two + 3 * three) / 5, rel=1e-6)
    assert in_parts == pytest.approx(at_once, rel=1e-6)


def test_training_takes_the_devices_time_and_not_two_at_once() -> None:
    async def protocol(me: Learner) -> None:
        await me.train(steps=3)
        assert me.now() == pytest.approx(3 * STEP)
        await me.train(epochs=1)
        assert me.now() == pytest.approx(6 * STEP)
        await me.update(steps=2)
        assert me.now() == pytest.approx(8 * STEP)
        await me.gradient()
        assert me.now() == pytest.approx(9 * STEP)
        task = me.spawn(me.train(steps=1))
        await me.sleep(0.0)
        with pytest.raises(RuntimeError, match="already training"):
            await me.train(steps=1)
        await task

    after(protocol)


def test_a_slow_peer_takes_longer_for_steps_and_gradients() -> None:
    async def protocol(me: Learner) -> None:
        await me.sleep(1.0)
        await me.train(steps=2)
        assert me.now() == pytest.approx(1.0 + 6 * STEP)
        await me.gradient()
        assert me.now() == pytest.approx(1.0 + 9 * STEP)

    after(protocol, faults=[Slow(0.5, 0, 3.0)])


def test_a_replayed_step_takes_as_long_as_it_did_and_no_two_steps_the_same() -> None:
    times: list[list[float]] = []

    async def protocol(me: Learner) -> None:
        own: list[float] = []
        times.append(own)
        for _ in range(3):
            before = me.now()
            await me.train(steps=1)
            me.reset_optimizer()
            own.append(me.now() - before)

    for _ in range(2):
        after(protocol, devices=[Device(STEP, jitter=1.0, seed=4)])
    assert times[0] == times[1]
    assert len(set(times[0])) == 3


# -- updates


@pytest.mark.parametrize("way", WAYS)
def test_an_update_is_what_training_would_add(way: str) -> None:
    rule, batched = WAYS[way]

    async def protocol(me: Learner) -> None:
        before = me.model
        change = await me.update(steps=3)
        assert me.model is before
        assert state_of(me) == {"steps": 3, "position": 12}
        me.model = before + change
        further = await me.update(steps=2, at=me.model * 1.0)
        me.model = me.model + further

    assert small.close(after(protocol, rule, batched=batched).model, trained(5, rule, batched=batched).model, 1e-5)


def test_an_update_from_elsewhere_starts_there() -> None:
    async def protocol(me: Learner) -> None:
        start = me.model * 0.3
        change = await me.update(epochs=1, at=start)
        me.model = start + change

    async def set_first(me: Learner) -> None:
        me.model = me.model * 0.3
        await me.train(epochs=1)

    assert small.close(after(protocol).model, after(set_first).model, 1e-5)


# -- gradients


def test_anybody_recomputes_a_gradient_bit_for_bit() -> None:
    """Other peers, with other data, models and neighbours in their batch, at other times."""
    task = small.task("odd mlp")
    data = task.dataset.train[torch.arange(13)]
    found: dict[int, Tensor] = {}

    async def protocol(me: Learner) -> None:
        await me.train(steps=me.id)
        if me.id % 2:
            await me.gradient()
        if me.id == 3:
            await me.sleep(1.0)
        found[me.id] = await me.gradient(at=me.trainer.initial(7), batch=99, data=data)

    pieces = small.shards(task.dataset.train, [5, 6, 7, 8, 9])
    small.world_of(task, protocol, pieces, SGD.rule(0.1), init=lambda id: id)
    assert len(found) == 5
    assert all(torch.equal(found[0], gradient) for gradient in found.values())
    assert float(found[0].norm()) > 0.0


@pytest.mark.parametrize("batched", [None, False])
def test_a_gradient_on_a_keyed_batch_is_of_samples_that_the_key_names(batched: bool | None) -> None:
    task = small.task("odd mlp", torch.float64)
    data = task.dataset.train[torch.arange(13)]

    async def protocol(me: Learner) -> None:
        whole = await me.gradient(data=data, size=None)
        keyed = [await me.gradient(data=data, size=13, batch=key) for key in (1, 2)]
        assert all(small.close(whole, gradient, 1e-12) for gradient in keyed)
        small_batches = [await me.gradient(data=data, size=2, batch=key) for key in (1, 2, 1)]
        assert torch.equal(small_batches[0], small_batches[2])
        assert not torch.equal(small_batches[0], small_batches[1])
        assert state_of(me) == {"steps": None, "position": None}
        module = task.initial(0)
        F.cross_entropy(module(data.inputs), data.targets).backward()
        assert small.close(whole, torch.cat([p.grad.flatten() for p in module.parameters()]), 1e-12)  # type: ignore

    small.alone(task, protocol, shard(), SGD.rule(0.1), batched=batched)


def test_the_next_batch_of_a_gradient_is_the_next_batch_of_training() -> None:
    """x - lr g(x) is a step of SGD; the stream moves on by one batch."""

    async def by_hand(me: Learner) -> None:
        for _ in range(3):
            me.model = me.model - 0.2 * await me.gradient()
        assert me.state["position"] == 12

    assert small.close(after(by_hand, RULES["sgd"]).model, trained(3, RULES["sgd"]).model, 1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_stepping_along_gradients_is_training(rule: str) -> None:
    async def by_hand(me: Learner) -> None:
        for _ in range(4):
            me.step(await me.gradient())
        assert me.state["steps"] == 4

    one, two = after(by_hand, RULES[rule]), trained(4, RULES[rule])
    assert small.close(one.model, two.model, 1e-5)
    memories = one.state.get("optimizer", {}), two.state.get("optimizer", {})
    assert memories[0].keys() == memories[1].keys() == set({"sgd": (), "momentum": ("momentum",), "adam": "mv"}[rule])
    for name in memories[0]:
        assert small.close(memories[0][name], memories[1][name], 1e-5)


def test_a_step_needs_a_rule_and_leaves_what_it_was_given() -> None:
    async def protocol(me: Learner) -> None:
        gradient = torch.ones_like(me.model)
        before = me.model
        me.step(gradient, lr=0.5)
        assert torch.equal(me.model, before - 0.5)
        assert torch.equal(gradient, torch.ones_like(gradient))

    after(protocol, RULES["sgd"])

    async def refused(me: Learner) -> None:
        me.step(me.model)

    with pytest.raises(PeerFailed, match="optimizer: a rule"):
        after(refused, torch.optim.SGD)


# -- objectives of one's own


def proximal(net: Net, inputs: Tensor, targets: Tensor, anchor: Tensor, mu: Tensor) -> Tensor:
    """Loss + mu/2 |w - anchor|^2."""
    losses = F.cross_entropy(net(inputs), targets, reduction="none")
    return losses + 0.5 * mu * (net.vector() - anchor).square().sum()


@pytest.mark.parametrize("batched", [None, False])
def test_a_proximal_term_with_an_anchor_equals_a_loop_by_hand(batched: bool | None) -> None:
    task = small.task("odd mlp", torch.float64)
    pieces = small.shards(task.dataset.train, [11, 7, 9])

    async def protocol(me: Learner) -> None:
        anchor = me.trainer.initial(50 + me.id)
        mu = torch.tensor(0.1 * (1 + me.id), dtype=torch.float64)
        await me.train(steps=4, objective=proximal, extras=(anchor, mu))
        await me.train(epochs=1, objective=proximal, extras=(anchor, mu))
        gradient = await me.gradient(size=None, objective=proximal, extras=(anchor, mu))
        me.state["gradient"] = gradient

    learners = small.world_of(task, protocol, pieces, SGD.rule(0.1, momentum=0.9), batch=4, batched=batched)
    for id, me in learners.items():
        kernel = me.trainer.training(pieces[id], 4, proximal, (me.model, torch.tensor(0.1, dtype=torch.float64)))
        assert kernel.path == ("batched" if batched is None else "one by one")
        module, own = task.initial(0), pieces[id]
        anchor, mu = me.trainer.initial(50 + id), 0.1 * (1 + id)

        def loss(
            output: Tensor, target: Tensor, module: Any = module, anchor: Tensor = anchor, mu: float = mu
        ) -> Tensor:
            vector = torch.cat([p.flatten() for p in module.parameters()])
            term = 0.5 * mu * (vector - anchor).square().sum()
            return F.cross_entropy(output, target, reduction="none") + term

        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        size = len(own)
        for schedule in (
            small.stream(me.key("batches"), size, 4, 4, 0),
            small.epochs(me.key("batches"), size, 4, 1, 16),
        ):
            small.torch_loop(module, optimizer, loss, own, schedule)
        assert small.close(me.model, flatten_module(module)[0], 1e-12)
        optimizer.zero_grad()
        data = own.data[own.indices]
        loss(module(data.inputs), data.targets).mean().backward()
        expected = torch.cat([p.grad.flatten() for p in module.parameters()])  # type: ignore[union-attr]
        assert small.close(me.state["gradient"], expected, 1e-12)


def test_a_strong_proximal_term_holds_the_model_at_its_anchor() -> None:
    async def protocol(me: Learner) -> None:
        await me.train(steps=200, objective=proximal, extras=(me.trainer.initial(1), torch.tensor(20.0)))

    me = after(protocol, SGD.rule(0.04))
    assert float((me.model - me.trainer.initial(1)).norm()) < 0.1 * float((me.model - me.trainer.initial(0)).norm())


@pytest.mark.parametrize("batched", [None, False])
def test_a_loss_that_is_not_per_sample_is_refused(batched: bool | None) -> None:
    def summed(net: Net, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(net(inputs), targets)

    async def protocol(me: Learner) -> None:
        await me.train(steps=1, objective=summed)

    with pytest.raises(PeerFailed, match="one loss a sample"):
        after(protocol, batched=batched)


# -- what is kept


def test_training_goes_on_after_a_crash_as_if_nothing_had_happened() -> None:
    async def protocol(me: Learner) -> None:
        async for _ in me.rounds(6):
            await me.train(steps=3)

    plain = after(protocol)
    crashed = after(protocol, faults=[Crash(0.1, 0), Restart(0.2, 0)])
    assert crashed.lives == 2
    assert torch.equal(plain.model, crashed.model)
    assert state_of(plain) == state_of(crashed) == {"steps": 18, "position": 72}
    assert all(torch.equal(plain.state["optimizer"][n], crashed.state["optimizer"][n]) for n in ("m", "v"))


def test_a_reset_optimizer_forgets_its_moments_and_its_count() -> None:
    async def protocol(me: Learner) -> None:
        await me.train(steps=3)
        me.reset_optimizer()
        assert "optimizer" not in me.state
        start, position = me.model, me.state["position"]
        await me.train(steps=2)
        assert me.state["steps"] == 2
        fresh = small.request(
            me.trainer, shard(), small.stream(me.key("batches"), 11, 4, 2, position), seed=0, first_step=0
        )
        fresh.vector = start
        assert torch.equal(me.model, small.trained(me.trainer, fresh))

    after(protocol)


# -- evaluation and mixing


def test_evaluation_is_the_mean_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.learning.one_by_one.Evaluation.SAMPLES", 7)
    task = small.task("odd mlp", torch.float64)
    data = task.dataset.train
    seen: list[dict[str, float]] = []

    async def protocol(me: Learner) -> None:
        seen.append(await me.evaluate(data=data))
        seen.append(await me.evaluate(at=me.trainer.initial(3)))
        assert me.now() == 0.0
        await me.evaluate(seconds=2.5)
        assert me.now() == 2.5

    own = small.shards(data, [11])[0]
    small.alone(task, protocol, own, SGD.rule(0.1))
    for scores, seed, part in zip(seen, (0, 3), (data, data[own.indices]), strict=True):
        output = task.initial(seed)(part.inputs)
        assert scores["loss"] == pytest.approx(float(F.cross_entropy(output, part.targets).detach()), rel=1e-12)
        assert scores["accuracy"] == pytest.approx(float((output.argmax(1) == part.targets).double().mean()))


def test_mixing_gives_the_weight_of_the_missing_to_oneself() -> None:
    """The weights of whoever answers, and of oneself, sum to 1: equal models stay, constants show the weights."""
    weights = {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}

    async def protocol(me: Learner) -> None:
        one = torch.ones_like(me.model)
        for present in ((), (1,), (2, 3), (1, 2, 3)):
            replies = {j: one * j for j in present}
            expected = sum(weights[j] * j for j in present)
            torch.testing.assert_close(me.mix(replies, weights, own=one * 0), one * expected)
            torch.testing.assert_close(me.mix(dict.fromkeys(present, one), weights, own=one), one)
        me.model = one * 5
        before = me.model
        torch.testing.assert_close(me.mix({1: one * 9}, {0: 0.5, 1: 0.5}), one * 7)
        torch.testing.assert_close(me.mix({8: one * 1e9}, weights), one * 5)  # nobody's weight
        assert me.model is before
        assert torch.equal(me.model, one * 5)

    after(protocol)


@pytest.mark.parametrize("bad", [None, 1.0, "model", [torch.ones(2)], torch.ones(2), torch.ones(1, 1)])
def test_mixing_drops_and_logs_what_is_no_vector_of_the_models_size(bad: Any) -> None:
    seen: list[dict[str, Any]] = []

    async def protocol(me: Learner) -> None:
        one = torch.ones_like(me.model)
        mixed = me.mix({1: one, 2: bad}, {0: 0.5, 1: 0.25, 2: 0.25}, own=one * 0)
        torch.testing.assert_close(mixed, one * 0.25)
        seen.extend(me._world.events)  # type: ignore[attr-defined]

    after(protocol)
    [event] = [event for event in seen if event["event"] == "malformed payload dropped"]
    assert event["sender"] == 2


def test_mixing_without_a_topology_is_uniform_over_the_neighbours() -> None:
    async def protocol(me: Learner) -> None:
        one = torch.ones_like(me.model)
        replies = dict.fromkeys(me.in_neighbours, one * 0)
        torch.testing.assert_close(me.mix(replies, own=one), one / 4)
        missing = dict(list(replies.items())[:1])
        torch.testing.assert_close(me.mix(missing, own=one), one * 3 / 4)

    task = small.task("mlp")
    small.world_of(task, protocol, small.shards(task.dataset.train, [3] * 4), SGD.rule(0.1))


# -- errors


@pytest.mark.parametrize("batched", [None, False])
@pytest.mark.parametrize("do", ["train", "update", "gradient", "step"])
def test_a_model_that_is_no_longer_finite_names_its_peer(do: str, batched: bool | None) -> None:
    async def protocol(me: Learner) -> None:
        async for _ in me.rounds(3):
            if me.id != 1:
                await me.train(steps=1)
            elif me.round == 2:
                if do == "step":
                    me.step(torch.full_like(me.model, math.inf))
                me.model = me.model * math.inf
                await {"train": me.train, "update": me.update}[do](steps=1) if do != "gradient" else me.gradient()

    async def run(me: Learner) -> None:
        if do == "gradient" and me.id == 1:
            await me.gradient(at=me.model * math.inf)
        else:
            await protocol(me)

    task = small.task("mlp")
    with pytest.raises(PeerFailed, match="peer 1") as error:
        small.world_of(task, run, small.shards(task.dataset.train, [3] * 3), SGD.rule(0.1), batched=batched)
    assert isinstance(error.value.__cause__, NonFinite)
    assert "NaN or infinite" in str(error.value)


def test_a_peer_that_catches_the_error_can_go_on() -> None:
    async def protocol(me: Learner) -> None:
        good = me.model
        me.model = good * math.nan
        with pytest.raises(NonFinite):
            await me.train(steps=1)
        me.model = good
        await me.train(steps=3)

    assert torch.equal(after(protocol, RULES["sgd"]).model, trained(3, RULES["sgd"]).model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of steps and epochs"),
        ({"steps": 1, "epochs": 1}, "exactly one of steps and epochs"),
        ({"steps": -1}, "got -1"),
        ({"epochs": -2}, "got -2"),
    ],
)
def test_what_cannot_be_trained_is_refused(arguments: dict[str, int], message: str) -> None:
    async def protocol(me: Learner) -> None:
        with pytest.raises(ValueError, match=message):
            await me.train(**arguments)
        with pytest.raises(ValueError, match=message):
            await me.update(**arguments)
        assert state_of(me) == {"steps": None, "position": None}

    after(protocol)


def test_a_vector_of_another_size_or_type_is_refused() -> None:
    async def protocol(me: Learner) -> None:
        for wrong in (me.model[:-1], me.model[None], me.model.double()):
            with pytest.raises(ValueError, match=r"^model: got shape"):
                me.model = wrong
            with pytest.raises(ValueError, match=r"^at: got shape"):
                await me.update(steps=1, at=wrong)
            with pytest.raises(ValueError, match=r"^at: got shape"):
                await me.gradient(at=wrong)

    after(protocol)


def test_a_learning_rate_for_a_torch_optimizer_is_refused() -> None:
    async def protocol(me: Learner) -> None:
        with pytest.raises(ValueError, match=r"^lr: "):
            await me.train(steps=1, lr=0.1)

    after(protocol, torch.optim.SGD)


def test_a_relay_without_data_can_mix_but_not_train() -> None:
    async def protocol(me: Learner) -> None:
        assert me.samples == 0
        with pytest.raises(RuntimeError, match="peer 0 holds no data"):
            await me.train(steps=1)
        assert torch.equal(me.mix({}), me.model)

    small.world_of(small.task("mlp"), protocol, [None], SGD.rule(0.1))


def test_a_trainer_refuses_an_impossible_batch() -> None:
    with pytest.raises(ValueError, match=r"^batch: got 0"):
        Trainer(small.task("mlp"), SGD.rule(), batch=0)


def test_data_may_be_replaced_between_two_calls() -> None:
    async def protocol(me: Learner) -> None:
        await me.train(steps=1)
        me.shard = Shard(Data(other.inputs, other.targets), torch.arange(6))
        await me.train(epochs=1)

    task = small.task("odd mlp")
    other = Data(task.dataset.train.inputs + 1.0, task.dataset.train.targets)
    me = small.alone(task, protocol, shard(), SGD.rule(0.1), batch=4)
    assert me.samples == 6
    assert me.state["steps"] == 1 + 2
