"""ProxSkip-VIP against the restatement fed with the same coins and batches, and its invariants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal.engine import SimulatedWorld
from shoal.engine.devices import Device
from shoal.learning import Learner, Shard, Trainer
from shoal.learning.batches import batches, stream
from shoal.learning.games import operator_matrix, quadratic_game
from shoal.optim import SGD
from shoal.protocols import ProxSkipVIP
from shoal.protocols.local.proxskip import flips
from tests.restatements.compression_b import proxskip_vip as restated

N, D, SAMPLES = 4, 3, 5
TASK = quadratic_game(N, dimension=D, samples=SAMPLES, noise=0.5, seed=3, dtype=torch.float64)
SHARDS = [Shard(TASK.dataset.train, torch.arange(i * SAMPLES, (i + 1) * SAMPLES)) for i in range(N)]


def played(protocol: ProxSkipVIP, rounds: int, batch: int = 2) -> dict[int, Learner]:
    """The learners after a run; the last of them is the server."""
    world = SimulatedWorld(N + 1, devices=[Device(0.01)] * (N + 1), server=N, rounds=rounds, seed=5)
    trainer, learners = Trainer(TASK, SGD.rule(0.0), batch=batch), dict[int, Learner]()

    def make(id: int, world: Any, state: Any) -> Learner:
        shard = SHARDS[id] if id < N else None
        learners[id] = Learner(id, world, state, trainer=trainer, shard=shard, device=Device(0.01))
        return learners[id]

    world.run(protocol, make_peer=make)
    return learners


def samples() -> list[list[Any]]:
    data = TASK.dataset.train
    sign = np.array([1.0] * D + [-1.0] * D)
    m, s = operator_matrix(data.inputs).numpy(), data.targets.numpy() * sign
    every = [lambda z, a=a, b=b: a @ z + b for a, b in zip(m, s, strict=True)]
    return [every[i * SAMPLES : (i + 1) * SAMPLES] for i in range(N)]


def wholes() -> list[Any]:
    return [lambda z, own=own: np.mean([F(z) for F in own], axis=0) for own in samples()]


def by_hand(protocol: ProxSkipVIP, rounds: int, estimate: Any) -> Any:
    """The server's model and the h of the clients, by the restatement's steps."""
    x, h = np.zeros((N, 2 * D)), np.zeros((N, 2 * D))
    before = h
    for r in range(rounds):
        before = h
        count = flips(protocol.coin, r, protocol.p)
        for k in range(count):
            x, h, _ = restated.step(x, h, estimate(x), protocol.gamma, protocol.p, k == count - 1)
    return x[0], before  # clients learn of the last mean in the round after it


@pytest.mark.parametrize("p", [1.0, 0.3])
def test_with_the_whole_operator_rounds_are_the_restatements(p: float) -> None:
    protocol = ProxSkipVIP(0.2, p, coin=11)
    learners = played(protocol, 8)
    x, h = by_hand(protocol, 8, lambda x: restated.whole(x, wholes()))
    np.testing.assert_allclose(learners[N].model.numpy(), x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.stack([learners[i].state["h"] for i in range(N)]), h, rtol=1e-11, atol=1e-12)


def drawn(learner: Learner, key: int | None, position: int) -> Any:
    """Places of a batch of 2 in the learner's shard: of a key, or of the stream."""
    schedule = stream(learner._stream if key is None else key, SAMPLES, 2, 1, position)
    rows = Shard(
        type(TASK.dataset.train)(torch.arange(SAMPLES).float()[:, None], torch.arange(SAMPLES)), torch.arange(SAMPLES)
    )
    _, places, _ = next(batches([schedule], [rows], [1]))
    return places[0].numpy()


def test_with_batches_of_the_stream_they_are_the_restatements() -> None:
    protocol = ProxSkipVIP(0.1, 0.3, "minibatch", coin=4)
    learners = played(protocol, 5)
    count = iter(range(10_000))

    def estimate(x: Any) -> Any:
        position = 2 * next(count)
        return restated.minibatch(x, samples(), np.stack([drawn(learners[i], None, position) for i in range(N)]))

    x, _ = by_hand(protocol, 5, estimate)
    np.testing.assert_allclose(learners[N].model.numpy(), x, rtol=1e-11, atol=1e-12)


def test_loopless_svrg_is_the_restatements() -> None:
    protocol = ProxSkipVIP(0.1, 0.3, "svrg", q=0.4, coin=6)
    learners = played(protocol, 5)
    count, reference = iter(range(10_000)), np.zeros((N, 2 * D))

    def estimate(x: Any) -> Any:
        nonlocal reference
        k = next(count)
        rows = np.stack([drawn(learners[i], learners[i].key("estimate", k), 0) for i in range(N)])
        bits = np.array([learners[i].rng("reference", k).random() < 0.4 for i in range(N)])
        g, reference = restated.loopless_svrg(x, reference, samples(), rows, bits)
        return g

    x, _ = by_hand(protocol, 5, estimate)
    assert np.abs(reference).max() > 0
    np.testing.assert_allclose(learners[N].model.numpy(), x, rtol=1e-11, atol=1e-12)


def test_control_variates_sum_to_zero_and_go_to_the_operators_at_the_saddle_point() -> None:
    learners = played(ProxSkipVIP(0.3, 0.3), 400)
    h = torch.stack([learners[i].state["h"] for i in range(N)])
    assert h.sum(0).abs().max() < 1e-12
    assert TASK.dataset.known is not None
    z: Tensor = TASK.dataset.known.optimum
    torch.testing.assert_close(learners[N].model, z, rtol=1e-6, atol=1e-6)
    expected = torch.tensor(restated.whole(np.tile(z.numpy(), (N, 1)), wholes()))
    torch.testing.assert_close(h, expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_a_mean_is_projected() -> None:
    learners = played(ProxSkipVIP(0.2, 0.5, project=lambda z: z.clamp(-0.1, 0.1)), 10)
    assert learners[N].model.abs().max() == pytest.approx(0.1)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_the_common_coin_has_the_chance_it_should_have(p: float) -> None:
    counts = [flips(3, r, p) for r in range(4000)]
    assert min(counts) == 1
    assert sum(c == 1 for c in counts) / 4000 == pytest.approx(p, abs=0.04)
    assert sum(counts) / 4000 == pytest.approx(1 / p, rel=0.06)
    assert counts != [flips(4, r, p) for r in range(4000)] or p == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0.0}, "gamma: got 0.0"),
        ({"p": 0.0}, "p: got 0.0"),
        ({"q": 1.5}, "q: got"),
        ({"estimator": "adam"}, "estimator: got 'adam'"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProxSkipVIP(**settings)
