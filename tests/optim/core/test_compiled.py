"""Compiled steps: made once, kept safely, given up for good reasons, and the same whichever threads take them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from shoal.optim.adamw import AdamW
from shoal.optim.adopt import ADOPT
from shoal.optim.core import Chain, Optimizer, Param, Scalars, State, Transform, compiled
from shoal.optim.core.compiled import DeviceKernel, Kernel, Kernels, NoCompiler, cache, compiler, structure
from shoal.optim.core.plan import Plan
from shoal.optim.core.rule import Rule
from shoal.optim.core.stepping import Item, step_items
from shoal.optim.core.transform import Granularity
from shoal.optim.lion import Lion
from shoal.optim.sgd import SGD
from tests.optim.catalogue import advance, parameters, same


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of kernels of its own, and a process that has loaded none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled._load.cache_clear()
    yield tmp_path / "shoal" / "kernels"
    compiled._load.cache_clear()


def kernels_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def stepped(**settings: Any) -> dict[str, nn.Parameter]:
    params = parameters(torch.float32)
    advance(SGD(params.items(), lr=0.1, **settings), params, range(3))
    return params


def plan_of(**settings: Any) -> Plan:
    return AdamW.rule(**settings).plan(Param("p", (5,)))


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_kernel_is_compiled_once_and_nothing_else_is_left(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache() == empty_cache
    first = stepped(compile=True)
    (library,) = empty_cache.iterdir()
    assert library.suffix == ".so"
    compiled._load.cache_clear()  # as in another process
    monkeypatch.setattr(compiled, "_compile", None)
    assert same(stepped(compile=True), first)


@pytest.mark.parametrize("damage", ["cut off", "empty", "other bytes", "one bit"])
def test_a_damaged_kernel_is_made_again(empty_cache: Path, damage: str) -> None:
    first = stepped(compile=True)
    (library,) = kernels_in(empty_cache)
    whole = library.read_bytes()
    changed = {
        "cut off": whole[: len(whole) // 2],
        "empty": b"",
        "other bytes": b"not a library" * 100,
        "one bit": bytes([*whole[:-1], whole[-1] ^ 1]),
    }[damage]
    library.unlink()  # the loaded one is mapped into this process
    library.write_bytes(changed)
    compiled._load.cache_clear()
    assert same(stepped(compile=True), first)
    assert any(file.read_bytes() == whole for file in kernels_in(empty_cache))
    assert all(compiled._intact(file) for file in kernels_in(empty_cache))


def test_a_compiler_that_fails_half_way_leaves_nothing(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = empty_cache.parent / "broken"
    empty_cache.mkdir(parents=True)
    broken.write_text(
        '#!/bin/sh\nfor a; do case "$a" in *.so) echo half > "$a";; esac; done\necho "out of memory" >&2\nexit 3\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.warns(UserWarning, match=r"broken failed: out of memory; the step is taken operation by operation"):
        result = stepped(compile=True)
    assert same(result, stepped())
    assert list(empty_cache.iterdir()) == []


def test_many_may_make_the_same_kernel_at_once(empty_cache: Path) -> None:
    """Each finds a whole library, whoever wrote it last."""
    text, _ = compiled.source(plan_of(), torch.float32)
    empty_cache.mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: compiled._compile(text, "same"), range(4)))
    assert all(compiled._intact(file) for file in made)
    assert set(made) == set(kernels_in(empty_cache))


def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiled._load.cache_clear()
    with pytest.warns(UserWarning, match=r"the cache of kernels cannot be used .*\$XDG_CACHE_HOME may name another"):
        result = stepped(compile=True)
    assert same(result, stepped())
    compiled._load.cache_clear()


# -- without a kernel --------------------------------------------------------------------------------------------------


def test_without_a_compiler_one_warning_says_so(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it points to the line that called `step`; the steps are those without `compile`."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert compiler() is None
    params = parameters(torch.float32)
    pairs = list(params.items())
    optimizer = SGD([{"params": pairs[:2]}, {"params": pairs[2:], "momentum": 0.9}], lr=0.1, compile=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(3):
            for p in params.values():
                p.grad = torch.full_like(p, float(step))
            optimizer.step()
    (warning,) = caught
    assert str(warning.message) == (
        "compile=True: there is no C++ compiler (Debian: apt install g++); the step is taken operation by operation"
    )
    assert warning.filename == __file__
    eager = parameters(torch.float32)
    pairs = list(eager.items())
    optimizer = SGD([{"params": pairs[:2]}, {"params": pairs[2:], "momentum": 0.9}], lr=0.1)
    for step in range(3):
        for p in eager.values():
            p.grad = torch.full_like(p, float(step))
        optimizer.step()
    assert same(params, eager)


def test_the_compiler_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "my-c++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", str(own))
    assert compiler() == str(own)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_stepped_without_a_kernel(dtype: torch.dtype) -> None:
    params, eager = parameters(dtype), parameters(dtype)
    with pytest.warns(UserWarning, match=f"parameters are {dtype}; float32 and float64 are compiled"):
        advance(AdamW(params.items(), compile=True), params, range(3))
    advance(AdamW(eager.items()), eager, range(3))
    assert same(params, eager)


def test_a_parameter_that_is_not_contiguous_is_stepped_without_a_kernel() -> None:
    """The others have one; a gradient may lie as it wants."""
    turned, straight = nn.Parameter(torch.arange(6.0).view(2, 3).t()), nn.Parameter(torch.arange(6.0).view(3, 2))
    optimizer = AdamW([turned, straight], lr=0.1, compile=True)
    turned.grad, straight.grad = torch.ones(3, 2), torch.ones(2, 3).t()
    with pytest.warns(UserWarning, match="is not contiguous"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    start = torch.arange(6.0).view(2, 3).t()
    expected = nn.Parameter(start.clone())
    reference = AdamW([expected], lr=0.1)
    for _ in range(2):
        expected.grad = torch.ones(3, 2)
        reference.step()
    torch.testing.assert_close(turned, expected)


@dataclass(frozen=True)
class OverSum(Transform):
    """u over the sum of squares of all parameters' updates."""

    granularity: ClassVar[Granularity] = "model"

    def measure(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> dict[str, Tensor]:
        return {"sum": u.square().sum()}

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        return u / c.sum


class Shared(Optimizer):
    """With one sum over all groups."""

    lr: float = 1.0

    @classmethod
    def links(cls, h: Any, param: Param) -> Chain:
        return (OverSum(),)


def test_sums_over_all_parameters_include_groups_without_compile() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = Shared([{"params": [a], "compile": True}, {"params": [b]}])
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    with pytest.warns(UserWarning, match="OverSum looks at whole tensors"):
        optimizer.step()
    assert a.item() == pytest.approx(-3.0 / 25.0)
    assert b.item() == pytest.approx(-4.0 / 25.0)


# -- which kernel ------------------------------------------------------------------------------------------------------


def test_a_schedule_of_momenta_makes_no_new_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has a chain of its own, as its settings are others; what is kept does not grow."""
    made: list[Plan] = []
    real = Kernel.__init__

    def counted(self: Kernel, plan: Plan, dtype: torch.dtype) -> None:
        made.append(plan)
        real(self, plan, dtype)

    monkeypatch.setattr(Kernel, "__init__", counted)
    results = []
    for compile in (True, False):
        params = parameters()
        optimizer = AdamW(params.items(), compile=compile)
        scheduler = OneCycleLR(optimizer, 0.1, total_steps=12)
        advance(optimizer, params, range(12), after=scheduler.step)
        results.append(params)
        if compile:
            known = optimizer._kernels
            assert known is not None
            assert len(known._made) == len(made) == 1
            made.clear()
    assert not made
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-12, atol=1e-12)


def test_the_structure_of_a_chain_leaves_floats_out_and_nothing_else() -> None:
    assert structure(plan_of(lr=0.1)) == structure(plan_of(betas=(0.5, 0.7), eps=1e-3, weight_decay=0.3))
    assert structure(plan_of()) != structure(plan_of(weight_decay=0.0))

    def sgd(**settings: Any) -> Any:
        return structure(SGD.rule(**settings).plan(Param("p", (5,))))

    assert sgd(momentum=0.9) == sgd(momentum=0.5)
    assert sgd(momentum=0.9) != sgd(momentum=0.9, nesterov=True)
    assert sgd(momentum=0.9) != sgd()


def test_equal_chains_share_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parameters with the same settings and number of steps go into the loop together."""
    calls: list[int] = []
    real = Kernel.__call__

    def counted(self: Kernel, items: Any) -> None:
        calls.append(len(items))
        real(self, items)

    monkeypatch.setattr(Kernel, "__call__", counted)
    params = parameters()
    pairs = list(params.items())
    groups = [{"params": pairs[:3]}, {"params": pairs[3:], "maximize": True}]
    advance(AdamW(groups, compile=True), params, range(3), skip=lambda step, i: step == 0 and i == 1)
    assert calls == [2, 1, 2, 1, 1, 2, 1, 1]


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares begin and end within parameters, and cover each entry once."""
    monkeypatch.setattr(compiled, "SHARE", 100)
    plan = plan_of(lr=0.1)
    kernel = Kernel(plan, torch.float32)
    sizes = [1, 130, 0, 700, 64, 3]

    def after(count: int) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: count)
        random = torch.Generator().manual_seed(0)
        scalars = plan.scalars(3.0, 0.1)
        items = []
        for size in sizes:
            p, g = torch.randn(size, generator=random), torch.randn(size, generator=random)
            items.append(Item(plan, p, g, Plan(plan.chain, (size,)).fresh(p), scalars))
        kernel(items)
        return [x for item in items for x in (item.p, *item.state.values())]

    assert all(torch.equal(a, b) for a, b in zip(after(threads), after(1), strict=True))


@pytest.mark.parametrize("compile", [True, False])
def test_a_tensor_of_another_size_is_refused_before_any_memory_is_touched(compile: bool) -> None:
    """Neither a compiled loop nor torch's fused one would notice."""
    p = nn.Parameter(torch.zeros(100))
    optimizer = AdamW([p], compile=compile)
    p.grad = torch.ones(100)
    optimizer.step()
    p.data, p.grad = torch.zeros(1000), torch.ones(1000)
    message = r"must have one shape; got \(1000,\), \(1000,\), \(100,\), \(100,\)" if compile else "size of tensor"
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert not p.any()


def test_without_items_there_is_nothing_to_do() -> None:
    assert Kernels().step([]) == []
    p = nn.Parameter(torch.zeros(0))
    optimizer = AdamW([p], compile=True)
    p.grad = torch.zeros(0)
    optimizer.step()
    assert p.numel() == 0


def test_what_has_no_kernel_is_left_to_be_stepped() -> None:
    """And with it every step is taken."""
    plans = [plan_of(lr=0.1), Shared.rule().plan(Param("q", (5,)))]
    ours, theirs = ([torch.arange(5.0), torch.arange(5.0)] for _ in range(2))

    def items(tensors: list[Tensor]) -> list[Item]:
        g = torch.ones(5)
        pairs = zip(plans, tensors, strict=True)
        return [Item(plan, p, g, plan.fresh(p), plan.scalars(1.0, 0.1)) for plan, p in pairs]

    with pytest.warns(UserWarning, match="OverSum"):
        rest = Kernels().step(items(ours))
    assert [item.p is ours[1] for item in rest] == [True]
    step_items(rest)
    for item in items(theirs):
        step_items([item])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_missing_compiler_is_an_error_of_its_own(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCompiler, match="there is no C"):
        Kernel(plan_of(), torch.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    """Those of its parent are not there, and waiting for them would be for ever."""
    compiled._threads()
    child = os.fork()
    if child == 0:
        os._exit(compiled._threads.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert compiled._threads.cache_info().currsize == 1


@pytest.mark.parametrize("make", [AdamW.rule, Lion.rule, ADOPT.rule])
def test_the_kernel_for_other_devices_follows_the_plain_step(make: Callable[..., Rule]) -> None:
    """On a CPU, and traced without code generation: what it computes, not how fast."""
    rule = make(0.03, weight_decay=0.1)
    plan = rule.plan(Param("w", (4, 3)))
    draws = torch.Generator().manual_seed(3)
    ours = torch.randn(4, 3, dtype=torch.float64, generator=draws)
    theirs = ours.clone()
    kernel = DeviceKernel(plan, ours, backend="eager")
    states = plan.fresh(ours), plan.fresh(ours)
    for t in range(1, 5):
        g = torch.randn(4, 3, dtype=torch.float64, generator=draws)
        scalars = plan.scalars(float(t), 0.03 / t)
        with torch.no_grad():
            kernel([Item(plan, ours, g, states[0], scalars, negate=t == 3)])
            step_items([Item(plan, theirs, g, states[1], scalars, negate=t == 3)])
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
