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
    Who,
    experiment_in,
    homes,
    new_home,
    old_home,
    run_folder,
    who_in,
)
from shoal.simulation.parts import Parts

if TYPE_CHECKING:
    from shoal.net.iroh import IrohTransport, Ticket

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
    try:
        if not again:
            home.experiment = experiment
            home.remember(host=True, id=id, key=place.key_name)
        kept = home.experiment
        assert kept is not None
        secret, roster = load_or_make_key(home.key), _roster(home)

        async def bound(bind: str) -> IrohTransport:
            options = experiment.net.options(bind, experiment.net.allow)
            return await IrohTransport.host(
                id, parts.size, secret=secret, experiment=kept.encode(), options=options, roster=roster
            )

        transport = await _bound(bound, home, place.bind or experiment.net.bind)
        return await _entered(home, transport, kept, place, again)
    except BaseException:
        if again:
            home.release()
        else:
            home.discard()
        raise


async def enter_network(ticket: Ticket, place: Place, timeout: float) -> Entered:
    """Come into a network by a ticket, or come back as who one was in the same place.

    Raises:
        ValueError: something is impossible.
        OSError: they do not let this peer in, nobody answers, or the address is not to be had; the text says which.
    """
    home = _earlier_home(ticket.digest, place) or new_home(place.out, ticket.digest)
    try:
        if home.who.key != place.key_name:
            home.remember(key=place.key_name)
        kept = home.experiment
        net = Net.of(relays=_relays(ticket)) if kept is None else kept.net
        come = _coming(ticket, place, timeout, home, net)
        transport = await _bound(come, home, place.bind or (LOOPBACK if _is_near(ticket) else ANYWHERE))
        if place.id is not None and transport.id != place.id:
            await transport.stop(0.0)
            raise ValueError(f"id: got {place.id}, and the key {transport.key} is that of peer {transport.id}")
        return await _entered(home, transport, kept, place, again=kept is not None)
    except BaseException:
        home.release()
        raise


def _coming(
    ticket: Ticket, place: Place, timeout: float, home: Home, net: Net
) -> Callable[[str], Awaitable[IrohTransport]]:
    """How to come in, listening at an address: by the ticket at first, later by what is kept."""
    from shoal.net.iroh import IrohTransport, Refused, load_or_make_key, public

    kept, secret, roster = home.experiment, load_or_make_key(home.key), _roster(home)

    async def come(bind: str) -> IrohTransport:
        options = net.options(bind)
        if kept is not None and roster is not None:
            return await IrohTransport.resume(
                roster, secret=secret, experiment=kept.encode(), invitation=ticket.invitation, options=options
            )
        try:
            return await IrohTransport.join(ticket, secret=secret, options=options, wanted=place.id, timeout=timeout)
        except Refused as error:
            raise Refused(f"not let in: {error}; this peer's key is {public(secret)}") from None

    return come


def _relays(ticket: Ticket) -> str | tuple[str, ...]:
    """By which relays to come in: those at which its contacts are to be found."""
    return tuple(sorted({contact.relay for contact in ticket.contacts if contact.relay})) or "off"


def _is_near(ticket: Ticket) -> bool:
    """Whether its contacts are on this machine."""
    return all(address.startswith(("127.", "[::1]")) for contact in ticket.contacts for address in contact.addresses)


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


def _earlier_home(digest: bytes, place: Place) -> Home | None:
    """The home of a peer that joined the network from here, has not finished, and is not running."""

    def wanted(who: Who) -> bool:
        fits = place.id is None or who.id in (None, place.id)
        return not who.host and not who.finished and who.key == place.key_name and fits

    if place.key is not None:  # one key is one peer: nobody else will do
        for path in homes(place.out, digest):
            if wanted(who_in(path)):
                return Home(path)
    return old_home(place.out, digest, wanted)


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


async def _bound(bound: Callable[[str], Awaitable[IrohTransport]], home: Home, bind: str) -> IrohTransport:
    """The transport, at the port of an earlier life if none is asked for: others look for this peer there."""
    before = home.who.port
    if bind.endswith(":0") and before is not None:
        try:
            return await bound(f"{bind.removesuffix(':0')}:{before}")
        except OSError as error:
            if not str(error).startswith("bind:"):
                raise
    return await bound(bind)


async def _entered(
    home: Home, transport: IrohTransport, experiment: Experiment | None, place: Place, again: bool
) -> Entered:
    """Keep what the next life needs to know; the experiment is new if it is None."""
    try:
        if experiment is None:
            home.experiment = experiment = Experiment.decode(transport.experiment)
            net = experiment.net
            transport.adopt(beat=net.beat, dead=net.dead, streams=net.streams)
        folder = run_folder(place.out, experiment.name, experiment.digest, transport.id)
        transport.roster.on_change = lambda roster: roster.save(home.roster)
        transport.roster.save(home.roster)
        home.remember(id=transport.id, folder=str(folder), port=_port(transport))
    except BaseException:
        await transport.stop(0.0)
        raise
    return Entered(home, transport, experiment, folder, again)


def _port(transport: IrohTransport) -> int | None:
    """Where it listens."""
    addresses = transport.roster[transport.id].addresses
    return int(addresses[0].rpartition(":")[2]) if addresses else None
