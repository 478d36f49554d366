"""The claim of MoDeST: what is measured, and that each criterion can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal import Run
from shoal.papers import modest as paper
from shoal.protocols.gossip.views import View

TINY = replace(paper.CHECK, peers=20, rounds=24, gossip=4, seeds=(1,), target=0.5)


def made(values: list[float], peers: int = 2) -> Run:
    """A run with these accuracies at rounds 1, 2, ..., and 10 bytes a round."""
    rows = [
        (float(r), r, 10 * r, peer, "accuracy", value) for r, value in enumerate(values, 1) for peer in range(peers)
    ]
    return Run(None, {"bytes": {"total": 10 * len(values) + 5}, "rounds": len(values)}, rows)


def test_bytes_count_up_to_the_first_round_that_gets_there_or_all_of_them() -> None:
    run = made([0.1, 0.6, 0.4, 0.7])
    assert [paper.bytes_to(run, target) for target in (0.1, 0.5, 0.65, 0.8)] == [10.0, 20.0, 40.0, 45.0]


def test_late_accuracy_is_that_of_the_last_quarter() -> None:
    assert paper.late(made([0.0] * 6 + [0.5, 0.7])) == pytest.approx(0.6)


def test_lists_that_depend_on_who_asks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.same_samples(3, peers=12, rounds=10).holds
    candidates = View.candidates

    def selfish(self: View, round: int, window: int, own: int) -> list[int]:
        return [own, *(i for i in candidates(self, round, window, own) if i != own)]

    monkeypatch.setattr(View, "candidates", selfish)
    assert not paper.same_samples(3, peers=12, rounds=10).holds


def test_a_run_is_that_of_a_server_with_the_same_samples_and_sends_what_it_should() -> None:
    findings = paper.as_a_server(5, {}, peers=15, rounds=3)
    assert [finding.holds for finding in findings] == [True, True]


def test_other_samples_give_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "hash_order", lambda peers, k: tuple(range(peers)))
    assert not paper.as_a_server(5, {}, peers=15, rounds=3)[0].holds


def runs_of(ours: list[float], theirs: list[float], gossip: list[float]) -> dict[tuple[str, int], Run]:
    values = {"MoDeST": ours, "FedAvg": theirs, **dict.fromkeys(paper.GRAPHS, gossip)}
    runs = {(method, 1): made(curve) for method, curve in values.items()}
    for method in paper.GRAPHS:
        run = runs[method, 1]
        run.metrics += [(*row[:3], -1, *row[4:]) for row in run.metrics if row[3] == 0]
    return runs


@pytest.mark.parametrize(
    ("ours", "theirs", "fast"),
    [([0.0] * 4 + [0.6], [0.0] * 3 + [0.6], True), ([0.0] * 5 + [0.6], [0.0] * 3 + [0.6], False)],
)
def test_it_may_need_a_quarter_more_rounds(ours: list[float], theirs: list[float], fast: bool) -> None:
    rates: dict[str, Any] = dict.fromkeys(paper.METHODS, 0.1)
    assert paper.as_fast(TINY, runs_of(ours, theirs, [0.0]), rates, {}).holds == fast


@pytest.mark.parametrize(
    ("ours", "gossip", "less"),
    [([0.0, 0.6], [0.0] * 5 + [0.6], True), ([0.0, 0.6], [0.0] * 4 + [0.6], False), ([0.0, 0.2], [0.0] * 99, False)],
)
def test_it_has_to_send_a_third(ours: list[float], gossip: list[float], less: bool) -> None:
    assert paper.less_sent(TINY, runs_of(ours, [0.6], gossip), {}).holds == less


def test_the_crash_comes_as_its_round_ends_and_leaves_a_fifth() -> None:
    figures: dict[str, float] = {}
    run = paper.run_of(TINY, "MoDeST", 0.2, 1)
    paper.goes_on(TINY, {("MoDeST", 1): run}, 0.2, figures)
    assert figures["rounds done after the crash, seed 1"] == TINY.rounds - paper.CRASH_ROUND
    ends = min(row[0] for row in run.metrics if row[1] == paper.CRASH_ROUND)
    assert figures["virtual seconds a round before the crash, seed 1"] == ends / paper.CRASH_ROUND
    assert figures["virtual seconds a round after the crash, seed 1"] > ends / paper.CRASH_ROUND
