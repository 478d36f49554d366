"""A recording replays what the function does: for other values, and only for what it was recorded for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from shoal.engine.traced import Traced
from shoal.tensors.random import key, normal

CONSTANT = torch.tensor([0.5, -2.0, 3.0])
Function = Callable[..., Any]


def values(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(key(seed, "values"), shape).to(dtype)


def assert_replays(fn: Function, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """The recording gives the function's own bits: where it was made, again, and for other values."""
    traced = Traced(fn)
    for seed in (0, 1, 0, 2):
        given = [values(10 * seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
        kept = [t.clone() for t in given]
        expected, shape = pytree.tree_flatten(fn(*[t.clone() for t in given]))
        found, found_shape = pytree.tree_flatten(traced(*given))
        assert found_shape == shape
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
        assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


# -- what replays


def test_the_gradient_of_a_weight_comes_in_order_in_memory() -> None:
    def gradient(w: Tensor, x: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            leaf = w.detach().requires_grad_()
            hidden = vmap(F.linear)(x, leaf)
            return list(torch.autograd.grad(hidden.square().sum(), [leaf]))

    traced = Traced(gradient)
    for seed in (0, 1):
        w, x = values(seed, 4, 6, 5), values(seed + 7, 4, 3, 5)
        (found,) = traced(w, x)
        assert found.is_contiguous()
        exact = 2 * (x.double() @ w.double().mT).mT @ x.double()
        torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y.add_(1).mul_(x)
    y.sub_(x).neg_()
    return y


def through_views(x: Tensor) -> Tensor:
    y = x.clone()
    y[:1].mul_(3.0)
    y.view(-1)[1:].neg_()
    y.t()[:, :1].add_(1.0) if y.dim() == 2 else y.unsqueeze(0).add_(1.0)
    return y


def of_fresh_tensors(x: Tensor) -> Tensor:
    y = torch.zeros(3).add_(2.0)
    y += torch.arange(3)
    return x + y + torch.full((3,), 0.25)


def by_index(x: Tensor) -> Tensor:
    y = x.clone()
    y.index_add_(0, torch.tensor([0, 2]), torch.ones(2))
    return y[torch.tensor([2, 0, 1])] + x.gather(0, torch.tensor([1, 1, 0]))


VECTORS: dict[str, Function] = {
    "identity": lambda x: x,
    "detached": lambda x: x.detach(),
    "in place": in_place,
    "views": through_views,
    "fresh tensors": of_fresh_tensors,
    "indices": by_index,
    "a constant": lambda x: x * CONSTANT,
    "a constant as a result": lambda x: (x + 1, CONSTANT),
    "a literal": lambda x: x * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor(0.5),
    "several results": lambda x: (x.max(0), x.sort(), x.topk(2)),
    "nested results": lambda x: {"a": x * 2, "b": [x.sum(), (x.long(), x > 0)]},
    "one result twice": lambda x: (x, x.exp(), x),
    "split": lambda x: [part * i for i, part in enumerate(x.split([1, 2]))],
    "chunk and unbind": lambda x: torch.stack(x.unbind(0)[::-1]) + torch.cat(x.chunk(3)[::-1]),
    "one of a list": lambda x: x.unbind(0)[1] + x.split(2)[0].sum(),
    "cat and stack": lambda x: torch.cat([x, torch.stack([x, x * 2]).flatten(), x.new_zeros(0), x[:1]]),
    "types": lambda x: ((x.bfloat16() * 2).float(), x.double() / 3, x.long().to(torch.int8), x.bool()),
    "infinity": lambda x: x.masked_fill(x > 0, float("-inf")).amax(0),
    "comparison": lambda x: torch.where(x > 0, x, -x) + (x > x.mean()),
    "einsum": lambda x: torch.einsum("i,j->ij", x, x),
    "attention": lambda x: F.scaled_dot_product_attention(*[x.view(1, 3, 1) * i for i in (1, 2, 3)]),
    "unused work": lambda x: (x.exp().sum(), x + 1)[1],
    "times one": lambda x: x * 1 + x.view(3).expand(3) * 1.0,
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_replay_gives_the_bits_of_the_function_mapped_over_rows(name: str) -> None:
    assert_replays(vmap(VECTORS[name]), (4, 3))


@pytest.mark.parametrize("name", [name for name in VECTORS if name not in ("a constant as a result", "attention")])
def test_a_replay_gives_the_bits_of_the_function_itself(name: str) -> None:
    assert_replays(VECTORS[name], (3,))


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(2, 6), inputs=st.integers(1, 7), hidden=st.integers(1, 7), dtype=st.sampled_from([32, 64]))
def test_gradients_of_any_shape_replay(rows: int, inputs: int, hidden: int, dtype: int) -> None:
    # of functions that round alike in every place; what the others do is in test_engine_compute.py
    def loss(w: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return torch.erf((x @ w).tanh() @ v).square().mean() + (w.square().sum() + v.abs().sum()) * 0.1

    def gradients(w: Tensor, v: Tensor, x: Tensor) -> Any:
        leaves = [w.detach().requires_grad_(), v.detach().requires_grad_()]
        with torch.enable_grad():
            losses = vmap(loss)(*leaves, x)
            return torch.autograd.grad(losses.sum(), leaves), losses.detach()

    shapes = ((rows, inputs, hidden), (rows, hidden, 2), (rows, 5, inputs))
    assert_replays(gradients, *shapes, dtype=torch.float32 if dtype == 32 else torch.float64)


@pytest.mark.parametrize("transform", ["grad", "autograd"])
def test_the_gradient_of_a_weight_that_is_used_twice_has_both_parts(transform: str) -> None:
    """d/dw |w w x|^2 / 2, compared with a graph of autograd for each row."""

    def loss(w: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (w @ torch.tanh(w @ x)).square().sum()

    def gradients(w: Tensor, x: Tensor) -> Tensor:
        if transform == "grad":
            return vmap(torch.func.grad(loss))(w, x)
        leaf = w.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(vmap(loss)(leaf, x).sum(), leaf)[0]

    traced = Traced(gradients)
    for seed in (1, 2):
        w, x = values(seed, 5, 3, 3, dtype=torch.float64), values(seed + 5, 5, 3, dtype=torch.float64)
        for row, own, gradient in zip(w, x, traced(w, x), strict=True):
            leaf = row.clone().requires_grad_()
            loss(leaf, own).backward()
            torch.testing.assert_close(gradient, leaf.grad, rtol=1e-12, atol=1e-12)


def test_a_module_with_tied_weights_replays() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    names = dict(module.named_parameters())
    assert len(names) == 3

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, parameters, (x,))
        return out.square().sum()

    traced = Traced(vmap(torch.func.grad(loss)))
    for seed in (1, 2):
        stacked = {name: values(seed + i, 3, *p.shape) for i, (name, p) in enumerate(names.items())}
        x = values(seed + 20, 3, 6, 4)
        for row in range(3):
            own = {name: p[row].clone().requires_grad_() for name, p in stacked.items()}
            loss(own, x[row]).backward()
            for name, gradient in traced(stacked, x).items():
                torch.testing.assert_close(gradient[row], own[name].grad)


# -- for what it was recorded


def counted(fn: Function) -> tuple[Traced, list[tuple[int, ...]]]:
    """A recording, and the shapes for which it was made."""
    shapes: list[tuple[int, ...]] = []

    def noting(x: Tensor, *rest: Tensor) -> Any:
        shapes.append(tuple(x.shape))
        return fn(x, *rest)

    return Traced(noting), shapes


def test_each_shape_and_type_is_recorded_once() -> None:
    traced, shapes = counted(lambda x: x.reshape(len(x), -1) * 2)
    for shape in ((2, 3), (4, 3), (2, 3), (2, 3, 1), (4, 3)):
        for dtype in (torch.float32, torch.float64):
            x = values(1, *shape, dtype=dtype)
            assert torch.equal(traced(x), x.reshape(len(x), -1) * 2)
    assert shapes == [(2, 3), (2, 3), (4, 3), (4, 3), (2, 3, 1), (2, 3, 1)]


@pytest.mark.parametrize(
    "branch",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x if bool((x > 0).any()) else -x,
        lambda x: x * float(x.max()),
        lambda x: x * x.amax().item(),
        lambda x: x[: int(x.sum())],
        lambda x: torch.full((int(x.abs().sum()) + 1,), 2.0),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_function_that_looks_at_values_is_refused(branch: Function, mapped: bool) -> None:
    x = values(3, 4, 3)
    with pytest.raises(RuntimeError):
        Traced(vmap(branch) if mapped else branch)(x)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_function_that_changes_a_tensor_of_its_own_for_good_is_refused(mapped: bool) -> None:
    counter = torch.zeros(3)

    def counting(x: Tensor) -> Tensor:
        counter.add_(1.0)
        return x + counter

    with pytest.raises(RuntimeError, match="constant"):
        Traced(vmap(counting) if mapped else counting)(values(1, 4, 3))


def test_a_function_that_is_refused_stays_refused() -> None:
    traced = Traced(lambda x: x if x.sum() > 0 else -x)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="looks at a value"):
            traced(values(1, 4, 3))


def test_an_error_of_the_function_passes_and_the_next_call_works() -> None:
    traced = Traced(lambda x, y: x @ y)
    with pytest.raises(RuntimeError, match="shape"):
        traced(values(1, 2, 3), values(2, 2, 3))
    a, b = values(1, 2, 3), values(2, 3, 2)
    assert torch.equal(traced(a, b), a @ b)


def test_results_do_not_share_memory_with_those_of_the_last_call() -> None:
    traced = Traced(vmap(lambda x: (x * 2, x + CONSTANT)))
    first = traced(values(1, 2, 3))
    kept = [part.clone() for part in first]
    traced(values(2, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_threads_may_record_and_replay_at_once() -> None:
    traced = Traced(vmap(lambda x: x.exp().cumsum(0)))
    wrong: list[int] = []

    def work(seed: int) -> None:
        for rows in (2, 3, 4, 5):
            x = values(seed, rows, 3)
            if not torch.equal(traced(x), x.exp().cumsum(1)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_function_that_changes_its_arguments_and_returns_nothing_can_be_replayed() -> None:
    def double(x: Tensor) -> None:
        x.mul_(2.0)

    traced = Traced(double, in_place=True)
    for seed in range(3):
        x = values(seed, 4, 3)
        expected = 2.0 * x
        assert traced(x) == ()
        assert torch.equal(x, expected)
