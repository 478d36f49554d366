"""iroh's Python binding: loaded when it is needed, its errors in words, and outgoing bytes copied in one go.

Version 1.2.0 of the binding copies what it sends byte by byte in Python (n0-computer/iroh-ffi#229): 4 MB/s, with the
event loop blocked meanwhile. Bindings generated with mozilla/uniffi-rs#2824 copy the buffer as a whole; `load` does the
same for those without, and touches nothing else.
"""

from __future__ import annotations

import ctypes
import inspect
import re
from functools import cache
from types import ModuleType
from typing import Any


class MissingIroh(ImportError):
    """iroh is not installed."""


@cache
def load() -> ModuleType:
    """The module `iroh`.

    Raises:
        MissingIroh: it is not installed, or too old.
    """
    try:
        import iroh
        from iroh import iroh_ffi

        iroh.RelayMode.custom_from_urls  # noqa: B018  (1.2 is the first to have all that is needed)
    except (ImportError, AttributeError) as error:
        raise MissingIroh(f"peers on an open network need iroh 1.2: pip install 'shoal[net]' ({error})") from None
    builder = getattr(iroh_ffi, "_UniffiRustBufferBuilder", None)
    if builder is not None and copies_byte_by_byte(builder):
        builder.write = _write
    return iroh


def copies_byte_by_byte(builder: type) -> bool:
    """Whether a binding's buffer builder still has the slow loop."""
    try:
        return "for " in inspect.getsource(builder.write)  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError):
        return False


def _write(self: Any, value: Any) -> None:
    size = len(value)
    with self._reserve(size):
        if size:
            source = value if isinstance(value, bytes) else bytes(value)
            ctypes.memmove(ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len, source, size)


def words(error: BaseException) -> str:
    """What an error says, for people. `str` of iroh's own errors is empty."""
    message = getattr(error, "message", None)
    text = str(message()) if callable(message) else str(error)
    text = re.sub(r"\s*\(/[^()]*\.rs:\d+:\d+\)", "", text)  # where in its own sources iroh noticed
    if closed := re.search(r'error_code: (\d+), reason: b"(.*)"', text):
        text = f"closed by the other side: {closed[2] or closed[1]}"
    return text or type(error).__name__
