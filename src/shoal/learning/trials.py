"""Many runs of one optimizer: learning rates, settings and seeds, stacked where they can be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from shoal.engine.compute import Job, Kernel, Pool
from shoal.learning.batched import BatchedTraining, sample_bytes
from shoal.learning.batches import Schedule, Shard, epochs, stream
from shoal.learning.contenders import Contender, MakeSchedule, Point, make_schedule
from shoal.learning.data import Data
from shoal.learning.loop import MakeOptimizer, TorchLoop, state_bytes
from shoal.learning.mixed import MixedTraining, RuledInputs
from shoal.learning.objective import Problem, Supervised
from shoal.learning.one_by_one import SingleTraining
from shoal.learning.task import Task, check_players
from shoal.learning.trainer import Path, Trainer
from shoal.metrics import higher_is_better
from shoal.optim import Rule
from shoal.optim.lookahead import SlowWeights
from shoal.optim.xgrad import PredictedWeights
from shoal.tensors.random import key

NOT_NUMBERS: Any = (torch.linalg.LinAlgError, ArithmeticError)  # type: ignore[attr-defined]
"""What some functions raise for NaN instead of returning it."""
JUDGED = tuple(SlowWeights().slots + PredictedWeights().slots)  # in whose slots the weights to be judged by lie


@dataclass(eq=False)
class Outcome:
    """One run.

    Attributes:
        train_losses: mean training loss between one mark and the next.
        curve: the metric at each mark where it was asked for.
        score, loss: metric and loss at the end; the worst there is if the run diverged.
        diverged: whether it did.
    """

    train_losses: list[float] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)
    score: float = math.nan
    loss: float = math.nan
    diverged: bool = False


@dataclass(eq=False)
class Ran:
    """All runs of one optimizer: outcomes[point][seed], how they were computed, and the state's bytes a parameter."""

    outcomes: list[list[Outcome]]
    path: str
    why: str
    state_bytes: float


@dataclass(eq=False)
class _Row:
    """A run under way; `rule` is None where a torch optimizer trains."""

    kernel: Kernel
    rule: Rule | None
    inputs: RuledInputs
    outcome: Outcome
    done: int = 0
    vector: Tensor | None = None
    memory: Any = None


