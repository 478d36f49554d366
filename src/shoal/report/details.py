"""One run's own section of the report: data, topology, bytes, compute, events, settings."""

import json
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from shoal.report import figures
from shoal.report.events import Digest, digest
from shoal.report.figures import Graph
from shoal.report.folder import Channel, Kernel, RunFolder, Shards, Topology, words
from shoal.report.series import Metric, final_values
from shoal.report.table import Row
from shoal.report.units import digits, human_bytes, human_time

_DRAWN_PEERS = 200
_DRAWN_EDGES = 4000


@dataclass(frozen=True)
class Ramp:
    """A colour scale to be shown under a figure: CSS colours from the value `low` to the value `high`."""

    colors: tuple[str, ...]
    low: str
    high: str


@dataclass(frozen=True)
class Picture:
    """A figure: SVG text (empty when there is nothing to draw), a caption, a colour scale if it has one."""

    svg: str
    caption: str
    ramp: Ramp | None = None


@dataclass(frozen=True)
class Detail:
    """What the page shows of one run."""

    row: Row
    time: str
    facts: list[tuple[str, str]]
    error: str | None
    partition: Picture | None
    topology: Picture | None
    channels: list[tuple[str, ...]]
    columns: list[str]
    shares: str
    compute: list[Kernel]
    log: Digest
    config: str


def details(run: RunFolder, row: Row, metric: Metric | None, same_shards_as: str | None = None) -> Detail:
    """Everything about `run`; `same_shards_as` names an earlier run with the same partition, drawn there."""
    facts = run.facts
    return Detail(
        row=row,
        time=words([run]).time,
        facts=_facts(run, row),
        error=facts.error,
        partition=_partition(facts.data, same_shards_as),
        topology=_topology(run, metric),
        channels=_channels(run),
        columns=[column.replace("_", " ") for column in _columns(run)],
        shares=_shares(run.ledger.by_peer) if facts.peer is None else "",
        compute=facts.compute,
        log=digest(run.events()),
        config=json.dumps(facts.config, indent=2, ensure_ascii=False) if facts.config else "",
    )


def _facts(run: RunFolder, row: Row) -> list[tuple[str, str]]:
    facts = run.facts
    wall = facts.wall_seconds
    found = [
        ("protocol", facts.protocol),
        ("status", facts.status),
        ("peers", row.peers),
        ("rounds", row.rounds),
        ("on", facts.on),
        ("peer", "" if facts.peer is None else str(facts.peer)),
        (words([run]).time, row.time),
        ("wall time", human_time(wall) if wall is not None and not facts.on else ""),
        ("seed", "" if facts.seed is None else str(facts.seed)),
        ("data", facts.data.source if facts.data else ""),
    ]
    return [(name, value) for name, value in found if value]


def _partition(data: Shards | None, same_as: str | None) -> Picture | None:
    counts = _counts(data)
    if counts is None:
        return None
    sizes = counts.sum(axis=1)
    held = f"{digits(sizes.min())} to {digits(sizes.max())}" if sizes.min() < sizes.max() else digits(sizes[0])
    classes = (counts > 0).sum(axis=1)
    caption = (
        f"{sizes.sum():,} samples; a peer holds {held}, "
        f"of {np.median(classes):.0f} of {counts.shape[1]} classes (median)."
    )
    if same_as is not None:
        return Picture("", f"{caption} The same partition as in {same_as}.")
    alt = f"samples by peer and class: {caption}"
    # Full colour at the 98th percentile: one peer with half of a class does not pale all others.
    full = max(1, int(np.percentile(counts[counts > 0], 98))) if counts.any() else 1
    ramp = Ramp(("transparent", figures.HEAT), "0", f"{full:,} samples{' or more' if full < counts.max() else ''}")
    return Picture(figures.partition(counts, full, alt), caption, ramp)


def _counts(data: Shards | None) -> NDArray[np.int64] | None:
    """Samples [peers, classes]; rows that end early have none of the classes left."""
    if data is None or not data.shards:
        return None
    counts = np.array(list(zip_longest(*data.shards, fillvalue=0)), dtype=np.int64).T
    return counts if counts.size else None


