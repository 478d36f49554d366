"""Places in a network: who gets which id, who comes back as whom, and what is refused. Peers on one loop, over iroh."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("iroh", reason="iroh is not installed")

from shoal.deployment import Home, Node, Place
from shoal.deployment.experiment import Experiment, Net
from shoal.deployment.home import Taken, homes, who_in
from shoal.deployment.life import Ears, live
from shoal.deployment.network import Entered, _relays, enter_network, open_network
from shoal.deployment.node import real_parts
from shoal.net.iroh import Refused, Ticket, load_or_make_key, public
from shoal.report import RunFolder
from shoal.simulation.parts import Parts
from shoal.simulation.settings import Settings


def made(peers: int = 9, protocol: str = "gossip:steps=1", rounds: int = 2, **net: Any) -> tuple[Experiment, Parts]:
    settings = Settings.of(
        protocol=protocol, task="digits", model="mlp:hidden=4", peers=peers, topology="ring", rounds=rounds
    )
    parts, _ = real_parts(settings)
    return Experiment.of(parts, Net.of(beat=0.2, dead=1.0, linger=1.0, **net)), parts


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 120))


async def leave(*entered: Entered) -> None:
    """As a process that ends: the connections, and the lock of the home, are gone."""
    for each in entered:
        await each.transport.stop(0.0)
        each.home.release()


@asynccontextmanager
async def opened(experiment: Experiment, parts: Parts, place: Place) -> AsyncIterator[tuple[Entered, Ticket]]:
    entered = await open_network(experiment, parts, place)
    try:
        yield entered, Ticket.read(str(entered.transport.ticket()))
    finally:
        await leave(entered)


def test_joins_in_one_place_get_an_identity_each_and_come_back_as_who_they_were(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(*made(), Place(tmp_path)) as (host, ticket):
            guests = [await enter_network(ticket, Place(tmp_path), 20.0) for _ in range(8)]
            assert sorted(guest.transport.id for guest in guests) == list(range(1, 9))
            assert len({guest.transport.key for guest in [host, *guests]}) == 9
            assert len({guest.folder for guest in guests}) == 8
            with pytest.raises(Refused, match="not let in: all 9 places are taken; this peer's key is"):
                await enter_network(ticket, Place(tmp_path), 20.0)
            known = {guest.transport.key: guest.transport.id for guest in guests}
            await leave(guests[2], guests[5])
            back = [await enter_network(ticket, Place(tmp_path), 20.0) for _ in range(2)]
            assert all(known[guest.transport.key] == guest.transport.id for guest in back)
            assert {guest.folder for guest in back} == {guests[2].folder, guests[5].folder}
            assert all(guest.again for guest in back)
            await leave(*back, *(guest for k, guest in enumerate(guests) if k not in (2, 5)))

    run(main())


def test_who_wants_an_id_gets_it_or_is_refused_and_wants_it_again_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(*made(4), Place(tmp_path, id=1)) as (host, ticket):
            assert host.transport.id == 1
            guest = await enter_network(ticket, Place(tmp_path, id=3), 20.0)
            assert guest.transport.id == 3
            with pytest.raises(Refused, match="id 3 is taken by the key"):
                await enter_network(ticket, Place(tmp_path, id=3), 20.0)
            other = await enter_network(ticket, Place(tmp_path), 20.0)
            assert other.transport.id == 0
            await leave(guest, other)
            again = await enter_network(ticket, Place(tmp_path, id=3), 20.0)
            assert (again.transport.id, again.transport.key) == (3, guest.transport.key)
            await leave(again)

    run(main())


def test_who_has_finished_does_not_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(*made(3), Place(tmp_path)) as (_, ticket):
            guest = await enter_network(ticket, Place(tmp_path), 20.0)
            guest.home.remember(finished=True)
            await leave(guest)
            other = await enter_network(ticket, Place(tmp_path), 20.0)
            assert other.transport.id != guest.transport.id
            await leave(other)

    run(main())


def test_a_network_is_opened_again_with_the_same_invitation(tmp_path: Path) -> None:
    async def main() -> None:
        experiment, parts = made(3)
        async with opened(experiment, parts, Place(tmp_path)) as (host, ticket):
            guest = await enter_network(ticket, Place(tmp_path), 20.0)
            with pytest.raises(Taken, match="belongs to a peer that is running"):
                await open_network(Experiment.of(parts, experiment.net), parts, Place(tmp_path))
            await leave(guest)
        async with opened(Experiment.of(parts, experiment.net), parts, Place(tmp_path)) as (again, later):
            assert (later.invitation, later.digest) == (ticket.invitation, ticket.digest)
            assert later.contacts[0].key == ticket.contacts[0].key
            assert again.folder == host.folder
            assert again.transport.roster.find(guest.transport.key) is not None
        changed, its = made(3, rounds=3)
        async with opened(changed, its, Place(tmp_path)) as (new, other):
            assert other.digest != ticket.digest
            assert new.folder != host.folder

    run(main())


def test_a_guest_takes_the_pace_of_the_network_and_the_relays_of_the_ticket(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(*made(3, streams=3), Place(tmp_path)) as (_, ticket):
            guest = await enter_network(ticket, Place(tmp_path), 20.0)
            options = guest.transport._options
            assert (options.beat, options.dead, options.streams, options.relays) == (0.2, 1.0, 3, "off")
            await leave(guest)
            first = msgspec.structs.replace(ticket.contacts[0], relay="https://relay.example.org")
            assert _relays(Ticket((first, *ticket.contacts), ticket.invitation, ticket.digest)) == (
                "https://relay.example.org",
            )

    run(main())


def test_the_old_port_is_taken_again_if_it_is_free(tmp_path: Path) -> None:
    async def main() -> None:
        experiment, parts = made(3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            port = other.getsockname()[1]
            with pytest.raises(OSError, match=f"bind: cannot listen at 127.0.0.1:{port}"):
                await open_network(experiment, parts, Place(tmp_path, bind=f"127.0.0.1:{port}"))
            async with opened(experiment, parts, Place(tmp_path)) as (host, _):
                host.home.remember(port=port)
            async with opened(Experiment.of(parts, experiment.net), parts, Place(tmp_path)) as (again, _):
                assert again.home.who.port not in (None, port)
                again.home.remember(port=port)
        async with opened(Experiment.of(parts, experiment.net), parts, Place(tmp_path)) as (again, ticket):
            assert again.home.who.port == port
            assert f"127.0.0.1:{port}" in ticket.contacts[0].addresses

    run(main())


def test_a_guest_comes_back_with_nobody_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(*made(3), Place(tmp_path)) as (_, ticket):
            guest = await enter_network(ticket, Place(tmp_path), 20.0)
            await leave(guest)
        again = await enter_network(ticket, Place(tmp_path), 0.01)
        assert again.transport.id == guest.transport.id
        await leave(again)
        with pytest.raises(ConnectionError, match=r"within 0\.5 s"):
            await enter_network(ticket, Place(tmp_path / "elsewhere"), 0.5)

    run(main())


def test_an_allow_list_lets_in_its_keys_and_each_of_them_once(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.key" for name in "abc"]
    keys = [public(load_or_make_key(file)) for file in files]

    async def main() -> None:
        async with opened(*made(3, allow=keys), Place(tmp_path, key=files[0])) as (_, ticket):
            with pytest.raises(Refused, match=r"not in the allow-list; this peer's key is [0-9a-f]{64}"):
                await enter_network(ticket, Place(tmp_path), 20.0)
            guest = await enter_network(ticket, Place(tmp_path, key=files[2]), 20.0)
            assert (guest.transport.id, guest.transport.key) == (2, keys[2])
            with pytest.raises(Taken):
                await enter_network(ticket, Place(tmp_path, key=files[2]), 20.0)
            await leave(guest)

    run(main())


def test_a_damaged_home_is_refused_with_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        experiment, parts = made(3)
        async with opened(experiment, parts, Place(tmp_path)) as (_, ticket):
            guest = await enter_network(ticket, Place(tmp_path), 20.0)
            await leave(guest)
            for name in ("who.json", "experiment.json", "roster.json", "key"):
                path = guest.home.folder / name
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2])
                with pytest.raises(ValueError, match=str(path)):
                    await enter_network(ticket, Place(tmp_path), 20.0)
                path.write_bytes(whole)
            again = await enter_network(ticket, Place(tmp_path), 20.0)
            assert again.transport.id == guest.transport.id
            await leave(again)

    run(main())


# -- lives ---------------------------------------------------------------------------------------------------


async def life(entered: Entered, parts: Parts, **more: Any) -> Node:
    try:
        return await live(entered, parts, **more)
    finally:
        entered.home.release()


def test_a_life_that_is_cancelled_says_goodbye_and_goes_on_later(tmp_path: Path) -> None:
    async def main() -> None:
        experiment, parts = made(2, "gossip:steps=2", rounds=120)
        host = await open_network(experiment, parts, Place(tmp_path))
        ticket = host.transport.ticket()
        guest = await enter_network(ticket, Place(tmp_path), 20.0)
        moved = asyncio.Event()
        heard: list[dict[str, Any]] = []

        def event(entry: dict[str, Any]) -> None:
            heard.append(entry)
            if entry["event"] == "measured" and entry["round"] > 0:
                moved.set()

        first = asyncio.ensure_future(life(host, parts, ears=Ears(event=event)))
        second = asyncio.ensure_future(life(guest, parts))
        await moved.wait()
        second.cancel()
        stopped = await second
        assert stopped.status == "interrupted"
        facts = RunFolder(guest.folder).facts
        assert (facts.status, facts.rounds) == ("interrupted", stopped.peer.state["round"])
        assert not who_in(guest.home.folder).finished
        again = await enter_network(ticket, Place(tmp_path), 20.0)
        assert (await life(again, parts)).status == "finished"
        assert (await first).status == "finished"
        assert RunFolder(guest.folder).facts.rounds == 120
        assert next(entry["why"] for entry in heard if entry["event"] == "lost") == "said goodbye"
        assert all(who_in(path).finished for path in homes(tmp_path))

    run(main())


def test_a_damaged_checkpoint_is_refused_with_its_name_and_spoils_no_results(tmp_path: Path) -> None:
    async def main() -> None:
        experiment, parts = made(2, rounds=2)
        host = await open_network(experiment, parts, Place(tmp_path))
        guest = await enter_network(host.transport.ticket(), Place(tmp_path), 20.0)
        await asyncio.gather(life(host, parts), life(guest, parts))
        before = (host.folder / "metrics.csv").read_bytes(), (host.folder / "run.json").read_bytes()
        home = Home(host.home.folder)
        home.remember(finished=False)
        home.release()
        state = host.home.folder / "state.bin"
        state.write_bytes(state.read_bytes()[:-7])
        again = await open_network(Experiment.of(parts, experiment.net), parts, Place(tmp_path))
        with pytest.raises(ValueError, match=r"state\.bin: is damaged .* remove it to begin anew"):
            await life(again, parts)
        assert ((host.folder / "metrics.csv").read_bytes(), (host.folder / "run.json").read_bytes()) == before

    run(main())
