"""Attention in its plain form, which can be differentiated twice and mapped: torch has one switch for all threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_switched = contextlib.ExitStack()
_inside = 0


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention in here is computed by its plain form, in any thread.

    Whoever enters first sets the switch and whoever leaves last puts it back, in whatever order: a thread that restored
    what it found would leave it set for ever if it had found another one's.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    global _inside
    with _lock:
        if not _inside:
            _switched.enter_context(sdpa_kernel(SDPBackend.MATH))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _switched.close()
