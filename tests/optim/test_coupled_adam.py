"""Coupled Adam against its restatement, the mean embedding that stays, and which weights are embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adamw import AdamW
from shoal.optim.core import Optimizer
from shoal.optim.coupled_adam import CoupledAdam, embedding_groups
from tests.optim.following import (
    NETWORK_SHAPES,
    SHAPES,
    follow,
    missing,
    network,
    quadratic,
    starts,
    torch_gradients,
)
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import coupled_adam as restated


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(0, 0.5),
    st.floats(0.2, 5),
)
def test_it_goes_the_restated_way(lr: float, betas: tuple[float, float], weight_decay: float, avg_scale: float) -> None:
    options: dict[str, Any] = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "avg_scale": avg_scale}

    def ours(p: list[nn.Parameter]) -> CoupledAdam:
        groups = [{"params": [q], "embedding": i in (0, 2)} for i, q in enumerate(p)]
        return CoupledAdam(groups, **options)

    follow(
        ours,
        lambda p: restated.CoupledAdam(p, embeddings=(0, 2), **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
    )


def test_it_trains_a_network_the_restated_way() -> None:
    def halves(p: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": p[:1], "embedding": True}, {"params": p[1:]}]

    follow(
        lambda p: CoupledAdam(halves(p), lr=0.02),
        lambda p: restated.CoupledAdam(p, embeddings=(0,), lr=0.02),
        network(),
        shapes=NETWORK_SHAPES,
    )


def test_what_is_not_an_embedding_goes_with_adamw() -> None:
    options: dict[str, Any] = {"lr": 0.03, "betas": (0.8, 0.9), "weight_decay": 0.2}
    ours, theirs = ([nn.Parameter(torch.from_numpy(p)) for p in starts()] for _ in range(2))
    optimizers = CoupledAdam(ours, **options), AdamW(theirs, **options)
    for step in range(20):
        torch_gradients(ours, quadratic(), step)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = p.grad
        for optimizer in optimizers:
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_the_mean_output_embedding_stays_where_it_was_and_adams_drifts() -> None:
    def drift(make: Any) -> float:
        draws = np.random.default_rng(11)
        e = nn.Parameter(torch.from_numpy(draws.normal(size=(30, 6))))
        start = e.detach().mean(0)
        zipf = 1 / np.arange(1, 31)
        optimizer: Optimizer = make(e)
        for _ in range(150):
            hidden = torch.from_numpy(draws.normal(0.5, 1, size=(16, 6)))
            labels = torch.from_numpy(draws.choice(30, 16, p=zipf / zipf.sum()))
            optimizer.zero_grad()
            nn.functional.cross_entropy(hidden @ e.T, labels).backward()
            optimizer.step()
        return float((e.detach().mean(0) - start).norm())

    coupled = drift(lambda e: CoupledAdam([{"params": [e], "embedding": True}], lr=0.01, weight_decay=0.0))
    separate = drift(lambda e: AdamW([e], lr=0.01, weight_decay=0.0))
    assert coupled < 1e-13 < 0.05 < separate


def test_second_moments_of_an_embedding_are_one_row() -> None:
    p = nn.Parameter(torch.ones(50, 4))
    p.grad = torch.ones(50, 4)
    optimizer = CoupledAdam([{"params": [p], "embedding": True}])
    optimizer.step()
    assert optimizer.state_bytes() == 4 * (50 * 4 + 4)


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(CoupledAdam, {"lr": 0.05, "embedding": ("p0", "p1"), "avg_scale": 2.0})
    assert_stacks(CoupledAdam, {"lr": 0.05})
    assert_stacks(CoupledAdam, {"lr": 0.05, "embedding": True}, shapes=SHAPES[:3])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4)
        self.middle = nn.Linear(4, 4)
        self.out = nn.Linear(4, 9, bias=False)
        self.out.weight = self.tokens.weight


def test_groups_have_the_embeddings_apart_a_shared_one_once() -> None:
    embeddings, rest = embedding_groups(Tied())
    assert embeddings["embedding"] is True
    assert rest["embedding"] is False
    assert [name for name, _ in embeddings["params"]] == ["tokens.weight"]
    assert [name for name, _ in rest["params"]] == ["middle.weight", "middle.bias"]


def test_other_modules_can_be_embeddings_on_demand() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    embeddings, rest = embedding_groups(model, also=[model[1]])
    assert [name for name, _ in embeddings["params"]] == ["0.weight", "1.weight"]
    assert [name for name, _ in rest["params"]] == ["1.bias"]
    with pytest.raises(ValueError, match="also"):
        embedding_groups(model, also=[nn.Linear(4, 9)])


def test_the_groups_of_a_model_move_its_rows_with_common_step_sizes() -> None:
    model = Tied()
    optimizer = CoupledAdam(embedding_groups(model), lr=0.1, weight_decay=0.0)
    before = model.tokens.weight.detach().clone()
    gradient = torch.arange(1.0, 10.0)[:, None].expand(9, 4)
    model.tokens.weight.grad = gradient.clone()
    optimizer.step()
    moved = before - model.tokens.weight.detach()
    assert torch.allclose(moved / moved[:1], gradient / gradient[:1], rtol=1e-4)  # Adam's would all be 0.1


def test_a_tensor_without_rows_is_no_embedding() -> None:
    p = nn.Parameter(torch.tensor(1.0))
    p.grad = torch.tensor(1.0)
    with pytest.raises(ValueError, match="embedding"):
        CoupledAdam([{"params": [p], "embedding": True}]).step()
    with pytest.raises(ValueError, match="embedding"):
        CoupledAdam([p], embedding="p")  # type: ignore[arg-type]
