"""Rules as `torch.optim.Optimizer`s: what every optimizer of `shoal.optim` is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, dataclass_transform, overload

import torch
from torch import Tensor

from shoal.optim.core import curvature
from shoal.optim.core.arguments import SHARED, Argument
from shoal.optim.core.plan import Chain, Memory, Param, Plan, compute_dtype
from shoal.optim.core.rule import Rule
from shoal.optim.core.stepping import Item, step_items
from shoal.optim.core.transform import Scalars, Transform
from shoal.tensors.random import key

if TYPE_CHECKING:
    from shoal.optim.core.compiled import Kernels

Params: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Settings: TypeAlias = Any
"""A group's arguments by name, as attributes."""
Given: TypeAlias = Mapping[str, Sequence[Tensor | None]]
MISSING: Any = inspect.Parameter.empty


def option(*, default: Any = MISSING, kw_only: Literal[True] = True) -> Any:
    """A keyword-only argument of an optimizer class."""
    return _Option(default)


class _Option:
    def __init__(self, default: Any) -> None:
        self.default = default


@dataclass_transform(field_specifiers=(option,))
class _Declared:
    """Tells type checkers that annotated attributes are arguments of the constructor."""


class Optimizer(_Declared, torch.optim.Optimizer):
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
        found: dict[str, Any] = {}
        keyword: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            if not issubclass(base, Optimizer):
                continue
            for name, kind in inspect.get_annotations(base).items():
                if name == "params" or "ClassVar" in str(kind):
                    continue
                value = base.__dict__.get(name, MISSING)
                if isinstance(value, _Option):
                    keyword[name] = value.default
                else:
                    found[name] = value
        cls.arguments = found | keyword
        named, only = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("params", named)]
        parameters += [inspect.Parameter(name, named, default=value) for name, value in found.items()]
        parameters += [inspect.Parameter(name, only, default=value) for name, value in keyword.items()]
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def __init__(self, params: Params, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(type(self)).bind(params, *args, **kwargs)
        bound.apply_defaults()
        defaults = {name: value for name, value in bound.arguments.items() if name != "params"}
        check(type(self), defaults)
        self._chains: dict[int, tuple[Any, dict[Tensor, Plan]]] = {}
        self._kernels: Kernels | None = None
        self._told: float | None = None
        self._asks = False
        self._taken: dict[Tensor, Tensor | None] = {}  # gradients that are not in `grad`, and
        self._given: dict[Tensor, Memory] = {}  # what transforms are given beside them, for the length of a step
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
            param: name (if it was given) and shape.
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
        chosen = {name: value for name, value in bound.arguments.items() if name != "params"}
        check(cls, chosen)
        return Rule(cls.__name__.lower(), float(chosen["lr"]), Links(cls, chosen), chosen.get("seed", 0))

    # -- torch's side -----------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its settings are checked like the constructor's."""
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
        self._chains, self._kernels, self._told, self._shared = {}, None, None, {}
        self._asks, self._taken, self._given = True, {}, {}
        for group in self.param_groups:
            for name, value in self.arguments.items():
                group.setdefault(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {**state, "ahead": self.ahead, "around": self.around}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state; slots keep their own dtype (torch would give them their parameter's).

        Raises:
            ValueError: it is of other parameters; nothing is loaded then.
        """
        before = {"state": self.state, "param_groups": self.param_groups}
        super().load_state_dict(dict(state_dict))
        try:
            self._check_shapes()
        except ValueError:
            vars(self).update(before)
            raise
        finally:
            self._chains, self._shared = {}, {}
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, parameters, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.to(p.device, copy=True)

    def _check_shapes(self) -> None:
        for number, group in enumerate(self.param_groups):
            for i, (p, plan) in enumerate(self._plans(number, group).items()):
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
            RuntimeError: a gradient is sparse, or the optimizer needs the loss or a graph and was not told it.
            ValueError: the loss is NaN or infinite, or `given` has a name that nothing asks for, or has not one finite
                tensor of the right shape for each parameter.
        """
        told = graphed = loss
        if closure is not None:
            earlier = self._with_graphs()
            with torch.enable_grad():
                told = graphed = loss = closure()
            if any(all(g is not old for old in earlier) for g in self._with_graphs()):
                graphed = None
        self._told = None if told is None else float(told)
        for number, group in enumerate(self.param_groups):
            self._plans(number, group)  # what they ask for may have changed with the settings
        if self._asks or given is not None:
            self._supply(graphed, given)
        plain: list[Item] = []
        compiled: list[Item] = []
        try:
            for number, group in enumerate(self.param_groups):
                (compiled if group["compile"] else plain).extend(self._items(number, group))
        finally:
            self._taken, self._given = {}, {}
        if compiled:
            plain += self._by_kernels(compiled)
        step_items(_not_fused(plain))
        return None if closure is None else loss

    def _supply(self, loss: float | Tensor | None, given: Given | None) -> None:
        """Find what transforms ask for beside gradients."""
        plans = {p: plan for i, group in enumerate(self.param_groups) for p, plan in self._plans(i, group).items()}
        self._asks = any(plan.given for plan in plans.values())
        if given is not None:
            self._given = _by_parameter(plans, given, type(self).__name__)
        elif any(name in plan.given for plan in plans.values() for name in curvature.GRAPHED):
            self._differentiate(plans, loss)

    def _differentiate(self, plans: Mapping[Tensor, Plan], loss: float | Tensor | None) -> None:
        """Gradients with their graph, and what they tell of the Hessian."""
        gradients = self._with_graph(list(plans), loss)
        groups = {
            p: (number, i, group)
            for number, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
        }
        for name in ("newton", "curvature"):  # the last one lets go of the graph
            ps = [p for p, plan in plans.items() if name in plan.given and p in gradients]
            if not ps:
                continue
            with torch.enable_grad():
                gs = [-gradients[p] if groups[p][2]["maximize"] else gradients[p] for p in ps]
            if name == "curvature":
                found = curvature.diagonal(gs, ps, [self._signs(plans[p], p, *groups[p]) for p in ps])
            else:
                asking: Any = plans[ps[0]].chain[plans[ps[0]].given[name]]
                found = curvature.newton(gs, ps, asking.cg_steps, asking.eps)
            for p, x in zip(ps, found, strict=True):
                self._given.setdefault(p, {})[name] = x.to(compute_dtype(p.dtype))
        self._taken = {p: gradients[p].detach() if p in gradients else None for p in plans}
        for p in plans:
            if p.grad is not None and p.grad.requires_grad:
                p.grad = p.grad.detach()

    def _with_graph(self, ps: list[Tensor], loss: float | Tensor | None) -> dict[Tensor, Tensor]:
        """Gradients that can be differentiated again, of the parameters that have any."""
        if isinstance(loss, Tensor) and loss.requires_grad:
            wanted = [p for p in ps if p.requires_grad]
            try:
                found = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
            except RuntimeError as error:
                if "second time" not in str(error):
                    raise
            else:
                return {p: g for p, g in zip(wanted, found, strict=True) if g is not None}
        if self._with_graphs():
            return {p: p.grad for p in ps if p.grad is not None}
        raise RuntimeError(
            f"{type(self).__name__} needs a graph to differentiate twice: step(loss=loss) with a loss that has not "
            "been through backward(), or step() after loss.backward(create_graph=True), or step(closure) with either"
        )

    def _with_graphs(self) -> list[Tensor]:
        """The gradients in `grad` that still have their graph."""
        grads = (p.grad for group in self.param_groups for p in group["params"])
        return [g for g in grads if g is not None and g.requires_grad]

    def _signs(self, plan: Plan, p: Tensor, number: int, i: int, group: dict[str, Any]) -> Tensor:
        """Random signs for this step of a parameter."""
        state = self._state_of(number, i, p, plan, group)
        return curvature.signs(state[plan.seed], state["step"] + 1, tuple(p.shape), p.dtype)

    def _by_kernels(self, items: list[Item]) -> list[Item]:
        """Step what compiled kernels can take; returns the rest."""
        if self._kernels is None:
            from shoal.optim.core.compiled import Kernels

            self._kernels = Kernels()
        return self._kernels.step(items)

    def _items(self, number: int, group: dict[str, Any]) -> list[Item]:
        plans = self._plans(number, group)
        lr, negate = float(group["lr"]), bool(group["maximize"])
        scalars: dict[tuple[int, int], list[Scalars]] = {}
        items = []
        for i, p in enumerate(group["params"]):
            g = self._taken.get(p, p.grad)
            if g is None:
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
                numbers = scalars[same] = plan.scalars(float(t), lr, self._loss_for(plan, negate))
            if plan.shared:
                self._share(plan, state, p)
            own = {**state, **self._given[p]} if p in self._given else state
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

    def _all_plans(self) -> list[Plan]:
        return [plan for i, group in enumerate(self.param_groups) for plan in self._plans(i, group).values()]

    def _loss_for(self, plan: Plan, negate: bool) -> float | None:
        if not any(transform.needs_loss for transform in plan.chain):
            return None
        if self._told is None:
            raise RuntimeError(
                f"{type(self).__name__} needs the loss: step(closure), or step(loss=loss) before the weights change"
            )
        if not math.isfinite(self._told):
            raise ValueError(f"loss: got {self._told}; a finite number is needed")
        return -self._told if negate else self._told

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
            made = (*self.ahead, *self.links(h, Param(name, tuple(p.shape))), *self.around)
            chain = chains.setdefault(made, made)  # equal chains share their scalars
            plans[p] = Plan(chain, tuple(p.shape))
        self._chains[number] = (settings, plans)
        self._asks = self._asks or any(plan.given for plan in plans.values())
        return plans

    def state_bytes(self) -> int:
        """Bytes of state held now, step counters not counted."""
        tensors = (v for state in self.state.values() for v in state.values() if isinstance(v, Tensor))
        return sum(t.numel() * t.element_size() for t in tensors)


def _by_parameter(plans: Mapping[Tensor, Plan], given: Given, asking: str) -> dict[Tensor, Memory]:
    """What each parameter is given, once it has been looked at; `asking` is the optimizer's name."""
    result: dict[Tensor, Memory] = {}
    known = {name: None for plan in plans.values() for name in plan.given}
    for name, tensors in given.items():
        if name not in known:
            raise ValueError(f"given: got {name!r} for {asking}; {' or '.join(known) or 'nothing'} is allowed")
        if len(tensors) != len(plans):
            raise ValueError(f"given: got {len(tensors)} of {name}; one for each of {len(plans)} parameters is allowed")
        for i, ((p, plan), x) in enumerate(zip(plans.items(), tensors, strict=True)):
            if x is None or name not in plan.given:
                continue
            wanted = plan.chain[plan.given[name]].given_shape(name, tuple(p.shape))
            got = tuple(x.shape) if isinstance(x, Tensor) else x
            if got != wanted:
                raise ValueError(f"given: got {name} {got!r} for parameter {i}; a tensor of shape {wanted} is allowed")
            if not bool(x.isfinite().all()):
                raise ValueError(f"given: got {name} with NaN or inf for parameter {i}; finite numbers are allowed")
            result.setdefault(p, {})[name] = x.to(compute_dtype(p.dtype))
    return result


def _not_fused(items: list[Item]) -> list[Item]:
    """What is left to be stepped after torch's fused kernels took what they can."""
    groups: dict[tuple[int, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((id(item.scalars), item.negate), []).append(item)
    rest = []
    for some in groups.values():
        chain = some[0].plan.chain
        own = chain and "fused" in vars(type(chain[-1]))  # an inherited kernel may not be the subclass's step
        if not (own and all(map(_of_one_size, some)) and chain[-1].fused(some)):
            rest += some
    return rest


def _of_one_size(item: Item) -> bool:
    """Torch's fused kernels do not look, and leave the memory of what is smaller; other operations raise."""
    n = item.p.numel()
    return item.g.numel() == n and all(item.state[key].numel() == n for key in item.plan.keys)


@dataclass(frozen=True)
class Links:
    """The chain of an optimizer class with certain settings, for a rule."""

    cls: type[Optimizer]
    settings: dict[str, Any]

    def __call__(self, param: Param) -> Chain:
        """The chain for one parameter."""
        return self.cls.links(SimpleNamespace(**self.settings), param)


def check(cls: type[Optimizer], values: Mapping[str, Any]) -> None:
    """Refuse values that are not allowed.

    Raises:
        ValueError: names the argument, the value and what is allowed.
    """
    for name, value in values.items():
        argument = cls.about.get(name) or SHARED.get(name)
        if argument is None:
            continue
        number = isinstance(cls.arguments.get(name, MISSING), float) or name == "lr"
        try:
            allowed = not (number and isinstance(value, str | bool)) and bool(argument.check(value))
        except (TypeError, ValueError, RuntimeError):  # of values that cannot be compared at all
            allowed = False
        if not allowed:
            raise ValueError(f"{name}: got {value!r}; {argument.allowed} is allowed")
