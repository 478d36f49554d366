"""An experiment as peers on real machines share it: settings, what their network has to be like, and what must agree.

It travels as JSON text, which whoever joins gets from whoever invited. Nothing in it is executed: settings are names
and numbers, checked as if they stood in a file of one's own.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal import __version__, names
from shoal.deployment.node import SIMULATED, real_parts
from shoal.net.iroh.options import NetOptions
from shoal.simulation.parts import Parts
from shoal.simulation.refusals import refusal
from shoal.simulation.run import check_name
from shoal.simulation.settings import Settings
from shoal.text import cut, shown

FORMAT = 1
TEXT_LIMIT = 1 << 20  # bytes of an experiment
OWN = ("device",)  # settings that each machine chooses for itself
LOCAL = ("bind", "allow")  # of the network


class OtherVersion(ValueError):
    """An experiment of another version of Shoal."""


class Net(BaseModel):
    """The table `[net]` of an experiment file.

    Attributes:
        bind: address and port to listen at, port 0 for any that is free. The default can be reached from this machine
            alone; "0.0.0.0:4433" from everywhere.
        relays: "off", "default" (the public ones of iroh), or URLs of one's own.
        allow: public keys of those who may join, instead of whoever has the ticket.
        beat: seconds between two signs of life.
        dead: seconds of silence after which a peer counts as lost.
        streams: streams over which a large message is spread.
        company: how many others must be there before a first life begins; default: all.
        linger: seconds for which a peer that is gone is waited for at the end.
        patience: seconds that an exchange waits for whoever is connected and says nothing; infinite is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bind: str = "127.0.0.1:0"
    relays: str | tuple[str, ...] = "off"
    allow: tuple[str, ...] = ()
    beat: float = Field(1.0, gt=0, allow_inf_nan=False)
    dead: float = Field(5.0, gt=0, allow_inf_nan=False)
    streams: int = Field(8, ge=1, le=64)
    company: int | None = Field(None, ge=0)
    linger: float = Field(30.0, ge=0, allow_inf_nan=False)
    patience: float = Field(300.0, gt=0, allow_inf_nan=True)

    @staticmethod
    def of(**values: Any) -> Net:
        """The table from its entries.

        Raises:
            ValueError: an unknown entry (the closest is suggested), or a value that is not allowed; one line.
        """
        for name in values:
            if name not in Net.model_fields:
                raise ValueError(f"net: {name!r} is unknown{names.suggestion(name, Net.model_fields)}")
        try:
            net = Net(**values)
        except ValidationError as error:
            raise ValueError(f"net: {refusal(Net, error)}") from None
        net.options(net.bind, net.allow)
        return net

    def options(self, bind: str, allow: tuple[str, ...] = ()) -> NetOptions:
        """What the transport of a peer that listens at `bind`, and lets in `allow`, is told.

        Raises:
            ValueError: something in it is impossible.
        """
        try:
            return NetOptions(
                bind=bind, relays=self.relays, beat=self.beat, dead=self.dead, streams=self.streams, allow=allow
            )
        except ValueError as error:
            raise ValueError(f"net: {error}") from None


