"""`shoal optim`: optimizers listed, explained and compared. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shoal import names
from shoal.entry import Method
from shoal.optimizers import OPTIMIZERS, WRAPPERS

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
    typer.echo("\naround others, as in cautious+adamw")
    for name, entry in WRAPPERS.items():
        typer.echo(f"{name:<{widest}}  {'':>7}  {entry.help}  [{entry.paper}]")
    typer.echo("\nbytes of state: of a 1024 x 1024 matrix in float32, with the settings that are the default")


@optim.command()
def show(name: Annotated[str, typer.Argument(help="An optimizer, e.g. adamw.")]) -> None:
    """Explain an optimizer: its maths and publication, arguments, and what it is made of."""
    from shoal.cli.explaining import explain_optimizer

    found, entry = names.find("optimizer", name)
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
    out: Annotated[Path, _option("Folder to write to (default: comparison).")] = Path("comparison"),
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


@optim.command()
def report(
    comparison: Annotated[Path, typer.Argument(help="A folder of `shoal optim compare`, or its comparison.json.")],
) -> None:
    """Write plot and page of a stored comparison anew, and print its table."""
    from shoal.cli.comparing import report_again

    report_again(comparison)
