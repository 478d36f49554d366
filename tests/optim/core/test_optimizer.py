"""The base of all optimizers: how classes are declared, what torch asks for, and what happens when things change."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

from shoal.optim import MARS, BAdam, Cautious
from shoal.optim.adam import Adam, AdamScaling
from shoal.optim.adamw import AdamW
from shoal.optim.common import Momentum, coupled, decoupled
from shoal.optim.core import Argument, Chain, Optimizer, Param, Scalars, State, option
from shoal.optim.core.arguments import above
from shoal.optim.lion import Lion
from shoal.optim.sgd import SGD
from tests.optim.catalogue import advance, parameters, same


class Plain(Optimizer):
    """Momentum, told in a few words."""

    lr: float = 0.1
    momentum: float = 0.0
    shift: float = 0.5

    about: ClassVar[dict[str, Argument]] = {"shift": Argument("moves", "a number > 0", above(0.0))}
    kind: ClassVar[str] = "not an argument"

    @classmethod
    def links(cls, h: Any, param: Param) -> Chain:
        return (Momentum(h.momentum),) if h.momentum else ()


class More(Plain):
    """One argument more, one default less, one by name only."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    total: int = option()

    @classmethod
    def links(cls, h: Any, param: Param) -> Chain:
        return *decoupled(h.weight_decay), *super().links(h, param)


# -- declaring ---------------------------------------------------------------------------------------------------------


def test_annotations_are_arguments_in_their_order_and_inherited_ones_come_first() -> None:
    assert Plain.arguments == {"lr": 0.1, "momentum": 0.0, "shift": 0.5, "maximize": False, "compile": False}
    assert (
        str(inspect.signature(Plain)) == "(params, lr=0.1, momentum=0.0, shift=0.5, *, maximize=False, compile=False)"
    )
    assert str(inspect.signature(More)) == (
        "(params, lr=0.1, momentum=0.9, shift=0.5, weight_decay=0.0, *, maximize=False, compile=False, total)"
    )


def test_arguments_may_be_given_by_place_and_by_name() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimizer = More([p], 0.2, 0.5, total=3)
    assert optimizer.defaults == {
        "lr": 0.2,
        "momentum": 0.5,
        "shift": 0.5,
        "weight_decay": 0.0,
        "maximize": False,
        "compile": False,
        "total": 3,
    }
    with pytest.raises(TypeError, match="total"):
        More([p])
    with pytest.raises(TypeError, match="too many positional"):
        Plain([p], 0.1, 0.0, 0.5, True)


def test_values_are_checked_by_the_classs_own_words_or_the_shared_ones() -> None:
    p = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"^shift: got 0; a number > 0 is allowed$"):
        Plain([p], shift=0)
    with pytest.raises(ValueError, match=r"^momentum: got 1.0; a number in \[0, 1\) is allowed$"):
        More([p], momentum=1.0, total=1)


@pytest.mark.parametrize("value", ["0.1", True, -1.0, float("nan"), float("inf"), None, [0.1], torch.ones(2)], ids=str)
def test_a_rate_is_one_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^lr: got .*; a finite number >= 0 is allowed$"):
        Plain([nn.Parameter(torch.zeros(2))], lr=value)


@pytest.mark.parametrize("value", ["0.1", True], ids=str)
def test_text_and_truth_are_not_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^shift: got "):
        Plain([nn.Parameter(torch.zeros(2))], shift=value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "NoneType"),
        (3, "int"),
        ("weight", "str"),
        (nn.Linear(2, 2), "Linear"),
        (nn.Sequential(nn.Linear(2, 2)), "Sequential"),
        (nn.Linear(2, 2).state_dict(), "OrderedDict"),
    ],
)
def test_what_holds_no_parameters_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"^params: got {kind}; parameters, .* groups are allowed, such as model\."):
        Plain(value)
    assert len(Plain(nn.ParameterList([torch.zeros(2)])).param_groups[0]["params"]) == 1


def test_a_class_without_a_chain_says_so() -> None:
    class Empty(Optimizer):
        lr: float = 0.1

    with pytest.raises(NotImplementedError, match="Empty has no chain of its own"):
        Empty([nn.Parameter(torch.zeros(2))])


