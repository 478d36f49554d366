"""What a comparison of optimizers found: tuning curves, test scores, curves of training; as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from shoal.metrics import higher_is_better

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from rich.table import Table

Edge = Literal["", "low", "high"]
MISSING = "–"
EDGES: dict[Edge, str] = {"": "", "low": " ↓", "high": " ↑"}


@dataclass(frozen=True)
class Trial:
    """One setting that was tried, on validation data.

    Attributes:
        lr: learning rate (the peak, if there is a schedule).
        settings: further settings that were searched.
        scores: the metric of each tuning seed; the worst there is for a run that diverged.
        losses: the loss alike.
        diverged: runs that did.
    """

    lr: float
    settings: dict[str, Any] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    diverged: int = 0

    @property
    def mean(self) -> float:
        """Mean score."""
        return mean(self.scores)

    @property
    def loss(self) -> float:
        """Mean loss; infinite if a run diverged."""
        return mean(self.losses)

    @property
    def spread(self) -> float:
        """Standard deviation of the scores over seeds; NaN for one seed."""
        return deviation(self.scores)


@dataclass(frozen=True)
class Tested:
    """One run of the best setting with a seed that was not tuned on.

    Attributes:
        seed: its seed.
        score, loss: metric and loss on test data at the end; the worst there is if the run diverged.
        diverged: whether it did.
        train_losses: mean training loss between one evaluation and the next; up to where the run diverged.
        curve: the metric at each evaluation, likewise.
    """

    seed: int
    score: float
    loss: float
    diverged: bool
    train_losses: tuple[float, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """How one contender fared.

    Attributes:
        name: as it was given.
        settings: those that were the same in all its trials.
        schedule: name of its own schedule, if it has one.
        trials: what was tried; without scores where nothing was tuned.
        best: index of the trial that was chosen; None before tuning is done.
        at_edge: whether its rate is the lowest ("low") or the highest ("high") of several: the best one may lie beyond.
        tests: one a seed, those that are done.
        path, why: "batched" or "one by one", and the reason.
        state_bytes: bytes that the optimizer keeps for each parameter; None where that is unknown.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    schedule: str = ""
    trials: tuple[Trial, ...] = ()
    best: int | None = None
    at_edge: Edge = ""
    tests: tuple[Tested, ...] = ()
    path: str = ""
    why: str = ""
    state_bytes: float | None = None

    @property
    def chosen(self) -> Trial:
        """The trial that was chosen.

        Raises:
            ValueError: tuning was not done.
        """
        if self.best is None:
            raise ValueError(f"{self.name}: tuning was not done, so nothing was chosen")
        return self.trials[self.best]

    @property
    def lr(self) -> float:
        """The learning rate that was chosen."""
        return self.chosen.lr

    @property
    def scores(self) -> tuple[float, ...]:
        """Test metric of each seed."""
        return tuple(test.score for test in self.tests)

    @property
    def mean(self) -> float:
        """Mean test metric; NaN before any test."""
        return mean(self.scores)

    @property
    def stderr(self) -> float:
        """Standard error of the mean test metric; NaN for one seed."""
        return deviation(self.scores) / math.sqrt(max(1, len(self.scores)))

    @property
    def loss(self) -> float:
        """Mean test loss; infinite if a run diverged."""
        return mean(tuple(test.loss for test in self.tests))

    @property
    def diverged(self) -> int:
        """Test runs that diverged."""
        return sum(test.diverged for test in self.tests)

    @property
    def train_losses(self) -> tuple[float, ...]:
        """Mean training loss over seeds between one evaluation and the next, as long as no run has diverged."""
        return columns(tuple(test.train_losses for test in self.tests))

    @property
    def curve(self) -> tuple[float, ...]:
        """Mean test metric over seeds at each evaluation, as long as no run has diverged."""
        return columns(tuple(test.curve for test in self.tests))


