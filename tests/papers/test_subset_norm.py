"""The claim's own arithmetic: its exact criteria, and how losses and state are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.optim import Adam
from shoal.optim.subset_norm import SubsetNorm
from shoal.papers import subset_norm as paper
from tests.papers.made import comparison


def test_the_exact_criteria_hold() -> None:
    assert paper.ends_of_the_range({}).holds
    assert paper.full_rank({}).holds
    assert paper.counted({}).holds


def test_state_of_full_size_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "AdamSNSM", lambda params, rank: SubsetNorm(params))
    assert not paper.counted({}).holds
    monkeypatch.setattr(paper, "AdamSNSM", lambda params, rank: Adam(params))
    assert not paper.counted({}).holds


@pytest.mark.parametrize(
    ("norm", "both", "size", "expected"),
    [
        (1.01, 0.9, 1.0, [True, True, True]),
        (1.03, 1.01, 1.0, [False, True, False]),
        (0.9, 1.03, 1.0, [True, False, False]),
        (0.9, 0.9, 4.0, [True, False, True]),
    ],
)
def test_losses_state_and_steps_are_judged(norm: float, both: float, size: float, expected: list[bool]) -> None:
    curves = {"Adam": [2.0, 1.5, 1.0], "AdamSN": [2.0, 1.5, norm], "AdamSNSM": [1.5, both, both]}
    losses = {name: curve[-1] for name, curve in curves.items()}
    found = comparison(losses, curves=curves, evaluated=(10, 20, 30))
    sizes = {"Adam": 8.0, "AdamSN": 4.0, "AdamSNSM": size}
    found = replace(found, entries=tuple(replace(e, state_bytes=sizes[e.name]) for e in found.entries))
    assert [finding.holds for finding in paper.contest(found, {})] == expected
