"""`shoal optim`: optimizers listed, explained and compared. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shoal import names
from shoal.entry import Method, Wrapping
from shoal.optimizers import AROUND_MODELS, OPTIMIZERS, WRAPPERS

optim = typer.Typer(help="Optimizers: list, explain, compare.", add_completion=False)


@optim.callback(invoke_without_command=True)
def list_optimizers(context: typer.Context) -> None:
    """List optimizers: bytes of state a parameter, what they are, what they need, and their publication."""
    if context.invoked_subcommand is not None:
        return
    widest = max(map(len, OPTIMIZERS))
    typer.echo(f"{'optimizer':<{widest}}  B/param  what it is  [publication]")
    for name, method in OPTIMIZERS.items():
        needs = f"; needs {method.needs}" if method.needs else ""
        paper = f"  [{method.paper}]" if method.paper else ""
        typer.echo(f"{name:<{widest}}  {method.bytes_per_parameter:>7.2g}  {method.help}{needs}{paper}")
    for title, table in (("around others, as in cautious+adamw", WRAPPERS), ("around models", AROUND_MODELS)):
        typer.echo(f"\n{title}")
        for name, entry in table.items():
            needs = f"; needs {entry.needs}" if entry.needs else ""
            typer.echo(f"{name:<{widest}}  {'':>7}  {entry.help}{needs}  [{entry.paper}]")
    typer.echo("\nbytes of state: of a 1024 x 1024 matrix in float32, with the settings that are the default")


@optim.command()
def show(name: Annotated[str, typer.Argument(help="An optimizer, or what goes around one, e.g. adamw.")]) -> None:
    """Explain an optimizer: its maths and publication, arguments, and what it is made of or what it needs."""
    from shoal.cli.explaining import explain_optimizer, explain_wrapping

    found, entry = names.find("optimizer", name, {**OPTIMIZERS, **WRAPPERS, **AROUND_MODELS})
    if isinstance(entry, Wrapping):
        explain_wrapping(found, entry)
        return
    if not isinstance(entry, Method):
        raise ValueError(f"optimizer: {name!r} is made of several; show one, such as {found.split('+')[-1]}")
    explain_optimizer(found, entry)


def _option(help: str, *flags: str) -> Any:
    return typer.Option(*flags, help=help, show_default=False)


@optim.command()
def compare(
    optimizers: Annotated[
        list[str], typer.Argument(help="Optimizers, e.g. adamw lion:weight_decay=0.1 cautious+adamw.")
    ],
    task: Annotated[str, _option("What is learned (default: fashion-mnist).")] = "fashion-mnist",
    model: Annotated[str | None, _option("Model (default: the task's own).")] = None,
    rates: Annotated[
        str, _option("Learning rates, e.g. 1e-4,1e-3,1e-2, for all; or auto: 7 around each one's own (default).")
    ] = "auto",
    seeds: Annotated[int, _option("Number of seeds of the test (default: 3).")] = 3,
    tuning_seeds: Annotated[int, _option("Number of seeds of the tuning (default: 1).")] = 1,
    steps: Annotated[int, _option("Steps of every run (default: 300).")] = 300,
    batch: Annotated[int, _option("Samples a step, 0 for all (default: 128).")] = 128,
    schedule: Annotated[str, _option("constant, cosine, linear or quadratic (default: constant).")] = "constant",
    warmup: Annotated[float, _option("Share of the steps that warm up (default: 0).")] = 0.0,
    metric: Annotated[str | None, _option("What decides (default: the task's first metric).")] = None,
    validation: Annotated[float, _option("Share of the training data held out for tuning (default: 0.1).")] = 0.1,
    extend: Annotated[
        bool, _option("Try more rates where the best one is at an edge (default: yes).", "--extend/--no-extend")
    ] = True,
    workers: Annotated[int, _option("Threads (default: all cores); does not change results.")] = 0,
    device: Annotated[str, _option("Torch device (default: cpu).")] = "cpu",
    out: Annotated[Path, _option("Folder, numbered if taken (default: comparison).")] = Path("comparison"),
) -> None:
    """Tune optimizers with equal budgets, compare them on test data, and write table, plot and page.

    Everybody tries equally many learning rates on held-out training data; the best are trained anew with other seeds.
    Ctrl-C leaves what was found until then.
    """
    from shoal.cli.comparing import run_comparison

    run_comparison(
        optimizers,
        out,
        task=task,
        model=model,
        rates=rates,
        schedule=schedule,
        warmup=warmup,
        seeds=seeds,
        tuning_seeds=tuning_seeds,
        steps=steps,
        batch=batch or None,
        metric=metric,
        validation=validation,
        extend=extend,
        workers=workers,
        device=device,
    )


@optim.command("coordinate-check")
def coordinate_check(
    optimizer: Annotated[str, typer.Argument(help="An optimizer with its settings, e.g. adam:lr=0.003.")] = "adam",
    task: Annotated[str, _option("Whose data (default: digits).")] = "digits",
    model: Annotated[str, _option("mlp, cnn, transformer or vit (default: mlp:depth=2).")] = "mlp:depth=2",
    widths: Annotated[str, _option("Widths; the first is muP's base (default: 64,128,256,512).")] = "64,128,256,512",
    steps: Annotated[int, _option("Steps on one batch (default: 4).")] = 4,
    seeds: Annotated[int, _option("Number of seeds (default: 2).")] = 2,
    batch: Annotated[int, _option("Samples of the batch (default: 64).")] = 64,
    out: Annotated[Path, _option("Folder to write to (default: coordinates).")] = Path("coordinates"),
) -> None:
    """See whether the layers of a model move alike at all widths: by muP they do, as usually parametrised they do not.

    Prints how far each layer's outputs move in a few steps, and writes coordinates.csv and coordinates.png.
    """
    from shoal.cli.coordinates import run_check

    run_check(optimizer, out, task=task, model=model, widths=widths, steps=steps, seeds=seeds, batch=batch)


@optim.command()
def report(
    comparison: Annotated[Path, typer.Argument(help="A folder of `shoal optim compare`, or its comparison.json.")],
) -> None:
    """Write plot and page of a stored comparison anew, and print its table."""
    from shoal.cli.comparing import report_again

    report_again(comparison)
