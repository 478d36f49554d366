"""Who gets in, and with which id; first by the rules alone, then over the network."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from shoal.net.iroh import IrohTransport, NetOptions, Refused, Roster, Ticket
from shoal.net.iroh.admission import Admission
from shoal.net.iroh.hello import ALPN, LENGTH, Hello
from shoal.net.iroh.roster import Member
from shoal.net.iroh.ticket import digest_of, invitation_of
from tests.net.iroh.party import Party, key, run, secret

DIGEST = digest_of(b"an experiment")
INVITATION = invitation_of(secret(0), DIGEST)


def hello(i: int, *, stamp: int = 1, **more: Any) -> Hello:
    me = Member(0, key(i), ("127.0.0.1:5",), None, stamp).sealed(secret(i))
    usual = Hello("join", b"l" * 8, b"c" * 8, b"", DIGEST, INVITATION, None, me)
    return msgspec.structs.replace(usual, **more)


def issuer(peers: int = 4, allow: tuple[str, ...] = ()) -> Admission:
    roster = Roster(peers, key(0), DIGEST)
    roster.take(Member(0, key(0), ("127.0.0.1:5",)).sealed(secret(0)).proved(secret(0), DIGEST))
    return Admission(roster, secret(0), INVITATION, allow)


# -- the rules -----------------------------------------------------------------------------------------------


def test_newcomers_get_the_lowest_free_id_or_the_wanted_one() -> None:
    door = issuer(5)
    ids = [door.admit(key(i), hello(i, wanted=w))[0].id for i, w in ((1, None), (2, 3), (3, None), (4, None))]
    assert ids == [1, 3, 2, 4]


def test_an_id_that_is_wanted_and_not_to_be_had_is_refused_and_costs_no_place() -> None:
    door = issuer(3)
    door.admit(key(1), hello(1, wanted=2))
    with pytest.raises(Refused, match="id 2 is taken by the key"):
        door.admit(key(2), hello(2, wanted=2))
    with pytest.raises(Refused, match="id 3 is none here: there are 3 peers, 0 to 2"):
        door.admit(key(2), hello(2, wanted=3))
    assert len(door.roster) == 2
    assert door.admit(key(2), hello(2))[0].id == 1


def test_who_was_in_has_its_old_id() -> None:
    door = issuer()
    first, news = door.admit(key(1), hello(1))
    assert news
    door.admit(key(2), hello(2))
    again, news = door.admit(key(1), hello(1, wanted=3, invitation=b"", stamp=2))
    assert (again.id, again.proof, again.stamp, news) == (first.id, first.proof, 2, True)
    assert door.admit(key(1), hello(1))[1] is False  # an older word changes nothing
    assert door.roster[1].stamp == 2


def test_a_full_network_takes_nobody() -> None:
    door = issuer(2)
    door.admit(key(1), hello(1))
    with pytest.raises(Refused, match="all 2 places are taken"):
        door.admit(key(2), hello(2))


@pytest.mark.parametrize("invitation", [b"", b"x" * 16, INVITATION[:-1], INVITATION + b"x"])
def test_another_invitation_does_not_do(invitation: bytes) -> None:
    door = issuer()
    with pytest.raises(Refused, match="invitation is not valid"):
        door.admit(key(1), hello(1, invitation=invitation))
    assert len(door.roster) == 1


def test_another_experiment_does_not_do() -> None:
    with pytest.raises(Refused, match="another experiment"):
        issuer().admit(key(1), hello(1, digest=digest_of(b"other")))


def test_an_empty_invitation_lets_nobody_in() -> None:
    door = Admission(issuer().roster, secret(0), b"")
    with pytest.raises(Refused, match="invitation is not valid"):
        door.admit(key(1), hello(1, invitation=b""))


def test_the_hello_must_be_of_the_key_that_the_connection_has_proved() -> None:
    with pytest.raises(Refused, match="another key than the connection"):
        issuer().admit(key(2), hello(1))


def test_addresses_must_be_signed() -> None:
    forged = msgspec.structs.replace(hello(1).me, addresses=("192.0.2.1:1",))
    door = issuer()
    with pytest.raises(Refused, match="not signed"):
        door.admit(key(1), hello(1, me=forged))
    assert len(door.roster) == 1


def test_an_allow_list_gives_places() -> None:
    door = issuer(4, allow=(key(0), key(7), key(1), key(2)))
    assert door.admit(key(2), hello(2, invitation=b"", wanted=1))[0].id == 3
    assert door.admit(key(7), hello(7, invitation=b""))[0].id == 1
    with pytest.raises(Refused, match="not in the allow-list"):
        door.admit(key(3), hello(3))  # an invitation does not help


def test_who_was_taken_off_the_allow_list_stays_out() -> None:
    before = issuer(3, allow=(key(0), key(1), key(2)))
    before.admit(key(1), hello(1))
    after = Admission(before.roster, secret(0), INVITATION, allow=(key(0), key(3), key(2)))
    with pytest.raises(Refused, match="not in the allow-list"):
        after.admit(key(1), hello(1, stamp=2))


def test_other_members_let_in_whom_the_issuer_has_signed_and_nobody_else() -> None:
    first = issuer()
    member, _ = first.admit(key(1), hello(1))
    other = Admission(Roster(4, key(0), DIGEST), None, INVITATION)
    with pytest.raises(Refused, match="ask the one whose ticket you have") as caught:
        other.admit(key(2), hello(2))
    assert not caught.value.final
    found, news = other.admit(key(1), hello(1, me=member))
    assert (found, news) == (member, True)
    with pytest.raises(Refused, match="ask the one whose ticket you have"):
        other.admit(key(2), hello(2, me=msgspec.structs.replace(hello(2).me, id=1, proof=member.proof)))


# -- over the network ----------------------------------------------------------------------------------------


def test_two_newcomers_at_once_get_two_ids() -> None:
    async def main() -> None:
        async with Party(6) as party:
            await party.host()
            guests = await asyncio.gather(*(party.join(i) for i in range(1, 6)))
            assert sorted(guest.transport.id for guest in guests) == [1, 2, 3, 4, 5]
            assert all(guest.transport.experiment == party.experiment for guest in guests)

    run(main())


def test_a_wrong_invitation_is_told_so() -> None:
    async def main() -> None:
        async with Party(3) as party:
            host = await party.host()
            wrong = msgspec.structs.replace(party.ticket, invitation=b"?" * 16)
            with pytest.raises(Refused, match="invitation is not valid"):
                await party.join(1, wrong)
            assert len(host.transport.roster) == 1
            [(event, _, details)] = host.log
            assert (event, details["key"]) == ("refused", key(1))

    run(main())


def test_an_unknown_key_is_told_so() -> None:
    async def main() -> None:
        options = NetOptions(allow=(key(0), key(2), key(1)))
        async with Party(3, options) as party:
            host = await party.host()
            with pytest.raises(Refused, match="is not in the allow-list"):
                await party.join(3)
            ids = [(await party.join(i)).transport.id for i in (1, 2)]
            assert ids == [2, 1]
            assert len(host.transport.roster) == 3

    run(main())


def test_of_a_stranger_nothing_but_a_short_hello_is_read() -> None:
    from shoal.net.iroh.endpoint import bind, dial

    async def says(party: Party, host: Any, data: bytes) -> str:
        """What becomes of a connection on which a stranger writes that."""
        endpoint = await bind(secret(5), NetOptions())
        connection = await dial(endpoint, host.transport.roster[0], 5.0)
        stream = await connection.open_bi()
        await stream.send().write_all(data)
        why = str(await connection.closed())
        await endpoint.close()
        return why

    async def main() -> None:
        async with Party(3) as party:
            host = await (await party.host()).start()
            good = msgspec.msgpack.encode(hello(5))
            extra = msgspec.msgpack.encode(msgspec.to_builtins(hello(5), builtin_types=(bytes,)) | {"more": 1})
            for data in (
                LENGTH.pack(0xFFFFFFFF),
                LENGTH.pack(10) + b"\xff" * 10,
                LENGTH.pack(len(good)) + b"\xc1" * len(good),
                LENGTH.pack(8000) + b"\x91" * 8000,
                LENGTH.pack(len(extra)) + extra,
            ):
                assert "closed by peer" in await says(party, host, data)
            assert [entry[0] for entry in host.log] == ["handshake failed"] * 5
            assert "over the limit of 8192" in host.log[0][2]["why"]
            assert host.story == []
            assert len(host.transport.roster) == 1
            other = await (await party.join(1)).start()  # and it goes on
            await host.sees(1)
            await other.sees(0)

    run(main())


def test_another_protocol_is_no_peer() -> None:
    from shoal.net.iroh.binding import load

    async def main() -> None:
        iroh = load()
        assert ALPN == b"shoal/1"
        async with Party(3) as party:
            host = await party.host()
            minimal, off = iroh.preset_minimal(), iroh.RelayMode.disabled()
            endpoint = await iroh.Endpoint.bind(iroh.EndpointOptions(preset=minimal, relay_mode=off))
            there = host.transport.roster[0]
            address = iroh.EndpointAddr(iroh.EndpointId.from_string(there.key), None, list(there.addresses))
            with pytest.raises(iroh.IrohError):
                await asyncio.wait_for(endpoint.connect(address, b"shoal/0"), 5.0)
            await endpoint.close()

    run(main())


def test_the_roster_spreads_to_all() -> None:
    async def main() -> None:
        async with Party(5) as party:
            guests = await party.all_started(4)
            late = await party.join(4)
            for guest in guests:
                while 4 not in guest.transport.roster:
                    await asyncio.sleep(0.01)
                assert guest.transport.roster[4] == late.transport.roster[4]
            await late.start()
            await late.sees(0, 1, 2, 3)

    run(main())


def test_ids_stay_when_the_host_starts_again_and_old_tickets_stay_good(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"

    async def main() -> None:
        async with Party(4) as party:
            host = await party.host()
            host.transport.roster.on_change = lambda roster: roster.save(path)
            for i in (1, 2):
                await party.join(i)
            old = party.ticket
            await host.transport.stop(1.0)
            again = await party.host(roster=Roster.load(path))
            assert party.ticket.invitation == old.invitation
            there = Ticket(party.ticket.contacts, old.invitation, old.digest)
            assert [(await party.join(i, there)).transport.id for i in (2, 3, 1)] == [2, 3, 1]
            assert [member.id for member in again.transport.roster] == [0, 1, 2, 3]

    run(main())


def test_the_hosts_roster_must_be_of_the_same_network() -> None:
    async def main() -> None:
        async with Party(4) as party:
            host = await party.host()
            roster = host.transport.roster
            await host.transport.stop(0.0)
            party.guests.remove(host)
            with pytest.raises(ValueError, match="id: got 2; this peer was 0 before"):
                await party.host(id=2, roster=roster)
            party.experiment = b"another"
            with pytest.raises(ValueError, match="roster: is of another key, experiment"):
                await party.host(roster=roster)

    run(main())


def test_a_member_comes_back_through_another_when_the_host_is_gone() -> None:
    async def main() -> None:
        async with Party(4) as party:
            host, one, two = await party.all_started(3)
            await one.transport.stop(1.0)
            await host.transport.stop(1.0)
            with pytest.raises(ConnectionError, match=r"within 1 s \(peer 0: does not answer\)"):
                await party.join(1, timeout=1.0)  # the ticket alone knows nobody who is there
            again = await party.join(1, roster=one.transport.roster)
            assert again.transport.id == 1
            assert again.transport.experiment == party.experiment
            await again.start()
            await again.sees(2)
            await two.sees(1)
            assert two.transport.send(1, b"", b"welcome")
            await again.until(lambda: again.heard)
            with pytest.raises(ConnectionError, match="peer 2: the key is not in this peer's roster: ask the one"):
                await party.join(3, two.transport.ticket(), timeout=2.5)  # newcomers need the host

    run(main())


def test_the_experiment_must_be_the_one_of_the_ticket() -> None:
    async def main() -> None:
        async with Party(3) as party:
            host = await party.host()
            host.transport.experiment = b"something else"
            with pytest.raises(Refused, match="another issuer or experiment than the ticket says"):
                await party.join(1)

    run(main())


def test_a_member_comes_back_by_what_it_kept_with_nobody_there() -> None:
    async def main() -> None:
        async with Party(3) as party:
            await party.host()
            guest = await party.join(1)
            kept = Roster(3, guest.transport.roster.issuer, guest.transport.roster.digest).filled(
                guest.transport.roster
            )
            await asyncio.gather(*(one.transport.stop(1.0) for one in party.guests))
            party.guests.clear()
            again = await IrohTransport.resume(
                kept, secret=secret(1), experiment=party.experiment, invitation=party.ticket.invitation
            )
            try:
                assert (again.id, again.experiment) == (1, party.experiment)
                assert again.ticket().invitation == party.ticket.invitation
                again.roster[1].check()
                assert again.roster[1].is_proved(kept.issuer, kept.digest)
            finally:
                await again.stop(0.0)
            for wrong in ({"secret": secret(2)}, {"experiment": b"another"}):
                arguments = {"secret": secret(1), "experiment": party.experiment, "invitation": b"", **wrong}
                with pytest.raises(ValueError, match="roster: is of another key or experiment"):
                    await IrohTransport.resume(kept, **arguments)

    run(main())