def test_a_rule_has_the_classs_chain_and_seed() -> None:
    class Seeded(Plain):
        """With a seed."""

        seed: int = 0

    rule = Seeded.rule(0.3, momentum=0.5, seed=9)
    assert (rule.name, rule.lr, rule.seed) == ("seeded", 0.3, 9)
    assert rule.plan(Param("p", (2,))).chain == (Momentum(0.5),)
    assert pickle.loads(pickle.dumps(AdamW.rule(0.3))).lr == 0.3
    with pytest.raises(
        ValueError, match=r"^Seeded: .*speed.*; arguments are lr, momentum, shift, seed, maximize, compile"
    ):
        Seeded.rule(speed=1)


# -- changing ----------------------------------------------------------------------------------------------------------


def test_settings_may_change_between_steps() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([p], lr=1.0, momentum=0.5)
    for momentum in (0.5, 0.25):
        optimizer.param_groups[0]["momentum"] = momentum
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert p.item() == -(1.0 + (0.25 + 1.0))


@pytest.mark.parametrize("compile", [False, True])
def test_a_setting_may_bring_new_state(compile: bool) -> None:
    """A momentum that begins later, and one that pauses, as a schedule may have it."""
    p = nn.Parameter(torch.zeros(1))
    optimizer = SGD([p], lr=1.0, compile=compile)
    path = []
    for momentum in (0.0, 0.5, 0.5, 0.0, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        p.grad = torch.ones(1)
        optimizer.step()
        path.append(p.item())
    assert path == [-1.0, -2.0, -3.5, -4.5, -6.25]
    assert optimizer.state[p]["step"] == 5


def test_parameters_of_a_group_may_be_replaced() -> None:
    """As libraries do that move a model to another device."""
    old, new = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = SGD([old], lr=1.0)
    old.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["params"] = [new]
    new.grad = torch.ones(2)
    optimizer.step()
    assert new.tolist() == [-1.0, -1.0]
    assert old.tolist() == [-1.0, -1.0]


def test_chains_are_made_anew_only_when_settings_change() -> None:
    made: list[str] = []

    class Counted(Plain):
        @classmethod
        def links(cls, h: Any, param: Param) -> Chain:
            made.append(param.name)
            return super().links(h, param)

    params = parameters(shapes={"a": (2,), "b": (3,)})
    optimizer = Counted(params.items())
    for lr in (0.1, 0.2, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        advance(optimizer, params, [0])
    assert made == ["a", "b"]
    optimizer.param_groups[0]["momentum"] = 0.5
    advance(optimizer, params, range(2))
    assert made == ["a", "b"] * 2


def test_a_group_that_does_not_go_together_is_refused_and_forgotten() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    late = nn.Parameter(torch.zeros(2))
    for wrong in ({"nesterov": True}, {"lr": -1.0}):
        with pytest.raises(ValueError):
            optimizer.add_param_group({"params": [late], **wrong})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(2)
    optimizer.step()
    assert late.tolist() == pytest.approx([-0.1, -0.1])


# -- torch's contract --------------------------------------------------------------------------------------------------


def test_hooks_are_called_around_a_step() -> None:
    calls: list[str] = []
    params = parameters()
    optimizer = Adam(params.items())
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    advance(optimizer, params, range(2))
    assert calls == ["before", "after"] * 2


def test_a_state_has_the_form_of_torchs() -> None:
    params = parameters(torch.bfloat16, shapes={"w": (2, 3)})
    optimizer = AdamW(params.items(), lr=0.1, betas=(0.8, 0.9))
    advance(optimizer, params, range(3))
    state = optimizer.state_dict()
    assert state.keys() == {"state", "param_groups"}
    assert {name: getattr(v, "dtype", v) for name, v in state["state"][0].items()} == {
        "step": 3,
        "m": torch.float32,
        "v": torch.float32,
    }
    (group,) = state["param_groups"]
    assert group["params"] == [0]
    assert group["param_names"] == ["w"]
    assert group["betas"] == (0.8, 0.9)
    assert optimizer.state_bytes() == 2 * 6 * 4


def test_a_loaded_state_is_a_copy() -> None:
    params, again = parameters(), parameters()
    optimizer, fresh = Adam(params.items()), Adam(again.items())
    advance(optimizer, params, range(2))
    fresh.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(fresh.state_dict()["state"])
    advance(optimizer, params, range(2, 5))
    after = fresh.state_dict()["state"]
    assert all(torch.equal(before[i]["m"], after[i]["m"]) for i in before)


def test_a_state_of_an_older_version_gets_the_defaults_of_new_arguments() -> None:
    params = parameters()
    optimizer = AdamW(params.items(), lr=0.3)
    advance(optimizer, params, range(2))
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        del group["weight_decay"]
        del group["compile"]
    fresh = AdamW(params.items(), weight_decay=0.7)
    fresh.load_state_dict(state)
    (group,) = fresh.param_groups
    assert (group["lr"], group["weight_decay"], group["compile"]) == (0.3, 0.01, False)
    advance(fresh, params, range(2, 4))


def test_a_state_saved_in_another_precision_keeps_its_own() -> None:
    """float32 moments of a float64 run stay float32 in the file, and a bfloat16 model gets no bfloat16 moments."""
    wide = parameters(torch.float32)
    optimizer = Adam(wide.items())
    advance(optimizer, wide, range(3))
    narrow = {name: nn.Parameter(p.detach().bfloat16()) for name, p in wide.items()}
    fresh = Adam(narrow.items())
    fresh.load_state_dict(optimizer.state_dict())
    for name in wide:
        assert torch.equal(fresh.state[narrow[name]]["v"], optimizer.state[wide[name]]["v"])


def test_a_pickled_optimizer_has_no_kernels_or_chains_with_it() -> None:
    params = parameters()
    optimizer = Adam(params.items(), compile=True)
    advance(optimizer, params, range(2))
    stream = io.BytesIO()
    pickle.dump((params, optimizer), stream)
    stream.seek(0)
    again, loaded = pickle.load(stream)
    assert loaded._kernels is None
    advance(optimizer, params, range(2, 4))
    advance(loaded, again, range(2, 4))
    assert same(params, again)


def test_the_state_of_another_method_is_completed_not_trusted() -> None:
    """Adam's m is not Lion's second state: Lion has one slot and finds it; what Adam lacks begins anew."""
    params = parameters()
    lion = Lion(params.items())
    advance(lion, params, range(2))
    adam = Adam(params.items())
    adam.load_state_dict({**adam.state_dict(), "state": lion.state_dict()["state"]})
    advance(adam, params, range(2, 4))
    assert all(p.isfinite().all() for p in params.values())


def test_a_state_without_any_slot_of_the_method_is_refused() -> None:
    params, others = parameters(), parameters()
    torchs, ours = torch.optim.AdamW(others.values(), lr=0.5), AdamW(params.items(), lr=0.1)
    advance(torchs, others, range(2))
    advance(ours, params, range(2))
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="state_dict: got exp_avg, exp_avg_sq for parameter 0 of group 0, "):
        ours.load_state_dict(torchs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.1
    for i, state in before["state"].items():
        assert all(torch.equal(state[name], ours.state_dict()["state"][i][name]) for name in ("m", "v"))


def test_a_subclass_of_what_has_a_fused_kernel_does_not_inherit_it() -> None:
    """Its own `apply` steps."""

    @dataclass(frozen=True)
    class Doubled(AdamScaling):
        def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
            return 2.0 * super().apply(u, p, g, s, c)

    class Twice(Adam):
        @classmethod
        def links(cls, h: Any, param: Param) -> Chain:
            return (Doubled(*h.betas, h.eps),)

    twice, once = parameters(), parameters()
    advance(Twice(twice.items(), lr=0.1), twice, range(3))
    advance(Adam(once.items(), lr=0.2), once, range(3))
    for name in twice:
        torch.testing.assert_close(twice[name], once[name])


class Biased(Optimizer):
    """Decay for what has more than one axis, by shape and name."""

    lr: float = 1.0
    weight_decay: float = 0.5

    @classmethod
    def links(cls, h: Any, param: Param) -> Chain:
        return coupled(h.weight_decay if len(param.shape) > 1 and "norm" not in param.name else 0.0)


def test_chains_may_depend_on_names_and_shapes() -> None:
    params = {
        name: nn.Parameter(torch.ones(shape)) for name, shape in {"w": (1, 1), "norm.w": (1, 1), "b": (1,)}.items()
    }
    optimizer = Biased(params.items())
    for p in params.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert {name: p.item() for name, p in params.items()} == {"w": 0.5, "norm.w": 1.0, "b": 1.0}
    unnamed = {name: nn.Parameter(torch.ones_like(p)) for name, p in params.items()}
    optimizer = Biased(unnamed.values())
    for p in unnamed.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert {name: p.item() for name, p in unnamed.items()} == {"w": 0.5, "norm.w": 0.5, "b": 1.0}


def test_a_state_of_other_shapes_is_refused_and_nothing_is_loaded() -> None:
    p, q = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 2))
    ours, theirs = Adam([p], lr=0.1), Adam([q], lr=0.2)
    for optimizer, x in ((ours, p), (theirs, q)):
        x.grad = torch.ones_like(x)
        optimizer.step()
    kept = ours.state[p]["m"].clone()
    with pytest.raises(ValueError, match=r"^state_dict: got m of shape \(3, 2\) for .* group 0; \(2, 3\) is allowed$"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.1
    assert torch.equal(ours.state[p]["m"], kept)
    ours.step()


@pytest.mark.parametrize(
    "make", [AdamW, MARS, BAdam, lambda p: Cautious(AdamW(p)), lambda p: Cautious(torch.optim.SGD(p))]
)
def test_a_loss_in_the_place_of_the_closure_is_refused(make: Any) -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"closure: got Tensor; a function .* allowed, or step\(loss=loss\)"):
        make([p]).step(torch.tensor(1.0))
    assert torch.equal(p, torch.ones(2))