def _topology(run: RunFolder, metric: Metric | None) -> Picture | None:
    topology = run.facts.topology
    if topology is None or topology.peers < 1:
        return None
    graph = _graph(topology)
    caption = _in_words(graph, topology.spectral_gap)
    if topology.period > 1:
        caption = (
            f"Round 0, with the spectral gap per round; links change, with a period of {topology.period:,}. {caption}"
        )
    degrees = _degrees(graph)
    if graph.peers > _DRAWN_PEERS or len(graph.edges) > _DRAWN_EDGES:
        caption = f"Too large to draw. {caption}"
        if degrees.min() == degrees.max():
            return Picture("", caption)
        kind = "neighbours sent to" if graph.directed else "neighbours"
        svg = figures.histogram(degrees, title="number of peers", x_label=kind, alt=f"histogram of {kind}: {caption}")
        return Picture(svg, caption)
    finals = final_values(run.metrics, metric.name) if metric else {}
    finals = {peer: value for peer, value in finals.items() if np.isfinite(value)}
    if metric is None or not finals:
        return Picture(figures.topology(graph, {}, f"topology: {caption}"), caption)
    low, high = min(finals.values()), max(finals.values())
    colors = {peer: (value - low) / (high - low) if high > low else 0.5 for peer, value in finals.items()}
    ramp = Ramp(figures.SCALE, metric.show(low), f"{metric.show(high)} final {metric.label}")
    if high == low:
        who = "every peer" if run.facts.peer is None else f"peer {run.facts.peer}"
        ramp = Ramp((figures.SCALE[2],) * 2, who, f"{metric.show(high)} final {metric.label}")
    return Picture(figures.topology(graph, colors, f"topology: {caption}"), caption, ramp)


def _graph(topology: Topology) -> Graph:
    """The graph with each link once and no loops; peers named by an edge only are counted in."""
    ends = [(int(edge[0]), int(edge[1])) for edge in topology.edges]
    ends = [(i, j) if topology.directed or i < j else (j, i) for i, j in ends if i != j and min(i, j) >= 0]
    peers = max([topology.peers, *(1 + max(pair) for pair in ends)])
    return Graph(peers, sorted(set(ends)), topology.directed)


def _degrees(graph: Graph) -> NDArray[np.int64]:
    """Neighbours of each peer; in a directed graph those it sends to."""
    ends = np.array(graph.edges, dtype=np.int64).reshape(-1, 2)
    return np.bincount(ends[:, 0] if graph.directed else ends.ravel(), minlength=graph.peers)


def _in_words(graph: Graph, spectral_gap: float | None) -> str:
    degrees = _degrees(graph)
    least, most = int(degrees.min()), int(degrees.max())
    verb = "sends to" if graph.directed else "has"
    noun = "neighbour" if most == 1 else "neighbours"
    if least == most:
        words = f"each {verb} {most} {noun}"
    else:
        words = f"a peer {verb} {least} to {most} {noun}, {degrees.mean():.1f} on average"
    gap = "" if spectral_gap is None else f"; spectral gap {digits(spectral_gap)}"
    kind = "directed links" if graph.directed else "links"
    return f"{graph.peers:,} peers, {len(graph.edges):,} {kind}; {words}{gap}."


def _columns(run: RunFolder) -> tuple[str, ...]:
    """What is told of each channel."""
    alone = run.facts.peer is not None
    return ("sent", "lost", "received") if alone else ("sent", "delivered", "lost", "in_flight", "duplicated")


def _channels(run: RunFolder) -> list[tuple[str, ...]]:
    """Rows (channel, messages, bytes by column), with a sum below several."""
    channels, columns = run.ledger.channels, _columns(run)
    rows = [(name, *_bytes(channel, columns)) for name, channel in sorted(channels.items())]
    if len(rows) > 1:
        names = Channel.__struct_fields__
        total = Channel(**{name: sum(getattr(channel, name) for channel in channels.values()) for name in names})
        rows.append(("all", *_bytes(total, columns)))
    return rows


def _shares(by_peer: list[int]) -> str:
    """How evenly the peers sent, in a sentence; empty when unknown."""
    if len(by_peer) < 2:
        return ""
    least, middle, most = (human_bytes(float(amount)) for amount in np.quantile(by_peer, [0, 0.5, 1]))
    return f"Each peer sent {most}." if least == most else f"A peer sent {least} to {most}, {middle} in the median."


def _bytes(channel: Channel, columns: tuple[str, ...]) -> tuple[str, ...]:
    return (f"{channel.messages:,}", *(human_bytes(getattr(channel, column)) for column in columns))
