"""Commands of `shoal`. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal import names
from shoal.cli.nowcast import nowcast
from shoal.cli.optim import optim
from shoal.cli.places import PLACES
from shoal.cli.writing import writing
from shoal.instruments_by_name import INSTRUMENTS

app = typer.Typer(
    name="shoal",
    help="Train neural networks on many computers: far apart, slow to reach, sometimes gone, not all honest.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(optim, name="optim")
app.add_typer(nowcast, name="nowcast")


def _version(show: bool) -> None:
    if show:
        import shoal

        typer.echo(f"shoal {shoal.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options before the command."""


def _option(help: str, *flags: str) -> Any:
    return typer.Option(*flags, help=help, show_default=False)


@app.command()
def run(
    protocol: Annotated[str, typer.Argument(help="A protocol (see `shoal list protocol`), or a settings file.toml.")],
    task: Annotated[str | None, _option("What is learned (default: fashion-mnist).")] = None,
    model: Annotated[str | None, _option("Model (default: the task's own).")] = None,
    peers: Annotated[int | None, _option("Number of peers (default: 32).", "--peers", "-n")] = None,
    partition: Annotated[str | None, _option("Who holds which samples (default: iid).")] = None,
    relays: Annotated[
        str | None, _option("Peers that hold none and only pass models on, e.g. 0,3 (default: nobody).")
    ] = None,
    topology: Annotated[str | None, _option("Who talks to whom (default: exponential).")] = None,
    disconnected: Annotated[
        bool | None, _option("Allow a topology that is not connected.", "--disconnected/--connected")
    ] = None,
    weights: Annotated[
        str | None, _option("Mixing weights: metropolis-hastings or uniform (default: the topology's own).")
    ] = None,
    network: Annotated[str | None, _option("Links (default: lan).")] = None,
    devices: Annotated[str | None, _option("How fast peers compute (default: uniform).")] = None,
    faults: Annotated[str | None, _option("What goes wrong (default: none).")] = None,
    attack: Annotated[str | None, _option("What Byzantine peers send (default: none).")] = None,
    optimizer: Annotated[str | None, _option("Local optimizer (default: sgd).")] = None,
    lr: Annotated[float | None, _option("Learning rate (default: the optimizer's own).")] = None,
    codec: Annotated[str | None, _option("How what is sent is encoded (default: not at all).")] = None,
    batch: Annotated[int | None, _option("Samples a step, 0 for the whole shard (default: 32).")] = None,
    rounds: Annotated[int | None, _option("Number of rounds (default: 50).", "--rounds", "-r")] = None,
    until: Annotated[float | None, _option("Stop at this virtual time, in seconds.")] = None,
    seed: Annotated[int | None, _option("Seed of everything (default: 0).", "--seed", "-s")] = None,
    init: Annotated[str | None, _option("common or independent (default: common).")] = None,
    evaluate: Annotated[int | None, _option("Evaluate every so many rounds (default: about 20 times).")] = None,
    eval_samples: Annotated[int | None, _option("Test samples used during the run (default: 2000).")] = None,
    eval_peers: Annotated[int | None, _option("Peers evaluated at most (default: 64).")] = None,
    workers: Annotated[int | None, _option("Threads (default: all cores); does not change results.")] = None,
    compute: Annotated[
        str | None, _option("Where peers are computed: threads, or ray:4 for large models (default: threads).")
    ] = None,
    device: Annotated[str | None, _option("Torch device (default: cpu).")] = None,
    batched: Annotated[bool | None, _option("Compute peers stacked, or one by one.", "--batched/--one-by-one")] = None,
    trace: Annotated[bool | None, _option("Keep every message event.", "--trace/--no-trace")] = None,
    sweep: Annotated[
        list[str] | None,
        _option("A setting in several values, e.g. --sweep 'codec=none fp16'; again for more: all combinations."),
    ] = None,
    name: Annotated[str | None, _option("What the run is called (default: the protocol's name).")] = None,
    out: Annotated[str | None, _option("Folder of run folders (default: runs).")] = None,
    on: Annotated[str, _option(f"Where it runs: {', '.join(PLACES)} (default: simulation).")] = "simulation",
    ray: Annotated[
        str | None, _option("On ray, which cluster: local, auto, HOST:PORT or ray://HOST:10001 (default: local).")
    ] = None,
    hosts: Annotated[int | None, _option("On ray, actors that share the peers (default: one a processor).")] = None,
    gpus_per_host: Annotated[float | None, _option("On ray, GPUs of each actor (default: 0).")] = None,
) -> None:
    """Run a protocol, simulated unless `--on` says otherwise, and store: settings, metrics, models, report.html.

    Names take arguments after a colon: --partition dirichlet:0.3, --topology watts-strogatz:k=4,p=0.1.
    """
    chosen = {
        key: value
        for key, value in locals().items()
        if value is not None and key not in ("out", "name", "sweep", "on", "ray", "hosts", "gpus_per_host")
    }
    from shoal.cli.running import run_and_report
    from shoal.cli.sweeping import check, variants

    if protocol.endswith(".toml"):
        from shoal.simulation.settings import Settings

        del chosen["protocol"]
        read = Settings.read(protocol)
        named, folder = read.pop("name", None), read.pop("out", None)
        name, out, chosen = name or named, out or folder, {**read, **chosen}
    there = {"address": ray, "hosts": hosts, "gpus_per_host": gpus_per_host}
    arms = variants(name, chosen, sweep or ())
    if len(arms) > 1:
        check(arms)
    run_and_report(arms, out or "runs", together=len(arms) > 1, on=on, **there)


