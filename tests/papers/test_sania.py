"""The claim's own arithmetic: invariance, data, and how last losses are judged."""

import pytest
import torch

from shoal.papers import sania as paper


@pytest.mark.parametrize("kind", ["adagrad-sqr", "adam-sqr"])
def test_the_exact_criterion_holds(kind: str) -> None:
    assert paper.invariant(kind, "check", {}).holds


def test_with_roots_it_fails() -> None:
    assert not paper.invariant("adagrad", "check", {}).holds


def test_features_are_scaled_by_up_to_e_to_the_sixth() -> None:
    (plain, y), (scaled, _) = paper.data(False), paper.data(True)
    ratios = scaled.std(0) / plain.std(0)
    assert float(ratios[0]) == pytest.approx(float(torch.tensor(-6.0).exp()), rel=1e-5)
    assert float(ratios[-1]) == pytest.approx(float(torch.tensor(6.0).exp()), rel=1e-5)
    assert set(y.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(("ours", "expected"), [(1.05, [True, False]), (0.9, [True, True]), (1.2, [False, False])])
def test_last_losses_are_judged_against_both(ours: float, expected: list[bool]) -> None:
    ends = {(who, scaled): 1.0 for who in ("Adam", "AdaGrad") for scaled in (False, True)}
    ends |= {("SANIA", False): ours, ("SANIA", True): ours}
    assert [finding.holds for finding in paper.judged("logistic", ends)] == expected


def test_adam_has_to_suffer_by_half() -> None:
    assert paper.suffers(0.1, 0.16).holds
    assert not paper.suffers(0.1, 0.14).holds


def test_newton_is_invariant_to_a_linear_map_and_the_diagonal_form_is_not() -> None:
    assert [finding.holds for finding in paper.affine(7, {})] == [True, True]


@pytest.mark.parametrize(("end", "holds"), [(1.1, True), (1.11, False)])
def test_hutchinson_may_end_a_tenth_higher(end: float, holds: bool) -> None:
    assert paper.hutchinson(end, {("logistic", who, False): 1.0 for who in ("Adam", "AdaGrad")}).holds is holds
