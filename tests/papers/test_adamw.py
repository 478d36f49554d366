"""The claim's own arithmetic: its exact criteria, best decays over rates, and how errors are judged."""

import pytest

from shoal.learning.results import Trial
from shoal.papers import adamw as paper

from .comparisons import comparison, entry


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.zero_gradients(figures).holds
    assert paper.same_without_momentum(figures).holds
    assert paper.agreement(figures).holds


def grid(best: dict[float, float], low: float = 0.8) -> list[Trial]:
    """Trials at which each rate has its best decay."""
    return [
        Trial(lr, {"weight_decay": lam}, (0.82 if lam == best[lr] else low,), (1.0,))
        for lr in best
        for lam in (1e-3, 1e-2, 1e-1)
    ]


def test_the_best_decay_of_each_rate_is_found_where_the_rate_is_of_use() -> None:
    trials = [*grid({0.1: 1e-3, 0.2: 1e-1}), Trial(0.9, {"weight_decay": 1e-2}, (0.5,), (1.0,))]
    assert paper.best_decays(trials) == {0.1: 1e-3, 0.2: 1e-1}


def test_equal_accuracies_go_to_the_lower_loss() -> None:
    trials = [Trial(0.1, {"weight_decay": lam}, (0.8,), (loss,)) for lam, loss in ((0.1, 0.7), (0.2, 0.6), (0.3, 0.8))]
    assert paper.best_decays(trials) == {0.1: 0.2}


@pytest.mark.parametrize(("lam", "holds"), [(1e-3, True), (1e-1, False)])
def test_decays_have_to_vary_less(lam: float, holds: bool) -> None:
    ours, adam = grid({0.1: 1e-3, 0.2: lam}), grid({0.1: 1e-3, 0.2: 1e-2})
    found = comparison([entry("AdamW", [0.8], trials=ours), entry("Adam", [0.8], trials=adam)])
    assert paper.separable(found, {}).holds is holds


@pytest.mark.parametrize(("accuracy", "holds"), [(0.811, True), (0.809, False), (0.78, False)])
def test_errors_are_compared_relatively(accuracy: float, holds: bool) -> None:
    assert paper.generalises(comparison({"AdamW": accuracy, "Adam": 0.80}), {}).holds is holds
