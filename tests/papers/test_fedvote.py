"""The claim's own arithmetic."""

from __future__ import annotations

import pytest
import torch

from shoal.papers import fedvote as paper
from shoal.papers.measures import some_of


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.exact(figures).holds
    assert paper.bits(figures).holds


def test_signs_move_every_weight_by_the_rate_or_not_at_all() -> None:
    setting = paper.Setting(300, (6, 5), 1, 3, (0.1,), (0.01,), (1,))
    dataset = some_of("fashion-mnist", 300)
    before, after = (
        next(
            iter(
                paper.run_with(
                    paper.Setting(300, (6, 5), rounds, 3, (0.1,), (0.01,), (1,)),
                    dataset,
                    paper.SignMajority(0.01, 3),
                    0.003,
                    1,
                ).models.values()
            )
        )
        for rounds in (0, setting.rounds)
    )
    moved = (after - before).abs()
    assert bool(((moved - 0.01).abs() < 1e-6).logical_or(moved == 0).all())
    assert float((moved > 0).float().mean()) > 0.5
    assert torch.isfinite(after).all()


@pytest.mark.parametrize(
    ("vote", "signs", "uniform", "trusted", "expected"),
    [
        ([0.6, 0.7], [0.5, 0.6], 0.2, 0.5, [True, True, True]),
        ([0.6, 0.7], [0.6, 0.8], 0.2, 0.29, [False, False, False]),
    ],
)
def test_accuracies_are_judged(
    vote: list[float], signs: list[float], uniform: float, trusted: float, expected: list[bool]
) -> None:
    attacked = {"attacked, uniform": [0.0, uniform], "attacked, reputations": [0.0, trusted]}
    found = paper.judge({"FedVote": vote, "signs": signs, **attacked}, "data")
    assert [finding.holds for finding in found] == expected


def test_rates_are_tuned_on_another_seed_and_as_many_for_both() -> None:
    for setting in (paper.CHECK, paper.FULL):
        assert setting.tuning_seed not in setting.seeds
        assert len(setting.rates) == len(setting.sign_rates)
