"""NovoGrad against its restatement, and what normalising by tensor implies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.novograd import NovoGrad
from tests.optim.following import NETWORK_SHAPES, SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import novograd as restated

betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))


@settings(max_examples=25)
@given(st.floats(1e-4, 0.1), betas, st.floats(1e-10, 0.1), st.sampled_from([0.0, 0.3]), st.booleans(), st.booleans())
def test_novograd_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, averaging: bool, amsgrad: bool
) -> None:
    chosen = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    chosen |= {"grad_averaging": averaging, "amsgrad": amsgrad}
    follow(
        lambda p: NovoGrad(p, **chosen),  # type: ignore[arg-type]
        lambda p: restated.NovoGrad(p, **chosen),  # type: ignore[arg-type]
        missing(quadratic()),
        rates=lambda step: lr * 0.97**step,
    )


def test_novograd_trains_a_network_the_restated_way() -> None:
    follow(
        lambda p: NovoGrad(p, lr=0.02, weight_decay=1e-3),
        lambda p: restated.NovoGrad(p, lr=0.02, weight_decay=1e-3),
        network(),
        shapes=NETWORK_SHAPES,
    )


def test_a_first_gradient_of_zeros_leaves_the_beginning_to_the_next() -> None:
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = NovoGrad([w], lr=0.5, eps=0.1)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert w.tolist() == [1.0, 2.0]
    w.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()
    assert w.tolist() == pytest.approx([1.0 - 0.5 * 3.0 / 5.1, 2.0 - 0.5 * 4.0 / 5.1])


@given(st.lists(st.floats(-6, 6), min_size=4, max_size=4))
@settings(max_examples=10)
def test_a_tensors_gradients_times_a_constant_change_nothing(exponents: list[float]) -> None:
    gradients, paths = quadratic(seed=3), []
    for factors in ([1.0] * 4, [10.0**e for e in exponents]):
        ps = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
        optimizer = NovoGrad(ps, lr=0.01, weight_decay=0.01, eps=0.0)
        for step in range(50):
            torch_gradients(ps, gradients, step)
            for p, factor in zip(ps, factors, strict=True):
                assert p.grad is not None
                p.grad.mul_(factor)
            optimizer.step()
        paths.append(ps)
    for a, b in zip(*paths, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_without_memory_every_tensor_moves_by_the_learning_rate() -> None:
    ps = [nn.Parameter(torch.from_numpy(p)) for p in starts()]
    optimizer, gradients = NovoGrad(ps, lr=0.3, betas=(0.0, 0.0), eps=0.0), quadratic()
    for step in range(5):
        before = [p.detach().clone() for p in ps]
        torch_gradients(ps, gradients, step)
        optimizer.step()
        for p, q in zip(ps, before, strict=True):
            assert float((p.detach() - q).norm()) == pytest.approx(0.3, rel=1e-12)


def test_one_exploding_gradient_moves_a_tensor_no_further_than_its_neighbours() -> None:
    w = nn.Parameter(torch.from_numpy(np.random.default_rng(0).normal(size=20)))
    optimizer = NovoGrad([w], lr=0.01, betas=(0.0, 0.9), eps=0.0)
    for step in range(20):
        before = w.detach().clone()
        w.grad = before * (1e4 if step == 10 else 1.0)
        optimizer.step()
        assert float((w.detach() - before).norm()) <= 0.01 / np.sqrt(0.1) * (1 + 1e-9)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_stacked_peers_go_the_way_of_separate_ones(amsgrad: bool) -> None:
    assert_stacks(NovoGrad, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": amsgrad, "grad_averaging": amsgrad})


def test_state_is_one_number_a_weight_and_one_a_tensor() -> None:
    ps = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = NovoGrad(ps)
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state_bytes() == 4 * (sum(p.numel() for p in ps) + len(ps))
