"""The protocol's trajectory against the restatement's, with training left out and with it."""

from typing import Any

import numpy as np
import pytest
import torch

from shoal.engine import Device, SimulatedWorld
from shoal.learning import Shard, Task, Trainer
from shoal.learning.data import Data, Dataset
from shoal.learning.learner import Learner
from shoal.optim import SGD
from shoal.protocols import Gossip, VarianceCorrected
from shoal.tensors import Layout
from shoal.topology import Topology, random_regular, star
from tests.restatements import variance_corrected_averaging as restated

from . import runs


def test_three_rounds_without_training_equal_the_restatement() -> None:
    data = Data(torch.randn(12, 5), torch.zeros(12, dtype=torch.int64))
    task = Task("t", lambda: torch.nn.Linear(5, 2), Dataset("d", data, data, classes=2))
    trainer = Trainer(task, SGD.rule(0.1))
    topology = random_regular(6, 3, seed=2)
    world = SimulatedWorld(6, neighbours=topology.neighbours, in_neighbours=topology.in_neighbours, rounds=3)
    peers: dict[int, Learner] = {}

    def make(id: int, where: object, state: object) -> Learner:
        shard = Shard(data, torch.tensor([2 * id, 2 * id + 1]))
        peers[id] = Learner(id, world, None, trainer=trainer, shard=shard, device=Device(), init_seed=id)
        return peers[id]

    start = {id: trainer.initial(id) for id in range(6)}
    world.run(VarianceCorrected(steps=0, c=0.25, target="conservative"), make_peer=make)

    def state(vector: torch.Tensor) -> dict[str, np.ndarray]:
        return {name: part.double().numpy() for name, part in trainer.layout.unflatten(vector).items()}

    expected = restated.gossip(
        [state(start[id]) for id in range(6)],
        [topology.in_neighbours(id) for id in range(6)],
        lambda i, s, t: s,
        3,
        "conservative",
        0.25,
        1e-8,
    )
    for id, peer in peers.items():
        for name, part in state(peer.model).items():
            np.testing.assert_allclose(part, expected[-1][id][name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("topology", [random_regular(6, 3, seed=1), star(4)])
@pytest.mark.parametrize(
    ("target", "c"), [("follow-others", 0.0), ("follow-others", 0.5), ("conservative", 0.3), ("follow-self", 0.2)]
)
def test_rounds_of_training_in_float64_equal_the_restatement(topology: Topology, target: str, c: float) -> None:
    task, n = runs.regression(), topology.n
    data, pieces = runs.partition(task, [4 + i for i in range(n)])
    layout = Layout.of(task.initial(0))

    def state(vector: torch.Tensor) -> dict[str, np.ndarray]:
        return {name: part.numpy() for name, part in layout.unflatten(vector).items()}

    def train(i: int, before: Any, t: int) -> dict[str, np.ndarray]:
        w = layout.flatten({name: torch.from_numpy(part) for name, part in before.items()})
        for _ in range(2):
            w = w - 0.1 * runs.gradient(w, data, pieces[i])
        return state(w)

    expected = restated.gossip(
        [state(runs.start(task, peer=i)) for i in range(n)],
        [topology.in_neighbours(i) for i in range(n)],
        train,
        3,
        target.replace("-", "_"),
        c,
        1e-8,
    )
    protocol = VarianceCorrected(steps=2, c=c, target=target)
    run = runs.run(protocol, task, (data, pieces), topology=topology, batch=0, rounds=3, init="independent")
    for i, vector in run.models.items():
        for name, part in state(vector).items():
            np.testing.assert_allclose(part, expected[-1][i][name], rtol=1e-10, atol=1e-12)


def test_with_equal_models_it_is_gossip() -> None:
    """All peers hold all data and start together: there is no variance to restore."""
    task = runs.regression(12)
    options: dict[str, Any] = {"topology": random_regular(6, 3, seed=1), "batch": 0, "rounds": 4}
    plain, corrected = (
        runs.stack(runs.run(protocol, task, runs.same(task, 6), **options))
        for protocol in (Gossip(steps=2), VarianceCorrected(steps=2))
    )
    torch.testing.assert_close(corrected, plain, rtol=1e-10, atol=1e-12)


def test_a_peer_without_neighbours_only_trains() -> None:
    task = runs.regression()
    pieces = runs.partition(task, [20])
    alone, corrected = (
        runs.run(name, task, pieces, rounds=3, batch=4) for name in ("isolated:5", "variance-corrected:5")
    )
    assert torch.equal(runs.stack(alone), runs.stack(corrected))
