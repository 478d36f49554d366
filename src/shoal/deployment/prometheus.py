"""A board as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shoal.deployment.board import Board
from shoal.deployment.status import State

CONTENT_TYPE = CONTENT_TYPE_LATEST
STATES = (*get_args(State), "gone")


def exposition(board: Board) -> bytes:
    """The board in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(board))
    return generate_latest(registry)


class _Collector:
    """What is `shoal_peer_…` is there once for each peer that was seen; the rest is this peer's own."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        board = self._board
        shown = board.snapshot()
        rows = shown["rows"]
        own = next(row for row in rows if row["peer"] == board.me)
        info = {"run": board.name, "peer": str(board.me), "version": own["version"] or ""}
        yield InfoMetricFamily("shoal", "The run, and the peer that tells.", value=info)
        yield _gauge("peers", "Peers of the run, present or not.", board.peers)
        yield _gauge("peers_connected", "Peers that are connected now, this one among them.", board.connected)
        yield _gauge("rounds", "Rounds that a peer goes through.", board.rounds)
        yield _gauge("round", "First round that this peer has not finished.", own["round"])
        yield _gauge("lives", "How often this peer has been started.", own["lives"])
        yield _counter("bytes_sent", "Bytes of messages sent since the start.", own["sent"])
        yield _counter("bytes_received", "Bytes of messages received since the start.", own["received"])
        yield _counter("frames_refused", "Malformed frames refused since the start.", own["refused"])
        yield _counter("statuses_refused", "Malformed statuses of other peers refused.", board.malformed)
        states = GaugeMetricFamily("shoal_state", "1 for the state that this peer is in.", labels=["state"])
        for state in STATES:
            states.add_metric([state], float(own["state"] == state))
        yield states
        scores = GaugeMetricFamily("shoal_score", "Last evaluated metrics of this peer.", labels=["metric"])
        for name, value in own["scores"].items():
            scores.add_metric([name], value)
        yield scores
        events = CounterMetricFamily("shoal_events", "Entries of the log by kind.", labels=["event"])
        for name, count in sorted(board.kinds.items()):
            events.add_metric([name], count)
        yield events
        others: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
            "up": ("1 if the peer is connected.", lambda row: float(row["gone"] is None)),
            "round": ("First round that the peer has not finished, as it tells.", lambda row: row["round"]),
            "sent_bytes": ("Bytes that the peer sent since its start, as it tells.", lambda row: row["sent"]),
            "status_age_seconds": (
                "Seconds since the peer told its status.",
                lambda row: None if row["heard"] is None else shown["now"] - row["heard"],
            ),
        }
        for name, (help, value) in others.items():
            family = GaugeMetricFamily(f"shoal_peer_{name}", help, labels=["peer"])
            for row in rows:
                if (told := value(row)) is not None:
                    family.add_metric([str(row["peer"])], told)
            yield family


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"shoal_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"shoal_{name}", help, value=value)
