"""What the open network's transport costs: frames between two processes on loopback, beside bare iroh.

Bare iroh has the same endpoint settings, and bytes are copied into it as the transport does. All arms take turns within
one pair of processes, and each turn's transfers are compared with each other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.arms import ROOT
from benchmarks.report import Options, Report, at_least

WANTED = 0.7
TURNS = 4  # transfers a repetition


def run(options: Options) -> Report:
    report = Report("transport")
    if importlib.util.find_spec("iroh") is None:
        report.notes.append("iroh is not installed: pip install 'shoal[net]'")
        found: Any = {"transfers": {}}
    else:
        found = _measured(options)
        report.data["loopback"] = found
        report.tables.append(_table(found))
    ours = found["transfers"].get("transport", [])
    for arm, seconds in found["transfers"].items() if ours else [("one stream", []), ("eight streams", [])]:
        if arm != "transport":
            ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
            report.targets.append(at_least(f"40 MB: MB/s of the transport over bare iroh's, {arm}", WANTED, ratios))
    return report


def _measured(options: Options) -> Any:
    turns = TURNS * options.times(5)
    options.tell(f"transport: {turns} turns")
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "benchmarks.ours.transport", str(turns)]
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(found: Any) -> Table:
    page = Table(title="transport: two processes on loopback", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("arm")
    for heading in ("40 MB: best MB/s", "median", "worst", "1 KB there and back: median ms", "best"):
        page.add_column(heading, justify="right")
    for arm, seconds in found["transfers"].items():
        rates = sorted(found["size"] / s / 1e6 for s in seconds)
        pings = [1000 * s for s in found["pings"].get(arm, ())]
        cells = [f"{x:.0f}" for x in (rates[-1], statistics.median(rates), rates[0])]
        cells += [f"{statistics.median(pings):.3f}", f"{min(pings):.3f}"] if pings else ["-", "-"]
        page.add_row(arm, *cells)
    return page
