"""AdaMod: the restated way, the bound, and Adam as a limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adamod import AdaMod
from tests.optim.agreement import assert_as_torch, assert_compiles, bytes_per_entry, path
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adamod as restated

rates = st.floats(1e-4, 0.1)
betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.999))
fractions = st.floats(0, 0.999)


@settings(max_examples=40)
@given(rates, betas, fractions, st.floats(1e-8, 1e-2), st.floats(0, 0.5), st.booleans())
def test_adamod_goes_the_restated_way(
    lr: float, betas: tuple[float, float], beta3: float, eps: float, decay: float, paper: bool
) -> None:
    same: dict[str, Any] = {"lr": lr, "betas": betas, "beta3": beta3, "eps": eps, "weight_decay": decay}
    same["paper_form"] = paper
    follow(lambda p: AdaMod(p, **same), lambda p: restated.AdaMod(p, **same), missing(quadratic()))


def test_adamod_trains_a_network_the_restated_way() -> None:
    same: dict[str, Any] = {"lr": 0.02, "beta3": 0.95}
    rates = lambda step: 0.02 * 0.95**step  # noqa: E731
    follow(
        lambda p: AdaMod(p, **same),
        lambda p: restated.AdaMod(p, **same),
        network(),
        shapes=NETWORK_SHAPES,
        rates=rates,
    )


def test_without_memory_of_rates_the_printed_form_is_adam() -> None:
    assert_as_torch(
        lambda p: AdaMod(p, lr=0.03, betas=(0.8, 0.99), beta3=0.0, weight_decay=0.1, paper_form=True),
        lambda p: torch.optim.AdamW(p, lr=0.03, betas=(0.8, 0.99), weight_decay=0.1),
    )


def test_without_memory_of_rates_the_codes_form_is_adam_up_to_eps() -> None:
    assert_as_torch(
        lambda p: AdaMod(p, lr=0.03, beta3=0.0, eps=1e-14),
        lambda p: torch.optim.Adam(p, lr=0.03, eps=1e-14),
        tolerance=1e-9,
    )


@given(st.floats(0.5, 0.999), st.floats(0.1, 0.95), st.floats(0.1, 5.0), st.booleans())
def test_the_first_two_steps_of_a_constant_gradient_have_closed_forms(
    beta3: float, beta1: float, g: float, paper: bool
) -> None:
    """Adam's are lr each."""
    make = lambda p: AdaMod(p, lr=0.1, betas=(beta1, 0.99), beta3=beta3, eps=1e-14, paper_form=paper)  # noqa: E731
    first, second = (-torch.cat(path(make, [0.0], [g, g])).diff()).tolist()
    assert first == pytest.approx(0.1 * (1 - beta3), rel=1e-9)
    grown = beta3 if paper else beta3 * (1 + beta1)
    assert second == pytest.approx(0.1 * min(1.0, (1 - beta3) * (1 + grown)), rel=1e-9)


@settings(max_examples=30)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=30), fractions, st.booleans())
def test_no_rate_is_above_its_running_average(gradients: list[float], beta3: float, paper: bool) -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = AdaMod([p], lr=0.1, beta3=beta3, paper_form=paper)
    for t, g in enumerate(gradients, 1):
        before = float(p.detach())
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[p]
        m = abs(float(state["m"])) / (1 - 0.9**t if paper else 1.0)
        assert abs(before - float(p.detach())) <= float(state["s"]) * m * (1 + 1e-9) + 1e-15


def test_early_rates_are_a_small_part_of_adams() -> None:
    """s is below 1 - beta3^t of the largest rate that Adam has had."""
    generator = torch.Generator().manual_seed(4)
    p = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    optimizer = AdaMod([p], lr=0.1, beta3=0.995)
    largest = torch.zeros(20, dtype=torch.float64)
    for t in range(1, 21):
        before = p.detach().clone()
        p.grad = torch.randn(20, dtype=torch.float64, generator=generator)
        optimizer.step()
        state = optimizer.state[p]
        rate = 0.1 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) / (state["v"].sqrt() + 1e-8)
        largest = torch.maximum(largest, rate)
        taken = (before - p.detach()) / state["m"]
        assert bool((taken > 0).all())
        assert bool((taken <= (1 - 0.995**t) * largest * (1 + 1e-9)).all())
    assert bool((taken < 0.1 * largest).all())


CASES: list[dict[str, Any]] = [
    {"lr": 0.05, "weight_decay": 0.1, "beta3": 0.7},
    {"lr": 0.05, "beta3": 0.7, "paper_form": True},
]


@pytest.mark.parametrize("case", CASES)
def test_stacked_peers_go_the_way_of_separate_ones(case: dict[str, Any]) -> None:
    assert_stacks(AdaMod, case)


@pytest.mark.parametrize("case", CASES)
def test_one_compiled_loop_does_the_same(case: dict[str, Any]) -> None:
    assert_compiles(AdaMod, case)


def test_state_is_three_numbers_an_entry() -> None:
    assert bytes_per_entry(AdaMod) == 12


@pytest.mark.parametrize(("name", "value"), [("beta3", 1.0), ("beta3", -0.1), ("eps", 0.0)])
def test_what_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        AdaMod([nn.Parameter(torch.zeros(2))], **{name: value})  # type: ignore[arg-type]
