"""Optimizers around optimizers: what CoordinateClip, Cautious, XGrad, Lookahead, Rotated and NiNo share.

A wrapper holds another optimizer and has no parameters, groups, state or defaults but that one's. Schedulers, gradient
scalers and whoever else takes an optimizer see the inner one's, whichever of the two they were given. What a wrapper
keeps for itself goes into `state_dict` among the state of each parameter, below its own name: "lookahead.slow".

Wrappers act in one order, however they are nested: parameters and gradients are turned (Rotated), gradients are clipped
(CoordinateClip), the update is masked (Cautious), the step is taken, the weights after it are predicted (XGrad), the
slow weights follow (Lookahead), parameters are turned back (Rotated). A forecast (NiNo) takes the place of all of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.optim.core.optimizer import check_closure
from shoal.optim.core.scaler import scale_taken_off


class Wrapper(torch.optim.Optimizer):
    """Base of the wrappers.

    Args:
        optimizer: any `torch.optim.Optimizer`, another wrapper too.
        settings: become attributes.

    Attributes:
        inner: the optimizer that was given.
        evaluating: whether parameters hold the weights to evaluate (`eval`).
        place: where it acts: lower ones nearer to the step.
        ahead: whether a closure is called before anything acts.
        once: whether optimizers that call a closure as often as they like (LBFGS) are refused.
        elsewhere: whether gradients are taken elsewhere than at the weights that the step starts from.
        outermost: whether other wrappers must stand inside.

    Raises:
        ValueError: `optimizer` is not one, or it is a wrapper that must be the outermost, or calls a closure by itself
            where that cannot be.
    """

    place: ClassVar[int] = 0
    ahead: ClassVar[bool] = False
    once: ClassVar[bool] = False
    elsewhere: ClassVar[bool] = False
    outermost: ClassVar[bool] = False

    inner: torch.optim.Optimizer
    evaluating: bool

    def __init__(self, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer: got {type(optimizer).__name__}; a torch.optim.Optimizer is allowed")
        if isinstance(optimizer, Wrapper) and optimizer.outermost:
            name = type(optimizer).__name__
            raise ValueError(f"optimizer: got {name}, around which nothing stands; {name}(...) of this one is allowed")
        core = optimizer.core if isinstance(optimizer, Wrapper) else optimizer
        if self.once and asks_for_closure(core):
            raise ValueError(
                f"optimizer: got {type(core).__name__}, which calls a closure several times a step, where "
                f"{type(self).__name__} cannot act; one whose step takes gradients as they are is allowed"
            )
        # torch's own way to make an optimizer out of parts: hooks and profiling are set up, no groups are added
        self.__setstate__({"inner": optimizer, "evaluating": False, "_aside": {}, **settings})

    # -- what a subclass says -------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put transforms into the core's chains, if it is one of Shoal's; also called for copies."""

    def before(self, layers: list[Wrapper]) -> None:
        """Act before the core's step; `layers` are all wrappers that take part."""

    def after(self, layers: list[Wrapper]) -> None:
        """Act after the core's step."""

    def replaces(self, layers: list[Wrapper]) -> bool:
        """Whether `instead` takes the place of this step, of all wrappers; asked once a step, before it."""
        return False

    def instead(self) -> None:
        """Act in the place of a step."""

    def shown(self, p: Tensor) -> Tensor | None:
        """The weights to evaluate a parameter with; None for those that it holds."""
        return None

    def kept(self) -> dict[str, dict[Tensor, Any]]:
        """Own state, by name and parameter; `load_state_dict` fills these very dictionaries."""
        return {}

    # -- the inner optimizer's ----------------------------------------------------------------------------------------

    @property
    def core(self) -> torch.optim.Optimizer:
        """The innermost optimizer, which is not a wrapper."""
        return self.inner.core if isinstance(self.inner, Wrapper) else self.inner

    @property
    def layers(self) -> list[Wrapper]:
        """All wrappers from this one inwards, in the order in which they act after the step."""
        inner = self.inner.layers if isinstance(self.inner, Wrapper) else []
        return sorted([*inner, self], key=lambda layer: layer.place)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimizer's groups."""
        return self.core.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.core.param_groups = groups

    @property
    def state(self) -> Any:
        """The inner optimizer's state."""
        return self.core.state

    @state.setter
    def state(self, state: Any) -> None:
        self.core.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The inner optimizer's defaults."""
        return self.core.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.core.defaults = defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        self.core.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear gradients."""
        self.core.zero_grad(set_to_none)

    @property
    def needs_loss(self) -> bool:
        """Whether the innermost optimizer's `step` must be told the loss."""
        return bool(getattr(self.core, "needs_loss", False))

    @property
    def needs_graph(self) -> bool:
        """Whether the innermost optimizer's `step` must find a graph."""
        return bool(getattr(self.core, "needs_graph", False))

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return self.needs_graph

    def parameters(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """(Group, parameter) of all parameters."""
        return ((group, p) for group in self.param_groups for p in group["params"])

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {self.inner!r}"

    # -- steps --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, **further: Any) -> float | None:  # type: ignore[override]
        """One step of the inner optimizer and of all wrappers.

        Args:
            closure: re-evaluates the model and returns the loss, if given.
            further: what else the innermost optimizer's step takes.

        Returns:
            The closure's loss.

        Raises:
            RuntimeError: parameters hold the weights to evaluate: `train` was not called; or a GradScaler steps an
                optimizer that needs a graph.
        """
        with scale_taken_off(self, further.get("given") is not None) as ready:
            return self._step(closure, **further) if ready else None

    def _step(self, closure: Callable[[], float] | None, **further: Any) -> float | None:
        if closure is not None:
            check_closure(closure)
        layers = self.layers
        if any(layer.evaluating for layer in layers):
            raise RuntimeError("step: parameters hold the weights to evaluate; call train() before the next gradient")
        loss = None
        replacing = [layer for layer in layers if layer.replaces(layers)]
        if closure is not None and (replacing or any(layer.ahead for layer in layers)):
            with torch.enable_grad():
                loss = closure()
            closure = None
            if self.needs_loss or self.needs_graph:
                further["loss"] = loss
        if replacing:
            for layer in replacing:
                layer.instead()
            return loss
        for layer in reversed(layers):
            layer.before(layers)
        if closure is None:
            self.core.step(**further)
        else:
            loss = self.core.step(closure, **further)
        for layer in layers:
            layer.after(layers)
        return loss

    # -- weights to evaluate ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def eval(self) -> None:
        """Let parameters hold the weights to evaluate or to save, until `train`; `step` is refused meanwhile."""
        if self.evaluating:
            return
        layers = self.layers
        for _, p in self.parameters():
            shown = next((x for layer in reversed(layers) if (x := layer.shown(p)) is not None), None)
            if shown is not None:
                self._aside[p] = p.detach().clone()
                p.copy_(shown)
        self.evaluating = True

    @torch.no_grad()
    def train(self) -> None:
        """Let parameters hold again, bit for bit, what they held before `eval`."""
        for p, own in self._aside.items():
            p.copy_(own)
        self._aside.clear()
        self.evaluating = False

    # -- copies and checkpoints ---------------------------------------------------------------------------------------

    _aside: dict[Tensor, Tensor]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not k.startswith(("_optimizer_", "_zero_grad_")) and k != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.attach()

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, with the wrappers' own state among it."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        inner = self.core.state_dict()
        state = {i: dict(own) if isinstance(own, dict) else own for i, own in inner["state"].items()}
        numbers = {p: i for i, (_, p) in enumerate(self.parameters())}
        groups = [dict(group) for group in inner["param_groups"]]
        for label, layer in self._labelled():
            for name, values in layer._all_kept().items():
                for p, value in values.items():
                    state.setdefault(numbers[p], {})[f"{label}.{name}"] = value
            for group in groups:
                group[f"{label}.evaluating"] = layer.evaluating
        result: dict[str, Any] = {**inner, "state": state, "param_groups": groups}
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, result)
            result = result if changed is None else changed
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state, also one of the inner optimizer alone: then wrappers begin anew."""
        result = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, result)
            result = result if changed is None else dict(changed)
        state = {i: dict(own) if isinstance(own, dict) else own for i, own in result["state"].items()}
        groups = [dict(group) for group in result["param_groups"]]
        ids = [i for group in groups for i in group["params"]]
        found = []
        for label, layer in self._labelled():
            taken = {i: _take(state[i], f"{label}.") for i in ids if isinstance(state.get(i), dict)}
            flags = [_take(group, f"{label}.").get("evaluating", False) for group in groups]
            found.append((layer, taken, any(flags)))
        state = {i: own for i, own in state.items() if own != {}}
        self.core.load_state_dict({**result, "state": state, "param_groups": groups})
        parameters = dict(zip(ids, (p for _, p in self.parameters()), strict=True))
        for layer, taken, evaluating in found:
            layer.evaluating = evaluating
            for name, values in layer._all_kept().items():
                values.clear()
                values.update(
                    {parameters[i]: _own(own[name], parameters[i]) for i, own in taken.items() if name in own}
                )
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def state_bytes(self) -> int:
        """Bytes of state held now, the inner optimizer's and the wrappers'; step counters are not counted."""
        tensors = [v for own in self.state.values() for name, v in own.items() if name != "step"]
        tensors += [v for layer in self.layers for values in layer._all_kept().values() for v in values.values()]
        return sum(v.numel() * v.element_size() for v in tensors if isinstance(v, Tensor))

    def _all_kept(self) -> dict[str, dict[Tensor, Any]]:
        return {**self.kept(), "aside": self._aside}

    def _labelled(self) -> list[tuple[str, Wrapper]]:
        """Layers and their names: of the same class, the second is called lookahead2."""
        result: list[tuple[str, Wrapper]] = []
        for layer in self.layers:
            name = type(layer).__name__.lower()
            earlier = sum(type(other) is type(layer) for _, other in result)
            result.append((f"{name}{earlier + 1}" if earlier else name, layer))
        return result


def asks_for_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step is none without a closure."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def decay_left(core: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """What a foreign optimizer's decoupled decay leaves of a parameter in a step: 1 - lr lam, or 1 without.

    It is known from the group ("decoupled_weight_decay" as in torch, "weight_decouple" as elsewhere) or the class.
    """
    own = (torch.optim.AdamW, torch.optim.Adafactor, getattr(torch.optim, "Muon", torch.optim.AdamW))
    known = group.get("decoupled_weight_decay") or group.get("weight_decouple") or isinstance(core, own)
    return 1.0 - float(group["lr"]) * float(group["weight_decay"]) if known and group.get("weight_decay") else 1.0


def _take(own: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Remove the entries below a prefix, and return them without it."""
    return {name.removeprefix(prefix): own.pop(name) for name in [n for n in own if str(n).startswith(prefix)]}


def _own(value: Any, p: Tensor) -> Any:
    return value.to(p.device, copy=True) if isinstance(value, Tensor) else value
