"""The claim's own arithmetic: its linearisation, and how sweeps are judged."""

from __future__ import annotations

import torch

from shoal.papers import tp4b_mup_adam as paper

GOOD = {64: {0.01: 0.5, 0.1: 0.9}, 1024: {0.01: 0.41, 0.1: 0.4}}


def test_the_linearised_model_is_the_model_at_first_and_exact_to_first_order() -> None:
    torch.manual_seed(0)
    model, (x, _) = paper.build(8), paper.batch()
    linear = paper.Linearised(model)
    torch.testing.assert_close(linear(x), model(x))
    errors = []
    for step in (1e-1, 1e-2):
        moved = paper.build(8)
        with torch.no_grad():
            for (name, p), q in zip(model.named_parameters(), moved.parameters(), strict=True):
                change = step * torch.ones_like(p) / p.numel()
                q.copy_(p + change)
                linear.moving[name.replace(".", "_")].copy_(p + change)
        errors.append(float((linear(x) - moved(x)).abs().max()))
    assert errors[1] < 0.02 * errors[0]  # of second order


def test_rates_of_the_neural_tangent_limit_are_those_of_the_base_at_its_width() -> None:
    assert {group["lr"] for group in paper.in_neural_tangent(paper.build(64), 0).param_groups} == {0.01}
    wide = {
        name: group["lr"]
        for group in paper.in_neural_tangent(paper.build(256), 0).param_groups
        for name in group["param_names"]
    }
    assert wide["2.weight"] == 0.01 / 8
    assert wide["4.weight"] == 0.01 / 4


def test_transfer_is_judged_by_rates_and_losses() -> None:
    standard = {64: {0.01: 0.5, 0.1: 0.9}, 1024: {0.001: 0.4, 0.01: 0.6}}
    assert [f.holds for f in paper.transfer(GOOD, standard)] == [False, True, True]  # a decade is too far for muP
    near = {64: {0.01: 0.5, 0.0316: 0.9}, 1024: {0.01: 0.43, 0.0316: 0.4}}
    assert [f.holds for f in paper.transfer(near, standard)] == [True, True, False]
    assert [f.holds for f in paper.transfer(near, near)] == [True, False, False]
