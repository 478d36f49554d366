"""A peer that learns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shoal.engine.compute import Job
from shoal.engine.devices import Device
from shoal.engine.errors import NonFinite
from shoal.engine.state import State
from shoal.engine.world import World
from shoal.learning.batches import Schedule, Shard, batches, epochs, stream
from shoal.learning.correspondent import Correspondent
from shoal.learning.data import Data
from shoal.learning.objective import Objective
from shoal.learning.packing import Packer
from shoal.learning.requests import GradientInputs, Trained, TrainInputs
from shoal.learning.task import RESERVED
from shoal.learning.trainer import Trainer
from shoal.learning.training import PacedTraining, Training
from shoal.optim import Rule
from shoal.tensors.finite import all_finite
from shoal.tensors.random import key as keyed


class Learner(Correspondent):
    """A peer with a model and data.

    Its state, all of it durable: `model` (flat vector [d]), `position` (samples drawn), `steps` (optimizer steps
    done), `earlier` (those before the optimizer was last reset), `optimizer` (what the optimizer remembers), `codec`
    and `packed` (what the codec remembers, and how often it was used, by channel), beside whatever a protocol adds.

    Attributes:
        trainer: how the task is computed; shared by all peers, and never changed.
        shard: the peer's data; may be replaced.
        device: how fast it computes.
        pace: steps that are computed at a time on a wall clock; see `PacedTraining`.
    """

    def __init__(
        self,
        id: int,
        world: World,
        state: State | None,
        *,
        trainer: Trainer,
        shard: Shard | None,
        device: Device,
        weights: Any = None,
        init_seed: int = 0,
        packer: Packer | None = None,
    ) -> None:
        super().__init__(id, world, state, packer=packer or Packer(None, trainer.layout), weights=weights)
        self.trainer = trainer
        self.shard = shard
        self.device = device
        self.pace = 1
        self._training: Training | None = None
        self._stream, self._noise = self.key("batches"), self.key("model")
        if "model" not in self.state:
            self.state["model"] = trainer.initial(init_seed)

    # -- the model -------------------------------------------------------------------------------------------

    @property
    def model(self) -> Tensor:
        """The model, a flat vector [d]; while it is trained, with the steps that are done by now."""
        if self._training is None:
            value: Tensor = self.state["model"]
            return value
        return self._training.so_far().vector

    @model.setter
    def model(self, vector: Tensor) -> None:
        self._check_form("model", vector)
        if self._training is not None:
            self._training.rebase(vector)
        self.state["model"] = vector

    @property
    def samples(self) -> int:
        """Number of samples this peer holds."""
        return 0 if self.shard is None else len(self.shard)

    @property
    def layout(self) -> Any:
        """Layout of the model's vector."""
        return self.trainer.layout

    def record(self, name: str, value: float) -> None:
        """As of `Peer`, under a name that the evaluation does not use.

        Raises:
            ValueError: the run measures something of that name itself.
        """
        taken = (*RESERVED, *self.trainer.task.metrics)
        if name in taken:
            raise ValueError(
                f"record: {name!r} is taken by the run's own evaluation ({', '.join(taken)}); call it else"
            )
        super().record(name, value)

    # -- training --------------------------------------------------------------------------------------------

    async def train(
        self,
        steps: int | None = None,
        *,
        epochs: int | None = None,
        lr: float | None = None,
        batch: int | None = -1,
        objective: Objective | None = None,
        extras: Sequence[Tensor] = (),
    ) -> float:
        """Train the model on the peer's own data.

        Other tasks of this peer that look at `me.model` meanwhile see the steps done so far; if they set it,
        training goes on from what they set.

        Args:
            steps: number of batches, going on in the peer's shuffled stream. Exactly one of steps and epochs.
            epochs: number of passes over the shard, freshly shuffled.
            lr: learning rate instead of the optimizer's own (stackable rules only).
            batch: samples a step; default: the task's; None: the whole shard.
            objective: `objective(net, inputs, targets, *extras) -> [B]` instead of the task's loss.
            extras: tensors for the objective, e.g. a vector to stay close to.

        Returns:
            Mean loss over the steps.

        Raises:
            NonFinite: the model became NaN or infinite.
        """
        if self._training is not None:
            raise RuntimeError(f"train: peer {self.id} is already training")
        inputs, kernel = self._request(self.state["model"], steps, epochs, lr, batch, objective, extras)
        kind = PacedTraining if self._world.wall_clock else Training
        training = self._training = kind(self, kernel, inputs)
        try:
            trained = await training.finish()
            self._check(trained.vector)
        except asyncio.CancelledError:
            self._keep(training.so_far(), training.inputs, training.steps_done)
            raise
        finally:
            self._training = None
        self._keep(trained, training.inputs, training.inputs.schedule.steps)
        return training.mean_loss(trained)

    async def update(
        self,
        steps: int | None = None,
        *,
        epochs: int | None = None,
        at: Tensor | None = None,
        lr: float | None = None,
        batch: int | None = -1,
        objective: Objective | None = None,
        extras: Sequence[Tensor] = (),
    ) -> Tensor:
        """What training would add to the model [d], without changing it: trained vector minus `at`.

        Arguments as of `train`; `at` is the vector to start from, default the model as it is now. Stream and
        optimizer state move on.
        """
        start = self.model if at is None else self._check_form("at", at)
        inputs, kernel = self._request(start, steps, epochs, lr, batch, objective, extras)
        job = Job(kernel, inputs)
        ends = self.finish_times(inputs)
        trained: Trained = await self._world.perform(self, job, ends[-1] - self.now() if ends else 0.0)
        self._check(trained.vector)
        self._remember(trained, inputs, inputs.schedule.steps)
        return trained.vector - start

    def step(self, gradient: Tensor, lr: float | None = None) -> None:
        """Move the model by one step of the optimizer along a gradient [d], e.g. a mean of many peers' ones.

        Takes no virtual time. `lr` stands in for the optimizer's own learning rate.

        Raises:
            ValueError: the optimizer is not a stackable `Rule`.
            NonFinite: the model became NaN or infinite.
        """
        t = int(self.state.get("steps", 0)) + 1
        memory = self.state.get("optimizer") or self.trainer.memory(self.model, self.key("optimizer"))
        vector, memory = self.trainer.advance(self.model, gradient, memory, t, lr)
        self._check(vector)
        self.state["steps"] = t
        if memory:
            self.state["optimizer"] = memory
        self.model = vector

    async def gradient(
        self,
        *,
        at: Tensor | None = None,
        batch: int | None = None,
        size: int | None = -1,
        data: Data | Shard | None = None,
        objective: Objective | None = None,
        extras: Sequence[Tensor] = (),
    ) -> Tensor:
        """The gradient [d] of the mean loss on one batch; zero for what is not trained.

        Anybody who calls it with the same arguments gets the same bits.

        Args:
            at: where; default: the model.
            batch: key of the batch: same key, same samples of `data`. Default: the next batch of the peer's stream.
            size: samples in the batch; default: the task's; None: all of `data`, in order.
            data: default: the peer's shard.
            objective, extras: as of `train`.
        """
        start = self.model if at is None else self._check_form("at", at)
        inputs, shard, seconds = self._on_batch(start, batch, size, data, "gradient", extras)
        kernel = self.trainer.gradient(shard, inputs.inputs.shape[0], objective, inputs.extras)
        result: Tensor = (await self._world.perform(self, Job(self._advised(kernel), inputs), seconds))[0]
        self._check(result)
        return result

    async def loss(
        self,
        *,
        at: Tensor | None = None,
        batch: int | None = None,
        size: int | None = -1,
        data: Data | Shard | None = None,
        objective: Objective | None = None,
        extras: Sequence[Tensor] = (),
    ) -> Tensor:
        """The mean loss on one batch, of one model or of several: forward passes, a third of a step's time each.

        Args:
            at: a model [d], or several [k, d], which see the same batch and the same draws; default: the model.
            batch, size, data, objective, extras: as of `gradient`.

        Returns:
            A scalar, or [k].

        Raises:
            NonFinite: a loss is NaN or infinite.
        """
        given = self.model if at is None else at
        models = given if given.ndim == 2 else given[None]
        if len(models) == 0:
            raise ValueError("at: got no model; at least one is needed")
        self._check_form("at", models[0])
        inputs, shard, seconds = self._on_batch(models, batch, size, data, "loss", extras)
        kernel = self.trainer.loss(shard, inputs.inputs.shape[0], objective, inputs.extras)
        result: Tensor = await self._world.perform(
            self, Job(self._advised(kernel), inputs), seconds * len(models) / 3.0
        )
        if not bool(torch.isfinite(result).all()):
            raise NonFinite(f"a loss of peer {self.id} became NaN or infinite in round {self._round}")
        return result if given.ndim == 2 else result[0]

    def _on_batch(
        self,
        vector: Tensor,
        batch: int | None,
        size: int | None,
        data: Data | Shard | None,
        purpose: str,
        extras: Sequence[Tensor],
    ) -> tuple[GradientInputs, Shard, float]:
        """A request on one batch, the shard it is of, and the seconds of a step."""
        shard = self._shard(data)
        rows = self.trainer.batch if size == -1 else size
        count = self._steps_ever() + int(self.state.get("position", 0))  # so that no two batches share their draws
        key = self.key(purpose, count) if batch is None else batch
        inputs, targets, weights = self._batch(shard, rows, batch)
        seconds = self.device.step_seconds(count) * self._world.slowness(self.id)
        return GradientInputs(vector, inputs, targets, weights, key, tuple(extras)), shard, seconds

    async def curvature(self, *, at: Tensor | None = None, size: int | None = -1) -> Tensor:
        """An estimate [d] of the diagonal of the loss's Hessian on the next batch of the stream: v * (Hessian v).

        v has random signs, so that the expectation is the diagonal; a diagonal Hessian is met exactly. Takes the time
        of two steps. Zero for what is not trained.

        Args:
            at: where; default: the model.
            size: samples in the batch; default: the task's; None: the whole shard.
        """
        start = self.model if at is None else self._check_form("at", at)
        inputs, shard, seconds = self._on_batch(start, None, size, None, "curvature", ())
        result: Tensor = await self._world.perform(self, Job(self.trainer.curvature(shard), inputs), 2.0 * seconds)
        self._check(result)
        return result

    async def evaluate(
        self, *, at: Tensor | None = None, data: Data | Shard | None = None, seconds: float = 0.0
    ) -> dict[str, float]:
        """Mean loss and metrics of a model.

        Args:
            at: default: the model.
            data: default: the peer's own shard.
            seconds: virtual seconds that it takes.
        """
        shard = self._shard(data)
        vector = self.model if at is None else at
        job = Job(self.trainer.evaluation(), (vector, shard.data[shard.indices]))
        result: dict[str, float] = await self._world.perform(self, job, seconds)
        return result

    # -- within ----------------------------------------------------------------------------------------------

    def _request(
        self,
        start: Tensor,
        steps: int | None,
        passes: int | None,
        lr: float | None,
        batch: int | None,
        objective: Objective | None,
        extras: Sequence[Tensor],
    ) -> tuple[TrainInputs, Any]:
        if (steps is None) == (passes is None):
            raise ValueError("train: exactly one of steps and epochs is needed")
        count = steps if steps is not None else passes
        if count is None or count < 0:
            raise ValueError(f"train: got {count} steps or epochs; a number >= 0 is allowed")
        shard = self._shard(None)
        rows = self.trainer.batch if batch == -1 else batch
        position, key = int(self.state.get("position", 0)), self._stream
        schedule: Schedule
        if steps is None:
            schedule = epochs(key, len(shard), rows, count, position)
        elif rows is None:
            schedule = epochs(key, len(shard), None, count, position)
        else:
            schedule = stream(key, len(shard), rows, count, position)
        rule = self.trainer.optimizer
        memory = self.state.get("optimizer")
        if memory is None and isinstance(rule, Rule):
            memory = {} if self.trainer.forgetful else self.trainer.memory(start, self.key("optimizer"))
        if lr is not None and not isinstance(rule, Rule):
            raise ValueError("lr: a torch optimizer has its own; only a rule such as SGD.rule() can be given another")
        rate = lr if lr is not None else (rule.lr if isinstance(rule, Rule) else 0.0)
        first = int(self.state.get("steps", 0))
        noise = keyed(self._noise, int(self.state.get("earlier", 0)))
        inputs = TrainInputs(start, shard, schedule, rate, noise, first, memory, tuple(extras))
        return inputs, self._advised(self.trainer.training(shard, schedule.batch, objective, inputs.extras))

    def _advised(self, kernel: Any) -> Any:
        """The kernel; what its trainer has to say goes to the log."""
        if self.trainer.advice is not None:
            self._world.log("advice", self.id, text=self.trainer.advice)
            self.trainer.advice = None
        return kernel

    def reset_optimizer(self) -> None:
        """Forget what the optimizer remembers (momentum, moments, step count)."""
        self.state.pop("optimizer", None)
        self.state["earlier"] = self._steps_ever()
        self.state["steps"] = 0

    def _steps_ever(self) -> int:
        return int(self.state.get("earlier", 0)) + int(self.state.get("steps", 0))

    def finish_times(self, inputs: TrainInputs) -> list[float]:
        """Virtual times at which each step of a request ends that begins now."""
        now, slowness = self.now(), self._world.slowness(self.id)
        first = int(self.state.get("earlier", 0)) + inputs.first_step
        return self.device.finish_times(now, first, inputs.schedule.steps, slowness)

    def _keep(self, trained: Trained, inputs: TrainInputs, steps: int) -> None:
        self.state["model"] = trained.vector
        self._remember(trained, inputs, steps)

    def _remember(self, trained: Trained, inputs: TrainInputs, steps: int) -> None:
        schedule = inputs.schedule if steps == inputs.schedule.steps else inputs.part(0, steps).schedule
        self.state["position"] = schedule.position_after
        self.state["steps"] = inputs.first_step + steps
        if trained.memory:
            self.state["optimizer"] = trained.memory

    def _check_form(self, name: str, vector: Tensor) -> Tensor:
        """Refuse what is no model: in a stack, another type would change the type of all."""
        layout = self.trainer.layout
        if vector.shape != (layout.size,) or vector.dtype != layout.dtype:
            got = f"got shape {tuple(vector.shape)} of {vector.dtype}"
            raise ValueError(f"{name}: {got}; ({layout.size},) of {layout.dtype} is needed")
        return vector

    def _check(self, vector: Tensor) -> None:
        if not all_finite(vector):
            raise NonFinite(
                f"the model of peer {self.id} became NaN or infinite in round {self._round}; "
                "a smaller learning rate may help"
            )

    def _shard(self, data: Data | Shard | None) -> Shard:
        if isinstance(data, Data):
            return Shard(data, torch.arange(len(data)))
        shard = self.shard if data is None else data
        if shard is None:
            raise RuntimeError(f"peer {self.id} holds no data")
        return shard

    def _batch(self, shard: Shard, size: int | None, key: int | None) -> tuple[Tensor, Tensor, Tensor]:
        if size is None:
            chosen = shard.data[shard.indices]
            count = len(shard)
            dtype = chosen.inputs.dtype if chosen.inputs.is_floating_point() else torch.get_default_dtype()
            return chosen.inputs, chosen.targets, torch.full((count,), 1.0 / count, dtype=dtype)
        if key is None:
            position = int(self.state.get("position", 0))
            schedule = stream(self._stream, len(shard), size, 1, position)
            self.state["position"] = schedule.position_after
        else:
            schedule = stream(key, len(shard), size, 1, 0)
        inputs, targets, weights = next(batches([schedule], [shard], [1]))
        return inputs[0], targets[0], weights[0]
