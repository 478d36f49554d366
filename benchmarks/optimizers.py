"""Steps of Shoal's optimizers beside torch's fused AdamW, pytorch-optimizer and HeavyBall: CPU time on one thread.

Two lists: like a transformer (148 tensors, 10 M parameters), which is bound by memory, and a small network (6 tensors,
100,000 parameters), which is bound by the number of operations. Each arm is measured between two measurements of the
fused step, in one process. With an environment `python benchmarks/rivals/setup.py optimizers` the rivals run, too.
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
from benchmarks.report import Options, Report, at_most

SAME = {"torch AdamW, for-loop": "AdamW", "torch AdamW, foreach": "AdamW"}


def run(options: Options) -> Report:
    report = Report("optimizers")
    for case in options.chosen({"transformer": None, "mlp": None}):
        found = _measure(case, options)
        report.data[case] = found
        report.tables.append(_table(case, found))
        _targets(report, case, found)
    return report


def _measure(case: str, options: Options) -> Any:
    python = VENVS / "optimizers" / "bin" / "python"
    rivals = ["rivals"] if python.exists() else []
    if rivals and os.environ.get("COMPILED_RIVALS"):
        rivals.append("compiled-rivals")
    argv = [str(python) if rivals else sys.executable, "-m", "benchmarks.ours.optimizers", case]
    argv += [str(options.times(7)), *rivals]
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    options.tell(f"optimizers, {case}")
    done = subprocess.run(
        argv,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1].replace("NaN", "null"))


def _ratios(arm: dict[str, Any]) -> list[float]:
    return [a / b for a, b in zip(arm.get("seconds", ()), arm.get("fused", ()), strict=True)]


def _table(case: str, found: Any) -> Table:
    page = Table(title=f"optimizers: {case}, times torch's fused AdamW", box=box.SIMPLE_HEAD, pad_edge=False)
    page.add_column("arm")
    for heading in ("ratio", "range", "ms a step", "first steps s", "bytes / AdamW's", "operations / AdamW's"):
        page.add_column(heading, justify="right")
    for name, arm in found["arms"].items():
        if "error" in arm:
            page.add_row(name, arm["error"][:60])
            continue
        ratios, cost = _ratios(arm), found["costs"].get(name.partition(",")[0], {})
        page.add_row(
            name,
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}-{max(ratios):.2f}",
            f"{1e3 * statistics.median(arm['seconds']):.3g}",
            f"{arm['first']:.2g}",
            f"{cost['bytes']:.2f}" if cost else "",
            f"{cost['operations']:.2f}" if cost and cost["operations"] else "",
        )
    return page


def _targets(report: Report, case: str, found: Any) -> None:
    """Element-wise rules against torch; the best setting of every rule against the best of the rivals' same rule."""
    arms = found["arms"]
    for name, arm in arms.items():
        base, _, how = name.partition(", ")
        cost = found["costs"].get(base)
        if cost is None or "error" in arm or f"{base}, compiled" not in arms:
            continue
        ratios = _ratios(arm)
        if how == "compiled":
            limit = 1.0 if case == "transformer" else 1.3 * cost["operations"]
            report.targets.append(at_most(f"{case}: {name}, over torch's fused AdamW", round(limit, 2), ratios))
        elif case == "transformer":
            limit = round(2.6 * cost["bytes"], 2)
            report.targets.append(at_most(f"{case}: {name}, over torch's fused AdamW", limit, ratios))
    for package in ("pytorch-optimizer", "heavyball"):
        for base in found["costs"]:
            theirs, mine = (_best(arms, name) for name in (f"{package} {base}", base))
            if theirs and mine:
                pairs = zip(_ratios(arms[mine]), _ratios(arms[theirs]), strict=False)  # a slow arm has fewer
                how = f"{mine} over {theirs}"
                report.targets.append(at_most(f"{case}: {how}", 1.0, [a / b for a, b in pairs]))


def _best(arms: dict[str, Any], name: str) -> str | None:
    """The faster of a rule's arms, plain and compiled; None without one that ran."""
    ran = [arm for arm in (name, f"{name}, compiled") if arm in arms and "error" not in arms[arm]]
    return min(ran, key=lambda arm: statistics.median(_ratios(arms[arm])), default=None)
