"""Experiments on real machines: the parts of an experiment as one peer of it needs them, its life there, and a view.

Names of this package are imported at their first use: whoever only watches needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.deployment.board import Board
    from shoal.deployment.node import Node, real_parts
    from shoal.deployment.reporter import Reporter
    from shoal.deployment.web import Server, read_url, remove_url, serve, write_url

_WHERE = {
    "Board": "board",
    "Ears": "life",
    "Entered": "network",
    "Experiment": "experiment",
    "Home": "home",
    "Logbook": "logbook",
    "Net": "experiment",
    "Node": "node",
    "Place": "network",
    "Reporter": "reporter",
    "Server": "web",
    "read_url": "web",
    "real_parts": "node",
    "remove_url": "web",
    "serve": "web",
    "write_url": "web",
}

__all__ = ["Board", "Node", "Reporter", "Server", "read_url", "real_parts", "remove_url", "serve", "write_url"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'shoal.deployment' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"shoal.deployment.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
