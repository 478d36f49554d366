"""TernGrad against its restatement, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal.compression.ternary import BLOCK
from shoal.optim import SGD
from shoal.protocols import TernGrad
from shoal.tensors import derive, key, packed_bits_size, packed_trits_size, uniform

from ...restatements.compression import terngrad as restated
from .. import runs
from . import watched

SIZES = (7, 5, 6)
WEIGHT, BIAS = slice(0, runs.WIDTH * runs.OUTPUTS), slice(runs.WIDTH * runs.OUTPUTS, runs.SIZE)


def layers(x: Tensor) -> list[Any]:
    return [x[WEIGHT].numpy(), x[BIAS].numpy()]


def draws(seed: int, worker: int, step: int) -> Tensor:
    """The uniform numbers that a worker compares its entries with."""
    assert runs.SIZE <= BLOCK
    own = key(seed, "peer", worker, "trits", step)
    return uniform(derive(own, 0), runs.SIZE, dtype=torch.float64)


@pytest.mark.parametrize("clip", [None, 1.2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_trajectory_is_the_restatements(clip: float | None, momentum: float) -> None:
    start = runs.start(runs.regression())
    method = restated.TernGrad(layers(start), lr=0.05, momentum=momentum, c=clip)
    for step in range(12):
        x = torch.cat([torch.from_numpy(p) for p in method.params])
        grads = watched.gradients(x, SIZES)
        method.step([layers(g) for g in grads], [layers(draws(3, i, step)) for i in range(len(SIZES))])
    rule = SGD.rule(0.05, momentum=momentum)
    _, peers = watched.run(TernGrad(clip), SIZES, rule=rule, rounds=12)
    expected = np.concatenate(method.params)
    np.testing.assert_allclose(watched.models(peers).numpy(), np.tile(expected, (4, 1)), rtol=1e-11, atol=1e-13)


def test_on_average_it_is_parallel_sgd() -> None:
    """One step, the mean over 30 seeds: within 5 standard errors, for a gradient that is not clipped."""
    errors = []
    for seed in range(3, 33):
        found, _ = watched.run(TernGrad(None), SIZES, rule=SGD.rule(1.0), rounds=1, seed=seed)
        x = runs.start(runs.regression(), seed)  # each seed starts elsewhere: what counts is the distance from its step
        errors.append(runs.stack(found)[0] - x + watched.gradients(x, SIZES).mean(0))
    error = torch.stack(errors)
    assert bool((error.mean(0).abs() <= 5.0 * error.std(0) / len(error) ** 0.5).all())
    assert float(error.std(0).min()) > 0.0


def test_the_largest_entry_of_a_layer_is_sent_for_certain() -> None:
    task = runs.regression()
    _, peers = watched.run(TernGrad(None), (6,), rounds=1)
    g = watched.gradients(runs.start(task), (6,))[0]
    moved = (watched.models(peers)[0] - runs.start(task)) / -0.1
    for layer in (WEIGHT, BIAS):
        top = g[layer].abs().argmax()
        torch.testing.assert_close(moved[layer][top], g[layer][top], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_bytes_are_those_of_the_formula(workers: int) -> None:
    """Of a model large enough, up to 300 bytes a message for envelope, question and scales."""
    from shoal import simulate

    rounds = 4
    run = simulate(TernGrad(), task="digits", model="mlp:128", peers=workers, rounds=rounds, batch=8, seed=5)
    d = run.info["parameters"]
    channels = {name: account["sent"] for name, account in run.info["bytes"]["channels"].items()}
    up = rounds * workers * packed_trits_size(d)
    width = 2 * workers + 1
    each = packed_trits_size(d) if width == 3 else packed_bits_size(d, (width - 1).bit_length())
    down = rounds * workers * each
    assert up < channels["up"] <= up + 300 * rounds * workers
    assert down <= channels["down"] <= down + 300 * rounds * workers
    assert channels["scales"] <= 300 * (rounds + 1) * workers


def test_a_clip_that_cuts_everything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^clip: got 0"):
        TernGrad(0.0)
