"""AdaHessian against a float64 restatement and Hessians that are written out, and the ways to give it a graph."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.optim import SANIA, TTUR, AdaHessian, AdamW, Cautious, Lookahead, XGrad, chain, second_derivatives
from shoal.optim.adahessian import HessianScaling
from shoal.optim.core.curvature import signs
from shoal.tensors.random import key, normal
from tests.restatements.optimizers import adahessian as restated

SHAPES = ((4, 3), (4,), (3, 2, 2, 2), ())
QUIET = "ignore:Using backward"


def start(seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64)) for shape in SHAPES]


def loss_of(ps: list[nn.Parameter], step: int) -> Tensor:
    """A loss that ties all tensors together, with another batch for each step."""
    w, b, kernel, scale = ps
    x, image = (normal(key(step, "batch", len(s)), s, dtype=torch.float64) for s in ((8, 3), (8, 2, 4, 4)))
    seen = torch.tanh(nn.functional.conv2d(image, kernel)).mean((2, 3))
    return (torch.tanh((x + seen) @ w.T + b) * scale - 1.0).square().mean() + scale**4


def hessian(ps: list[nn.Parameter], step: int) -> Tensor:
    sizes, shapes = [p.numel() for p in ps], [p.shape for p in ps]

    def flat(v: Tensor) -> Tensor:
        return loss_of([x.view(s) for x, s in zip(v.split(sizes), shapes, strict=True)], step)  # type: ignore[misc]

    found: Tensor = torch.autograd.functional.hessian(flat, torch.cat([p.detach().flatten() for p in ps]))
    return found


@settings(max_examples=6, deadline=None)
@given(
    st.floats(0.0, 0.95),
    st.floats(0.5, 0.999),
    st.sampled_from([1e-4, 1e-2]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([1.0, 0.5, 0.0]),
    st.booleans(),
)
def test_it_goes_the_way_of_the_restatement_with_the_whole_hessian(
    beta1: float, beta2: float, eps: float, decay: float, power: float, rows: bool
) -> None:
    """z * (H z) by differentiating twice is that of the Hessian that torch writes out."""
    ps = start()
    shared: dict[str, Any] = {"lr": 0.01, "betas": (beta1, beta2), "eps": eps, "weight_decay": decay}
    ours = AdaHessian(ps, **shared, hessian_power=power, average="row" if rows else "window", seed=3)
    theirs = restated.AdaHessian([p.detach().numpy() for p in ps], **shared, power=power, rows=rows)
    seeds = [torch.tensor(key(3, "optimizer", i)) for i in range(len(ps))]
    for step in range(4):
        z = [signs(seed, step + 1, tuple(p.shape), p.dtype) for seed, p in zip(seeds, ps, strict=True)]
        product = (hessian(ps, step) @ torch.cat([x.flatten() for x in z])).split([p.numel() for p in ps])
        gradients = torch.autograd.grad(loss_of(ps, step), ps)
        ours.step(loss=loss_of(ps, step))
        theirs.step([g.numpy() for g in gradients], [x.view(p.shape).numpy() for x, p in zip(product, ps, strict=True)])
        for p, q in zip(ps, theirs.params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-9, atol=1e-12)


def by_loss(optimizer: Any, ps: list[nn.Parameter], step: int) -> None:
    optimizer.step(loss=loss_of(ps, step))


def by_backward(optimizer: Any, ps: list[nn.Parameter], step: int) -> None:
    optimizer.zero_grad()
    loss_of(ps, step).backward(create_graph=True)
    optimizer.step()


def by_closure(optimizer: Any, ps: list[nn.Parameter], step: int) -> None:
    assert optimizer.step(lambda: loss_of(ps, step)).requires_grad


def by_closure_with_backward(optimizer: Any, ps: list[nn.Parameter], step: int) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(ps, step)
        loss.backward(create_graph=True)
        return loss

    optimizer.step(closure)


WAYS = [by_loss, by_backward, by_closure, by_closure_with_backward]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda f: f.__name__)


@ways
@pytest.mark.filterwarnings(QUIET)
def test_all_ways_to_give_a_graph_are_one(way: Callable[..., None]) -> None:
    ps, others = start(), start()
    optimizer, reference = AdaHessian(ps, lr=0.05), AdaHessian(others, lr=0.05)
    for step in range(5):
        way(optimizer, ps, step)
        by_loss(reference, others, step)
    assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))


@ways
@pytest.mark.filterwarnings(QUIET)
def test_steps_leave_no_tensors_behind(way: Callable[..., None]) -> None:
    """Without the garbage collector: nothing hangs on a cycle."""
    ps = start()
    optimizer = AdaHessian(ps)
    counts = []
    gc.collect()
    gc.disable()
    try:
        for step in range(8):
            way(optimizer, ps, step)
            counts.append(sum(isinstance(x, Tensor) for x in gc.get_objects()))
    finally:
        gc.enable()
    assert len(set(counts[2:])) == 1, counts
    assert not any(p.grad is not None and p.grad.requires_grad for p in ps)


@pytest.mark.filterwarnings(QUIET)
def test_without_a_graph_it_says_what_to_do() -> None:
    ps = start()
    optimizer, before = AdaHessian(ps), start()
    loss_of(ps, 0).backward()
    loss = loss_of(ps, 0)
    loss.backward()
    for attempt in (
        lambda: optimizer.step(),
        lambda: optimizer.step(loss=1.0),
        lambda: optimizer.step(loss=loss),
        lambda: optimizer.step(lambda: 1.0),
    ):
        with pytest.raises(RuntimeError, match=r"AdaHessian needs a graph to differentiate twice: step\(loss=loss\)"):
            attempt()
    assert all(torch.equal(p, q) for p, q in zip(ps, before, strict=True))


@pytest.mark.filterwarnings(QUIET)
def test_a_loss_comes_before_gradients_from_another_one() -> None:
    ps, others = start(), start()
    optimizer, reference = AdaHessian(ps), AdaHessian(others)
    for make in (lambda loss: {"loss": loss}, lambda loss: {"closure": lambda: loss}):
        sum((p**4).mean() for p in ps).backward(create_graph=True)  # type: ignore[union-attr]
        optimizer.step(**make(loss_of(ps, 0)))
        by_loss(reference, others, 0)
        assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))
        assert not any(p.grad is not None and p.grad.requires_grad for p in ps)
    sum((p**4).mean() for p in ps).backward(create_graph=True)  # type: ignore[union-attr]
    for attempt in (lambda loss: optimizer.step(loss=loss), lambda loss: optimizer.step(lambda: loss)):
        with pytest.raises(RuntimeError, match=r"^loss: got one that depends on none of the parameters of AdaHessian"):
            attempt(nn.Parameter(torch.ones(())).square())
    assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))


@pytest.mark.parametrize("make", [AdaHessian, lambda p: SANIA(p, preconditioner="newton"), AdamW])
def test_a_loss_is_one_number(make: Any) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p])
    for attempt in (lambda: optimizer.step(loss=p**4), lambda: optimizer.step(lambda: p**4)):
        with pytest.raises(ValueError, match=r"^loss: got a tensor of shape \(3,\); one number is allowed"):
            attempt()
    assert torch.equal(p, torch.ones(3))


def test_frozen_parameters_stay_and_alone_they_are_no_error() -> None:
    frozen, free = nn.Parameter(torch.ones(3), requires_grad=False), nn.Parameter(torch.ones(3))
    AdaHessian([frozen]).step(loss=(frozen + free).pow(4).sum())
    AdaHessian([frozen, free]).step(loss=(frozen + free).pow(4).sum())
    assert torch.equal(frozen, torch.ones(3))
    assert not torch.equal(free, torch.ones(3))


@pytest.mark.filterwarnings(QUIET)
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        AdaHessian,
        lambda p: SANIA(p, preconditioner="newton"),
        lambda p: Lookahead(Cautious(AdaHessian(p))),
        lambda p: TTUR(AdaHessian(p[:2]), AdamW(p[2:])),
        lambda p: TTUR(AdamW(p[:2]), Lookahead(AdaHessian(p[2:]))),
    ],
)
def test_a_gradient_scaler_is_refused(make: Any, unscale: bool) -> None:
    """Which would leave its scale in the graph; the next step by hand, and an idle scaler, are none the worse."""
    ps, before = start(), start()
    optimizer, scaler = make(ps), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(ps, 0)).backward(create_graph=True)
    if unscale:
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="differentiates gradients a second time and cannot be stepped by a Grad"):
        scaler.step(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(ps, before, strict=True))
    if not isinstance(optimizer, TTUR):
        torch.amp.GradScaler("cpu", enabled=False).step(optimizer, loss=loss_of(ps, 0))
        optimizer.step(loss=loss_of(ps, 1))
        assert not torch.equal(ps[0], before[0])


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: Lookahead(o, k=2)])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_gradient_scaler_takes_its_scale_off_where_curvature_is_given(wrap: Any, unscale: bool) -> None:
    ps, others = start(), start()
    scaled, usual = wrap(AdaHessian(ps)), wrap(AdaHessian(others))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        factor = torch.inf if step == 2 else 1.0
        scaled.zero_grad()
        scaler.scale(loss_of(ps, step) * factor).backward()
        if unscale:
            scaler.unscale_(scaled)
        given = {"curvature": [torch.full_like(p, 1.0 + step) for p in ps]}
        scaler.step(scaled, given=given)
        scaler.update()
        if step != 2:
            usual.zero_grad()
            loss_of(others, step).backward()
            usual.step(given=given)
        assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))


@pytest.mark.filterwarnings(QUIET)
def test_gradients_that_a_closure_has_made_come_before_its_loss() -> None:
    """Two parts of a batch, clipped; the loss that is returned is the second one's."""
    ps, others = start(), start()

    def gather(own: list[nn.Parameter]) -> Tensor:
        for p in own:
            p.grad = None
        for part in range(2):
            loss = loss_of(own, part) / 2.0
            loss.backward(create_graph=True)
        nn.utils.clip_grad_norm_(own, 0.1)
        return loss

    ours, theirs = AdaHessian(ps), AdaHessian(others)
    for _ in range(3):
        ours.step(lambda: gather(ps))
        gather(others)
        theirs.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_diagonal_quadratic_is_solved_by_the_first_step(condition: float, seed: int) -> None:
    x = nn.Parameter(torch.linspace(1.0, 2.0, 9, dtype=torch.float64))
    h = torch.logspace(0, float(np.log10(condition)), 9, dtype=torch.float64)
    AdaHessian([x], lr=1.0, betas=(0.0, 0.9), eps=0.0, seed=seed).step(loss=(0.5 * h * x.square()).sum())
    assert float(x.detach().abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("shape", "average", "blocks"),
    [
        ((6,), "row", (6,)),
        ((4, 3), "row", (4, 1)),
        ((4, 3), "window", (4, 3)),
        ((4, 3, 5), "window", (4, 3, 1)),
        ((4, 3, 2, 2), "row", (4, 3, 1, 1)),
        ((4, 3, 2, 2), "none", (4, 3, 2, 2)),
        ((2, 3, 2, 2, 2), 4, (2, 3, 1, 1, 1)),
    ],
)
def test_blocks_have_one_number(shape: tuple[int, ...], average: Any, blocks: tuple[int, ...]) -> None:
    p = nn.Parameter(torch.randn(shape))
    optimizer = AdaHessian([p], average=average)
    optimizer.step(loss=(p**4).sum())
    assert optimizer.state[p]["v"].shape == blocks


