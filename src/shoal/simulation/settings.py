"""The settings of one experiment, as given on the command line, in a TOML file or in Python."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shoal import names
from shoal.simulation.computing import check_compute
from shoal.simulation.refusals import refusal
from shoal.text import shown

_WHOLE = ("peers", "batch", "rounds", "seed", "evaluate", "eval_samples", "eval_peers", "workers")


class Settings(BaseModel):
    """What to simulate. Names with arguments are written `name:value,key=value`; `shoal list` shows them all.

    Attributes:
        protocol: what every peer does.
        task: data, loss and metrics.
        model: model for a classification task; default: the task's.
        peers: number of peers, beside a server.
        partition: who holds which samples.
        relays: ids of peers that hold none, and only pass models on: `(0, 3)` or "0,3". The partition is made for the
            others. For protocols that can do with such peers.
        topology: who talks to whom (protocols with a server bring their own star).
        disconnected: True allows a topology in which some peers cannot reach some others.
        weights: mixing weights: "default" (the topology's own), "metropolis-hastings" or "uniform".
        network: links.
        devices: how fast peers compute.
        faults: what goes wrong.
        attack: what Byzantine peers send.
        optimizer: local optimizer, e.g. `sgd:lr=0.1,momentum=0.9`.
        lr: learning rate, instead of the optimizer's.
        codec: how what is sent is encoded, e.g. `ef+topk:0.01`; None or "none": not at all. For protocols that
            pack what they send.
        batch: samples a step; 0 for the whole shard.
        rounds: number of rounds.
        until: stop at this virtual time, in seconds.
        seed: seed of everything.
        init: "common": all peers start from one model; "independent": each from its own.
        evaluate: evaluate every so many rounds; 0 chooses about 20 evaluations.
        eval_samples: test samples used during the run; the final evaluation uses them all.
        eval_peers: peers evaluated; more are represented by a sample of this size, and by the mean model.
        workers: threads that compute; 0 for all cores. Does not change results.
        compute: where peers are computed: `threads`, or `ray:4` for so many workers on a Ray cluster, which pays for
            large models. Does not change results, on machines of one kind.
        device: torch device.
        batched: False computes peers one by one.
        trace: keep every message event, in trace.jsonl.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    protocol: str = "gossip"
    task: str = "fashion-mnist"
    model: str | None = None
    peers: int = Field(32, ge=1, le=1_000_000)
    partition: str = "iid"
    relays: tuple[int, ...] = ()
    topology: str = "exponential"
    disconnected: bool = False
    weights: Literal["default", "metropolis-hastings", "uniform"] = "default"
    network: str = "lan"
    devices: str = "uniform"
    faults: str = "none"
    attack: str = "none"
    optimizer: str = "sgd"
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    codec: str | None = None
    batch: int = Field(32, ge=0)
    rounds: int = Field(50, ge=0)
    until: float | None = Field(None, gt=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**63)
    init: Literal["common", "independent"] = "common"
    evaluate: int = Field(0, ge=0)
    eval_samples: int = Field(2000, ge=1)
    eval_peers: int = Field(64, ge=1)
    workers: int = Field(0, ge=0)
    compute: str = "threads"
    device: str = "cpu"
    batched: bool = True
    trace: bool = False

    @field_validator(*_WHOLE, mode="before")
    @classmethod
    def _not_a_truth_value(cls, value: Any) -> Any:
        """`peers = true` is a slip, not one peer."""
        if isinstance(value, bool):
            raise ValueError("not a number")
        return value

    @field_validator("codec", mode="before")
    @classmethod
    def _none_is_no_codec(cls, value: Any) -> Any:
        """`none`, as on the command line or in TOML, which has no null."""
        return None if isinstance(value, str) and value.strip().lower() == "none" else value

    @field_validator("relays", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Ids from text as the command line gives it, `0,3`; "" is none."""
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _relays_are_some_of_the_peers(self) -> Settings:
        wrong = [i for i in self.relays if not 0 <= i < self.peers]
        if wrong:
            raise ValueError(f"relays: got {wrong[0]}; peers are 0 to {self.peers - 1}")
        if len(set(self.relays)) != len(self.relays):
            raise ValueError(f"relays: got {self.relays}; each peer may be named once")
        if len(self.relays) == self.peers:
            raise ValueError(f"relays: got all {self.peers} peers; somebody has to hold data")
        return self

    @staticmethod
    def of(**values: Any) -> Settings:
        """Settings from keyword arguments.

        Raises:
            ValueError: an unknown setting (the closest is suggested) or a value that is not allowed; one line.
        """
        for name in values:
            if name not in Settings.model_fields:
                raise ValueError(f"{name!r} is not a setting{names.suggestion(name, Settings.model_fields)}")
        try:
            settings = Settings(**values)
        except ValidationError as error:
            raise ValueError(refusal(Settings, error)) from None
        for kind in names.KINDS:
            value = getattr(settings, kind)
            if value is not None:
                names.parse(kind, value)
        check_compute(settings.compute)
        return settings

    @staticmethod
    def read(path: str | Path) -> dict[str, Any]:
        """Keyword arguments from a TOML file, e.g. to be changed before `of`.

        Beside the settings, `name` and `out` may stand there, and a table `[net]`, which means something to `shoal up`
        alone and is left out. A hyphen in a key is an underscore.

        Raises:
            ValueError: the file is missing, not TOML, or has a key that is no setting; the message begins with its
                name.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not TOML: {error}") from None
        known = dict.fromkeys([*Settings.model_fields, "name", "out"])
        values = {name.replace("-", "_"): value for name, value in content.items()}
        if isinstance(values.get("net"), dict):
            del values["net"]
        for name, value in values.items():
            if isinstance(value, dict):
                raise ValueError(f"{path}: [{name}] is a table; settings stand at the top, as in peers = 32")
            if name not in known:
                raise ValueError(f"{path}: {name!r} is not a setting{names.suggestion(name, known)}")
            if (name in names.KINDS or name in ("name", "out")) and not isinstance(value, str):
                raise ValueError(f"{path}: {name}: got {shown(value)}; text in quotes is allowed")
        return values
