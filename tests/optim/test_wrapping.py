"""What all wrappers must do: be an optimizer for torch's schedulers, scalers, hooks and checkpoints, in any nesting."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shoal.optim.adam import Adam
from shoal.optim.adamw import AdamW
from shoal.optim.cautious import Cautious
from shoal.optim.coordinate_clip import CoordinateClip
from shoal.optim.lion import Lion
from shoal.optim.lookahead import Lookahead
from shoal.optim.mars import MARS
from shoal.optim.rotated import Rotated
from shoal.optim.sgd import SGD
from shoal.optim.ttur import TTUR
from shoal.optim.wrapping import Wrapper, decay_left
from shoal.optim.xgrad import XGrad

Make = Callable[[Iterable[Any]], torch.optim.Optimizer]
INNER: dict[str, Make] = {
    "ours": lambda p: AdamW(p, lr=0.05, weight_decay=0.2),
    "torch": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.2),
    "torch SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.7),
}
WRAPPERS: dict[str, Callable[[torch.optim.Optimizer], Wrapper]] = {
    "lookahead": lambda o: Lookahead(o, k=3),
    "cautious": Cautious,
    "xgrad": XGrad,
    "all": lambda o: Lookahead(Cautious(CoordinateClip(XGrad(o), rho=0.3)), k=3),
    "rotated": lambda o: Rotated(Lookahead(o, k=3), within="tensor"),
}
inner = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
wrap = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


class Problem:
    """Three parameters and gradients that turn with the step."""

    def __init__(self) -> None:
        self.parameters = [nn.Parameter(torch.linspace(-1, 1, n, dtype=torch.float64)) for n in (7, 4, 1)]

    def backward(self, step: int, *, skip: int | None = None) -> None:
        for i, p in enumerate(self.parameters):
            away = torch.sin(torch.arange(len(p), dtype=torch.float64) + 1.3 * step + i)
            p.grad = None if i == skip else p.detach() + away

    def run(self, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
        for step in steps:
            self.backward(step, skip=step % 4)
            optimizer.step()

    def values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@inner
@wrap
def test_a_wrapper_has_the_groups_state_and_defaults_of_its_inner_optimizer(inner: Make, wrap: Any) -> None:
    problem = Problem()
    bare = inner(problem.parameters[:2])
    optimizer = wrap(bare)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is bare.param_groups
    assert optimizer.state is bare.state
    assert optimizer.defaults is bare.defaults
    optimizer.add_param_group({"params": [problem.parameters[2]], "lr": 0.01})
    assert [len(group["params"]) for group in bare.param_groups] == [2, 1]
    problem.run(optimizer, range(3))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is bare.param_groups
    assert optimizer.state is bare.state
    optimizer.zero_grad()
    assert all(p.grad is None for p in problem.parameters)


@inner
@wrap
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("way", ["dictionary", "file", "copy", "pickle"])
def test_a_saved_optimizer_goes_on_bit_for_bit(inner: Make, wrap: Any, steps: int, evaluating: bool, way: str) -> None:
    problem, other = Problem(), Problem()
    optimizer = wrap(inner(problem.parameters))
    problem.run(optimizer, range(steps))
    if evaluating:
        optimizer.eval()
    if way in ("copy", "pickle"):
        pair = problem.parameters, optimizer
        other.parameters, resumed = copy.deepcopy(pair) if way == "copy" else pickle.loads(pickle.dumps(pair))
    else:
        resumed = wrap(inner(other.parameters))
        state = copy.deepcopy(optimizer.state_dict())  # torch loads by reference
        if way == "file":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        for p, q in zip(other.parameters, problem.parameters, strict=True):
            p.data.copy_(q.data)
        resumed.load_state_dict(state)
    for one, run in ((optimizer, problem), (resumed, other)):
        one.train()
        run.run(one, range(steps, steps + 7))
        one.eval()
    assert same(problem.values(), other.values())


@inner
@wrap
def test_the_state_of_the_inner_optimizer_alone_can_be_loaded(inner: Make, wrap: Any) -> None:
    """Then the wrapper begins anew, as one around an optimizer that has made steps."""
    problem, other = Problem(), Problem()
    bare = inner(problem.parameters)
    problem.run(bare, range(3))
    resumed = wrap(inner(other.parameters))
    other.run(resumed, range(2))
    for p, q in zip(other.parameters, problem.parameters, strict=True):
        p.data.copy_(q.data)
    resumed.load_state_dict(copy.deepcopy(bare.state_dict()))
    late = wrap(bare)
    for optimizer, run in ((late, problem), (resumed, other)):
        run.run(optimizer, range(3, 10))
    assert same(problem.values(), other.values())


@inner
@wrap
def test_showing_the_weights_to_evaluate_leaves_the_path_as_it_is(inner: Make, wrap: Any) -> None:
    problem, other = Problem(), Problem()
    plain, shown = wrap(inner(problem.parameters)), wrap(inner(other.parameters))
    for step in range(9):
        problem.run(plain, [step])
        other.run(shown, [step])
        shown.eval()
        shown.eval()
        problem.backward(step)
        with pytest.raises(RuntimeError, match=r"^step: "):
            shown.step()
        shown.train()
        shown.train()
        assert same(problem.values(), other.values())


@inner
@wrap
def test_schedulers_and_hooks_see_an_optimizer(inner: Make, wrap: Any) -> None:
    problem, called = Problem(), []
    optimizer = wrap(inner(problem.parameters))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    for step in range(4):
        problem.run(optimizer, [step])
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0125)
    assert called == ["before", "after"] * 4
    assert optimizer.state_dict()["note"] == 1
    copied = copy.deepcopy(optimizer)
    assert copied.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@inner
@wrap
def test_a_gradient_scaler_skips_steps_whose_gradients_are_not_finite(inner: Make, wrap: Any) -> None:
    problem, other = Problem(), Problem()
    plain, scaled = wrap(inner(problem.parameters)), wrap(inner(other.parameters))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for step in range(8):
        problem.backward(step)
        other.backward(step)
        for p in other.parameters:
            assert p.grad is not None
            scaler.scale(torch.ones(()))  # as a backward pass does first
            p.grad *= scaler.get_scale()
        if step == 3:
            assert other.parameters[1].grad is not None
            other.parameters[1].grad[0] = torch.inf
        else:
            plain.step()
        scaler.step(scaled)
        scaler.update()
    assert same(problem.values(), other.values())


@inner
@wrap
def test_a_closure_is_called_once_where_the_parameters_are(inner: Make, wrap: Any) -> None:
    problem, other = Problem(), Problem()
    plain, closed = wrap(inner(problem.parameters)), wrap(inner(other.parameters))
    for step in range(7):
        problem.backward(step)
        plain.step()
        calls = []

        def closure(step: int = step, calls: list[bool] = calls) -> float:
            calls.append(torch.is_grad_enabled())
            other.backward(step)
            return 1.5

        assert closed.step(closure) == 1.5
        assert calls == [True]
        assert same(problem.values(), other.values())


@inner
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_nesting_does_not_matter(inner: Make, order: tuple[int, ...]) -> None:
    parts: list[Callable[[torch.optim.Optimizer], Wrapper]] = [Cautious, XGrad, lambda o: Lookahead(o, k=3)]
    ends = []
    for chosen in ((0, 1, 2), order):
        problem = Problem()
        optimizer = inner(problem.parameters)
        for i in chosen:
            optimizer = parts[i](optimizer)
        problem.run(optimizer, range(10))
        assert isinstance(optimizer, Wrapper)
        between = problem.values()
        optimizer.eval()
        ends.append([*between, *problem.values()])
    assert same(*ends)


@pytest.mark.parametrize(
    "make", [lambda o: Cautious(o), lambda o: XGrad(CoordinateClip(Cautious(Lookahead(o, k=2)))), Rotated]
)
def test_our_optimizers_and_torchs_are_wrapped_alike(make: Any) -> None:
    """Ours in their chains, torch's by the change of the parameters: the same path but for rounding."""
    for ours, theirs in (
        (AdamW, torch.optim.AdamW),
        (lambda p, **h: SGD(p, momentum=0.8, **h), lambda p, **h: torch.optim.SGD(p, momentum=0.8, **h)),
    ):
        for maximize in (False, True):
            problem, other = Problem(), Problem()
            settings = {"lr": 0.03, "weight_decay": 0.1, "maximize": maximize}
            problem.run(make(ours(problem.parameters, **settings)), range(25))
            other.run(make(theirs(other.parameters, **settings)), range(25))
            for x, y in zip(problem.values(), other.values(), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)


