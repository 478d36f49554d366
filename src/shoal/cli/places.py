"""Where an experiment runs: in a simulated world in this process, or on machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from shoal import names
from shoal.entry import Entry, Table

if TYPE_CHECKING:
    from shoal.simulation import Run

PLACES: Table = {
    "simulation": Entry("shoal.simulation:simulate", "in this process, on a virtual clock"),
    "torch": Entry(
        "shoal.deployment.on_torch:run_on_torch", "in the processes that torchrun started, a peer each", ("timeout",)
    ),
}
"""Each is called as `simulate` is: with `name`, `out`, `progress` and the settings."""


def runner(on: str) -> Callable[..., Run]:
    """What runs experiments at a place, e.g. `torch:timeout=60`.

    Raises:
        ValueError: the place is unknown.
    """
    spec = names.parse("on", on, PLACES)
    return partial(spec.entry.load(), **spec.arguments)


def speaks(on: str) -> bool:
    """Whether this process is the one that shows progress, results and errors: of a torchrun group, the first."""
    return names.parse("on", on, PLACES).name != "torch" or os.environ.get("RANK", "0") == "0"
