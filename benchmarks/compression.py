"""Codecs on one thread: bytes a second, what random rounding costs beside its draws, and stacks beside single calls.

A vector of 10 M parameters in the 148 tensors of a transformer; 100 stacked rows of a network of 50,890. All arms of a
repetition are measured one after the other in one process, in CPU seconds; rates are of the vector's own float32. The
compression of DeMo's code (restated) and torch's PowerSGD hook, in a process group of one, are compared in any case;
hivemind's codecs with an environment `python benchmarks/rivals/setup.py compression`, in which all arms run then.
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
RANDOM = ("qsgd", "int8-stochastic", "ternary", "rqm")
STACKED = (*FAST, "qsgd", "int8-stochastic", "randk")
BOUND = "dct, the transform alone"
SAME = {
    "ef+powersgd": ("torch PowerSGD hook",),
    "dct": ("DeMo's reference",),
    "int8": ("hivemind Uniform8BitQuantization", "hivemind Quantile8BitQuantization"),
    "fp16": ("hivemind Float16Compression",),
}


def run(options: Options) -> Report:
    report = Report("compression")
    found = _measured(options)
    if not any(name.startswith("hivemind") for name in found["arms"]):
        report.notes.append("hivemind is not installed: python benchmarks/rivals/setup.py compression")
    report.data["transformer"] = found
    report.tables.append(_table(found))
    _targets(report, found)
    return report


def _measured(options: Options) -> Any:
    venv = VENVS / "compression"
    whole = (venv / "ready.txt").exists()
    python, rivals = (str(venv / "bin" / "python"), ["hivemind"]) if whole else (sys.executable, [])
    options.tell("compression")
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [python, "-m", "benchmarks.ours.compression", str(options.times(5)), *rivals],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _table(found: Any) -> Table:
    page = Table(title="codecs: 10 M float32, one thread", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("arm")
    headings = (
        "encode GB/s",
        "decode GB/s",
        "encode / draws",
        "100 calls / stack",
        "100 calls / draws",
        "times smaller",
    )
    for heading in headings:
        page.add_column(heading, justify="right")
    for name, arm in found["arms"].items():
        random = name in RANDOM
        page.add_row(
            name,
            *(f"{statistics.median(_rates(arm, what)):.2f}" if what in arm else "" for what in ("encode", "decode")),
            f"{statistics.median(_over(arm, 'encode', 'draws')):.2f}" if random else "",
            f"{statistics.median(_over(arm, 'calls', 'stack')):.2f}" if "stack" in arm else "",
            f"{statistics.median(_over(arm, 'calls', 'stack draws')):.2f}" if random else "",
            f"{arm['ratio']:.2f}" if arm["ratio"] else "",
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
    for name in STACKED:
        ratios = _over(arms[name], "calls", "stack")
        report.targets.append(at_least(f"{name}: 100 calls over a stack of 100 rows", 3.0, ratios))
    for what in ("encode", "decode"):
        ratios = _over(arms[BOUND], what, "products")
        report.targets.append(at_most(f"dct: the transform over its bare products, {what}", 2.0, ratios))
    for mine, others in SAME.items():
        for theirs in others:
            for what in ("encode", "decode"):
                if what in arms[mine] and what in arms.get(theirs, ()):
                    both = zip(arms[mine][what], arms[theirs][what], strict=True)
                    report.targets.append(at_most(f"{mine} over {theirs}: {what}", 1.0, [a / b for a, b in both]))
