"""The claim's own arithmetic."""

import math

import pytest

from shoal.papers import async_local_sgd_dn_dylu as paper


def test_the_exact_criterion_holds() -> None:
    assert paper.exact({}).holds


def test_all_methods_take_about_equally_many_local_steps() -> None:
    found = {name: paper.rounds_of(paper.FULL, protocol) for name, protocol in paper.METHODS.items()}
    # 20, 15, 7 and 3 steps by speed.
    assert found["DN and DyLU"] == round(1600 / 45 * 4)
    assert (found["naive"], found["synchronous"]) == (80, 20)


@pytest.mark.parametrize(
    ("ours", "theirs", "holds"),
    [
        ([10.0], [21.0], True),
        ([10.0], [19.0], False),
        ([10.0, 11.0], [30.0, 20.0], False),
        ([math.inf],) * 2 + (False,),
    ],
)
def test_half_of_the_time_is_needed_in_every_seed(ours: list[float], theirs: list[float], holds: bool) -> None:
    assert paper.faster({"DN and DyLU": ours, "synchronous": theirs}, 0.5).holds is holds


def test_costs_are_relative_to_the_synchronous_method_of_the_same_momentum() -> None:
    losses = {"no momentum": [1.04], "no momentum, synchronous": [1.0], "naive": [1.04], "synchronous": [1.0]}
    assert [finding.holds for finding in paper.costs(losses)] == [True, False]
