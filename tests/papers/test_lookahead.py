"""The claim's own arithmetic: its exact criteria, and how accuracies are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.optim.lookahead import lookahead
from shoal.papers import lookahead as paper
from tests.papers.made import comparison


def test_the_exact_criterion_holds_and_fails_for_another_part_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.special_cases({}).holds
    monkeypatch.setattr(paper, "lookahead", lambda rule, k, alpha: lookahead(rule, k, 0.9 * alpha))
    assert not paper.special_cases({}).holds


def test_variances_follow_the_formulas() -> None:
    figures: dict[str, float] = {}
    assert paper.variance(figures, returns=20).holds
    assert figures["variance, Lookahead"] < 0.5 * figures["variance, SGD"]


def test_the_variance_is_that_of_sgd_with_alpha_1_and_of_a_slower_one_with_k_1() -> None:
    slow, plain = paper.variances(1.5, 0.08, 7, 1.0, 2.0)
    assert slow == pytest.approx(plain)
    slow, _ = paper.variances(1.5, 0.08, 1, 0.4, 2.0)
    assert slow == pytest.approx(paper.variances(1.5, 0.4 * 0.08, 1, 0.4, 2.0)[1])


def test_a_variance_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "lookahead", lambda rule, k, alpha: rule)
    assert not paper.variance({}, chains=2000, returns=20).holds


def test_accuracy_memory_and_all_rates_are_judged() -> None:
    found = comparison(
        {"SGD": 0.8, "Lookahead": 0.8}, trials={"SGD": {0.1: 0.8, 1.0: 0.0}, "Lookahead": {0.1: 0.7, 1.0: 0.5}}
    )
    sizes = {"SGD": 4.0, "Lookahead": 8.0}
    found = replace(found, entries=tuple(replace(e, state_bytes=sizes[e.name]) for e in found.entries))
    assert [finding.holds for finding in paper.tuned(found, {})] == [True, True, True]
    found = comparison({"SGD": 0.81, "Lookahead": 0.8})
    assert [finding.holds for finding in paper.tuned(found, {})] == [False, False, False]


@pytest.mark.parametrize(("size", "holds"), [(0.7, True), (0.9, False)])
def test_the_last_accuracies_alone_have_to_be_calmer(size: float, holds: bool) -> None:
    swings = [0.5 + 0.01 * (-1) ** i for i in range(paper.LAST)]
    calm = [0.1, 0.9, *(0.5 + size * (x - 0.5) for x in swings)]
    found = comparison({"SGD": 0.8, "Lookahead": 0.8}, curves={"SGD": swings, "Lookahead": calm})
    assert paper.calmer(found, {}).holds is holds


def test_a_run_that_diverged_is_not_calm() -> None:
    curves = {"SGD": [0.1, 0.2], "Lookahead": [0.1, 0.1]}
    found = comparison({"SGD": 0.8, "Lookahead": 0.0}, curves=curves)
    slow = replace(found["Lookahead"], tests=(replace(found["Lookahead"].tests[0], diverged=True),))
    assert not paper.calmer(replace(found, entries=(found["SGD"], slow)), {}).holds
