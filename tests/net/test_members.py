"""Who is here, who said goodbye, who has finished."""

from shoal.net.members import Members


def test_goodbyes_and_ends_hold_until_the_peer_is_back() -> None:
    members = Members()
    for other in (1, 2, 3):
        members.came(other)
    members.left(1)
    members.finished(3)
    members.went(1)
    members.went(2)
    assert (members.here, members.departed, members.ended) == ({3}, {1}, {3})
    members.came(1)
    members.came(3)
    assert (members.here, members.departed, members.ended) == ({1, 3}, set(), set())
    members.went(1)
    assert members.departed == set()
