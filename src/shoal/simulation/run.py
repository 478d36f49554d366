"""A run: one experiment on disk."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.engine.simulated import Metric
from shoal.files import atomically, write_tensors
from shoal.names import suggestion
from shoal.text import shown

FORMAT = 1
COLUMNS = ("time", "round", "bytes", "peer", "metric", "value")


@dataclass(eq=False)
class Run:
    """A finished or interrupted experiment.

    Attributes:
        folder: where it is stored, or None if it was not asked to be.
        info: settings, status, summary and counts: the content of run.json.
        metrics: rows (time, round, bytes, peer, metric, value).
        models: peer id -> final vector [d].
        events: the log.
        trace: message events, if they were asked for.
    """

    folder: Path | None
    info: dict[str, Any]
    metrics: list[Metric] = field(default_factory=list, repr=False)
    models: dict[int, Tensor] = field(default_factory=dict, repr=False)
    events: list[dict[str, Any]] = field(default_factory=list, repr=False)
    trace: list[dict[str, Any]] | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """ "finished", "interrupted", "failed" or "running"."""
        return str(self.info["status"])

    def final(self, metric: str = "accuracy") -> float:
        """Mean over peers of a metric at the end, over all test samples.

        Raises:
            ValueError: the run has no such metric.
        """
        summary = self.info["summary"]
        if metric not in summary:
            raise ValueError(f"metric: {metric!r} was not measured at the end{suggestion(metric, summary)}")
        return float(summary[metric]["mean"])

    def curve(self, metric: str = "accuracy", against: str = "round", peer: int | None = None) -> NDArray[np.float64]:
        """A metric over the run: array [k, 2] of (abscissa, mean over peers).

        Args:
            metric: name.
            against: "round", "time" (virtual seconds) or "bytes"; rows of a round are averaged in any case.
            peer: one peer's curve instead of the mean over peers; -1 is the mean model.

        Raises:
            ValueError: a metric, an abscissa or a peer's curve that the run does not have.
        """
        columns = {"time": 0, "round": 1, "bytes": 2}
        if against not in columns:
            raise ValueError(f"against: got {against!r}; allowed are {', '.join(columns)}")
        column = columns[against]
        known = dict.fromkeys(row[4] for row in self.metrics)
        if known and metric not in known:
            raise ValueError(f"metric: {metric!r} was not measured{suggestion(metric, known)}")
        measured = {row[3] for row in self.metrics if row[4] == metric}
        if measured and peer is not None and peer not in measured:
            raise ValueError(f"peer: got {peer!r}; the {metric} of {_ids(measured)} was measured")
        groups: dict[int, list[Metric]] = {}
        for row in self.metrics:
            if row[4] == metric and (row[3] == peer if peer is not None else row[3] >= 0):
                groups.setdefault(row[1], []).append(row)
        points = [
            (np.mean([row[column] for row in rows]), np.mean([row[5] for row in rows]))
            for _, rows in sorted(groups.items())
        ]
        return np.array(points, dtype=np.float64).reshape(-1, 2)

    def save(self) -> None:
        """Write the folder; every file appears whole or not at all."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomically(self.folder / "metrics.csv") as path:
            path.write_text(self.metrics_csv(), encoding="utf-8")
        if self.models:
            vectors = {f"peer/{id}/model": vector.detach().cpu() for id, vector in self.models.items()}
            write_tensors(
                self.folder / "model.safetensors", {name: v.contiguous().clone() for name, v in vectors.items()}
            )
        self._save_log(self.folder / "log.jsonl")
        if self.trace is not None:
            with atomically(self.folder / "trace.jsonl") as path:
                _write_lines(path, self.trace)
        with atomically(self.folder / "run.json") as path:
            path.write_text(json.dumps(plain(self.info), indent=1, allow_nan=False), encoding="utf-8")

    def _save_log(self, target: Path) -> None:
        with atomically(target) as path:
            _write_lines(path, self.events)

    def metrics_csv(self) -> str:
        """The metrics as metrics.csv has them."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for time, r, sent, peer, name, value in self.metrics:
            writer.writerow((repr(time), r, sent, peer, name, repr(value)))
        return stream.getvalue()


def _ids(peers: set[int]) -> str:
    """Peers in a few words."""
    some = [str(peer) for peer in sorted(peers)[:12]]
    return f"{', '.join(some)}{', ...' if len(peers) > len(some) else ''}"


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(plain(row), allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A value of dictionaries, lists and scalars with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_name(name: str) -> str:
    """The name of a run, if it can be a folder's.

    Raises:
        ValueError: it is empty, too long, or has a slash or a control character in it.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable() or set(name) & {"/", "\\"}:
        raise ValueError(f"name: got {shown(name, 120)}; 1 to 100 printable characters without / and \\ are allowed")
    return name


def new_folder(parent: str | Path, name: str) -> Path:
    """A folder `parent/name-001` or the next number that is free; made, so that two runs never share one."""
    base = Path(parent)
    try:
        base.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100_000):
            candidate = base / f"{name}-{number:03d}"
            try:
                candidate.mkdir()
            except FileExistsError:
                continue
            return candidate
    except OSError as error:
        raise ValueError(f"out: cannot write to {base}: {error.strerror}") from None
    raise ValueError(f"out: {base} has no free number for {name}")


def summarise(values: dict[int, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Metric -> mean, std, min and max over peers."""
    if not values:
        return {}
    result = {}
    for name in next(iter(values.values())):
        column = torch.tensor([scores[name] for scores in values.values()], dtype=torch.float64)
        result[name] = {
            "mean": float(column.mean()),
            "std": float(column.std(correction=0)),
            "min": float(column.min()),
            "max": float(column.max()),
        }
    return result
