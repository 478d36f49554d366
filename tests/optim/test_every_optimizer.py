"""What every optimizer must do, whatever its method: torch's contract, saving, precision, layouts, memory, kernels."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
import pydoc
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.profiler import ProfilerActivity, profile

from shoal.optim import Shampoo
from shoal.optim.core import Optimizer, Param, Rule, stepping
from shoal.optim.core.arguments import SHARED
from shoal.optim.core.recording import source
from shoal.optim.saving import load, save
from tests.optim.catalogue import (
    SHAPES,
    Case,
    advance,
    backward,
    cases,
    copies,
    noise,
    optimizers,
    parameters,
    same,
    tensors_of,
    wrappers,
)
from tests.optim.stacking import assert_stacks

ALL = cases()
PLAIN = [case for case in ALL if case.wrap is None]
IN_BACKWARD = {"LOMO", "AdaLomo"}  # step in the backward pass, and keep no gradients
BLOCK_WISE = {"BAdam"}  # moves one block at a time
WITHOUT_RULE = {"BAdam"}
WITH_WIDE_COPIES = {"BAdam", "DoG", "LDoG"}  # of parameters of low precision
TURNING = {"Rotated(SGD)", "Rotated(AdamW)"}  # hold the model a second time while they step
FREE_TEXT = {("BAdam", "block")}
ELEMENT_WISE = [case for case in ALL if case.granularity == "element"]


def of(some: list[Case], *, without: Collection[str] = ()) -> pytest.MarkDecorator:
    """The test for some cases, without those of these names."""
    chosen = [case for case in some if case.name not in without]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])


every, plain, element_wise = of(ALL), of(PLAIN), of(ELEMENT_WISE)
classes = pytest.mark.parametrize("cls", optimizers().values(), ids=lambda cls: cls.__name__)


def run(case: Case, params: dict[str, nn.Parameter], steps: int = 6, **changed: Any) -> torch.optim.Optimizer:
    """The optimizer after steps on noise, some gradients missing."""
    optimizer = case(params.items(), **changed)
    advance(optimizer, params, range(steps), skip=lambda step, i: step > 1 and (step + i) % 4 == 0)
    return optimizer  # type: ignore[no-any-return]


def test_every_wrapper_is_among_the_cases() -> None:
    """NiNo, which needs a model, has a contract of its own: tests/optim/nino."""
    assert wrappers()
    assert [name for name in wrappers() if not any(name in case.name for case in ALL)] == ["NiNo"]


# -- groups ------------------------------------------------------------------------------------------------------------


@every
def test_groups_with_equal_settings_are_as_one(case: Case) -> None:
    one, two = parameters(), parameters()
    pairs = list(two.items())
    first = case(one.items())
    second = case([{"params": pairs[:2]}, {"params": pairs[2:]}])
    advance(first, one, range(6))
    advance(second, two, range(6))
    assert same(one, two)


@of([case for case in ALL if case.granularity != "model"])
def test_each_group_follows_its_own_settings(case: Case) -> None:
    other: dict[str, Any] = {"lr": 0.05}
    if case.takes("weight_decay"):
        other["weight_decay"] = 0.3
    mixed, usual, changed = parameters(), parameters(), parameters()
    pairs = list(mixed.items())
    advance(case([{"params": pairs[:2]}, {"params": pairs[2:], **other}]), mixed, range(6))
    advance(case(usual.items()), usual, range(6))
    advance(case(changed.items(), **other), changed, range(6))
    names = list(mixed)
    assert all(torch.equal(mixed[name], usual[name]) for name in names[:2])
    assert all(torch.equal(mixed[name], changed[name]) for name in names[2:])


@every
def test_a_group_may_join_later(case: Case) -> None:
    """What joins moves, and (where nothing is summed over parameters) does not change the way of the others."""
    alone, params, late = parameters(), parameters(), parameters(shapes={"late": (5, 2)}, seed=1)
    optimizer = case(params.items())
    advance(optimizer, params, range(3))
    optimizer.add_param_group({"params": list(late.items()), "lr": 0.02})
    before = copies(late)
    advance(optimizer, {**params, **late}, range(3, 9))
    assert len(optimizer.param_groups) == 2
    assert optimizer.param_groups[1]["lr"] == 0.02
    if case.name in BLOCK_WISE:
        return
    assert not same(late, before)
    if case.granularity != "model":
        reference = case(alone.items())
        advance(reference, alone, range(3))
        advance(reference, {**alone, **copies(before)}, range(3, 9))
        assert same(params, alone)


@every
def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was(case: Case) -> None:
    params = parameters()
    optimizer = case(params.items())
    late = parameters(shapes={"late": (2,)})
    with pytest.raises(ValueError, match=r"^lr: got -1"):
        optimizer.add_param_group({"params": list(late.items()), "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@plain
def test_names_may_be_given_or_not(case: Case) -> None:
    named, unnamed = parameters(), parameters()
    first = case(named.items())
    if case.name == "AdamMini":
        with pytest.raises(ValueError, match=r"^params: names are needed"):
            case(unnamed.values())
        return
    second = case(unnamed.values())
    assert first.param_groups[0]["param_names"] == list(SHAPES)
    assert "param_names" not in second.param_groups[0]
    if case.name == "BAdam":
        return  # blocks have the names of layers
    advance(first, named, range(5))
    advance(second, unnamed, range(5))
    assert same(named, unnamed)


# -- schedules ---------------------------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, bool], Any]] = {
    "step": lambda o, cycle: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "lambda": lambda o, cycle: lr_scheduler.LambdaLR(o, lambda n: min(1.0, (n + 1) / 4)),
    "warm up from zero": lambda o, cycle: lr_scheduler.LambdaLR(o, lambda n: min(1.0, n / 4)),
    "cosine": lambda o, cycle: lr_scheduler.CosineAnnealingLR(o, 8),
    "restarts": lambda o, cycle: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o, cycle: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9, cycle_momentum=cycle),
    "cyclic": lambda o, cycle: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3, cycle_momentum=cycle),
    "sequential": lambda o, cycle: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


@every
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_as_setting_the_rate_by_hand(case: Case, name: str) -> None:
    scheduled, by_hand = parameters(torch.float32), parameters(torch.float32)
    optimizer = case(scheduled.items())
    cycle = any(word in optimizer.defaults for word in ("betas", "momentum"))
    scheduler = SCHEDULES[name](optimizer, cycle)
    chosen: list[dict[str, Any]] = []

    def note() -> dict[str, Any]:
        group = optimizer.param_groups[0]
        return {word: group[word] for word in ("lr", "betas", "momentum") if word in group}

    for step in range(8):
        chosen.append(note())
        advance(optimizer, scheduled, [step])
        scheduler.step()
    reference = case(by_hand.items())
    for step, group in enumerate(chosen):
        reference.param_groups[0].update(group)
        advance(reference, by_hand, [step])
    assert len({group["lr"] for group in chosen}) > 2
    assert same(scheduled, by_hand)
    assert all(p.isfinite().all() for p in scheduled.values())


@every
def test_the_rate_may_be_a_tensor(case: Case) -> None:
    as_tensor, as_number = parameters(), parameters()
    advance(case(as_tensor.items(), lr=torch.tensor(0.01, dtype=torch.float64)), as_tensor, range(4))
    advance(case(as_number.items(), lr=0.01), as_number, range(4))
    assert same(as_tensor, as_number)


# -- saving ------------------------------------------------------------------------------------------------------------


def through_torch(optimizer: torch.optim.Optimizer, fresh: torch.optim.Optimizer, folder: Path) -> None:
    stream = io.BytesIO()
    torch.save(optimizer.state_dict(), stream)
    stream.seek(0)
    fresh.load_state_dict(torch.load(stream, weights_only=True))


def through_safetensors(optimizer: torch.optim.Optimizer, fresh: torch.optim.Optimizer, folder: Path) -> None:
    save(optimizer, folder / "optimizer.safetensors")
    load(fresh, folder / "optimizer.safetensors")


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("through", [through_torch, through_safetensors])
def test_a_loaded_state_continues_bit_for_bit(case: Case, through: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    params = parameters(dtype)
    optimizer = run(case, params)
    optimizer.param_groups[0]["lr"] = 0.03
    again = copies(params)
    fresh = case(again.items())
    through(optimizer, fresh, tmp_path)
    assert fresh.param_groups[0]["lr"] == 0.03
    dtypes = [t.dtype for t in tensors_of(optimizer.state_dict()["state"])]
    assert [t.dtype for t in tensors_of(fresh.state_dict()["state"])] == dtypes
    advance(optimizer, params, range(6, 12))
    advance(fresh, again, range(6, 12))
    assert same(params, again)


@every
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_continues_bit_for_bit_and_by_itself(case: Case, copied: Callable[[Any], Any]) -> None:
    params = parameters(torch.float32)
    optimizer = run(case, params)
    again, second = copied((params, optimizer))
    advance(optimizer, params, range(6, 12))
    assert not same(params, again)
    advance(second, again, range(6, 12))
    assert same(params, again)


# -- gradients ---------------------------------------------------------------------------------------------------------


@every
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(case: Case) -> None:
    called, stepped = parameters(), parameters()
    first, second = case(called.items()), case(stepped.items())
    for number in range(4):
        target = noise(list(called.values()), number)

        def loss(params: dict[str, nn.Parameter], target: list[Tensor] = target) -> Tensor:
            pairs = zip(params.values(), target, strict=True)
            return torch.stack([((p - t) ** 2).sum() for p, t in pairs]).sum()

        def closure(loss: Any = loss) -> float:
            assert torch.is_grad_enabled()
            first.zero_grad()
            value = loss(called)
            value.backward()
            return float(value)

        second.zero_grad()
        expected = loss(stepped)
        expected.backward()
        second.step(**({"loss": float(expected)} if second.needs_loss else {}))
        assert first.step(closure) == float(expected)
    assert same(called, stepped)


@every
def test_a_parameter_without_gradient_stays_as_it_is(case: Case) -> None:
    """One that never had a gradient has no state; one that had stays, and so does its state."""
    params = parameters()
    optimizer = case(params.items())
    advance(optimizer, params, range(4), skip=lambda step, i: i == 1 or (step == 3 and i == 2))
    unused, was_used = list(params)[1:3]
    start = parameters()
    assert torch.equal(params[unused], start[unused])
    assert not tensors_of(dict(optimizer.state.get(params[unused], {})))
    if case.wrap is not None or case.name in BLOCK_WISE:
        return
    state = copy.deepcopy(dict(optimizer.state[params[was_used]]))
    value = params[was_used].detach().clone()
    advance(optimizer, params, range(4, 6), skip=lambda step, i: i == 2)
    assert torch.equal(params[was_used], value)
    if case.granularity != "model":
        now = optimizer.state[params[was_used]]
        assert now["step"] == state["step"]
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(dict(now)), tensors_of(state), strict=True))


@every
@pytest.mark.parametrize("start", ["noise", "zero"])
def test_zero_gradients_give_no_nan(case: Case, start: str) -> None:
    params = parameters(torch.float32)
    if start == "zero":
        for p in params.values():
            p.detach().zero_()
    optimizer = case(params.items())
    advance(optimizer, params, range(6), sign=0.0)
    advance(optimizer, params, range(6, 9))
    advance(optimizer, params, range(9, 12), sign=0.0)
    assert all(t.isfinite().all() for t in [*params.values(), *tensors_of(optimizer.state_dict()["state"])])


@every
def test_sparse_gradients_are_refused(case: Case) -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = case(table.named_parameters())
    before = table.weight.detach().clone()
    name = case.cls.__name__
    with pytest.raises(RuntimeError, match=rf"{name} takes no sparse gradients; got one of shape \(5, 3\)"):  # noqa: PT012
        table(torch.tensor([1, 3])).sum().backward()
        optimizer.step()
    assert torch.equal(table.weight, before)


@every
def test_complex_parameters_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=r"^params: got a complex parameter of shape \(2,\); real ones are allowed"):
        case([("z", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))])


@every
def test_maximize_mirrors(case: Case) -> None:
    up, down = parameters(), parameters()
    advance(case(up.items(), maximize=True), up, range(6), sign=-1.0)
    advance(case(down.items()), down, range(6))
    assert same(up, down)


@of(ALL, without=IN_BACKWARD)
def test_gradients_may_be_accumulated(case: Case) -> None:
    """Two backward passes before a step are one with the sum."""
    twice, once = parameters(), parameters()
    first, second = case(twice.items()), case(once.items())
    for step in range(5):
        a, b = noise(list(twice.values()), step), noise(list(twice.values()), step, seed=1)
        first.zero_grad()
        for part in (a, b):
            pairs = [(p, g) for p, g in zip(twice.values(), part, strict=True) if p.requires_grad]
            torch.autograd.backward([p for p, _ in pairs], [g.clone() for _, g in pairs])
        first.step()
        backward(list(once.values()), [x + y for x, y in zip(a, b, strict=True)])
        second.step()
    assert same(twice, once)


# -- precision ---------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_follows_float32(case: Case, dtype: torch.dtype) -> None:
    """State is as wide as for float32 parameters, and 100 steps end near where those of float32 do, rounded."""
    start = {name: nn.Parameter(0.02 * p.detach().to(dtype)) for name, p in parameters().items()}
    low = copies(start)
    wide = {name: nn.Parameter(p.detach().float()) for name, p in start.items()}
    first, second = case(low.items()), case(wide.items())
    for step in range(100):
        gradients = noise(list(low.values()), step)
        gradients = [g + 0.5 * math.cos(0.1 * step) for g in gradients]
        backward(list(low.values()), gradients)
        backward(list(wide.values()), [g.float() for g in gradients])
        first.step()
        second.step()
    ours, theirs = (tensors_of(o.state_dict()["state"]) for o in (first, second))
    if case.name not in WITH_WIDE_COPIES:
        assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    moved = sum(float((wide[n] - start[n].float()).square().sum()) for n in wide) ** 0.5
    apart = sum(float((wide[n].to(dtype).float() - low[n].float()).square().sum()) for n in wide) ** 0.5
    assert moved > 0.0
    assert apart <= 0.1 * moved


def loss_of(model: nn.Module, step: int) -> Tensor:
    random = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=random)
    y = torch.randint(0, 3, (8,), generator=random)
    return nn.functional.cross_entropy(model(x), y)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


@every
@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)], ids=str)
def test_a_parameter_without_entries_changes_nothing(case: Case, shape: tuple[int, ...]) -> None:
    plain, beside = parameters(), {**parameters(), "empty": nn.Parameter(torch.zeros(shape))}
    run(case, plain)
    run(case, beside)
    assert same(plain, {name: p for name, p in beside.items() if name != "empty"})
    alone = {"empty": nn.Parameter(torch.zeros(shape))}
    advance(case(alone.items()), alone, range(2))


def test_a_rule_leaves_parameters_without_entries() -> None:
    rule, params = Shampoo.rule(lr=0.1), [Param("empty", (0, 5)), Param("w", (2, 2))]
    tensors = [torch.ones(3, *param.shape) for param in params]
    memory = rule.memory({param.name: x[0] for param, x in zip(params, tensors, strict=True)})
    stacked = rule.views({name: x.expand(3, -1).clone() for name, x in memory.items()}, params)
    times, rates = torch.ones(3, dtype=torch.float64), torch.full((3,), 0.1, dtype=torch.float64)
    rule.step(params, tensors, [torch.ones_like(x) for x in tensors], stacked, times, rates)
    assert (tensors[1] < 1.0).all()


@of(ALL, without=IN_BACKWARD)
def test_a_gradient_scaler_changes_nothing_but_skips_overflows(case: Case) -> None:
    scaled, usual = network(), network()
    first, second = case(scaled.named_parameters()), case(usual.named_parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(6):
        first.zero_grad()
        loss = loss_of(scaled, step)
        if step == 3:
            loss = loss * math.inf
        scaler.scale(loss).backward()
        if getattr(first, "needs_graph", False):  # what it is given here follows from gradients, without the scale
            scaler.unscale_(first)
        scaler.step(first)
        scaler.update()
        if step != 3:
            second.zero_grad()
            loss_of(usual, step).backward()
            second.step()
    assert all(torch.equal(a, b) for a, b in zip(scaled.parameters(), usual.parameters(), strict=True))


@pytest.fixture(scope="module")
def compiled_network() -> Iterator[nn.Module]:
    model = network()
    yield torch.compile(model, backend="aot_eager")  # type: ignore[misc]
    torch.compiler.reset()


@every
def test_it_trains_a_compiled_model(case: Case, compiled_network: nn.Module) -> None:
    if case.name in IN_BACKWARD:
        compiled_network = torch.compile(network(), backend="eager")  # type: ignore[assignment]
    usual, inner = network(), compiled_network._orig_mod
    inner.load_state_dict(usual.state_dict())  # type: ignore[operator, union-attr]
    inner.requires_grad_(True)  # type: ignore[operator, union-attr]
    first, second = case(inner.named_parameters()), case(usual.named_parameters())  # type: ignore[operator, union-attr]
    for step in range(4):
        for model, optimizer in ((compiled_network, first), (usual, second)):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    for a, b in zip(compiled_network.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# -- arguments ---------------------------------------------------------------------------------------------------------


@classes
def test_the_signature_is_told(cls: type[Optimizer]) -> None:
    names = list(inspect.signature(cls).parameters)
    assert names == ["params", *cls.arguments]
    page = pydoc.plain(pydoc.render_doc(cls))
    head = page[: page.index(cls.__doc__.strip().splitlines()[0])]  # type: ignore[union-attr]
    assert all(name in head for name in names)


@plain
def test_every_argument_refuses_nonsense_by_name(case: Case) -> None:
    """In the constructor, in a group and in a rule; the message has the value, and says what is allowed."""
    params = parameters()
    known = {**SHARED, **case.cls.about}
    for name, default in case.cls.arguments.items():
        wrong: list[Any] = ["nonsense", object()]
        if (case.name, name) in FREE_TEXT:
            wrong.remove("nonsense")
        if isinstance(default, float) or name == "lr":
            wrong += ["0.5", torch.ones(2), math.nan, True, *([] if "infinity" in known[name].allowed else [math.inf])]
        if isinstance(default, tuple):
            wrong += [(math.nan,) * len(default), (0.5,) * (len(default) + 1), 0.5]
        if isinstance(default, bool):
            wrong += [2, None]
        if name == "lr":
            wrong += [-0.1, "0.1"]
        for value in wrong:
            makes: list[Callable[[], Any]] = [
                lambda name=name, value=value: case(params.items(), **{name: value}),  # type: ignore[misc]
                lambda name=name, value=value: case([{"params": list(params.items()), name: value}]),  # type: ignore[misc]
            ]
            if case.name not in WITHOUT_RULE:
                makes.append(lambda name=name, value=value: case.cls.rule(**{**case.settings, name: value}))  # type: ignore[misc]
            for make in makes:
                with pytest.raises(ValueError) as caught:
                    make()
                message = str(caught.value)
                assert message.startswith(f"{name}: got {value!r}; "), (name, value, message)
                assert message.endswith("allowed"), message


@classes
def test_every_argument_is_described(cls: type[Optimizer]) -> None:
    known = {**SHARED, **cls.about}
    assert [name for name in cls.arguments if name not in known] == []


@plain
def test_an_unknown_argument_is_named(case: Case) -> None:
    params = parameters()
    with pytest.raises(TypeError, match="fancy"):
        case(params.items(), fancy=1)
    if case.name not in WITHOUT_RULE:
        with pytest.raises(ValueError, match=f"{case.cls.__name__}: .*fancy.*; arguments are lr"):
            case.cls.rule(**case.settings, fancy=1)


# -- layouts and blocks ------------------------------------------------------------------------------------------------


def strided(name: str, p: Tensor) -> nn.Parameter:
    """The same values in another layout: channels last, transposed, or every second entry of something."""
    if p.dim() == 4:
        return nn.Parameter(p.detach().clone(memory_format=torch.channels_last))
    if p.dim() == 2:
        return nn.Parameter(p.detach().t().contiguous().t())
    return nn.Parameter(torch.stack([p.detach(), torch.zeros_like(p)], dim=-1)[..., 0])


@every
@pytest.mark.parametrize("gradients", ["as they come", "contiguous", "expanded"])
def test_the_layout_in_memory_does_not_matter(case: Case, gradients: str) -> None:
    usual = parameters()
    other = {name: strided(name, p) for name, p in usual.items()}
    assert not any(p.is_contiguous() for p in other.values() if p.dim())
    first, second = case(usual.items()), case(other.items())
    for step in range(6):
        chosen = noise(list(usual.values()), step)
        if gradients == "expanded":
            chosen = [g.reshape(-1)[:1].view((1,) * g.dim()).expand(g.shape) for g in chosen]
        backward(list(usual.values()), [g.contiguous() for g in chosen])
        if gradients == "as they come" or case.name in IN_BACKWARD:
            backward(list(other.values()), chosen)
        else:
            for p, g in zip(other.values(), chosen, strict=True):
                p.grad = g if p.requires_grad else None
        first.step()
        second.step()
    for name in usual:
        torch.testing.assert_close(other[name], usual[name], rtol=1e-12, atol=1e-13)


BLOCK = 1 << 14
BIG = {"big": (2 * BLOCK + 17,), "wide": (3, BLOCK // 2 + 5), "small": (7,)}


@element_wise
def test_many_blocks_are_one_block_bit_for_bit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, whole = (parameters(torch.float32, shapes=BIG) for _ in range(2))
    monkeypatch.setattr(stepping, "BLOCK", BLOCK)
    advance(case(blocks.items()), blocks, range(3))
    monkeypatch.setattr(stepping, "BLOCK", 1 << 40)
    advance(case(whole.items()), whole, range(3))
    assert same(blocks, whole)


def memory(optimizer: torch.optim.Optimizer, steps: int) -> tuple[int, int]:
    """(Bytes that are left, bytes that were there at most) of what steps allocate."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(steps):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.add_(0.0)  # new ones, for who refuses the same twice
            optimizer.step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return held, peak


