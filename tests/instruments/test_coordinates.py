"""Coordinate checks against movements in closed form, and of muP."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shoal.instruments.coordinates import Coordinate, CoordinateCheck, coordinate_check
from shoal.optim import Lion, MoMo, mup


class Sum(nn.Module):
    """x -> a sum over `width` weights, all 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=False)
        self.width = width
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * self.linear(x.expand(-1, self.width))  # type: ignore[no-any-return]


def check(make: Any, optimizer: Any, **changed: Any) -> CoordinateCheck:
    how: dict[str, Any] = {"widths": [4, 8, 16], "steps": 3} | changed
    return coordinate_check(make, how.pop("widths"), optimizer, torch.ones(2, 1), torch.ones(2, 1), loss, **how)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return -(output * target).squeeze(1)


def test_movements_are_those_of_the_steps() -> None:
    """Every weight goes up by 2 lr a step: t steps move the layer by 2 t lr width and the output by twice that."""
    found = check(Sum, sgd)
    assert found.layers == ["linear", "(output)"]
    for step in range(4):
        assert found.moved("linear", step) == pytest.approx([2 * 0.5 * step * n for n in (4, 8, 16)])
        assert found.moved("(output)", step) == pytest.approx([2 * 2 * 0.5 * step * n for n in (4, 8, 16)])
    assert found.exponent("linear") == pytest.approx(1.0)
    assert found.spread("linear") == pytest.approx(4.0)
    assert math.isnan(found.exponent("linear", 0))
    assert found.spread("linear", 0) == math.inf
    assert [row.size for row in found.rows if row.width == 4 and row.layer == "linear"] == pytest.approx([0, 4, 8, 12])


def test_by_mup_they_are_the_same_at_every_width() -> None:
    found = check(Sum, lambda model: mup(model, Sum(4), Lion, lr=0.5))
    assert found.moved("linear") == pytest.approx([3 * 0.5 * 4] * 3)
    assert found.exponent("linear") == pytest.approx(0.0)


def test_the_output_of_the_last_layer_is_shown_once() -> None:
    found = check(
        lambda n: nn.Sequential(nn.Linear(1, n), nn.Linear(n, 1)), lambda m: torch.optim.SGD(m.parameters(), 0.1)
    )
    assert found.layers == ["0", "1"]


def test_means_are_over_seeds_and_models_depend_on_them_alone() -> None:
    makes: list[Any] = [lambda n: nn.Linear(1, n), lambda m: torch.optim.SGD(m.parameters(), 0.1)]
    state = torch.get_rng_state()
    summed = coordinate_check(
        *makes[:1], [2, 3], makes[1], torch.ones(2, 1), torch.ones(2), lambda o, t: o.sum(1), seeds=(0, 1)
    )
    again = coordinate_check(
        *makes[:1], [2, 3], makes[1], torch.ones(2, 1), torch.ones(2), lambda o, t: o.sum(1), seeds=(0, 1)
    )
    assert summed == again
    assert torch.equal(state, torch.get_rng_state())
    assert len({row.size for row in summed.rows if row.step == 0 and row.width == 2}) == 2
    rows = tuple(Coordinate(2, seed, 1, "a", 1.0, moved) for seed, moved in ((0, 1.0), (1, 3.0)))
    assert CoordinateCheck(rows).moved("a") == [2.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"widths": [4]}, r"widths: got \[4\]"),
        ({"widths": [4, 4]}, "widths: got"),
        ({"widths": ["4", "8"]}, r"widths: got \['4', '8'\]; two or more"),
        ({"widths": 4}, "widths: got 4; two or more"),
        ({"steps": 0}, "steps: got 0"),
        ({"steps": "2"}, "steps: got '2'; a whole number >= 1"),
        ({"seeds": ()}, r"seeds: got \(\); a list of one or more"),
        ({"layers": ["x"]}, "layers: got 'x'"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(Sum, sgd, **changed)


def test_an_unknown_layer_is_named() -> None:
    found = check(Sum, sgd)
    with pytest.raises(ValueError, match="layer, step: got 'x', 3; linear"):
        found.moved("x")


def test_optimizers_that_need_the_loss_are_told_it() -> None:
    found = check(Sum, lambda model: MoMo(model.parameters(), lb=-9.0))
    assert all(moved > 0.0 for layer in found.layers for moved in found.moved(layer))
