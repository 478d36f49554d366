"""DeMo against its restatement, and its special cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shoal import simulate
from shoal.compression import DCT
from shoal.engine import ShoalError
from shoal.protocols import DeMo
from shoal.tensors import encode, normal

from ...restatements.compression import demo as restated
from .. import runs
from . import watched

SIZES = (7, 5, 6, 9)
SHAPE, CUT = (runs.OUTPUTS, runs.WIDTH), runs.WIDTH * runs.OUTPUTS


def tensors(x: torch.Tensor) -> list[Any]:
    return [x[:CUT].view(SHAPE).numpy(), x[CUT:].numpy()]


@pytest.mark.parametrize(("k", "chunk"), [(1, 3), (2, 64), (1, 1)])
def test_the_trajectory_is_the_restatements(k: int, chunk: int) -> None:
    start = runs.start(runs.regression())
    method = restated.DeMo(tensors(start), 4, lr=0.02, decay=0.8, k=k, chunk=chunk, weight_decay=0.2)
    for _ in range(12):
        x = torch.cat([torch.from_numpy(p).flatten() for p in method.params])
        method.step([tensors(g) for g in watched.gradients(x, SIZES)])
        assert min(np.abs(q).min() for q in method.Q) > 1e-9  # else signs are a matter of rounding
    _, peers = watched.run(DeMo(0.02, k, 0.8, chunk, 0.2), SIZES, rounds=12)
    expected = np.concatenate([p.ravel() for p in method.params])
    np.testing.assert_allclose(watched.models(peers).numpy(), np.tile(expected, (4, 1)), rtol=1e-11, atol=1e-13)
    for i in range(4):
        left = np.concatenate([d.ravel() for d in method.delta[i]])
        np.testing.assert_allclose(peers[i].state["momentum"].numpy(), left, rtol=1e-9, atol=1e-13)


def test_all_peers_stay_equal_bit_for_bit() -> None:
    run = simulate(
        DeMo(1e-3, k=2, decay=0.9, chunk=8), task="digits", peers=5, topology="complete", rounds=8, batch=8, seed=4
    )
    rows = runs.stack(run)
    assert all(torch.equal(rows[0], row) for row in rows)


def test_one_peer_that_sends_everything_is_sign_descent() -> None:
    x = runs.start(runs.regression())
    for _ in range(9):
        x = x - 0.01 * watched.gradients(x, (7,))[0].sign()
    _, peers = watched.run(DeMo(0.01, k=100, decay=0.9), (7,), rounds=9)
    torch.testing.assert_close(peers[0].model, x, rtol=1e-12, atol=1e-13)
    assert float(peers[0].state["momentum"].abs().max()) < 1e-15


def test_bytes_are_those_of_the_messages() -> None:
    peers, rounds = 3, 4
    run = simulate(
        DeMo(1e-3, k=2, chunk=16), task="digits", peers=peers, topology="complete", rounds=rounds, batch=8, seed=4
    )
    from shoal.simulation.tasks import digits
    from shoal.tensors import Layout

    layout = Layout.of(digits().initial(0))
    assert layout.size == run.info["parameters"]
    payload, _ = DCT(2, 16).encode(normal(1, layout.size), {}, 0, layout)
    count = peers * (peers - 1) * rounds
    size = count * len(encode(payload))
    assert size < run.info["bytes"]["total"] <= size + 60 * count


def test_a_graph_that_is_not_complete_is_refused() -> None:
    with pytest.raises((ValueError, ShoalError), match="complete is needed"):
        watched.run(DeMo(), SIZES, topology="ring")


@pytest.mark.parametrize(
    ("settings", "why"), [({"lr": -1.0}, "^lr"), ({"decay": 1.0}, "^decay"), ({"k": 0}, "^k"), ({"chunk": 300}, "^chu")]
)
def test_impossible_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DeMo(**settings)