def test_so_many_entries_of_a_matrix_take_their_mean() -> None:
    d = torch.arange(1.0, 13.0, dtype=torch.float64).view(3, 4)
    p = nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    AdaHessian([p], lr=1.0, eps=0.0, average=6).step(given={"curvature": [-d]})
    means = torch.tensor([3.5, 9.5], dtype=torch.float64).repeat_interleave(6).view(3, 4)
    torch.testing.assert_close(p.detach(), -1.0 / means, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="average: got 5; for a matrix of shape"):
        AdaHessian([p], average=5)


def test_signs_are_fair_and_belong_to_seed_parameter_and_step() -> None:
    draws = torch.stack([signs(torch.tensor(7), t, (1000,), torch.float64) for t in range(1, 41)])
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(draws.mean())) < 4.0 / 200.0
    between = draws @ draws.T / 1000.0
    assert float((between - torch.eye(40)).abs().max()) < 0.2
    stacked = signs(torch.tensor([5, 7]), torch.tensor([2.0, 9.0], dtype=torch.float64), (1000,), torch.float64)
    assert torch.equal(stacked[1], draws[8])
    ps = [start() for _ in range(3)]
    for own, seed in zip(ps, (0, 0, 1), strict=True):
        by_loss(AdaHessian(own, seed=seed), own, 0)
    assert torch.equal(ps[0][0], ps[1][0])
    assert not torch.equal(ps[0][0], ps[2][0])


