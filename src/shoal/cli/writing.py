"""Errors of files that are written: in the words of who asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say which file could not be written: the error names a temporary one beside it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"out: cannot write {out}: {error.strerror}") from error