@of(ALL, without=IN_BACKWARD | BLOCK_WISE)
def test_steps_keep_nothing(case: Case) -> None:
    params = parameters(torch.float32)
    optimizer = case(params.items())
    advance(optimizer, params, range(13))
    held = [memory(optimizer, 6)[0] for _ in range(2)]
    assert min(held) <= 0, held


@of(ELEMENT_WISE, without=IN_BACKWARD | TURNING)
def test_a_step_needs_less_memory_than_the_largest_tensor(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "BLOCK", BLOCK)
    params = parameters(torch.float32, shapes={"largest": (24 * BLOCK,), "other": (24, BLOCK), "b": (9,)})
    optimizer = case(params.items())
    advance(optimizer, params, range(2))
    assert memory(optimizer, 1)[1] < 4 * 24 * BLOCK


# -- kernels -----------------------------------------------------------------------------------------------------------


@element_wise
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-5), (torch.float64, 1e-12)], ids=["float32", "float64"])
def test_the_kernel_follows_the_operations(case: Case, dtype: torch.dtype, rtol: float) -> None:
    eager, compiled = parameters(dtype), parameters(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for params, compile in ((eager, False), (compiled, True)):
            pairs = list(params.items())
            groups = [{"params": pairs[:2]}, {"params": pairs[2:], "lr": 0.003, "maximize": True}]
            advance(case(groups, compile=compile), params, range(20), skip=lambda step, i: (step + i) % 5 == 4)
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], rtol=rtol, atol=rtol)


