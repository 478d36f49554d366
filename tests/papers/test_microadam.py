"""The claim's own arithmetic: its exact criteria, and how state and accuracy are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.papers import microadam as paper
from tests.papers.made import comparison


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.everything_kept(figures).holds
    assert paper.conserved(figures).holds
    assert paper.half_a_code(figures).holds
    assert figures["largest error of what waits, in codes"] > 0.4


def test_quantisation_is_seen_by_what_is_to_be_conserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "EXACT", {"quant_bits": None, "window_dtype": "bfloat16"})
    assert not paper.conserved({}).holds
    assert not paper.everything_kept({}).holds


def test_feedback_reaches_what_is_never_the_largest() -> None:
    assert paper.feedback({}, steps=900).holds
    assert not paper.feedback({}, steps=100).holds


@pytest.mark.parametrize(
    ("size", "score", "expected"),
    [(0.9, 0.80, [True, True]), (0.9, 0.78, [True, False]), (1.1, 0.795, [False, True])],
)
def test_state_and_accuracy_are_judged(size: float, score: float, expected: list[bool]) -> None:
    found = comparison({"AdamW": 0.8, "MicroAdam": score})
    sizes = {"AdamW": 8.0, "MicroAdam": size}
    found = replace(found, entries=tuple(replace(e, state_bytes=sizes[e.name]) for e in found.entries))
    assert [finding.holds for finding in paper.contest(found, {})] == expected
