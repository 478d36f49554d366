"""One line per run: the rows of the comparison, and the same as a table for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.report.folder import RunFolder, labels, words
from shoal.report.series import Metric, final_stats, final_values, main_metric
from shoal.report.units import MISSING, human_bytes, human_time

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A run's line in the comparison, as text."""

    run: str
    protocol: str
    peers: str
    rounds: str
    final: str
    extremes: str
    time: str
    bytes_total: str
    bytes_per_peer: str
    status: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts in the order of `headings`."""
        return tuple(vars(self).values())

    @property
    def whole(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "finished"


def headings(metric: Metric | None, time: str = "virtual time") -> tuple[str, ...]:
    """The column titles of the comparison by `metric`; `time` as of `words`."""
    final = f"final {metric.label}" if metric else "final metric"
    return (
        "run", "protocol", "peers", "rounds", final, "min .. max",
        time, "sent", "sent per peer", "status",
    )  # fmt: skip


def compare(runs: Sequence[RunFolder], metric: Metric | None = None) -> list[Row]:
    """The comparison's rows, one per run in the order given.

    `metric` is by default the one that `main_metric` chooses for all runs together. "final" is mean ±
    standard deviation over peers, "extremes" the lowest to the highest peer; neither is known where one of several
    peers was evaluated. A dash stands for what a run did not measure.
    """
    metric = metric or main_metric(runs)
    return [_row(run, label, metric) for run, label in zip(runs, labels(runs), strict=True)]


def _row(run: RunFolder, label: str, metric: Metric | None) -> Row:
    facts, sent = run.facts, run.ledger.total
    senders = max(1, facts.peers) if facts.peer is None else 1
    final = extremes = MISSING
    if metric is not None:
        stats = final_stats(run, metric)
        several = facts.peers > 1 and facts.peer is None and len(final_values(run.metrics, metric.name)) != 1
        final = metric.mean_and_spread(stats.mean, stats.std if several else None)
        if stats.min is not None and stats.max is not None and (several or facts.peers == 1) and facts.peer is None:
            extremes = f"{metric.number(stats.min)} .. {metric.number(stats.max)}{metric.unit}"
    return Row(
        run="".join(letter if letter.isprintable() else "\ufffd" for letter in label),
        protocol=facts.protocol,
        peers=f"{facts.peers:,}",
        rounds=MISSING if facts.rounds is None else f"{facts.rounds:,}",
        final=final,
        extremes=extremes,
        time=human_time(facts.virtual_seconds),
        bytes_total=human_bytes(sent),
        bytes_per_peer=human_bytes(None if sent is None else sent / senders),
        status=facts.status,
    )


LEAST_NEEDED = (8, 1, 5, 2, 3)
"""Columns that a narrow terminal goes without: sent per peer first, then protocol, extremes, peers, rounds."""


def summary_table(runs: Sequence[RunFolder], width: int | None = None) -> "Table":
    """The comparison of `runs` as a table to print with rich; a run that did not finish is coloured.

    width: characters a line. Where the columns do not fit, headings take two lines, and then the least needed
        columns are left out. Default: all columns, whatever the terminal makes of them.
    """
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    titles, rows = list(headings(main_metric(runs), words(runs).time)), compare(runs)
    columns = list(range(len(titles)))
    widest = [max((len(row.cells[c]) for row in rows), default=0) for c in columns]

    def needed() -> int:
        return sum(max(widest[c], *map(len, titles[c].split("\n"))) for c in columns) + 2 * (len(columns) - 1)

    if width is not None and needed() > width:
        titles = [title if len(title) <= widest[c] else _in_two_lines(title) for c, title in enumerate(titles)]
        for column in LEAST_NEEDED:
            if needed() > width:
                columns.remove(column)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for c in columns:
        table.add_column(
            escape(titles[c]), justify="left" if c in (0, 1, 9) else "right", overflow="fold", vertical="bottom"
        )
    for row in rows:
        style = "" if row.whole else "yellow"
        table.add_row(*(Text(row.cells[c], style=style) for c in columns))
    return table


def _in_two_lines(title: str) -> str:
    """Broken at the blank that leaves the shortest longer line."""
    words = title.split(" ")
    ways = [(" ".join(words[:k]), " ".join(words[k:])) for k in range(1, len(words))]
    return "\n".join(min(ways, key=lambda way: max(map(len, way)))) if ways else title
