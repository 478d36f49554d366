"""MASHA against the restatement fed with the same index sets and bits, and its reduction to extragradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal.compression import Codec, ErrorFeedback, Identity, Memory
from shoal.engine import Crash, Restart, SimulatedWorld
from shoal.engine.devices import Device
from shoal.learning import Learner, Packer, Shard, Trainer
from shoal.learning.games import operator_matrix, quadratic_game
from shoal.optim import SGD
from shoal.protocols import MASHA1, MASHA2, Extragradient
from shoal.tensors.bits import name_number
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content
from shoal.tensors.random import permutation
from tests.restatements.compression_b import masha as restated

M, D, K, ROUNDS = 3, 4, 2, 14
TASK = quadratic_game(M, dimension=D // 2, coupling=0.5, seed=3, dtype=torch.float64)


def places(key: int) -> Tensor:
    return permutation(key, D)[:K]


@dataclass(frozen=True)
class Random(Codec):
    """K random entries times D / K, by key."""

    unbiased: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        chosen = [places(int(key)) for key in keys]
        return [(at, row[at] * (D / K)) for row, at in zip(rows, chosen, strict=True)], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        rows = torch.zeros(len(payloads), layout.size, dtype=layout.dtype)
        for row, (at, values) in zip(rows, payloads, strict=True):  # type: ignore[misc]
            row[at] = values
        return rows


@dataclass(frozen=True)
class Largest(Random):
    """The K largest entries."""

    unbiased: ClassVar[bool] = False

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        chosen = [row.abs().argsort(stable=True, descending=True)[:K] for row in rows]
        return [(at, row[at]) for row, at in zip(rows, chosen, strict=True)], memory


def played(protocol: Any, codec: Codec | None, rounds: int = ROUNDS, faults: Any = ()) -> dict[int, Learner]:
    """The learners after a run; the last of them is the server."""
    world = SimulatedWorld(M + 1, devices=[Device(0.01)] * (M + 1), server=M, rounds=rounds, seed=5, faults=faults)
    trainer, learners = Trainer(TASK, SGD.rule(0.0), batch=None), dict[int, Learner]()

    def make(id: int, world: Any, state: Any) -> Learner:
        shard = Shard(TASK.dataset.train, torch.tensor([id])) if id < M else None
        packer = Packer(codec, trainer.layout)
        learners[id] = Learner(id, world, state, trainer=trainer, shard=shard, device=Device(0.01), packer=packer)
        return learners[id]

    world.run(protocol, make_peer=make)
    return learners


def operators() -> list[Any]:
    data, sign = TASK.dataset.train, np.array([1.0] * (D // 2) + [-1.0] * (D // 2))
    m, s = operator_matrix(data.inputs).numpy(), data.targets.numpy() * sign
    return [restated.affine(a, b) for a, b in zip(m, s, strict=True)]


def drawn(learner: Learner, channel: str, count: int) -> Any:
    return places(learner.key("codec", name_number(channel), count)).numpy()


def bit(server: Learner, r: int, tau: float) -> bool:
    return server.rng("renew", r).random() >= tau


def test_masha1_is_the_restatement() -> None:
    learners = played(MASHA1(0.2, 0.6), Random())
    s = restated.start(np.zeros(D), operators())
    bits = [bit(learners[M], r, 0.6) for r in range(ROUNDS)]
    assert 2 < sum(bits) < ROUNDS - 2
    for r in range(ROUNDS):
        sets = np.stack([drawn(learners[i], "data", r) for i in range(M)])
        s, _ = restated.masha1_step(s, operators(), 0.2, 0.6, sets, drawn(learners[M], "answer", r), bits[r])
    np.testing.assert_allclose(learners[M].model.numpy(), s.z, rtol=1e-11, atol=1e-13)


def test_masha2_is_the_restatement() -> None:
    learners = played(MASHA2(0.2, 0.6), ErrorFeedback(Largest()))
    s = restated.start(np.zeros(D), operators())
    for r in range(ROUNDS):
        s, _ = restated.masha2_step(s, operators(), 0.2, 0.6, K, K, bit(learners[M], r, 0.6))
    np.testing.assert_allclose(learners[M].model.numpy(), s.z, rtol=1e-11, atol=1e-13)
    errors = [learners[i].state["codec"]["data"]["error"].numpy() for i in range(M)]
    np.testing.assert_allclose(np.stack(errors), s.errors, rtol=1e-11, atol=1e-13)
    assert np.abs(s.errors).max() > 0


@pytest.mark.parametrize("method", [MASHA1, MASHA2])
@pytest.mark.parametrize("codec", [None, Identity()])
def test_without_compression_and_with_w_equal_to_z_it_is_extragradient(method: Any, codec: Codec | None) -> None:
    z = np.zeros(D)
    for _ in range(ROUNDS):
        z = restated.extragradient_step(z, operators(), 0.2)
    for protocol in (method(0.2, 0.0), Extragradient(0.2)):
        np.testing.assert_allclose(played(protocol, codec)[M].model.numpy(), z, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("method", "codec"), [(MASHA1(0.15, 0.5), Random()), (MASHA2(0.15, 0.5), ErrorFeedback(Largest()))]
)
def test_the_saddle_point_is_reached(method: Any, codec: Codec) -> None:
    assert TASK.dataset.known is not None
    z = TASK.dataset.known.optimum
    torch.testing.assert_close(played(method, codec, 1500)[M].model, z, rtol=1e-4, atol=1e-4)


def test_devices_know_the_servers_point_though_it_was_never_sent() -> None:
    learners = played(MASHA1(0.2, 0.6), Random())
    for i in range(M):
        half = learners[M].state
        assert torch.equal(learners[i].state["w"], half["w"]) or bit(learners[M], ROUNDS - 1, 0.6)


def test_a_device_that_was_away_is_told_everything_and_goes_on() -> None:
    learners = played(MASHA1(0.15, 0.5), Random(), 1500, [Crash(0.5, 1), Restart(0.9, 1)])
    assert TASK.dataset.known is not None
    torch.testing.assert_close(learners[M].model, TASK.dataset.known.optimum, rtol=1e-3, atol=1e-3)
    assert learners[1].state["at"] >= 1498


@pytest.mark.parametrize(("method", "codec"), [(MASHA1(), Largest()), (MASHA2(), Random())])
def test_codecs_that_do_not_fit_are_refused(method: Any, codec: Codec) -> None:
    with pytest.raises(Exception, match="codec: "):
        played(method, codec, 1)


@pytest.mark.parametrize("settings", [{"gamma": 0.0}, {"tau": 1.0}, {"tau": -0.1}])
def test_what_cannot_be_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: got"):
        MASHA1(**settings)
