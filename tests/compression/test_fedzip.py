"""FedZip against its independent restatement in NumPy, and what its bits hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal import simulate
from shoal.compression import ErrorFeedback, FedZip
from shoal.compression.fedzip import GAPS, POSITIONS, WORDS, Zipped, _labels, _Reader, k_means, kept, shortest, top
from shoal.learning import Task
from shoal.learning.data import load
from shoal.learning.models import mlp
from shoal.tensors import Layout, key, normal, uniform
from tests.restatements.compression import fedzip as restated

SHAPES = {"0.weight": (23, 31), "0.bias": (23,), "1.weight": (5, 23), "1.bias": (5,)}
LAYOUT = Layout.from_shapes(SHAPES, dtype=torch.float64)


def heavy_tailed(n: int, seed: int) -> Tensor:
    return normal(key(seed, "x"), n, dtype=torch.float64) ** 3


def layers(x: Tensor) -> list[restated.Array]:
    return [part.numpy() for part in LAYOUT.unflatten(x).values()]


def messages(x: Tensor, keep: float, *, zero: bool = False) -> list[restated.Message]:
    biases = [i for i, segment in enumerate(LAYOUT) if len(segment.shape) == 1]
    return restated.client(layers(x), None, keep, biases=biases, zero=zero)[0]


def back(bits: np.ndarray, n: int) -> np.ndarray:
    return _labels(_Reader(torch.from_numpy(np.packbits(bits, bitorder="little"))), n)


@pytest.mark.parametrize("keep", [0.003, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("zero", [False, True])
def test_values_and_bits_are_those_of_the_restatement(keep: float, zero: bool) -> None:
    for seed in range(6):
        x = heavy_tailed(LAYOUT.size, seed)
        codec = FedZip(keep, zero=zero)
        payload, _ = codec.encode(x, {}, 0, LAYOUT)
        expected = messages(x, keep, zero=zero)
        values = [m.decoded(s.shape).reshape(-1) for m, s in zip(expected, LAYOUT, strict=True)]
        np.testing.assert_allclose(codec.decode(payload, LAYOUT).numpy(), np.concatenate(values), rtol=1e-13)
        assert isinstance(payload, Zipped)
        # 2 bits of method are the restatement's, too; its 96 bits of centroids lie in a tensor of their own here.
        assert len(payload.labels) == -(-sum(2 + len(m.bits) for m in expected) // 8)


def test_error_feedback_is_the_restatements_over_several_messages() -> None:
    codec = ErrorFeedback(FedZip(0.05))
    memory, error = codec.start(LAYOUT), [np.zeros(s.shape) for s in LAYOUT]
    for message in range(4):
        x = heavy_tailed(LAYOUT.size, 20 + message)
        payload, memory = codec.encode(x, memory, 0, LAYOUT)
        sent, left = restated.client(layers(x), error, 0.05, biases=[1, 3])
        assert left is not None
        error = left
        values = np.concatenate([m.decoded(s.shape).reshape(-1) for m, s in zip(sent, LAYOUT, strict=True)])
        np.testing.assert_allclose(codec.decode(payload, LAYOUT).numpy(), values, rtol=1e-12, atol=1e-15)


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=80))
def test_labels_come_back_whatever_they_are(labels: list[int]) -> None:
    given_ = np.array(labels, np.uint8)
    assert back(shortest(given_), len(labels)).tolist() == labels


@given(n=st.integers(1, 5000), share=st.floats(0.0, 0.3), seed=st.integers(0, 1000))
def test_the_shortest_way_is_as_short_as_the_restatements(n: int, share: float, seed: int) -> None:
    u = uniform(key(seed, "labels"), n)
    labels = torch.where(u < share / 2, 0, torch.where(u > 1 - share / 2, 2, 1)).numpy()
    expected = min(len(restated.encode(labels, method)) for method in restated.METHODS)
    bits = shortest(labels.astype(np.uint8))
    assert len(bits) == 2 + expected
    assert (back(bits, n) == labels).all()


@pytest.mark.parametrize(("spread", "way"), [("even", WORDS), ("late", GAPS), ("two far apart", POSITIONS)])
def test_each_way_has_labels_for_which_it_is_the_shortest(spread: str, way: int) -> None:
    labels = np.ones(4096, np.uint8)
    if spread == "even":
        labels = (uniform(key(1, "even"), 4096) * 3).to(torch.uint8).numpy()
    elif spread == "late":
        labels[::40], labels[7::90] = 0, 2
    else:
        labels[4000] = 0
    bits = shortest(labels)
    assert int(bits[0]) + 2 * int(bits[1]) == way
    assert (back(bits, 4096) == labels).all()


def test_words_take_a_bit_an_entry_and_one_more_for_each_of_the_two_rarer_labels() -> None:
    labels = np.array([1] * 50 + [0] * 30 + [2] * 20, np.uint8)
    assert len(shortest(labels)) == 2 + 6 + 100 + 50


@pytest.mark.parametrize(
    ("n", "keep", "count"), [(100, 0.05, 5), (100, 1e-9, 1), (10, 0.25, 2), (7, 1.0, 7), (1, 0.5, 1)]
)
def test_how_many_are_kept(n: int, keep: float, count: int) -> None:
    assert kept(n, keep) == count == restated.kept(n, keep)
    assert int(top(heavy_tailed(n, 3), count).count_nonzero()) == count


def test_of_equal_magnitudes_the_first_are_kept() -> None:
    x = torch.tensor([1.0, -2.0, 2.0, -2.0, 0.5])
    assert top(x, 2).tolist() == [0.0, -2.0, 2.0, 0.0, 0.0]


def test_a_cluster_without_members_keeps_its_centroid() -> None:
    """Between -1 and 1 nothing is near the middle; all equal entries are the lowest cluster."""
    labels, centroids = k_means(torch.tensor([-1.0, 1.0, 1.0, -1.0]), 4)
    assert labels.tolist() == [0, 2, 2, 0]
    assert centroids.tolist() == [-1.0, 0.0, 1.0]
    labels, centroids = k_means(torch.full((5,), 3.0), 4)
    assert labels.tolist() == [0] * 5
    assert centroids.tolist() == [3.0] * 3


def test_centroids_stay_in_order_and_the_squared_error_does_not_grow_with_iterations() -> None:
    for seed in range(20):
        x = heavy_tailed(300, seed)
        errors = []
        for iterations in (1, 2, 4, 8):
            labels, centroids = k_means(x, iterations)
            assert bool((centroids.diff() >= 0).all())
            errors.append(float((x - centroids[labels.long()]).square().sum()))
        assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(errors))


def test_biases_are_not_pruned() -> None:
    x = torch.zeros(LAYOUT.size, dtype=torch.float64)
    x[LAYOUT["0.bias"].slice] = torch.arange(23, dtype=torch.float64) % 3 - 1.0
    codec = FedZip(0.01)
    assert torch.equal(codec.decode(codec.encode(x, {}, 0, LAYOUT)[0], LAYOUT), x)


def test_with_zero_what_is_pruned_is_sent_as_zero() -> None:
    x = heavy_tailed(LAYOUT.size, 5)
    plain, zero = (c.decode(c.encode(x, {}, 0, LAYOUT)[0], LAYOUT) for c in (FedZip(0.05), FedZip(0.05, zero=True)))
    weight = LAYOUT["0.weight"].slice
    assert int(zero[weight].count_nonzero()) < int(plain[weight].count_nonzero()) == LAYOUT["0.weight"].size


def test_one_percent_of_a_large_layer_is_hundreds_of_times_smaller() -> None:
    """100,000 heavy-tailed weights: words cannot go beyond 32 times, gaps can."""
    layout = Layout.from_shapes({"w": (250, 400)})
    payload, _ = FedZip(0.01).encode(heavy_tailed(100_000, 1).float(), {}, 0, layout)
    assert isinstance(payload, Zipped)
    assert 400_000 / (len(payload.labels) + 12) > 200
    labels = _labels(_Reader(payload.labels), 100_000)
    assert 32 * restated.huffman_bits(labels) >= 32 * 100_000


@pytest.mark.parametrize("settings", [{"keep": 0.0}, {"keep": 1.5}, {"keep": float("nan")}, {"iterations": 0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(settings))}: got"):
        FedZip(**settings)  # type: ignore[arg-type]


def test_federated_averaging_adds_what_was_decoded_of_the_clients_change() -> None:
    """One client, one round; its change is known from a run without a codec."""
    digits = load("digits")
    task = Task("digits", mlp(digits, hidden=8), digits)

    def model(rounds: int, codec: str) -> Tensor:
        run = simulate("fedavg", task=task, peers=1, batch=64, seed=4, network="ideal", rounds=rounds, codec=codec)
        (vector,) = run.models.values()
        return vector

    layout = Layout.of(task.initial(0))
    start, plain, zipped = model(0, "identity"), model(1, "identity"), model(1, "fedzip:keep=0.05")
    codec = FedZip(0.05)
    change = codec.decode(codec.encode(plain - start, {}, 0, layout)[0], layout)
    torch.testing.assert_close(zipped - start, change, rtol=1e-3, atol=1e-6)
    assert float((zipped - plain).norm()) > 0.05 * float((plain - start).norm())
