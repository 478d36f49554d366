"""The claim's own arithmetic: its problems and exact criteria, and how losses are judged."""

import pytest

from shoal.papers import amsgrad as paper

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.rates(figures).holds
    assert paper.agreement(figures).holds


def test_the_problems_pull_to_minus_one_and_the_rate_is_one_for_which_adam_fails() -> None:
    for problem in (paper.A, paper.B):
        assert sum(problem.slope(t) for t in range(problem.period)) > 0
        assert problem.slope(problem.period) == problem.large
        assert problem.betas[0] < problem.betas[1] ** 0.5
    assert paper.A.lr < (1.0 - paper.A.betas[1]) ** 0.5


def test_the_first_problem_drives_adam_away() -> None:
    found = paper.played(paper.A, 1500)
    assert found["Adam"][0] > 0.99
    assert found["AMSGrad"][0] < -0.9


@pytest.mark.parametrize(
    ("adam", "ours", "holds"),
    [
        ((1.0, 1.333), (-1.0, 0.01), True),
        ((1.0, 1.30), (-1.0, 0.01), False),
        ((0.9, 1.333), (-1.0, 0.01), False),
        ((1.0, 1.333), (-0.9, 0.01), False),
        ((1.0, 1.333), (-1.0, 0.2), False),
    ],
)
def test_points_and_regrets_are_judged(
    monkeypatch: pytest.MonkeyPatch, adam: tuple[float, float], ours: tuple[float, float], holds: bool
) -> None:
    monkeypatch.setattr(paper, "played", lambda problem, steps: {"Adam": adam, "AMSGrad": ours})
    assert paper.worst_point(10, {}).holds is holds


def test_a_higher_loss_is_not_as_good() -> None:
    made = [entry("Adam", [0.9], losses=[0.5]), entry("AMSGrad", [0.95], losses=[0.501])]
    assert not paper.as_good(comparison(made)).holds
