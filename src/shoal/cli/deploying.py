"""Peers on real machines at a terminal: opening a network, coming into one, and living there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.cli.telling import Teller, teller
from shoal.interrupt import stopping

if TYPE_CHECKING:
    from shoal.deployment import Entered, Node, Place
    from shoal.learning import Shard
    from shoal.simulation.parts import Parts

TICKET = "ticket.txt"


@dataclass(frozen=True)
class Options:
    """What both commands can be told.

    Attributes:
        out: folder of run folders; None: the experiment file's, or `runs`.
        id: which peer to be.
        data: file with data of its own.
        key: file of the secret key.
        bind: address and port to listen at.
        device: torch device.
        http: HOST:PORT of the page, or "off".
    """

    out: str | None
    id: int | None
    data: Path | None
    key: Path | None
    bind: str | None
    device: str | None
    http: str

    def place(self, out: str | None = None) -> Place:
        """Where the peer starts; `out` is the experiment file's."""
        from shoal.deployment import Place

        return Place(Path(self.out or out or "runs"), self.id, self.bind, self.key)

    def page(self) -> tuple[str, int] | None:
        """Host and port of the page; None: no page.

        Raises:
            ValueError: it is neither "off" nor HOST:PORT.
        """
        if self.http == "off":
            return None
        host, colon, port = self.http.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"http: got {self.http!r}; HOST:PORT, as in 127.0.0.1:8080, or off is allowed")
        return host.strip("[]") or "127.0.0.1", int(port)


def up(file: str, name: str | None, options: Options) -> None:
    """Open the network of an experiment file, print the ticket, and live there as a peer."""
    from shoal.deployment.experiment import Experiment, read_experiment
    from shoal.deployment.network import check_deployable, open_network

    changes = {"name": name, "device": options.device}
    parts, net, left_out, out = read_experiment(file, **{k: v for k, v in changes.items() if v is not None})
    check_deployable(parts)
    experiment = Experiment.of(parts, net)
    shard = _shard(options, parts)

    async def open(tell: Teller) -> tuple[Entered, Parts, Shard | None]:
        if left_out:
            tell.say(f"for simulations only, and left out here: {', '.join(left_out)}")
        entered = await open_network(experiment, parts, options.place(out))
        _hand_out(entered, tell)
        return entered, parts, shard

    _live(open, options)


def join(ticket: str, timeout: float, options: Options) -> None:
    """Come into the network of a ticket, and live there as a peer."""
    from shoal.deployment.network import enter_network
    from shoal.net.iroh import Ticket

    read = Ticket.read(ticket if ticket.startswith("shoal") or not Path(ticket).is_file() else _word(Path(ticket)))

    async def enter(tell: Teller) -> tuple[Entered, Parts, Shard | None]:
        entered = await enter_network(read, options.place(), timeout)
        try:
            parts = entered.experiment.parts(options.device or "cpu")
            return entered, parts, _shard(options, parts)
        except BaseException:
            await entered.transport.stop(0.0)
            raise

    _live(enter, options)


def show_key(file: Path) -> str:
    """The public key of the secret one in a file, which is made if it is not there."""
    from shoal.net.iroh import load_or_make_key, public

    return public(load_or_make_key(file))


def _word(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as text:
        return text.read(10_000)


def _shard(options: Options, parts: Parts) -> Shard | None:
    if options.data is None:
        return None
    from shoal.deployment.data import read_data

    return read_data(options.data, parts.task, parts.device)


def _hand_out(entered: Entered, tell: Teller) -> None:
    """Print the ticket, and leave it in the run folder for its owner."""
    from shoal.files import write_durably

    word = str(entered.transport.ticket())
    write_durably(entered.folder / TICKET, f"{word}\n".encode(), mode=0o600)
    print(f"ticket: {word}", flush=True)
    tell.say(f"others come by `shoal join {word[:16]}…`, with the whole ticket ({entered.folder / TICKET})")
    if entered.experiment.net.bind.startswith("127."):
        tell.say("from this machine alone: it listens on 127.0.0.1; see bind in [net]")


def _live(enter: Callable[[Teller], Awaitable[tuple[Entered, Parts, Shard | None]]], options: Options) -> None:
    """Take a place and live there; Ctrl-C says goodbye, a second one ends at once."""
    page = options.page()
    stop: list[Callable[[], object]] = []
    asked: list[bool] = []
    begun: list[Node] = []

    def on_first() -> None:
        asked.append(True)
        for each in stop:
            each()

    async def life(tell: Teller) -> Node:
        from shoal.deployment.life import Ears, live

        entered, parts, shard = await enter(tell)
        tell.say(
            f"{parts.name}: peer {entered.transport.id} of {parts.size}, "
            f"key {entered.transport.key}, in {entered.folder}"
        )

        def began(node: Node, url: str | None) -> None:
            begun.append(node)
            tell.watch(node)
            if url is not None:
                tell.say(f"page: {url}")

        return await live(entered, parts, shard=shard, http=page, ears=Ears(began, tell.event))

    async def main(tell: Teller) -> Node:
        loop = asyncio.get_running_loop()
        task = loop.create_task(life(tell))
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        if asked:
            task.cancel()
        await asyncio.wait({task})
        return task.result()

    with stopping(on_first):
        try:
            with teller() as tell:
                asyncio.run(main(tell))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            if begun:
                _report(begun[0])
    if begun[0].status == "interrupted":
        raise KeyboardInterrupt


def _report(node: Node) -> None:
    from shoal.cli.running import report_runs

    if node.peer is not None:  # else there is nothing to report
        report_runs([node.result], Path("."))
