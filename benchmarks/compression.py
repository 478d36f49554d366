"""Codecs on one thread: bytes a second, what random rounding costs beside its draws, and stacks beside single calls.

A vector of 10 M parameters in the 148 tensors of a transformer; 100 stacked rows of a network of 50,890. All arms of a
repetition are measured one after the other in one process, in CPU seconds; rates are of the vector's own float32. With
an environment `python benchmarks/rivals/setup.py compression` hivemind's 8-bit quantisations run on the same vector,
and torch's PowerSGD hook is compared in any case, in a process group of one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.arms import ROOT, VENVS
from benchmarks.report import Options, Report, Target, at_least, at_most

RATE = 0.5  # GB/s
FAST = ("int8", "sign")
RANDOM = ("qsgd", "int8-stochastic")


def run(options: Options) -> Report:
    report = Report("compression")
    found = _measured([sys.executable, "-m", "benchmarks.ours.compression"], options)
    venv = VENVS / "compression"
    if (venv / "ready.txt").exists():
        python = str(venv / "bin" / "python")
        rival = _measured([python, str(ROOT / "benchmarks" / "rivals" / "hivemind_codecs.py")], options)
        found["arms"] |= rival["arms"]
    else:
        report.notes.append("hivemind is not installed: python benchmarks/rivals/setup.py compression")
    report.data["transformer"] = found
    report.tables.append(_table(found))
    _targets(report, found)
    return report


def _measured(argv: list[str], options: Options) -> Any:
    options.tell(f"compression: {argv[-1]}")
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*argv, str(options.times(5))], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(found: Any) -> Table:
    page = Table(title="codecs: 10 M float32, one thread", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("arm")
    for heading in ("encode GB/s", "decode GB/s", "encode / draws", "100 calls / stack", "times smaller"):
        page.add_column(heading, justify="right")
    for name, arm in found["arms"].items():
        page.add_row(
            name,
            *(f"{statistics.median(_rates(arm, what)):.2f}" if what in arm else "" for what in ("encode", "decode")),
            f"{statistics.median(_over(arm, 'encode', 'draws')):.2f}" if name in RANDOM else "",
            f"{statistics.median(_over(arm, 'calls', 'stack')):.2f}" if "stack" in arm else "",
            f"{arm['ratio']:.2f}",
        )
    return page


def _rates(arm: Any, what: str) -> list[float]:
    return [arm["bytes"] / seconds / 1e9 for seconds in arm[what]]


def _over(arm: Any, over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(arm[over], arm[under], strict=True)]


def _targets(report: Report, found: Any) -> None:
    arms = found["arms"]
    for name in FAST:
        for what in ("encode", "decode"):
            rates = tuple(_rates(arms[name], what))
            report.targets.append(Target(f"{name}: {what}", RATE, False, rates, "GB/s"))
    for name in RANDOM:
        report.targets.append(at_most(f"{name}: encode over its draws", 2.5, _over(arms[name], "encode", "draws")))
    for name in (*FAST, *RANDOM, "randk"):
        ratios = _over(arms[name], "calls", "stack")
        report.targets.append(at_least(f"{name}: 100 calls over a stack of 100 rows", 3.0, ratios))
    pairs = [("ef+powersgd", "torch PowerSGD hook")]
    pairs += [("int8", name) for name in arms if name.startswith("hivemind") and "8" in name]
    for mine, theirs in pairs:
        for what in ("encode", "decode"):
            if what in arms[mine] and what in arms[theirs]:
                both = zip(arms[mine][what], arms[theirs][what], strict=True)
                report.targets.append(at_most(f"{mine} over {theirs}: {what}", 1.0, [a / b for a, b in both]))
