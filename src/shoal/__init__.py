"""Shoal trains neural networks on many computers: far apart, slow to reach, sometimes gone and not all honest.

A protocol is what one peer does, written as an ordinary asyncio coroutine; `simulate` runs thousands of them on a
virtual clock. Names of this package are imported at their first use.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.engine import PeerLost, ShoalError, SimulatedWorld
    from shoal.learning import Learner, Task
    from shoal.simulation import Run, Settings, simulate  # type: ignore[no-redef]  # also a module's name

    def diagnose(*args: Any, **settings: Any) -> Any:  # not imported: rooms below shoal.diagnosis import this package
        """See `shoal.diagnosis.diagnose`."""


# Row i of a stacked matrix product must not depend on where in memory it lies. Intel's library, which torch uses, keeps
# to that on some processors only if it is told so before its first product.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

_WHERE = {
    "Learner": "shoal.learning",
    "PeerLost": "shoal.engine",
    "Run": "shoal.simulation",
    "Settings": "shoal.simulation",
    "ShoalError": "shoal.engine",
    "SimulatedWorld": "shoal.engine",
    "Task": "shoal.learning",
    "diagnose": "shoal.diagnosis",
    "simulate": "shoal.simulation",
}

__all__ = ["Learner", "PeerLost", "Run", "Settings", "ShoalError", "SimulatedWorld", "Task", "diagnose", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
