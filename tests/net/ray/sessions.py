"""One small Ray on this machine for the tests of a module, with everything that it leaves behind in a folder."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest

OBJECT_STORE = 200_000_000  # bytes


@cache
def _folder() -> str:
    """One for all sessions of this process: Ray reads its token from there, and keeps it in memory."""
    made = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets must be short
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextmanager
def session() -> Iterator[Any]:
    """The module ray, connected; skips where it is not installed."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from shoal.net.ray import cluster

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "RAY_TMPDIR"):
            patch.setenv(name, _folder())
        patch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(OBJECT_STORE))
        with cluster("local") as ray:
            yield ray
