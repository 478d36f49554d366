"""Every optimizer of `shoal.optim`, found in its modules, and small settings with which each shows what it does."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import shoal.optim
from shoal.optim.cautious import Cautious
from shoal.optim.coordinate_clip import CoordinateClip
from shoal.optim.core import Optimizer, Param
from shoal.optim.lookahead import Lookahead
from shoal.optim.rotated import Rotated
from shoal.optim.wrapping import Wrapper
from shoal.optim.xgrad import XGrad

Maker = Callable[..., torch.optim.Optimizer]

SETTINGS: dict[str, dict[str, Any]] = {
    "AdaFactor": {"lr": 0.1},
    "AdaLomo": {"lr": 0.1},
    "AdaFisher": {"t_cov": 3},
    "AdaFisherW": {"t_cov": 3},
    "Adadelta": {"lr": 1.0},
    "BAdam": {"switch_block_every": 3},
    "DAdaptAdam": {"lr": 1.0, "d0": 0.01},
    "DAdaptSGD": {"lr": 1.0, "d0": 0.01},
    "DoG": {"lr": 1.0, "reps_rel": 0.01},
    "LDoG": {"lr": 1.0, "reps_rel": 0.01},
    "Ranger21": {"t_max": 40, "k_lookahead": 3},
    "SANIA": {"lr": 1.0},
    "SGD": {"momentum": 0.9},
}
"""What a class asks for, or needs to do all it can within a few steps."""


@dataclass(frozen=True)
class Case:
    """An optimizer with settings.

    Attributes:
        name: for test ids.
        cls: the class, of the inner optimizer where there is a wrapper.
        settings: of the class.
        wrap: puts a wrapper around it.
    """

    name: str
    cls: type[Optimizer]
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    wrap: Maker | None = None

    def __call__(self, params: Iterable[Any], **changed: Any) -> Any:
        """The optimizer over parameters, with other settings where they are named."""
        optimizer = told(self.cls)(params, **{**self.settings, **changed})  # type: ignore[arg-type]
        return optimizer if self.wrap is None else self.wrap(optimizer)

    def takes(self, *names: str) -> bool:
        """Whether the class has all these arguments."""
        return all(name in self.cls.arguments for name in names)

    @property
    def granularity(self) -> str:
        """The coarsest of the chains of parameters of several shapes."""
        made = self(parameters().items())
        core = getattr(made, "core", made)
        grains = {plan.granularity for plan in core._plans(0, core.param_groups[0]).values()}
        return next(grain for grain in ("model", "tensor", "element") if grain in grains)


@cache
def told(cls: type[Optimizer]) -> type[Optimizer]:
    """The class; where nobody tells it better it takes what it needs from `given`, and a loss of 1."""
    chain = cls.links(
        SimpleNamespace(**{**cls.arguments, "lr": 1.0, **SETTINGS.get(cls.__name__, {})}), Param("p", (2, 2))
    )
    names = [name for transform in chain for name in transform.given]
    if not names and not any(transform.needs_loss for transform in chain):
        return cls

    def step(self: Any, closure: Any = None, *, loss: Any = None) -> Any:
        usual = None if closure is not None else -1.0 if self.param_groups[0]["maximize"] else 1.0
        further: dict[str, Any] = {}
        if names:
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            further["given"] = given(names, [p.grad for group in self.param_groups for p in group["params"]])
            cls.step(self, loss=usual if loss is None else loss, **further)
            return None if closure is None else loss
        return cls.step(self, closure, loss=usual if loss is None else loss)

    made = type(cls.__name__, (cls,), {"step": step, "__module__": __name__, "__qualname__": f"TOLD.{cls.__name__}"})
    setattr(TOLD, cls.__name__, made)
    return made


def given(names: Iterable[str], gradients: Sequence[Tensor | None]) -> dict[str, list[Tensor | None]]:
    """What a transform asks for, as a function of each gradient alone."""
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "curvature": lambda g: 0.5 + g.abs(),
        "newton": lambda g: 0.5 * g,
        "inputs": lambda g: g.abs().mean(0) if g.dim() > 1 else g.abs(),
        "outputs": lambda g: g.abs().flatten(1).mean(1) if g.dim() > 1 else g.abs(),
    }
    known = [g.detach() if g is not None and g.layout is torch.strided and g.numel() else None for g in gradients]
    return {name: [None if g is None else forms[name](g) for g in known] for name in names}


class TOLD:
    """Where pickle finds them."""


@cache
def optimizers() -> dict[str, type[Optimizer]]:
    """Public classes with a chain of their own, by name, in alphabetical order."""
    found: dict[str, type[Optimizer]] = {}
    for info in pkgutil.iter_modules(shoal.optim.__path__, "shoal.optim."):
        if info.ispkg:
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, Optimizer)
                and value.__module__ == info.name
                and not name.startswith("_")
                and value.links.__func__ is not Optimizer.links.__func__  # type: ignore[attr-defined]
            ):
                found[name] = value
    return dict(sorted(found.items()))


@cache
def cases() -> list[Case]:
    """Each class once, and wrappers around several."""
    result: list[Case] = []
    for name, cls in optimizers().items():
        settings = {"lr": 0.01} | ({"weight_decay": 0.1} if "weight_decay" in cls.arguments else {})
        result.append(Case(name, cls, settings | SETTINGS.get(name, {})))
    known = {case.name: case for case in result}
    for name, wrap, inner in (
        ("Lookahead", lambda o: Lookahead(o, k=2), ("SGD", "AdamW")),
        ("Cautious", Cautious, ("AdamW", "Lion")),
        ("XGrad", XGrad, ("SGD", "AdamW", "LaProp")),
        ("CoordinateClip", lambda o: CoordinateClip(o, rho=0.3), ("SGD", "AdamW")),
        ("Rotated", lambda o: Rotated(o, within="tensor"), ("SGD", "AdamW")),
        ("Lookahead(XGrad(Cautious", lambda o: Lookahead(XGrad(Cautious(o)), k=3), ("AdamW",)),
        (
            "Rotated(Lookahead(CoordinateClip",
            lambda o: Rotated(Lookahead(CoordinateClip(o)), within="tensor"),
            ("AdamW",),
        ),
    ):
        for case in (known[i] for i in inner):
            result.append(Case(f"{name}({case.name}{')' * (name.count('(') + 1)}", case.cls, case.settings, wrap))
    return result


def wrappers() -> dict[str, type[Wrapper]]:
    """Public wrappers, by name."""
    return {cls.__name__: cls for cls in Wrapper.__subclasses__()}


SHAPES: dict[str, tuple[int, ...]] = {
    "layer.weight": (6, 4),
    "layer.bias": (6,),
    "conv.weight": (3, 2, 2, 2),
    "scale": (),
}


def parameters(
    dtype: torch.dtype = torch.float64, *, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0
) -> dict[str, nn.Parameter]:
    """Parameters by name."""
    random = torch.Generator().manual_seed(seed)
    shapes = SHAPES if shapes is None else shapes
    return {
        name: nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype))
        for name, shape in shapes.items()
    }


def copies(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The same again, without gradients."""
    return {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}


