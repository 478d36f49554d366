"""Ctrl-C at a point of one's own choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred(on_first: Callable[[], object] = lambda: None) -> Iterator[list[bool]]:
    """Within the block, the first Ctrl-C is noted in the list that is yielded, and a second one raises at once.

    In the middle of a computation it could leave torch's vmap levels or a half written row behind, and what is stored
    afterwards would not be usable. A Ctrl-C that was noted raises KeyboardInterrupt at the end of the block at the
    latest. Where Ctrl-C does not mean KeyboardInterrupt, or in another thread than the main one, nothing is changed.

    Args:
        on_first: called at the first.
    """
    asked: list[bool] = []

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.append(True)
        on_first()

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return
    signal.signal(signal.SIGINT, first)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
