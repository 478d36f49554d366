"""One peer of an experiment, alive in a real world: what it measures, and what it leaves on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal import __version__
from shoal.deployment.logbook import Logbook
from shoal.engine import World
from shoal.engine.compute import Job
from shoal.engine.errors import NonFinite, ShoalError
from shoal.engine.ledger import Ledger
from shoal.engine.simulated import Metric
from shoal.engine.state import State
from shoal.learning import Learner, Shard
from shoal.learning.data.dataset import first_not_finite
from shoal.protocols import check_needs
from shoal.report import RunFolder
from shoal.simulation.describe import describe_shards, describe_topology
from shoal.simulation.parts import Parts
from shoal.simulation.run import COLUMNS, FORMAT, Run, summarise
from shoal.simulation.settings import Settings
from shoal.tensors.random import key, permutation

SIMULATED = ("network", "devices", "faults", "attack", "until", "trace", "workers", "compute", "eval_peers", "batched")


class Logged(Run):
    """A run whose log is written by somebody else, as things happen."""

    def _save_log(self, target: Path) -> None:
        pass


class LivingWorld(Protocol):
    """What a node needs of the world that its peer lives in, beside `World`."""

    ledger: Ledger
    metrics: list[Metric]
    on_commit: Any

    async def off_loop(self, fn: Any, *arguments: Any) -> Any:
        """Call a function where the peer's work is computed."""


def real_parts(
    settings: Settings, name: str | None = None, objects: Mapping[str, Any] | None = None
) -> tuple[Parts, list[str]]:
    """The parts of an experiment for real peers, and the settings that mean something in a simulation only.

    What is simulated (links, devices, faults, attackers) is left out; everything that both kinds of world have, from
    shards to initial models, is the same as in a simulation of the same settings. Peers are computed one by one.

    Args:
        settings: what was chosen.
        name: what the run is called; None: after the protocol.
        objects: what was given as an object instead of a name, by argument of `simulate`.

    Raises:
        ValueError: a setting is impossible.
    """
    given = dict(objects or {})
    left_out = simulated_only(settings, given)
    usual = Settings.of()
    plain = settings.model_copy(update={n: getattr(usual, n) for n in SIMULATED} | {"batched": False, "workers": 1})
    return Parts(plain, {n: value for n, value in given.items() if n not in SIMULATED}, name), left_out


def simulated_only(settings: Settings, objects: Container[str] = ()) -> list[str]:
    """The settings that were chosen, or given as objects, and mean something in a simulation only."""
    usual = Settings.of()
    chosen = [n for n in SIMULATED if n in objects or getattr(settings, n) != getattr(usual, n)]
    return [n for n in chosen if n != "batched"]


