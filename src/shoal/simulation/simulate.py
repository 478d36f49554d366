"""From settings to a run: builds the world, its peers and the probe, runs it, and stores what came out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from shoal import __version__
from shoal.compression import Codec
from shoal.engine import Fault, ShoalError, SimulatedWorld, World
from shoal.engine.compute import Dispatch
from shoal.engine.devices import Device
from shoal.engine.links import Link
from shoal.engine.state import State
from shoal.learning import Learner, Task
from shoal.learning.data import Data
from shoal.protocols import check_needs
from shoal.simulation.computing import computing
from shoal.simulation.describe import describe_object, describe_shards, describe_topology
from shoal.simulation.given import separate
from shoal.simulation.interrupt import between_events
from shoal.simulation.parts import Parts
from shoal.simulation.probe import Probe
from shoal.simulation.run import FORMAT, Run, new_folder, summarise
from shoal.simulation.settings import Settings
from shoal.tensors.random import hash01, key
from shoal.text import shown
from shoal.topology import Topology

SAVE_EVERY = 10.0  # wall seconds between two intermediate saves of a run folder, at least


@dataclass(frozen=True)
class Progress:
    """How far a run is: given to the progress callback.

    Attributes:
        done, total: rounds that are over, summed over all peers that count them, and how many there will be.
        time: virtual seconds.
        bytes: bytes sent.
        latest: last evaluated metrics.
        run: the run so far: where it is stored, its settings, where its data came from.
    """

    done: int
    total: int
    time: float
    bytes: int
    latest: dict[str, float]
    run: Run


def simulate(
    protocol: Any = "gossip",
    *,
    task: str | Task = "fashion-mnist",
    topology: str | Topology = "exponential",
    optimizer: Any = "sgd",
    faults: str | Sequence[Fault] = "none",
    partition: str | tuple[Data, list[Tensor]] = "iid",
    devices: str | Sequence[Device] = "uniform",
    network: str | Sequence[Link] = "lan",
    codec: str | Codec | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Run:
    """Simulate an experiment.

    Every argument may be given by name, as on the command line, or as an object of Shoal or your own.

    Args:
        protocol: a name, or `async def protocol(me)`; it may carry `needs`.
        task: a name or a `Task`.
        topology: a name or a `Topology` over the peers.
        optimizer: a name, a `Rule`, or a function from parameters to a `torch.optim.Optimizer`.
        faults: a name or a list of faults.
        partition: a name, or (data, list of index tensors, one a peer).
        devices: a name, or one `Device` a peer.
        codec: None, a name, or a `Codec`, for protocols that pack what they send.
        network: a name, or one `Link` a peer (and one more for the server, if the protocol has one).
        name: what the run is called; default: the protocol's name.
        out: folder in which a run folder `<name>-<number>` is made; None stores nothing.
        progress: called with a `Progress` when the run begins, and now and then while it goes on.
        settings: the other fields of `Settings`: peers, rounds, seed, lr, batch and so on.

    Returns:
        The run. On Ctrl-C it is evaluated and stored with status "interrupted", and KeyboardInterrupt goes on; a
        second Ctrl-C does not wait for what is being computed.

    Raises:
        ValueError: a setting that is unknown or impossible.
        ShoalError: the protocol failed, dead-locked, or diverged; the run folder says so.

    Example:
        >>> run = simulate("gossip", task="digits", peers=8, rounds=5, seed=1)
        >>> run.status
        'finished'
    """
    given = {
        "protocol": protocol,
        "task": task,
        "topology": topology,
        "optimizer": optimizer,
        "faults": faults,
        "partition": partition,
        "devices": devices,
        "network": network,
        "codec": codec,
    }
    strings, objects = separate(given)
    chosen = Settings.of(**strings, **settings)
    parts = Parts(chosen, objects, name)
    with computing(chosen.compute, parts.device) as dispatch:
        return _Experiment(parts, out, progress, dispatch).run()


class _Experiment:
    """One run of a world, measured and stored."""

    def __init__(
        self,
        parts: Parts,
        out: str | Path | None,
        progress: Callable[[Progress], None] | None,
        dispatch: Dispatch | None,
    ) -> None:
        self.parts, self.settings, self.progress = parts, parts.settings, progress
        s = parts.settings
        self.world = SimulatedWorld(
            parts.size,
            seed=s.seed,
            neighbours=parts.topology.neighbours,
            in_neighbours=parts.topology.in_neighbours,
            links=parts.links,
            devices=parts.devices,
            faults=parts.faults,
            adversary=parts.adversary,
            rounds=s.rounds,
            server=parts.server,
            workers=parts.workers,
            device=parts.device,
            dispatch=dispatch,
            trace=s.trace,
        )
        check_needs(parts.name, parts.needs, self.world.offers)
        self.byzantine = sorted(parts.adversary.peers) if parts.adversary is not None else []
        self.counters = [parts.server] if parts.server is not None else list(range(parts.holders))
        self._counting = frozenset(self.counters)
        self.honest = [i for i in self.counters if i not in self.byzantine]
        self.watched = self._watched(self.honest)
        self.probe = Probe(
            self.world,
            parts.trainer,
            every=s.evaluate or max(1, s.rounds // 20),
            last=s.rounds,
            watched=self.watched,
            averaged=self.honest if len(self.counters) > 1 and not parts.needs.sampled else (),
            samples=s.eval_samples,
            workers=parts.workers,
            dispatch=dispatch,
        )
        self.world.on_commit = self._committed
        self._fixed = {
            "data": {
                "source": parts.task.dataset.source,
                "shards": describe_shards(parts.task.dataset, parts.shards[: parts.holders]),
            },
            "topology": describe_topology(parts.topology),
        }
        folder = None if out is None else new_folder(out, parts.name)
        self.result = Run(folder, {}, self.world.metrics, {}, self.world.events, self.world.trace)
        self._peers: dict[int, Learner] = {}
        self._began = self._shown = time.monotonic()
        self._save_at = self._began + SAVE_EVERY
        self._over: dict[int, int] = {}  # by peer: its rounds that are over
        self._done = self._reached = self._commits = 0

    def _make_peer(self, id: int, world: World, state: State | None) -> Learner:
        s = self.settings
        seed = key(s.seed, "init") if s.init == "common" else key(s.seed, "init", id)
        parts = self.parts
        row = None if parts.server is not None or parts.holders == 1 else parts.topology.row
        peer = Learner(
            id,
            world,
            state,
            trainer=parts.trainer,
            shard=parts.shards[id],
            device=parts.devices[id],
            weights=row,
            init_seed=seed,
            packer=parts.packer,
        )
        self._peers[id] = peer
        return peer

    # -- running ---------------------------------------------------------------------------------------------

    def run(self) -> Run:
        """Run the world and store the result, whatever happens."""
        status, error = "failed", None
        try:
            self._save("running", None)
            self._show()
            with between_events(self.world.loop):
                self.world.run(self._protocol, make_peer=self._make_peer, until=self.settings.until)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except BaseException as problem:
            error = _in_words(problem)
            raise
        finally:
            self._finish(status, error)
        return self.result

    async def _protocol(self, me: Learner) -> None:
        if me.lives == 1 and me.now() == 0.0:
            self.probe.start([me])
        life = self.parts.protocol(me)
        if not inspect.isawaitable(life):
            raise ValueError(
                f"protocol: {self.parts.name} gave {shown(life)}; a coroutine, as of `async def`, is needed"
            )
        await life

    def _watched(self, honest: list[int]) -> list[int]:
        most = self.settings.eval_peers
        if len(honest) <= most:
            return honest
        own = key(self.settings.seed, "watched")
        return sorted(sorted(honest, key=lambda i: (hash01(own, i), i))[:most])

    def _committed(self, peer: Learner) -> None:
        if peer.id not in self._counting:  # it answers those who count rounds
            return
        over, before = int(peer.state.get("round", 0)), self._over.get(peer.id, 0)
        self._over[peer.id] = over
        if over in (0, before):  # it kept its state in the middle of a round
            return
        self._done += max(0, over - before)  # less than before: it had lost its state
        self._reached = max(self._reached, over)
        self.probe.committed(peer)
        self._commits += 1
        if self._commits % 16 == 0 or len(self.counters) < 16:
            now = time.monotonic()
            if now - self._shown > 0.1:
                self._shown = now
                self._show()
            if now > self._save_at and self.result.folder is not None:
                self._save("running", None)
                took = time.monotonic() - now
                self._save_at = now + max(SAVE_EVERY, 20.0 * took)  # a long trace takes long to write

    def _show(self) -> None:
        if self.progress is not None:
            total = self.settings.rounds * len(self.counters)
            world, latest = self.world, dict(self.probe.latest)
            self.progress(Progress(self._done, total, world.now(), world.ledger.total, latest, self.result))

    def _finish(self, status: str, error: str | None) -> None:
        try:
            self.probe.flush()
            members = self.world.members
            present = [id for id in self.watched if members.up(id)] or self.watched  # those who left do not count
            models = {id: self._peers[id].state["model"] for id in sorted(present) if id in self._peers}
            scores = self.probe.evaluate(list(models.values()), self.parts.task.dataset.test)
            self.result.models = models
            self.result.info["summary"] = summarise(dict(zip(models, scores, strict=True)))
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Exception as problem:
            if status != "failed":  # else there is an earlier error, and that one is to be seen
                status, error = "failed", _in_words(problem)
                raise
        finally:
            self.probe.close()
            self._save(status, error)

    def _save(self, status: str, error: str | None) -> None:
        s, world, parts = self.settings, self.world, self.parts
        config = s.model_dump()
        config.update({name: describe_object(value) for name, value in parts.objects.items()})
        ledger = world.ledger.as_dict()
        self.result.info.update(
            {
                "format": FORMAT,
                "shoal": __version__,
                "name": parts.name,
                "protocol": s.protocol if "protocol" not in parts.objects else parts.name,
                "status": status,
                "error": error,
                "config": config,
                "seed": s.seed,
                "peers": parts.holders,
                "rounds": self._reached,  # what was planned is in the settings
                "virtual_seconds": world.now(),
                "wall_seconds": time.monotonic() - self._began,
                "parameters": parts.trainer.layout.size,
                "compute": world.pool.report(),
                **self._fixed,
                "byzantine": self.byzantine,
                "bytes": {name: ledger[name] for name in ("total", "channels", "by_peer")},
            }
        )
        self.result.info.setdefault("summary", {})
        self.result.save()


def _in_words(error: BaseException) -> str:
    known = isinstance(error, ValueError | ShoalError)
    return str(error) if known else f"{type(error).__name__}: {error}"
