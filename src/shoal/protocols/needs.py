"""What a protocol asks of a world. A world that does not have it refuses the protocol, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.compression import Use
from shoal.engine import Offers, Refused


@dataclass(frozen=True)
class Needs:
    """Declared by a protocol as the class attribute `needs`.

    Attributes:
        server: one peer with the server role, beside those that hold data.
        pooled_data: all data in one place (an oracle, for comparison).
        asynchrony: peers that go on at their own pace.
        requests: messages beside exchanges: peers that send to one another, ask and answer.
        reliable_links: links that lose no message.
        neighbours: a topology in which every peer has a neighbour.
        messages: peers that talk at all; False: no topology is drawn for them.
        sampled: a few peers, drawn afresh, take part in a round, and any two may talk; the others learn of rounds when
            those are over. True: no topology is drawn for them, and no mean over all peers is measured.
        data: samples at every peer; False: some may be relays, which hold none.
        optimizer: the run's optimizer; False: the protocol steps by a rule of its own, and none can be chosen.
        packs: what the protocol hands to `me.pack`: "model", "update" or "gradient". None: it packs nothing, or in a
            format of its own, and no codec can be chosen.
    """

    server: bool = False
    pooled_data: bool = False
    asynchrony: bool = False
    requests: bool = False
    reliable_links: bool = False
    neighbours: bool = False
    messages: bool = True
    sampled: bool = False
    data: bool = True
    optimizer: bool = True
    packs: Use | None = None


def check_needs(name: str, needs: Needs, offers: Offers) -> None:
    """Refuse a protocol that needs what a world lacks.

    Args:
        name: of the protocol, for the message.
        needs: what it asks for.
        offers: what the world has.

    Raises:
        Refused: with what is needed and not there.
    """
    if needs.asynchrony and not offers.asynchrony:
        raise Refused(f"{name} needs peers that go on at their own pace, and in this world all go in step")
    if needs.reliable_links and not offers.reliable_links:
        raise Refused(f"network: {name} needs links that lose no message, and this world's lose some")
    if needs.server and not offers.server:
        raise Refused(f"{name} needs a peer with the server role, and this world has none")
    if needs.requests and not offers.requests:
        raise Refused(f"{name} needs peers that ask one another, and in this world all exchange at once, and no more")


def check_steps(steps: int | None, timeout: float | None = None) -> None:
    """Refuse what no protocol can do; called as it is made, before anything runs.

    Raises:
        ValueError: a negative number of steps, or a timeout that is not above 0.
    """
    if steps is not None and steps < 0:
        raise ValueError(f"steps: got {steps}; a number >= 0 is allowed")
    if timeout is not None and not timeout > 0.0:
        raise ValueError(f"timeout: got {timeout}; a number of seconds above 0, or none, is allowed")
