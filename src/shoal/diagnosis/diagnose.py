"""From names to a diagnosis: train for a while, apply the instruments, write what they say."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import shoal
from shoal.diagnosis.measures import FED, MEASURES, Bench, Followed, NotApplicable
from shoal.diagnosis.subject import Subject, subject
from shoal.files import check_folder
from shoal.instruments.stepping import Stepper
from shoal.interrupt import deferred
from shoal.learning import Task
from shoal.names import suggestion
from shoal.optim import Rule
from shoal.optim.core.arguments import whole
from shoal.report.diagnosis import write_diagnosis, write_numbers
from shoal.report.sections import Section
from shoal.tensors.random import integers, key

FORMAT = 1
LOOKS = 5  # times that a training is looked at
GROWN = 0.5  # of the first loss: a training whose loss has grown by more does not go well


@dataclass(frozen=True)
class Diagnosis:
    """What the instruments said; everything is numbers, words, lists and dictionaries of them.

    Attributes:
        subject: task, optimizer, learning rate, size of the model, data.
        settings: of the measurements.
        training: the batch's loss at each step; the steps that were looked at, and the loss there on the samples that
            curvature is measured on; whether it ended in what is no number (diverged), or with a larger loss (grew).
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
        task: a name as of `shoal run`, `module:function` for one's own (see `subject.own`), or a `Task`.
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
        ValueError: an argument is not allowed, or `out` cannot be written to, which is found out at first.
        Interrupted: a KeyboardInterrupt that carries what there is so far; the numbers are written, and the page is
            that of the instruments before.

    Example:
        >>> found = diagnose("digits", optimizer="adam", steps=20, samples=64, only=["noise"])
        >>> 0 < found.found["noise"]["looks"][-1]["simple"] < 100_000
        True
    """
    for name, value, least in (("steps", steps, 2), ("batch", batch, 1), ("samples", samples, 8), ("seed", seed, 0)):
        if not whole(least)(value):
            raise ValueError(f"{name}: got {value!r}; a whole number >= {least} is allowed")
    chosen = _chosen(only)
    if out is not None:
        try:
            check_folder(Path(out))
        except OSError as error:
            raise ValueError(f"out: cannot write {out}: {error.strerror}") from error
    tell(Progress("preparing", 0, 0))
    about = subject(task, model, optimizer, lr, steps, device)
    started = Diagnosis(_described(about), {"steps": steps, "batch": batch, "samples": samples, "seed": seed})
    running = _Running(started, None if out is None else Path(out), tell)
    bench = Bench(about, steps, batch, samples, seed, running.moved)
    try:
        running.go(bench, chosen)
    except KeyboardInterrupt:
        running.write_numbers()
        raise Interrupted(running.diagnosis) from None
    return running.diagnosis


class _Running:
    """A diagnosis under way. While it computes, Ctrl-C waits for the end of a step; while it writes, for nothing."""

    def __init__(self, started: Diagnosis, out: Path | None, tell: Tell) -> None:
        self.diagnosis = started
        self._asked, self._out, self._tell, self._drawn = list[bool](), out, tell, dict[str, Section]()

    def go(self, bench: Bench, chosen: Sequence[str]) -> None:
        """Train, then measure."""
        with deferred() as self._asked:
            self._train(bench, followed="directions" in chosen)
        self.write()
        for name in chosen:
            with deferred() as self._asked:
                self._measure(bench, name)
            self.diagnosis = replace(self.diagnosis, finished=name == chosen[-1])
            self.write()

    def moved(self, stage: str, done: int, total: int) -> None:
        """Tell how far it is, and stop if that was asked for."""
        self._tell(Progress(stage, done, total))
        if self._asked:
            raise KeyboardInterrupt

    def write(self) -> None:
        """Write what there is; each section is drawn once."""
        if self._out is not None:
            write_diagnosis(json.loads(self.diagnosis.to_json()), self._out, self._drawn)

    def write_numbers(self) -> None:
        """Write what there is, without drawing; the page stays as it is."""
        if self._out is not None and self.diagnosis.training:
            write_numbers(json.loads(self.diagnosis.to_json()), self._out)

    def _measure(self, bench: Bench, name: str) -> None:
        """Apply an instrument."""
        bench.stage, training, skipped = name, self.diagnosis.training, dict(self.diagnosis.skipped)
        try:
            found = MEASURES[name](bench)
        except NotApplicable as why:
            skipped[name] = str(why)
        except ValueError as why:
            if not (training["diverged"] or training["grew"]):
                raise
            skipped[name] = f"the training diverged ({why})"
        else:
            self.diagnosis = replace(self.diagnosis, found={**self.diagnosis.found, name: found})
        self.diagnosis = replace(self.diagnosis, skipped=skipped)

    def _train(self, bench: Bench, *, followed: bool) -> None:
        """Keep copies of the model along the training, the first of before it, and where other rules would go."""
        about, data, few, steps, seed = bench.about, bench.about.data, bench.few, bench.steps, bench.seed
        model = about.model(seed)
        others = Followed(about, model) if followed else None

        def watch(gradients: list[Tensor]) -> None:
            if others is not None and steps - stepper.steps <= FED:
                others.feed(gradients)

        stepper = Stepper(model, about.task.loss, about.rule, key(seed, "optimizer"), watch)
        marks = sorted({round(i * steps / (LOOKS - 1)) for i in range(LOOKS)})
        losses, looked = [], []
        for t in range(steps + 1):
            if t in marks:
                bench.looks.append((t, copy.deepcopy(stepper.module)))
                looked.append(bench.surface(stepper.module, few).value())
            if t == steps:
                break
            rows = data[integers(key(seed, "batch", t), len(data), bench.batch).to(data.inputs.device)]
            losses.append(float(stepper.step(rows.inputs, rows.targets)[0].mean()))
            if not (math.isfinite(losses[-1]) and stepper.finite):
                break
            self.moved("training", t + 1, steps)
        bench.followed = others
        training = {
            "losses": losses,
            "looks": [t for t, _ in bench.looks],
            "looked": looked,
            "samples": len(few),
            "diverged": len(losses) < steps or not stepper.finite,
            "grew": not looked[-1] <= looked[0] + GROWN * abs(looked[0]),
        }
        self.diagnosis = replace(self.diagnosis, training=training)


def _chosen(only: Sequence[str] | None) -> list[str]:
    if only is None:
        return list(MEASURES)
    if isinstance(only, str):
        raise ValueError(f"only: got {only!r}; a list of names is allowed")
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