def test_a_loaded_state_continues_bit_for_bit_with_its_own_signs() -> None:
    ps = start()
    optimizer = AdaHessian(ps, seed=5)
    for step in range(3):
        by_loss(optimizer, ps, step)
    again = [nn.Parameter(p.detach().clone()) for p in ps]
    other = AdaHessian(again, seed=6)
    other.load_state_dict(optimizer.state_dict())
    for step in range(3, 6):
        by_loss(optimizer, ps, step)
        by_loss(other, again, step)
    assert all(torch.equal(p, q) for p, q in zip(ps, again, strict=True))


def test_maximize_climbs_the_negative() -> None:
    up, down = start(), start()
    first, second = AdaHessian(up, maximize=True), AdaHessian(down)
    for step in range(3):
        first.step(loss=-loss_of(up, step))
        by_loss(second, down, step)
    for p, q in zip(up, down, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_what_has_no_gradient_stays_and_other_groups_need_no_curvature() -> None:
    used, unused, linear = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3))
    optimizer = AdaHessian([used, unused, linear], lr=0.1)
    optimizer.step(loss=(used**4).sum() + linear.sum())
    assert torch.equal(unused, torch.ones(2))
    torch.testing.assert_close(linear.detach(), torch.full((2,), 1.0 - 0.1 / 1e-4, dtype=torch.float64))
    torch.testing.assert_close(used.detach(), torch.full((2,), 1.0 - 0.1 * 4.0 / (12.0 + 1e-4), dtype=torch.float64))


