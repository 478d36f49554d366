"""From an experiment file, or a ticket, to a place in the open network, new or again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.deployment.experiment import Experiment, Net, OtherVersion
from shoal.deployment.home import (
    KEY,
    Home,
    experiment_in,
    homes,
    new_home,
    old_home,
    run_folder,
    who_in,
)
from shoal.simulation.parts import Parts

if TYPE_CHECKING:
    from shoal.net.iroh import IrohTransport, NetOptions, Ticket

LOOPBACK, ANYWHERE = "127.0.0.1:0", "0.0.0.0:0"


@dataclass(frozen=True)
class Place:
    """Where a peer starts.

    Attributes:
        out: folder of run folders.
        id: which peer to be; None: any.
        bind: address and port to listen at; None: as before, or what suits.
        key: file of the secret key; None: one of its own, in its home.
    """

    out: Path
    id: int | None = None
    bind: str | None = None
    key: Path | None = None

    @property
    def key_name(self) -> str | None:
        """The key's file, as a home remembers it."""
        return None if self.key is None else str(self.key.resolve())


@dataclass(frozen=True)
class Entered:
    """A peer that has its place in the network.

    Attributes:
        home: what it keeps between its lives.
        transport: its connections.
        experiment: what is run.
        folder: its run folder.
        again: whether it was here before.
    """

    home: Home
    transport: IrohTransport
    experiment: Experiment
    folder: Path
    again: bool


def check_deployable(parts: Parts) -> None:
    """Refuse what has no use for a network.

    Raises:
        ValueError: the experiment has a single peer, or its peers say nothing to each other.
    """
    if parts.size < 2 or not parts.needs.messages:
        raise ValueError(f"protocol: {parts.name} needs no network; use `shoal run`")


async def open_network(experiment: Experiment, parts: Parts, place: Place) -> Entered:
    """Open the network of an experiment, or open it again where it was left unfinished in the same place.

    Raises:
        ValueError: something is impossible, or this experiment is open already.
        OSError: the address is not to be had.
    """
    from shoal.net.iroh import IrohTransport, load_or_make_key

    id = _default_id(parts) if place.id is None else place.id
    if not 0 <= id < parts.size:
        raise ValueError(f"id: got {id}; a number from 0 to {parts.size - 1} is allowed")
    home = _own_network(experiment, place, id)
    again = home is not None
    if home is None:
        home = new_home(place.out, experiment.digest)
        home.experiment = experiment
        home.remember(host=True, id=id, key=place.key_name)
    kept = home.experiment
    assert kept is not None
    secret, roster = load_or_make_key(home.key), _roster(home)

    async def bound(bind: str) -> IrohTransport:
        options = _options(experiment.net, bind, experiment.net.allow)
        return await IrohTransport.host(
            id, parts.size, secret=secret, experiment=kept.encode(), options=options, roster=roster
        )

    transport = await _bound(bound, home, place.bind or experiment.net.bind)
    return _entered(home, transport, kept, place, again)


async def enter_network(ticket: Ticket, place: Place, timeout: float) -> Entered:
    """Come into a network by a ticket, or come back as who one was in the same place.

    Raises:
        ValueError: something is impossible.
        OSError: they do not let this peer in, nobody answers, or the address is not to be had; the text says which.
    """
    from shoal.net.iroh import IrohTransport, load_or_make_key

    def wanted(home: Home) -> bool:
        who = home.who
        fits = place.id is None or who.id in (None, place.id)
        return not who.host and not who.finished and who.key == place.key_name and fits

    home = old_home(place.out, ticket.digest, wanted) or new_home(place.out, ticket.digest)
    if home.who.key != place.key_name:
        home.remember(key=place.key_name)
    kept, secret, roster = home.experiment, load_or_make_key(home.key), _roster(home)
    near = all(address.startswith(("127.", "[::1]")) for contact in ticket.contacts for address in contact.addresses)
    bind = place.bind or (LOOPBACK if near else ANYWHERE)
    net = Net.of() if kept is None else kept.net

    async def bound(bind: str) -> IrohTransport:
        options = _options(net, bind, ())
        if kept is not None and roster is not None:
            return await IrohTransport.resume(
                roster, secret=secret, experiment=kept.encode(), invitation=ticket.invitation, options=options
            )
        return await IrohTransport.join(ticket, secret=secret, options=options, wanted=place.id, timeout=timeout)

    transport = await _bound(bound, home, bind)
    try:
        if place.id is not None and transport.id != place.id:
            raise ValueError(f"id: got {place.id}, and the key {transport.key} is that of peer {transport.id}")
        home.experiment = experiment = Experiment.decode(transport.experiment)
        home.remember(id=transport.id)
        return _entered(home, transport, experiment, place, again=kept is not None)
    except BaseException:
        await transport.stop(0.0)
        raise


def _default_id(parts: Parts) -> int:
    """Who opens a network is its server, where there is one."""
    return 0 if parts.server is None else parts.server


def _own_network(experiment: Experiment, place: Place, id: int) -> Home | None:
    """The home of whoever opened a network for this experiment here, and has not finished."""
    for path in homes(place.out):
        who = who_in(path)
        if not who.host or who.finished or not _is_of(path, experiment):
            continue
        if (who.id, who.key) != (id, place.key_name):
            raise ValueError(
                f"id, key: this experiment was opened here by peer {who.id} with the key {who.key or path / KEY}; "
                f"go on as that, or remove {path} to begin anew"
            )
        return Home(path)
    return None


def _is_of(path: Path, experiment: Experiment) -> bool:
    try:
        kept = experiment_in(path)
    except OtherVersion:
        return False
    return kept is not None and kept.same_as(experiment)


def _roster(home: Home) -> Any:
    """The roster of an earlier life, if there is one."""
    from shoal.net.iroh import Roster

    return Roster.load(home.roster) if home.roster.exists() else None


def _options(net: Net, bind: str, allow: tuple[str, ...]) -> NetOptions:
    from shoal.net.iroh import NetOptions

    try:
        return NetOptions(bind=bind, relays=net.relays, beat=net.beat, dead=net.dead, streams=net.streams, allow=allow)
    except ValueError as error:
        raise ValueError(f"net: {error}") from None


async def _bound(bound: Callable[[str], Awaitable[IrohTransport]], home: Home, bind: str) -> IrohTransport:
    """The transport, at the port of an earlier life if none is asked for: others look for this peer there."""
    host, _, port = bind.rpartition(":")
    before = home.who.port
    if int(port) == 0 and before is not None:
        try:
            return await bound(f"{host}:{before}")
        except OSError as error:
            if not str(error).startswith("bind:"):
                raise
    return await bound(bind)


def _entered(home: Home, transport: IrohTransport, experiment: Experiment, place: Place, again: bool) -> Entered:
    """Keep what the next life needs to know."""
    folder = run_folder(place.out, experiment.name, experiment.digest, transport.id)
    transport.roster.on_change = lambda roster: roster.save(home.roster)
    transport.roster.save(home.roster)
    home.remember(folder=str(folder), port=_port(transport))
    return Entered(home, transport, experiment, folder, again)


def _port(transport: IrohTransport) -> int | None:
    """Where it listens."""
    addresses = transport.roster[transport.id].addresses
    return int(addresses[0].rpartition(":")[2]) if addresses else None
