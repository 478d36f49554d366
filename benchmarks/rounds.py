"""A round of D-SGD by 8 real processes on loopback, 1 M parameters, beside p2pfl's rounds and hivemind's averaging."""

from __future__ import annotations

import json
import os
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.arms import RIVALS, VENVS, ours
from benchmarks.measure import Command, interleave, table
from benchmarks.report import Options, Report, at_least, at_most, paired
from benchmarks.rivals.common import Work

ARMS = {"exponential": "3 neighbours", "complete": "7 neighbours"}
RIVAL = {"hivemind": ("hivemind_rounds.py", "compression"), "p2pfl": ("p2pfl_rounds.py", "p2pfl")}
FASTER, STEPS, LIMIT = 3.0, 8, 600.0
SLOW = {"p2pfl": 3}  # rounds of those whose rounds take very long


def run(options: Options) -> Report:
    report = Report("rounds")
    rounds = 4 if options.quick else 12
    contest = {f"shoal, {about}": ours("rounds", Work(), name, rounds, 1) for name, about in ARMS.items()}
    for name, (script, venv) in RIVAL.items():
        python = VENVS / venv / "bin" / "python"
        if (VENVS / venv / "ready.txt").exists():
            argv = [str(python), str(RIVALS / script), str(min(rounds, SLOW.get(name, rounds)))]
            contest[name] = Command(argv, {"OMP_NUM_THREADS": "1"})
        else:
            report.notes.append(f"{name} is not installed: python {os.path.relpath(RIVALS / 'setup.py')} {venv}")
    tell = lambda arm: options.tell(f"rounds: {arm}")  # noqa: E731
    results = interleave(contest, options.times(3), timeout=LIMIT, tell=tell)
    title = "rounds: 8 processes, 999,985 parameters, a step on a batch each"
    report.add("rounds", results, table(results, "shoal, 3 neighbours", "wall_per_round", title=title))
    for about in ARMS.values():
        mine = f"shoal, {about}"
        p2pfl = paired(results, "p2pfl", mine, lambda m: m.wall_per_round, unfinished=True)
        hivemind = paired(results, mine, "hivemind", lambda m: m.wall_per_round)
        report.targets += [
            at_least(f"p2pfl's round over a round with {about}", FASTER, p2pfl),
            at_most(f"a round with {about} over hivemind's", 1.0, hivemind),
        ]
    overlap(report, options, rounds)
    return report


def overlap(report: Report, options: Options, rounds: int) -> None:
    """How much of the time in which models travel a peer computes, by traces of short and of long computations."""
    page = Table(title="overlap of computing and sending, 3 neighbours", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "steps",
        "computing ms",
        "sending ms",
        "round ms",
        "of sending within computing",
        "of the shorter hidden",
    ):
        page.add_column(heading, justify="right")
    report.data["overlap"] = {}
    for steps in (1, STEPS, 4 * STEPS):
        options.tell(f"rounds: trace, {steps} steps")
        contest = {"shoal": ours("rounds", Work(), "exponential", rounds, steps)}
        [measured] = interleave(contest, 1)["shoal"]
        if not measured.ok:
            report.notes.append(f"no trace of {steps} steps: {measured.output[-200:]}")
            continue
        found: dict[str, Any] = json.loads(measured.output.strip().splitlines()[-1])
        report.data["overlap"][str(steps)] = found
        page.add_row(
            str(steps),
            *(f"{1e3 * found[name]:.0f}" for name in ("computing", "sending", "round")),
            f"{found['inside']:.0%}",
            f"{found['hidden']:.0%}",
        )
    report.tables.append(page)
