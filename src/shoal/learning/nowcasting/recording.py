"""Recording training runs: the weights of small models every few steps of Adam, each run a safetensors file."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from shoal.files import check_folder, write_tensors
from shoal.learning.nowcasting.zoo import FAMILIES, task
from shoal.optim import Adam

KEY = "shoal.trajectory"
Tell = Callable[[int, int, str], object]
"""Told after each piece of work: how many are done, of how many, and a few words."""


@dataclass(frozen=True)
class Recording:
    """How runs are recorded.

    Attributes:
        steps: of each run.
        every: steps from one state to the next, at most all; the first is before the first step.
        batch: samples a step.
        rates: learning rates are drawn from here, evenly on a logarithmic scale.
        families: which runs, in turn; see `shoal.learning.nowcasting.zoo.FAMILIES`.
        seed: of everything.
    """

    steps: int = 1000
    every: int = 5
    batch: int = 64
    rates: tuple[float, float] = (1e-3, 1e-2)
    families: Sequence[str] = tuple(FAMILIES)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "every", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; a whole number >= 1 is allowed")
        if self.every > self.steps:
            raise ValueError(f"every: got {self.every}; at most the {self.steps} steps of a run are allowed")
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or not self.families:
            raise ValueError(f"families: got {', '.join(unknown) or 'none'}; allowed are {', '.join(FAMILIES)}")
        low, high = self.rates
        if not 0.0 < low <= high:
            raise ValueError(f"rates: got {low}, {high}; 0 < lowest <= highest is allowed")


def record(folder: str | Path, runs: int, how: Recording | None = None, tell: Tell = lambda *_: None) -> list[Path]:
    """Train and record runs that are not in the folder yet; run i is the same however many there are.

    Args:
        folder: of the files, "00000.safetensors" and so on.
        runs: how many there shall be.
        how: settings.
        tell: told of progress.

    Returns:
        Files of all runs. One that diverged has none.

    Raises:
        OSError: the folder cannot be written to; nothing is trained then.
        ValueError: an argument is not allowed, or the folder has runs of other settings.
    """
    if runs < 1:
        raise ValueError(f"runs: got {runs}; a whole number >= 1 is allowed")
    how = how or Recording()
    check_folder(Path(folder))
    _same_settings(Path(folder), how)
    found = []
    for number in range(runs):
        path = Path(folder) / f"{number:05d}.safetensors"
        family = how.families[number % len(how.families)]
        if not path.exists():
            draw = random.Random(f"{how.seed} {number}")
            settings = FAMILIES[family](draw)
            low, high = how.rates
            lr = math.exp(draw.uniform(math.log(low), math.log(high)))
            seed = draw.randrange(1 << 30)
            states, losses = trajectory(settings, lr, seed, how)
            if not math.isfinite(losses[-1]) or not bool(states.isfinite().all()):
                continue
            told = {"settings": settings, "lr": lr, "seed": seed, "number": number, "how": asdict(how)}
            _write(path, states, losses, told)
        found.append(path)
        tell(number + 1, runs, family)
    return found


def _same_settings(folder: Path, how: Recording) -> None:
    """Refuse a folder with runs of other settings."""
    wanted = json.loads(json.dumps(asdict(how)))
    for run in _read(folder):
        found = run.about["how"]
        other = next((name for name in wanted if found.get(name) != wanted[name]), None)
        if other is not None:
            raise ValueError(
                f"folder: {run.path} was recorded with {other} {found.get(other)}, not {wanted[other]}; the same "
                "settings, or another folder, are allowed"
            )


def trajectory(settings: dict[str, Any], lr: float, seed: int, how: Recording) -> tuple[Tensor, list[float]]:
    """States float32 [T, P] of one run, and its losses at each step."""
    work = task(settings)
    model = work.initial(seed)
    optimizer = Adam(model.parameters(), lr=lr)
    data, draw = work.dataset.train, torch.Generator().manual_seed(seed)
    states, losses = [], []
    for step in range(how.steps + 1):
        if step % how.every == 0:
            states.append(parameters_to_vector(model.parameters()).detach())
        if step == how.steps:
            break
        rows = torch.randint(len(data), (how.batch,), generator=draw)
        loss = work.loss(model(data.inputs[rows]), data.targets[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.stack(states), losses


def _write(path: Path, states: Tensor, losses: list[float], told: dict[str, Any]) -> None:
    write_tensors(path, {"states": states, "losses": torch.tensor(losses)}, {KEY: json.dumps(told)})


@dataclass(frozen=True)
class Trajectory:
    """A recorded run, read where it is needed.

    Attributes:
        path: of its file.
        length: states in it.
        size: parameters of the model.
        about: settings of the model, learning rate and seed.
    """

    path: Path
    length: int
    size: int
    about: dict[str, Any]

    def states(self, first: int, last: int, stride: int = 1) -> Tensor:
        """States [P, T] from `first` up to `last`, which is not among them."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            part: Tensor = file.get_slice("states")[first:last]
        return part[::stride].T.contiguous()


def trajectories(folder: str | Path) -> list[Trajectory]:
    """All runs in a folder, in the order of their names.

    Raises:
        ValueError: there is none, or a file is not a recorded run.
    """
    found = list(_read(Path(folder)))
    if not found:
        raise ValueError(f"folder: there is no recorded run in {folder}; `shoal nowcast record` makes some")
    return found


def _read(folder: Path) -> Iterator[Trajectory]:
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads((file.metadata() or {})[KEY])
                length, size = file.get_slice("states").get_shape()
        except (SafetensorError, OSError, json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"folder: {path} is no recorded run ({error})") from None
        yield Trajectory(path, length, size, told)
