"""Views and the order of samples, against the restatement and by what must hold of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.protocols.gossip.views import COUNTERS, View, hash_order
from shoal.tensors.payload import MalformedPayload
from tests.restatements import modest as restated

PEERS = 7
# Of each counter there is one membership, as each peer says itself.
entries = st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda e: (*e, e[1] % 3 != 2))
views = st.lists(entries, min_size=PEERS, max_size=PEERS)


def view(content: list[restated.Entry]) -> View:
    active, counter, joined = (list(column) for column in zip(*content, strict=True))
    return View(active, counter, joined)


def content(view: View) -> list[restated.Entry]:
    return list(zip(view.active, view.counter, view.joined, strict=True))


@given(a=views, b=views)
def test_merging_agrees_with_the_restatement(a: list[restated.Entry], b: list[restated.Entry]) -> None:
    merged = view(a)
    merged.merge(view(b))
    assert dict(enumerate(content(merged))) == restated.merge(dict(enumerate(a)), dict(enumerate(b)))
    assert merged.latest == max(entry[0] for entry in [*a, *b])


@given(a=views, b=views, c=views)
def test_merging_in_any_order_and_more_than_once_ends_in_the_same(
    a: list[restated.Entry], b: list[restated.Entry], c: list[restated.Entry]
) -> None:
    one, other, inner = view(a), view(c), view(b)
    for part in (b, c, b):
        one.merge(view(part))
    inner.merge(view(a))
    other.merge(inner)
    assert content(one) == content(other)


@given(a=views, round=st.integers(1, 60), window=st.integers(1, 30), own=st.integers(0, PEERS - 1))
def test_candidates_agree_with_the_restatement(a: list[restated.Entry], round: int, window: int, own: int) -> None:
    assert view(a).candidates(round, window, own) == restated.candidates(dict(enumerate(a)), round, window, own)


@given(a=views, b=views, round=st.integers(1, 60))
def test_peers_with_equal_views_draw_the_same_sample(
    a: list[restated.Entry], b: list[restated.Entry], round: int
) -> None:
    """Equal in what they hold, however they came by it; who counts itself in by right, counts for the others too."""
    one, other = view(a), view(b)
    one.merge(view(b))
    other.merge(view(a))
    inside = [i for i in range(PEERS) if one.joined[i] and one.active[i] >= round - 20]
    lists = {tuple(v.candidates(round, 20, own)) for v in (one, other) for own in inside}
    assert len(lists) <= 1


def test_the_order_is_that_of_the_digests() -> None:
    assert list(hash_order(50, 9)) == restated.ordered(range(50), 9)
    assert hash_order(50, 9) != hash_order(50, 10)


@given(a=views)
def test_a_view_travels_and_comes_back(a: list[restated.Entry]) -> None:
    sent = view(a).tensor()
    assert sent.dtype == torch.int32
    assert content(View.read(sent, PEERS, 40)) == a


@pytest.mark.parametrize(("row", "value"), [(0, 41), (0, -1), (1, COUNTERS + 1), (1, -3), (2, 2), (2, -1)])
def test_numbers_out_of_range_are_refused(row: int, value: int) -> None:
    sent = View.start(PEERS).tensor()
    sent[row, 3] = value
    with pytest.raises(MalformedPayload, match=str(value)):
        View.read(sent, PEERS, 40)


@pytest.mark.parametrize(
    "payload", [None, "view", [1, 2], torch.zeros(3, PEERS), torch.zeros(3, PEERS + 1, dtype=torch.int32)]
)
def test_what_is_no_view_is_refused(payload: object) -> None:
    with pytest.raises(MalformedPayload, match="view"):
        View.read(payload, PEERS, 40)


def test_news_that_are_no_newer_change_nothing() -> None:
    known = view([(5, 2, True)] * PEERS)
    known.admit(1, 2, False)
    known.touch(1, 4)
    assert content(known) == [(5, 2, True)] * PEERS
    known.renew(1, joined=False)
    assert content(known)[1] == (5, 3, False)
    full = view([(0, COUNTERS, True)] * PEERS)
    full.renew(0, joined=False)  # no counter is larger
    assert content(full)[0] == (0, COUNTERS, True)
