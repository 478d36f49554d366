"""The parts of an experiment, built and checked from its settings: task, shards, topology, links, faults and so on."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shoal import names
from shoal.compression import Codec
from shoal.engine import Adversary, Fault, Refused
from shoal.engine.compute import first_line
from shoal.engine.devices import Device
from shoal.engine.links import Link, links
from shoal.learning import Packer, Shard, Task, Trainer
from shoal.learning.data import Data
from shoal.learning.data.dataset import first_not_finite
from shoal.protocols import Needs
from shoal.simulation.given import build, build_task
from shoal.simulation.run import check_name
from shoal.simulation.settings import Settings
from shoal.tensors.random import hash01, key
from shoal.text import shown
from shoal.topology import Topology, complete, from_edges, is_connected, star


class Parts:
    """Everything that an experiment is made of.

    Args:
        settings: what was chosen.
        objects: what was given as an object instead of a name, by argument of `simulate`.
        name: what the run is called; None: after the protocol.

    Attributes:
        name: what the run is called.
        protocol, needs: what every peer does, and what that asks of a world.
        task, trainer: what is learned, and how it is computed.
        packer: how vectors travel.
        holders: number of peers beside a server.
        size: number of peers with it.
        server: id of the server, or None.
        shards: data of each peer; None where there is none.
        topology, links, devices, faults, adversary: the world's.
        workers, device: threads and torch device that compute.

    Raises:
        ValueError: something is impossible; the message begins with the setting.
    """

    def __init__(self, settings: Settings, objects: dict[str, Any], name: str | None) -> None:
        self.settings, self.objects = settings, objects
        s = settings
        self.workers = s.workers or os.cpu_count() or 1
        self.device = _device(s.device)
        self.protocol = objects["protocol"] if "protocol" in objects else build("protocol", s.protocol)
        self.needs: Needs = getattr(self.protocol, "needs", Needs())
        self.name = check_name(self._default_name() if name is None else name)
        self.task: Task = objects["task"] if "task" in objects else self._named_task()
        self.trainer = self._trainer()
        self.packer = Packer(self._codec(), self.trainer.layout, self.device)
        self.holders = 1 if self.needs.pooled_data else s.peers
        self.size = self.holders + (1 if self.needs.server else 0)
        self.server = self.holders if self.needs.server else None
        self.shards = self._shards()
        self.topology = self._topology()
        self.links = self._links()
        self.devices = self._devices()
        self.faults = self._faults()
        self.adversary = self._adversary()

    def _default_name(self) -> str:
        if "protocol" not in self.objects:
            return names.parse("protocol", self.settings.protocol).name
        named: str = getattr(self.protocol, "__name__", type(self.protocol).__name__)
        return named.strip("<>").lower()

    def _named_task(self) -> Task:
        spec = names.parse("task", self.settings.task)
        more = {"peers": self.settings.peers} if spec.name in ("quadratic", "game") else {}
        return build_task(self.settings.task, self.settings.model, **more)

    def _trainer(self) -> Trainer:
        s, named = self.settings, "task" not in self.objects
        if s.model is not None and not named:
            raise ValueError(f"model: got {s.model!r}; a task that is an object brings its own")
        if not named:
            self._check_task()
        optimizer = self._optimizer()
        try:
            return Trainer(
                self.task,
                optimizer,
                batch=s.batch or None,
                device=self.device,
                batched=None if s.batched else False,
            )
        except RuntimeError as error:  # torch's word for a layer of an impossible size
            if not named or s.model is None:
                raise
            raise ValueError(f"model: {s.model} cannot be built: {first_line(error)}") from error

    def _check_task(self) -> None:
        """See that a task of the user's own can be learned."""
        model = self.task.initial(0)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(f"model: {type(model).__name__} has no parameters to train")
        if self.task.players is None:
            self.task.check(model.to(self.task.dataset.train.inputs.device))

    def _optimizer(self) -> Any:
        s = self.settings
        if not self.needs.optimizer:
            for setting, chosen in (("lr", s.lr is not None), ("optimizer", s.optimizer != "sgd")):
                if chosen or setting in self.objects:
                    raise Refused(f"{setting}: {self.name} steps by a rule of its own; see `shoal list protocol`")
        given = {} if s.lr is None else {"lr": s.lr}  # some have no rate of their own, and some remember their first
        named = "optimizer" not in self.objects
        optimizer = build("optimizer", s.optimizer, **given) if named else self.objects["optimizer"]
        if s.lr is None:
            return optimizer
        if not hasattr(optimizer, "lr"):
            raise ValueError("lr: the optimizer is a function; give it the learning rate itself")
        return replace(optimizer, lr=s.lr)

    def _codec(self) -> Codec | None:
        given = self.objects.get("codec", self.settings.codec)
        if given is None:
            return None
        codec: Codec = build("codec", given) if isinstance(given, str) else given
        packs = self.needs.packs
        if packs is None:
            raise Refused(f"codec: {self.name} does not pack what it sends, or in a format of its own")
        if packs not in codec.suits:
            named = given if isinstance(given, str) else type(codec).__name__
            fits = " or ".join(f"{'an' if use[0] in 'aeiou' else 'a'} {use}" for use in codec.suits)
            raise Refused(f"codec: {named} is for {fits}; {self.name} packs a {packs}")
        return codec

    def _shards(self) -> list[Shard | None]:
        s = self.settings
        train = self.task.dataset.train
        if self.needs.pooled_data:
            indices = [torch.arange(len(train))]
        elif "partition" in self.objects:
            train, indices = self.objects["partition"]
        else:
            holders = s.peers - len(s.relays)
            train, indices = build("partition", s.partition, train, holders, seed=key(s.seed, "data"))
            dealt, nothing = iter(indices), torch.empty(0, dtype=torch.int64)
            indices = [nothing if i in s.relays else next(dealt) for i in range(s.peers)]
        self._check_partition(train, indices)
        data = Data(train.inputs.to(self.device), train.targets.to(self.device))
        shards = [Shard(data, rows) if len(rows) else None for rows in indices]
        return [*shards, None] if self.needs.server else shards

    def _check_partition(self, train: Data, indices: Sequence[Tensor]) -> None:
        if len(indices) != self.holders:
            raise ValueError(f"partition: got {len(indices)} shards for {self.holders} peers")
        for what in ("inputs", "targets"):
            bad = first_not_finite(getattr(train, what))
            if bad is not None:
                raise ValueError(f"partition: {what} must be finite, got NaN or infinity, first at sample {bad}")
        relays = self.settings.relays
        if relays and self.needs.data:
            raise Refused(f"{self.name} needs data at every peer, and peer {relays[0]} is to be a relay")
        for i, rows in enumerate(indices):
            if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.dim() != 1:
                raise ValueError(f"partition: the samples of peer {i} must be a tensor [m] of int64, got {shown(rows)}")
            if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(train)):
                raise ValueError(
                    f"partition: peer {i} is given samples {int(rows.min())} to {int(rows.max())}; "
                    f"samples are 0 to {len(train) - 1}"
                )
            if len(rows) == 0 and i not in relays:
                raise ValueError(
                    f"partition: peer {i} holds no samples; use fewer peers, another partition, or `relays`"
                )
            if len(rows) and i in relays:
                raise ValueError(f"relays: the partition gives peer {i} {len(rows)} samples, and a relay holds none")

    def _topology(self) -> Topology:
        s = self.settings
        if self.server is not None:
            return star(self.size, hub=self.server)
        if not self.needs.messages or self.needs.sampled:
            return from_edges(self.holders, [], name="none")
        if "topology" in self.objects:
            topology: Topology = self.objects["topology"]
            if topology.n != self.holders:
                raise ValueError(f"topology: got one of {topology.n} peers for {self.holders}")
        else:
            if self.holders == 1:
                return complete(1)
            topology = self._named_topology()
        if s.weights != "default":
            topology = topology.with_weights(s.weights)
        if self.needs.neighbours and not s.disconnected and not is_connected(topology):
            raise ValueError(
                f"topology: {topology.name} is not connected; choose another or another seed, or say `disconnected`"
            )
        return topology

    def _named_topology(self) -> Topology:
        s = self.settings
        from_file = names.parse("topology", s.topology).name == "file"
        try:
            if from_file:  # says who is linked, not how many are there
                read: Topology = build("topology", s.topology, n=self.holders)
                return read
            anyhow = {"connected": False} if s.disconnected and _may_fall_apart(s.topology) else {}
            made: Topology = build("topology", s.topology, self.holders, seed=s.seed, **anyhow)
            return made
        except OSError as error:
            raise ValueError(f"topology: cannot read {error.filename}: {error.strerror}") from None
        except ValueError as error:
            note = f" (n: the number of peers, {self.holders})" if re.search(r"\bn\b", str(error)) else ""
            raise ValueError(f"{error}{note}") from error

    def _links(self) -> list[Link]:
        made = list(self.objects["network"]) if "network" in self.objects else self._named_links()
        if len(made) != self.size:
            server = " and one for the server" if self.needs.server else ""
            raise ValueError(
                f"network: got {len(made)} links; one for each of the {self.holders} peers{server} is needed"
            )
        return made

    def _named_links(self) -> list[Link]:
        spec = names.parse("network", self.settings.network)
        server = (
            "datacentre" if self.needs.server and spec.name != "ideal" else ("ideal" if self.needs.server else None)
        )
        for name, value in spec.arguments.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"network: {spec.name}: {name}: got {value!r}; a number is allowed")
        try:
            return links(spec.name, self.holders, server=server, **dict(spec.arguments))
        except ValueError as error:
            raise ValueError(f"network: {spec.name}: {str(error).removeprefix('network: ')}") from error

    def _devices(self) -> list[Device]:
        given = self.objects.get("devices")
        if given is None:
            given = build("devices", self.settings.devices, self.holders, seed=self.settings.seed)
        devices = list(given)
        if len(devices) != self.holders:
            raise ValueError(f"devices: got {len(devices)} for {self.holders} peers")
        return [*devices, Device(0.0)] if self.needs.server else devices

    def _faults(self) -> list[Fault]:
        if "faults" in self.objects:
            return list(self.objects["faults"])
        s = self.settings
        steps = getattr(self.protocol, "steps", None) or 5
        horizon = max(1e-9, s.rounds * steps * max(d.seconds_per_step for d in self.devices[: self.holders]))
        script: list[Fault] = build("faults", s.faults, self.holders, s.seed, horizon)
        return script

    def _adversary(self) -> Adversary | None:
        text = self.settings.attack
        share, attack = build("attack", text)
        count = round(share * self.holders)
        if attack is None or share == 0.0:
            return None
        if not 0 < count < self.holders:
            who = "nobody" if count == 0 else "everybody"
            raise ValueError(f"attack: {text}: a share of {share} of {self.holders} peers is {who}; take more peers")
        own = key(self.settings.seed, "byzantine")
        order = sorted(range(self.holders), key=lambda i: (hash01(own, i), i))
        return Adversary(frozenset(order[:count]), attack)


def _may_fall_apart(topology: str) -> bool:
    """Whether what draws the named topology looks for a connected one unless told otherwise."""
    return "connected" in inspect.signature(names.parse("topology", topology).entry.load()).parameters


def _device(name: str) -> torch.device:
    """The torch device of that name, if this machine has it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: got {name!r}; cpu, or a device of this machine, is allowed ({first_line(error)})"
        ) from None
    return device
