"""D-SGD and parallel SGD against the restatement's trajectories, and the theorem's identities."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shoal import names, simulate
from shoal.aggregation import consensus
from shoal.learning import Shard, Task
from shoal.learning.batches import batches, stream
from shoal.learning.data import Data, Dataset, contiguous, load
from shoal.optim import SGD
from shoal.papers import dsgd_sam as paper
from shoal.tensors.random import key
from shoal.topology import complete, ring

from ..restatements import dsgd_sam

Array = NDArray[np.float64]
SEED, WORKERS, BATCH = 11, 5, 7


@pytest.fixture(scope="module")
def task() -> Task:
    """Linear classification of digits in float64."""
    digits = load("digits")
    train, test = (Data(part.inputs.double(), part.targets) for part in (digits.train, digits.test))
    dataset = Dataset("digits", train, test, classes=10)
    build = names.call(names.parse("model", "logistic"), dataset)
    return Task("digits in float64", lambda: build().double(), dataset)


def softmax_gradient(w: Array, x: Array, y: NDArray[np.int64]) -> Array:
    """Gradient of the mean cross-entropy of a linear classifier; w holds the weights [10, d], then the biases [10]."""
    weight, bias = w[:-10].reshape(10, -1), w[-10:]
    z = x @ weight.T + bias
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1.0
    return np.concatenate([(p.T @ x).ravel(), p.sum(axis=0)]) / len(y)


def worker_gradients(task: Task, steps: int) -> Callable[[int, Array, int], Array]:
    """The gradients that peers with contiguous shards take: step t on batch number t of their own streams."""
    train, parts = contiguous(task.dataset.train, WORKERS)
    seen: list[list[Any]] = []
    for i, rows in enumerate(parts):
        schedule = stream(key(key(SEED, "peer", i), "batches"), len(rows), BATCH, steps, 0)
        seen.append(
            [(x[0].numpy(), y[0].numpy()) for x, y, _ in batches([schedule], [Shard(train, rows)], [1] * steps)]
        )
    return lambda i, w, t: softmax_gradient(w, *seen[i][t])


def run(protocol: str, task: Task, rounds: int, momentum: float, **more: Any) -> Array:
    result = simulate(
        protocol,
        task=task,
        partition="contiguous",
        peers=WORKERS,
        rounds=rounds,
        batch=BATCH,
        seed=SEED,
        optimizer=SGD.rule(0.3, momentum=momentum),
        init="independent" if protocol == "dsgd" else "common",
        **more,
    )
    return torch.stack(list(result.models.values())).numpy()


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("network", ["ideal", "wan"])
def test_dsgd_follows_the_restatement_on_the_same_batches(task: Task, momentum: float, network: str) -> None:
    steps = 6
    start = run("dsgd", task, 0, momentum, topology=ring(WORKERS))
    grads = worker_gradients(task, steps)
    expected = dsgd_sam.dsgd(start, dsgd_sam.ring(WORKERS), grads, 0.3, steps, momentum)
    for t in (1, 2, steps):
        got = run("dsgd", task, t, momentum, topology=ring(WORKERS), network=network)
        np.testing.assert_allclose(got, expected[t], rtol=0, atol=1e-9)


def test_fully_connected_dsgd_follows_the_restatement(task: Task) -> None:
    start = run("dsgd", task, 0, 0.0, topology=complete(WORKERS))
    expected = dsgd_sam.dsgd(start, dsgd_sam.fully_connected(WORKERS), worker_gradients(task, 4), 0.3, 4)
    np.testing.assert_allclose(run("dsgd", task, 4, 0.0, topology=complete(WORKERS)), expected[4], rtol=0, atol=1e-9)


def test_parallel_sgd_takes_the_exact_mean_of_the_gradients_that_dsgd_would_take(task: Task) -> None:
    start = run("parallel-sgd", task, 0, 0.0)
    expected = dsgd_sam.csgd(start[0], worker_gradients(task, 6), WORKERS, 0.3, 6)
    np.testing.assert_allclose(run("parallel-sgd", task, 6, 0.0)[0], expected[6], rtol=0, atol=1e-9)


def test_parallel_sgd_with_momentum_is_heavy_ball_on_the_mean_gradient(task: Task) -> None:
    steps, grads = 5, worker_gradients(task, 5)
    w = run("parallel-sgd", task, 0, 0.7)[0]
    v = np.zeros_like(w)
    for t in range(steps):
        v = 0.7 * v + np.mean([grads(i, w, t) for i in range(WORKERS)], axis=0)
        w = w - 0.3 * v
    np.testing.assert_allclose(run("parallel-sgd", task, steps, 0.7)[0], w, rtol=0, atol=1e-9)


# The objects of the theorem, against the restatement's.


def cubic(seed: int, dimension: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    H, T = rng.normal(size=(dimension,) * 2), rng.normal(size=(dimension,) * 3)
    return (
        rng.normal(size=dimension),
        (H + H.T) / 2,
        np.mean([np.transpose(T, order) for order in permutations(range(3))], axis=0),
    )


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 7))
@settings(deadline=None, max_examples=40)
def test_covariance_consensus_distance_and_sharpness_are_those_of_the_restatement(seed: int, d: int, m: int) -> None:
    W, (_, H, _) = 3 * np.random.default_rng(seed).normal(size=(m, d)), cubic(seed, d)
    rows, Xi = torch.from_numpy(W), dsgd_sam.consensus_covariance(W)
    np.testing.assert_allclose(consensus.covariance(rows).numpy(), Xi, rtol=0, atol=1e-12)
    assert consensus.consensus_distance(rows) == pytest.approx(dsgd_sam.consensus_distance(W), abs=1e-12)
    assert consensus.consensus_distance(rows) == pytest.approx(float(np.trace(Xi)), abs=1e-12)
    assert consensus.sharpness(rows, torch.from_numpy(H).mv) == pytest.approx(dsgd_sam.sharpness(Xi, H), abs=1e-11)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_for_a_cubic_loss_the_mean_gradient_is_the_smoothed_gradient(seed: int, d: int, m: int) -> None:
    W, (b, H, T) = np.random.default_rng(seed).normal(size=(m, d)), cubic(seed, d)
    rows, (tb, tH, tT) = torch.from_numpy(W), map(torch.from_numpy, (b, H, T))

    def gradient(w: torch.Tensor) -> torch.Tensor:
        return tb + tH @ w + torch.einsum("ijk,j,k->i", tT, w, w) / 2

    at_mean = dsgd_sam.cubic_gradient(W.mean(axis=0), b, H, T)
    expected = dsgd_sam.smoothed_gradient_cubic(at_mean, T, dsgd_sam.consensus_covariance(W))
    np.testing.assert_allclose(consensus.smoothed_gradient(rows, gradient).numpy(), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(consensus.mean_gradient(rows, gradient).numpy(), expected, rtol=0, atol=1e-11)


def test_sampled_gradient_is_exact_for_linear_gradients_and_close_for_cosines() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 4)))
    H = torch.from_numpy(cubic(1, 4)[1])
    once = consensus.sampled_gradient(rows, H.mv, draws=1, seed=3)
    torch.testing.assert_close(once, H @ rows.mean(0), rtol=0, atol=1e-13)  # antithetic draws cancel
    exact = torch.cos(rows.mean(0)) * torch.exp(-consensus.covariance(rows).diagonal() / 2)
    drawn = consensus.sampled_gradient(rows, torch.cos, draws=3_000, seed=3)
    torch.testing.assert_close(drawn, exact, rtol=0, atol=0.05)  # 5 standard errors


def test_predictive_spread_is_the_mean_and_the_variance_over_the_models() -> None:
    outputs = np.random.default_rng(2).normal(size=(5, 3, 2))
    for got, expected in zip(
        consensus.predictive_spread(torch.from_numpy(outputs)), dsgd_sam.predictive_spread(outputs), strict=True
    ):
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 2, 2)])
def test_what_is_not_a_matrix_of_models_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="rows"):
        consensus.consensus_distance(bad)


def test_simulated_dsgd_on_a_cubic_loss_moves_its_mean_along_the_smoothed_gradient() -> None:
    figures: dict[str, float] = {}
    assert paper.cubic_identity((5,), figures).holds
    assert figures["cubic: relative error"] <= 1e-12


def test_slope_of_a_power_is_its_exponent() -> None:
    x = [0.5, 0.1, 0.02]
    assert paper.slope(x, [7 * v**3 for v in x]) == pytest.approx(3, abs=1e-12)
