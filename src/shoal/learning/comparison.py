"""Optimizers compared fairly: the same budget of tuning, the same batches, models and steps, and test data at the end.

    1. Every contender tries the same number of settings (learning rates, and more if asked for) with the tuning
       seeds; a part of the training data is held out, and the best mean score on it wins.
    2. The winners train anew on all training data, with seeds that were not tuned on, and are scored on test data.

For one seed all contenders start from the same model and see the same batches in the same order. A run that diverges
counts as the worst there is: it is neither an error nor left out. The protocol is that of Z. Nado et al., "A Large
Batch Optimizer Reality Check", arXiv:2102.06356 (2021).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from shoal.engine.compute import Pool
from shoal.interrupt import deferred
from shoal.learning.contenders import Contender, Make, MakeSchedule, Point, Span, outside, points
from shoal.learning.data import Data
from shoal.learning.results import Comparison, Edge, Entry, Tested, Trial
from shoal.learning.task import Task
from shoal.learning.trials import Bench, Outcome
from shoal.metrics import higher_is_better
from shoal.optim.core.arguments import whole
from shoal.optim.schedules import constant
from shoal.tensors.random import key, permutation
from shoal.text import shown

EXTENSIONS = 3  # times that grids are extended at most
SEARCH = key(0, "comparison", "search")
SPLIT = key(0, "comparison", "validation")

Tell = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far a comparison is.

    Attributes:
        stage: "tuning" or "testing".
        contender: whose turn it is.
        done, total: optimizer steps over all runs; the total grows where grids are extended.
        comparison: what there is so far.
    """

    stage: Literal["tuning", "testing"]
    contender: str
    done: int
    total: int
    comparison: Comparison


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a comparison; `comparison` is what there was by then."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__("the comparison was interrupted")
        self.comparison = comparison


