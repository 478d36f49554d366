"""A Ray cluster on this machine: frames beside plain calls of Ray, and what it costs to compute a job elsewhere.

A frame of 40 MB goes from one actor to another and is answered, by Shoal's hub and by a plain call, in turns. For jobs,
vectors go to two workers and come back, eight at a time, and nothing is computed; beside that stands the time of a step
of SGD on 32 images with a network of that size, one thread. The best of all repetitions counts: memory that is touched
for the first time, and whatever else runs on the machine, only ever add to it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.arms import ROOT
from benchmarks.report import Options, Report, at_least

SHARE = 0.7  # of a plain call's throughput
BUSY = 10  # times that a job should compute as long as it travels


def run(options: Options) -> Report:
    report = Report("cluster")
    options.tell("cluster: frames, jobs")
    found = report.data["cluster"] = _measured(options.times(5))
    hub, plain = (found["frames"][name] for name in ("by the hub", "plain call"))
    report.tables += [_frames({"by the hub": hub, "plain call": plain}), _jobs(found)]
    share = min(plain) / min(hub)
    report.targets.append(at_least("40 MB from actor to actor: throughput, of a plain call's", SHARE, [share]))
    return report


def _measured(times: int) -> Any:
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # the paths of Ray's sockets must be short
        own = {"HOME": folder, "RAY_TMPDIR": folder, "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(4 << 30)}
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **own}
        argv = [sys.executable, "-m", "benchmarks.ours.cluster", str(times)]
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _frames(found: dict[str, list[float]]) -> Table:
    page = Table(title="40 MB from actor to actor and the answer", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("arm")
    for heading in ("MB/s best", "median"):
        page.add_column(heading, justify="right")
    for name, seconds in found.items():
        page.add_row(name, *(f"{40.0 / value:,.0f}" for value in (min(seconds), statistics.median(seconds))))
    return page


def _jobs(found: Any) -> Table:
    page = Table(title="jobs on Ray workers: best", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("parameters", justify="right")
    for heading in ("there and back, ms a job", "a step, ms", f"steps to compute {BUSY} x as long"):
        page.add_column(heading, justify="right")
    for size in found["way"]:
        way, step = (1e3 * min(found[name][size]) for name in ("way", "step"))
        page.add_row(f"{int(size):,}", f"{way:.2f}", f"{step:.2f}", f"{max(1, round(BUSY * way / step)):,}")
    return page