class Bench:
    """Trains and scores on given data.

    Args:
        task: model, loss and metrics.
        train: what is trained on; every run holds all of it.
        held: what runs are scored on.
        steps: of every run.
        batch: samples a step; None: all of them.
        schedule: makes the learning rates of the steps.
        metric: which metric decides, or "loss".
        pool: what computes.
        asked: not empty once somebody wants it to stop.
    """

    def __init__(
        self,
        task: Task,
        train: Data,
        held: Data,
        *,
        steps: int,
        batch: int | None,
        schedule: MakeSchedule,
        metric: str,
        pool: Pool,
        asked: Sequence[bool] = (),
    ) -> None:
        self._shard = Shard(_moved(train, pool.device), torch.arange(len(train)))
        self._held = _moved(held, pool.device)
        self._steps, self._batch, self._schedule, self._metric = steps, batch, schedule, metric
        self._trainer = Trainer(task, Rule("none", 0.0), batch=batch, device=pool.device)
        self._pool, self._asked = pool, asked

    def check(self, contender: Contender, point: Point) -> None:
        """Make what would train a point, and raise what it raises."""
        given = {**contender.settings, **point.settings}
        _, settings = make_schedule(contender.schedule or self._schedule, point.lr, self._steps, given)
        rule = self._rule(contender, point.lr, settings) if contender.by_rule else None
        if rule is None:
            self._make(contender, point.lr, settings)(list(self._trainer.task.initial(0).named_parameters()))
        else:
            for param in self._problem.params:
                rule.plan(param)

    def run(
        self,
        contender: Contender,
        tried: Sequence[Point],
        seeds: Sequence[int],
        marks: Sequence[int],
        *,
        curve: bool,
        tell: Callable[[int], None],
    ) -> Ran:
        """Train every point with every seed.

        Args:
            contender: whose points they are.
            tried: learning rates and settings.
            seeds: each sets model, batches and all other draws.
            marks: steps at which runs stop for a moment, rising; the last is the number of steps.
            curve: whether to score at every mark and not only at the last.
            tell: called with the number of optimizer steps taken since the last time.

        Raises:
            KeyboardInterrupt: somebody wants it to stop.
        """
        rows = [[self._row(*how, seed) for seed in seeds] for how in self._kernels(contender, tried)]
        everyone = [row for some in rows for row in some]
        size, count = 0.0, sum(math.prod(param.shape) for param in self._problem.params)
        for i, mark in enumerate(marks):
            going = [row for row in everyone if not row.outcome.diverged]
            self._advance(going, mark)
            size = size or next((_state_bytes(row) / count for row in going if row.memory is not None), 0.0)
            if curve or i == len(marks) - 1:
                self._score(everyone)
            tell(len(everyone) * (mark - (marks[i - 1] if i else 0)))
        kernel = everyone[0].kernel
        return Ran([[row.outcome for row in some] for some in rows], kernel.path, kernel.why, size)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _kernels(
        self, contender: Contender, tried: Sequence[Point]
    ) -> list[tuple[Kernel, Rule | None, float | list[float]]]:
        """For each point who trains it, by which rule, at which rates; those that differ in these share a rule."""
        rules: list[Rule] = []
        kernels: dict[int, Kernel] = {}
        mixed = self._guarded(self._mixed())
        result: list[tuple[Kernel, Rule | None, float | list[float]]] = []
        for point in tried:
            given = {**contender.settings, **point.settings}
            rates, settings = make_schedule(contender.schedule or self._schedule, point.lr, self._steps, given)
            rule = self._rule(contender, point.lr, settings) if contender.by_rule else None
            if rule is None:
                result.append((self._loop(contender, point.lr, settings), None, _short(rates)))
                continue
            own = 1.0 if rule is contender.make else rule.lr / point.lr
            shared = next((other for other in rules if self._alike(rule, other)), None)
            if shared is None:
                shared = rule
                rules.append(rule)
            if id(shared) not in kernels:
                free = self._path.batched and not shared.given(self._problem.params)
                kernels[id(shared)] = mixed if free else self._alone(shared)
            kernel = kernels[id(shared)]
            result.append((kernel, shared, _short([rate * own for rate in rates])))
        return result

    def _alone(self, rule: Rule) -> Kernel:
        """The kernel of one rule: what a rule is given beside gradients is found for it alone."""
        path, problem = self._trainer.path(Supervised(self._trainer.task.loss), self._shard, rule=rule)
        if not path.batched:
            return self._guarded(SingleTraining(problem, rule, path.why))
        size = self._batches(0).batch * sample_bytes(self._shard.data)
        return self._guarded(BatchedTraining(problem, rule, size, path.why, self._pool.device))

    def _mixed(self) -> Kernel:
        size = self._batches(0).batch * sample_bytes(self._shard.data)
        return MixedTraining(self._problem, size, self._path.why, self._pool.device)

    def _rule(self, contender: Contender, lr: float, settings: Mapping[str, Any]) -> Rule | None:
        """The rule; None for a class that has none."""
        try:
            rule = contender.rule(lr, settings)
        except NotImplementedError:
            return None
        check_players(self._trainer.task, rule)
        return rule

    def _alike(self, one: Rule, other: Rule) -> bool:
        """Whether two rules differ in nothing but their learning rates."""
        params = self._problem.params
        alike = one.seed == other.seed and one.frame == other.frame
        return alike and all(one.plan(p).chain == other.plan(p).chain for p in params)

    @property
    def _path(self) -> Path:
        return self._trainer.path(Supervised(self._trainer.task.loss), self._shard)[0]

    @property
    def _problem(self) -> Problem:
        return self._trainer.path(Supervised(self._trainer.task.loss), self._shard)[1]

    def _loop(self, contender: Contender, lr: float, settings: Mapping[str, Any]) -> Kernel:
        return self._guarded(TorchLoop(self._problem, self._make(contender, lr, settings), lr))

    def _guarded(self, kernel: Kernel) -> Kernel:
        return _Guarded(kernel, self._asked, self._pool.workers)

    def _make(self, contender: Contender, lr: float, settings: Mapping[str, Any]) -> MakeOptimizer:
        def make(pairs: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
            params: list[Any] = list(pairs) if contender.named else [p for _, p in pairs]
            return contender.optimizer(params, lr, settings)

        return make

    def _batches(self, seed: int) -> Schedule:
        own, size = key(seed, "batches"), len(self._shard)
        if self._batch is None:
            return epochs(own, size, None, self._steps, 0)
        return stream(own, size, self._batch, self._steps, 0)

    def _row(self, kernel: Kernel, rule: Rule | None, lr: float | list[float], seed: int) -> _Row:
        vector = self._trainer.initial(key(seed, "init"))
        memory = None if rule is None else self._trainer.memory(vector, key(seed, "optimizer"), rule)
        inputs = RuledInputs(vector, self._shard, self._batches(seed), lr, key(seed, "noise"), rule=rule)
        return _Row(kernel, rule, inputs, Outcome(), 0, vector, memory)

    # -- training and scoring ------------------------------------------------------------------------------------------

    def _advance(self, rows: list[_Row], mark: int) -> None:
        """Train up to a mark; a row whose model is not finite any more has diverged."""
        jobs = []
        for row in rows:
            assert row.vector is not None
            part = replace(row.inputs.part(row.done, mark), vector=row.vector, memory=row.memory)
            jobs.append(self._pool.submit(Job(row.kernel, part)))
        self._flush()
        for row, trained in zip(rows, [job.result for job in jobs], strict=True):
            row.done = mark
            if trained is None or not math.isfinite(trained.loss) or not bool(torch.isfinite(trained.vector).all()):
                row.outcome.diverged = True
                row.vector = row.memory = None
                continue
            row.vector, row.memory = trained.vector, trained.memory
            row.outcome.train_losses.append(trained.loss)

    def _score(self, rows: list[_Row]) -> None:
        kernel = self._trainer.evaluation()
        going = [row for row in rows if not row.outcome.diverged]
        jobs = [self._pool.submit(Job(kernel, (self._judged(row), self._held))) for row in going]
        self._flush()
        for row, job in zip(going, jobs, strict=True):
            row.outcome.loss, row.outcome.score = job.result["loss"], job.result[self._metric]
            row.outcome.diverged = not math.isfinite(row.outcome.loss + row.outcome.score)
            if not row.outcome.diverged:
                row.outcome.curve.append(row.outcome.score)
        for row in rows:
            if row.outcome.diverged:
                row.outcome.score, row.outcome.loss = worst(self._metric), math.inf

    def _judged(self, row: _Row) -> Tensor:
        """The weights by which a run is judged: a wrapper's, if one keeps others than those that are trained."""
        assert row.vector is not None
        if row.rule is None:
            return row.vector
        shown = next((slot.name for slot in JUDGED if slot.name in row.memory), None)
        if shown is None:
            return row.vector
        result, problem = row.vector.clone(), self._problem
        own = row.rule.views(row.memory, problem.params)
        kept = [state[shown] for state in own]
        if row.rule.frame is not None:
            kept = row.rule.frame.back(kept)
        for part, value in zip(problem.split(result)[0].values(), kept, strict=True):
            part.copy_(value)
        return result

    def _flush(self) -> None:
        self._pool.flush()
        if self._asked:
            raise KeyboardInterrupt


class _Guarded:
    """A kernel that never fails because numbers do: a job that cannot be computed has the result None.

    Args:
        inner: what computes.
        asked: not empty once somebody wants it to stop: nothing is computed then.
        workers: threads to share stacked rows among. Results do not depend on how rows are shared.
    """

    def __init__(self, inner: Kernel, asked: Sequence[bool], workers: int) -> None:
        self._inner, self._asked, self._workers = inner, asked, workers
        self.name, self.path, self.why = inner.name, inner.path, inner.why

    def chunks(self, jobs: list[Job]) -> list[list[Job]]:
        """As the kernel cuts; stacked rows are shared among the threads."""
        inner = self._inner
        return inner.chunks(jobs, self._workers) if isinstance(inner, MixedTraining) else inner.chunks(jobs)

    def run(self, chunk: list[Job]) -> None:
        """Compute a chunk, and where that fails each job alone."""
        if self._asked:
            return
        try:
            self._inner.run(chunk)
        except NOT_NUMBERS:
            for job in chunk:
                job.result = None
                if len(chunk) > 1:
                    self.run([job])


def worst(metric: str) -> float:
    """What a run that diverged is given: no accuracy, or an infinite loss.

    >>> worst("accuracy"), worst("loss")
    (0.0, inf)
    """
    if "accuracy" in metric:
        return 0.0
    return -math.inf if higher_is_better(metric) else math.inf


def _short(rates: list[float]) -> float | list[float]:
    return rates[0] if len(set(rates)) == 1 else rates


def _state_bytes(row: _Row) -> int:
    if isinstance(row.memory, dict):
        return sum(m.numel() * m.element_size() for m in row.memory.values())
    return state_bytes(row.memory)


def _moved(data: Data, device: torch.device) -> Data:
    return data if data.inputs.device == device else Data(data.inputs.to(device), data.targets.to(device))