@dataclass(frozen=True)
class Experiment:
    """What is run, and by which rules of the network.

    Attributes:
        name: what the run is called.
        settings: of the experiment.
        net: of the network.
        agreed: what must be the same on all machines for a peer to fit in: the model's size, the data, the topology.
        nonce: tells this deployment of the experiment from others.
    """

    name: str
    settings: Settings
    net: Net
    agreed: dict[str, Any]
    nonce: str

    @staticmethod
    def of(parts: Parts, net: Net) -> Experiment:
        """A new deployment of an experiment."""
        return Experiment(parts.name, parts.settings, net, agreement(parts), secrets.token_hex(8))

    def encode(self) -> bytes:
        """The experiment as it travels; what each machine has for itself is left out."""
        content = {
            "format": FORMAT,
            "shoal": __version__,
            "name": self.name,
            "settings": self.settings.model_dump(exclude={*SIMULATED, *OWN}),
            "net": self.net.model_dump(exclude=set(LOCAL)),
            "agreed": self.agreed,
            "nonce": self.nonce,
        }
        return json.dumps(content, sort_keys=True).encode()

    @property
    def digest(self) -> bytes:
        """SHA-256 of `encode()`, 32 bytes."""
        return hashlib.sha256(self.encode()).digest()

    def same_as(self, other: Experiment) -> bool:
        """Whether both are deployments of one experiment."""
        return replace(self, nonce="").encode() == replace(other, nonce="").encode()

    @staticmethod
    def decode(data: bytes) -> Experiment:
        """The experiment that `encode` wrote, here or on another machine.

        Raises:
            OtherVersion: it is of another version of Shoal.
            ValueError: it is damaged, too long, or impossible.
        """
        if len(data) > TEXT_LIMIT:
            raise ValueError(f"experiment: got {len(data)} bytes; at most {TEXT_LIMIT} are allowed")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("experiment: it is damaged: not JSON") from None
        if not isinstance(content, dict):
            raise ValueError("experiment: it is damaged: not an object")
        version = content.get("shoal")
        if content.get("format") != FORMAT or version != __version__:
            raise OtherVersion(
                f"experiment: it is one of shoal {cut(str(version), 40)}, and this is shoal {__version__}; "
                "all peers need the same version"
            )
        kinds = {"name": str, "settings": dict, "net": dict, "agreed": dict, "nonce": str}
        for field, kind in kinds.items():
            if not isinstance(content.get(field), kind):
                raise ValueError(f"experiment: it is damaged: {field} is {shown(content.get(field))}")
        settings, net = Settings.of(**content["settings"]), Net.of(**content["net"])
        return Experiment(check_name(content["name"]), settings, net, content["agreed"], content["nonce"])

    def parts(self, device: str) -> Parts:
        """The parts of the experiment, made here, on a torch device of this machine.

        Raises:
            ValueError: a setting is impossible here, or this machine's parts are not those of the others.
        """
        parts, _ = real_parts(self.settings.model_copy(update={"device": device}), self.name)
        own = agreement(parts)
        for what in sorted({*own, *self.agreed}):
            if own.get(what) != self.agreed.get(what):
                theirs, ours = (cut(str(one.get(what)), 120) for one in (self.agreed, own))
                raise ValueError(
                    f"{what}: the experiment has {theirs}, this machine {ours}; they must be the same on all machines"
                )
        return parts


class FromFile(NamedTuple):
    """What an experiment file says.

    Attributes:
        parts: of the experiment.
        net: of the network.
        left_out: settings that mean something in a simulation only.
        out: folder of run folders, if it names one.
    """

    parts: Parts
    net: Net
    left_out: list[str]
    out: str | None


def read_experiment(path: str | Path, **changes: Any) -> FromFile:
    """An experiment file: the settings of `shoal run`, and a table `[net]`.

    Args:
        path: of the file.
        changes: settings, and `name`, that take precedence over the file's.

    Raises:
        ValueError: the file cannot be read, or something in it is impossible.
    """
    chosen = {**Settings.read(path), **changes}
    table = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("net", {})
    try:
        net = Net.of(**{name.replace("-", "_"): value for name, value in table.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    name, out = chosen.pop("name", None), chosen.pop("out", None)
    parts, left_out = real_parts(Settings.of(**chosen), name)
    return FromFile(parts, net, left_out, out)


def agreement(parts: Parts) -> dict[str, Any]:
    """What must be the same on all machines: JSON values by name."""
    dataset = parts.task.dataset
    targets = hashlib.sha256()
    for data in (dataset.train, dataset.test):
        targets.update(data.targets.cpu().contiguous().numpy().tobytes())
    sample = f"{list(dataset.train.inputs.shape[1:])} {dataset.train.inputs.dtype}".replace("torch.", "")
    edges = json.dumps([parts.topology.edges(r) for r in range(2)] if parts.topology.n <= 512 else [])
    return {
        "parameters": parts.trainer.layout.size,
        "peers": parts.size,
        "data": f"{dataset.name}, {len(dataset.train)} + {len(dataset.test)} samples {sample}, "
        f"targets {targets.hexdigest()[:16]}",
        "topology": f"{parts.topology.name} {hashlib.sha256(edges.encode()).hexdigest()[:16]}",
    }
