"""The claim's own arithmetic: its exact criteria, the schedules it trains with, and how accuracies are judged."""

from typing import Any

import pytest
import torch

from shoal.learning.data import load
from shoal.optim import SGD, Momentum, Rule, WeightDecay
from shoal.optim.schedules import gradual_warmup, step_decay
from shoal.papers import linear_scaling_warmup as paper
from shoal.tensors import normal

from ..restatements import linear_scaling_warmup as restated


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.data_parallel((5,), figures).holds
    assert paper.constant_gradient(figures).holds
    assert paper.correction(figures).holds
    assert figures["rate inside, uncorrected: distance"] > 0.01


def test_paths_are_those_of_the_restatement() -> None:
    gradients = list(normal(3, (40, 6), dtype=torch.float64))
    schedule = gradual_warmup(step_decay(0.8, [30]), start=0.1, steps=20)
    lrs = [schedule(t) for t in range(40)]
    for nesterov, form in ((False, restated.momentum_sgd), (True, restated.nesterov_sgd)):
        rule = Rule("sgd", 1.0, (WeightDecay(0.1), Momentum(0.9, nesterov)))
        expected = form(gradients[0].numpy() * 0, lambda w, t: gradients[t].numpy(), lrs, 0.9, 0.1)
        assert paper.path(rule, gradients, schedule).numpy() == pytest.approx(expected, abs=1e-10)


class Spy:
    """Notes what is trained, and gives back accuracies in turn."""

    def __init__(self, accuracies: dict[tuple[int, float, bool, bool], float]) -> None:
        self.accuracies = accuracies

    def __call__(
        self, setting: Any, dataset: Any, workers: int, base: float, seed: int, *, scale: bool = True, warm: bool = True
    ) -> float:
        return self.accuracies[workers, base, scale, warm]


@pytest.mark.parametrize(
    ("sixteen", "unscaled", "cold", "expected"),
    [
        (0.891, 0.87, 0.80, [True, True, True]),
        (0.889, 0.879, 0.80, [False, True, True]),
        (0.92, 0.881, 0.831, [True, False, False]),
        (0.0, 0.0, 0.0, [False, True, True]),
    ],
)
def test_differences_are_judged_in_points(
    monkeypatch: pytest.MonkeyPatch, sixteen: float, unscaled: float, cold: float, expected: list[bool]
) -> None:
    low, high = paper.CHECK.moderate, paper.CHECK.aggressive
    table = {
        (1, low, True, True): 0.90,
        (16, low, True, True): sixteen,
        (16, low, False, True): unscaled,
        (16, high, True, True): 0.85,
        (16, high, True, False): cold,
    }
    monkeypatch.setattr(paper, "accuracy", Spy(table))
    figures: dict[str, float] = {}
    findings = paper.scaled(paper.CHECK, load("digits"), figures)
    assert [finding.holds for finding in findings] == expected
    assert len(figures) == len(table) * len(paper.CHECK.seeds)


@pytest.mark.parametrize(("four", "expected"), [(0.895, [True, False]), (0.88, [False, False])])
def test_the_best_rate_of_one_worker_is_kept_for_all(
    monkeypatch: pytest.MonkeyPatch, four: float, expected: list[bool]
) -> None:
    seen: list[tuple[int, int, float, int]] = []

    def accuracy(setting: Any, dataset: Any, workers: int, base: float, seed: int) -> float:
        seen.append((len(dataset.test), workers, base, seed))
        if seed == paper.TUNING_SEED:
            return 1.0 - abs(base - 0.01)
        return {1: 0.90, 4: four, 16: 0.5}[workers]

    monkeypatch.setattr(paper, "accuracy", accuracy)
    dataset = paper.some_of("digits")
    grown = paper.Dataset("grown", *(repeat(part, 20) for part in (dataset.train, dataset.test)), classes=10)
    findings = paper.tuned(paper.FULL, grown, {})
    assert [finding.holds for finding in findings] == expected
    tuning, tested = ([call for call in seen if (call[3] == paper.TUNING_SEED) is chosen] for chosen in (True, False))
    assert [call[:3] for call in tuning] == [(10_000, 1, base) for base in paper.RATES]
    assert {call[2] for call in tested} == {0.01}
    assert {call[0] for call in tested} == {len(grown.test)}
    assert paper.TUNING_SEED not in paper.FULL.seeds


def repeat(data: Any, times: int) -> Any:
    return type(data)(data.inputs.repeat(times, 1), data.targets.repeat(times))


@pytest.mark.parametrize(("scale", "warm"), [(True, True), (True, False), (False, True)])
def test_rates_are_scaled_by_the_workers_and_warmed_up_over_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, scale: bool, warm: bool
) -> None:
    given: dict[str, Any] = {}

    class Done:
        def final(self) -> float:
            return 0.7

    def synchronous(task: Any, workers: int, batch: int, schedule: Any, steps: int, seed: int) -> Done:
        given.update(rates=[schedule(t) for t in range(steps)], workers=workers, batch=batch)
        return Done()

    monkeypatch.setattr(paper, "synchronous", synchronous)
    setting = paper.Setting(None, 8, 0.01, 0.02, (1,))
    dataset = load("digits")
    assert paper.accuracy(setting, dataset, 4, 0.01, 1, scale=scale, warm=warm) == 0.7
    epoch = len(dataset.train) // 4 // 8
    peak = 0.04 if scale else 0.01
    if scale and warm:
        expected = restated.gradual_warmup(4 * epoch, epoch, 0.01, peak, 1, milestones=(3,))
    else:
        expected = restated.step_decay(4 * epoch, epoch, peak, milestones=(3,))
    assert given["rates"] == pytest.approx(list(expected), rel=1e-12)
    assert (given["workers"], given["batch"]) == (4, 8)


def test_momentum_is_nesterovs_with_decay() -> None:
    assert SGD.rule(paper.RULE.lr, momentum=0.9, nesterov=True, weight_decay=1e-4) == paper.RULE
