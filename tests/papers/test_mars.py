"""The claim's own arithmetic: its exact criteria, and how losses are judged."""

from __future__ import annotations

import functools

import pytest

from shoal.papers import mars as paper
from tests.papers.made import comparison


def test_without_gamma_it_is_adamw() -> None:
    assert paper.plain({}).holds


@pytest.mark.parametrize("gamma", paper.GAMMAS)
def test_the_mean_square_follows_its_formula(gamma: float) -> None:
    v, beta = 0.02, paper.BETA
    formula = (1.0 - beta) / (1.0 + beta) + ((1.0 - gamma) * beta / (1.0 - beta) * v) ** 2
    assert paper.mean_square(gamma, v, chains=400) == pytest.approx(formula, rel=0.08)


def test_noise_that_is_not_shared_is_added_where_gamma_is_not_0() -> None:
    error = functools.partial(paper.mean_square, v=0.05, chains=200, steps=120)
    assert error(0.0, shared=0.1) == pytest.approx(error(0.0))
    assert error(1.0, shared=0.1) > 1.5 * error(1.0)


def test_criteria_fail_if_the_variance_is_not_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    right = functools.partial(paper.mean_square, chains=50)
    monkeypatch.setattr(paper, "mean_square", lambda gamma, v, shared=1.0: right(0.0, v))
    assert not paper.lag({}).holds
    assert not paper.reduced({}).holds


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.97, [True, True]), (0.985, [True, False]), (0.995, [False, False]), (1.2, [False, False])]
)
@pytest.mark.parametrize(("first", "second"), [(1.0, 1.2), (1.3, 1.0)])
def test_the_loss_has_to_be_one_percent_below_the_better_adamw_and_below_that_without_gamma(
    first: float, second: float, loss: float, expected: list[bool]
) -> None:
    found = comparison({"AdamW": first, "AdamW, defaults": second, "MARS": loss, "MARS, gamma 0": 0.98})
    assert [finding.holds for finding in paper.lower(found)] == expected
