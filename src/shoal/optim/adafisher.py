"""AdaFisher: momentum over a diagonal Fisher matrix, which layers give as a product of two factors.

    every t_cov steps:  H <- 0.1 gamma H + 0.01 gamma H^        S <- 0.1 gamma S + 0.01 gamma S^        both 1 at first
    F = S x H + lam        m <- beta m + (1 - beta) g        p <- p - lr m / ((1 - beta^t) F)

H^ and S^ are the normalised mean squares of a layer's inputs and output gradients (factors.py); F of a weight is
F[o, i] = S[o] H[i] + lam, that of the bias has the last entry of H. AdaFisher adds weight decay to the gradient,
AdaFisherW takes lr weight_decay p off with the step. F = 1 for parameters of other layers, such as embeddings and
`nn.MultiheadAttention`, and until a layer is seen.

D. M. Gomes, Y. Zhang, E. Belilovsky, G. Wolf, M. S. Hosseini, "AdaFisher: Adaptive Second Order Optimization via Fisher
Information", ICLR 2025, arXiv:2405.16397.

Choices: of a layer that is used several times before a step, or is followed by several backward passes, the means over
all of it count; a parameter that several layers share has the mean of their normalised factors. The factors of norms
are the publication's, channel by channel. S is of the mean loss, and so falls with the square of the batch's size: the
1e-6 in its normalisation hides that only where gradients are large.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shoal.optim.common import coupled, decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, Slot, State, Transform
from shoal.optim.core.arguments import SHARED, above, whole
from shoal.optim.core.given import Given, Supplied
from shoal.optim.core.ops import ema_, select
from shoal.optim.core.optimizer import Params, Settings
from shoal.optim.core.scalars import Scalar, floor, one_minus_power
from shoal.optim.core.transform import Granularity, Shape, number
from shoal.optim.factors import KNOWN, Watch, attention, by_parameter, layers, parameters
from shoal.text import cut


def _row(shape: Shape) -> Shape:
    return shape[1:] if len(shape) > 1 else shape


def _column(shape: Shape) -> Shape:
    return shape[:1] if len(shape) > 1 else shape


@dataclass(frozen=True)
class FisherScaling(Transform):
    """m^ / F.

    Attributes:
        beta, lam, gamma: see above.
        t_cov: steps from one update of the factors to the next.
    """

    beta: float = 0.9
    lam: float = 1e-3
    gamma: float = 0.8
    t_cov: int = 100
    granularity: ClassVar[Granularity] = "tensor"
    given: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The momentum, the factors, and whether there are any."""
        return Slot("m"), Slot("H", _row, start=1.0), Slot("S", _column, start=1.0), number("seen")

    def given_shape(self, name: str, parameter: Shape) -> Shape:
        """That of the factor."""
        return _row(parameter) if name == "inputs" else _column(parameter)

    def awaits(self, t: int) -> bool:
        """Every `t_cov` steps, beginning with the first."""
        return (t - 1) % self.t_cov == 0

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Weights, the correction, and whether the factors are updated at this step."""
        past = (t - 1.0) - self.t_cov * floor((t - 1.0) / self.t_cov)
        return {
            "new": 1.0 - self.beta,
            "correction": one_minus_power(self.beta, t),
            "kept": 0.1 * self.gamma,
            "added": 0.01 * self.gamma,
            "updates": past < 0.5,
        }

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update factors and momentum, and return the step."""
        if s.inputs is not None and s.outputs is not None:
            for factor, new in ((s.H, s.inputs), (s.S, s.outputs)):
                factor.copy_(select(c.updates, factor * c.kept + new * c.added, factor))
            s.seen.copy_(select(c.updates, torch.ones_like(s.seen), s.seen))
        rows = s.S.view(-1, *[1] * (u.dim() - 1)) if u.dim() > 1 else s.S
        fisher = torch.where(s.seen > 0, rows * s.H + c.lam, 1.0)
        step: Tensor = ema_(s.m, u, c.new) / (fisher * c.correction)
        return step