_OUT = Annotated[str, typer.Option(help="Folder of run folders; what a later life needs lies there, too.")]
_ID = Annotated[int | None, _option("Which peer to be (default: any that is free; `up`: the server, or 0).")]
_DATA = Annotated[
    Path | None, _option("Own data, .npz or .safetensors with inputs and targets (default: its part of the task's).")
]
_KEY = Annotated[Path | None, _option("File of the secret key, made if it is not there (default: one in the folder).")]
_BIND = Annotated[str | None, _option("Address and port to listen at, e.g. 0.0.0.0:4433.")]
_DEVICE = Annotated[str | None, _option("Torch device (default: cpu).")]
_HTTP = Annotated[str, typer.Option(metavar="HOST:PORT|off", help="Where the page is that shows how it goes.")]
_PAGE = "127.0.0.1:0"


@app.command()
def up(
    experiment: Annotated[str, typer.Argument(help="A settings file.toml, with a table [net] if you like.")],
    id: _ID = None,
    data: _DATA = None,
    name: Annotated[
        str | None, _option("What the run is called (default: the file's, or the protocol's name).")
    ] = None,
    out: Annotated[str | None, _option("Folder of run folders (default: the file's, or runs).")] = None,
    key: _KEY = None,
    bind: _BIND = None,
    device: _DEVICE = None,
    http: _HTTP = _PAGE,
) -> None:
    """Open an experiment to other machines: print the ticket by which they join, and live there as a peer.

    The same command again in the same place goes on where it was left.
    """
    from shoal.cli import deploying

    deploying.up(experiment, name, deploying.Options(out, id, data, key, bind, device, http))


@app.command()
def join(
    ticket: Annotated[str, typer.Argument(help="The word that `shoal up` printed, or a file that holds it.")],
    id: _ID = None,
    data: _DATA = None,
    out: _OUT = "runs",
    key: _KEY = None,
    bind: _BIND = None,
    device: _DEVICE = None,
    timeout: Annotated[float, typer.Option(help="Seconds to try to get in.")] = 30.0,
    http: _HTTP = _PAGE,
) -> None:
    """Join an experiment by a ticket, and live there as a peer, with data of one's own.

    The same command again in the same place goes on where it was left.
    """
    from shoal.cli import deploying

    deploying.join(ticket, timeout, deploying.Options(out, id, data, key, bind, device, http))


@app.command("key")
def key_command(file: Annotated[Path, typer.Argument(help="File of a secret key, made if it is not there.")]) -> None:
    """Print the public key of a secret one, as an allow-list wants it."""
    from shoal.cli.deploying import show_key

    typer.echo(show_key(file))


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder of run folders.")] = "runs",
    peers: Annotated[int, typer.Option("--peers", "-n", help="Number of peers.")] = 32,
    rounds: Annotated[int, typer.Option("--rounds", "-r", help="Number of rounds.")] = 40,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of everything.")] = 0,
) -> None:
    """The main job: gossip, FedAvg and everybody alone, side by side, on skewed shards and home broadband."""
    from shoal.cli.running import run_and_report

    common = {
        "task": "fashion-mnist",
        "peers": peers,
        "partition": "dirichlet:0.3",
        "network": "broadband",
        "rounds": rounds,
        "seed": seed,
    }
    arms = {
        "gossip": {"protocol": "gossip:steps=10", "topology": "exponential"},
        "fedavg": {"protocol": "fedavg:fraction=1.0,steps=10"},
        "alone": {"protocol": "isolated:steps=10"},
    }
    run_and_report([(name, {**common, **arm}) for name, arm in arms.items()], out, together=True)


