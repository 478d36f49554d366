"""Where an experiment runs: in a simulated world in this process, or on machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal import names
from shoal.entry import Entry, Table

if TYPE_CHECKING:
    from shoal.simulation import Run

PLACES: Table = {
    "simulation": Entry("shoal.simulation:simulate", "in this process, on a virtual clock"),
    "ray": Entry(
        "shoal.deployment.on_ray:run_on_ray",
        "on a Ray cluster, blocks of peers in actors",
        ("hosts", "gpus_per_host", "address", "store"),
    ),
    "torch": Entry(
        "shoal.deployment.on_torch:run_on_torch", "in the processes that torchrun started, a peer each", ("timeout",)
    ),
}
"""Each is called as `simulate` is: with `name`, `out`, `progress` and the settings."""


def runner(on: str, **ray: Any) -> Callable[..., Run]:
    """What runs experiments at a place, e.g. `torch:timeout=60`.

    Args:
        on: the place, with its arguments.
        ray: arguments of the place `ray` that were options of their own; None was not given.

    Raises:
        ValueError: the place is unknown, or does not take an argument.
    """
    from shoal.simulation.given import check_arguments

    spec = names.parse("on", on, PLACES)
    given = {name: value for name, value in ray.items() if value is not None}
    for name in given:
        if spec.name != "ray" or name in spec.arguments:
            twice = "is given twice" if name in spec.arguments else "means something with --on ray only"
            raise ValueError(f"{'ray' if name == 'address' else name}: {twice}")
    function = spec.entry.load()
    check_arguments(f"on: {spec.name}", function, spec.arguments)
    return partial(function, **spec.arguments, **given)


def left_out(on: str, settings: dict[str, Any]) -> list[str]:
    """Settings that were chosen and mean something in a simulation only, if that is not where it runs."""
    if names.parse("on", on, PLACES).name == "simulation":
        return []
    from shoal.deployment.node import simulated_only
    from shoal.simulation.settings import Settings

    return simulated_only(Settings.of(**settings))


def speaks(on: str) -> bool:
    """Whether this process is the one that shows progress, results and errors: of a torchrun group, the first."""
    return names.parse("on", on, PLACES).name != "torch" or os.environ.get("RANK", "0") == "0"
