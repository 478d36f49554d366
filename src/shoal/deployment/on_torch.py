"""Experiments in a `torch.distributed` group: `torchrun --nproc-per-node 4 -m shoal run experiment.toml --on torch`.

Every process is one peer, whose id is its rank. Rank 0 gathers what all measured, and writes one run folder as a
simulation's; the peers' states lie in it, below `peers/`. A run that did not end goes on when it is started again.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from shoal.deployment.node import Node, real_parts
from shoal.engine.errors import PeerLost
from shoal.files import atomically
from shoal.interrupt import deferred
from shoal.learning import Learner
from shoal.net.checkpoints import Checkpoints
from shoal.net.collective import OFFERS, CollectiveWorld
from shoal.net.group import DEAD, TIMEOUT, Group, GroupFailed
from shoal.protocols import check_needs
from shoal.report import RunFolder
from shoal.report.folder import NotARun
from shoal.simulation.describe import describe_object
from shoal.simulation.given import separate
from shoal.simulation.parts import Parts
from shoal.simulation.run import COLUMNS, Run, new_folder, summarise
from shoal.simulation.settings import Settings
from shoal.simulation.simulate import Progress
from shoal.text import shown

OBJECTS = ("protocol", "task", "topology", "optimizer", "faults", "partition", "devices", "network", "codec")
SHOW_EVERY = 0.1  # seconds


def run_on_torch(
    protocol: Any = "gossip",
    *,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    timeout: float = TIMEOUT,
    dead: float = DEAD,
    meeting: str = "env://",
    group: Group | None = None,
    **settings: Any,
) -> Run:
    """Run an experiment in the processes of a group; to be called in all of them, with the same arguments.

    Args:
        protocol: a name, or `async def protocol(me)`.
        name: what the run is called; default: the protocol's name.
        out: folder in which a run folder `<name>-<number>` is made, or the last one of the same name and settings is
            gone on with, if its run has not come to its end; None stores nothing.
        progress: called at rank 0 when the run begins, and now and then while it goes on.
        timeout, dead, meeting: see `Group.join`.
        group: None joins one, in which later runs of this process go on; it is left when the process ends.
        settings: as of `simulate`. `peers` is the number of processes by default, and can be nothing else; what means
            something in a simulation only is left out.

    Returns:
        The run: at rank 0 with what all have measured and all models, elsewhere with this peer's.

    Raises:
        ValueError: a setting that is unknown or impossible, or no group to run in.
        Refused: the protocol needs what a group does not have.
        PeerLost: a process is gone.
        ShoalError: the protocol failed; the run folder says so.
        KeyboardInterrupt: one of the processes was asked to stop; all have, and the run is stored.
    """
    device = _device(settings.get("device") or "cpu")
    run = _GroupRun(group or _the_group(device, timeout, dead, meeting), name, out, progress)
    with deferred(run.stop):
        return asyncio.run(run.run({"protocol": protocol, **settings}))


_joined: Group | None = None  # a place to meet serves once: later runs of a process go on in the same group


def _the_group(device: torch.device, timeout: float, dead: float, meeting: str) -> Group:
    """The group of this process, which it leaves at its end."""
    global _joined
    if _joined is None:
        _joined = Group.join(device, timeout, dead, meeting)
        atexit.register(_joined.leave)
    elif _joined.device != device:
        raise ValueError(f"device: got {device}; the group of this process is on {_joined.device}")
    return _joined


def _device(name: str) -> torch.device:
    """Of GPUs, each process of a machine takes its own."""
    device = torch.device(name)
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _told(value: Any) -> str:
    """An object in words that are the same in all processes."""
    if " at 0x" in repr(value):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    return describe_object(value)


class _GroupRun:
    """One process's part in a run."""

    def __init__(
        self,
        group: Group,
        name: str | None,
        out: str | Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.group, self.name, self.out, self.progress = group, name, out, progress
        self.world: CollectiveWorld | None = None
        self.folder: Path | None = None
        self._stopping = False
        self._open: list[int] = []

    def stop(self) -> None:
        """Leave the protocol soon, together with the others."""
        self._stopping = True
        if self.world is not None:
            self.world.stop()

    async def run(self, given: dict[str, Any]) -> Run:
        """From arguments to a finished run; what cannot be is refused by all before anything runs."""
        parts, left_out, config = await self._prepared(given)
        folder, resume, store = await self._place(parts, config)
        s, topology = parts.settings, parts.topology
        self.world = world = CollectiveWorld(
            self.group,
            seed=s.seed,
            rounds=s.rounds,
            neighbours=topology.neighbours,
            in_neighbours=topology.in_neighbours,
            store=store,
            together=parts.needs.messages,
        )
        if self._stopping:
            world.stop()
        node = Rank(parts, world, folder if self.group.rank == 0 else None, config, self.progress)
        if left_out and self.group.rank == 0:
            world.log("left out: means something in a simulation only", settings=left_out)
        try:
            return await self._live(node, world, resume)
        finally:
            world.close()
            self.release()

    async def _live(self, node: Rank, world: CollectiveWorld, resume: int | None) -> Run:
        try:
            self._begin(node, resume)
            ended = await world.run(node.protocol, make_peer=node.make_peer, resume=resume)
        except Exception as error:
            await node.finish("failed", error)
            self._mark_failed(error)
            raise
        except BaseException:  # a second Ctrl-C: there is no time for more
            node.status = "interrupted"
            node.save()
            raise
        run = await node.finish("finished" if ended else "interrupted")
        if not ended:
            raise KeyboardInterrupt
        return run

    def _begin(self, node: Rank, resume: int | None) -> None:
        try:
            node.begin(resume)
        except BaseException:  # the others have no part in it: they learn that this process is gone
            self.group.broken = True
            raise

    # -- before anything runs ----------------------------------------------------------------------------------

    async def _prepared(self, given: dict[str, Any]) -> tuple[Parts, list[str], dict[str, Any]]:
        """The parts of the experiment, if all processes have made the same ones."""
        error: Exception | None = None
        made: tuple[Parts, list[str], dict[str, Any]] | None = None
        try:
            made = self._parts(given)
        except Exception as problem:
            error = problem
        config = {} if made is None else made[2]
        text = None if error is None else f"{type(error).__name__}: {error}"
        said = await self.group.share("agreeing on the settings", {"error": text, "config": json.dumps(config)})
        if error is not None:
            raise error
        for rank, other in enumerate(said):
            if other["error"] is not None:
                raise GroupFailed(f"rank {rank} cannot begin: {other['error']}")
            theirs = json.loads(other["config"])
            for key in config:
                if theirs[key] != config[key]:
                    raise ValueError(
                        f"{key}: got {shown(config[key])} at rank {self.group.rank}, and {shown(theirs[key])} at rank "
                        f"{rank}; all processes need the same settings"
                    )
        assert made is not None
        return made

    def _parts(self, given: dict[str, Any]) -> tuple[Parts, list[str], dict[str, Any]]:
        strings, objects = separate({key: value for key, value in given.items() if key in OBJECTS})
        others = {key: value for key, value in given.items() if key not in OBJECTS}
        settings = Settings.of(**strings, **{"peers": self.group.size, **others})
        config = settings.model_dump(mode="json")
        config.update({key: _told(value) for key, value in objects.items()})
        here = settings.model_copy(update={"device": str(self.group.device)})
        parts, left_out = real_parts(here, self.name, objects)
        check_needs(parts.name, parts.needs, OFFERS)
        if parts.size != self.group.size:
            raise ValueError(
                f"peers: {parts.name} has {parts.size} here, and the group {self.group.size} processes; "
                f"each peer needs one, as in `torchrun --nproc-per-node {parts.size}`"
            )
        return parts, left_out, config

    async def _place(self, parts: Parts, config: dict[str, Any]) -> tuple[Path | None, int | None, Checkpoints | None]:
        """The run folder, the round after which the run goes on, and where this process keeps its states."""
        if self.out is None:
            return None, None, None
        found, error = "", None
        if self.group.rank == 0:
            try:
                last = unfinished(Path(self.out), parts.name, config)
                if last is None or not self._claim(last):
                    last = new_folder(self.out, parts.name)
                    self._claim(last)
                found = last.name
            except ValueError as problem:
                error = problem
        said = await self.group.share("choosing a folder", found)
        if error is not None or not said[0]:
            raise error or GroupFailed("rank 0 could not make a run folder")
        self.folder = folder = Path(self.out) / said[0]
        store = Checkpoints(folder / "peers" / str(self.group.rank))
        kept = await self.group.share("looking for what was kept", store.rounds())
        if not parts.needs.messages:  # nobody waits for anybody
            return folder, max(store.rounds(), default=None), store
        common = set(kept[0]).intersection(*kept[1:])
        return folder, max(common, default=None), store

    def _claim(self, folder: Path) -> bool:
        """Whether no other living process is at work in a run folder; from now on until its end, this one is."""
        if fcntl is None:
            return True
        claim = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(claim)
            return False
        self._open.append(claim)
        return True

    def release(self) -> None:
        """Others may write to the run folder."""
        while self._open:
            os.close(self._open.pop())

    # -- afterwards --------------------------------------------------------------------------------------------

    def _mark_failed(self, error: Exception) -> None:
        """If rank 0 is gone, the first one that is left says so in the run folder, where it can be seen from here."""
        gone = self.group.pulse.lost
        first = min(rank for rank in range(self.group.size) if rank not in gone)
        if self.folder is None or not isinstance(error, PeerLost) or 0 not in gone or self.group.rank != first:
            return
        path = self.folder / "run.json"
        if path.is_file():
            info = json.loads(path.read_text(encoding="utf-8"))
            if info["status"] != "running":
                return
            info.update(status="failed", error=str(error))
            with atomically(path) as temporary:
                temporary.write_text(json.dumps(info, indent=1), encoding="utf-8")


def unfinished(out: Path, name: str, config: Mapping[str, Any]) -> Path | None:
    """The last run folder of a name in `out`, if its run was of a group, of these settings, and has not finished."""
    numbered = [(re.fullmatch(re.escape(name) + r"-(\d+)", path.name), path) for path in out.glob("*")]
    folders = sorted((int(match[1]), path) for match, path in numbered if match)
    if not folders:
        return None
    try:
        info = RunFolder(folders[-1][1]).info
    except NotARun:
        return None
    same = info.get("on") == "torch" and info.get("config") == config
    return folders[-1][1] if same and info.get("status") != "finished" else None


class Rank(Node):
    """The node of one process; rank 0's run is that of all peers."""

    world: CollectiveWorld

    def __init__(
        self,
        parts: Parts,
        world: CollectiveWorld,
        folder: Path | None,
        config: dict[str, Any],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        super().__init__(parts, world.id, world, on="torch")
        self.result = _Whole(folder, {}, world.metrics)
        self.result.config = config
        self._progress, self._shown = progress, 0.0
        world.on_commit = self._committed

    def note(self, event: str, **details: Any) -> None:
        """The run's metrics and its status say it of all."""

    def _go_on(self, r: int) -> None:
        """What earlier lives measured and sent comes from the states of all ranks, and by `begin`."""

    def _writes(self) -> bool:
        """From `begin` on."""
        return True

    def begin(self, resume: int | None) -> None:
        """Write the run folder, with what an earlier life measured up to the round after which the run goes on."""
        folder = self.result.folder
        if folder is not None and (folder / "run.json").is_file():
            earlier = RunFolder(folder)
            rows = zip(*(getattr(earlier.metrics, column).tolist() for column in COLUMNS), strict=True)
            self.world.metrics.extend(row for row in rows if row[1] < (resume or 0))
            self.world.events.extend(earlier.events())
        self.save()
        self._show()

    async def protocol(self, me: Learner) -> None:
        """What the peer does, measured where it begins or goes on."""
        self.status = "running"
        r = int(me.state.get("round", 0))
        if r % self._every == 0 or r == self.parts.settings.rounds:
            self._measure(r, me.state["model"])
        await self.parts.protocol(me)

    def _committed(self, peer: Learner) -> None:
        super()._committed(peer)
        if time.monotonic() - self._shown > SHOW_EVERY:
            self._show()

    def _show(self) -> None:
        if self._progress is None or self.world.id != 0:
            return
        self._shown = time.monotonic()
        reached = 0 if self.peer is None else int(self.peer.state.get("round", 0))
        n, rounds, ledger = self.world.size, self.parts.settings.rounds, self.world.ledger
        self._progress(Progress(n * reached, n * rounds, self.world.now(), ledger.total, self._latest(), self.result))

    def _latest(self) -> dict[str, float]:
        """Means over the peers that have told, in the last round that one of them was measured in."""
        rows = self.world.metrics
        last = [row for row in rows[-8 * self.world.size :] if row[1] == rows[-1][1]]
        values: dict[str, list[float]] = {}
        for row in last:
            values.setdefault(row[4], []).append(row[5])
        return {name: sum(of_one) / len(of_one) for name, of_one in values.items()}

    async def finish(self, status: str, error: BaseException | None = None) -> Run:
        """Evaluate the final model on all test samples; rank 0 stores what all have come to."""
        try:
            await super().finish(status, error)
        finally:
            if not self.world.group.broken:
                await self._gather()
        if status == "finished":
            await self.world.forget()
        return self.result

    async def _gather(self) -> None:
        summary = self.result.info.get("summary", {})
        scores = {name: float(values["mean"]) for name, values in summary.items()}
        found = await self.world.conclude({"model": self.result.models.get(self.id), "scores": scores})
        if found:
            self.result.models = {i: of["model"] for i, of in enumerate(found) if of["model"] is not None}
            self.result.info["summary"] = summarise({i: of["scores"] for i, of in enumerate(found) if of["scores"]})
            self.save()
            self._show()


class _Whole(Run):
    """A run of all peers, of which one writes."""

    config: dict[str, Any]

    def save(self) -> None:
        """Write the folder."""
        self.metrics[:] = dict.fromkeys(self.metrics)  # what an earlier life had stored may have been told again
        self.info.pop("peer", None)
        self.info["config"] = self.config
        super().save()