class AdaFisher(Optimizer):
    """AdaFisher; `weight_decay` adds to the gradient (L2).

        optimizer = AdaFisher(model, lr=1e-3)       # or AdaFisher(groups) and optimizer.watch(model)
        loss.backward()
        optimizer.step()

    The hooks look at passes of a model in training, at steps that want them, and end with the optimizer, with
    `remove_hooks()`, or with a `with` block around the optimizer. A copy of the model has none that do anything; a copy
    of the optimizer watches its own copy of the model.

    Raises:
        ValueError: an argument is not allowed, or as of `watch`.
    """

    about: ClassVar[dict[str, Argument]] = {
        "beta": SHARED["momentum"],
        "lam": Argument("added to the Fisher matrix", "a finite number > 0", above(0.0)),
        "gamma": Argument("decay rate of the factors", "a number in [0, 1)", SHARED["momentum"].check),
        "t_cov": Argument("steps from one update of the factors to the next", "a whole number >= 1", whole(1)),
    }

    lr: float = 1e-3
    beta: float = 0.9
    lam: float = 1e-3
    gamma: float = 0.8
    t_cov: int = 100
    weight_decay: float = 0.0

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """L2 decay, then the scaling."""
        return *coupled(h.weight_decay), FisherScaling(h.beta, h.lam, h.gamma, h.t_cov)

    def __init__(self, params: Params | nn.Module, *args: Any, **kwargs: Any) -> None:
        self._begin()
        model = params if isinstance(params, nn.Module) else None
        super().__init__(params if model is None else model.named_parameters(), *args, **kwargs)  # type: ignore[arg-type]
        if model is not None:
            self.watch(model)

    def _begin(self) -> None:
        self._models: list[nn.Module] = []
        self._owners: dict[nn.Module, list[nn.Module]] = {}
        self._due: dict[nn.Module, bool] = {}  # for the next step, once somebody asked
        self._paused = 0
        self._handles: list[RemovableHandle] = []
        itself = weakref.ref(self)

        def wanted(layer: nn.Module) -> bool:
            optimizer = itself()
            return optimizer is not None and optimizer._awaits(layer)

        self._watch = Watch(wanted)
        self._ends = weakref.finalize(self, _remove, self._handles)
        self._ends.atexit = False

    def watch(self, model: nn.Module) -> None:
        """Take factors of the layers of a model, beside those of models that are watched already.

        A warning names `nn.MultiheadAttention`, whose projections have no factors.

        Raises:
            ValueError: it has no layer that gives factors of a parameter of this optimizer.
        """
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: got {type(model).__name__}; a torch.nn.Module is allowed")
        found = layers(model)
        if not found:
            why = " (nothing passes through those of nn.MultiheadAttention)" if attention(model) else ""
            raise ValueError(
                f"model: got {type(model).__name__}, whose layers give no factors{why}; one with {KNOWN} is allowed"
            )
        own = set(self._parameters())
        if not any(p in own for layer in found for p in parameters(layer).values()):
            raise ValueError(
                f"model: got {type(model).__name__}, whose layers have no parameter of this {type(self).__name__}; "
                "the model of its parameters is allowed, once they are in a group"
            )
        self._attach(model)
        if bare := [name or type(module).__name__ for name, module in attention(model)]:
            warnings.warn(
                f"{type(self).__name__}: {cut(', '.join(bare), 120)}: the projections of nn.MultiheadAttention pass "
                "through no layer that gives factors, and step by momentum alone (F = 1); attention made of nn.Linear "
                "has factors",
                stacklevel=3,  # of the constructor
            )

    def _attach(self, model: nn.Module) -> None:
        if not any(model is other for other in self._models):
            self._models.append(model)
            self._handles += self._watch.attach(model)
            for layer in layers(model):
                self._owners.setdefault(layer, []).append(model)
            self._due = {}

    def remove_hooks(self) -> None:
        """Watch nothing any more; the factors stay as they are."""
        _remove(self._handles)
        self._models.clear()
        self._owners.clear()
        self._watch.seen.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Look at no pass within the block: those of another loss than the one that is stepped by."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove_hooks()

    @property
    def watched(self) -> list[nn.Module]:
        """The layers that give factors."""
        return list(self._owners)

    def _awaits(self, layer: nn.Module) -> bool:
        """Whether a pass in training, and before a step for which a parameter of the layer wants its factors."""
        if self._paused or not any(model.training for model in self._owners[layer]):
            return False
        if not self._due:
            groups = self.param_groups
            wanting = {p for group in groups for p in group["params"] if self._wants(p, group["t_cov"])}
            self._due = {one: any(p in wanting for p in one.parameters(recurse=False)) for one in self._owners}
        return self._due[layer]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state; the hooks stay where they are."""
        super().load_state_dict(state_dict)
        self._due = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its layers give factors if a watched model has them."""
        super().add_param_group(param_group)
        self._due = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients, and what backward passes have shown of the layers."""
        super().zero_grad(set_to_none)
        self._watch.seen.clear()

    def _supply(self, loss: float | Tensor | None, given: Given | None) -> Supplied:
        """Also the layers' factors."""
        supplied = super()._supply(loss, given)
        self._due = {}
        if given is not None:
            return supplied
        found = by_parameter(self._watch.take())
        if not found:
            self._check_passes()
        return replace(supplied, given=found)

    def _check_passes(self) -> None:
        """Refuse a step that is to use factors where there have never been any.

        Raises:
            RuntimeError: no model is watched, or none of its layers that have gradients was seen.
        """
        name = type(self).__name__
        why = f"{name} sees no layers: {name}(model), or watch(model) before the forward pass"
        if self._models:
            held = {p for layer in self._owners for p in parameters(layer).values() if p.grad is not None}
            groups = self.param_groups
            if not any(self._wants(p, group["t_cov"]) for group in groups for p in group["params"] if p in held):
                return
            why = (
                f"{name} has seen none of its layers, though they have gradients: these must come from a forward pass "
                "of the model that is watched, and not of a copy, in training (model.train()) and outside paused(); "
                "beside gradients put there by hand, factors are `given`"
            )
        if not any(self.state[p].get("seen", 0.0) for p in self.state):
            raise RuntimeError(why)

    def _wants(self, p: Tensor, period: int) -> bool:
        """Whether the next step of a parameter is one for which it wants factors."""
        step: int = self.state[p].get("step", 0) if p in self.state else 0
        return step % period == 0

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_models": self._models}

    def __setstate__(self, state: dict[str, Any]) -> None:
        models = state.pop("_models", [])
        super().__setstate__(state)
        if "_handles" not in self.__dict__:  # a copy, or from a file
            self._begin()
            for model in models:
                self._attach(model)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


class AdaFisherW(AdaFisher):
    """AdaFisher with decoupled weight decay."""

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The decay, then the scaling."""
        return *decoupled(h.weight_decay), FisherScaling(h.beta, h.lam, h.gamma, h.t_cov)
