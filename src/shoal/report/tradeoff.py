"""What a result costs: each run's final metric against what it sent and how long it took, and who is not beaten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.report import figures
from shoal.report.details import Picture
from shoal.report.figures import Pen, Point
from shoal.report.folder import RunFolder, words
from shoal.report.series import Metric, final_stats
from shoal.report.table import Row
from shoal.report.units import byte_unit, human_bytes, human_time, time_unit

_NETWORKS = 4


@dataclass(frozen=True)
class Tradeoff:
    """Pictures of cost against result, and the runs on the front of the bytes: (run, final, sent, time)."""

    pictures: list[Picture]
    front: list[tuple[str, str, str, str]]


def front(costs: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Which points no other one beats: nobody is as cheap and better, or as good and cheaper.

    Args:
        costs: smaller is better.
        values: as `higher_is_better` says.
        higher_is_better: which way.

    Returns:
        Positions in order of rising cost; of equal points the first.

    >>> front([1.0, 2.0, 3.0], [0.5, 0.4, 0.9], True)
    [0, 2]
    """
    sign = 1.0 if higher_is_better else -1.0
    kept: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -sign * values[i], i)):
        if not kept or sign * values[i] > sign * values[kept[-1]]:
            kept.append(i)
    return kept


def tradeoff(
    runs: Sequence[RunFolder], rows: Sequence[Row], pens: Sequence[Pen], metric: Metric | None
) -> Tradeoff | None:
    """The section of a report; None where fewer than two finished runs sent anything or took any time."""
    if metric is None:
        return None
    finals = [final_stats(run, metric).mean for run in runs]
    shown = [
        i
        for i, (row, value) in enumerate(zip(rows, finals, strict=True))
        if row.whole and value is not None and np.isfinite(value)
    ]
    values = [float(finals[i] or 0.0) for i in shown]
    sent = [float(runs[i].ledger.total or 0) for i in shown]
    took = [float(runs[i].facts.virtual_seconds or 0.0) for i in shown]
    if len(shown) < 2 or max(sent) == 0.0:
        return None
    unit, said = byte_unit(max(sent)), words(runs)
    pictures = [_picture(shown, sent, values, pens, metric, f"{said.sent} ({unit.name})", unit.size, rows)]
    networks = [str(runs[i].facts.config.get("network", "")) for i in shown]
    groups = list(dict.fromkeys(networks))
    if len(groups) > _NETWORKS:
        groups = []
    for network in groups or [""]:  # times on different links are not to be compared
        some = [k for k in range(len(shown)) if not groups or networks[k] == network]
        if not some or max(took[k] for k in some) == 0.0:
            continue
        longest = time_unit(max(took[k] for k in some))
        label = f"{said.time} ({longest.name})" + (f", network {network}" if len(groups) > 1 else "")
        pictures.append(
            _picture(
                [shown[k] for k in some],
                [took[k] for k in some],
                [values[k] for k in some],
                pens,
                metric,
                label,
                longest.size,
                rows,
            )
        )
    best = [shown[k] for k in front(sent, values, metric.higher_is_better)]
    lines = [
        (rows[i].run, rows[i].final, human_bytes(runs[i].ledger.total), human_time(runs[i].facts.virtual_seconds))
        for i in best
    ]
    return Tradeoff(pictures, lines)


def _picture(
    runs: Sequence[int],
    costs: Sequence[float],
    values: Sequence[float],
    pens: Sequence[Pen],
    metric: Metric,
    label: str,
    size: float,
    rows: Sequence[Row],
) -> Picture:
    best = front(costs, values, metric.higher_is_better)
    points = [
        Point(pens[i], cost / size, value * metric.scale, k in best)
        for k, (i, cost, value) in enumerate(zip(runs, costs, values, strict=True))
    ]
    names = ", ".join(rows[runs[k]].run for k in best)
    options: dict[str, Any] = {
        "title": f"final {metric.label}" + (f" ({metric.unit.strip()})" if metric.unit else ""),
        "x_label": label,
        "alt": f"final {metric.label} against {label}; not beaten: {names}",
    }
    return Picture(figures.tradeoff(points, **options), "")
