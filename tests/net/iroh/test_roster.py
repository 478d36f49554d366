"""Rosters: entries that cannot be forged, files that are whole."""

from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from pathlib import Path

from shoal.net.iroh.roster import Forged, Member, Roster
from shoal.net.iroh.ticket import digest_of
from tests.net.iroh.party import key, secret

DIGEST = digest_of(b"an experiment")


def member(id: int, i: int | None = None, stamp: int = 1, *addresses: str) -> Member:
    i = id if i is None else i
    entry = Member(id, key(i), addresses or ("127.0.0.1:5",), None, stamp)
    return entry.sealed(secret(i)).proved(secret(0), DIGEST)


def roster(peers: int = 5) -> Roster:
    return Roster(peers, key(0), DIGEST)


def test_members_are_found_by_id_and_key() -> None:
    some = roster().filled([member(3), member(0)])
    assert [m.id for m in some] == [0, 3]
    assert len(some) == 2
    assert some.find(key(3)) == some[3] == member(3)
    assert some.find(key(4)) is None
    assert some.id_of(key(0)) == 0
    assert some.lowest_free() == 1
    assert roster(1).filled([member(0)]).lowest_free() is None


def test_of_two_addresses_the_later_one_holds() -> None:
    some = roster()
    old, new = member(1, stamp=5), member(1, None, 6, "127.0.0.1:9")
    assert some.take(old)
    assert not some.take(old)
    assert some.take(new)
    assert not some.take(old)
    assert some[1] == new


def test_the_order_in_which_entries_are_learnt_does_not_matter() -> None:
    entries = [member(1, stamp=5), member(1, None, 6, "127.0.0.1:9"), member(2, stamp=3), member(0)]
    first, second = roster().filled(entries), roster().filled(reversed(entries))
    assert list(first) == list(second)


def test_forged_entries_are_refused() -> None:
    some, good = roster(), member(1)
    changes: list[dict[str, object]] = [
        {"id": 2},
        {"key": key(2)},
        {"addresses": ("127.0.0.1:6",)},
        {"relay": "https://relay.example/"},
        {"stamp": 2},
        {"seal": bytes(64)},
        {"seal": b""},
        {"proof": bytes(64)},
        {"proof": b""},
        {"proof": member(2).proof},
    ]
    for change in changes:
        with pytest.raises(Forged, match=r"peer [12]: "):
            some.take(msgspec.structs.replace(good, **change))
    bad = Member(1, key(1), ("nowhere",), None, 1).sealed(secret(1)).proved(secret(0), DIGEST)
    with pytest.raises(Forged, match="are no addresses"):
        some.take(bad)
    assert len(some) == 0
    assert some.take(good)


def test_a_proof_is_of_one_network() -> None:
    other = Roster(5, key(0), digest_of(b"another experiment"))
    with pytest.raises(Forged, match="has not signed"):
        other.take(member(1))
    with pytest.raises(Forged, match="has not signed"):
        Roster(5, key(4), DIGEST).take(member(1))


def test_neither_id_nor_key_is_given_twice() -> None:
    some = roster().filled([member(1)])
    with pytest.raises(ValueError, match="peer 1: another one has that id"):
        some.take(member(1, 2))
    with pytest.raises(ValueError, match="peer 2: another one has that id, or the key"):
        some.take(member(2, 1))
    with pytest.raises(ValueError, match="peer 5: ids are 0 to 4"):
        some.take(member(5))


def test_a_change_that_cannot_be_kept_is_no_change() -> None:
    some = roster().filled([member(1)])

    def full(_: Roster) -> None:
        raise OSError("the disk is full")

    some.on_change = full
    for entry in (member(2), member(1, None, 9, "127.0.0.1:9")):
        with pytest.raises(OSError, match="full"):
            some.take(entry)
    assert list(some) == [member(1)]
    assert some.find(key(2)) is None


def test_a_file_gives_back_the_roster(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    some = roster()
    some.on_change = lambda it: it.save(path)
    some.filled([member(0), member(4)])
    again = Roster.load(path)
    assert list(again) == list(some)
    assert (again.peers, again.issuer, again.digest) == (5, key(0), DIGEST)
    assert [p.name for p in tmp_path.iterdir()] == ["roster.json"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    with pytest.raises(FileNotFoundError):
        Roster.load(path)
    roster().filled([member(0)]).save(path)
    whole = path.read_text()
    damaged = (
        whole[:-20],
        "{}",
        whole.replace('"format": 1', '"format": 2'),
        whole.replace("127.0.0.1:5", "127.0.0.1:6"),
    )
    for text in damaged:
        assert text != whole
        path.write_text(text)
        with pytest.raises(ValueError, match=r"roster\.json: is damaged .*; remove it"):
            Roster.load(path)
