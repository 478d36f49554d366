"""Where the peers of a simulation are computed: in threads of its process, or on workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shoal import names
from shoal.entry import Entry, Table

if TYPE_CHECKING:
    import torch

    from shoal.engine.compute import Dispatch

COMPUTE: Table = {
    "threads": Entry("", "in threads of this process"),
    "ray": Entry("shoal.net.ray:ray_workers", "on Ray workers: for large models", ("workers", "address")),
}


def check_compute(text: str) -> str:
    """The text, if it names a place.

    Raises:
        ValueError: an unknown name, or an argument that the place does not take.
    """
    spec = names.parse("compute", text, COMPUTE)
    if spec.name == "threads" and spec.arguments:
        raise ValueError("compute: threads takes no arguments; `workers` says how many there are")
    return text


@contextmanager
def computing(text: str, device: torch.device) -> Iterator[Dispatch | None]:
    """What computes within the block, for a `Pool`; None: its threads.

    Args:
        text: as of `Settings.compute`.
        device: torch device of the peers' tensors.
    """
    from shoal.learning import Shard
    from shoal.learning.data import Data
    from shoal.simulation.given import check_arguments

    spec = names.parse("compute", text, COMPUTE)
    if spec.name == "threads":
        yield None
        return
    function = spec.entry.load()
    check_arguments(f"compute: {spec.name}", function, spec.arguments)
    with function(**spec.arguments, shared=(Data, Shard), device=device) as dispatch:
        yield dispatch