def noise(parameters: Sequence[Tensor], step: int, *, seed: int = 0) -> list[Tensor]:
    """Gradients that depend on the number of the step alone."""
    random = torch.Generator().manual_seed(1_000_003 * seed + step)
    return [torch.randn(p.shape, generator=random, dtype=torch.float64).to(p.dtype) for p in parameters]


def backward(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """A backward pass that brings these gradients."""
    for p in parameters:
        p.grad = None
    given = zip(parameters, gradients, strict=True)
    pairs = [(p, g.clone()) for p, g in given if g is not None and p.requires_grad]
    torch.autograd.backward([p for p, _ in pairs], [g for _, g in pairs])


def advance(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    steps: Iterable[int],
    *,
    sign: float = 1.0,
    skip: Callable[[int, int], bool] = lambda step, i: False,
    after: Callable[[], Any] = lambda: None,
) -> None:
    """Steps with noise for gradients.

    Args:
        sign: of the gradients.
        skip: (number of the step, of the parameter) -> whether there is no gradient.
        after: called after each step.
    """
    own = list(parameters.values())
    for step in steps:
        gradients = [None if skip(step, i) else sign * g for i, g in enumerate(noise(own, step))]
        backward(own, gradients)
        optimizer.step()
        after()


def same(a: dict[str, nn.Parameter], b: dict[str, nn.Parameter]) -> bool:
    """Whether parameters agree bit for bit."""
    return all(torch.equal(a[name], b[name]) for name in a)


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_of(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_of(v)]
    return []
