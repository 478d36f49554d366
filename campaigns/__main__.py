"""Campaigns against real peers, which are processes of their own: `python -m campaigns [name ...] [--short]`."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from campaigns.outcome import Options, Outcome

NAMES = {
    "conformance": "8 processes of each synchronous protocol follow the simulation for three rounds",
    "kill": "8 processes, 3 of which are killed at random moments and started again, 20 times",
    "modest": "12 processes of MoDeST, several of which die or come back",
    "links": "hosts with slow, long, lossy links, and a partition that heals",
    "hostile": "an admitted member that sends bad frames, a stranger, a wrong invitation",
}


def main() -> int:
    about = "\n".join(f"  {name:<11} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m campaigns",
        description=f"{__doc__}\n\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which (default: all)")
    parser.add_argument("--short", action="store_true", help="the form that runs with the tests; stores nothing")
    parser.add_argument("--keep", metavar="FOLDER", help="keep runs and logs there")
    chosen = parser.parse_args()
    names = chosen.names or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"unknown campaign {', '.join(unknown)}; there are {', '.join(NAMES)}")
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"shoal-{name}-") as temporary:
            folder = Path(temporary if chosen.keep is None else chosen.keep) / name
            folder.mkdir(parents=True, exist_ok=True)
            outcome = run(name, Options(chosen.short, folder, lambda text: print(text, file=sys.stderr, flush=True)))
        for check in outcome.verdicts:
            print(f"{name}: {'holds' if check.holds else 'FAILS'} {check.held} of {check.of}: {check.what}")
        for why in outcome.skipped:
            print(f"{name}: skipped: {why}")
        failed += not outcome.holds
        if not chosen.short:
            print(f"{name}: stored: {outcome.store()}")
    return 1 if failed else 0


def run(name: str, options: Options) -> Outcome:
    """Run a campaign."""
    outcome: Outcome = importlib.import_module(f"campaigns.{name}").run(options)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
