"""1-bit Adam against its restatement and against Adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shoal import simulate
from shoal.compression.onebit_adam import compensated, decoded, one_bit, with_error
from shoal.protocols import OneBitAdam
from shoal.tensors import Layout, key, normal, packed_bits_size

from ...restatements.compression import onebit_adam as restated
from .. import runs
from . import watched

SIZES = (7, 5, 6)
CUT = [runs.WIDTH * runs.OUTPUTS]


@pytest.mark.parametrize("sizes", [SIZES, (9,)])
def test_the_trajectory_is_the_restatements(sizes: tuple[int, ...]) -> None:
    start = runs.start(runs.regression())
    method = restated.OneBitAdam(
        start.numpy(), len(sizes), lr=0.03, warmup=6, betas=(0.8, 0.95), worker_cuts=CUT, server_cuts=CUT
    )
    for _ in range(20):
        method.step(watched.gradients(torch.from_numpy(method.x), sizes).numpy())
    _, peers = watched.run(OneBitAdam(0.03, (0.8, 0.95), warmup=6), sizes, rounds=20)
    expected = np.tile(method.x, (len(sizes) + 1, 1))
    np.testing.assert_allclose(watched.models(peers).numpy(), expected, rtol=1e-10, atol=1e-12)
    for i in range(len(sizes)):
        np.testing.assert_allclose(peers[i].state["error"].numpy(), method.worker_error[i], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(peers[len(sizes)].state["error"].numpy(), method.server_error, rtol=1e-9, atol=1e-12)


def test_the_first_phase_is_torchs_adam_on_the_mean() -> None:
    w = torch.nn.Parameter(runs.start(runs.regression()))
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(10):
        w.grad = watched.gradients(w.detach(), SIZES).mean(0)
        optimizer.step()
    _, peers = watched.run(OneBitAdam(0.05, warmup=10), SIZES, rounds=10)
    torch.testing.assert_close(watched.models(peers), w.detach().expand(4, -1), rtol=1e-11, atol=1e-13)


def test_the_bit_keeps_the_norm_of_a_layer_and_nothing_is_lost_for_ever() -> None:
    """sum of sent = sum of given - last error, in float64 (closed form)."""
    layout = Layout.from_shapes({"a": (20, 7), "b": (7,)}, dtype=torch.float64)
    m, error = torch.zeros(layout.size, dtype=torch.float64), torch.zeros(layout.size, dtype=torch.float64)
    given, sent = torch.zeros_like(m), torch.zeros_like(m)
    for t in range(30):
        g = normal(key(t, "g"), layout.size, dtype=torch.float64)
        payload, error = compensated(m, g, error, 0.9, layout)
        given, sent = given + 0.9 * m + (1 - 0.9) * g, sent + decoded(payload, layout)
        m = decoded(payload, layout)
    torch.testing.assert_close(sent + error, given, rtol=1e-12, atol=1e-12)
    u = normal(3, layout.size, dtype=torch.float64)
    for layer in layout:
        kept = decoded(one_bit(u, layout), layout)[layer.slice]
        torch.testing.assert_close(kept.norm(), u[layer.slice].norm(), rtol=1e-12, atol=0.0)
    payload, rest = with_error(u, layout)
    torch.testing.assert_close(decoded(payload, layout) + rest, u, rtol=1e-15, atol=1e-15)


def test_entries_without_a_gradient_in_the_first_phase_never_move() -> None:
    task = runs.regression()
    task.dataset.train.inputs[:, 1] = 0.0
    dead = torch.tensor([1, 1 + runs.WIDTH])
    run, _ = watched.run(OneBitAdam(0.01, warmup=4), task=task, rounds=12)
    found = runs.stack(run)[0]
    assert torch.equal(found[dead], runs.start(task)[dead])
    assert bool(torch.isfinite(found).all())


def test_bytes_are_those_of_the_formula() -> None:
    """32 bits an entry at first, then one, up and down, beside 300 bytes of envelopes and scales."""
    rounds, warmup, workers = 5, 2, 3
    run = simulate(
        OneBitAdam(1e-3, warmup=warmup),
        task="digits",
        model="mlp:128",
        peers=workers,
        rounds=rounds,
        batch=8,
        seed=5,
    )
    d = run.info["parameters"]
    channels = {name: account["sent"] for name, account in run.info["bytes"]["channels"].items()}
    each = warmup * 4 * d + (rounds - warmup) * packed_bits_size(d, 1)
    for channel in ("up", "down"):
        assert workers * each < channels[channel] <= workers * (each + 300 * (rounds + 1))


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"lr": -1.0}, "^lr"), ({"betas": (0.9, 1.0)}, "^betas"), ({"eps": 0.0}, "^eps"), ({"warmup": 0}, "^warmup")],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        OneBitAdam(**settings)
