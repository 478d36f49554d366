"""The `shoal` command."""

from __future__ import annotations

import sys
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Any

_KINDS = {"valid integer": "a whole number", "valid number": "a number", "valid float": "a number"}
"""What a command line's library says of values that are none, and what is allowed then."""
PACKAGE = str(Path(__file__).parents[1])


def main() -> None:
    """Entry point: run a command; errors that a user can mend are one line and exit code 2."""
    from shoal.cli.app import app
    from shoal.interrupt import terminate_as_interrupt

    terminate_as_interrupt()
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="shoal", standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"shoal: {line}", file=sys.stderr)
        code = 2
    if code == 130:
        print("shoal: interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: BaseException) -> str | None:
    """One line for an error that a user can mend; None for one that is a fault of Shoal, and keeps its traceback.

    Mendable are: wrong usage, what Shoal itself refuses, what a world reports (a deadlock, a diverged model), files
    that cannot be read or written, others that cannot be reached or do not let one in, and libraries that are not
    installed.
    """
    if hasattr(error, "format_message"):  # of the command line
        return _usage(error)
    engine = sys.modules.get("shoal.engine")
    if engine is not None and isinstance(error, engine.PeerFailed):
        return str(error) if error.__cause__ is None or explain(error.__cause__) else None
    if engine is not None and isinstance(error, engine.ShoalError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    mendable = isinstance(error, ValueError | ImportError | OSError)
    return str(error) if mendable and _raised_here(error) else None


def _raised_here(error: BaseException) -> bool:
    """Whether Shoal's own code raised it, knowing what it refused, and not some library that was given nonsense."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(PACKAGE)


def _usage(error: BaseException) -> str:
    message: str = error.format_message()  # type: ignore[attr-defined]
    flags = getattr(getattr(error, "param", None), "opts", [])
    words = [part for word in sys.argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    given = [value for flag, value in pairwise(words) if flag in flags]
    if given:
        kind = next((words for sign, words in _KINDS.items() if sign in str(error)), None)
        message = f"{flags[0]}: got {given[-1]!r}; {f'{kind} is allowed' if kind else error}"
    message = " ".join(message.split()).rstrip(".")
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "shoal"
    return f"{message[:1].lower()}{message[1:]}; see `{path} --help`"
