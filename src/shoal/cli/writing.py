"""Files that are written: none in the place of an earlier result, and errors in the words of who asked for them."""

from __future__ import annotations

import itertools
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


def unused(out: Path, holding: str) -> Path:
    """The folder, with a number behind its name if there is a file `holding` in it already.

    Args:
        out: folder that was asked for.
        holding: name of a file that it must not hold.
    """
    numbered = (out.with_name(f"{out.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([out], numbered) if not (folder / holding).exists())
