"""Who is here: lives of the peers, faults as they happen, and when their loss shows to the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.engine.faults import Crash, Fault, Join, Leave, Partition, Restart, Slow
from shoal.engine.message import Message

if TYPE_CHECKING:
    from shoal.engine.simulated import SimulatedWorld


class Membership:
    """Carries out a fault script.

    Attributes:
        lives: how often each peer has been started.
        changes: how often a peer has come or gone.
        slowness: factor on each peer's compute times.
        lossy: whether the script makes messages vanish while those who wait for them do not learn of it: a partition
            shorter than its detection, or a peer that is new or back and was not there for what it waits for.
    """

    def __init__(self, world: SimulatedWorld, script: Sequence[Fault]) -> None:
        self._world = world
        self._script = script
        self.lives = [0] * world.size
        self.changes = 0
        self.slowness = [1.0] * world.size
        self._up = [False] * world.size
        self._lost_from = [-math.inf] * world.size  # when the others know that the peer is gone
        self._crashes: list[list[float]] = [[] for _ in range(world.size)]
        self._fate = ["has not joined yet"] * world.size
        self._partitions: list[tuple[float, dict[int, int]]] = []
        self.lossy = any(isinstance(fault, Partition | Restart | Join) for fault in script)
        self._starts = sum(isinstance(fault, Join | Restart) for fault in script)

    @property
    def more_will_start(self) -> bool:
        """Whether the script still starts a peer."""
        return self._starts > 0

    def begin(self) -> None:
        """Start the peers that are there from the beginning, and schedule the script."""
        late = {fault.peer for fault in self._script if isinstance(fault, Join)}
        for fault in self._script:
            self._world.loop.post(fault.at, self._happen, fault)
        for id in range(self._world.size):
            if id not in late:
                self._start(id, empty=True)

    def up(self, id: int) -> bool:
        """Whether the peer is alive."""
        return self._up[id]

    def describe(self, id: int) -> str:
        """What became of a peer that is not here."""
        return self._fate[id]

    # -- faults ----------------------------------------------------------------------------------------------

    def _happen(self, fault: Fault) -> None:
        world = self._world
        if isinstance(fault, Partition):
            self._part(fault)
        elif isinstance(fault, Slow):
            self.slowness[fault.peer] = fault.factor
            world.log("slow", fault.peer, factor=fault.factor)
        elif isinstance(fault, Join | Restart):
            self._starts -= 1
            if not self._up[fault.peer]:
                empty = isinstance(fault, Join) or fault.empty
                world.log("join" if isinstance(fault, Join) else "restart", fault.peer, empty=empty)
                self._start(fault.peer, empty=empty)
                delay = world.network.links[fault.peer].latency
                world.loop.post(world.now() + delay, self._announce, fault.peer, self.lives[fault.peer])
            world._finish_if_idle()
        elif self._up[fault.peer]:
            detection = world.network.links[fault.peer].detection
            if isinstance(fault, Crash):
                self._stop(fault.peer, "crashed", detection)
                self._crashes[fault.peer].append(world.now())
                world.network.crashed(fault.peer)
            elif isinstance(fault, Leave):
                world.say_goodbye(fault.peer)
                self._stop(fault.peer, "left", world.network.links[fault.peer].latency)

    def _start(self, id: int, *, empty: bool) -> None:
        world = self._world
        if empty:
            world.forget(id)
        state = world.committed(id)
        self.lives[id] += 1
        self.changes += 1
        self._up[id] = True
        self._lost_from[id] = math.inf
        world.network.started(id)
        world.start_peer(id, state)

    def _announce(self, id: int, life: int) -> None:
        """The others learn that a peer is back."""
        if self._up[id] and self.lives[id] == life:
            for other in self._world._peers:
                if other is not None and other.id != id and not self._apart(other.id, id):
                    other._returned(id)

    def _stop(self, id: int, fate: str, detection: float) -> None:
        world = self._world
        world.log("crash" if fate == "crashed" else "leave", id)
        self.changes += 1
        self._up[id] = False
        self._fate[id] = f"{fate} at {world.now():.6g} s"
        self._lost_from[id] = world.now() + detection
        world.stop_peer(id)
        world.loop.post(self._lost_from[id], self._recheck_all)

    def _part(self, fault: Partition) -> None:
        world = self._world
        group = {peer: number for number, members in enumerate(fault.groups) for peer in members}
        entry = (world.now(), group)
        self._partitions.append(entry)
        world.log("partition", None, groups=[list(g) for g in fault.groups], until=fault.until)
        world.loop.post(fault.until, self._heal, entry)
        longest = max(link.detection for link in world.network.links)
        if world.now() + longest < fault.until:
            world.loop.post(world.now() + longest, self._recheck_all)

    def _heal(self, entry: tuple[float, dict[int, int]]) -> None:
        world = self._world
        self._partitions.remove(entry)
        world.log("heal")
        group = entry[1]
        for peer in list(world._peers):
            if peer is None:
                continue
            related = {*peer.neighbours, *peer.in_neighbours, *peer._polls.asked}
            for other in sorted(related):
                if (
                    group.get(other, -1) != group.get(peer.id, -1)
                    and self._up[other]
                    and not self._apart(peer.id, other)
                ):
                    peer._returned(other)

    # -- what the others know --------------------------------------------------------------------------------

    def _apart(self, a: int, b: int) -> bool:
        return any(group.get(a, -1) != group.get(b, -1) for _, group in self._partitions)

    def is_lost(self, peer: int, other: int) -> bool:
        """Whether `peer` knows by now that `other` is gone."""
        now = self._world.now()
        if now >= self._lost_from[other]:
            return True
        if not self._partitions:
            return False
        longest = max(link.detection for link in self._world.network.links)
        return any(
            now >= since + longest and group.get(peer, -1) != group.get(other, -1) for since, group in self._partitions
        )

    def watch(self, peer: int, other: int) -> None:
        """If `other` is out of reach, tell `peer` after the time that takes to notice."""
        if not self._up[other] or (self._partitions and self._apart(peer, other)):
            world = self._world
            world.loop.post(world.now() + world.network.detection(peer, other), self._recheck, peer)

    def _recheck(self, id: int) -> None:
        peer = self._world._peers[id]
        if peer is not None:
            peer._recheck()

    def _recheck_all(self) -> None:
        for peer in list(self._world._peers):
            if peer is not None:
                peer._recheck()

    def undeliverable(self, message: Message) -> str | None:
        """Why a message that would arrive now does not; None if it does."""
        to = message.to
        if not self._up[to]:
            return self._fate[to]
        if self.lives[to] != message.arrives_for:
            return "the receiver was restarted"
        crashes = self._crashes[message.sender]
        if crashes and any(message.sent <= crash < message.left for crash in crashes):
            return "the sender crashed while sending"
        if self._partitions and self._apart(message.sender, to):
            return "partition"
        return None
