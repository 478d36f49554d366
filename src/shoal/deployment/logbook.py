"""The log of a run, written as things happen: one JSON object a line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.simulation.run import plain

LIMIT = 16 << 20  # bytes of a log file; the one before it is kept, too
LOG, OLDER = "log.jsonl", "log.1.jsonl"


class Logbook:
    """Entries appended to `log.jsonl`. A crash loses none that was written; at most the last line is torn.

    When the file has grown to `limit` bytes, it becomes `log.1.jsonl`, in place of the one before.

    Args:
        folder: where it lies; made if it is not there.
        limit: bytes of a file.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._older, self._limit = folder / LOG, folder / OLDER, limit
        self._open()

    def _open(self) -> None:
        torn = self._path.exists() and not _ends_with_a_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry, with the time of day as `at`, in seconds since 1970."""
        line = json.dumps({**plain(entry), "at": round(time.time(), 3)}, allow_nan=False, default=str)
        self._file.write(line + "\n")
        self._file.flush()
        if self._file.tell() >= self._limit:
            self._file.close()
            self._path.replace(self._older)
            self._open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"


def tee(*listeners: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """A listener that passes what it hears on to several."""

    def hear(entry: dict[str, Any]) -> None:
        for listener in listeners:
            listener(entry)

    return hear
