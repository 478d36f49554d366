"""Recording runs and training nowcasters at a terminal: progress, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shoal.cli.progress import stages
from shoal.cli.writing import writing
from shoal.learning.nowcasting import Meta, Recording, record, train
from shoal.optim.nino.files import SHIPPED
from shoal.optim.nino.files import about as told
from shoal.optim.nino.network import Shape


def record_runs(folder: Path, runs: int, families: str | None, **settings: Any) -> None:
    """Record runs, show how far it is, and say where they are.

    Raises:
        ValueError: something cannot be.
    """
    if families is not None:
        settings["families"] = tuple(families.split(","))
    with writing(folder), stages() as show:
        found = record(folder, runs, Recording(**settings), partial(show, "recording"))
    print(f"recorded: {len(found)} runs in {folder}")


def train_nowcaster(folder: Path, out: Path, shape: Mapping[str, int], **settings: Any) -> None:
    """Train, show how far it is, and print errors.

    Raises:
        ValueError: something cannot be.
    """
    with writing(out), stages() as show:
        train(folder, out, Shape(**shape), Meta(**settings), partial(show, "training"))
    errors = told(out)["training"]["errors"]
    print("error on runs that were held out: " + ", ".join(f"{name} {value:.4f}" for name, value in errors.items()))
    print(f"nowcaster: {out}")


def print_about(file: Path | None) -> None:
    """Print a nowcaster's metadata.

    Raises:
        ValueError: the file holds none.
    """
    print(json.dumps(told(file or SHIPPED), indent=2))
