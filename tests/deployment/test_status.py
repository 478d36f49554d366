"""What others tell of themselves is a status or is refused, and text of theirs is harmless wherever it is shown."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.deployment.board import Board
from shoal.deployment.status import SHORT, MalformedStatus, Status, clean, described

GOOD = {
    "what": "status",
    "peer": 3,
    "state": "running",
    "round": 7,
    "scores": {"accuracy": 0.5, "loss": 1},
    "scored": 6,
    "sent": 10**12,
    "received": 5,
    "refused": 0,
    "waits": ["exchange('exchange', round 7) from peers 1, 2"],
    "lives": 2,
    "here": 4,
    "version": "0.1.0",
}
HOSTILE = [
    ("peer", 2),
    ("peer", True),
    ("state", "<b>running</b>"),
    ("state", "gone"),
    ("state", None),
    ("round", -1),
    ("round", 1.0),
    ("round", "7"),
    ("round", True),
    ("round", 2**64 - 1),
    ("scores", [0.5]),
    ("scores", torch.zeros(2, 2)),
    ("scores", None),
    ("state", torch.zeros(1)),
    ("lives", b"1"),
    ("scores", {"accuracy": math.nan}),
    ("scores", {"loss": math.inf}),
    ("scores", {"loss": "0.5"}),
    ("scores", {"loss": torch.zeros(1)}),
    ("scores", {"<script>": 0.5}),
    ("scores", {"loss\n": 0.5}),
    ("scores", {"": 0.5}),
    ("scores", {f"metric {i}": 0.5 for i in range(9)}),
    ("scores", {"m" * 41: 0.5}),
    ("sent", -1),
    ("sent", 2**63),
    ("waits", "for everybody"),
    ("waits", ["x" * 161]),
    ("waits", ["x"] * 5),
    ("waits", [torch.zeros(3)]),
    ("lives", 0),
    ("version", "0.1\x1b[2J"),
    ("version", "<img>"),
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=50)
    | st.binary(max_size=20)
    | st.sampled_from([torch.tensor([math.nan]), torch.zeros(0), torch.zeros(2, 2), torch.tensor(1)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def test_a_good_status_is_read_and_told_again_unchanged() -> None:
    status = Status.read(3, GOOD)
    assert {**status.content(), "what": "status"} == GOOD
    assert Status.read(3, {"peer": 3, "state": "waiting"}) == Status(peer=3, state="waiting")


@pytest.mark.parametrize(("field", "value"), HOSTILE)
def test_a_field_that_is_not_as_it_must_be_is_refused_and_what_was_known_stays(field: str, value: Any) -> None:
    board = Board(0, 5, "run", 10, clock=lambda: 0.0)
    assert board.heard(3, GOOD)
    before = board.snapshot()["rows"]
    with pytest.raises(MalformedStatus):
        Status.read(3, {**GOOD, field: value})
    assert not board.heard(3, {**GOOD, field: value})
    assert board.malformed == 1
    assert board.snapshot()["rows"] == [row | {"malformed": int(row["peer"] == 3)} for row in before]
    assert board.snapshot()["events"][0]["event"] == "malformed status refused"


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), anything) | anything)
def test_whatever_is_told_never_raises_and_what_is_shown_is_plain(content: Any) -> None:
    board = Board(0, 5, "run", 10)
    told = {**GOOD, **content} if isinstance(content, dict) else content
    believed = board.heard(3, told)
    assert board.malformed == (not believed)
    shown = json.loads(json.dumps(board.snapshot(), allow_nan=False))
    assert believed == (shown["rows"][1]["heard"] is not None)


@pytest.mark.parametrize("sender", [-1, 0, 5, 10**9])
def test_nobody_tells_for_this_peer_nor_for_one_that_is_none(sender: int) -> None:
    board = Board(0, 5, "run", 10)
    before = board.version
    assert not board.heard(sender, {"peer": sender, "state": "failed"})
    assert board.version == before


@given(st.text(), st.integers(2, 200))
def test_clean_text_is_one_line_that_moves_nothing(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.isprintable()
    assert not {unicodedata.category(c)[0] for c in cleaned} & {"M", "C"}
    assert clean(cleaned, limit) == cleaned


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=SHORT))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_what_does_not_fit_is_cut_with_a_mark() -> None:
    assert clean("x" * 20, 10) == "x" * 9 + "…"
    assert clean("\x00" * 100 + "x", 10) == "…"  # of a long text, only the head is looked at


def test_details_of_a_log_are_one_line() -> None:
    assert (
        described({"why": "cut\x1b[2J", "count": 3, "after": 1 / 3, "not": None})
        == "why: cut[2J, count: 3, after: 0.3333"
    )
    assert len(described({"why": "x" * 10**6})) == SHORT
