"""One of several real processes: `python -m tests.deployment.torch_process WHAT FOLDER`; what the tests run."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from shoal.deployment.on_torch import run_on_torch
from shoal.learning import Learner
from shoal.learning.data import digits as digits_data
from shoal.net.group import Group
from shoal.protocols import Needs, SynchronousSGD
from shoal.simulation.tasks import digits as digits_task
from shoal.tensors.payload import encode

SIZE = 4
COMMON: dict[str, Any] = {"task": "digits", "peers": SIZE, "partition": "dirichlet:0.5", "rounds": 3, "seed": 11}


def synchronous() -> dict[str, Any]:
    """Data-parallel SGD, in which every worker can read the whole set."""
    train = digits_data().train
    return {
        "protocol": SynchronousSGD(16),
        "task": digits_task(),
        "partition": (train, [torch.arange(len(train))] * SIZE),
        "topology": "complete",
        "optimizer": "sgd:lr=0.1,momentum=0.9",
        "rounds": 3,
        "peers": SIZE,
        "seed": 11,
    }


EXPERIMENTS: dict[str, dict[str, Any]] = {
    "gossip": {**COMMON, "protocol": "gossip:steps=3", "topology": "exponential"},
    "gossip, changing": {**COMMON, "protocol": "gossip:steps=2", "topology": "one-peer-exponential"},
    "gossip, coded": {**COMMON, "protocol": "gossip:steps=3", "topology": "complete", "codec": "int8"},
    "dsgd": {**COMMON, "protocol": "dsgd", "topology": "ring"},
    "decavg": {**COMMON, "protocol": "decavg", "topology": "star", "relays": (0,)},
    "variance-corrected": {**COMMON, "protocol": "variance-corrected", "topology": "ring", "init": "independent"},
    "demo": {**COMMON, "protocol": "demo:lr=0.01", "topology": "complete"},
    "isolated": {**COMMON, "protocol": "isolated"},
    "synchronous-sgd": synchronous(),
}
REFUSED = {
    "fedavg": "server role",
    "pairwise": "own pace",
    "one-byte": "ask one another",
    "centralised": "has 1 here",
    "gossip:stpes=1": "stpes",
}
FATAL: dict[str, Any] = {**COMMON, "topology": "ring", "rounds": 8, "peers": 3, "optimizer": "sgd:lr=0.1,momentum=0.9"}


@dataclass(frozen=True)
class Fatal:
    """Gossip in which the process of peer 1 is killed in round 4 of its first life."""

    needs: ClassVar[Needs] = Needs(neighbours=True, packs="model")

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        async for r in me.rounds():
            await me.train(steps=2)
            if me.id == 1 and me.lives == 1 and r == 4 and me._world.in_step:
                os.kill(os.getpid(), signal.SIGKILL)
            me.model = me.mix(me.unpack_all(await me.exchange(await me.pack(me.model), r)))


def conformance(folder: Path) -> None:
    """Every experiment, in one group; and what is refused."""
    group = Group.join(timeout=60.0, dead=20.0, meeting=f"file://{folder}/meeting")
    seen: dict[str, Any] = {}
    for name, settings in EXPERIMENTS.items():
        run = run_on_torch(**settings, group=group)
        seen[name] = {"model": run.models[group.rank], "bytes": run.info["bytes"], "models": sorted(run.models)}
    for protocol in REFUSED:
        try:
            run_on_torch(protocol, task="digits", group=group, out=folder / "runs")
        except Exception as error:
            seen[f"refused, {protocol}"] = f"{type(error).__name__}: {error}"
    try:
        run_on_torch(task="digits", seed=group.rank // 2, group=group, out=folder / "runs")
    except Exception as error:
        seen["refused, seeds"] = f"{type(error).__name__}: {error}"
    (folder / f"{group.rank}.bin").write_bytes(encode(seen))
    group.leave()


def fatal(folder: Path) -> None:
    """A run in which a process is killed, or what is left of it."""
    try:
        run_on_torch(Fatal(), **FATAL, out=folder / "runs", timeout=60.0, dead=2.0, meeting=f"file://{sys.argv[3]}")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"conformance": conformance, "fatal": fatal}[sys.argv[1]](Path(sys.argv[2]))
