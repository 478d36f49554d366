"""Many peers: 1,000 and 10,000 models of 50,095 parameters in one process, gossiping on a ring.

Each world has a process of its own. Memory is the peak over the whole process; what grows is judged by the CPU seconds
that one peer's round takes, the median of the rounds after the first. (In the first two the process gets its memory
from the machine, page by page: 50,000 page faults for 1,000 peers, 500,000 for 10,000, and on a virtual machine each of
the latter took six times as long. The mean over all rounds is in the table.)
"""

from __future__ import annotations

import statistics

from benchmarks.arms import ours
from benchmarks.measure import Measurement, interleave, table
from benchmarks.report import Options, Report, at_most, paired
from benchmarks.rivals.common import Work

PEERS = (1000, 10_000)
MEMORY = 8 * 2**10  # MB
GROWTH = 1.2  # 1 is linear; the machine's caches have their say, too


def run(options: Options) -> Report:
    report = Report("scale")
    few, many = (200, 1000) if options.quick else PEERS
    contest = {f"{n:,} peers": ours("gossip", Work(peers=n, rounds=6, steps=1, batch=8)) for n in (few, many)}
    results = interleave(contest, options.times(2), timeout=1800, tell=lambda arm: options.tell(f"scale: {arm}"))
    small, large = contest
    report.add("scale", results, table(results, small, "mean_cpu", title="scale: gossip, 50,095 parameters"))
    grown = [ratio * few / many for ratio in paired(results, large, small, _round)]
    report.targets += [
        at_most(f"{large}: peak memory", MEMORY, [m.peak_mb for m in results[large] if m.ok], "MB"),
        at_most(f"CPU of a peer's round, {large} over {small}", GROWTH, grown),
    ]
    starts = [(_start(a), _start(b)) for a, b in zip(results[small], results[large], strict=False)]
    ready = [1e3 * (b - a) / (many - few) for a, b in starts if a is not None and b is not None]
    if ready:
        report.notes.append(f"CPU until the first round: {statistics.median(ready):.2f} ms for each further peer")
    return report


def _round(m: Measurement) -> float | None:
    return m.cpu_per_round


def _start(m: Measurement) -> float | None:
    """CPU seconds from launch to the first peer's first step."""
    return next((t.cpu for t in m.ticks if t.tag == "start"), None)
