"""Chooses how a task is computed, and makes jobs of peers' requests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shoal.engine.compute import Kernel, first_line
from shoal.engine.errors import ShoalError
from shoal.learning.agreement import given_difference, gradient_difference
from shoal.learning.batched import BatchedGradient, BatchedLoss, BatchedTraining, sample_bytes
from shoal.learning.batches import Shard, batches, stream
from shoal.learning.curvature import Curvature
from shoal.learning.keyed import KeyedRandomness
from shoal.learning.objective import Net, Objective, Problem, Supervised, called, identity
from shoal.learning.one_by_one import Evaluation, OptimizerFactory, SingleGradient, SingleLoss, SingleTraining
from shoal.learning.requests import GradientInputs
from shoal.learning.task import Task, check_players
from shoal.optim import Rule
from shoal.tensors.layout import Layout, flatten_module

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MANY = 100  # objectives, above which they are taken to be made anew for every request
RUNNING = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class Path:
    """Which way a problem is computed, and why."""

    batched: bool
    why: str


class Trainer:
    """A task made ready for many peers: template module, layout, kernels.

    Args:
        task: model, data, loss, metrics.
        optimizer: a stackable `Rule`, or a function from parameters to any `torch.optim.Optimizer`.
        batch: samples a step; None is the whole shard.
        device: where models and data live.
        batched: None lets the rules of `path` decide; False computes everything one by one.

    Attributes:
        forgetful: the optimizer is a rule that remembers nothing from one step to the next.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Rule | OptimizerFactory,
        *,
        batch: int | None = 32,
        device: str | torch.device = "cpu",
        batched: bool | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise ValueError(f"batch: got {batch}; at least 1, or None for the whole shard, is allowed")
        check_players(task, optimizer)
        self.task, self.optimizer, self.batch = task, optimizer, batch
        self.device = torch.device(device)
        self.module = task.initial(0)
        self.layout: Layout = flatten_module(self.module)[1]
        self._problem = Problem(self.module, self.layout, Supervised(task.loss))
        self.forgetful = isinstance(optimizer, Rule) and not optimizer.remembers(self._problem.params)
        self._batched = batched
        self._initial: tuple[int, Tensor] | None = None
        self._paths: dict[Hashable, tuple[Path, Problem]] = {}  # by identity of the objective
        self._given_paths: list[tuple[Rule, Problem, Path]] = []
        self.advice: str | None = None  # for the run's log, once
        self._kernels: dict[Any, Kernel] = {}
        self._usual: dict[int, Kernel] = {}  # of the task's own loss, by batch: found at once

    def initial(self, seed: int) -> Tensor:
        """The vector [d] of a model initialised under `seed`."""
        if self._initial is None or self._initial[0] != seed:  # as a rule all peers start from one
            self._initial = (seed, flatten_module(self.task.initial(seed))[0].to(self.device))
        return self._initial[1].clone()

    def memory(self, vector: Tensor, seed: int, rule: Rule | None = None) -> dict[str, Tensor]:
        """Fresh state of a rule (default: the trainer's) for a model [d]; empty for torch optimizers.

        Args:
            vector: the model.
            seed: for rules that draw random numbers.
            rule: instead of the trainer's.
        """
        if rule is None and self.forgetful:
            return {}
        rule = rule or self._rule()
        if not rule.remembers(self._problem.params):
            return {}
        return rule.memory(self._problem.split(vector)[0], seed)

    def advance(
        self,
        vector: Tensor,
        gradient: Tensor,
        memory: dict[str, Tensor],
        t: int,
        lr: float | None = None,
        rule: Rule | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Step number `t` (1 at first) of a rule from a vector [d], along a gradient [d] from anywhere.

        Args:
            vector, gradient: the model and where to go from there.
            memory: the rule's state, as of `memory`.
            t: number of the step.
            lr: instead of the rule's own learning rate.
            rule: instead of the trainer's.

        Returns:
            The new vector and the rule's new state; what was given stays as it is.

        Raises:
            ValueError: the optimizer is not a stackable `Rule`, or needs the loss that the gradient is of.
        """
        rule = rule or self._rule()
        problem = self._problem
        if rule.needs_loss(problem.params):
            raise ValueError(
                f"optimizer: {rule.name} needs the loss of its own batch, and cannot step by a gradient alone"
            )
        if asked := rule.given(problem.params):
            raise ValueError(
                f"optimizer: {rule.name} needs more of its own batch ({', '.join(asked)}), and cannot step by a "
                "gradient alone"
            )
        result, kept = vector.clone(), {name: buffer.clone() for name, buffer in memory.items()}
        parameters, gradients = (list(problem.split(flat)[0].values()) for flat in (result, gradient))
        rate = rule.lr if lr is None else lr
        rule.step(problem.params, parameters, gradients, rule.views(kept, problem.params), float(t), rate)
        return result, kept

    def _rule(self) -> Rule:
        if not isinstance(self.optimizer, Rule):
            raise ValueError("optimizer: a rule such as SGD.rule() is needed to step along a given gradient")
        return self.optimizer

    # -- kernels ---------------------------------------------------------------------------------------------

    def training(self, shard: Shard, batch: int, objective: Objective | None, extras: tuple[Tensor, ...]) -> Kernel:
        """The kernel for training requests of one kind."""
        if objective is None and not extras and (usual := self._usual.get(batch)) is not None:
            return usual
        kernel = self._training(shard, batch, objective or Supervised(self.task.loss), extras)
        if objective is None and not extras:
            self._usual[batch] = kernel
        return kernel

    def _training(self, shard: Shard, batch: int, objective: Objective, extras: tuple[Tensor, ...]) -> Kernel:
        rule = self.optimizer
        path, problem = self.path(objective, shard, extras, rule if isinstance(rule, Rule) else None)

        def make() -> Kernel:
            if not path.batched:
                return SingleTraining(problem, rule, path.why)
            if not isinstance(rule, Rule):
                return SingleTraining(problem, rule, "a torch optimizer steps one module at a time")
            return BatchedTraining(problem, rule, batch * sample_bytes(shard.data), path.why, self.device)

        return self._kernel(("train", identity(objective), batch, _shapes(extras)), make)

    def gradient(self, shard: Shard, batch: int, objective: Objective | None, extras: tuple[Tensor, ...]) -> Kernel:
        """The kernel for gradient requests of one kind."""
        objective = objective or Supervised(self.task.loss)
        path, problem = self.path(objective, shard, extras)

        def make() -> Kernel:
            if not path.batched:
                return SingleGradient(problem, path.why)
            return BatchedGradient(problem, batch * sample_bytes(shard.data), path.why, self.device)

        return self._kernel(("gradient", identity(objective), batch, _shapes(extras)), make)

    def curvature(self, shard: Shard) -> Kernel:
        """The kernel for estimates of the Hessian's diagonal."""
        _, problem = self.path(Supervised(self.task.loss), shard)
        return self._kernel("curvature", lambda: Curvature(problem, "second derivatives are taken one by one"))

    def loss(self, shard: Shard, batch: int, objective: Objective | None, extras: tuple[Tensor, ...]) -> Kernel:
        """The kernel for losses of one kind: forward passes only."""
        objective = objective or Supervised(self.task.loss)
        path, problem = self.path(objective, shard, extras)

        def make() -> Kernel:
            if not path.batched:
                return SingleLoss(problem, path.why)
            return BatchedLoss(problem, batch * sample_bytes(shard.data), path.why, self.device)

        return self._kernel(("loss", identity(objective), batch, _shapes(extras)), make)

    def evaluation(self) -> Kernel:
        """The kernel for evaluations."""
        return self._kernel("evaluate", lambda: Evaluation(self._problem, self.task))

    def _kernel(self, key: Any, make: Callable[[], Kernel]) -> Kernel:
        found = self._kernels.get(key)
        if found is None:
            found = self._kernels[key] = make()
        return found

    # -- which path ------------------------------------------------------------------------------------------

    def path(
        self, objective: Objective, shard: Shard, extras: tuple[Tensor, ...] = (), rule: Rule | None = None
    ) -> tuple[Path, Problem]:
        """Batched or one by one, decided once for each objective by rules that do not measure time.

        Args:
            objective: what is trained.
            shard: samples to try it on.
            extras: an example of the objective's further tensors.
            rule: who is given more than gradients, if anybody.
        """
        path, problem = self._path(objective, shard, extras)
        if rule is None or not path.batched or not rule.given(problem.params):
            return path, problem
        found = next((path for own, of, path in self._given_paths if own is rule and of is problem), None)
        if found is None:
            found = self._choose_given(problem, [self._probe(shard, seed, extras) for seed in (0, 1)], rule)
            self._given_paths.append((rule, problem, found))
        return found, problem

    def _path(self, objective: Objective, shard: Shard, extras: tuple[Tensor, ...]) -> tuple[Path, Problem]:
        which = identity(objective)
        found = self._paths.get(which)
        if found is None:
            rows = [self._probe(shard, seed, extras) for seed in (0, 1)]
            seen = self._observe(objective, rows[0])
            problem = Problem(self.module, self.layout, objective, seen.keyed, seen.seeded, seen.stateful)
            found = self._paths[which] = (self._choose(problem, rows, seen), problem)
            if len(self._paths) == MANY:
                self.advice = (
                    f"{MANY} different objectives so far: each is tried out, and only requests with the same one are "
                    "computed together; give what varies as `extras` instead of closing over it"
                )
        return found

    def _choose(self, problem: Problem, rows: list[GradientInputs], seen: _Seen) -> Path:
        if self._batched is False:
            return Path(False, "asked for")
        modules = list(self.module.modules())
        if any(isinstance(m, RUNNING) and m.track_running_stats for m in modules):
            return Path(False, "running statistics are changed in place by the forward pass")
        if self.device.type == "cpu" and any(isinstance(m, CONVOLUTIONS) for m in modules):
            return Path(False, "convolutions are slower stacked than one by one on a CPU")
        if seen.stateful:
            return Path(False, "the module changes attributes of its own in its forward pass")
        if seen.buffers:
            return Path(False, "buffers are changed by the forward pass")
        if seen.seeded:
            return Path(False, "random functions are used that draw from torch's own generator")
        try:
            difference = gradient_difference(problem, rows, self.device)
        except ShoalError:
            raise
        except Exception as error:
            return Path(False, f"vmap cannot take it: {first_line(error)}")
        if difference > 1e-3:
            return Path(False, f"stacked and single gradients differ by {difference:.2g}")
        return Path(True, "vmap takes it")

    def _choose_given(self, problem: Problem, rows: list[GradientInputs], rule: Rule) -> Path:
        """Whether what a rule is given can be found for stacked models as it can for single ones."""
        try:
            difference = given_difference(problem, rule, rows)
        except ShoalError:
            raise
        except Exception as error:
            return Path(False, f"vmap cannot take what {rule.name} needs: {first_line(error)}")
        if not difference <= 1e-3:
            return Path(False, f"what {rule.name} needs differs by {difference:.2g} between stacked and single models")
        return Path(True, "vmap takes it")

    def _probe(self, shard: Shard, seed: int, extras: tuple[Tensor, ...]) -> GradientInputs:
        """A gradient request on a small batch, with one sample of padding, which must not show in the gradient."""
        schedule = stream(seed, len(shard), min(4, len(shard)), 1, 0)
        first = next(batches([schedule], [shard], [1]))
        inputs, targets, weights = (torch.cat([part[0], part[0, :1]]) for part in first)
        weights[-1] = 0.0
        return GradientInputs(self.initial(seed), inputs, targets, weights, seed, extras)

    def _observe(self, objective: Objective, row: GradientInputs) -> _Seen:
        """Look at one forward pass of a copy of the module in training."""
        module = copy.deepcopy(self.module).to(self.device).train()
        attributes, buffers = _attributes(module), {name: b.clone() for name, b in module.named_buffers()}
        generator, mode = torch.get_rng_state(), KeyedRandomness(torch.tensor(0))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            net = Net(partial(called, module), {name: p for name, p in module.named_parameters() if p.requires_grad})
            with mode:
                objective(net, row.inputs, row.targets, *row.extras)
            seeded = not torch.equal(generator, torch.get_rng_state())
        now = dict(module.named_buffers())
        changed = [name for name, b in buffers.items() if name not in now or not torch.equal(b, now[name])]
        stateful = _changed(attributes, _attributes(module)) or any(name not in self.layout for name in changed)
        return _Seen(mode.used > 0, seeded, stateful, bool(changed))


@dataclass(frozen=True)
class _Seen:
    """What a forward pass does beside computing.

    Attributes:
        keyed, seeded: draws random numbers, by functions that can be keyed or by others; see `Problem`.
        stateful: changes attributes of the module, or buffers that are not in its vector.
        buffers: changes buffers of the module.
    """

    keyed: bool
    seeded: bool
    stateful: bool
    buffers: bool


def _shapes(tensors: tuple[Tensor, ...]) -> tuple[tuple[torch.Size, torch.dtype], ...]:
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors)


def _attributes(module: nn.Module) -> dict[tuple[str, str], Any]:
    """Attributes of all submodules; of lists and dictionaries only the length, of private ones nothing."""
    return {
        (path, name): (0 if name.startswith("_") else len(value)) if isinstance(value, list | dict) else value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
    }


def _changed(before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]) -> bool:
    """Whether an attribute is new, another number or word, or another object."""
    return before.keys() != after.keys() or any(
        now != value if isinstance(value, int | float | str) else now is not value
        for (value, now) in ((value, after[name]) for name, value in before.items())
    )
