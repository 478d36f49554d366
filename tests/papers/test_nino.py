"""The claim's own arithmetic: its exact criteria, targets and steps, and how they are judged."""

from __future__ import annotations

import math

import pytest
import torch

from shoal.optim.nino import GraphNowcaster, Nowcaster, Shape, neural_graph
from shoal.papers import nino as paper
from tests.restatements.optimizers import nino as restated


def test_the_exact_criterion_holds_and_fails_where_a_residual_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.frame({}).holds
    monkeypatch.setattr(paper.Still, "forward", lambda self, graph, states, *_: torch.ones_like(states[..., 0]))
    assert not paper.frame({}).holds


def test_a_network_that_tells_neurons_apart_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.equivariance({}).holds

    class Numbered(GraphNowcaster):
        def forward(self, graph, states, k=None, signs=None):  # type: ignore[no-untyped-def]
            return super().forward(graph, states, k, signs) + torch.arange(len(states))[:, None, None]

    monkeypatch.setattr(paper, "nowcaster", lambda: Numbered(Shape(width=4)))
    assert not paper.equivariance({}).holds


def test_the_line_is_the_restatement_s_where_states_lie_on_one() -> None:
    states = torch.randn(6, 1, 1) * torch.arange(5) + 1.0
    line = paper.line(40)
    model = torch.nn.Linear(2, 2)
    graph = neural_graph(model, torch.zeros(1, 2))
    expected = restated.linear_extrapolation([[states[..., i].numpy()] for i in range(5)], 7)[0]
    torch.testing.assert_close(line(graph, states, 7), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(line(graph, states)[..., 6], line(graph, states, 7))


def test_a_target_is_the_mean_of_the_last_ten_and_steps_go_to_the_first_at_or_below_it() -> None:
    losses = [5.0, 3.0, 2.0, *([1.0, 3.0] * 5)]
    assert paper.final(losses) == 2.0
    assert paper.reached(losses, 2.0) == 3 * paper.EVERY
    assert paper.reached(losses, 0.5) == len(losses) * paper.EVERY
    assert paper.final([1.0, math.nan]) == math.inf
    assert paper.reached([math.nan, 1.0], 1.0) == 2 * paper.EVERY


@pytest.mark.parametrize(
    ("steps", "holds"),
    [
        ({"Adam": 100.0, "NiNo": 80.0, "WNN+": 90.0, "linear": 81.0}, [True, True]),
        ({"Adam": 100.0, "NiNo": 81.0, "WNN+": 81.0, "linear": 99.0}, [False, False]),
        ({"Adam": 100.0, "NiNo": 60.0, "WNN+": 90.0, "linear": 50.0}, [True, False]),
    ],
)
def test_steps_saved_are_judged_against_adam_and_the_best_of_the_others(
    steps: dict[str, float], holds: list[bool]
) -> None:
    figures: dict[str, float] = {}
    assert [finding.holds for finding in paper.judged("digits", steps, figures)] == holds
    assert figures["digits: steps saved, NiNo"] == pytest.approx(1 - steps["NiNo"] / 100)


def test_the_curve_of_a_forecast_of_nothing_is_adam_s_with_steps_left_out() -> None:
    work = paper.task("digits")
    plain = paper.curve(work, 3e-3, 5, None, steps=60)
    still: Nowcaster = paper.Still(Shape())
    waiting = paper.curve(work, 3e-3, 5, lambda: still, steps=60)
    assert waiting[:11] == plain[:11]  # the forecast is the 60th step
    assert waiting[11] != plain[11]


def test_errors_of_a_nowcaster_that_forecasts_nothing_are_those_of_the_last_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paper, "nowcaster", lambda: paper.Still(Shape()))
    figures: dict[str, float] = {}
    assert not paper.errors(figures).holds
    for k in (5, 10, 20):
        assert figures[f"error at k = {k}, nowcaster"] == figures[f"error at k = {k}, last state"]
