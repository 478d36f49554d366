"""Chains of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shoal.optim import (
    AdamScaling,
    AdamW,
    CautiousMask,
    DecoupledDecay,
    Lion,
    MarsGradient,
    Momentum,
    Optimizer,
    Transform,
    WeightDecay,
    chain,
)
from tests.optim.following import missing, quadratic, starts, torch_gradients
from tests.optim.stacking import assert_stacks


def path(optimizer: torch.optim.Optimizer, steps: int = 20) -> list[torch.Tensor]:
    """Where an optimizer goes on a quadratic."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        torch_gradients(parameters, missing(quadratic()), step)
        optimizer.step()
    return [p.detach() for p in parameters]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.from_numpy(p)) for p in starts()]


def test_the_same_transforms_are_the_same_optimizer() -> None:
    mine = chain(DecoupledDecay(0.3), AdamScaling(0.8, 0.99, 1e-6), lr=0.02)
    theirs = AdamW(parameters(), lr=0.02, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.3)
    for a, b in zip(path(mine(parameters())), path(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_classes_and_rules_stand_for_their_chains() -> None:
    by_class, by_rule = (
        chain(Lion, CautiousMask(), lr=0.01),
        chain(Lion.rule(betas=(0.9, 0.99)), CautiousMask(), lr=0.01),
    )
    for a, b in zip(path(by_class(parameters())), path(by_rule(parameters())), strict=True):
        assert torch.equal(a, b)


def test_the_order_counts() -> None:
    one, two = (
        chain(*links, lr=0.1) for links in ([WeightDecay(1.0), Momentum(0.9)], [Momentum(0.9), WeightDecay(1.0)])
    )
    assert not torch.allclose(path(one(parameters()), 3)[0], path(two(parameters()), 3)[0])


def test_a_chain_stacks() -> None:
    assert_stacks(chain(MarsGradient(), Lion.rule(), CautiousMask()), {"lr": 0.01})


def test_its_learning_rate_is_a_default_and_a_group_setting() -> None:
    mine = chain(AdamScaling(), lr=0.25)
    first, second = parameters()[:2]
    optimizer = mine([{"params": [first]}, {"params": [second], "lr": 0.5}])
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]


@pytest.mark.parametrize("links", [(), (Optimizer,), (3,), ("Adam",)])
def test_what_is_no_link_is_refused(links: tuple[object, ...]) -> None:
    with pytest.raises((ValueError, NotImplementedError), match=r"links|has no chain"):
        chain(*links)([nn.Parameter(torch.zeros(1))])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["0.1", None, [0.1]])
def test_a_transform_without_its_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"links: got lam = .* of DecoupledDecay; a number is allowed"):
        chain(AdamW, DecoupledDecay(value))


def test_a_transform_that_is_no_dataclass_is_refused() -> None:
    class Doubled(Transform):
        pass

    with pytest.raises(ValueError, match="links: got Doubled, which is no dataclass; frozen ones are allowed"):
        chain(AdamW, Doubled())


def test_a_bad_learning_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="lr: got -1"):
        chain(AdamScaling(), lr=-1)
