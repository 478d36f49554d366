"""LOMO and AdaLomo: parameters are stepped within the backward pass, so that gradients never exist all at once.

    LOMO       p <- (1 - lr lam) p - lr f clip(g),        f = min(1, clip_grad_norm / (|g of all tensors| + 1e-6))
    AdaLomo    beta_t = 1 - t^decay_rate
               r <- beta_t r + (1 - beta_t) row means of (g^2 + eps1)        c: column means likewise
               u <- g / sqrt(r c / mean(r))        u <- u / max(1, RMS(u) / clip_threshold)
               eta = lr max(eps2, RMS(p))        p <- (1 - eta lam) p - eta u

K. Lv, Y. Yang, T. Liu, Q. Gao, Q. Guo, X. Qiu, "Full Parameter Fine-tuning for Large Language Models with Limited
Resources", arXiv:2306.09782 (2023); K. Lv, H. Yan, Q. Guo, H. Lv, X. Qiu, "AdaLomo: Low-memory Optimization with
Adaptive Learning Rate", arXiv:2310.10195 (2023).

Choices: a tensor is stepped when its gradient has been added up, once in a backward pass even where modules share it.
Clipping by value comes before that by norm, whose norm is of the gradients as they came. Tensors of more than two axes
are factored along the last two, those of less keep their second moment. There is no loss scaling.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from shoal.optim.adafactor import FactoredScaling, size
from shoal.optim.common import decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, State, Transform
from shoal.optim.core.arguments import above, at_least
from shoal.optim.core.ops import Number, clip
from shoal.optim.core.optimizer import Params, Settings
from shoal.optim.core.plan import compute_dtype
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.stepping import step_items


@dataclass(frozen=True)
class ClipValue(Transform):
    """Every entry between -limit and limit."""

    limit: float

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Bound the entries."""
        return clip(u, -c.limit, c.limit)


@dataclass(frozen=True)
class ClipNorm(Transform):
    """u times min(1, limit / (|g| + 1e-6)), |g| being the norm of the gradients of all parameters together."""

    granularity = "model"

    limit: float

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        """The square of the norm."""
        return {"square": g.square().sum()}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Shorten the update."""
        return u * shortening(c.square, c.limit)


def shortening(square: Tensor, limit: Number) -> Tensor:
    """min(1, limit / (sqrt(square) + 1e-6))."""
    factor: Tensor = limit / (square.sqrt() + 1e-6)
    return factor.clamp_max(1.0)


@dataclass(frozen=True)
class SizedFactoredScaling(FactoredScaling):
    """AdaFactor's scaling times eta / lr = max(eps2, RMS(p)), and the decay p <- (1 - eta lam) p."""

    eps2: float = 1e-3
    weight_decay: float = 0.0

    def derived(self, t: Scalar, lr: Scalar) -> dict[str, Scalar]:
        """Also the decay of a parameter of size 1."""
        return {**super().derived(t, lr), "decay": lr * self.weight_decay}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        """Update the second moment, shrink the parameter and return the step."""
        unit = self.normalised(u, s, c)
        scale = size(p, c.eps2)
        unit.mul_(self.clipping(unit, c).mul_(scale))
        if self.weight_decay:
            p.mul_(1.0 - scale * c.decay)
        return unit


