"""Ctrl-C in a simulated world."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shoal.engine.loop import VirtualLoop
from shoal.interrupt import deferred


@contextmanager
def between_events(loop: VirtualLoop) -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt between two events of the loop, a second one at once."""

    def stop() -> None:
        raise KeyboardInterrupt

    with deferred(lambda: loop.call_soon(stop)):
        yield
