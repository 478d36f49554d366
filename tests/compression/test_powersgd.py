"""PowerSGD: low ranks exactly, best approximations in the end, and the restatement in `powersgd.py`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal.compression import ErrorFeedback, PowerSGD
from shoal.compression.powersgd import LowRank, orthonormal
from shoal.tensors import Layout, key, normal

from ..restatements.compression_b import powersgd as restated
from .vectors import sent, vector, wide

MATRIX = {"w": (12, 4, 5)}


def low_rank(n: int, m: int, r: int) -> Tensor:
    return normal(key(2, "left"), (n, r), dtype=torch.float64) @ normal(key(2, "right"), (r, m), dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_messages_with_error_feedback_are_the_steps_of_the_restatement(rank: int) -> None:
    """One worker; Q is kept orthonormal here and as it comes there, which changes no product."""
    layout = wide(MATRIX)
    codec = ErrorFeedback(PowerSGD(rank))
    memory = codec.start(layout)
    Q = memory["q"].view(20, rank).numpy()
    error = np.zeros((12, 20))
    for step in range(6):
        x = vector(layout, step)
        payload, memory = codec.encode(x, memory, 0, layout)
        U, [error], Q, floats = restated.step([x.view(12, 20).numpy()], [error], Q)
        torch.testing.assert_close(
            codec.decode(payload, layout).view(12, 20), torch.from_numpy(U), rtol=1e-8, atol=1e-9
        )
        assert isinstance(payload, LowRank)
        assert payload.p.numel() + payload.q.numel() == floats == rank * (12 + 20)


def test_a_matrix_of_low_rank_comes_back_whole() -> None:
    layout = wide({"w": (12, 20)})
    x = low_rank(12, 20, 2).flatten()
    torch.testing.assert_close(sent(PowerSGD(2), x, layout)[1], x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sent(PowerSGD(3), x, layout)[1], x, rtol=1e-10, atol=1e-10)


def test_the_same_matrix_again_and_again_becomes_its_best_approximation() -> None:
    layout = wide({"w": (12, 20)})
    codec, x = PowerSGD(2), vector(layout)
    U, S, Vh = torch.linalg.svd(x.view(12, 20))
    best = (U[:, :2] * S[:2]) @ Vh[:2]
    memory, errors = codec.start(layout), []
    for _ in range(60):
        payload, memory = codec.encode(x, memory, 0, layout)
        errors.append(float((codec.decode(payload, layout) - x).square().sum()))
    torch.testing.assert_close(codec.decode(payload, layout).view(12, 20), best, rtol=1e-3, atol=1e-3)
    assert errors[0] > errors[-1]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))
    assert errors[-1] == pytest.approx(float(S[2:].square().sum()), rel=1e-6)


def test_what_is_decoded_is_a_projection() -> None:
    """P P' M: what is lost is orthogonal to what is sent."""
    layout = wide({"w": (12, 20)})
    x = vector(layout)
    _, decoded = sent(PowerSGD(2), x, layout)
    assert float(decoded @ (x - decoded)) == pytest.approx(0.0, abs=1e-10 * float(x @ x))


def test_after_zeros_it_goes_on() -> None:
    layout = wide({"w": (12, 20)})
    codec, x = PowerSGD(2), low_rank(12, 20, 2).flatten()
    memory = codec.start(layout)
    for message in (torch.zeros_like(x), x):
        payload, memory = codec.encode(message, memory, 0, layout)
        torch.testing.assert_close(codec.decode(payload, layout), message, rtol=1e-10, atol=1e-10)


def test_small_layers_and_vectors_are_sent_as_they_are() -> None:
    layout = wide({"w": (12, 20), "b": (12,), "small": (3, 3), "s": ()})
    x = vector(layout)
    payload, decoded = sent(PowerSGD(2), x, layout)
    assert torch.equal(decoded[240:], x[240:])
    assert isinstance(payload, LowRank)
    assert payload.rest.numel() == 12 + 9 + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_become_orthonormal_even_when_nearly_parallel(dtype: torch.dtype) -> None:
    A = normal(key(5), (50, 1), dtype=torch.float64) + 1e-4 * normal(key(6), (50, 3), dtype=torch.float64)
    got, there = orthonormal(A.to(dtype))
    torch.testing.assert_close(got.T @ got, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)
    assert bool(there.all())
    got, there = orthonormal(torch.cat([A, 2 * A[:, :1]], 1).to(dtype))
    assert there.tolist() == [True, True, True, False]
    assert int(got[:, 3].count_nonzero()) == 0


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank: got 0"):
        PowerSGD(0)


def test_the_first_directions_are_the_same_for_every_sender() -> None:
    layout = Layout.from_shapes({"w": (30, 20)})
    assert torch.equal(PowerSGD(2).start(layout)["q"], PowerSGD(2).start(layout)["q"])
    assert int(PowerSGD(2).start(layout)["q"].count_nonzero()) == 40