class InBackward(Optimizer):
    """Base of optimizers that step a parameter as soon as a backward pass has its gradient, and free the gradient.

        optimizer = AdaLomo(model.parameters(), lr=1e-3)
        loss.backward()         # the parameters move here; no gradients are left
        optimizer.step()        # for what is left: gradients that were set by hand, or kept by `keeping()`

    The hooks end with the optimizer, or with `detach()`. Gradients have to be complete when they come, so the model
    must not be wrapped in something that sums them over processes afterwards. A parameter that needs no gradient when
    it is given gets no hook; if it is unfrozen later `step` moves it.
    """

    def __init__(self, params: Params, *args: Any, **kwargs: Any) -> None:
        self._begin()
        super().__init__(params, *args, **kwargs)

    def _begin(self) -> None:
        self._mode = "step"
        self._places: dict[Tensor, tuple[int, int]] = {}
        self._handles: list[RemovableHandle] = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its parameters are stepped in backward passes from now on."""
        super().add_param_group(param_group)
        self._attach(len(self.param_groups) - 1)

    def _attach(self, number: int) -> None:
        itself = weakref.ref(self)  # a model should not keep its optimizer alive, nor obey one that is gone

        def arrived(p: Tensor) -> None:
            optimizer = itself()
            if optimizer is not None:
                optimizer._arrived(p)

        for i, p in enumerate(self.param_groups[number]["params"]):
            self._places[p] = number, i
            if p.requires_grad:
                self._handles.append(p.register_post_accumulate_grad_hook(arrived))

    def detach(self) -> None:
        """Take the hooks off: backward passes leave gradients again, and `step` steps."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Backward passes in here step nothing and add up gradients, for `step` or a last pass outside."""
        with self._in_mode("keep"):
            yield

    @contextlib.contextmanager
    def _in_mode(self, mode: str) -> Iterator[None]:
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    @torch.no_grad()
    def _arrived(self, p: Tensor) -> None:
        if self._mode == "step":
            number, i = self._places[p]
            group = self.param_groups[number]
            names = group.get("param_names")
            alone = {**group, "params": [p], **({"param_names": [names[i]]} if names else {})}
            alone.update(self._prepare(p, group))
            first = sum(len(earlier["params"]) for earlier in self.param_groups[:number])
            items = self._items(-1 - first - i, alone)  # the negative number only names the place of the chain
            step_items(self._by_kernels(items) if group["compile"] else items)
            p.grad = None

    def _prepare(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Make the gradient of a parameter ready; returns settings that are not to be applied as they are."""
        return {}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step what has a gradient left, and free it.

        Args:
            closure: re-evaluates the model and returns the loss, if given; its backward pass steps.

        Returns:
            The closure's loss.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss: float | None = super().step(closure)
        for p in self._places:
            p.grad = None
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_handles" not in self.__dict__:  # a copy, or from a file: its parameters have no hooks yet
            self._begin()
            for number in range(len(self.param_groups)):
                self._attach(number)


class LOMO(InBackward):
    """SGD within the backward pass; no state at all.

    Clipping by the norm of all gradients needs that norm before the first step, and so a pass of its own:

        with optimizer.measuring():
            loss.backward(retain_graph=True)        # frees the gradients as well
        loss.backward()
        optimizer.step()        # done with this norm
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None

    about: ClassVar[dict[str, Argument]] = {
        "clip_grad_norm": Argument(
            "largest norm of all gradients together", "a finite number > 0, or None", lambda v: v is None or above(0)(v)
        ),
        "clip_grad_value": Argument(
            "largest entry of a gradient", "a finite number > 0, or None", lambda v: v is None or above(0)(v)
        ),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """Decay, then what clips."""
        value = () if h.clip_grad_value is None else (ClipValue(h.clip_grad_value),)
        norm = () if h.clip_grad_norm is None else (ClipNorm(h.clip_grad_norm),)
        return *decoupled(h.weight_decay), *value, *norm

    def _begin(self) -> None:
        super()._begin()
        self._forget()

    def _forget(self) -> None:
        self._square: Tensor | None = None
        self._clipped: set[Tensor] = set()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """The backward pass in here steps nothing: it measures the norm of the gradients, and frees them."""
        self._forget()
        with self._in_mode("measure"):
            yield

    @torch.no_grad()
    def _arrived(self, p: Tensor) -> None:
        if self._mode == "measure":
            assert p.grad is not None
            square = torch.linalg.vector_norm(p.grad, dtype=compute_dtype(p.grad.dtype)).square()
            self._square = square if self._square is None else self._square + square.to(self._square.device)
            p.grad = None
        else:
            super()._arrived(p)

    def _prepare(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Clip the gradient, which will not be seen again, in place."""
        assert p.grad is not None
        if group["clip_grad_norm"] is not None and (self._square is None or p in self._clipped):
            raise RuntimeError(
                "clip_grad_norm: the norm has not been measured for this backward pass; run one under "
                "`with optimizer.measuring():` before it, and `optimizer.step()` after it"
            )
        if group["clip_grad_value"] is not None:
            p.grad.clamp_(-group["clip_grad_value"], group["clip_grad_value"])
        if group["clip_grad_norm"] is not None and self._square is not None:
            p.grad.mul_(shortening(self._square, group["clip_grad_norm"]).to(p.grad.device))
            self._clipped.add(p)
        return {"clip_grad_norm": None, "clip_grad_value": None}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step what has a gradient left, clipped by the norm of just those, and forget the norm that was measured.

        Args:
            closure: re-evaluates the model and returns the loss, if given; its backward pass steps.

        Returns:
            The closure's loss.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = super().step(closure)
        self._forget()
        return loss


class AdaLomo(InBackward):
    """AdaLomo: AdaFactor's second moment within the backward pass; a matrix [n, m] has n + m numbers of state.

    The bound on each tensor's update takes the place of clipping by the norm.
    """

    lr: float = 1e-3
    eps: tuple[float, float] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8
    weight_decay: float = 0.0

    about: ClassVar[dict[str, Argument]] = {
        "eps": Argument(
            "added to the squares; least size of a parameter",
            "two finite numbers >= 0",
            lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(map(at_least(0.0), v)),
        ),
        "clip_threshold": Argument("largest root mean square of an update", "a finite number > 0", above(0.0)),
        "decay_rate": Argument(
            "the new squares weigh t^decay_rate", "a finite number <= 0", lambda v: at_least(0.0)(-v)
        ),
    }

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The factored moments with the decay."""
        eps1, eps2 = h.eps
        factored = len(param.shape) > 1
        return (SizedFactoredScaling(h.decay_rate, eps1, h.clip_threshold, factored, eps2, h.weight_decay),)
