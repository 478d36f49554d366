"""Operations that take the place of an operand, against the same written out; for one model and within vmap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shoal.optim.core.ops import over, plus_ratio, smaller
from shoal.tensors.random import key, normal, uniform

X, Y = (normal(key(8, name), (3, 50), dtype=torch.float64) for name in "xy")
Z = uniform(key(8, "z"), (3, 50), dtype=torch.float64) + 0.5
CASES: dict[str, Any] = {
    "over": (lambda x, y, z: over(x, z), X / Z, 2),
    "smaller": (lambda x, y, z: smaller(x, y), torch.where(X < Y, X, Y), 0),
    "plus_ratio": (lambda x, y, z: plus_ratio(x, y, z, -0.3), X - 0.3 * Y / Z, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_the_result_takes_the_place_of_one_operand_and_leaves_the_others(name: str) -> None:
    operation, expected, place = CASES[name]
    operands = [X.clone(), Y.clone(), Z.clone()]
    found = operation(*operands)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
    assert found is operands[place]
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(operands, (X, Y, Z), strict=True)) if i != place)


@pytest.mark.parametrize("name", CASES)
def test_mapped_rows_are_those_of_one_by_one(name: str) -> None:
    operation, expected, _ = CASES[name]
    found: Tensor = torch.func.vmap(operation)(X.clone(), Y.clone(), Z.clone())
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)


def test_a_ratio_may_have_a_weight_for_each_peer() -> None:
    weights = torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)
    found: Tensor = torch.func.vmap(plus_ratio)(X, Y, Z.clone(), weights)
    torch.testing.assert_close(found, X + weights[:, None] * Y / Z, rtol=1e-13, atol=1e-15)
