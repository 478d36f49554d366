"""What a peer keeps between its lives, apart from its results: key, roster, experiment, checkpoint.

    OUT/NAME-1a2b3c/peer-2/         its run folder: run.json, metrics.csv, log.jsonl, report.html, ...
    OUT/.peers/1a2b3c4d5e6f-0/      its home, for its owner alone

A home belongs to one process at a time. Several peers of one experiment may start in one place, by the same command:
each takes the first home that belongs to nobody alive, or makes a new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from shoal.deployment.experiment import Experiment, OtherVersion
from shoal.files import write_durably

HOMES = ".peers"
WHO, KEY, ROSTER, EXPERIMENT = "who.json", "key", "roster.json", "experiment.json"
FORMAT = 1
MOST = 10_000  # homes of one experiment in one place


class Who(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who lives in a home.

    Attributes:
        format: of this record.
        id: of the peer; None until it is let in.
        host: whether it opened the network.
        port: where it listened last.
        finished: whether it has come to its end.
        key: where its secret key is; None: in the home.
        folder: its run folder.
    """

    format: int = FORMAT
    id: Annotated[int, msgspec.Meta(ge=0)] | None = None
    host: bool = False
    port: Annotated[int, msgspec.Meta(ge=1, lt=1 << 16)] | None = None
    finished: bool = False
    key: str | None = None
    folder: str | None = None


class Taken(ValueError):
    """A home has an owner that is alive."""


class Home:
    """A peer's home, owned by this process until it ends.

    Args:
        folder: made if it is not there.

    Attributes:
        who: who lives there; change it by `remember`.

    Raises:
        Taken: it has an owner.
        ValueError: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(folder / "lock")
        try:
            self.who = who_in(folder)
        except BaseException:
            self.release()
            raise

    @property
    def key(self) -> Path:
        """Where the secret key is."""
        return self.folder / KEY if self.who.key is None else Path(self.who.key)

    @property
    def roster(self) -> Path:
        """Where the roster is."""
        return self.folder / ROSTER

    @property
    def number(self) -> int:
        """Which of the homes of its experiment."""
        return int(self.folder.name.rpartition("-")[2])

    def remember(self, **changes: object) -> None:
        """Change `who`, durably."""
        self.who = msgspec.structs.replace(self.who, **changes)
        write_durably(self.folder / WHO, msgspec.json.encode(self.who))

    @property
    def experiment(self) -> Experiment | None:
        """See `experiment_in`."""
        return experiment_in(self.folder)

    @experiment.setter
    def experiment(self, experiment: Experiment) -> None:
        write_durably(self.folder / EXPERIMENT, experiment.encode())

    def release(self) -> None:
        """Give the home up; the next process may have it."""
        os.close(self._lock)


def who_in(folder: Path) -> Who:
    """Who lives in a home; nobody yet if nothing is there.

    Raises:
        ValueError: the record is damaged.
    """
    path = folder / WHO
    try:
        who = msgspec.json.decode(path.read_bytes(), type=Who)
    except FileNotFoundError:
        return Who()
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: is damaged ({error}); remove {folder} to begin anew") from None
    if who.format != FORMAT:
        raise ValueError(f"{path}: is of format {who.format}; this version reads {FORMAT}")
    return who


def experiment_in(folder: Path) -> Experiment | None:
    """The experiment of a home, or None if it is not known yet.

    Raises:
        ValueError: it is damaged, or of another version of Shoal.
    """
    path = folder / EXPERIMENT
    try:
        return Experiment.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OtherVersion as error:
        raise OtherVersion(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove {folder} to begin anew") from None


def homes(out: Path, digest: bytes | None = None) -> Iterator[Path]:
    """The homes in a place, of one experiment or of all; those of one in the order in which they were made."""
    stem = "*" if digest is None else _stem(digest)
    found = [path for path in (out / HOMES).glob(f"{stem}-*") if path.name.rpartition("-")[2].isdecimal()]
    yield from sorted(found, key=lambda path: (path.name.rpartition("-")[0], int(path.name.rpartition("-")[2])))


def old_home(out: Path, digest: bytes, wanted: Callable[[Home], bool]) -> Home | None:
    """The first home in a place that is wanted and has no owner; it has one now.

    Raises:
        ValueError: a home that might be wanted is damaged.
    """
    for path in homes(out, digest):
        try:
            home = Home(path)
        except Taken:
            continue
        if wanted(home):
            return home
        home.release()
    return None


def new_home(out: Path, digest: bytes) -> Home:
    """A home for a new peer of an experiment.

    Raises:
        ValueError: there are too many, or the place cannot be written to.
    """
    try:
        for number in range(MOST):
            path = out / HOMES / f"{_stem(digest)}-{number}"
            if path.exists():
                continue
            try:
                home = Home(path)
            except Taken:  # somebody else has just made it
                continue
            if home.who == Who() and home.experiment is None:
                return home
            home.release()
    except OSError as error:
        raise ValueError(f"out: cannot write to {out}: {error.strerror}") from None
    raise ValueError(f"out: {out} has {MOST} peers of this experiment")


def run_folder(out: Path, name: str, digest: bytes, id: int) -> Path:
    """Where a peer's results go."""
    return out / f"{name}-{digest.hex()[:6]}" / f"peer-{id}"


def _stem(digest: bytes) -> str:
    return digest.hex()[:12]


def _lock(path: Path) -> int:
    """An open file that nobody else can lock while this process lives, however that ends.

    Raises:
        Taken: somebody else has it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.name == "nt":  # pragma: no cover
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise Taken(f"{path.parent}: belongs to a peer that is running") from None
    return file
