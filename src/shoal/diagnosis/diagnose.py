"""From names to a diagnosis: train for a while, apply the instruments, write what they say."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import shoal
from shoal.diagnosis.measures import FED, MEASURES, Bench, Followed, NotApplicable
from shoal.diagnosis.subject import Subject, subject
from shoal.instruments.stepping import Stepper
from shoal.interrupt import deferred
from shoal.learning import Task
from shoal.names import suggestion
from shoal.optim import Rule
from shoal.report.diagnosis import write_diagnosis
from shoal.tensors.random import integers, key

FORMAT = 1
LOOKS = 5  # times that a training is looked at


@dataclass(frozen=True)
class Diagnosis:
    """What the instruments said; everything is numbers, words, lists and dictionaries of them.

    Attributes:
        subject: task, optimizer, learning rate, size of the model, data.
        settings: of the measurements.
        training: steps, and the batch's loss at each; the steps that were looked at.
        found: instrument -> what it measured.
        skipped: instrument -> why it has nothing to say here.
        finished: whether it came to its end.
    """

    subject: dict[str, Any]
    settings: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    finished: bool = False

    def to_json(self) -> str:
        """As text; numbers that are none are null."""
        content = {"format": FORMAT, "shoal": shoal.__version__, **asdict(self)}
        return json.dumps(plain(content), indent=1, allow_nan=False) + "\n"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a diagnosis; `diagnosis` is what there was by then."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__("the diagnosis was interrupted")
        self.diagnosis = diagnosis


@dataclass(frozen=True)
class Progress:
    """How far it is: what is done now, and how much of that; the total is 0 where nobody knows."""

    stage: str
    done: int
    total: int


Tell = Callable[[Progress], None]


def diagnose(
    task: str | Task = "fashion-mnist",
    *,
    model: str | None = None,
    optimizer: str | Rule = "adamw",
    lr: float | None = None,
    steps: int = 100,
    batch: int = 64,
    samples: int = 256,
    only: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    out: str | Path | None = None,
    tell: Tell = lambda progress: None,
) -> Diagnosis:
    """Train for a while, and apply the instruments.

    Args:
        task: a name as of `shoal run`, `package.module:function` for one's own (see `subject.own`), or a `Task`.
        model: a name; None: the task's own.
        optimizer: a name as of `shoal run`, or a `Rule`.
        lr: instead of the optimizer's own learning rate.
        steps: of the training, at least 2.
        batch: samples a step.
        samples: that curvature is measured on, at least 8, fewer of a text; gradients of single samples of four times
            as many.
        only: names of instruments, see `shoal.instruments_by_name`; None: all.
        seed: of model, batches and measurements.
        device: where it is computed.
        out: folder for `diagnosis.json` and `report.html`, which are written as soon as an instrument is done; None:
            nothing is written.
        tell: called with a `Progress` often.

    Raises:
        ValueError: an argument is not allowed.
        Interrupted: a KeyboardInterrupt that carries what there is so far, which is written as well.

    Example:
        >>> found = diagnose("digits", optimizer="adam", steps=20, samples=64, only=["noise"])
        >>> 0 < found.found["noise"]["looks"][-1]["simple"] < 100_000
        True
    """
    for name, value, least in (("steps", steps, 2), ("batch", batch, 1), ("samples", samples, 8), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}: got {value}; at least {least} is allowed")
    chosen = _chosen(only)
    tell(Progress("preparing", 0, 0))
    about = subject(task, model, optimizer, lr, steps, device)
    started = Diagnosis(_described(about), {"steps": steps, "batch": batch, "samples": samples, "seed": seed})
    running = _Running(about, started, None if out is None else Path(out), tell)
    try:
        with deferred() as asked:
            running.asked = asked
            running.go(chosen, steps, batch, samples, seed)
    except KeyboardInterrupt:
        raise Interrupted(running.diagnosis) from None
    finally:
        running.write()
    return running.diagnosis


class _Running:
    """A diagnosis under way."""

    def __init__(self, about: Subject, started: Diagnosis, out: Path | None, tell: Tell) -> None:
        self.diagnosis, self.asked = started, list[bool]()
        self._about, self._out, self._tell = about, out, tell

    def go(self, chosen: Sequence[str], steps: int, batch: int, samples: int, seed: int) -> None:
        """Train, then measure."""
        looks, followed = self._train(steps, batch, seed, followed="directions" in chosen)
        bench = Bench(self._about, looks, followed, steps, batch, samples, seed, self._moved)
        for name in chosen:
            bench.stage = name
            try:
                found = MEASURES[name](bench)
            except NotApplicable as why:
                self.diagnosis = replace(self.diagnosis, skipped={**self.diagnosis.skipped, name: str(why)})
            else:
                self.diagnosis = replace(self.diagnosis, found={**self.diagnosis.found, name: found})
            if name != chosen[-1]:
                self.write()
        self.diagnosis = replace(self.diagnosis, finished=True)

    def write(self) -> None:
        """Write what there is."""
        if self._out is not None and self.diagnosis.training:
            write_diagnosis(json.loads(self.diagnosis.to_json()), self._out)

    def _train(
        self, steps: int, batch: int, seed: int, *, followed: bool
    ) -> tuple[list[tuple[int, nn.Module]], Followed | None]:
        """Copies of the model along the training, the first of before it; and where other rules would have gone."""
        about, data = self._about, self._about.data
        model = about.model(seed)
        others = Followed(about, model) if followed else None

        def watch(gradients: list[Tensor]) -> None:
            if others is not None and steps - stepper.steps <= FED:
                others.feed(gradients)

        stepper = Stepper(model, about.task.loss, about.rule, key(seed, "optimizer"), watch)
        marks = sorted({round(i * steps / (LOOKS - 1)) for i in range(LOOKS)})
        looks, losses = [], []
        for t in range(steps + 1):
            if t in marks:
                looks.append((t, copy.deepcopy(stepper.module)))
            if t == steps:
                break
            rows = data[integers(key(seed, "batch", t), len(data), batch).to(data.inputs.device)]
            losses.append(float(stepper.step(rows.inputs, rows.targets)[0].mean()))
            if not (math.isfinite(losses[-1]) and stepper.finite):
                break
            self._moved("training", t + 1, steps)
        training = {
            "losses": losses,
            "looks": [t for t, _ in looks],
            "diverged": len(losses) < steps or not stepper.finite,
        }
        self.diagnosis = replace(self.diagnosis, training=training)
        return looks, others

    def _moved(self, stage: str, done: int, total: int) -> None:
        self._tell(Progress(stage, done, total))
        if self.asked:
            raise KeyboardInterrupt


def _chosen(only: Sequence[str] | None) -> list[str]:
    if only is None:
        return list(MEASURES)
    for name in only:
        if name not in MEASURES:
            raise ValueError(f"only: {name!r} is unknown{suggestion(name, MEASURES)}")
    if not only:
        raise ValueError(f"only: got none; allowed are {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in only]


def _described(about: Subject) -> dict[str, Any]:
    dataset = about.task.dataset
    trained = [p for p in about.model(0).parameters() if p.requires_grad]
    return {
        "task": about.task.name,
        "source": dataset.source,
        "samples": len(dataset.train),
        "classes": dataset.classes,
        "parameters": sum(p.numel() for p in trained),
        "optimizer": about.optimizer,
        "lr": about.rule.lr,
    }


def plain(value: Any) -> Any:
    """The same content, with None for numbers that are none."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
