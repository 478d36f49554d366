"""Tickets: one word, read back whole or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.net.iroh.roster import Member
from shoal.net.iroh.ticket import Ticket, digest_of, invitation_of

ADDRESSES = st.sampled_from(["127.0.0.1:5", "[2001:db8::1]:65535", "192.0.2.9:4000"])
MEMBERS = st.builds(
    Member,
    st.integers(0, 10_000),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.lists(ADDRESSES, max_size=4).map(tuple),
    st.none() | st.just("https://relay.example/"),
)
TICKETS = st.builds(
    Ticket,
    st.lists(MEMBERS, min_size=1, max_size=3).map(tuple),
    st.binary(max_size=16),
    st.binary(min_size=32, max_size=32),
)
ONE = Ticket((Member(0, "ab" * 32, ("127.0.0.1:5",)),), b"i" * 16, digest_of(b"x"))


@given(TICKETS)
def test_a_ticket_is_one_word_and_is_read_back(ticket: Ticket) -> None:
    word = str(ticket)
    assert word.isalnum()
    assert word == word.lower()
    assert Ticket.read(f"  {word}\n") == ticket
    assert Ticket.read("shoal1" + word.removeprefix("shoal1").upper()) == ticket


@given(st.data())
def test_a_changed_letter_is_noticed(data: st.DataObject) -> None:
    word = str(ONE)
    at = data.draw(st.integers(len("shoal1"), len(word) - 2))  # the last letter may have unused bits
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567").filter(lambda c: c != word[at]))
    with pytest.raises(ValueError, match="damaged, or cut short"):
        Ticket.read(word[:at] + letter + word[at + 1 :])


@given(st.integers(len("shoal1"), len(str(ONE)) - 1))
def test_a_ticket_that_was_cut_short_is_noticed(end: int) -> None:
    with pytest.raises(ValueError, match=r"ticket: .* is damaged, or cut short"):
        Ticket.read(str(ONE)[:end])


@given(st.text())
def test_no_other_text_is_a_ticket(text: str) -> None:
    with pytest.raises(ValueError, match="ticket: "):
        Ticket.read(text)
    with pytest.raises(ValueError, match="ticket: "):
        Ticket.read("shoal1" + text)


def test_addresses_in_a_ticket_are_checked() -> None:
    bad = Ticket((Member(0, "ab" * 32, ("example.org:5",)),), b"", ONE.digest)
    with pytest.raises(ValueError, match="addresses that are none"):
        Ticket.read(str(bad))


def test_an_overlong_ticket_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 8192"):
        Ticket.read("shoal1" + "a" * 10_000)


def test_invitations_depend_on_key_and_experiment_alone() -> None:
    a, b, x, y = b"a" * 32, b"b" * 32, digest_of(b"x"), digest_of(b"y")
    assert invitation_of(a, x) == invitation_of(a, x)
    assert len({invitation_of(a, x), invitation_of(a, y), invitation_of(b, x), invitation_of(b, y)}) == 4
    assert len(invitation_of(a, x)) == 16
