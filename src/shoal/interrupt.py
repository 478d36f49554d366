"""Ctrl-C at a point of one's own choosing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def terminate_as_interrupt() -> None:
    """Let SIGTERM, with which schedulers and `kill` end a process, mean what Ctrl-C means; for a program's own start.

    Where something else handles or ignores it, nothing is changed.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def deferred(on_first: Callable[[], object] = lambda: None) -> Iterator[list[bool]]:
    """Within the block, the first Ctrl-C is noted in the list that is yielded, and a second one raises at once.

    In the middle of a computation it could leave torch's vmap levels or a half written row behind, and what is stored
    afterwards would not be usable. A Ctrl-C that was noted raises KeyboardInterrupt at the end of the block at the
    latest. The same goes for SIGTERM where that means KeyboardInterrupt. Signals that do not mean it are left alone,
    and all in another thread than the main one.

    Args:
        on_first: called at the first.
    """
    asked: list[bool] = []
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in SIGNALS if main and signal.getsignal(number) is signal.default_int_handler]

    def handle(by: Callable[[int, Any], Any]) -> None:
        for number in ours:
            signal.signal(number, by)

    def first(number: int, frame: Any) -> None:
        handle(signal.default_int_handler)
        asked.append(True)
        on_first()

    handle(first)
    try:
        yield asked
    finally:
        handle(signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


@contextmanager
def stopping(on_first: Callable[[], object]) -> Iterator[None]:
    """Within the block, the first Ctrl-C asks to stop, and a second one ends the process at once, with exit code 130.

    For programs that keep on disk what they need, and whose way to stop takes a while: there may be others to say
    goodbye to. SIGTERM, and signals that something else handles, are treated as by `deferred`.

    Args:
        on_first: called at the first, in the main thread, between any two steps of it.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in SIGNALS if main and signal.getsignal(number) is signal.default_int_handler]
    asked: list[bool] = []

    def handle(number: int, frame: Any) -> None:
        if asked:
            sys.stderr.flush()
            os._exit(130)
        asked.append(True)
        on_first()

    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.default_int_handler)
