"""UPGD against its restatement, and what weights of known utility do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.upgd import UPGD
from shoal.tensors.random import derive, key, normal
from tests.optim.following import NETWORK_SHAPES, SHAPES, follow, missing, network, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import upgd as restated


def noise(seed: int) -> restated.Noise:
    """What our noise is, drawn outside of the optimizer."""

    def draw(i: int, t: int, shape: tuple[int, ...]) -> np.ndarray:
        return normal(derive(key(seed, "optimizer", i), t), shape, dtype=torch.float64).numpy()

    return draw


@settings(max_examples=12)
@given(
    st.floats(1e-4, 0.1),
    st.sampled_from([0.0, 0.1]),
    st.floats(0, 0.9999),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**40),
)
def test_upgd_goes_the_restated_way(
    lr: float,
    weight_decay: float,
    beta: float,
    sigma: float,
    protecting: bool,
    local: bool,
    corrected: bool,
    seed: int,
) -> None:
    chosen = {"lr": lr, "weight_decay": weight_decay, "beta_utility": beta, "sigma": sigma}
    chosen |= {"protecting": protecting, "local": local, "corrected_maximum": corrected}
    follow(
        lambda p: UPGD(p, **chosen, seed=seed),  # type: ignore[arg-type]
        lambda p: restated.UPGD(p, **chosen, noise=noise(seed)),  # type: ignore[arg-type]
        missing(quadratic(condition=10.0)),
        rates=lambda step: lr / (1 + step % 4),
        rtol=1e-8,
    )


def test_upgd_trains_a_network_the_restated_way() -> None:
    chosen = {"lr": 0.05, "sigma": 0.02, "weight_decay": 0.01}
    follow(
        lambda p: UPGD(p, **chosen, seed=5),  # type: ignore[arg-type]
        lambda p: restated.UPGD(p, **chosen, noise=noise(5)),  # type: ignore[arg-type]
        network(),
        shapes=NETWORK_SHAPES,
        rtol=1e-8,
    )


@pytest.mark.parametrize("local", [False, True])
def test_without_utility_it_is_sgd(local: bool) -> None:
    """Weights of zero have none."""
    w = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    w.grad = torch.arange(6, dtype=torch.float64).view(3, 2)
    g = w.grad.clone()
    UPGD([w], lr=0.1, sigma=0.0, weight_decay=0.0, local=local).step()
    torch.testing.assert_close(w.detach(), -0.1 * g, rtol=1e-15, atol=0)


def test_the_most_useful_weight_of_all_tensors_moves_half_as_far_and_the_others_further() -> None:
    """2 (1 - sigmoid(u / largest)) of what SGD does, without bias correction: beta = 0."""
    weights, gradients = [[1.0, -2.0], [0.5, 4.0, 0.0]], [[0.3, 1.5], [-2.0, -0.1, 1.0]]
    ps = [nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in weights]
    for p, g in zip(ps, gradients, strict=True):
        p.grad = torch.tensor(g, dtype=torch.float64)
    UPGD(ps, lr=0.1, sigma=0.0, weight_decay=0.0, beta_utility=0.0).step()
    for p, ws, gs in zip(ps, weights, gradients, strict=True):
        for after, w, g in zip(p.tolist(), ws, gs, strict=True):
            assert after == pytest.approx(w - 0.2 * g / (1 + np.exp(-g * w / 3.0)))  # the largest -g w is 3


def test_noise_depends_on_seed_step_and_parameter_alone() -> None:
    def walk(seed: int, steps: int) -> list[torch.Tensor]:
        ps = [nn.Parameter(torch.zeros(50, dtype=torch.float64)) for _ in range(2)]
        optimizer = UPGD(ps, lr=1.0, sigma=1.0, weight_decay=0.0, seed=seed, protecting=False)
        for _ in range(steps):
            for p in ps:
                p.detach().zero_()
                p.grad = torch.zeros_like(p)
            optimizer.step()
        return [p.detach().clone() for p in ps]

    once, again, later, other = walk(3, 1), walk(3, 1), walk(3, 2), walk(4, 1)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    different = [once[0], once[1], later[0], later[1], other[0], other[1]]
    correlations = np.corrcoef(torch.stack(different).numpy())
    assert np.abs(correlations - np.eye(6)).max() < 0.5


def test_a_larger_maximum_in_one_tensor_frees_the_weights_of_another() -> None:
    moves = []
    for size in (1.0, 100.0):
        a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([size]))
        a.grad, b.grad = torch.tensor([-1.0]), torch.tensor([-1.0])
        UPGD([a, b], lr=0.1, sigma=0.0, weight_decay=0.0, beta_utility=0.5).step()
        moves.append(float(a.detach()) - 1.0)
    assert 0 < moves[0] < moves[1] < 0.1


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("protecting", [False, True])
def test_stacked_peers_go_the_way_of_separate_ones(local: bool, protecting: bool) -> None:
    chosen = {"lr": 0.02, "sigma": 0.1, "weight_decay": 0.1, "seed": 9, "local": local, "protecting": protecting}
    assert_stacks(UPGD, chosen)


def test_state_is_one_number_a_weight_and_a_seed_a_tensor() -> None:
    for sigma, seeds in ((0.001, 4), (0.0, 0)):
        ps = [nn.Parameter(torch.from_numpy(p).float()) for p in starts()]
        optimizer = UPGD(ps, sigma=sigma)
        torch_gradients(ps, quadratic(), 0)
        optimizer.step()
        assert optimizer.state_bytes() == 4 * sum(int(np.prod(shape)) for shape in SHAPES) + 8 * seeds


@pytest.mark.parametrize(("name", "value"), [("beta_utility", 1.0), ("sigma", -0.1), ("seed", -1), ("local", 1)])
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        UPGD([nn.Parameter(torch.ones(1))], **{name: value})  # type: ignore[arg-type]
