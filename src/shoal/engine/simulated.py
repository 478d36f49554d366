"""The simulated world: thousands of peers in one process, on a virtual clock, over modelled links."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from shoal.engine.adversary import Adversary
from shoal.engine.compute import Dispatch, Job, MapKernel, Pool
from shoal.engine.devices import Device
from shoal.engine.errors import Livelock, PeerFailed
from shoal.engine.faults import Fault, check_script
from shoal.engine.ledger import Ledger
from shoal.engine.links import Link, check_latency_matrix
from shoal.engine.loop import Task, VirtualLoop
from shoal.engine.membership import Membership
from shoal.engine.message import Kind, Message, Parcel
from shoal.engine.network import Network
from shoal.engine.peer import Peer, current
from shoal.engine.state import Snapshot, State
from shoal.engine.world import Offers, World
from shoal.tensors.payload import encode

Neighbours = Callable[[int, int], tuple[int, ...]]
Protocol = Callable[[Any], Coroutine[Any, Any, Any]]
Metric = tuple[float, int, int, int, str, float]
SELDOM = (100_000, 50, 100)  # thresholds of Python's collection of cyclic garbage while a world runs


class SimulatedWorld(World):
    """A world in one process. Same arguments, same results, bit for bit.

    Args:
        peers: number of peers.
        seed: seed of every draw.
        neighbours: `neighbours(peer, round)`; default: everybody else.
        in_neighbours: likewise; default: the same as `neighbours`.
        links: one `Link` a peer; default: no delay, no loss.
        latency: optional matrix [peers][peers] of one-way seconds, instead of the links' own.
        devices: one `Device` a peer; default: 0.01 s a step.
        faults: script of faults.
        adversary: controls the Byzantine peers, if any.
        rounds: default number of rounds.
        server: id of the peer with the server role, if any.
        workers: threads that compute; does not change results.
        device: torch device of the peers' tensors.
        dispatch: computes instead of the threads; see `Pool`.
        trace: keep every message event in `trace`.
        patience: timers that may fire without any progress before what peers tell each other is looked at. When that
            many more have fired, and again as many in which no message said anything new, the run is called a livelock.

    Attributes:
        ledger: bytes by channel and by peer.
        metrics: rows (time, round, bytes, peer, name, value) of `Peer.record`.
        events: the log: faults, dropped messages.
        trace: message events, if asked for.
        on_commit: called as `on_commit(peer)` when a peer has finished a round.
    """

    def __init__(
        self,
        peers: int,
        *,
        seed: int = 0,
        neighbours: Neighbours | None = None,
        in_neighbours: Neighbours | None = None,
        links: Sequence[Link] | None = None,
        latency: Sequence[Sequence[float]] | None = None,
        devices: Sequence[Device] | None = None,
        faults: Iterable[Fault] = (),
        adversary: Adversary | None = None,
        rounds: int = 1,
        server: int | None = None,
        workers: int = 1,
        device: str | torch.device = "cpu",
        dispatch: Dispatch | None = None,
        trace: bool = False,
        patience: int | None = None,
    ) -> None:
        if peers < 1:
            raise ValueError(f"peers: got {peers}; at least 1 is allowed")
        for name, given in (("links", links), ("devices", devices)):
            if given is not None and len(given) != peers:
                raise ValueError(f"{name}: got {len(given)} of them; one for each of the {peers} peers is needed")
        self.size, self.seed, self.rounds, self.server = peers, seed, rounds, server
        self.loop = VirtualLoop()
        self.ledger = Ledger([0] * peers)
        self.metrics: list[Metric] = []
        self.events: list[dict[str, Any]] = []
        self.trace: list[dict[str, Any]] | None = [] if trace else None
        self.on_commit: Callable[[Any], None] | None = None
        self.pool = Pool(workers, device, dispatch)
        self.devices = list(devices) if devices is not None else [Device() for _ in range(peers)]
        self._neighbours = neighbours or _everybody(peers)
        self._in_neighbours = in_neighbours or self._neighbours
        self._peers: list[Peer | None] = [None] * peers
        self._tasks: list[dict[asyncio.Task[Any], None]] = [{} for _ in range(peers)]
        self._disk: list[Snapshot | None] = [None] * peers
        self._kernels: dict[Any, MapKernel] = {}
        self._progress = 0
        self._seen_progress = -1
        self._said: set[bytes] | None = None  # digests of messages, while nothing else shows progress
        self._news = 0
        self._patience = max(200_000, 500 * peers) if patience is None else patience
        matrix = None if latency is None else check_latency_matrix(latency, peers)
        link_list = list(links) if links is not None else [Link()] * peers
        self.network = Network(self, link_list, matrix, adversary)
        self.offers = Offers(reliable_links=not self.network.lossy, server=server is not None)
        self.members = Membership(self, check_script(faults, peers))
        self.transmit = self.network.transmit  # type: ignore[method-assign]

    # -- running ---------------------------------------------------------------------------------------------

    def run(
        self,
        protocol: Protocol,
        *,
        make_peer: Callable[[int, World, State | None], Peer] = Peer,
        until: float | None = None,
    ) -> None:
        """Run `protocol(peer)` on every peer until all have finished.

        Args:
            protocol: coroutine function of a peer.
            make_peer: builds a peer from (id, world, restored state or None).
            until: stop at this virtual time, in seconds.

        Raises:
            Deadlock, Livelock: nobody can go on; the message lists what every blocked peer awaits.
            PeerFailed: a protocol raised.
        """
        self._protocol, self._make_peer = protocol, make_peer
        self._finished: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self._running = 0
        loop = self.loop
        loop.on_task, loop.on_stuck, loop.on_fired = self._adopt, self._stuck, self._check_livelock
        loop.on_unhandled = self._unhandled
        loop.fired_limit, loop.spin_limit = self._patience, 5 * self._patience
        threads, collection = torch.get_num_threads(), gc.get_threshold()
        gc.set_threshold(*SELDOM)  # a world is many objects that live long: to go through them often costs a fifth
        if self.pool.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            self.members.begin()
            if until is not None:
                loop.call_at(until, self._finish)
            self._finish_if_idle()
            loop.run_until_complete(self._finished)
        finally:
            torch.set_num_threads(threads)
            gc.set_threshold(*collection)
            self._end()

    def start_peer(self, id: int, state: State | None) -> None:
        """Bring a peer to life; called by the membership."""
        peer = self._make_peer(id, self, state)
        peer.lives = self.members.lives[id]
        self._peers[id] = peer
        self._running += 1
        task = self._launch(peer, self._protocol(peer))
        task.add_done_callback(lambda task: self._main_done(peer, task))

    def say_goodbye(self, id: int) -> None:
        """Let a peer send what it has to say before it leaves; called by the membership."""
        peer = self._peers[id]
        if peer is not None:
            try:
                peer._say_goodbye()
            except Exception as error:
                self._fail(peer, error)

    def stop_peer(self, id: int) -> None:
        """End a peer's life at once; called by the membership."""
        peer, self._peers[id] = self._peers[id], None
        if peer is not None:
            peer._world = _DEAD
            for task in list(self._tasks[id]):
                task.cancel()
            self._tasks[id] = {}

    def _main_done(self, peer: Peer, task: asyncio.Task[Any]) -> None:
        self._running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(peer, error)
        self._finish_if_idle()

    def _fail(self, peer: Peer, error: BaseException) -> None:
        if not self._finished.done() and peer._world is not _DEAD:  # a crash ends a peer, whatever that raises in it
            failure = PeerFailed(peer.id, self.now(), error)
            failure.__cause__ = error
            self._finished.set_exception(failure)

    def _finish_if_idle(self) -> None:
        if self._running == 0 and not self.members.more_will_start:
            self._finish()

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    def _end(self) -> None:
        self.loop.on_task = None
        for id in range(self.size):
            peer = self._peers[id]
            if peer is not None:
                peer._world = _DEAD
            for task in list(self._tasks[id]):
                task.cancel()
        self.loop.drop_all()
        self.pool.close()

    # -- services of a World ---------------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual seconds since the world began."""
        return self.loop._now

    def neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """To whom `peer` sends in a round."""
        return self._neighbours(peer, round)

    def in_neighbours(self, peer: int, round: int) -> tuple[int, ...]:
        """From whom `peer` hears in a round."""
        return self._in_neighbours(peer, round)

    def patience(self, peer: int) -> float | None:
        """The link's patience where messages can be lost silently, else None."""
        return self.network.links[peer].patience if self.network.lossy or self.members.lossy else None

    def transmit(self, sender: int, to: int, channel: str, kind: Kind, tag: int, parcel: Parcel) -> int:
        """Send a parcel; returns the message's number."""
        return self.network.transmit(sender, to, channel, kind, tag, parcel)

    def is_lost(self, peer: int, other: int) -> bool:
        """Whether `peer` knows by now that `other` is gone."""
        return self.members.is_lost(peer, other)

    def watch(self, peer: int, other: int) -> None:
        """See that `peer` is told if it waits for `other` in vain."""
        self.members.watch(peer, other)

    async def commit(self, peer: Peer) -> None:
        """Keep a snapshot of the peer's state."""
        self._disk[peer.id] = peer.state.snapshot()
        self._progress += 1
        if self.on_commit is not None:
            self.on_commit(peer)

    def committed(self, id: int) -> State | None:
        """The state that a peer had last committed, rebuilt from bytes; None if it never did."""
        snapshot = self._disk[id]
        return None if snapshot is None else State.restore(snapshot.encode())

    def forget(self, id: int) -> None:
        """Lose what a peer had committed."""
        self._disk[id] = None

    async def perform(self, peer: Peer, job: Job, seconds: float) -> Any:
        """Submit the job now, look at its result `seconds` later."""
        self.pool.submit(job)
        future: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self.loop.post(self.loop._now + seconds, _wake, future)
        try:
            await future
        except BaseException:
            self.pool.discard(job)
            raise
        self._progress += 1
        return self.pool.finish(job)

    async def compute(
        self,
        peer: Peer,
        fn: Callable[..., Any],
        tensors: tuple[Tensor, ...],
        seconds: float,
        static: dict[str, Any],
    ) -> Any:
        """See `Peer.compute`."""
        shapes = tuple((t.shape, t.dtype) for t in tensors)
        key = (fn, shapes, tuple(sorted(static.items())))
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = MapKernel(fn, static)
        return await self.perform(peer, Job(kernel, tensors), seconds * self.members.slowness[peer.id])

    def slowness(self, peer: int) -> float:
        """Factor on the peer's compute times."""
        return self.members.slowness[peer]

    def spawn(self, peer: Peer, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task of the peer."""
        task = self._launch(peer, coroutine)
        task.must_succeed = True  # type: ignore[attr-defined]
        return task

    def _launch(self, peer: Peer, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        context = contextvars.copy_context()
        if context.get(current) is not peer:
            context.run(current.set, peer)
        task: Task[Any] = Task(coroutine, loop=self.loop, context=context)
        self._own(task, peer)
        return task

    def _unhandled(self, error: BaseException, future: Any) -> None:
        peer = getattr(future, "peer", None)
        if peer is not None:
            self._fail(peer, error)
        else:
            self.loop.unhandled.append(error)

    def _adopt(self, task: asyncio.Task[Any]) -> None:
        peer = current.get()
        if peer is not None:
            self._own(task, peer)

    def _own(self, task: asyncio.Task[Any], peer: Peer) -> None:
        task.peer = peer  # type: ignore[attr-defined]
        self._tasks[peer.id][task] = None
        task.add_done_callback(self._task_done)

    def _task_done(self, task: Any) -> None:
        self._tasks[task.peer.id].pop(task, None)
        if task.must_succeed and not task.cancelled() and (error := task.exception()) is not None:
            self._fail(task.peer, error)

    def record(self, peer: Peer, name: str, value: float) -> None:
        """Add a row to `metrics`."""
        self._progress += 1
        self.metrics.append((self.now(), peer.round, self.ledger.total, peer.id, name, value))

    def log(self, event: str, peer: int | None = None, **details: Any) -> None:
        """Add a line to `events`."""
        self.events.append({"time": self.now(), "event": event, "peer": peer, **details})

    # -- reports ---------------------------------------------------------------------------------------------

    def _stuck(self) -> str:
        return f"deadlock at {self.now():.6g} s: every peer waits and nothing is on its way\n{self._who_waits()}"

    def _check_livelock(self, what: str) -> None:
        if self._progress != self._seen_progress:
            self._seen_progress, self._said = self._progress, None
        elif self._said is None or len(self._said) > 2 * self._patience:  # it must not fill the memory
            self._said = set()
        elif self._news == 0:
            raise Livelock(
                f"livelock at {self.now():.6g} s: {what} and for long no peer has finished a round, "
                f"computed, recorded or said anything new\n{self._who_waits()}"
            )
        self._news = 0
        self.loop.fired_limit = self.loop.fired + self._patience

    def heard(self, message: Message) -> None:
        """A message is delivered: content that its receiver has not seen is progress, a repetition is not."""
        if self._said is not None:
            tag = message.tag if message.kind is Kind.EXCHANGE else 0
            about = f"{message.sender} {message.to} {message.kind} {tag} {message.channel} ".encode()
            digest = hashlib.blake2b(about + encode(message.parcel.payload), digest_size=16).digest()
            if digest not in self._said:
                self._news += 1
                self._said.add(digest)

    def _who_waits(self, most: int = 20) -> str:
        lines = []
        for id, peer in enumerate(self._peers):
            if peer is None:
                lines.append(f"  peer {id}: {self.members.describe(id)}")
                continue
            pending = [task for task in self._tasks[id] if not task.done()]
            if not pending:
                continue
            awaited = "; ".join(peer.waiting_for) or "something outside the engine"
            lines.append(f"  peer {id}, round {peer.round}: {awaited} ({_where(pending[0])})")
        return "\n".join(lines[:most] + ([f"  ... and {len(lines) - most} more"] if len(lines) > most else []))


class _Dead:
    """The world of a peer whose life is over: whatever it still tries is cancelled."""

    def __getattr__(self, name: str) -> Any:
        raise asyncio.CancelledError("this peer's life is over")


_DEAD: Any = _Dead()


def _everybody(peers: int) -> Neighbours:
    def others(peer: int, round: int) -> tuple[int, ...]:
        return tuple(j for j in range(peers) if j != peer)

    return others


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _where(task: asyncio.Task[Any]) -> str:
    """File and line of the innermost frame of a task that is neither the engine's nor asyncio's."""
    coroutine: Any = task.get_coro()
    place = "not started"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        if not any(part in frame.f_code.co_filename for part in ("shoal/engine", "/asyncio/")):
            place = f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return place