def compare(
    contenders: Mapping[str, Contender | Make],
    task: Task,
    *,
    steps: int,
    batch: int | None,
    rates: Sequence[float] | Span = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    seeds: Sequence[int] = (0, 1, 2),
    tuning_seeds: Sequence[int] = (100,),
    trials: int | None = None,
    extend: bool | int = False,
    schedule: MakeSchedule | None = None,
    validation: float = 0.1,
    evaluate_every: int | None = None,
    metric: str | None = None,
    device: str = "cpu",
    workers: int = 0,
    tell: Tell | None = None,
) -> Comparison:
    """Tune optimizers with equal budgets, then compare them on test data.

    Args:
        contenders: name -> a `Contender`, or just its `make`: a class of `shoal.optim`, a function `lr -> Rule`, a
            function `(params, lr) -> torch.optim.Optimizer`.
        task: model, data, loss and metrics.
        steps: optimizer steps of every run.
        batch: samples a step; None: all of them.
        rates: learning rates to try, for contenders without their own; peaks if there is a schedule.
        seeds: of the test runs; a seed sets the first model, the batches and all other draws.
        tuning_seeds: of the tuning runs; none of `seeds`.
        trials: None tries all points of the grids; else so many are drawn at random from each (or from a `Span`).
        extend: where a best rate is the lowest or highest that was tried, try 2 more (or so many more) beyond that
            end, for all contenders alike, up to 3 times. Grids only, no random search.
        schedule: `peak -> Schedule`, such as `partial(warmup_cosine, warmup_steps=30)`; it gets `steps` if it has an
            argument of that name. Default: `constant`.
        validation: share of the training data that is held out for tuning, in (0, 1); the same in all runs.
        evaluate_every: steps between two evaluations on test data. Default: about 20 evaluations.
        metric: which metric of the task decides, or "loss". Default: the task's first, else the loss.
        device: where it is computed.
        workers: threads; 0: one a core. They do not change results.
        tell: called with a `Progress` now and then.

    Returns:
        The comparison; the same arguments give the same bytes. A contender that tries a single point is not tuned.

    Raises:
        ValueError: an argument is not allowed; contenders do not try equally many points; seeds overlap.
        Interrupted: a KeyboardInterrupt that carries what there is so far.

    Example:
        >>> from shoal.optim import SGD, AdamW
        >>> from shoal.simulation.tasks import digits
        >>> found = compare({"AdamW": AdamW, "SGD": lambda lr: SGD.rule(lr, momentum=0.9)}, digits(),
        ...                 rates=[0.01, 0.03, 0.1], steps=50, batch=32, seeds=[0, 1])
        >>> [entry.name for entry in found.entries], found["AdamW"].mean > 0.8
        (['AdamW', 'SGD'], True)
    """
    _check_kinds(contenders=contenders, task=task, rates=rates, seeds=seeds, tuning_seeds=tuning_seeds)
    chosen = {name: c if isinstance(c, Contender) else Contender(c) for name, c in contenders.items()}
    schedule = schedule or constant
    _check(chosen, seeds, steps, batch, evaluate_every)
    tried = {name: points(contender, rates, trials, SEARCH) for name, contender in chosen.items()}
    _check_tuning(tried, seeds, tuning_seeds, extend=bool(extend), searched=trials is not None)
    rest, held = _split(task.dataset.train, validation)
    started = Comparison(
        task=task.name,
        source=task.dataset.source,
        metric=_deciding(task, metric),
        steps=steps,
        batch=batch,
        schedule=_described(schedule),
        seeds=tuple(seeds),
        tuning_seeds=tuple(tuning_seeds),
        samples={"train": len(task.dataset.train), "validation": len(held), "test": len(task.dataset.test)},
        parameters=sum(p.numel() for p in task.initial(0).parameters()),
        evaluated=tuple(_marks(steps, evaluate_every or max(1, steps // 20))),
        entries=tuple(
            Entry(name, _plain(c.settings), _described(c.schedule) if c.schedule else "") for name, c in chosen.items()
        ),
        finished=False,
    )
    with _computing(workers, device) as (pool, asked):
        make = functools.partial(
            Bench, task, steps=steps, batch=batch, schedule=schedule, metric=started.metric, pool=pool, asked=asked
        )
        running = _Running(chosen, tried, started, tell)
        tuning = make(rest, held)
        for name, contender in chosen.items():  # what cannot be is to be seen now, and not after the others' runs
            try:
                tuning.check(contender, tried[name][0])
            except ValueError as error:
                raise ValueError(f"contenders: {name}: {error}") from error
        try:
            running.tune(tuning, 2 if extend is True else int(extend))
            running.test(make(task.dataset.train, task.dataset.test))
            if asked:
                raise KeyboardInterrupt  # it came too late to stop anything, but somebody wants to stop
        except KeyboardInterrupt:
            raise Interrupted(running.comparison) from None
        return running.comparison


class _Running:
    """A comparison under way; `comparison` is what there is so far."""

    def __init__(
        self,
        contenders: Mapping[str, Contender],
        tried: dict[str, list[Point]],
        comparison: Comparison,
        tell: Tell | None,
    ) -> None:
        self.comparison = comparison
        self._contenders, self._tried, self._tell = contenders, tried, tell
        self._steps = comparison.steps
        self._done = 0
        count = len(next(iter(tried.values())))
        tuning = count * len(comparison.tuning_seeds) if count > 1 else 0
        self._total = len(contenders) * self._steps * (tuning + len(comparison.seeds))

    def tune(self, bench: Bench, more: int) -> None:
        """Try all points, and more of them where a best one is at an edge."""
        untuned = [name for name, found in self._tried.items() if len(found) == 1]
        for name in untuned:
            entry = self.comparison[name]
            self._put(replace(entry, trials=(_trial(self._tried[name][0], []),), best=0))
        if untuned:
            return
        for name, found in self._tried.items():
            self._try(bench, name, found)
        for _ in range(EXTENSIONS if more else 0):
            edges = {entry.at_edge for entry in self.comparison.entries}
            sides = [side for side in ("low", "high") if side in edges]
            if not sides:
                break
            new = {name: _beyond(found, sides, more) for name, found in self._tried.items()}
            self._total += sum(map(len, new.values())) * len(self.comparison.tuning_seeds) * self._steps
            for name, found in new.items():
                self._tried[name] = [*self._tried[name], *found]
                self._try(bench, name, found)

    def _try(self, bench: Bench, name: str, found: Sequence[Point]) -> None:
        """Add points to what was tried of a contender."""
        marks = _marks(self._steps, max(1, -(-self._steps // 8)))
        seeds = self.comparison.tuning_seeds
        tell = functools.partial(self._moved, "tuning", name)
        ran = bench.run(self._contenders[name], found, seeds, marks, curve=False, tell=tell)
        entry, metric = self.comparison[name], self.comparison.metric
        new = [_trial(point, runs) for point, runs in zip(found, ran.outcomes, strict=True)]
        trials = (*entry.trials, *new)
        best = _best(trials, metric)
        entry = replace(entry, trials=trials, best=best, at_edge=_edge(trials, best))
        self._put(replace(entry, path=ran.path, why=ran.why, state_bytes=ran.state_bytes))

    def test(self, bench: Bench) -> None:
        """Train the best anew, and score it on test data."""
        seeds, marks = self.comparison.seeds, self.comparison.evaluated
        for name, contender in self._contenders.items():
            entry = self.comparison[name]
            assert entry.best is not None
            point = self._tried[name][entry.best]
            tell = functools.partial(self._moved, "testing", name)
            ran = bench.run(contender, [point], seeds, marks, curve=True, tell=tell)
            tests = tuple(
                Tested(seed, run.score, run.loss, run.diverged, tuple(run.train_losses), tuple(run.curve))
                for seed, run in zip(seeds, ran.outcomes[0], strict=True)
            )
            self._put(replace(entry, tests=tests, path=ran.path, why=ran.why, state_bytes=ran.state_bytes))
        self.comparison = replace(self.comparison, finished=True)

    def _put(self, entry: Entry) -> None:
        entries = tuple(entry if old.name == entry.name else old for old in self.comparison.entries)
        self.comparison = replace(self.comparison, entries=entries)

    def _moved(self, stage: Literal["tuning", "testing"], name: str, steps: int) -> None:
        self._done += steps
        if self._tell is not None:
            self._tell(Progress(stage, name, self._done, self._total, self.comparison))


# -- choosing ------------------------------------------------------------------------------------------------------


def _trial(point: Point, runs: Sequence[Outcome]) -> Trial:
    return Trial(
        point.lr,
        _plain(point.settings),
        tuple(run.score for run in runs),
        tuple(run.loss for run in runs),
        sum(run.diverged for run in runs),
    )


def _best(trials: Sequence[Trial], metric: str) -> int:
    """The index of the best mean score; of equal ones that of the lower loss, then of the lower rate."""
    sign = -1.0 if higher_is_better(metric) else 1.0
    return min(range(len(trials)), key=lambda i: (sign * trials[i].mean, trials[i].loss, trials[i].lr))


def _edge(trials: Sequence[Trial], best: int) -> Edge:
    rates = {trial.lr for trial in trials}
    if len(rates) == 1:
        return ""
    return {min(rates): "low", max(rates): "high"}.get(trials[best].lr, "")  # type: ignore[return-value]


def _beyond(found: Sequence[Point], sides: Sequence[str], more: int) -> list[Point]:
    """Points with rates beyond those tried, with all settings that were tried."""
    rates = [point.lr for point in found]
    new = [lr for side in sides for lr in outside(rates, side, more)]  # type: ignore[arg-type]
    settings = [point.settings for point in found if point.lr == rates[0]]
    return [Point(lr, some) for lr in new for some in settings]


def _marks(steps: int, every: int) -> list[int]:
    """Multiples of `every` below `steps`, and `steps`."""
    return [*range(every, steps, every), steps]


def _split(data: Data, share: float) -> tuple[Data, Data]:
    """Data without a random share of it, and that share; always the same one."""
    count = round(share * len(data)) if 0.0 < share < 1.0 else 0
    if not 0 < count < len(data):
        raise ValueError(
            f"validation: got {share}; a share in (0, 1) that leaves samples on both sides of {len(data)} is allowed"
        )
    order = permutation(SPLIT, len(data))
    return data[order[count:]], data[order[:count]]


# -- checks --------------------------------------------------------------------------------------------------------


def _check_kinds(**values: Any) -> None:
    """Refuse what the function cannot even look at."""
    kinds: dict[str, tuple[type | tuple[type, ...], str]] = {
        "contenders": (Mapping, "optimizers by name, as in {'AdamW': AdamW},"),
        "task": (Task, "a Task, such as shoal.simulation.tasks.digits(),"),
        "rates": ((Iterable, Span), "a list of rates, or a Span,"),
        "seeds": (Iterable, "a list of whole numbers"),
        "tuning_seeds": (Iterable, "a list of whole numbers"),
    }
    for name, value in values.items():
        kind, allowed = kinds[name]
        if not isinstance(value, kind) or isinstance(value, str):
            raise ValueError(f"{name}: got {shown(value)}; {allowed} is allowed")


def _check(
    contenders: Mapping[str, Contender], seeds: Sequence[int], steps: int, batch: int | None, every: int | None
) -> None:
    if not contenders:
        raise ValueError("contenders: got none; at least one is needed")
    for name, value in (("steps", steps), ("batch", batch), ("evaluate_every", every)):
        if value is not None and not whole(1)(value):
            raise ValueError(f"{name}: got {value!r}; a whole number >= 1 is allowed")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: got {list(seeds)}; one or more different ones are allowed")


def _check_tuning(
    tried: Mapping[str, Sequence[Point]],
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    *,
    extend: bool,
    searched: bool,
) -> None:
    counts = {name: len(found) for name, found in tried.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"rates: all contenders have to try equally many points; got {told}")
    if next(iter(counts.values())) > 1 and not tuning_seeds:
        raise ValueError("tuning_seeds: got none; one or more are needed to choose among several points")
    if common := set(seeds) & set(tuning_seeds):
        raise ValueError(f"tuning_seeds: {sorted(common)} are among the seeds of the test as well")
    if extend and searched:
        raise ValueError("extend: got a random search (trials); only grids can be extended")
    if extend and len({len({point.lr for point in found}) for found in tried.values()}) > 1:
        raise ValueError("extend: contenders that try different numbers of rates cannot be extended alike")


def _deciding(task: Task, metric: str | None) -> str:
    if metric is not None and metric not in ("loss", *task.metrics):
        raise ValueError(f"metric: got {metric!r}; allowed are {', '.join(['loss', *task.metrics])}")
    return metric or next(iter(task.metrics), "loss")


# -- around --------------------------------------------------------------------------------------------------------


@contextmanager
def _computing(workers: int, device: str) -> Iterator[tuple[Pool, Sequence[bool]]]:
    """(Threads that compute, a list that is not empty once Ctrl-C was pressed)."""
    if workers < 0:
        raise ValueError(f"workers: got {workers}; at least 0 is allowed")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # an unknown name, or a missing device
        raise ValueError(f"device: got {device!r}; cpu, or a device of this machine, is allowed") from None
    pool = Pool(workers or os.cpu_count() or 1, device)
    threads = torch.get_num_threads()
    try:
        with deferred() as asked:
            if pool.device.type == "cpu":
                torch.set_num_threads(1)
            yield pool, asked
    finally:
        torch.set_num_threads(threads)
        pool.close()


def _described(make: MakeSchedule) -> str:
    """The name of what makes a schedule, with the arguments it was given."""
    if isinstance(make, functools.partial):
        given = ", ".join([*map(repr, make.args), *(f"{name}={value!r}" for name, value in make.keywords.items())])
        return f"{_described(make.func)}({given})"
    return getattr(make, "__name__", type(make).__name__)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON can hold them."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value if value is None or isinstance(value, bool | int | float | str) else repr(value)

    return {name: plain(value) for name, value in settings.items()}
