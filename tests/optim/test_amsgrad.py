"""AMSGrad and AdamNC: the restated way, torch's way, and the publication's counterexamples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam import Adam
from shoal.optim.amsgrad import AdamNC, AMSGrad
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import amsgrad as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))
PUBLISHED: dict[str, Any] = {"eps": 0.0, "bias_correction": False, "sqrt_decay": True}


@settings(max_examples=30)
@given(rates, betas, st.sampled_from([0.0, 1e-8, 1e-3]), st.booleans(), st.booleans(), st.floats(0.3, 2.0))
def test_amsgrad_goes_the_restated_way(
    lr: float, betas: tuple[float, float], eps: float, corrected: bool, slower: bool, size: float
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "sqrt_decay": slower, "box": (-size, 1.5 * size)}
    same["bias_correction"] = corrected
    follow(lambda p: AMSGrad(p, **same), lambda p: restated.AMSGrad(p, **same), missing(quadratic()))


@settings(max_examples=20)
@given(rates, betas, st.floats(0.8, 1.0))
def test_the_published_form_goes_the_restated_way(lr: float, betas: tuple[float, float], decay: float) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "beta1_decay": decay}
    follow(lambda p: AMSGrad(p, **same, **PUBLISHED), lambda p: restated.AMSGrad(p, **same), quadratic())


def test_amsgrad_trains_a_network_the_restated_way() -> None:
    follow(
        lambda p: AMSGrad(p, lr=0.02),
        lambda p: restated.AMSGrad(p, lr=0.02, eps=1e-8, sqrt_decay=False, bias_correction=True),
        network(),
        shapes=NETWORK_SHAPES,
        rates=lambda step: 0.02 / (1 + step % 7),
    )


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_by_default_it_is_torchs_adam_with_amsgrad(decay: float) -> None:
    assert_as_torch(
        lambda p: AMSGrad(p, lr=0.03, betas=(0.8, 0.95), weight_decay=decay),
        lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.8, 0.95), weight_decay=decay, amsgrad=True),
    )


@given(st.floats(0.01, 0.95), st.floats(0.5, 1.0), st.floats(-3, 3).filter(lambda g: abs(g) > 1e-2))
def test_corrected_moments_of_a_constant_gradient_are_without_bias(beta1: float, decay: float, g: float) -> None:
    ours = path(lambda p: AMSGrad(p, lr=0.1, betas=(beta1, 0.9), eps=0.0, beta1_decay=decay), [0.0], [g] * 30)
    expected = [-0.1 * math.copysign(t, g) for t in range(31)]
    torch.testing.assert_close(torch.cat(ours), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_without_eps_an_entry_stays_until_it_has_seen_a_gradient() -> None:
    gradients = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0]), torch.tensor([2.0, 0.0])]
    values = path(lambda p: AMSGrad(p, lr=0.1, **PUBLISHED), [1.0, 1.0], gradients)
    assert [float(v[0]) for v in values[:3]] == [1.0, 1.0, 1.0]
    assert 0.0 < float(values[3][0]) < 1.0


def online(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], c: float, steps: int, lr: float) -> list[float]:
    """Iterates on [-1, 1] under losses c x at every third step and -x at the others; the best fixed x is -1."""
    p = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    optimizer, values = make([p]), []
    for t in range(1, steps + 1):
        values.append(float(p.detach()))
        optimizer.param_groups[0]["lr"] = lr / math.sqrt(t)
        p.grad = torch.tensor([c if t % 3 == 1 else -1.0], dtype=torch.float64)
        optimizer.step()
        p.data.clamp_(-1.0, 1.0)
    return values


def regret(values: list[float], c: float) -> float:
    return sum((c if t % 3 == 1 else -1.0) * (x + 1.0) for t, x in enumerate(values, 1)) / len(values)


def test_adam_goes_to_the_worst_point_where_amsgrad_goes_to_the_best() -> None:
    c, lr, steps = 4.0, 0.4, 4000
    betas = (0.0, 1.0 / (1.0 + c * c))
    adam = online(lambda p: Adam(p, betas=betas), c, steps, lr)
    ours = online(lambda p: AMSGrad(p, betas=betas, eps=0.0, bias_correction=False, box=(-1.0, 1.0)), c, steps, lr)
    assert adam[-1] > 0.9
    assert regret(adam, c) > 0.5
    assert ours[-1] < -0.9
    assert regret(ours, c) < 0.05


def test_the_published_rate_never_grows_though_adams_does() -> None:
    """lr_t / sqrt(w), read off a rule without momentum: the step over the gradient."""
    gradients = [5.0 if t % 3 == 1 else -1.0 for t in range(1, 60)]
    ours = path(lambda p: AMSGrad(p, lr=0.1, betas=(0.0, 0.3), **PUBLISHED), [0.0], gradients)
    adam = path(lambda p: Adam(p, lr=0.1, betas=(0.0, 0.3), eps=0.0), [0.0], gradients)

    def rates(values: list[torch.Tensor]) -> list[float]:
        return [float(a - b) / g for (a, b), g in zip(itertools.pairwise(values), gradients, strict=True)]

    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(rates(ours)))
    scaled = [rate / math.sqrt(t) for t, rate in enumerate(rates(adam), 1)]
    assert any(later > earlier for earlier, later in itertools.pairwise(scaled))


def test_adamnc_without_momentum_is_adagrad() -> None:
    assert_as_torch(
        lambda p: AdamNC(p, lr=0.3, beta1=0.0, eps=0.0, weight_decay=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.3, eps=0.0, weight_decay=0.1),
    )


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=12), st.floats(0, 0.9), st.floats(0.5, 1.0))
def test_adamnc_divides_by_the_mean_of_all_squares(gradients: list[float], beta1: float, decay: float) -> None:
    values = path(lambda p: AdamNC(p, lr=0.2, beta1=beta1, beta1_decay=decay, eps=1e-3), [0.5], gradients)
    x, m = 0.5, 0.0
    for t, g in enumerate(gradients, 1):
        beta = beta1 * decay ** (t - 1)
        m = beta * m + (1 - beta) * g
        mean = sum(h * h for h in gradients[:t]) / t
        x -= 0.2 / math.sqrt(t) * m / (math.sqrt(mean) + 1e-3)
        assert float(values[t]) == pytest.approx(x, rel=1e-9, abs=1e-11)


@given(st.floats(-3, 3), st.floats(0.1, 2.0))
def test_the_box_is_never_left(g: float, size: float) -> None:
    for cls in (AMSGrad, AdamNC):
        values = path(lambda p, cls=cls: cls(p, lr=1.0, box=(-size, size)), [0.0, 0.05], [g] * 5)  # type: ignore[misc]
        assert all(float(v.abs().max()) <= size for v in values)


@pytest.mark.parametrize("cls", [AMSGrad, AdamNC])
@pytest.mark.parametrize("box", [(1.0, -1.0), (0.0, 0.0), (1.0,), 3.0])
def test_a_box_must_have_room(cls: type[AMSGrad], box: Any) -> None:
    with pytest.raises(ValueError, match="box"):
        cls([nn.Parameter(torch.zeros(2))], box=box)


CASES: list[tuple[Any, dict[str, Any]]] = [
    (AMSGrad, {"lr": 0.05, "weight_decay": 0.1}),
    (AMSGrad, {"lr": 0.05, "beta1_decay": 0.9, "box": (-0.5, 0.7)}),
    (AMSGrad, {"lr": 0.05, "beta1_decay": 0.9, **PUBLISHED}),
    (AdamNC, {"lr": 0.3, "beta1_decay": 0.9, "weight_decay": 0.1}),
    (AdamNC, {"lr": 0.3, "eps": 0.0, "box": (-0.5, 0.7)}),
]


@pytest.mark.parametrize(("cls", "case"), CASES)
def test_stacked_peers_go_the_way_of_separate_ones(cls: Any, case: dict[str, Any]) -> None:
    assert_stacks(cls, case)


@pytest.mark.parametrize(("cls", "case"), CASES)
def test_one_compiled_loop_does_the_same(cls: Any, case: dict[str, Any]) -> None:
    assert_compiles(cls, case)


def test_state_is_three_numbers_an_entry_and_two_of_adamnc() -> None:
    assert bytes_per_entry(AMSGrad) == 12
    assert bytes_per_entry(AdamNC) == 8


def test_groups_with_and_without_eps_do_not_share_a_compiled_loop() -> None:
    def run(compiled: bool) -> list[float]:
        ps = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        groups = [{"params": [ps[0]], "eps": 1e-3}, {"params": [ps[1]], "eps": 0.0}]
        optimizer = AMSGrad(groups, lr=0.1, compile=compiled)
        for g in ([0.0, 1.0], [0.5, -1.0]):
            for p in ps:
                p.grad = torch.tensor(g)
            optimizer.step()
        return torch.cat([p.detach() for p in ps]).tolist()

    assert run(compiled=True) == pytest.approx(run(compiled=False), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 1), ({"weight_decay": 0.1}, 1), ({"sqrt_decay": True}, 0), ({"beta1_decay": 0.9}, 0), ({"eps": 0.0}, 0)],
)
def test_torchs_kernel_is_taken_where_it_is_the_same_rule(
    settings: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a parameter that the kernel cannot take goes the same way without it."""
    taken, kernel = [], torch._fused_adam_
    monkeypatch.setattr(torch, "_fused_adam_", lambda *args, **kwargs: (taken.append(1), kernel(*args, **kwargs)))
    whole, turned = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4, 3).T)
    for p in (whole, turned):
        optimizer = AMSGrad([p], lr=0.1, **settings)
        for step in range(3):
            p.grad = torch.linspace(-1.0, 2.0, 12).view(3, 4).sin() / (step + 1)
            optimizer.step()
    assert len(taken) == 3 * count
    torch.testing.assert_close(whole, turned.contiguous(), rtol=1e-5, atol=1e-6)