@of([case for case in ALL if case not in ELEMENT_WISE])
def test_what_has_no_kernel_says_so_once_and_steps_all_the_same(case: Case) -> None:
    params, eager = parameters(), parameters()
    with pytest.warns(UserWarning, match="compile=True") as caught:
        advance(case(params.items(), compile=True), params, range(4))
    messages = [str(w.message) for w in caught if "compile=True" in str(w.message)]
    assert len(messages) == len(set(messages))
    assert all(m.endswith("the step is taken operation by operation") for m in messages)
    advance(case(eager.items()), eager, range(4))
    for name in params:
        torch.testing.assert_close(params[name], eager[name], rtol=1e-9, atol=1e-12)


def nearby(argument: Any, default: Any) -> st.SearchStrategy[Any]:
    """Other values of a number or of several numbers that are allowed too; not 0 where it was not."""
    if isinstance(default, float) and default:
        return st.floats(0.5, 1.25).map(lambda factor: default * factor).filter(argument.check)
    if isinstance(default, tuple) and all(isinstance(x, float) and x for x in default):
        return st.tuples(*[st.floats(1e-6, 0.9999)] * len(default)).filter(argument.check)
    return st.just(default)


@of([case for case in PLAIN if case in ELEMENT_WISE], without=WITHOUT_RULE)
@settings(max_examples=12)
@given(data=st.data())
def test_one_kernel_serves_all_settings_and_shapes(case: Case, data: st.DataObject) -> None:
    """The source does not depend on the values of numbers, the rate, the step or the shape."""
    known = {**SHARED, **case.cls.about}
    chosen = {**case.cls.arguments, **case.settings}
    for name, value in chosen.items():
        chosen[name] = data.draw(nearby(known[name], value), label=name)
    here, there = Param("a", (3, 4)), Param("b", (data.draw(st.integers(1, 100)),))
    try:
        other = case.cls.rule(**chosen).plan(there)
    except ValueError:
        return  # allowed one by one, but not together
    assert source(other, torch.float32) == source(case.cls.rule(**case.settings).plan(here), torch.float32)


# -- stacked peers -----------------------------------------------------------------------------------------------------


@of(PLAIN, without=IN_BACKWARD | WITHOUT_RULE)
def test_stacked_peers_go_the_way_of_separate_ones(case: Case) -> None:
    first = {name: case.settings["lr"] for name in ("base_lr", "lr_start") if case.takes(name)}
    assert_stacks(case.cls, {**case.settings, **first})


@of(PLAIN, without=WITHOUT_RULE)
def test_a_rule_has_the_classs_rate(case: Case) -> None:
    made = case.cls.rule(**case.settings)
    assert isinstance(made, Rule)
    assert made.lr == case.settings["lr"]
