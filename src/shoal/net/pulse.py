"""Which processes of a group live: each says so in the group's store, twice a second, and looks at the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

EVERY = 0.5  # seconds between two beats
STORE_TIMEOUT = timedelta(seconds=30)


class Pulse:
    """A thread that beats for this process and watches the beats of the others.

    Args:
        store: of the group; what several threads may use at once.
        rank, size: of this process, and of the group.
        dead: seconds without a beat after which a process counts as gone.

    Attributes:
        lost: ranks that are gone, in the order in which that was noticed, with the reason.
        entered: how many acts of the group this process has come to; told with the beats.
        on_lost: called, in the thread, when the first one is gone.
    """

    def __init__(self, store: Any, rank: int, size: int, dead: float) -> None:
        self.rank, self.size, self.dead = rank, size, dead
        self.lost: dict[int, str] = {}
        self.entered = 0
        self.on_lost: Callable[[], None] | None = None
        self._store = store
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._beats = 0
        self._stop, self._found = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shoal-pulse", daemon=True)

    def start(self) -> None:
        """Begin to beat; to be called by all before they watch: the first look waits for everybody's first beat."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End: from now on the others must not wait for this process."""
        self._stop.set()

    def wait_for_loss(self) -> dict[int, str]:
        """Something went wrong between processes: wait until it can be known whether one is gone; `lost`."""
        self._found.wait(self.dead + 4 * EVERY)
        return dict(self.lost)

    def behind(self) -> list[int]:
        """Ranks that, as far as is known, have not come to the act in which this process is."""
        entered = {rank: int(value.split(b":")[1]) for rank, (value, _) in self._seen.items()}
        return sorted(rank for rank, count in entered.items() if count < self.entered)

    def _run(self) -> None:
        others = [rank for rank in range(self.size) if rank != self.rank]
        while not self._stop.wait(EVERY):
            try:
                self._beat()
                values = [self._store.get(str(rank)) for rank in others]
            except Exception as error:  # torch's errors of stores have no common base
                if not self._stop.is_set():
                    self._lose(0, f"the group's store, which lives beside it, does not answer ({_first_line(error)})")
                return
            self._look(dict(zip(others, values, strict=True)), time.monotonic())

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(str(self.rank), f"{self._beats}:{self.entered}")

    def _look(self, values: dict[int, bytes], now: float) -> None:
        for rank, value in values.items():
            known = self._seen.get(rank)
            if known is None or known[0] != value:
                self._seen[rank] = (value, now)
            elif now - known[1] > self.dead and rank not in self.lost:
                self._lose(rank, f"its process has given no sign of life for {now - known[1]:.0f} s")

    def _lose(self, rank: int, why: str) -> None:
        self.lost[rank] = why
        self._found.set()
        if self.on_lost is not None:
            self.on_lost()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
