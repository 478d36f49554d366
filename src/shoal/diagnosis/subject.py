"""What is diagnosed: a task and an optimizer, by name, by a path to one's own code, or as objects."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shoal import names
from shoal.learning import Task
from shoal.learning.data import Data, Dataset
from shoal.learning.task import check_players
from shoal.optim import Param, Rule
from shoal.optim.core.arguments import above
from shoal.simulation.given import build, build_task
from shoal.text import shown

OWN = "a Task, or a triple (model, data, loss),"


@dataclass(frozen=True, eq=False)
class Subject:
    """What is diagnosed.

    Attributes:
        task: model, data, loss; the data are on the device.
        optimizer: as it was given.
        rule: the optimizer at its learning rate.
        device: where it is computed.
    """

    task: Task
    optimizer: str
    rule: Rule
    device: torch.device

    def model(self, seed: int) -> nn.Module:
        """A fresh model on the device."""
        return self.task.initial(seed).to(self.device)

    @property
    def data(self) -> Data:
        """The training data."""
        return self.task.dataset.train


def subject(
    task: str | Task, model: str | None, optimizer: str | Rule, lr: float | None, steps: int, device: str
) -> Subject:
    """Put together what is diagnosed.

    Args:
        task: a name as of `shoal run`, a path `module:function`, or a `Task`.
        model: a name; None: the task's own.
        optimizer: a name as of `shoal run`, or a `Rule`.
        lr: instead of the optimizer's own learning rate.
        steps: of the training, for optimizers that have to know.
        device: where it is computed.

    Raises:
        ValueError: something is unknown, or cannot be used.
    """
    place = _device(device)
    found = task if isinstance(task, Task) else _task(task, model)
    if isinstance(task, Task) and model is not None:
        raise ValueError(f"model: got {model!r}; a Task brings its own")
    if found.players is not None:
        raise ValueError(f"task: got {found.name!r}; a task with one loss is allowed, and this one has two players")
    found = replace(found, dataset=_moved(found.dataset, place))
    if not isinstance(optimizer, Rule | str):
        raise ValueError(f"optimizer: got {shown(optimizer)}; a name or a Rule, as of AdamW.rule(), is allowed")
    rule = optimizer if isinstance(optimizer, Rule) else _rule(optimizer, steps)
    if lr is not None:
        if not above(0.0)(lr):
            raise ValueError(f"lr: got {lr!r}; a finite number > 0 is allowed")
        rule = replace(rule, lr=lr)
    check_players(found, rule)
    ready = Subject(found, optimizer if isinstance(optimizer, str) else optimizer.name, rule, place)
    _try(ready)
    return ready


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ValueError(f"device: got {name!r}; cpu, or a device of this machine, is allowed") from None
    return torch.device(name)


def _task(text: str, model: str | None) -> Task:
    if _is_own(text):
        if model is not None:
            raise ValueError(f"model: got {model!r}; {text} brings its own")
        return own(text)
    return build_task(text, model)


def _is_own(text: str) -> bool:
    """Whether it is `module:function`, and no task's name with arguments."""
    name, _, rest = text.partition(":")
    paths = all(part.isidentifier() for whole in (name, rest) for part in whole.split("."))
    try:
        names.find("task", name)
    except ValueError:
        return paths
    return False


def own(path: str) -> Task:
    """The task that a function of one's own returns: a `Task`, or `(model, data, loss)`.

    `model` is a module, or a function that builds one; `data` are a `Dataset`, `Data`, or a pair of tensors (inputs,
    targets); `loss(output, target) -> [B]`. Modules in the working directory are found.

    Args:
        path: `module:function`, or `package.module:function`.

    Raises:
        ValueError: it cannot be imported or called, or returns something else.
    """
    module, _, attribute = path.partition(":")
    folder, before = str(Path.cwd()), list(sys.path)
    sys.path.insert(0, folder)
    try:
        function: Any = importlib.import_module(module)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:
        unknown = isinstance(error, ModuleNotFoundError) and error.name == module and "." not in module
        hint = names.suggestion(module, names.KINDS["task"]) if unknown else ""
        raise ValueError(f"task: cannot import {path}: {_line(error)}{hint}") from error
    finally:
        sys.path[:] = before
    try:
        made = function() if callable(function) and not isinstance(function, Task) else function
    except Exception as error:
        raise ValueError(f"task: {path} raised {_line(error)}") from error
    if isinstance(made, Task):
        return made
    if not (isinstance(made, tuple) and len(made) == 3 and callable(made[0]) and callable(made[2])):
        raise ValueError(f"task: {path} returned {shown(made)}; {OWN} is allowed")
    model, data, loss = made
    return Task(path, _builder(model), _dataset(path, data), loss, metrics={})


def _builder(model: Any) -> Callable[[], nn.Module]:
    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    build_model: Callable[[], nn.Module] = model
    return build_model


def _dataset(path: str, data: Any) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        data = Data(*data)
    if not isinstance(data, Data):
        raise ValueError(
            f"task: {path} returned data {shown(data, 60)}; a Dataset, Data or a pair of tensors is allowed"
        )
    labels = not data.targets.is_floating_point()
    return Dataset(path, data, data, classes=int(data.targets.max()) + 1 if labels and len(data) else None, source=path)


def _rule(text: str, steps: int) -> Rule:
    spec = names.parse("optimizer", text)
    method: Any = getattr(spec.entry, "inner", None) or spec.entry
    more: Mapping[str, Any] = {}
    if method.cls().arguments.get("t_max") is inspect.Parameter.empty:
        more = {"t_max": steps}
    if method.lr is not None and "lr" not in spec.arguments:
        more = {**more, "lr": method.lr}
    try:
        rule = build("optimizer", text, **more)
    except NotImplementedError as error:
        raise ValueError(f"optimizer: {text}: {error}") from error
    if not isinstance(rule, Rule):
        raise ValueError(f"optimizer: {text} gave {shown(rule, 60)}; one that steps by a rule is allowed")
    return rule


def _moved(dataset: Dataset, device: torch.device) -> Dataset:
    parts = (Data(part.inputs.to(device), part.targets.to(device)) for part in (dataset.train, dataset.test))
    train, test = parts if device.type != "cpu" else (dataset.train, dataset.test)
    return replace(dataset, train=train, test=test)


def _made(ready: Subject) -> nn.Module:
    try:
        return ready.model(0)
    except Exception as error:
        raise ValueError(f"task: {ready.task.name}: model, data and loss do not fit: {_line(error)}") from error


def _try(ready: Subject) -> None:
    """Compute two losses and make the optimizer's chains, so that what cannot be is told at once."""
    model = _made(ready)
    output = ready.task.check(model)
    if not isinstance(output, Tensor):
        raise ValueError(f"task: {ready.task.name}: the model puts out {type(output).__name__}; one tensor is allowed")
    params = [Param(name, tuple(p.shape), p.dtype) for name, p in model.named_parameters() if p.requires_grad]
    if not params:
        raise ValueError("model: got no trainable parameter; at least one that requires a gradient is needed")
    try:
        given = ready.rule.given(params)
        ready.rule.remembers(params)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"optimizer: {ready.optimizer}: {_line(error)}") from error
    if given:
        raise ValueError(
            f"optimizer: got {ready.optimizer}, whose steps need more than gradients ({', '.join(given)}), which the "
            "trainings here do not compute; optimizers of gradients and losses alone are allowed, such as adamw, whose "
            "squared gradients take the place of the curvature"
        )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