def test_what_is_nearly_a_setting_is_refused_in_groups_and_other_keys_stay() -> None:
    p = nn.Parameter(torch.ones(2))
    for name in ("weightdecay", "weight_deacy", "beta"):
        with pytest.raises(ValueError, match=f"^param_group: {name!r} is unknown; did you mean '(weight_decay|betas)'"):
            AdamW([{"params": [p], name: 0.1}])
    with pytest.raises(ValueError, match=r"^param_group: got \['lr'\]; one with params is allowed"):
        AdamW([{"lr": 0.1}])
    group = {"params": [p], "name": "head", "initial_lr": 0.1, "max_lr": 1.0, "max_momentum": 0.9}
    assert AdamW([group]).param_groups[0] is group


def test_an_unknown_argument_is_named_with_those_that_there_are() -> None:
    with pytest.raises(
        TypeError, match=r"^Plain: got an unexpected keyword argument 'rate'; arguments are lr, momentum"
    ):
        Plain([nn.Parameter(torch.ones(2))], rate=0.1)  # type: ignore[call-arg]


def test_numbers_of_numpy_become_pythons_and_files_of_states_can_be_read_safely() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = AdamW(
        [{"params": [p], "eps": np.float32(0.5)}],
        lr=np.float64(0.25),
        betas=(np.float32(0.5), np.float64(0.75)),  # type: ignore[arg-type]
        amsgrad=np.bool_(True),  # type: ignore[arg-type]
    )
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["amsgrad"]) == (0.25, (0.5, 0.75), 0.5, True)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["param_groups"][0]["betas"] == (0.5, 0.75)
    assert type(AdamW.rule(lr=np.float32(0.5)).lr) is float


@pytest.mark.parametrize("state", [None, {}, {"state": {}}, "state"])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match=r"^state_dict: got .*; one of an optimizer's state_dict\(\) is allowed$"):
        AdamW([nn.Parameter(torch.ones(2))]).load_state_dict(state)


def test_hooks_and_profilers_see_a_step() -> None:
    """They come and go between steps; torch's own wrapper is there for them."""
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer, called = SGD([p], lr=0.5), []
    optimizer.step()
    ends = [
        optimizer.register_step_pre_hook(lambda *_: called.append(p[0].item())),
        optimizer.register_step_post_hook(lambda *_: called.append(p[0].item())),
        register_optimizer_step_pre_hook(lambda *_: called.append("any")),
    ]
    optimizer.step()
    assert called == ["any", 0.5, 0.0]
    for end in ends:
        end.remove()
    optimizer.step()
    assert len(called) == 3
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        optimizer.step()
    assert "Optimizer.step#SGD.step" in {event.key for event in profiler.key_averages()}
    assert p.tolist() == [-1.0, -1.0]
