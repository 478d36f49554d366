"""DoG and L-DoG against a restatement and the authors' package (PyPI: dog-optimizer), and what is published of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim import DoG, LDoG, Param, polynomial_average
from tests.optim.agreement import assert_as_torch
from tests.optim.following import NETWORK_SHAPES, follow, missing, network, quadratic
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import dog as restated

theirs = pytest.importorskip("dog", reason="dog-optimizer is not installed")


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 2.0), st.floats(1e-7, 1e-2), st.floats(1e-12, 1e-2), st.sampled_from([0.0, 0.1]))
def test_the_authors_package_goes_the_same_way(lr: float, reps_rel: float, eps: float, decay: float) -> None:
    chosen = {"lr": lr, "reps_rel": reps_rel, "eps": eps, "weight_decay": decay}
    for ours, other in ((DoG, theirs.DoG), (LDoG, theirs.LDoG)):
        assert_as_torch(
            lambda p, ours=ours: ours(p, **chosen),  # type: ignore[misc]
            lambda p, other=other: other(p, **chosen),  # type: ignore[misc]
            quadratic(condition=100.0),
            tolerance=1e-9,
        )


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 2.0), st.floats(1e-7, 1e-1), st.floats(1e-12, 1e-2), st.floats(0.0, 0.5), st.booleans())
def test_both_go_the_restated_way(lr: float, reps_rel: float, eps: float, decay: float, lacking: bool) -> None:
    """DoG with all gradients; L-DoG, whose tensors are apart, also where some lack theirs now and then."""
    chosen = {"lr": lr, "eps": eps, "weight_decay": decay}
    follow(
        lambda p: DoG(p, reps_rel=reps_rel, **chosen),
        lambda p: restated.DoG(p, r_rel=reps_rel, **chosen),
        quadratic(),
        rates=lambda step: lr / (1 + 0.1 * step),
    )
    follow(
        lambda p: LDoG(p, reps_rel=reps_rel, **chosen),
        lambda p: restated.LDoG(p, r_rel=reps_rel, **chosen),
        missing(quadratic()) if lacking else quadratic(),
        rates=lambda step: lr / (1 + 0.1 * step),
    )


def test_both_train_a_network_the_restated_way() -> None:
    for ours, other in ((DoG, restated.DoG), (LDoG, restated.LDoG)):
        follow(
            lambda p, ours=ours: ours(p, reps_rel=1e-2),  # type: ignore[misc]
            lambda p, other=other: other(p, r_rel=1e-2),  # type: ignore[misc]
            network(),
            shapes=NETWORK_SHAPES,
            steps=150,
        )


def test_the_mean_of_iterates_is_the_restated_one() -> None:
    values = torch.randn(30, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for gamma in (0.0, 1.0, 8.0):
        average, other, mean = polynomial_average(gamma), restated.PolynomialAverage(gamma), values[0]
        expected = other.update([values[0].numpy()])[0]
        for count, value in enumerate(values[1:], start=1):
            mean, expected = average(mean, value, count), other.update([value.numpy()])[0]
            torch.testing.assert_close(mean, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def path(cls: type[torch.optim.Optimizer], scale: float, steps: int = 50) -> torch.Tensor:
    x = nn.Parameter(torch.linspace(-1.0, 2.0, 7, dtype=torch.float64))
    optimizer = cls([x], eps=0.0)  # type: ignore[call-arg]
    curvature = torch.logspace(-2, 1, 7, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        (scale * (0.5 * curvature * x.square()).sum()).backward()
        optimizer.step()
    return x.detach()


@pytest.mark.parametrize("cls", [DoG, LDoG])
def test_the_scale_of_the_loss_does_not_matter(cls: type[torch.optim.Optimizer]) -> None:
    torch.testing.assert_close(path(cls, 1.0), path(cls, 1000.0), rtol=1e-9, atol=1e-12)


def test_the_first_step_has_the_length_of_r_rel() -> None:
    """r_rel (1 + |x0|) / |g| times g is as long as r_rel (1 + |x0|), over two tensors together."""
    a, b = (nn.Parameter(torch.full((n,), v, dtype=torch.float64)) for n, v in ((3, 2.0), (4, -1.0)))
    before = torch.cat([a, b]).detach().clone()
    optimizer = DoG([a, b], reps_rel=1e-3, eps=0.0)
    (a.sum() * 5.0 + b.square().sum()).backward()
    optimizer.step()
    way = float((torch.cat([a, b]).detach() - before).norm())
    assert way == pytest.approx(1e-3 * (1.0 + float(before.norm())), rel=1e-9)


def test_without_gradients_nothing_moves() -> None:
    x = nn.Parameter(torch.ones(3))
    optimizer = DoG([x], eps=0.0)
    x.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(x, torch.ones(3))


def test_with_one_tensor_both_are_one() -> None:
    assert torch.equal(path(DoG, 1.0), path(LDoG, 1.0))


@pytest.mark.parametrize("cls", [DoG, LDoG])
def test_stacked_peers_go_their_own_ways(cls: type[DoG] | type[LDoG]) -> None:
    assert_stacks(cls, {"lr": 1.0, "reps_rel": 1e-3})


def test_the_mean_is_the_closed_form_of_its_weights() -> None:
    """The weight of iterate i after T is w_i times the product of (1 - w_j) over the later j; with gamma = 0, 1 / T."""
    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for gamma in (0.0, 8.0):
        average = polynomial_average(gamma)
        mean = values[0]
        for count, value in enumerate(values[1:], start=1):
            mean = average(mean, value, count)
        w = [(gamma + 1) / (gamma + t) for t in range(1, 10)]
        weights = torch.tensor([w[i] * torch.tensor([1 - x for x in w[i + 1 :]]).prod() for i in range(9)])
        torch.testing.assert_close(mean, weights.double() @ values, rtol=1e-6, atol=1e-6)
        if gamma == 0.0:
            torch.testing.assert_close(mean, values.mean(0))


def test_torchs_container_averages_weights_and_statistics() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=polynomial_average(0.0), use_buffers=True)
    seen = []
    for step in range(3):
        with torch.no_grad():
            model[0].weight.fill_(float(step))
            model[1].running_mean.fill_(float(step))
        seen.append(float(step))
        average.update_parameters(model)
    assert average.module[0].weight[0, 0].item() == pytest.approx(sum(seen) / 3)
    assert float(average.module[1].running_mean[0]) == pytest.approx(sum(seen) / 3)


def test_a_negative_decay_of_the_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="gamma: got -1"):
        polynomial_average(-1)


@pytest.mark.parametrize("cls", [DoG, LDoG])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_goes_the_way_of_float32_rounded(cls: type[DoG] | type[LDoG], dtype: torch.dtype) -> None:
    """The first steps, 1e-6 of the weights, are below what these can tell; the other parameter is float32."""
    random = torch.Generator().manual_seed(0)
    start, other = torch.randn(6, 5, generator=random).to(dtype), torch.randn(4, generator=random)
    low, wide = nn.Parameter(start.clone()), nn.Parameter(start.float())
    beside = [nn.Parameter(other.clone()) for _ in range(2)]
    rounded, exact = cls([beside[0], low]), cls([beside[1], wide])
    for step in range(200):
        g = (1.0 + 0.1 * torch.randn(start.shape, generator=random)).to(dtype)
        low.grad, wide.grad = g, g.float()
        for p in beside:
            p.grad = p.detach().clone()
        rounded.step()
        exact.step()
        assert torch.equal(low, wide.to(dtype))
        assert torch.equal(*beside)
        if step == 0:
            assert torch.equal(low, start)
    assert not torch.equal(low, start)


def test_weights_of_low_precision_that_are_set_from_outside_count() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = DoG([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    before = optimizer.state[p]["wide"].clone()
    with torch.no_grad():
        p[0] = 5.0
    optimizer.step()
    after = optimizer.state[p]["wide"]
    assert (before < 1.0).all()
    torch.testing.assert_close(5.0 - after[0], before[1] - after[1])


def test_stacked_peers_of_low_precision_have_wide_copies() -> None:
    rule, param = DoG.rule(), Param("p", (3, 4), torch.bfloat16)
    start = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    stacked, alone = start.clone(), [nn.Parameter(row.clone()) for row in start]
    memories = [rule.memory({"p": row}) for row in start]
    memory = {name: torch.stack([m[name] for m in memories]) for name in memories[0]}
    optimizers = [DoG([p]) for p in alone]
    rates = torch.ones(2, dtype=torch.float64)
    for step in range(100):
        t = torch.full((2,), step + 1.0, dtype=torch.float64)
        rule.step([param], [stacked], [torch.ones_like(start)], rule.views(memory, [param]), t, rates)
        for p, optimizer in zip(alone, optimizers, strict=True):
            p.grad = torch.ones_like(p)
            optimizer.step()
    assert not torch.equal(stacked, start)
    assert torch.equal(stacked, torch.stack([p.detach() for p in alone]))
