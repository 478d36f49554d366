"""The claim's exact criteria, the rates of the layers, and how drifts are judged."""

import pytest
import torch

from shoal.optim import Adam, Param
from shoal.papers import adam_atan2 as paper


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.scales(figures).holds
    assert paper.bounded(figures).holds


def test_adam_fails_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "AdamAtan2", Adam)
    assert not paper.scales({}).holds
    assert not paper.bounded({}).holds


def test_rates_fall_with_the_width_behind_the_first_layer() -> None:
    rule = paper.by_layer(0.1, 4 * paper.NARROW)
    model = paper.mlp(paper.digits(), hidden=8, depth=2, activation="tanh")()
    steps = {}
    for name, _ in model.named_parameters():
        x, param = torch.zeros(1, dtype=torch.float64), Param(name, (1,))
        state = rule.views(rule.memory({name: x}), [param])
        rule.step([param], [x], [torch.ones_like(x)], state, 1.0, rule.lr)
        steps[name] = -float(x) / (0.1 * torch.pi / 4)
    weights = [steps[name] for name in steps if "weight" in name]
    assert weights == pytest.approx([1.0, 0.25, 0.25])
    assert [steps[name] for name in steps if "bias" in name] == pytest.approx([1.0, 1.0, 1.0])


def run(best: int, value: float = 0.0) -> list[float]:
    """Losses with the lowest at one rate."""
    return [value + abs(i - best) for i in range(len(paper.RATES))]


@pytest.mark.parametrize(
    ("one", "by_layer", "expected"),
    [(3, 5, [True, True, True]), (4, 3, [False, True, True]), (5, 2, [False, False, False])],
)
def test_drifts_are_judged_in_factors_of_two(one: int, by_layer: int, expected: list[bool]) -> None:
    narrow, wide = paper.NARROW, paper.WIDE
    found = {
        ("one rate", narrow): [run(5), run(5)],
        ("one rate", wide): [run(one), run(one)],
        ("by layer", narrow): [run(4), run(4)],
        ("by layer", wide): [run(by_layer), run(by_layer)],
    }
    figures: dict[str, float] = {}
    findings = paper.transfer(found, figures)
    assert [finding.holds for finding in findings] == expected
    assert figures[f"best rate, one rate, width {narrow}"] == paper.RATES[5]
