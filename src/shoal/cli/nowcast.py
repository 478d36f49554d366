"""`shoal nowcast`: nowcasters for NiNo. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

nowcast = typer.Typer(help="Nowcasters for NiNo: record training runs, train on them.", add_completion=False)

_FOLDER = Path("nowcast-runs")


def _option(help: str, *flags: str) -> Any:
    return typer.Option(*flags, help=help, show_default=False)


@nowcast.command()
def record(
    folder: Annotated[Path, typer.Argument(help="Folder of recorded runs.")] = _FOLDER,
    runs: Annotated[int, _option("How many there shall be; those that are there stay (default: 100).")] = 100,
    steps: Annotated[int, _option("Steps of Adam of each run (default: 1000).")] = 1000,
    every: Annotated[int, _option("Steps from one kept state to the next, at most --steps (default: 5).")] = 5,
    batch: Annotated[int, _option("Samples a step (default: 64).")] = 64,
    families: Annotated[str | None, _option("Kinds of models, with commas between them (default: all).")] = None,
    seed: Annotated[int, _option("Seed of everything (default: 0).")] = 0,
) -> None:
    """Train small models with Adam, and keep their weights every few steps.

    Perceptrons and convolutional networks on digits and on Fashion-MNIST at 14 x 14, transformers on text.
    """
    from shoal.cli.nowcasting import record_runs

    record_runs(folder, runs, families, steps=steps, every=every, batch=batch, seed=seed)


@nowcast.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Folder of recorded runs.")] = _FOLDER,
    out: Annotated[Path, _option("File of the nowcaster (default: nowcaster.safetensors).")] = Path(
        "nowcaster.safetensors"
    ),
    network: Annotated[str, _option("graph (NiNo's) or single (WNN+, without a graph; default: graph).")] = "graph",
    width: Annotated[int, _option("Of hidden features (default: 128).")] = 128,
    layers: Annotated[int, _option("Of message passing (default: 3).")] = 3,
    horizon: Annotated[int, _option("States that are forecast (default: 40).")] = 40,
    vocabulary: Annotated[int, _option("Tokens with features of their own (default: 0).")] = 0,
    steps: Annotated[int, _option("Steps of AdamW (default: 20000).")] = 20_000,
    runs: Annotated[int, _option("Runs of a batch (default: 4).")] = 4,
    slices: Annotated[int, _option("Slices of each of them (default: 4).")] = 4,
    largest: Annotated[int, _option("Parameters of a run's model at most (default: 1000000).")] = 1_000_000,
    lr: Annotated[float, _option("Learning rate at first (default: 0.003).")] = 3e-3,
    weight_decay: Annotated[float, _option("Decoupled weight decay (default: 0.01).")] = 0.01,
    held: Annotated[float, _option("Share of runs to measure errors on (default: 0.1).")] = 0.1,
    seed: Annotated[int, _option("Seed of everything (default: 0).")] = 0,
) -> None:
    """Train a nowcaster on recorded runs. It is written every 100 steps; Ctrl-C leaves what there is."""
    from shoal.cli.nowcasting import train_nowcaster

    shape = {"width": width, "layers": layers, "horizon": horizon, "vocabulary": vocabulary}
    train_nowcaster(
        folder,
        out,
        shape,
        network=network,
        steps=steps,
        runs=runs,
        slices=slices,
        largest=largest,
        lr=lr,
        weight_decay=weight_decay,
        held=held,
        seed=seed,
    )


@nowcast.command()
def about(
    file: Annotated[Path | None, typer.Argument(help="A nowcaster (default: the one in the package).")] = None,
) -> None:
    """Print a nowcaster's shape, and how it was trained."""
    from shoal.cli.nowcasting import print_about

    print_about(file)
