"""A log that strangers cannot flood."""

from __future__ import annotations

import time

BURST, RATE = 20.0, 1.0  # entries of one kind at once, and a second


class Sparing:
    """Counts entries by their kind, of which there are few."""

    def __init__(self) -> None:
        self._credit: dict[str, tuple[float, float, int]] = {}

    def allows(self, event: str) -> int | None:
        """How many entries of a kind were left out before this one, or None if it is left out, too."""
        now = time.monotonic()
        credit, since, left_out = self._credit.get(event, (BURST, now, 0))
        credit = min(BURST, credit + RATE * (now - since))
        if credit < 1.0:
            self._credit[event] = credit, now, left_out + 1
            return None
        self._credit[event] = credit - 1.0, now, 0
        return left_out
