"""A run folder read back: `run.json` (what was run), `metrics.csv` (measurements), `log.jsonl` (events)."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

FORMAT = 1
AVERAGE = -1
"""The peer id under which `metrics.csv` keeps measurements of the average model of all peers."""

COLUMNS = ("time", "round", "bytes", "peer", "metric", "value")


class NotARun(ValueError):
    """A path that is no run folder, or whose files cannot be understood; the message says which and why."""


class Channel(msgspec.Struct, frozen=True):
    """Bytes of one channel; `messages` is a count. A peer on a real machine cannot tell what arrived elsewhere."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    in_flight: int = 0
    duplicated: int = 0
    received: int = 0
    messages: int = 0


class Ledger(msgspec.Struct, frozen=True):
    """Bytes sent: in total (None when the run did not write it), by channel, and by peer if known."""

    total: int | None = None
    by_peer: list[int] = []
    channels: dict[str, Channel] = {}


class Kernel(msgspec.Struct, frozen=True):
    """How one kind of computation was run: its path ("batched", "one by one") and the reason."""

    kernel: str
    path: str = ""
    why: str = ""


class Shards(msgspec.Struct, frozen=True):
    """Where the data came from, and per peer the number of samples of each class."""

    source: str = ""
    shards: list[list[int]] | None = None


class Topology(msgspec.Struct, frozen=True):
    """Who talked to whom: edges [from, to] or [from, to, weight] between peers 0 .. peers - 1.

    Where that changes from round to round, the edges are those of the first one, the spectral gap is per round over a
    period, and `period` is how many rounds that is.
    """

    peers: int
    edges: list[Annotated[list[float], msgspec.Meta(min_length=2, max_length=3)]]
    directed: bool = False
    spectral_gap: float | None = None
    period: int = 1


class Stats(msgspec.Struct, frozen=True):
    """A metric's final values over peers."""

    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


class Facts(msgspec.Struct, frozen=True):
    """`run.json` with types. Times are in seconds; what the run did not write is None or empty.

    Of a run on real machines, `on` is what carried the messages, and `virtual_seconds` went by on the wall clock. Where
    each peer has a folder of its own, `peer` is which one: measurements and bytes are that peer's alone.
    """

    format: int
    protocol: str
    peers: int
    name: str = ""
    status: str = "finished"
    error: str | None = None
    shoal: str = ""
    seed: int | None = None
    rounds: int | None = None
    on: str = ""
    peer: int | None = None
    virtual_seconds: float | None = None
    wall_seconds: float | None = None
    config: dict[str, Any] = {}
    compute: list[Kernel] = []
    data: Shards | None = None
    topology: Topology | None = None
    bytes: Ledger | None = None
    summary: dict[str, Stats] | None = None


class Words(NamedTuple):
    """How a report calls the time that passed and the bytes that were sent."""

    time: str
    sent: str


def words(runs: Iterable["RunFolder"]) -> Words:
    """The words that are true of all `runs`: in a simulation time is virtual, and a real peer counts its own bytes."""
    facts = [run.facts for run in runs]
    alone = {each.peer is not None for each in facts}
    sent = {frozenset({False}): "sent by all peers", frozenset({True}): "sent by the peer"}
    return Words(
        time="time" if any(each.on for each in facts) else "virtual time",
        sent=sent.get(frozenset(alone), "sent"),
    )


def tasks(runs: Iterable["RunFolder"]) -> list[str]:
    """The tasks that the runs say to be of, each once. Scores on different ones are not to be compared."""
    named = (run.facts.config.get("task") for run in runs)
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))