class Node:
    """A peer of an experiment.

    Args:
        parts: of the experiment; see `real_parts`.
        id: which of its peers; the server has the last one.
        world: where it lives.
        shard: its own data, instead of the part that the experiment's partition gives it.
        folder: run folder; None stores nothing. Of a folder that an earlier life has left, the measurements go on.
        logbook: where the world's log is written as things happen; None writes its end with the rest of the run.
        on: what carries its messages, for run.json.

    Attributes:
        peer: the learner, once the world made it.
        latest: last evaluated metrics.
        status: "waiting", "running", "finished", "interrupted" or "failed".
    """

    def __init__(
        self,
        parts: Parts,
        id: int,
        world: Any,
        *,
        shard: Shard | None = None,
        folder: Path | None = None,
        logbook: Logbook | None = None,
        on: str = "",
    ) -> None:
        check_needs(parts.name, parts.needs, world.offers)
        self.parts, self.id, self.world = parts, id, world
        self._private = shard is not None
        self.shard = parts.shards[id] if shard is None else shard
        self.peer: Learner | None = None
        self.latest: dict[str, float] = {}
        self.status = "waiting"
        self._on, self._wall, self._began, self._before = on, time.time(), time.monotonic(), 0.0
        self._evaluations: set[asyncio.Task[None]] = set()
        self._begun = False
        self._reached = 0
        self._error: str | None = None
        s = parts.settings
        self._every = s.evaluate or max(1, s.rounds // 20)
        test = parts.task.dataset.test
        some = permutation(key(s.seed, "test samples"), len(test))[: s.eval_samples]
        self._test = test if s.eval_samples >= len(test) else test[some]
        self.result = (Run if logbook is None else Logged)(folder, {}, world.metrics, {}, [])
        world.on_commit = self._committed
        if logbook is not None:
            world.on_log = logbook.write

    def make_peer(self, id: int, world: World, state: State | None) -> Learner:
        """For `RealWorld.run`: the learner, with the same data, model and draws as in a simulation."""
        parts, s = self.parts, self.parts.settings
        self._reached = 0 if state is None else int(state.get("round", 0))
        self._go_on(self._reached)
        seed = key(s.seed, "init") if s.init == "common" else key(s.seed, "init", id)
        row = None if parts.server is not None or parts.holders == 1 else parts.topology.row
        self.peer = Learner(
            id,
            world,
            state,
            trainer=parts.trainer,
            shard=self.shard,
            device=parts.devices[id],
            weights=row,
            init_seed=seed,
            packer=parts.packer,
        )
        self.save()
        return self.peer

    async def protocol(self, me: Learner) -> None:
        """What the peer does: it is measured before its first round, and the protocol runs.

        In a later life, what the one before left unmeasured is measured first.
        """
        self.status, self._begun = "running", True
        r = int(me.state.get("round", 0))
        self.note("begins", round=r, lives=me.lives)
        if (r == 0 or self._due(r)) and all(row[1] != r for row in self.world.metrics):
            self._measure(r, me.state["model"])
        await self.parts.protocol(me)
        await asyncio.gather(*self._evaluations)

    async def finish(self, status: str, error: BaseException | None = None) -> Run:
        """Evaluate the final model on all test samples, and store the run.

        Args:
            status: "finished", "interrupted" or "failed".
            error: why it failed.
        """
        self.status = status
        if error is not None:
            known = isinstance(error, ValueError | ShoalError)
            self._error = str(error) if known else f"{type(error).__name__}: {error}"
        try:
            if self._evaluations:
                await asyncio.gather(*self._evaluations, return_exceptions=True)
            if self.peer is not None:
                vector = self.peer.state["model"]
                self.result.models = {self.id: vector}
                if first_not_finite(vector) is None:
                    scores = self._evaluate(vector, self.parts.task.dataset.test)
                    self.result.info["summary"] = summarise({self.id: scores})
        finally:
            self.note(status, **({} if self._error is None else {"error": self._error}))
            self.save()
        return self.result

    def note(self, event: str, **details: Any) -> None:
        """Tell the log what the node does."""
        self.world.log(event, self.id, **details)

    # -- measuring -------------------------------------------------------------------------------------------

    def _committed(self, peer: Learner) -> None:
        before, self._reached = self._reached, int(peer.state.get("round", 0))
        r = self._reached
        if r > before and self._due(r):  # else it kept its state in the middle of a round
            vector = peer.state["model"]
            if first_not_finite(vector) is not None:
                raise NonFinite(f"the model of peer {peer.id} has NaN or infinity in it after round {r}")
            self._measure(r, vector)

    def _due(self, r: int) -> bool:
        return r % self._every == 0 or r == self.parts.settings.rounds

    def _measure(self, r: int, vector: Tensor) -> None:
        task = asyncio.get_running_loop().create_task(self._measured(r, vector))
        self._evaluations.add(task)
        task.add_done_callback(self._evaluations.discard)

    async def _measured(self, r: int, vector: Tensor) -> None:
        now, sent = self.world.now(), self.world.ledger.total
        scores: dict[str, float] = await self.world.off_loop(self._evaluate, vector, self._test)
        self.latest = scores
        self.world.metrics.extend((now, r, sent, self.id, name, value) for name, value in scores.items())
        self.note("measured", round=r, sent=sent, **scores)
        self.save()

    def _evaluate(self, vector: Tensor, data: Any) -> dict[str, float]:
        kernel = self.parts.trainer.evaluation()
        job = Job(kernel, (vector, data))
        with torch.no_grad():
            for chunk in kernel.chunks([job]):
                kernel.run(chunk)
        result: dict[str, float] = job.result
        return result

    # -- on disk ---------------------------------------------------------------------------------------------

    def _go_on(self, r: int) -> None:
        """Take over what earlier lives measured up to round `r`, what they sent, and when the first one began."""
        folder = self.result.folder
        if folder is None or not (folder / "run.json").is_file():
            return
        earlier = RunFolder(folder)
        rows = zip(*(getattr(earlier.metrics, column).tolist() for column in COLUMNS), strict=True)
        self.world.metrics.extend(row for row in rows if row[1] <= r)
        self._wall = min(self._wall, float(earlier.info.get("began", self._wall)))
        self._before = earlier.facts.wall_seconds or 0.0
        since = max(0.0, time.time() - float(earlier.info.get("saved", time.time())))
        self.world.earlier = (earlier.facts.virtual_seconds or 0.0) + since
        ledger: Ledger = self.world.ledger
        for name, channel in earlier.ledger.channels.items():
            account = ledger.account(name)
            account.messages, account.sent, account.lost = channel.messages, channel.sent, channel.lost
            self.world.received[name] = channel.received
        ledger.total = ledger.by_peer[self.id] = earlier.ledger.total or 0

    def _writes(self) -> bool:
        """Whether the folder may be written: not before the peer's life has begun, and has read what is there."""
        return self.peer is not None

    def save(self) -> None:
        """Write the run folder as it is now, if there is one; without one the run knows about itself at the end."""
        stored = self.result.folder is not None
        if (stored and not self._writes()) or (not stored and self.status in ("waiting", "running")):
            return
        s, parts, ledger = self.parts.settings, self.parts, self.world.ledger.as_dict()
        received = getattr(self.world, "received", {})
        for name in received:
            ledger["channels"].setdefault(name, {})["received"] = received[name]
        self.result.events = list(getattr(self.world, "events", ()))
        self.result.info.update(
            {
                "format": FORMAT,
                "shoal": __version__,
                "name": parts.name,
                "protocol": s.protocol,
                "status": "running" if self.status == "waiting" else self.status,
                "error": self._error,
                "on": self._on,
                "peer": self.id,
                "lives": 1 if self.peer is None else self.peer.lives,
                "began": self._wall,
                "config": s.model_dump(),
                "seed": s.seed,
                "peers": parts.holders,
                "rounds": self._reached,
                "saved": time.time(),
                "virtual_seconds": self.world.now() if self._begun else 0.0,
                "wall_seconds": self._before + time.monotonic() - self._began,
                "parameters": parts.trainer.layout.size,
                "compute": [],
                "data": self._describe_data(),
                "topology": describe_topology(parts.topology),
                "byzantine": [],
                "bytes": {name: ledger[name] for name in ("total", "channels", "by_peer")},
            }
        )
        self.result.info.setdefault("summary", {})
        self.result.save()

    def _describe_data(self) -> dict[str, Any]:
        dataset = self.parts.task.dataset
        if self._private:
            return {"source": f"{len(self.shard or ())} samples of its own; tested on {dataset.source}", "shards": []}
        return {"source": dataset.source, "shards": describe_shards(dataset, self.parts.shards[: self.parts.holders])}