@app.command()
def watch(
    where: Annotated[
        str | None, typer.Argument(help="Address of a page, or a run folder (default: the newest in runs).")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what there is now, and leave.")] = False,
) -> None:
    """Show a run on real machines, live: who is here, rounds, metrics, bytes, what happened."""
    from shoal.cli.watching import watch_run

    watch_run(where, once=once)


@app.command()
def diagnose(
    task: Annotated[
        str, typer.Argument(help="What is learned, as of `shoal run`, or module:function for your own.")
    ] = "fashion-mnist",
    model: Annotated[str | None, _option("Model (default: the task's own).")] = None,
    optimizer: Annotated[str, _option("Optimizer, as of `shoal optim` (default: adamw).")] = "adamw",
    lr: Annotated[float | None, _option("Learning rate (default: the optimizer's own).")] = None,
    only: Annotated[
        str | None, _option(f"Instruments, e.g. noise,opposing; of {', '.join(INSTRUMENTS)} (default: all).")
    ] = None,
    steps: Annotated[int, _option("Steps of the training (default: 100).")] = 100,
    batch: Annotated[int, _option("Samples a step (default: 64).")] = 64,
    samples: Annotated[int, _option("Samples that curvature is measured on (default: 256).")] = 256,
    seed: Annotated[int, _option("Seed of everything (default: 0).", "--seed", "-s")] = 0,
    device: Annotated[str, _option("Torch device (default: cpu).")] = "cpu",
    out: Annotated[Path, _option("Folder to write to (default: diagnosis).")] = Path("diagnosis"),
) -> None:
    """Train a model for a while, and tell what instruments see: curvature, gradient noise, rare classes, outliers.

    Writes diagnosis.json and report.html. Your own function returns a Task, or (model, data, loss) with data a pair of
    tensors and loss(output, target) one number a sample. Ctrl-C leaves what was found until then.
    """
    from shoal.cli.diagnosing import run_diagnosis

    chosen = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    run_diagnosis(
        task,
        out,
        model=model,
        optimizer=optimizer,
        lr=lr,
        only=chosen,
        steps=steps,
        batch=batch,
        samples=samples,
        seed=seed,
        device=device,
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")],
    out: Annotated[Path | None, typer.Option(help="Also write a report.html of all of them here.")] = None,
) -> None:
    """Print a table of runs side by side."""
    from shoal.cli.running import leave_out, print_table
    from shoal.report import discover, write_report

    found = discover(runs, leave_out)
    print_table(found)
    if out is not None:
        with writing(out):
            typer.echo(f"report: {write_report(found, out)}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")],
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("report.html"),
) -> None:
    """Write one self-contained report.html of one or several runs."""
    from shoal.cli.running import leave_out
    from shoal.report import discover, write_report

    found = discover(runs, leave_out)
    with writing(out):
        typer.echo(f"report: {write_report(found, out)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[str, typer.Option(help="csv, parquet or tensorboard.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File, or folder for tensorboard (default: inside the run folder).")
    ] = None,
) -> None:
    """Export a run's metrics to CSV, Parquet or TensorBoard."""
    from shoal.report import RunFolder, to_csv, to_parquet, to_tensorboard

    ways = {
        "csv": (to_csv, "export.csv"),
        "parquet": (to_parquet, "metrics.parquet"),
        "tensorboard": (to_tensorboard, "tensorboard"),
    }
    if to not in ways:
        raise ValueError(f"to: got {to!r}{names.suggestion(to, ways)}")
    write, default = ways[to]
    target = out or run / default
    folder = RunFolder(run)
    with writing(target):
        typer.echo(f"written: {write(folder, target)}")


@app.command("list")
def list_names(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(names.KINDS)}; default: all.")] = None,
) -> None:
    """List what can be named, with its arguments."""
    if kind is not None and kind not in names.KINDS:
        raise ValueError(f"kind: {kind!r} is unknown{names.suggestion(kind, names.KINDS)}")
    for title in [kind] if kind else names.KINDS:
        typer.echo(f"{title}")
        for name, entry in names.KINDS[title].items():
            arguments = ":" + ",".join(entry.positional) if entry.positional else ""
            typer.echo(f"  {name + arguments:<34} {entry.help}")


@app.command()
def papers(
    kind: Annotated[str | None, typer.Option(help="Only this kind, e.g. federated.")] = None,
    state: Annotated[str | None, typer.Option(help="Only: holds, partly, 'does not hold' or 'not yet'.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Write a page with all results and a picture each.")] = None,
) -> None:
    """The ledger: every publication, and whether its claim holds here."""
    from shoal.papers.ledger import print_ledger

    if gallery is not None:
        from shoal.cli.progress import stages
        from shoal.papers.gallery import write_gallery

        with writing(gallery), stages() as show:
            page = write_gallery(gallery, partial(show, "pictures"))
        typer.echo(f"gallery: {page}")
        return
    print_ledger(kind, state)


@app.command()
def reproduce(
    paper: Annotated[str | None, typer.Argument(help="Slug, number or arXiv id of a publication.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are reproduced.")] = False,
    scale: Annotated[str, typer.Option(help="check (seconds) or full (as stored in the ledger).")] = "check",
    store: Annotated[bool, typer.Option("--store", help="Store the result in the ledger (full scale only).")] = False,
) -> None:
    """Run a publication's claim here and now, beside the stored and the published figures."""
    from shoal.papers.ledger import reproduce_papers

    reproduce_papers(paper, everything=everything, scale=scale, store=store)
