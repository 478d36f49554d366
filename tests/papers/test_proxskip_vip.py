"""The claim's own arithmetic."""

import pytest

from shoal.papers import proxskip_vip as paper


def measured(**changes: list[float]) -> dict[str, list[float]]:
    good = {
        "ProxSkip-VIP": [1e-9],
        "descent-ascent with its step": [0.1],
        "local descent-ascent, tuned": [0.1],
        "ProxSkip-VIP, tuned": [1e-12],
        "descent-ascent, tuned": [1e-9],
        "loopless SVRG": [1e-9],
        "plain batches": [1e-2],
    }
    return {**good, **{name.replace("_", " "): value for name, value in changes.items()}}


def test_all_criteria_can_hold_and_each_can_fail() -> None:
    assert [f.holds for f in paper.findings(measured(), paper.FULL)] == [True] * 5
    for i, change in enumerate(
        (
            {"ProxSkip-VIP": [1e-7]},
            {"descent-ascent with its step": [1e-4]},
            {"local descent-ascent, tuned": [1e-4]},
            {"descent-ascent, tuned": [9e-11]},
            {"plain batches": [9e-8]},
        )
    ):
        found = [f.holds for f in paper.findings({**measured(), **change}, paper.FULL)]
        assert [k for k, holds in enumerate(found) if not holds] == [i]


def test_theory_takes_its_step_from_the_clients_and_its_coin_from_the_mean() -> None:
    g = paper.game(1)
    assert g.constants.cocoercivity > g.constants.mean_cocoercivity
    assert g.gamma == pytest.approx(0.5 / g.constants.cocoercivity)
    assert g.p(g.gamma) ** 2 == pytest.approx(g.gamma * g.constants.monotonicity)