@dataclass(frozen=True)
class Comparison:
    """What was compared, how, and how it came out.

    Attributes:
        task, source: name of the task, and where its data came from.
        metric: what decided.
        steps, batch: of every run; batch None is all samples.
        schedule: name of the learning rate's schedule.
        seeds, tuning_seeds: of the test runs, and of tuning.
        samples: numbers of samples: "train" (all), "validation" (those of them held out for tuning) and "test".
        parameters: of the model.
        evaluated: the steps after which test runs were evaluated.
        entries: one a contender, in the order in which they were given.
        finished: False if it was interrupted.
    """

    task: str
    source: str
    metric: str
    steps: int
    batch: int | None
    schedule: str
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    samples: dict[str, int]
    parameters: int
    evaluated: tuple[int, ...]
    entries: tuple[Entry, ...]
    finished: bool = True

    def __getitem__(self, name: str) -> Entry:
        """The entry of a contender."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the metric is a better one."""
        return higher_is_better(self.metric)

    def ranked(self) -> list[Entry]:
        """Entries by their mean test metric, the best first; those without tests last."""
        sign = -1.0 if self.higher_is_better else 1.0
        return sorted(self.entries, key=lambda entry: (not entry.tests, sign * entry.mean if entry.tests else 0.0))

    def lines(self) -> list[tuple[str, ...]]:
        """The comparison as text: headings, then a line for each contender, the best first.

        An arrow at a learning rate says that it is the lowest or the highest that was tried.
        """
        score, loss = Shown(self.metric), Shown("loss")
        searched = list(dict.fromkeys(name for e in self.entries for trial in e.trials for name in trial.settings))
        heads = ("optimizer", "learning rate", *searched, f"validation {score.label}", f"test {score.label}")
        rows = [(*heads, "test loss", "train loss", "state B/param", "notes")]
        for entry in self.ranked():
            chosen = Trial(math.nan) if entry.best is None else entry.chosen
            last = entry.train_losses[-1:] if not entry.diverged else (math.inf,)
            rows.append(
                (
                    entry.name,
                    loss.show(chosen.lr) + EDGES[entry.at_edge],
                    *(_short(chosen.settings.get(name, MISSING)) for name in searched),
                    score.show(chosen.mean, chosen.spread),
                    score.show(entry.mean, entry.stderr),
                    loss.show(entry.loss),
                    loss.show(mean(last)),
                    MISSING if entry.state_bytes is None else f"{entry.state_bytes:.3g}",
                    _notes(entry),
                )
            )
        return rows

    def table(self, width: int | None = None) -> Table:
        """The same as a table to print with rich: mean ± standard error over seeds.

        Args:
            width: characters a line; where the columns do not fit, the least needed ones are left out.
        """
        from rich.table import Table
        from rich.text import Text

        rows = self.lines()
        rows[0] = tuple(head.replace(" ", "\n", 1) for head in rows[0])
        widest = [max(len(line) for row in rows for line in row[i].split("\n")) for i in range(len(rows[0]))]
        kept = [i for i, head in enumerate(rows[0]) if head != "notes" or widest[i] > len("notes")]
        dropped = ("train\nloss", "state\nB/param", "test\nloss", f"validation\n{Shown(self.metric).label}")
        for head in dropped:
            if width is not None and sum(widest[i] + 2 for i in kept) - 2 > width:
                kept = [i for i in kept if rows[0][i] != head]
        edges = any(entry.at_edge for entry in self.entries)
        caption = "↓ ↑: the lowest, the highest rate that was tried; better ones may lie beyond" if edges else None
        table = Table(
            box=None, header_style="bold", pad_edge=False, caption=caption, caption_style="", caption_justify="left"
        )
        for i in kept:
            side: Literal["left", "right"] = "left" if rows[0][i] in ("optimizer", "notes") else "right"
            table.add_column(Text(rows[0][i]), justify=side, overflow="fold", vertical="bottom")
        for row in rows[1:]:
            table.add_row(*(Text(row[i]) for i in kept))
        return table

    def to_json(self) -> str:
        """The comparison as JSON; the same comparison gives the same text. Infinity is the text "inf"."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """What `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            return _adapter().validate_json(text)
        except ValueError as error:
            raise ValueError(f"not a comparison: {str(error).splitlines()[-1].strip()}") from None


@dataclass(frozen=True)
class Shown:
    """How values of a metric are written: accuracies as percent, the rest to three digits."""

    metric: str

    @property
    def label(self) -> str:
        """The metric's name, with its unit."""
        return f"{self.metric} (%)" if self.scale != 1.0 else self.metric

    @property
    def unit(self) -> str:
        """The unit shown, with the space before it."""
        return " %" if self.scale != 1.0 else ""

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be shown."""
        return 100.0 if "accuracy" in self.metric else 1.0

    def show(self, value: float, spread: float = math.nan) -> str:
        """A value, with its spread if that is known; a dash for NaN.

        >>> Shown("accuracy").show(0.8512, 0.0031), Shown("loss").show(math.inf)
        ('85.1 ± 0.3', 'inf')
        """
        if math.isnan(value):
            return MISSING
        digits, few = (".1f", ".1f") if self.scale != 1.0 else (".3g", ".2g")
        text = f"{self.scale * value:{digits}}"
        return f"{text} ± {self.scale * spread:{few}}" if math.isfinite(spread) else text


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _notes(entry: Entry) -> str:
    notes = []
    if entry.diverged:
        notes.append(f"{entry.diverged} of {len(entry.tests)} runs diverged")
    if not entry.tests:
        notes.append("not tested")
    return "; ".join(notes)


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; NaN of less than two values, or if one is infinite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def columns(curves: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean of several curves, as far as all of them go."""
    return tuple(mean(values) for values in zip(*curves, strict=False)) if curves else ()


def _finite(value: Any) -> Any:
    """The value with text for what JSON has no numbers for."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _adapter() -> TypeAdapter[Comparison]:
    from pydantic import TypeAdapter

    return TypeAdapter(Comparison)
