"""What goes wrong, when: scripts over virtual time, written by hand or drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeAlias

from shoal.tensors.random import hash01, key
from shoal.text import shown


@dataclass(frozen=True)
class Crash:
    """The peer stops in the middle of whatever it does; what it had not committed is gone."""

    at: float
    peer: int


@dataclass(frozen=True)
class Restart:
    """A crashed peer comes back: from its last committed round, or `empty` as if it had never run."""

    at: float
    peer: int
    empty: bool = False


@dataclass(frozen=True)
class Leave:
    """The peer says goodbye and goes; the others know after one latency."""

    at: float
    peer: int


@dataclass(frozen=True)
class Join:
    """The peer is absent from the start and begins at this time."""

    at: float
    peer: int


@dataclass(frozen=True)
class Partition:
    """From `at` to `until`, messages pass only within each group; peers in no group form one more."""

    at: float
    until: float
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slow:
    """From `at` on, the peer's steps take `factor` times as long (1 restores it)."""

    at: float
    peer: int
    factor: float


Fault: TypeAlias = Crash | Restart | Leave | Join | Partition | Slow
KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Crash, Restart, Leave, Join, Partition, Slow)}


def check_script(faults: Iterable[Fault], peers: int) -> list[Fault]:
    """Return the faults in order of time, checked.

    Raises:
        ValueError: a peer that does not exist, a time that is negative or not finite, a partition that ends before
            it begins or names a peer twice.
    """
    script = sorted(faults, key=lambda fault: fault.at)
    for fault in script:
        if not 0.0 <= fault.at < math.inf:
            raise ValueError(f"faults: {fault} has the time {fault.at}; a finite number of seconds >= 0 is allowed")
        if isinstance(fault, Partition):
            members = [peer for group in fault.groups for peer in group]
            if not fault.until > fault.at:
                raise ValueError(f"faults: a partition from {fault.at} must end later than at {fault.until}")
            if len(set(members)) != len(members):
                raise ValueError(f"faults: a partition names a peer twice: {fault.groups}")
        else:
            members = [fault.peer]
        for peer in members:
            if not 0 <= peer < peers:
                raise ValueError(f"faults: {fault} names peer {peer}; peers are 0 to {peers - 1}")
        if isinstance(fault, Slow) and not 0.0 < fault.factor < math.inf:
            raise ValueError(f"faults: {fault} has the factor {fault.factor}; a finite number above 0 is allowed")
    return script


def from_records(records: Sequence[dict[str, Any]]) -> list[Fault]:
    """Faults from plain records such as `{"fault": "crash", "peer": 3, "at": 1.5}` (a TOML or JSON file).

    Raises:
        ValueError: an unknown kind or setting, or one that is missing.
    """
    result: list[Fault] = []
    for record in records:
        settings = dict(record)
        name = settings.pop("fault", None)
        if name not in KINDS:
            raise ValueError(f"faults: got fault = {name!r}; allowed are {', '.join(KINDS)}")
        _check_settings(name, settings)
        if "groups" in settings:
            settings["groups"] = tuple(map(tuple, settings["groups"]))
        result.append(KINDS[name](**settings))
    return result


def _check_settings(kind: str, settings: dict[str, Any]) -> None:
    """See that a record has what its kind of fault takes.

    Raises:
        ValueError: it has not.
    """
    known = {field.name: field for field in fields(KINDS[kind])}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"faults: {kind}: has no setting {name!r}; allowed are {', '.join(known)}")
        fits, allowed = _SETTINGS[name]
        if not fits(value):
            raise ValueError(f"faults: {kind}: {name}: got {shown(value)}; {allowed} is allowed")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in settings]
    if missing:
        raise ValueError(f"faults: {kind}: {missing[0]} is missing; it takes {', '.join(known)}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _groups(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(g, list | tuple) and all(map(_whole, g)) for g in value)


_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "at": (_number, "a number of seconds"),
    "until": (_number, "a number of seconds"),
    "peer": (_whole, "a whole number"),
    "empty": (lambda value: isinstance(value, bool), "true or false"),
    "factor": (_number, "a number"),
    "groups": (_groups, "a list of lists of peers"),
}


def random_faults(
    peers: int,
    seed: int,
    *,
    horizon: float,
    crashes: float = 0.2,
    downtime: float = 0.1,
    empty: float = 0.2,
    leaves: float = 0.0,
    joins: float = 0.0,
    partitions: int = 0,
    spare: Sequence[int] = (),
) -> list[Fault]:
    """A fault script drawn from a seed.

    Args:
        peers: number of peers.
        seed: same seed, same script.
        horizon: virtual seconds within which faults happen.
        crashes: expected share of peers that crash (each at most once); each restarts after a time uniform in
            (0, 2 * downtime * horizon), a share `empty` of them without its checkpoint.
        downtime: mean time down, as a share of `horizon`.
        leaves, joins: shares of the peers that leave for good, or begin late.
        partitions: number of partitions into two random halves, each lasting up to a quarter of `horizon`.
        spare: peers to which nothing happens (a server, say).
    """
    own = key(seed, "faults")
    faults: list[Fault] = []
    for peer in range(peers):
        if peer in spare:
            continue

        def draw(what: int, peer: int = peer) -> float:
            return hash01(own, peer, what)

        start = 0.0
        if draw(0) < joins:
            start = draw(1) * horizon / 2
            faults.append(Join(start, peer))
        if draw(2) < leaves:
            faults.append(Leave(start + draw(3) * (horizon - start), peer))
        elif draw(4) < crashes:
            at = start + draw(5) * (horizon - start)
            faults.append(Crash(at, peer))
            faults.append(Restart(at + 2.0 * downtime * horizon * draw(6), peer, empty=draw(7) < empty))
    for number in range(partitions):
        at = hash01(own, -1, number) * horizon
        until = at + (0.01 + hash01(own, -2, number)) * horizon / 4
        half = tuple(i for i in range(peers) if hash01(own, -3, number, i) < 0.5)
        faults.append(Partition(at, until, (half,)))
    return check_script(faults, peers)
