"""Rules as `torch.optim.Optimizer`s: what every optimizer of `shoal.optim` is."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, overload

import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer

from shoal.optim.core import curvature
from shoal.optim.core.arguments import Argument, check, plain
from shoal.optim.core.declared import Declared, declared, option
from shoal.optim.core.given import NOTHING, Given, Supplied, differentiated, graphs, told
from shoal.optim.core.loss import Loss
from shoal.optim.core.plan import Chain, Param, Plan
from shoal.optim.core.rule import Rule
from shoal.optim.core.scaler import scale_taken_off
from shoal.optim.core.stepping import Item, not_fused, step_items
from shoal.optim.core.transform import Scalars, Transform
from shoal.tensors.random import key
from shoal.text import shown

if TYPE_CHECKING:
    from shoal.optim.core.compiled import Kernels

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Settings: TypeAlias = Any
"""A group's arguments by name, as attributes."""


class Optimizer(Declared, torch.optim.Optimizer):
    """Base of the optimizers: a subclass names its arguments and its chain.

        class Sign(Optimizer):
            '''Sign of the gradient with decoupled decay.'''

            lr: float = 1e-3
            weight_decay: float = 0.0

            @classmethod
            def links(cls, h, param):
                return DecoupledDecay(h.weight_decay), SignOf()

    Annotated class attributes are arguments of the constructor, in their order, and settings of parameter groups; what
    they mean and allow is said in `arguments.SHARED`, or in the class's own `about`.

    Args:
        params: parameters, `(name, parameter)` pairs, or groups: dictionaries with "params" and settings of their own.
        maximize: go up the gradient instead of down.
        compile: step by one compiled kernel where the rule is element-wise (see compiled.py).

    Raises:
        ValueError: an argument is not allowed; the message names it.
    """

    params: Params
    maximize: bool = option(default=False, kw_only=True)
    compile: bool = option(default=False, kw_only=True)

    about: ClassVar[dict[str, Argument]] = {}
    arguments: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.arguments, cls.__signature__ = declared(cls, Optimizer)  # type: ignore[attr-defined]

    def __init__(self, params: Params, *args: Any, **kwargs: Any) -> None:
        model = isinstance(params, nn.Module) and not isinstance(params, nn.ParameterList)
        if model or not isinstance(params, Iterable) or isinstance(params, Mapping | str):
            raise ValueError(
                f"params: got {type(params).__name__}; parameters, (name, parameter) pairs or groups are allowed, such "
                "as model.named_parameters()"
            )
        try:
            bound = inspect.signature(type(self)).bind(params, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}; arguments are {', '.join(self.arguments)}") from None
        bound.apply_defaults()
        defaults = {name: plain(value) for name, value in bound.arguments.items() if name != "params"}
        check(type(self), defaults)
        self._chains: dict[int, tuple[Any, dict[Tensor, Plan]]] = {}
        self._kernels: Kernels | None = None
        self._loss = Loss(type(self).__name__)
        self._asks = False
        self._shared: dict[str, Tensor] = {}
        self.ahead: tuple[Transform, ...] = ()  # at the front of every chain, and
        self.around: tuple[Transform, ...] = ()  # at its end, put there by wrappers such as Cautious
        super().__init__(params, defaults)

    # -- what a subclass says -------------------------------------------------------------------------------------

    @classmethod
    def links(cls, h: Settings, param: Param) -> Chain:
        """The chain for one parameter.

        Args:
            h: settings of its group.
            param: name (if it was given), shape and dtype.
        """
        raise NotImplementedError(f"{cls.__name__} has no chain of its own")

    @classmethod
    def rule(cls, *args: Any, **kwargs: Any) -> Rule:
        """The same method for stacked peers: a `Rule`.

        Args:
            args, kwargs: as the constructor's, without the parameters.

        Raises:
            ValueError: an argument is unknown, missing or not allowed.
        """
        try:
            bound = inspect.signature(cls).bind((), *args, **kwargs)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}; arguments are {', '.join(cls.arguments)}") from None
        bound.apply_defaults()
        chosen = {name: plain(value) for name, value in bound.arguments.items() if name != "params"}
        check(cls, chosen)
        return Rule(cls.__name__.lower(), float(chosen["lr"]), Links(cls, chosen), chosen.get("seed", 0))

    # -- torch's side -----------------------------------------------------------------------------------------------

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Torch's wrapper of `step`, which is passed by where there is no hook and no profiler."""
        wrapped = torch.optim.Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
            watched = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _watched_by_all()
            return (wrapped if watched else func)(self, *args, **kwargs)

        return step

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its settings are checked like the constructor's.

        Raises:
            ValueError: a setting is not allowed, or is nearly called as one; it has no parameters, or complex ones.
        """
        if isinstance(param_group, dict):
            if "params" not in param_group:
                raise ValueError(f"param_group: got {shown([*param_group])}; one with params is allowed")
            for name in param_group.keys() - self.arguments.keys() - {"params", "param_names"}:
                if meant := difflib.get_close_matches(str(name), self.arguments, n=1, cutoff=0.85):
                    raise ValueError(f"param_group: {name!r} is unknown; did you mean {meant[0]!r}?")
            param_group.update({name: plain(param_group[name]) for name in self.arguments if name in param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check(type(self), {name: group[name] for name in self.arguments})
            for p in group["params"]:
                if p.is_complex():
                    raise ValueError(
                        f"params: got a complex parameter of shape {tuple(p.shape)}; "
                        "real ones are allowed (torch.view_as_real)"
                    )
            self._plans(len(self.param_groups) - 1, group)  # what does not go together is refused now
        except ValueError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._chains, self._kernels, self._loss, self._shared = {}, None, Loss(type(self).__name__), {}
        self._asks = True
        for group in self.param_groups:
            for name, value in self.arguments.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {**state, "ahead": self.ahead, "around": self.around}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state; slots keep their own dtype (torch would give them their parameter's).

        Raises:
            ValueError: it is of other parameters, or of another kind of optimizer; nothing is loaded then.
        """
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            raise ValueError(f"state_dict: got {shown(state_dict)}; one of an optimizer's state_dict() is allowed")
        before = {"state": self.state, "param_groups": self.param_groups}
        super().load_state_dict(dict(state_dict))
        try:
            self._check_loaded()
        except ValueError:
            vars(self).update(before)
            raise
        finally:
            self._chains, self._shared = {}, {}
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        for i, p in zip(ids, self._parameters(), strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.to(p.device, copy=True)

    def _check_loaded(self) -> None:
        for number, group in enumerate(self.param_groups):
            for i, (p, plan) in enumerate(self._plans(number, group).items()):
                held = {name for name, value in self.state.get(p, {}).items() if isinstance(value, Tensor)} - {"step"}
                if held and plan.keys and not held & plan.keys:
                    raise ValueError(
                        f"state_dict: got {', '.join(sorted(held))} for parameter {i} of group {number}, which is of "
                        f"another optimizer than {type(self).__name__}; {', '.join(sorted(plan.keys))} is allowed"
                    )
                for name, _, shape in plan.slots:
                    value = self.state[p].get(name) if p in self.state else None
                    if isinstance(value, Tensor) and tuple(value.shape) != tuple(shape):
                        raise ValueError(
                            f"state_dict: got {name} of shape {tuple(value.shape)} for parameter {i} of group {number}"
                            f"; {tuple(shape)} is allowed"
                        )

    @overload
    def step(self, closure: None = None, *, loss: float | Tensor | None = None, given: Given | None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float], *, loss: None = None, given: Given | None = None) -> float: ...

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], float] | None = None,
        *,
        loss: float | Tensor | None = None,
        given: Given | None = None,
    ) -> float | Tensor | None:
        """One step.

        An optimizer that needs the Hessian (`needs_graph`) takes products with it from a graph: of the loss, if that
        still has its own (from which gradients are taken then; `grad` is neither looked at nor set), or of gradients
        from `loss.backward(create_graph=True)`. Gradients with a graph that the closure itself has left in `grad` come
        before its loss. Either is let go.

        Args:
            closure: re-evaluates the model and returns the loss, if given.
            loss: of the batch that the gradients are of, for those that need it and were not given a closure.
            given: what transforms ask for beside gradients (`Transform.given`), instead of what the optimizer finds
                itself: by name, one finite tensor for each parameter in the order of the groups, or None for it.

        Returns:
            The closure's loss.

        Raises:
            RuntimeError: a gradient is sparse, or the optimizer needs the loss or a graph and was not told it, or a
                graph and is stepped by a GradScaler, or the loss depends on none of its parameters, or the optimizer
                was told the loss and gradients are missing or those of the step before.
            ValueError: the loss is not one finite number, or `closure` no function, or `given` has a name that nothing
                asks for, or has not one finite tensor of the right shape for each parameter.
        """
        if "grad_scale" not in vars(self):
            return self._step(closure, loss, given)
        with scale_taken_off(self, given is not None) as ready:
            return self._step(closure, loss, given) if ready else None

    def _step(
        self, closure: Callable[[], float | Tensor] | None, loss: float | Tensor | None, given: Given | None
    ) -> float | Tensor | None:
        graphed = loss
        if closure is not None:
            check_closure(closure)
            earlier = graphs(self._parameters())
            with torch.enable_grad():
                loss = closure()
            graphed = loss
            if any(all(g is not old for old in earlier) for g in graphs(self._parameters())):
                graphed = None
        self._loss.hear(loss)
        for number, group in enumerate(self.param_groups):
            self._plans(number, group)  # what they ask for may have changed with the settings
        supplied = self._supply(graphed, given) if self._asks or given is not None else NOTHING
        if loss is not None and self.needs_loss and not supplied.gradients:
            self._loss.check_gradients(self._parameters())
        plain: list[Item] = []
        compiled: list[Item] = []
        for number, group in enumerate(self.param_groups):
            (compiled if group["compile"] else plain).extend(self._items(number, group, supplied))
        if compiled:
            plain += self._by_kernels(compiled)
        if plain:
            step_items(not_fused(plain))
        return None if closure is None else loss

    def _supply(self, loss: float | Tensor | None, given: Given | None) -> Supplied:
        """Find what transforms ask for beside gradients."""
        plans = {p: plan for i, group in enumerate(self.param_groups) for p, plan in self._plans(i, group).items()}
        self._asks = any(plan.given for plan in plans.values())
        if given is not None:
            return told(plans, given, type(self).__name__)
        if not self.needs_graph:
            return NOTHING
        places = {
            p: (number, i, p, plans[p], group)
            for number, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
        }
        climbing = {p for p, (*_, group) in places.items() if group["maximize"]}
        return differentiated(plans, loss, lambda p: self._signs(*places[p]), climbing, type(self).__name__)

    def _signs(self, number: int, i: int, p: Tensor, plan: Plan, group: dict[str, Any]) -> Tensor:
        """Random signs for this step of a parameter."""
        state = self._state_of(number, i, p, plan, group)
        return curvature.signs(state[plan.seed], state["step"] + 1, tuple(p.shape), p.dtype)

    def _by_kernels(self, items: list[Item]) -> list[Item]:
        """Step what compiled kernels can take; returns the rest."""
        if self._kernels is None:
            from shoal.optim.core.compiled import Kernels

            self._kernels = Kernels()
        return self._kernels.step(items)

    def _items(self, number: int, group: dict[str, Any], supplied: Supplied = NOTHING) -> list[Item]:
        """What is to be stepped of a group."""
        plans = self._plans(number, group)
        gradients, given = supplied.gradients, supplied.given
        lr, negate = float(group["lr"]), bool(group["maximize"])
        scalars: dict[tuple[int, int], list[Scalars]] = {}
        items = []
        for i, p in enumerate(group["params"]):
            g = gradients.get(p, p.grad) if gradients else p.grad
            if g is None or not p.numel():
                continue
            if g.layout is not torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__} takes no sparse gradients; got one of shape {tuple(g.shape)}"
                )
            plan = plans.get(p)
            if plan is None:  # somebody put other parameters into the group
                del self._chains[number]
                plans = self._plans(number, group)
                plan = plans[p]
            state = self._state_of(number, i, p, plan, group)
            state["step"] = t = state["step"] + 1
            same = id(plan.chain), t
            numbers = scalars.get(same)
            if numbers is None:
                numbers = scalars[same] = plan.scalars(float(t), lr, self._loss.of(plan, negate))
            if plan.shared:
                self._share(plan, state, p)
            own = {**state, **given[p]} if given and p in given else state
            items.append(Item(plan, p, g, own, numbers, negate))
        return items

    def _state_of(self, number: int, i: int, p: Tensor, plan: Plan, group: dict[str, Any]) -> dict[str, Any]:
        """The state of parameter `i` of a group."""
        state: dict[str, Any] = self.state[p]
        if "step" not in state or not plan.keys <= state.keys():  # at first, and when settings bring new slots
            first = sum(len(earlier["params"]) for earlier in self.param_groups[:number])
            fresh = plan.fresh(p, key(int(group.get("seed", 0)), "optimizer", first + i))
            state.update({"step": 0, **fresh, **state})
        return state

    @property
    def needs_loss(self) -> bool:
        """Whether `step` must be told the loss, by a closure or by itself."""
        return any(transform.needs_loss for plan in self._all_plans() for transform in plan.chain)

    @property
    def needs_graph(self) -> bool:
        """Whether `step` must be told a loss that still has its graph, or find such gradients."""
        return any(name in plan.given for plan in self._all_plans() for name in curvature.GRAPHED)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return self.needs_graph

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _all_plans(self) -> list[Plan]:
        return [plan for i, group in enumerate(self.param_groups) for plan in self._plans(i, group).values()]

    def _share(self, plan: Plan, state: dict[str, Any], p: Tensor) -> None:
        """Shared slots are one tensor: who lacks a gradient now knows as much as the others."""
        for name in plan.shared:
            state[name] = self._shared.setdefault(name, self._known(name, state[name])).to(p.device)

    def _known(self, name: str, default: Tensor) -> Tensor:
        return next((state[name] for state in self.state.values() if name in state), default)

    def _plans(self, number: int, group: dict[str, Any]) -> dict[Tensor, Plan]:
        """The chain of each parameter of a group, made anew when its settings change."""
        settings = [group[name] for name in self.arguments if name != "lr"]
        found = self._chains.get(number)
        if found is not None and found[0] == settings and len(found[1]) == len(group["params"]):
            return found[1]
        names = group.get("param_names") or [""] * len(group["params"])
        h = SimpleNamespace(**{name: group[name] for name in self.arguments})
        chains: dict[Any, Chain] = {}
        plans = {}
        for name, p in zip(names, group["params"], strict=True):
            made = (*self.ahead, *self.links(h, Param(name, tuple(p.shape), p.dtype)), *self.around)
            chain = chains.setdefault(made, made)  # equal chains share their scalars
            plans[p] = Plan(chain, tuple(p.shape))
        self._chains[number] = (settings, plans)
        self._asks = self._asks or any(plan.given for plan in plans.values())
        return plans

    def state_bytes(self) -> int:
        """Bytes of state held now, step counters not counted."""
        tensors = (v for state in self.state.values() for v in state.values() if isinstance(v, Tensor))
        return sum(t.numel() * t.element_size() for t in tensors)


def check_closure(closure: Any) -> None:
    """Refuse what cannot be called, such as the loss itself.

    Raises:
        ValueError: it is no function.
    """
    if not callable(closure):
        raise ValueError(
            f"closure: got {type(closure).__name__}; a function that returns the loss is allowed, or step(loss=loss)"
        )


def _watched_by_all() -> bool:
    """Whether there is a hook of all optimizers, or a profiler."""
    hooks = torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
    return bool(hooks) or torch._C._autograd._profiler_enabled()


@dataclass(frozen=True)
class Links:
    """The chain of an optimizer class with certain settings, for a rule."""

    cls: type[Optimizer]
    settings: dict[str, Any]

    def __call__(self, param: Param) -> Chain:
        """The chain for one parameter."""
        return self.cls.links(SimpleNamespace(**self.settings), param)
