"""Training nowcasters on recorded runs: L1 loss over all future states that were recorded, AdamW, cosine schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.files import check_file
from shoal.interrupt import deferred
from shoal.learning.nowcasting.recording import Tell, Trajectory, trajectories
from shoal.learning.nowcasting.zoo import task
from shoal.optim import AdamW, warmup_cosine
from shoal.optim.nino.files import save
from shoal.optim.nino.graph import NeuralGraph
from shoal.optim.nino.network import NETWORKS, Nowcaster, Shape
from shoal.optim.nino.scaling import scaled
from shoal.optim.nino.tracing import neural_graph

LEAST = 10  # future states that a slice has at least


@dataclass(frozen=True)
class Meta:
    """How a nowcaster is trained.

    Attributes:
        network: "graph" (NiNo's) or "single" (WNN+).
        steps: of AdamW.
        runs, slices: of each batch, and of each of its runs; slices of a run begin one state after the other.
        strides: recorded states from one state of a slice to the next; one is drawn for each run of a batch.
        largest: parameters of a model at most; runs of larger ones are left out.
        lr, weight_decay: of AdamW; the rate falls to 0 along a cosine.
        clip: norm beyond which the gradient is shortened.
        held: share of the runs that are not trained on, from the end.
        seed: of everything.
    """

    network: str = "graph"
    steps: int = 20_000
    runs: int = 4
    slices: int = 4
    strides: Sequence[int] = (1, 2, 4)
    largest: int = 1_000_000
    lr: float = 3e-3
    weight_decay: float = 0.01
    clip: float = 5.0
    held: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network: got {self.network!r}; allowed are {', '.join(NETWORKS)}")
        for name in ("steps", "runs", "slices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; a whole number >= 1 is allowed")
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"strides: got {list(self.strides)}; whole numbers >= 1 are allowed")
        if not 0.0 <= self.held < 1.0:
            raise ValueError(f"held: got {self.held}; a share in [0, 1) is allowed")


@dataclass(frozen=True)
class Slice:
    """Some states of one run, and what came after them, in scaled units.

    Attributes:
        graph: of its model.
        states: [P, B, c].
        ahead: residuals to the last state, [P, B, K].
        there: which of them were recorded, bool [B, K].
    """

    graph: NeuralGraph
    states: Tensor
    ahead: Tensor
    there: Tensor

    def error(self, residuals: Tensor) -> Tensor:
        """Mean absolute error of residuals [P, B, K] over all that was recorded."""
        return ((residuals - self.ahead).abs() * self.there).sum() / (self.there.sum() * len(self.ahead))


def train(
    folder: str | Path,
    out: str | Path,
    shape: Shape | None = None,
    how: Meta | None = None,
    tell: Tell = lambda *_: None,
) -> Nowcaster:
    """Train a nowcaster, and write it now and then. Ctrl-C leaves the last that was written.

    Args:
        folder: of recorded runs.
        out: file of the nowcaster.
        shape: of the network.
        how: settings.
        tell: told of progress.

    Raises:
        OSError: the file cannot be written; nothing is trained then.
        ValueError: there is no run, or none is long enough, or the training diverged (what was written before stays).
        KeyboardInterrupt: Ctrl-C, after the state of the moment was written.
    """
    shape, how = shape or Shape(), how or Meta()
    check_file(Path(out))
    training, held = chosen(folder, how)
    network = initial(shape, how)
    optimizer = AdamW(network.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    rate, draw = warmup_cosine(how.lr, steps=how.steps), torch.Generator().manual_seed(how.seed)
    told: dict[str, Any] = {"runs": len(training), "recorded": training[0].about["how"], "settings": asdict(how)}
    course = Course()
    with deferred() as asked:
        for step in range(how.steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            optimizer.zero_grad()
            error, still = accumulated(network, batch(training, shape, how, draw), how, draw)
            course.add(_finite(error, how), still)
            torch.nn.utils.clip_grad_norm_(network.parameters(), how.clip)
            optimizer.step()
            tell(step + 1, how.steps, course.words())
            if (step + 1) % 100 == 0 or asked:
                save(network, out, told | course.about(step + 1))
            if asked:
                break
    found = errors(network, held or training, how)
    _finite(found["nowcaster"], how)
    save(network, out, told | course.about(how.steps) | {"errors": found})
    return network


def _finite(error: float, how: Meta) -> float:
    if not math.isfinite(error):
        raise ValueError(f"lr: got {how.lr}, with which the training diverged; a smaller one is needed")
    return error


def chosen(folder: str | Path, how: Meta) -> tuple[list[Trajectory], list[Trajectory]]:
    """Runs of a folder that are trained on, and those that are held out.

    Raises:
        ValueError: there is no run, or all are of larger models.
    """
    runs = [run for run in trajectories(folder) if run.size <= how.largest]
    if not runs:
        raise ValueError(f"largest: got {how.largest}; every run in {folder} is of a larger model")
    count = len(runs) - int(how.held * len(runs))
    return runs[:count], runs[count:]


def initial(shape: Shape, how: Meta) -> Nowcaster:
    """The network before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        return NETWORKS[how.network](shape)


def accumulated(network: Nowcaster, slices: Iterator[Slice], how: Meta, draw: torch.Generator) -> tuple[float, float]:
    """Add the gradient of a batch to that of the network; returns the batch's error, and that of the last state."""
    error = still = 0.0
    for one in slices:
        signs = torch.randint(0, 2, (network.shape.positions,), generator=draw) * 2.0 - 1.0
        loss = one.error(network(one.graph, one.states, signs=signs)) / how.runs
        loss.backward()
        error += loss.item()
        still += one.error(torch.zeros_like(one.ahead)).item() / how.runs
    return error, still


class Course:
    """How training goes: errors of the network and of the last state, step by step, and the time."""

    def __init__(self) -> None:
        self._errors: list[float] = []
        self._still: list[float] = []
        self._began = time.monotonic()

    def add(self, error: float, still: float) -> None:
        """Note a step."""
        self._errors.append(error)
        self._still.append(still)

    def words(self) -> str:
        """The last 50 steps."""
        return f"error {sum(self._errors[-50:]) / sum(self._still[-50:]):.3f} of the last state's"

    def about(self, step: int) -> dict[str, Any]:
        """The last 200 steps, for the file."""
        recent, still = self._errors[-200:], self._still[-200:]
        seconds = round(time.monotonic() - self._began)
        means = {"loss": sum(recent) / len(recent), "last_state": sum(still) / len(still)}
        return {"step": step, **means, "seconds": seconds}


def batch(runs: Sequence[Trajectory], shape: Shape, how: Meta, draw: torch.Generator) -> Iterator[Slice]:
    """Slices of `how.runs` runs that are drawn."""
    for _ in range(how.runs):
        run = runs[int(torch.randint(len(runs), (), generator=draw))]
        least = shape.states + min(shape.horizon, LEAST) + how.slices - 1
        fitting = [stride for stride in how.strides if stride * (least - 1) < run.length]
        if not fitting:
            raise ValueError(f"folder: {run.path} has {run.length} states; {least} at least are needed")
        stride = fitting[int(torch.randint(len(fitting), (), generator=draw))]
        first = int(torch.randint(run.length - stride * (least - 1), (), generator=draw))
        yield cut(run, first, stride, how.slices, shape)


def cut(run: Trajectory, first: int, stride: int, slices: int, shape: Shape) -> Slice:
    """Slices that begin at the states first, first + stride, ...; futures end where the run does."""
    graph = graph_of(_key(run.about["settings"]), shape.slots, shape.positions)
    length = shape.states + shape.horizon + slices - 1
    states = run.states(first, first + stride * (length - 1) + 1, stride)
    missing = length - states.shape[1]
    windows = F.pad(states, (0, missing)).unfold(1, shape.states + shape.horizon, 1)
    past, ahead = windows[..., : shape.states], windows[..., shape.states :]
    scaled_past, _, spreads = scaled(past, graph.sizes)
    there = torch.arange(slices)[:, None] + shape.states + torch.arange(shape.horizon) < length - missing
    residuals = (ahead - past[..., -1:]) / spreads[..., None]
    return Slice(graph, scaled_past, torch.where(there, residuals, 0.0), there)


@cache
def graph_of(settings: tuple[tuple[str, Any], ...], slots: int, positions: int) -> NeuralGraph:
    """The graph of a model of the zoo."""
    work = task(dict(settings))
    return neural_graph(work.initial(0), work.dataset.train.inputs[:1], slots=slots, positions=positions)


def _key(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


@torch.no_grad()
def errors(network: Nowcaster, runs: Sequence[Trajectory], how: Meta) -> dict[str, float]:
    """Mean absolute errors in scaled units on runs: of the nowcaster, of the last state, of linear extrapolation."""
    forecasts: dict[str, Callable[[Slice], Tensor]] = {
        "nowcaster": lambda one: network(one.graph, one.states),
        "last state": lambda one: torch.zeros_like(one.ahead),
        "linear": lambda one: linear(one.states, network.shape.horizon),
    }
    draw, total = torch.Generator().manual_seed(how.seed + 1), dict.fromkeys(forecasts, 0.0)
    count = 0
    for _ in range(8):
        for one in batch(runs, network.shape, how, draw):
            count += 1
            for name, forecast in forecasts.items():
                total[name] += float(one.error(forecast(one)))
    return {name: value / count for name, value in total.items()}


def linear(states: Tensor, horizon: int) -> Tensor:
    """Residuals [P, B, K] of the line through the first and the last of the states [P, B, c]."""
    slope = (states[..., -1:] - states[..., :1]) / (states.shape[-1] - 1)
    return slope * torch.arange(1, horizon + 1)
