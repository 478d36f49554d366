"""Small models whose training is recorded for nowcasters: perceptrons, convolutional networks and transformers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.learning.data import Dataset, load
from shoal.learning.models import cnn, mlp, transformer
from shoal.learning.task import Task

Settings = dict[str, Any]


@cache
def dataset(name: str) -> Dataset:
    """A dataset by name; "fashion-14" is Fashion-MNIST with every 2 x 2 pixels averaged."""
    if name == "text":
        return load("text", context=16)
    if name != "fashion-14":
        return load(name)
    full = load("fashion-mnist", fallback=True)
    return replace(full, name=name, train=_halved(full.train), test=_halved(full.test))


def _halved(data: Any) -> Any:
    side = int(data.inputs.shape[1] ** 0.5)
    small: Tensor = F.avg_pool2d(data.inputs.view(-1, 1, side, side), 2).flatten(1)
    return replace(data, inputs=small)


def _digits_mlp(draw: random.Random) -> Settings:
    return {
        "dataset": "digits",
        "model": "mlp",
        "hidden": draw.choice([12, 16, 24, 32]),
        "depth": draw.choice([1, 2, 3]),
        "activation": draw.choice(["relu", "tanh", "gelu"]),
    }


def _digits_cnn(draw: random.Random) -> Settings:
    return {"dataset": "digits", "model": "cnn", "channels": draw.choice([4, 6, 8, 12])}


def _fashion_cnn(draw: random.Random) -> Settings:
    return {"dataset": "fashion-14", "model": "cnn", "channels": draw.choice([4, 6, 8])}


def _fashion_mlp(draw: random.Random) -> Settings:
    return {
        "dataset": "fashion-14",
        "model": "mlp",
        "hidden": draw.choice([12, 16, 24]),
        "depth": draw.choice([1, 2]),
        "activation": draw.choice(["relu", "gelu"]),
    }


def _text_transformer(draw: random.Random) -> Settings:
    return {
        "dataset": "text",
        "model": "transformer",
        "width": draw.choice([8, 16]),
        "layers": draw.choice([1, 2]),
        "heads": draw.choice([2, 4]),
    }


FAMILIES: Mapping[str, Callable[[random.Random], Settings]] = {
    "digits-mlp": _digits_mlp,
    "digits-cnn": _digits_cnn,
    "fashion-mlp": _fashion_mlp,
    "fashion-cnn": _fashion_cnn,
    "text-transformer": _text_transformer,
}
_MODELS: Mapping[str, Callable[..., Callable[[], torch.nn.Module]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "transformer": transformer,
}


def task(settings: Mapping[str, Any]) -> Task:
    """The task of a member of a family.

    Raises:
        ValueError: the settings name no model or dataset.
    """
    own = dict(settings)
    data = dataset(own.pop("dataset"))
    kind = own.pop("model")
    if kind not in _MODELS:
        raise ValueError(f"model: got {kind!r}; allowed are {', '.join(_MODELS)}")
    return Task(f"{data.name}/{kind}", _MODELS[kind](data, **own), data)