@pytest.mark.parametrize("wrap", [Cautious, lambda o: Lookahead(o, k=2), XGrad])
def test_wrappers_hand_the_graph_on(wrap: Callable[[Any], Any]) -> None:
    ps, others = start(), start()
    first, second = wrap(AdaHessian(ps, lr=0.01)), wrap(AdaHessian(others, lr=0.01))
    assert first.needs_graph
    for step in range(4):
        first.step(lambda step=step: loss_of(ps, step))
        second.step(loss=loss_of(others, step))
    if wrap is not XGrad:  # whose closure is evaluated at other weights than a loss from before
        assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))
    assert float(loss_of(ps, 9).detach()) < float(loss_of(start(), 9).detach())


def test_chains_of_ones_own_are_given_curvature_too() -> None:
    Mine = chain(HessianScaling(), lr=0.01)
    ps, others = start(), start()
    by_loss(Mine(ps), ps, 0)
    by_loss(AdaHessian(others, lr=0.01, average="none"), others, 0)
    assert all(torch.equal(p, q) for p, q in zip(ps, others, strict=True))
    assert not AdamW(ps).needs_graph


def test_attention_needs_its_slow_form() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    optimizer, x = AdaHessian(model.parameters()), torch.randn(3, 5, 8)

    def loss() -> Tensor:
        return model(x, x, x, need_weights=False)[0].square().mean()  # type: ignore[no-any-return]

    with pytest.raises(RuntimeError, match=r"within `with shoal.optim.second_derivatives\(\):`"):
        optimizer.step(loss=loss())
    with second_derivatives():
        optimizer.step(loss=loss())


def test_what_is_given_must_be_whole() -> None:
    ps = start()
    for p in ps:
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="given: got 1 of curvature; one for each of 4 parameters is allowed"):
        AdaHessian(ps).step(given={"curvature": [None]})
    with pytest.raises(ValueError, match="given: got no curvature"):
        AdaHessian(ps).step(given={"curvature": [None] * 4})


def test_only_backward_with_a_graph_warns_of_cycles() -> None:
    """Torch warns once in a process unless told otherwise."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        for way in WAYS:
            ps = start()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                way(AdaHessian(ps), ps, 0)
            cycles = [w for w in caught if "create_graph=True" in str(w.message)]
            assert bool(cycles) == (way in (by_backward, by_closure_with_backward))
    finally:
        torch.set_warn_always(always)
