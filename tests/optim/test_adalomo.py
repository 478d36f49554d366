"""LOMO and AdaLomo against their restatements, within and after the backward pass, and the gradients that live."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.optim.adalomo import LOMO, AdaLomo, InBackward
from tests.optim.agreement import assert_compiles, bytes_per_entry
from tests.optim.following import NETWORK_SHAPES, SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adalomo as restated

clips = st.one_of(st.none(), st.floats(0.05, 3))


# -- the rules, on gradients that are left for step() ----------------------------------------------------------------


@settings(max_examples=15)
@given(st.floats(1e-4, 0.3), st.floats(0, 0.5), clips, clips)
def test_lomo_goes_the_restated_way(lr: float, weight_decay: float, norm: float | None, value: float | None) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "weight_decay": weight_decay,
        "clip_grad_norm": norm,
        "clip_grad_value": value,
    }
    follow(
        lambda p: LOMO(p, **options),
        lambda p: restated.LOMO(p, **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
    )


@settings(max_examples=15)
@given(
    st.floats(1e-4, 0.2),
    st.tuples(st.floats(1e-30, 1e-6), st.floats(1e-4, 0.1)),
    st.floats(0.5, 3),
    st.floats(-1, -0.3),
    st.floats(0, 0.5),
)
def test_adalomo_goes_the_restated_way(
    lr: float, eps: tuple[float, float], clip_threshold: float, decay_rate: float, weight_decay: float
) -> None:
    options: dict[str, Any] = {
        "lr": lr,
        "eps": eps,
        "clip_threshold": clip_threshold,
        "decay_rate": decay_rate,
        "weight_decay": weight_decay,
    }
    follow(
        lambda p: AdaLomo(p, **options),
        lambda p: restated.AdaLomo(p, **options),
        missing(quadratic()),
        rates=lambda step: lr / (1 + 0.05 * step),
        rtol=1e-8,
    )


def test_adalomo_trains_a_network_the_restated_way() -> None:
    follow(lambda p: AdaLomo(p, lr=0.1), lambda p: restated.AdaLomo(p, lr=0.1), network(), shapes=NETWORK_SHAPES)


def test_the_first_step_is_the_sign_where_squares_are_rows_times_columns() -> None:
    p = nn.Parameter(torch.full((3, 2), -2.0, dtype=torch.float64))
    signs = torch.tensor([[1.0, -1], [-1, -1], [1, 1]], dtype=torch.float64)
    rows, columns = torch.tensor([1e-3, 40, 2]), torch.tensor([5.0, 0.1])
    optimizer = AdaLomo([p], lr=0.25)
    (p * signs * rows.double()[:, None] * columns.double()).sum().backward()
    assert optimizer.state[p]["step"] == 1
    assert torch.allclose(p.detach(), -2.0 - 2.0 * 0.25 * signs, rtol=1e-12)


def test_state_is_nothing_or_a_row_and_a_column() -> None:
    assert bytes_per_entry(LOMO, {"clip_grad_norm": 1.0}) == 0
    assert bytes_per_entry(AdaLomo) == 4 * (40 + 25) / 1000


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    assert_stacks(LOMO, {"lr": 0.1, "weight_decay": 0.1, "clip_grad_value": 0.3})
    assert_stacks(LOMO, {"lr": 0.1, "clip_grad_norm": 0.4, "clip_grad_value": 0.3})
    assert_stacks(AdaLomo, {"lr": 0.05, "weight_decay": 0.1})


def test_one_compiled_loop_does_the_same() -> None:
    assert_compiles(LOMO, {"lr": 0.05, "weight_decay": 0.1, "clip_grad_value": 0.5})


# -- within the backward pass ----------------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    """A network [7] -> [5] in float64 whose largest tensor is [40, 30]; always the same."""
    torch.manual_seed(3)
    layers = nn.Linear(7, 30), nn.Tanh(), nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5)
    return nn.Sequential(*layers).double()


def loss_of(model: nn.Module, step: int) -> Tensor:
    draws = torch.Generator().manual_seed(step)
    x = torch.randn(16, 7, generator=draws, dtype=torch.float64)
    y = torch.randint(5, (16,), generator=draws)
    return nn.functional.cross_entropy(model(x), y)


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


MAKERS: list[Callable[[Any], InBackward]] = [
    lambda p: AdaLomo(p, lr=0.1, weight_decay=0.1),
    lambda p: LOMO(p, lr=0.3, weight_decay=0.1, clip_grad_value=0.01),
    lambda p: LOMO(p, lr=0.3, clip_grad_value=0.01, compile=True),
]


@pytest.mark.parametrize("make", MAKERS)
def test_stepping_within_the_pass_is_stepping_after_it(make: Callable[[Any], InBackward]) -> None:
    fused, ordinary = mlp(), mlp()
    within, after = make(fused.parameters()), make(ordinary.parameters())
    before = values(fused)
    for step in range(15):
        for optimizer in (within, after):
            optimizer.param_groups[0]["lr"] = 0.2 / (1 + 0.1 * step)
        loss_of(fused, step).backward()
        with after.keeping():
            loss_of(ordinary, step).backward()
        assert all(p.grad is None for p in fused.parameters())
        assert all(p.grad is not None for p in ordinary.parameters())
        after.step()
        assert all(p.grad is None for p in ordinary.parameters())
        assert_same(fused, ordinary)
    assert all((p - q).abs().max() > 0.001 for p, q in zip(fused.parameters(), before, strict=True))
    moved = values(fused)
    within.step()  # nothing is left for it
    assert all(torch.equal(p, q) for p, q in zip(values(fused), moved, strict=True))


class LiveGradients:
    """Counts the bytes of gradients that are alive whenever one more has been added up."""

    def __init__(self, model: nn.Module) -> None:
        self.peak, self._seen = 0, list[Any]()
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(self)

    def __call__(self, p: Tensor) -> None:
        assert p.grad is not None
        self._seen.append(weakref.ref(p.grad))
        self.peak = max(self.peak, self.alive())

    def alive(self) -> int:
        return sum(g.numel() * g.element_size() for g in (ref() for ref in self._seen) if g is not None)


@pytest.mark.parametrize("make", MAKERS)
def test_the_most_gradients_alive_are_the_largest_tensors(make: Callable[[Any], InBackward]) -> None:
    model = mlp()
    sizes = [8 * p.numel() for p in model.parameters()]
    counter = LiveGradients(model)  # its hooks come before the optimizer's
    optimizer = make(model.parameters())
    for step in range(3):
        loss_of(model, step).backward()
        assert counter.peak == max(sizes)
        assert counter.alive() == 0
    with optimizer.keeping():
        loss_of(model, 3).backward()
    assert counter.peak == sum(sizes)


def test_a_shared_weight_is_stepped_once_when_its_gradient_is_complete() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.tokens = nn.Embedding(6, 3)
            self.out = nn.Linear(3, 6, bias=False)
            self.out.weight = self.tokens.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.tanh(self.tokens(x)))  # type: ignore[no-any-return]

    fused, ordinary = Tied(), Tied()
    optimizer, sgd = LOMO(fused.parameters(), lr=0.5), torch.optim.SGD(ordinary.parameters(), lr=0.5)
    x, y = torch.tensor([0, 2, 5, 2]), torch.tensor([1, 0, 3, 2])
    for t in range(1, 6):
        for model in (fused, ordinary):
            nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()
        sgd.zero_grad()
        assert optimizer.state[fused.tokens.weight]["step"] == t
        torch.testing.assert_close(fused.tokens.weight, ordinary.tokens.weight)


def test_passes_that_keep_add_up_for_the_one_that_steps() -> None:
    fused, ordinary = mlp(), mlp()
    optimizer, sgd = LOMO(fused.parameters(), lr=0.3), torch.optim.SGD(ordinary.parameters(), lr=0.3)
    for step in range(0, 12, 3):
        with optimizer.keeping():
            loss_of(fused, step).backward()
            loss_of(fused, step + 1).backward()
        loss_of(fused, step + 2).backward()
        (loss_of(ordinary, step) + loss_of(ordinary, step + 1) + loss_of(ordinary, step + 2)).backward()
        sgd.step()
        sgd.zero_grad()
        assert_same(fused, ordinary)


def test_a_closure_steps_within_its_pass() -> None:
    fused, ordinary = mlp(), mlp()
    optimizer, after = AdaLomo(fused.parameters(), lr=0.1), AdaLomo(ordinary.parameters(), lr=0.1)

    def closure() -> float:
        loss = loss_of(fused, 1)
        loss.backward()
        return float(loss.detach())

    with after.keeping():
        loss_of(ordinary, 1).backward()
    expected = float(loss_of(mlp(), 1).detach())
    after.step()
    assert optimizer.step(closure) == expected
    assert_same(fused, ordinary)


def test_groups_keep_their_settings_and_frozen_parameters_their_values() -> None:
    model = mlp()
    for p in model[0].parameters():
        p.requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": model[0].named_parameters()},
        {"params": model[2].named_parameters(), "lr": 0.0},
    ]
    optimizer = AdaLomo(groups, lr=0.1)
    optimizer.add_param_group({"params": model[4].named_parameters()})
    before = values(model)
    loss_of(model, 0).backward()
    moved = [not torch.equal(p, q) for p, q in zip(values(model), before, strict=True)]
    assert moved == [False, False, False, False, True, True]
    assert optimizer.param_groups[2]["param_names"] == ["weight", "bias"]


# -- clipping by the norm of all gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0.02])
@pytest.mark.parametrize("norm", [0.05, 1e3])
def test_a_first_pass_measures_the_norm_by_which_the_second_is_clipped(norm: float, value: float | None) -> None:
    fused = mlp()
    theirs = restated.LOMO(
        [p.numpy() for p in values(fused)], lr=0.5, weight_decay=0.1, clip_grad_norm=norm, clip_grad_value=value
    )
    optimizer = LOMO(fused.parameters(), lr=0.5, weight_decay=0.1, clip_grad_norm=norm, clip_grad_value=value)
    for step in range(8):
        loss = loss_of(fused, step)
        gradients = torch.autograd.grad(loss, list(fused.parameters()), retain_graph=True)
        theirs.step([g.numpy() for g in gradients])
        before = values(fused)
        with optimizer.measuring():
            loss.backward(retain_graph=True)
        assert all(torch.equal(p, q) for p, q in zip(values(fused), before, strict=True))
        assert all(p.grad is None for p in fused.parameters())
        loss.backward()
        optimizer.step()
        for p, expected in zip(fused.parameters(), theirs.params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_norm_that_was_not_measured_is_asked_for() -> None:
    model = mlp()
    optimizer = LOMO(model.parameters(), clip_grad_norm=1.0)
    before = values(model)
    with pytest.raises(RuntimeError, match=r"clip_grad_norm.*measuring"):
        loss_of(model, 0).backward()
    assert all(torch.equal(p, q) for p, q in zip(values(model), before, strict=True))
    optimizer.zero_grad()
    with optimizer.measuring():
        loss_of(model, 0).backward()
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match="clip_grad_norm"):  # that norm has been used
        loss_of(model, 1).backward()


# -- lifetimes -------------------------------------------------------------------------------------------------------


def test_the_hooks_end_with_the_optimizer_or_when_they_are_taken_off() -> None:
    model = mlp()
    before = values(model)
    optimizer = LOMO(model.parameters(), lr=0.5)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    loss_of(model, 0).backward()
    detached = LOMO(model.parameters(), lr=0.5)
    detached.detach()
    loss_of(model, 0).backward()
    assert all(torch.equal(p, q) for p, q in zip(values(model), before, strict=True))
    assert all(p.grad is not None for p in model.parameters())
    detached.step()
    assert not any(torch.equal(p, q) for p, q in zip(values(model), before, strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_model_and_optimizer_goes_on_by_itself(copied: Callable[[Any], Any]) -> None:
    model = mlp()
    optimizer = AdaLomo(model.parameters(), lr=0.1)
    loss_of(model, 0).backward()
    state = optimizer.state_dict()
    start = values(model)
    other, second = copied((model, optimizer))
    loss_of(other, 1).backward()
    assert all(torch.equal(p, q) for p, q in zip(values(model), start, strict=True))
    fresh = mlp()
    with torch.no_grad():
        for p, q in zip(fresh.parameters(), start, strict=True):
            p.copy_(q)
    third = AdaLomo(fresh.parameters())
    third.load_state_dict(state)
    loss_of(fresh, 1).backward()
    assert_same(fresh, other)
    assert [s["step"] for s in second.state.values()] == [2] * 6


@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_start_to_move_by_the_least_size(shape: tuple[int, ...]) -> None:
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer = AdaLomo([p], lr=0.5, eps=(1e-30, 0.01))
    p.sum().backward()
    assert torch.allclose(p.detach(), torch.full(shape, -0.005, dtype=torch.float64), rtol=1e-12)
    assert optimizer.state[p]["step"] == 1


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (LOMO, "clip_grad_norm", 0.0),
        (LOMO, "clip_grad_value", -1.0),
        (AdaLomo, "eps", 1e-3),
        (AdaLomo, "decay_rate", 1),
    ],
)
def test_what_is_not_allowed_is_refused(cls: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        cls([nn.Parameter(torch.ones(1))], **{name: value})
