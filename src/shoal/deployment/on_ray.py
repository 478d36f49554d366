"""Experiments on a Ray cluster (`shoal run … --on ray`): actors host blocks of peers, and one run comes out."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from shoal import __version__
from shoal.deployment.gathering import Gathering
from shoal.deployment.node import real_parts
from shoal.deployment.ray_host import Host, Plan
from shoal.engine import Offers, ShoalError
from shoal.interrupt import deferred
from shoal.net.ray import cluster, cpus_of_each, first_answers
from shoal.net.ray.hub import LEFT
from shoal.protocols import check_needs
from shoal.simulation.describe import describe_shards, describe_topology
from shoal.simulation.parts import Parts
from shoal.simulation.run import FORMAT, Run, new_folder, summarise
from shoal.simulation.settings import Settings
from shoal.simulation.simulate import SAVE_EVERY, Progress
from shoal.tensors.payload import decode
from shoal.tensors.random import hash01, key

STOPPING = 15.0  # seconds that hosts have to hand over what they have, when a run is ended early
BEGINNING = 10.0  # seconds after the death of a host within which the other peers begin, or never will
RESTARTS = 3  # of a host, where the peers' states are durable
LINGER = 60.0  # seconds that peers wait for one that may come back
SILENT = (  # log entries that every run has
    *((event, None) for event in ("connected", "begins", "measured", "finished")),
    ("lost", LEFT),
)


def run_on_ray(
    *,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    address: str = "local",
    hosts: int | None = None,
    gpus_per_host: float = 0.0,
    store: str | Path | None = None,
    **settings: Any,
) -> Run:
    """Run an experiment on a Ray cluster.

    Settings that mean something in a simulation only are left out, and named in the run's log.

    Args:
        name, out, progress: as of `simulate`.
        address: of the cluster; see `shoal.net.ray.cluster`. Every machine needs this version of Shoal, and the data.
        hosts: number of actors, among which the peers are dealt out in blocks; default: as many as the cluster has
            processors (or GPUs, where hosts have some), and at most one a peer.
        gpus_per_host: GPUs of each actor, parts of one allowed; 0 computes on `device`.
        store: folder that all machines share. Peers keep their states there, and a host that dies is started again, a
            few times; its peers go on from their last committed round. Without it, peers of a dead host are gone.
        settings: the fields of `Settings`.

    Returns:
        The run. On Ctrl-C it is stored with status "interrupted", and KeyboardInterrupt goes on.

    Raises:
        ImportError: Ray is not installed.
        ValueError: a setting that is unknown or impossible, or no cluster.
        ShoalError: the protocol failed, or all hosts were lost; the run folder says so.
    """
    chosen = Settings.of(**settings)
    parts, left_out = real_parts(chosen.model_copy(update={"device": "cpu"}), name)
    check_needs(parts.name, parts.needs, Offers(server=parts.server is not None))
    if gpus_per_host < 0 or not math.isfinite(gpus_per_host):
        raise ValueError(f"gpus_per_host: got {gpus_per_host}; a number >= 0 is allowed")
    if hosts is not None and not 1 <= hosts <= parts.size:
        raise ValueError(f"hosts: got {hosts}; 1 to {parts.size}, the number of peers, is allowed")
    with cluster(address) as ray:
        space = _Space(ray, parts.size, hosts, gpus_per_host)
        device = "cuda" if gpus_per_host and chosen.device == "cpu" else chosen.device
        shipped = parts.settings.model_copy(update={"device": device})
        return _Driver(ray, parts, shipped, space, store, out, progress, left_out).run()


class _Space:
    """How many hosts a cluster takes, and what each gets.

    Attributes:
        hosts: their number.
        cpus, gpus: of each; less than 1 is a part of one.
    """

    def __init__(self, ray: Any, peers: int, hosts: int | None, gpus: float) -> None:
        resources = ray.cluster_resources()
        have = resources.get("GPU", 0.0) // gpus if gpus else resources.get("CPU", 1.0)
        if gpus and have < (hosts or 1):
            raise ValueError(
                f"gpus_per_host: got {gpus}; the cluster has {resources.get('GPU', 0.0):g} GPUs for {hosts or 1} hosts"
            )
        self.hosts = max(1, min(peers, int(have))) if hosts is None else hosts
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        self.cpus, self.gpus = cpus_of_each(self.hosts, nodes), gpus


class _Driver:
    """Starts the hosts, follows them, and stores what comes out."""

    def __init__(
        self,
        ray: Any,
        parts: Parts,
        shipped: Settings,
        space: _Space,
        store: str | Path | None,
        out: str | Path | None,
        progress: Callable[[Progress], None] | None,
        left_out: list[str],
    ) -> None:
        self.ray, self.parts, self.space, self.progress = ray, parts, space, progress
        self.counters = [parts.server] if parts.server is not None else list(range(parts.holders))
        measured = {"loss", *parts.task.metrics}
        self.gathering = Gathering(parts.size, self.counters, measured)
        self.began = time.monotonic()
        if left_out:
            self.gathering.log(time.time(), "left out, for simulations only", settings=", ".join(left_out))
        self.folder = None if store is None else new_folder(store, parts.name)
        blocks = [part.tolist() for part in np.array_split(np.arange(parts.size), space.hosts)]
        self.plan = Plan(
            settings=shipped.model_dump(),
            name=parts.name,
            blocks=blocks,
            wanted=_some(self.counters, parts.settings),
            threads=max(1, int(space.cpus) // len(blocks[0])),
            store=None if self.folder is None else str(self.folder.resolve()),
            linger=1.0 if store is None else LINGER,
        )
        self.result = Run(None if out is None else new_folder(out, parts.name), {})
        self.actors: list[Any] = []
        self.hosts: list[dict[str, Any]] = []
        self.running: dict[Any, int] = {}  # reference -> host
        self.reports: dict[Any, int] = {}
        self.lives: dict[int, int] = {}  # host -> its present life
        self.dead: dict[int, float] = {}  # hosts that died for good, and when
        self.away: set[int] = set()  # hosts that died and did not report since
        self.finals: dict[int, dict[str, float]] = {}
        self.error: dict[str, Any] | None = None
        self._saved = self._shown = self.began

    # -- running ---------------------------------------------------------------------------------------------

    def run(self) -> Run:
        """Run to the end, and store the result, whatever happens."""
        status, error = "failed", None
        try:
            self._save("running", None)
            self._show()
            with deferred() as asked:
                self._start(asked)
                self._save("running", None)
                self._follow(asked)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except BaseException as problem:
            known = isinstance(problem, ValueError | ShoalError)
            error = str(problem) if known else f"{type(problem).__name__}: {problem}"
            raise
        finally:
            for actor in self.actors:
                self.ray.kill(actor)
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.result.info["summary"] = summarise(dict(sorted(self.finals.items())))
            self._save(status, error)
        return self.result

    def _start(self, asked: list[bool]) -> None:
        """Make the actors, and wait until all are there."""
        space = self.space
        actor = self.ray.remote(Host).options(
            num_cpus=space.cpus,
            num_gpus=space.gpus,
            max_restarts=RESTARTS if self.folder is not None else 0,
            max_concurrency=100 + 10 * space.hosts,
            scheduling_strategy="SPREAD",
        )
        self.actors = [actor.remote(number, self.plan) for number in range(space.hosts)]
        calls = [actor.ready.remote() for actor in self.actors]
        self.hosts = first_answers(self.ray, calls, "hosts", asked)
        for host in self.hosts:
            if host["shoal"] != __version__:
                here = f"this one has {__version__}; all need the same"
                raise ShoalError(f"machine {host['machine']} has Shoal {host['shoal']}, and {here}")
        if not asked:
            for number in range(space.hosts):
                self._let_run(number, self.parts.size - 1)

    def _let_run(self, number: int, company: int) -> None:
        self.running[self.actors[number].run.remote(self.actors, company)] = number
        self._ask(number)

    def _ask(self, number: int) -> None:
        life = self.lives.get(number)
        seen = {peer: self.gathering.seen(peer, life) for peer in self.plan.blocks[number]}
        self.reports[self.actors[number].report.remote(life, seen)] = number

    def _follow(self, asked: list[bool]) -> None:
        """Take reports until all peers have ended, or until they have to."""
        give_up = math.inf
        while self.running and time.monotonic() < give_up:
            references = [*self.running, *self.reports]
            for reference in self.ray.wait(references, num_returns=1, timeout=0.25)[0]:
                self._take(reference)
            self._show()
            self._check_begun()
            if math.isinf(give_up) and (asked or self.error):
                give_up = time.monotonic() + STOPPING
                for number in self.running.values():
                    self.actors[number].stop.remote()
        if self.error is not None:
            if self.error["mendable"]:
                raise ShoalError(self.error["text"])
            raise RuntimeError(f"{self.error['text']}\n\nat the host:\n{self.error['traceback']}")
        if not self.finals and not asked:
            raise ShoalError("all hosts whose peers count were lost")

    def _take(self, reference: Any) -> None:
        number = self.running.pop(reference, None)
        over = number is not None
        if number is None:
            number = self.reports.pop(reference)
        try:
            news = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as error:
            if over:
                self._lost(number, error)
            return
        if number in self.away and news[0]["life"] != self.lives.get(number):
            self.away.discard(number)
            self.gathering.log(time.time(), "host restarted", host=number, peers=self.plan.blocks[number])
            self._save("running", None)
        for peer in news:
            self.lives[number] = peer["life"]
            self.gathering.take(peer)
            self.error = self.error or peer["error"]
            if over and peer["peer"] in self.counters:
                self._end(peer)
        if not over and number in self.running.values():
            self._ask(number)

    def _end(self, peer: dict[str, Any]) -> None:
        if peer["scores"]:
            self.finals[peer["peer"]] = peer["scores"]
        if peer["model"] is not None:
            model: Tensor = decode(peer["model"])
            self.result.models[peer["peer"]] = model

    def _lost(self, number: int, error: Any) -> None:
        """A host died: wait for its next life, or go on without it."""
        block = self.plan.blocks[number]
        if number not in self.away:
            self.away.add(number)
            self.gathering.log(time.time(), "host lost", host=number, peers=block)
            self._save("running", None)
        if isinstance(error, self.ray.exceptions.ActorUnavailableError) and not self.error:  # it begins anew
            time.sleep(0.25)
            self._let_run(number, min(1, self.parts.size - 1))
        else:
            self.dead[number] = time.monotonic()

    def _check_begun(self) -> None:
        """Peers that wait for the company of a dead one before they begin would wait for ever."""
        if self.dead and time.monotonic() > max(self.dead.values()) + BEGINNING:
            left = [peer for number in self.running.values() for peer in self.plan.blocks[number]]
            if not self.gathering.begun(left):
                raise ShoalError(f"hosts {sorted(self.dead)} died before all peers had begun")

    # -- what is shown and stored ----------------------------------------------------------------------------

    def _show(self) -> None:
        now = time.monotonic()
        if self.progress is not None and (now - self._shown > 0.1 or self._shown == self.began):
            self._shown = now
            found, total = self.gathering, self.parts.settings.rounds * len(self.counters)
            self.progress(Progress(found.done, total, found.seconds, sum(found.sent), found.scores, self.result))
        if now - self._saved > SAVE_EVERY:
            self._save("running", None)
            self._saved = time.monotonic()

    def _save(self, status: str, error: str | None) -> None:
        parts, found, s = self.parts, self.gathering, self.parts.settings
        self.result.metrics = found.metrics()
        self.result.events = found.events(SILENT)
        self.result.info.update(
            {
                "format": FORMAT,
                "shoal": __version__,
                "name": parts.name,
                "protocol": s.protocol,
                "status": status,
                "error": error,
                "on": "ray",
                "hosts": self.hosts,
                "config": self.plan.settings,
                "seed": s.seed,
                "peers": parts.holders,
                "rounds": found.reached,
                "virtual_seconds": found.seconds,
                "wall_seconds": time.monotonic() - self.began,
                "parameters": parts.trainer.layout.size,
                "compute": [],
                "data": {
                    "source": parts.task.dataset.source,
                    "shards": describe_shards(parts.task.dataset, parts.shards[: parts.holders]),
                },
                "topology": describe_topology(parts.topology),
                "byzantine": [],
                "bytes": found.bytes(),
            }
        )
        self.result.info.setdefault("summary", {})
        self.result.save()


def _some(counters: list[int], settings: Settings) -> list[int]:
    """The peers whose models are stored: all, or a sample of them, the same as in a simulation."""
    if len(counters) <= settings.eval_peers:
        return counters
    own = key(settings.seed, "watched")
    return sorted(sorted(counters, key=lambda i: (hash01(own, i), i))[: settings.eval_peers])
