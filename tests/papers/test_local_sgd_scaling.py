"""The claim's own arithmetic."""

import pytest

from shoal.learning.data import text
from shoal.papers import local_sgd_scaling as paper


def test_one_local_step_is_data_parallel_sgd() -> None:
    assert paper.one_step((3,), {}).holds


def test_parameters_of_the_blocks_are_counted() -> None:
    dataset = text(context=8, characters=2000)
    # Two norms, qkv, projection, up and down: 12 w^2 + 13 w a block.
    assert [paper.count(dataset, (w, layers)) for w, layers in ((16, 1), (32, 2))] == [
        layers * (12 * w * w + 13 * w) for w, layers in ((16, 1), (32, 2))
    ]


def losses(local: list[float]) -> dict[str, list[float]]:
    return {"data parallel": [2.0, 1.0], "local": local}


@pytest.mark.parametrize(("local", "holds"), [([2.05, 1.02], True), ([2.05, 1.04], False), ([1.9, 1.0], False)])
def test_the_gap_is_relative_and_counts_both_ways(local: list[float], holds: bool) -> None:
    assert paper.gap(losses(local)).holds is holds


@pytest.mark.parametrize(("local", "holds"), [([4.0, 2.0], True), ([2.0, 1.2], False), ([1.0, 1.0], False)])
def test_exponents_are_compared_with_data_parallelisms(local: list[float], holds: bool) -> None:
    assert paper.laws([1e3, 1e4], losses(local), {})[1].holds is holds
