"""Tasks by name: each builder takes the model's specification and the task's options, and returns a `Task`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from shoal import names
from shoal.learning import data as loaders
from shoal.learning.data import Dataset
from shoal.learning.games import quadratic_game
from shoal.learning.gans import mixture_gan
from shoal.learning.task import Task
from shoal.simulation.given import build, check_arguments


def fashion_mnist(model: str | None = None, **options: Any) -> Task:
    """Fashion-MNIST, or the embedded digits where it can neither be found nor downloaded."""
    return _classification("fashion-mnist", _images("fashion-mnist", options), model)


def mnist(model: str | None = None, **options: Any) -> Task:
    """MNIST, or the embedded digits where it can neither be found nor downloaded."""
    return _classification("mnist", _images("mnist", options), model)


def digits(model: str | None = None, **options: Any) -> Task:
    """scikit-learn's embedded digits."""
    check_arguments("task: digits", loaders.digits, options)
    return _classification("digits", loaders.digits(**options), model)


def text(model: str | None = None, **options: Any) -> Task:
    """Next character of a text; a small transformer unless another model is named."""
    check_arguments("task: text", loaders.text, options)
    return _classification("text", loaders.text(**options), model or "transformer")


def quadratic(model: str | None = None, **options: Any) -> Task:
    """A quadratic with a known optimum; the model is a point."""
    _no_model("quadratic", model)
    check_arguments("task: quadratic", loaders.quadratic, options)
    dataset = loaders.quadratic(**options)
    build: Callable[[], nn.Module] = partial(loaders.Point, dataset.train.inputs.shape[1])
    return Task("quadratic", build, dataset, loaders.quadratic_loss, metrics={})


def game(model: str | None = None, **options: Any) -> Task:
    """A game of two players with a known saddle point; the model is a pair of points."""
    _no_model("game", model)
    check_arguments("task: game", quadratic_game, options)
    return quadratic_game(**options)


def gan(model: str | None = None, **options: Any) -> Task:
    """A GAN that learns Gaussians on a circle."""
    _no_model("gan", model)
    check_arguments("task: gan", mixture_gan, options)
    return mixture_gan(**options)


def logistic_regression(model: str | None = None, **options: Any) -> Task:
    """Regularised logistic regression with a known optimum."""
    _no_model("logistic-regression", model)
    check_arguments("task: logistic-regression", loaders.logistic, options)
    dataset = loaders.logistic(**options)
    l2 = {"l2": options["l2"]} if "l2" in options else {}
    build: Callable[[], nn.Module] = partial(loaders.Logistic, dataset.train.inputs.shape[1], **l2)
    return Task("logistic-regression", build, dataset, loaders.logistic_loss, metrics={})


def _images(name: str, options: dict[str, Any]) -> Dataset:
    check_arguments(f"task: {name}", loaders.fashion_mnist, options)
    return loaders.load(name, fallback=True, **options)


def _classification(name: str, dataset: Dataset, model: str | None) -> Task:
    text = model or "mlp"
    return Task(f"{name}/{names.parse('model', text).name}", build("model", text, dataset), dataset)


def _no_model(name: str, model: str | None) -> None:
    if model is not None:
        raise ValueError(f"model: got {model!r}; {name} brings its own")
