"""The wrapper by which the benchmarks time protocols takes whatever a protocol asks of its rounds."""

from __future__ import annotations

import pytest
from benchmarks.ours import shared

import shoal
from shoal.protocols import FedAvg, Gossip, Pairwise


@pytest.mark.parametrize(
    "protocol", [FedAvg(steps=1), Gossip(steps=1), Pairwise(steps=1)], ids=lambda p: type(p).__name__
)
def test_a_ticked_protocol_marks_each_round(protocol: object, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str] = []
    monkeypatch.setattr(shared, "tick", marks.append)
    shoal.simulate(shared.Ticked(protocol), task="digits", peers=4, rounds=3, batch=8)
    assert marks == ["start", "round", "round", "round"]
