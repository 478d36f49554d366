"""What reproducing a claim gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One criterion, fixed before the run, and how it came out.

    Attributes:
        criterion: what had to hold, with its numbers.
        measured: what was measured, with its numbers.
        holds: whether it did.
    """

    criterion: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Result:
    """The outcome of one claim at one scale.

    Attributes:
        findings: criteria and how they came out; at least one.
        figures: what was measured, by name.
        published: what the publication reports, by name, as numbers or words.
        seeds: seeds that were used.
        note: what one must know to read the verdict, such as that a run of this scale is too short for a criterion.
    """

    findings: Sequence[Finding]
    figures: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[str, float | str] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not self.findings:
            raise ValueError("findings: got none; a claim needs at least one criterion")

    @property
    def verdict(self) -> str:
        """ "holds" if all criteria do, "does not hold" if none does, else "partly"."""
        held = sum(finding.holds for finding in self.findings)
        return "holds" if held == len(self.findings) else "partly" if held else "does not hold"

    @property
    def tally(self) -> str:
        """How many criteria hold, of how many."""
        return tally(finding.holds for finding in self.findings)


def tally(holds: Iterable[bool]) -> str:
    """How many hold, of how many: "1/6"."""
    found = list(holds)
    return f"{sum(found)}/{len(found)}"
