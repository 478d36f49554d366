"""What a campaign found: checks that hold or not, figures, and a file with commit and date."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import circumstances

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Options:
    """What the command line settles for every campaign.

    Attributes:
        short: the form that runs with the tests.
        folder: where runs may be kept while they are looked at.
        tell: hears what is being done.
    """

    short: bool
    folder: Path
    tell: Callable[[str], object] = lambda _: None


@dataclass(frozen=True)
class Check:
    """One sentence of what must hold, and whether it did, each time."""

    what: str
    held: int
    of: int

    @property
    def holds(self) -> bool:
        return self.held == self.of


@dataclass
class Outcome:
    """A campaign's outcome.

    Attributes:
        name: of the campaign, and of its file in `results/`.
        checks: what had to hold.
        figures: what was measured.
        skipped: why it, or a part of it, was not done here.
    """

    name: str
    checks: dict[str, list[bool]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def check(self, what: str, holds: bool) -> None:
        """Note whether a sentence holds, this time."""
        self.checks.setdefault(what, []).append(bool(holds))

    @property
    def verdicts(self) -> list[Check]:
        return [Check(what, sum(found), len(found)) for what, found in self.checks.items()]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.verdicts)

    def store(self) -> Path:
        """Write `results/<name>.json`."""
        RESULTS.mkdir(exist_ok=True)
        content = {
            "campaign": self.name,
            **circumstances(),
            "holds": self.holds,
            "checks": [asdict(check) | {"holds": check.holds} for check in self.verdicts],
            "figures": self.figures,
            "skipped": self.skipped,
        }
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path