def test_lion_and_mars_are_wrapped_like_any_other() -> None:
    for make in (
        lambda p: Lion(p, lr=0.01),
        lambda p: MARS(p, lr=0.01, form="lion", optimize_1d=True),
    ):
        problem = Problem()
        optimizer = Cautious(make(problem.parameters))
        for step in range(12):
            before = problem.values()
            problem.backward(step)
            optimizer.step()
            for p, start in zip(problem.parameters, before, strict=True):
                assert p.grad is not None
                assert bool(((p.detach() - start) * p.grad <= 0).all())


def test_further_arguments_of_a_step_reach_the_innermost_optimizer() -> None:
    ends = []
    for wrapped in (False, True):
        p = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        bare = MARS([p], lr=0.1, is_approx=False)
        optimizer: Any = Lookahead(bare, alpha=1.0) if wrapped else bare
        for step in range(3):
            p.grad = p.detach() * (step + 1)
            optimizer.step(previous_gradients=[p.grad * 0.5])
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@inner
@wrap
def test_accelerate_takes_it_like_any_other(inner: Make, wrap: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    problem, other = Problem(), Problem()
    plain, bare = wrap(inner(problem.parameters)), wrap(inner(other.parameters))
    prepared = accelerate.Accelerator(cpu=True).prepare(bare)
    assert prepared.param_groups is bare.param_groups
    for step in range(5):
        problem.run(plain, [step])
        other.run(prepared, [step])
        prepared.load_state_dict(copy.deepcopy(prepared.state_dict()))
    assert same(problem.values(), other.values())


def test_two_wrappers_of_one_class_save_under_different_names() -> None:
    problem = Problem()
    optimizer = Lookahead(Lookahead(Adam(problem.parameters), k=2), k=3)
    problem.run(optimizer, range(4))
    names = {name for own in optimizer.state_dict()["state"].values() for name in own if "." in name}
    assert names == {"lookahead.slow", "lookahead.steps", "lookahead2.slow", "lookahead2.steps"}


def test_the_bytes_of_copies_are_counted() -> None:
    parameters = [nn.Parameter(torch.zeros(100))]
    for make, copies in ((Lookahead, 1), (XGrad, 1), (Cautious, 0)):
        for bare, own in ((SGD(parameters, momentum=0.9), 1), (torch.optim.SGD(parameters, momentum=0.9), 1)):
            optimizer = make(bare)  # type: ignore[operator]
            parameters[0].grad = torch.ones(100)
            optimizer.step()
            assert optimizer.state_bytes() == 400 * (copies + own)


def test_decoupled_decay_of_others_is_known_where_they_say_so() -> None:
    p = [nn.Parameter(torch.zeros(2, 2))]
    with_decay: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(p, lr=0.5, weight_decay=0.2),
        torch.optim.NAdam(p, lr=0.5, weight_decay=0.2, decoupled_weight_decay=True),
        torch.optim.Adafactor(p, lr=0.5, weight_decay=0.2),
    ]
    without = [torch.optim.Adam(p, lr=0.5, weight_decay=0.2), torch.optim.SGD(p, lr=0.5), torch.optim.Rprop(p)]
    assert [decay_left(o, o.param_groups[0]) for o in with_decay] == pytest.approx([0.9] * 3)
    assert [decay_left(o, o.param_groups[0]) for o in without] == [1.0] * 3


@pytest.mark.parametrize("make", [Lookahead, Cautious, XGrad])
def test_what_is_not_an_optimizer_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"^optimizer: got list"):
        make([nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("wrap", [CoordinateClip, Cautious, XGrad, Rotated, lambda o: CoordinateClip(Lookahead(o))])
def test_an_optimizer_that_calls_a_closure_by_itself_is_refused_where_nothing_can_act_between(wrap: Any) -> None:
    p = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"^optimizer: got LBFGS, which calls a closure several times a step, where "):
        wrap(torch.optim.LBFGS([p]))
    with pytest.raises(ValueError, match=r"^discriminator: got LBFGS, which calls a closure several times a step; "):
        TTUR(SGD([nn.Parameter(torch.zeros(1))], lr=0.1), Lookahead(torch.optim.LBFGS([p])))
    optimizer = Lookahead(torch.optim.LBFGS([p]))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p - 1.0).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(p.detach(), torch.ones(3))