@dataclass(frozen=True)
class Metrics:
    """`metrics.csv` as columns of equal length, in file order.

    `time` is in seconds, virtual ones in a simulation; `bytes` counts what had been sent by then, by all peers or by
    the one that the run is of; `peer` is -1 for the average model of all peers.
    """

    time: NDArray[np.float64]
    round: NDArray[np.int64]
    bytes: NDArray[np.int64]
    peer: NDArray[np.int64]
    metric: NDArray[np.str_]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.value)

    def where(self, mask: NDArray[np.bool_]) -> "Metrics":
        """The rows where `mask` is true."""
        return Metrics(*(getattr(self, column)[mask] for column in COLUMNS))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The metrics measured, in order of first appearance."""
        return tuple(dict.fromkeys(self.metric.tolist()))

    def of(self, name: str) -> "Metrics":
        """The rows of one metric."""
        return self.where(self.metric == name)

    @cached_property
    def peers(self) -> "Metrics":
        """The rows measured at peers."""
        return self.where(self.peer != AVERAGE)

    @cached_property
    def average(self) -> "Metrics":
        """The rows measured at the average model."""
        return self.where(self.peer == AVERAGE)


class RunFolder:
    """One run on disk. `run.json` is read and checked at once, the larger files when first asked for.

    Raises NotARun when the folder or its `run.json` is missing, is no JSON object, has a format this version
    does not know, or has a field of the wrong type.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info: dict[str, Any] = _read_info(self.path)
        try:
            self.facts = msgspec.convert(self.info, Facts)
        except msgspec.ValidationError as error:
            raise NotARun(f"{self.path / 'run.json'}: {error}") from error

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The run's own name, else its folder's."""
        return self.facts.name or self.path.resolve().name

    @property
    def ledger(self) -> Ledger:
        """Bytes sent, in total and by channel."""
        return self.facts.bytes or Ledger()

    @cached_property
    def metrics(self) -> Metrics:
        """`metrics.csv`; no rows when the run was cut before it measured anything."""
        return read_metrics(self.path / "metrics.csv")

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of `log.jsonl`, and of an older part of it, without those that are no JSON object (a torn line)."""
        for path in (self.path / "log.1.jsonl", self.path / "log.jsonl"):
            if not path.is_file():
                continue
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        event = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(event, dict):
                        yield event


def _read_info(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise NotARun(f"{folder} does not exist")
    path = folder / "run.json"
    if not path.is_file():
        raise NotARun(f"{folder} is not a run folder: it has no run.json")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotARun(f"{path} is not JSON: {error}") from error
    if not isinstance(info, dict) or "format" not in info:
        raise NotARun(f"{path} was not written by a run: it has no format number")
    if info["format"] != FORMAT or isinstance(info["format"], bool):
        raise NotARun(f"{path} has format {info['format']!r}; this version of shoal reads format {FORMAT}")
    return info


def read_metrics(path: Path) -> Metrics:
    """Read a metrics table; a missing file reads as no rows, further columns are ignored.

    A last line without its line end is the torn write of an interrupted run and is dropped. Raises NotARun,
    with the line, for a missing column or a number that is none.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    header = next(reader, list(COLUMNS))
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise NotARun(f"{path} has no column {', '.join(missing)}; a metrics table has {', '.join(COLUMNS)}")
    places = [header.index(column) for column in COLUMNS]
    rows = []
    try:
        for row in reader:
            time, round_, bytes_, peer, metric, value = (row[place] for place in places)
            rows.append((float(time), int(round_), int(bytes_), int(peer), metric, float(value)))
    except (ValueError, IndexError, csv.Error) as error:
        raise NotARun(f"{path}, line {reader.line_num}: {error}") from error
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    kinds = (np.float64, np.int64, np.int64, np.int64, np.str_, np.float64)
    return Metrics(*(np.asarray(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def discover(paths: Iterable[str | Path], broken: Callable[[NotARun], None] | None = None) -> list[RunFolder]:
    """The runs at `paths`, each once: a run folder is itself, any other folder stands for all runs below it.

    Runs below one folder come in natural order (`run-2` before `run-10`).

    Args:
        paths: folders of runs.
        broken: called for each run below a folder that cannot be read, which is left out; without it, the first one
            is raised.

    Raises:
        NotARun: a path does not exist, holds no run that can be read, or is itself one that cannot.
    """
    found: dict[Path, RunFolder] = {}
    for path in map(Path, paths):
        folder = path.parent if path.name == "run.json" else path
        if (folder / "run.json").is_file():
            found.setdefault(folder.resolve(), RunFolder(folder))
            continue
        readable, last = 0, None
        for each in _runs_below(folder):
            try:
                found.setdefault(each.resolve(), RunFolder(each))
                readable += 1
            except NotARun as error:
                if broken is None:
                    raise
                broken(error)
                last = error
        if last is not None and not readable:
            raise last
    return list(found.values())


def _runs_below(folder: Path) -> list[Path]:
    if not folder.exists():
        raise NotARun(f"{folder} does not exist")
    runs = [path.parent for path in folder.rglob("run.json")]
    if not runs:
        raise NotARun(f"{folder} is not a run folder and holds none: no run.json in it or below it")
    return sorted(runs, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def labels(runs: Sequence[RunFolder]) -> list[str]:
    """A distinct label for each run: its name, with its folder where names repeat."""
    names = Counter(run.name for run in runs)
    seen: Counter[str] = Counter()
    result = []
    for run in runs:
        label = run.name if names[run.name] == 1 else f"{run.name} ({run.path.resolve().name})"
        seen[label] += 1
        result.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return result
