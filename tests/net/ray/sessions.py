"""One small Ray on this machine for the tests of a module, with everything that it leaves behind in a folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

OBJECT_STORE = 200_000_000  # bytes


@contextmanager
def session() -> Iterator[Any]:
    """The module ray, connected; skips where it is not installed."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from shoal.net.ray import cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "RAY_TMPDIR"):
            patch.setenv(name, folder)
        patch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(OBJECT_STORE))
        try:
            with cluster("local") as ray:
                yield ray
        finally:
            shutil.rmtree(folder, ignore_errors=True)
