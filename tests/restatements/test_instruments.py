"""The restatements of instruments and of lenses against closed forms, autograd and simulations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from . import lenses
from .instruments import class_imbalance, fid, mup, surge
from .instruments.directional_sharpness import best_step, directional_sharpness, slope
from .instruments.layer_norms import layer_norms, training_bytes
from .instruments.one_one_norm import one_one_norm, relative_deviation, row_scales
from .instruments.opposing_signals import Toy, descend

Array = NDArray[np.float64]
close = np.testing.assert_allclose


def normal(*shape: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# Directional sharpness


def test_directional_sharpness_is_a_rayleigh_quotient() -> None:
    h, u = np.array([1.0, 100.0, 0.01]), normal(3)
    close(directional_sharpness(lambda v: [h * v[0]], [u]), h @ u**2 / (u @ u), rtol=1e-13)
    close(directional_sharpness(lambda v: [h * v[0]], [7 * u]), h @ u**2 / (u @ u), rtol=1e-13)
    H = normal(4, 4)
    H = H + H.T

    def hvp(v: list[Array]) -> list[Array]:
        out = H @ np.concatenate(v)
        return [out[:1], out[1:]]

    w, q = np.linalg.eigh(H)
    close(directional_sharpness(hvp, [q[:1, 0], q[1:, 0]]), w[0], rtol=1e-12)


def test_best_step_along_a_direction_is_exact_on_a_quadratic() -> None:
    h, x, u = np.array([1.0, 100.0, 0.01]), normal(3), normal(3, seed=6)
    sharpness, s = directional_sharpness(lambda v: [h * v[0]], [u]), slope([h * x], [u])
    eta, decrease = best_step(s, sharpness)
    v = u / np.linalg.norm(u)
    f = [0.5 * h @ (x + (eta + e) * v) ** 2 for e in (0, 1e-3, -1e-3)]
    close(0.5 * h @ x**2 - f[0], decrease, rtol=1e-10)
    assert f[0] < min(f[1:])


# (1,1)-norm


@pytest.mark.parametrize("how", ["median", "quartiles"])
def test_cauchy_draws_find_the_sum_of_magnitudes(how: Any) -> None:
    H = normal(50, 50)
    H = H + H.T
    draws = np.random.default_rng(0).standard_cauchy((20_001, 50))
    exact = np.abs(H).sum(axis=1)
    close(one_one_norm(lambda z: H @ z, draws, how), exact.sum(), rtol=0.02)
    rows = row_scales(lambda z: H @ z, draws, how)
    assert np.sqrt(np.mean((rows / exact - 1) ** 2)) < 1.3 * relative_deviation(20_001)


# Surge

MU, SIGMA = np.array([0.01, 0.02, 0.015, 0.03, 0.01, 0.02]), np.array([0.5, 0.4, 0.6, 0.5, 0.3, 0.7])
HESSIAN = np.abs(normal(6, 6)) + np.abs(normal(6, 6)).T + 3 * np.eye(6)


def test_surge_rises_as_the_root_peaks_near_the_noise_batch_and_falls_to_the_limit_of_signs() -> None:
    batches = 2.0 ** np.arange(24)
    rates = [surge.best_rate(MU, SIGMA, HESSIAN, B) for B in batches]
    peak = int(np.argmax(rates))
    noise = surge.noise_batch(MU, SIGMA, HESSIAN)
    assert 0.5 < batches[peak] / noise < 2
    assert np.all(np.diff(rates[: peak + 1]) > 0)
    assert np.all(np.diff(rates[peak:]) < 1e-12)
    close(rates[1] / rates[0], np.sqrt(2), rtol=0.01)
    close(rates[-1], np.sum(np.abs(MU)) / HESSIAN.sum(), rtol=1e-9)


def test_surge_law_is_the_limit_of_small_batches() -> None:
    noise, largest = surge.noise_batch(MU, SIGMA, HESSIAN), surge.largest_rate(MU, SIGMA, HESSIAN)
    close(surge.surge_rate(largest, noise, 1.0), surge.best_rate(MU, SIGMA, HESSIAN, 1.0), rtol=2e-3)
    close(surge.surge_gain(MU, SIGMA, HESSIAN, 1.0), surge.best_gain(MU, SIGMA, HESSIAN, 1.0), rtol=4e-3)
    close(surge.surge_rate(largest, noise, noise), largest, rtol=1e-14)
    close(surge.noise_batch_from_trade_off(3.0, 30.0, 2.0, 10.0), 5.0, rtol=1e-14)


def test_surge_s_rate_minimises_the_mean_over_drawn_signs() -> None:
    B, rng = 64, np.random.default_rng(0)
    signs = np.sign(MU + SIGMA / np.sqrt(B) * rng.normal(size=(400_000, 6)))
    first, second = np.mean(signs @ MU), np.mean(np.einsum("ni,ij,nj->n", signs, HESSIAN, signs))
    close(surge.best_rate(MU, SIGMA, HESSIAN, B), first / second, rtol=0.02)


def test_sgd_law_is_exact_and_monotone() -> None:
    B, rng = 64, np.random.default_rng(0)
    g = MU + SIGMA / np.sqrt(B) * rng.normal(size=(400_000, 6))
    best = np.mean(g @ MU) / np.mean(np.einsum("ni,ij,nj->n", g, HESSIAN, g))
    close(surge.sgd_best_rate(MU, SIGMA, HESSIAN, B), best, rtol=0.02)
    assert np.all(np.diff([surge.sgd_best_rate(MU, SIGMA, HESSIAN, B) for B in 2.0 ** np.arange(20)]) > 0)
    with pytest.raises(ValueError, match="peak"):
        surge.noise_batch(MU, SIGMA, np.eye(6) - 0.1)


# Opposing signals


def toy() -> Toy:
    beta = normal(20)
    return Toy(
        beta=2 * beta / np.linalg.norm(beta),
        u=np.eye(20)[0],
        alpha=50.0,
        p=0.02,
        b=0.01 * normal(20, seed=4),
        b_o=0.01 * normal(20, seed=5),
        c=0.1,
    )


def test_toy_s_gradient_and_hessian_are_those_of_its_loss() -> None:
    t = replace(toy(), b=normal(20, seed=4), b_o=normal(20, seed=5), c=0.7)
    beta, u = torch.tensor(t.beta), torch.tensor(t.u)

    def loss(x: torch.Tensor) -> torch.Tensor:
        b, b_o, c = x[:20], x[20:40], x[40]
        return 0.5 * ((c * b - beta) ** 2).sum() + 0.5 * t.alpha * (c * (b_o @ u)) ** 2 + t.alpha / 8

    x = torch.tensor(np.concatenate([t.b, t.b_o, [t.c]]), requires_grad=True)
    close(t.loss(), loss(x).item(), rtol=1e-13)
    (g,) = torch.autograd.grad(loss(x), x)
    b, b_o, c = t.gradient()
    close(np.concatenate([b, b_o, [c]]), g.numpy(), rtol=1e-10)
    close(t.hessian(), torch.autograd.functional.hessian(loss, x).numpy(), rtol=0, atol=1e-10)


def test_toy_s_population_loss_is_the_mean_over_its_samples() -> None:
    t, n = replace(toy(), b=normal(20, seed=4), b_o=0.3 * normal(20, seed=5), c=0.7), 400_000
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 20))
    a_o = np.where(rng.random(n) < t.p, np.sqrt(t.alpha / t.p) * rng.choice([-1.0, 1.0], n), 0)
    y = x @ t.beta + np.abs(a_o) / 2
    close(np.mean((t.c * (x @ t.b + a_o * t.lean) - y) ** 2) / 2, t.loss(), rtol=0.02)


def test_toy_sharpens_to_alpha_beta_or_is_thrown_back_at_the_edge_of_stability() -> None:
    slow, fast = descend(toy(), 0.005, 4000), descend(toy(), 0.03, 4000)
    assert slow[0].outlier_losses() == pytest.approx((312.5, 312.5), rel=0.1)
    close(slow[-1].sharpness(), 50 * 2, rtol=0.02)
    sharpness = [t.sharpness() for t in slow[::5]]
    assert max(sharpness) < 2 / 0.005
    excess = np.array([t.excess_loss() for t in slow])
    assert np.all(np.diff(excess) < 1e-12)
    sharpness = [t.sharpness() for t in fast[::5]]
    assert max(sharpness) > 2 / 0.03 > sharpness[-1]
    excess = np.array([t.excess_loss() for t in fast])
    spike = int(np.argmax(excess[50:])) + 50
    assert excess[spike] > 10 * excess[50:spike].min()
    plus, minus = fast[spike].outlier_losses()
    assert max(plus, minus) > 312.5 > min(plus, minus)


# Class imbalance


def test_the_flow_s_margin_solves_its_equation_and_is_what_descent_does() -> None:
    c, tau = 50, np.array([0.0, 1e-3, 1.0, 30.0, 1e6])
    a = class_imbalance.universal_margin(tau, c)
    close(np.expm1(a) + (c - 1) * a, c * tau, rtol=1e-11, atol=1e-15)
    d = 1e-4
    slope = (
        class_imbalance.universal_margin(np.array([1 + d]), c) - class_imbalance.universal_margin(np.array([1 - d]), c)
    ) / (2 * d)
    p = 1 / (1 + (c - 1) * np.exp(-a[2]))
    close(slope, c / (c - 1) * (1 - p), rtol=1e-6)
    pi = class_imbalance.zipf(30)
    losses = class_imbalance.gradient_descent_losses(pi, 0.02, 3000)
    close(losses, class_imbalance.gradient_flow_losses(pi, 60.0), rtol=0.01)
    signs = class_imbalance.gradient_descent_losses(pi, 0.01, 100, sign=True)
    close(signs, class_imbalance.sign_flow_losses(pi, 1.0), rtol=1e-9)
    assert losses[-1] > 5 * losses[0]


def test_losses_of_gradient_flow_fall_as_one_over_frequency_times_time() -> None:
    pi = class_imbalance.zipf(1000)
    for t in (1e7, 1e8):
        close(class_imbalance.gradient_flow_losses(pi, t) * pi * t, 999 / 1000, rtol=0.02)


def test_bins_hold_equal_numbers_of_samples_from_frequent_to_rare() -> None:
    counts = class_imbalance.imbalanced_counts(8)
    assert counts.sum() == 8 * 2**8
    assert len(counts) == 2**8 - 1
    of_class = class_imbalance.class_bins(counts, 8)
    close([counts[of_class == b].sum() for b in range(8)], 2**8)
    assert np.all(np.diff(of_class) >= 0)
    assert class_imbalance.class_bins(np.array([1, 90, 9]), 10).tolist() == [9, 4, 9]
    labels = np.repeat(np.arange(3), [1, 90, 9])
    losses = class_imbalance.bin_losses(np.repeat([1.0, 2, 3], [1, 90, 9]), labels, np.array([9, 4, 9]), 10)
    close(losses[[4, 9]], [2, 2.8])
    assert np.isnan(losses[0])


# FID and the toy saddle


def test_frechet_distance_of_commuting_gaussians_and_of_one_set_with_itself() -> None:
    q = np.linalg.qr(normal(6, 6))[0]
    s1, s2 = np.arange(1.0, 7), np.array([2.0, 0.1, 5, 1, 1, 9])
    m1, m2 = normal(6, seed=4), normal(6, seed=5)
    C1, C2 = (q * s1**2) @ q.T, (q * s2**2) @ q.T
    exact = np.sum((m1 - m2) ** 2) + np.sum((s1 - s2) ** 2)
    for way in (fid.root_trace_schur, fid.root_trace_symmetric):
        close(fid.frechet(m1, C1, m2, C2, way), exact, rtol=1e-10)
    x, y = normal(200, 6, seed=7) @ normal(6, 6), normal(300, 6, seed=8)
    close(fid.fid(x, x), 0, rtol=0, atol=1e-10)
    close(fid.fid(x, y, fid.root_trace_schur), fid.fid(x, y), rtol=1e-9)
    eigenvalues = np.linalg.eigvals(fid.moments(x)[1] @ fid.moments(y)[1])
    close(fid.root_trace_symmetric(fid.moments(x)[1], fid.moments(y)[1]), np.sqrt(eigenvalues.real).sum(), rtol=1e-9)
    close(fid.moments(x)[1], np.cov(x.T), rtol=1e-12)
    q = np.linalg.qr(normal(6, 6, seed=9))[0]
    close(fid.fid(x @ q, y @ q), fid.fid(x, y), rtol=1e-9)


def test_two_time_scales_find_the_saddle_and_a_fast_x_leaves_it() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20_000, 2))
    points = fid.two_time_scales(1.0, 2.0, 1e-4, 1e-2, 20_000, lambda t: (noise[t, 0], noise[t, 1]))
    assert np.abs(points[-1]).max() < 0.5
    quiet = fid.two_time_scales(1.0, 2.0, 1e-3, 1e-2, 3000)
    close(quiet[-1], 0, rtol=0, atol=1e-9)
    x = [abs(point[0]) for point in fid.two_time_scales(1e-8, 0.0, 0.0101, 0.0101, 200)]
    close(x[1] / x[0], 1.02, rtol=1e-9)
    close(fid.two_time_scales(1e-8, 0.0, 0.0099, 0.0099, 1)[1][0] / 1e-8, -0.98, rtol=1e-9)


# muP


def test_mup_is_standard_at_the_base_and_its_two_forms_of_the_output_agree() -> None:
    for optimizer in ("adam", "sgd"):
        for role in ("input", "hidden", "output"):
            assert mup.mup(role, optimizer, 64, 1.0, 1.0) == mup.Factors(1 / 64, 1.0)  # type: ignore[arg-type]
        two = mup.effective(mup.output_with_multiplier(optimizer, 256, 4.0), optimizer)  # type: ignore[arg-type]
        one = mup.mup("output", optimizer, 256, 4.0, 1.0)  # type: ignore[arg-type]
        close([two.variance, two.rate], [one.variance, one.rate], rtol=1e-14)
    assert mup.mup("hidden", "adam", 256, 4.0, 4.0).rate == 0.25
    assert mup.mup("hidden", "sgd", 256, 4.0, 4.0).rate == 1.0
    assert mup.mup("bias", "sgd", 256, 4.0, 4.0).rate == 4.0
    assert mup.attention_scale(64, 64) == pytest.approx(1 / 8)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_mup_keeps_the_change_of_features_and_outputs_across_widths(optimizer: Any) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 16, dtype=torch.float64), torch.randn(64, 1, dtype=torch.float64)

    def change(width: int, parametrisation: str) -> tuple[float, float]:
        r = width / 64 if parametrisation == "mup" else 1.0
        shapes = {"input": (width, 16, 1.0, r), "hidden": (width, width, r, r), "output": (1, width, r, 1.0)}
        generator, weights, rates = torch.Generator().manual_seed(1), [], []
        for role, (out, fan_in, r_in, r_out) in shapes.items():
            f = mup.mup(role, optimizer, fan_in, r_in, r_out)  # type: ignore[arg-type]
            draw = torch.randn(out, fan_in, generator=generator, dtype=torch.float64)
            weights.append((draw * f.variance**0.5).requires_grad_())
            rates.append(f.rate)

        def net() -> tuple[torch.Tensor, torch.Tensor]:
            hidden = torch.tanh(x @ weights[0].T) @ weights[1].T
            return hidden, torch.tanh(hidden) @ weights[2].T

        first_hidden, first_out = net()
        for _ in range(3):
            grads = torch.autograd.grad(((net()[1] - y) ** 2).mean(), weights)
            for w, g, rate in zip(weights, grads, rates, strict=True):
                w.data -= rate * (0.01 * g.sign() if optimizer == "adam" else 0.3 * g)
        hidden, out = net()
        return (hidden - first_hidden).abs().mean().item(), (out - first_out).abs().mean().item()

    flat = np.array([change(n, "mup") for n in (128, 512)])
    standard = np.array([change(n, "standard") for n in (128, 512)])
    close(flat[1, 0] / flat[0, 0], 1, rtol=0, atol=0.3)
    close(flat[1, 1] / flat[0, 1], 1, rtol=0, atol=0.3)
    grown = standard[1] / standard[0]
    assert grown[0] > (2 if optimizer == "adam" else 1.4)


# Layerwise norms


def test_layer_norms_join_the_tensors_of_a_layer() -> None:
    g = {"a": [np.array([3.0]), np.array([[4.0, 0.0], [0.0, 0.0]])], "b": [np.zeros(2)]}
    p = {"a": [np.array([10.0]), np.zeros((2, 2))], "b": [np.zeros(2)]}
    norms = layer_norms(g, p)
    assert norms["a"].norm == 5.0
    close(norms["a"].per_root_size, 5 / np.sqrt(5))
    assert norms["a"].relative == 0.5
    assert norms["b"].relative == 0.0
    total = np.sqrt(sum(n.norm**2 for n in norms.values()))
    close(total, 5.0)
    assert [training_bytes(o, 100, 10) for o in ("adamw", "momentum", "sgd")] == [1640, 1240, 840]


# Lenses


def flat(x: Any) -> Array:
    """All numbers of nested tuples, one after the other."""
    if isinstance(x, tuple):
        return np.concatenate([flat(part) for part in x]) if x else np.zeros(0)
    return np.ravel(x)


def random_lens(a: int, b: int, seed: int) -> lenses.Lens:
    """A lens between vectors that is no derivative of anything."""
    f, r, s = normal(b, a, seed=seed), normal(a, b, seed=seed + 1), normal(a, a, seed=seed + 2)
    return lenses.Lens(lambda x: np.sin(f @ x), lambda x, y: r @ y + np.cos(s @ x))


def test_composition_is_associative_and_has_identities_and_the_tensor_respects_it() -> None:
    f, g, h = random_lens(3, 4, 1), random_lens(4, 2, 11), random_lens(2, 5, 21)
    x, y = normal(3), normal(5, seed=6)
    left = lenses.compose(lenses.compose(f, g), h)
    right = lenses.compose(f, lenses.compose(g, h))
    close(left.fwd(x), right.fwd(x), rtol=0, atol=0)
    close(left.rev(x, y), right.rev(x, y), rtol=0, atol=0)
    for same in (lenses.compose(lenses.identity, f), lenses.compose(f, lenses.identity)):
        close(same.rev(x, y[:4]), f.rev(x, y[:4]), rtol=0, atol=0)
    one = lenses.compose(lenses.tensor(f, g), lenses.tensor(g, h))
    two = lenses.tensor(lenses.compose(f, g), lenses.compose(g, h))
    pair, back = (x, normal(4, seed=7)), (normal(2, seed=8), y)
    close(flat(one.fwd(pair)), flat(two.fwd(pair)), rtol=0, atol=0)
    close(flat(one.rev(pair, back)), flat(two.rev(pair, back)), rtol=0, atol=0)


def dense_net() -> tuple[lenses.Lens, Any, list[Array]]:
    """Two dense layers with tanh between; the lens, its nested parameters, the same in order."""
    W1, b1, W2, b2 = normal(5, 4, seed=1), normal(5, seed=2), normal(3, 5, seed=3), normal(3, seed=4)
    net, p = lenses.linear, W1
    parts = [(lenses.bias, b1), (lenses.unparametrised(lenses.tanh), ()), (lenses.linear, W2), (lenses.bias, b2)]
    nested: Any = p
    for part, q in parts:
        net, nested = lenses.compose_parametric(net, part), (q, nested)
    return net, nested, [W1, b1, W2, b2]


def test_gradients_of_a_dense_net_are_autograd_s() -> None:
    net, p, tensors = dense_net()
    x, y = normal(6, 4, seed=5), np.eye(3)[[0, 1, 2, 0, 1, 2]]
    whole = lenses.compose(lenses.tensor(net, lenses.identity), lenses.cross_entropy)
    (dp, dx), _ = whole.rev(((p, x), y), 1.0)
    W1, b1, W2, b2 = (torch.tensor(t, requires_grad=True) for t in tensors)
    inputs = torch.tensor(x, requires_grad=True)
    out = torch.tanh(inputs @ W1.T + b1) @ W2.T + b2
    loss = torch.nn.functional.cross_entropy(out, torch.tensor(y.argmax(axis=1)), reduction="sum")
    loss.backward()
    close(whole.fwd(((p, x), y)), loss.item(), rtol=1e-12)
    (db2, (dW2, ((), (db1, dW1)))) = dp
    for mine, theirs in zip((dW1, db1, dW2, db2, dx), (W1, b1, W2, b2, inputs), strict=True):
        assert theirs.grad is not None
        close(mine, theirs.grad.numpy(), rtol=0, atol=1e-10)


def test_gradients_of_a_convolution_are_autograd_s() -> None:
    kernel, images = normal(4, 3, 3, 2, seed=1), normal(2, 3, 6, 5, seed=2)
    k, i = torch.tensor(kernel, requires_grad=True), torch.tensor(images, requires_grad=True)
    out = torch.nn.functional.conv2d(k.new_tensor(images) * 0 + i, k)
    y = normal(*out.shape, seed=3)
    out.backward(torch.tensor(y))
    close(lenses.correlate.fwd((kernel, images)), out.detach().numpy(), rtol=0, atol=1e-12)
    for mine, theirs in zip(lenses.correlate.rev((kernel, images), y), (k, i), strict=True):
        assert theirs.grad is not None
        close(mine, theirs.grad.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["descent", "momentum", "nesterov", "adagrad", "adam"])
def test_update_lenses_follow_torch(name: str) -> None:
    W, x, y = normal(3, 4), normal(8, 4, seed=5), normal(8, 3, seed=6)
    zero = np.zeros_like(W)
    update, state, eta = {
        "descent": (lenses.descent, (), 0.02),
        "momentum": (lenses.momentum(0.9), zero, 0.02),
        "nesterov": (lenses.nesterov(0.9), zero, 0.02),
        "adagrad": (lenses.adagrad(0.0, rate=0.02), zero, 1.0),
        "adam": (lenses.adam(rate=0.02), (zero, zero, 0), 1.0),
    }[name]
    learner = lenses.learner(update, lenses.linear, lenses.mse, lenses.cap(eta))
    w = torch.nn.Parameter(torch.tensor(W))
    theirs: torch.optim.Optimizer = {
        "descent": lambda: torch.optim.SGD([w], 0.02),
        "momentum": lambda: torch.optim.SGD([w], 0.02, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD([w], 0.02, momentum=0.9, nesterov=True),
        "adagrad": lambda: torch.optim.Adagrad([w], 0.02, eps=0.0),
        "adam": lambda: torch.optim.Adam([w], 0.02),
    }[name]()
    p = W
    for _ in range(50):
        state, p = lenses.step(learner, state, p, x, y)
        theirs.zero_grad()
        (0.5 * ((torch.tensor(x) @ w.T - torch.tensor(y)) ** 2).sum()).backward()
        theirs.step()
        # torch's Nesterov keeps the point that is looked at
        looked_at = p + 0.9 * state if name == "nesterov" else p
        close(looked_at, w.detach().numpy(), rtol=0, atol=1e-11)
    assert np.abs(p - W).max() > 0.1


def test_a_lookup_table_is_learned_bit_by_bit() -> None:
    target = np.random.default_rng(0).integers(0, 2, 16).astype(bool)
    learner = lenses.learner(lenses.xor, lenses.lookup, lenses.boolean_difference, lenses.boolean_cap)
    p: Any = np.zeros(16, bool)
    for address in range(16):
        _, p = lenses.step(learner, (), p, np.arange(16) == address, target[address])
    assert np.array_equal(p, target)


def test_dreaming_changes_the_input_alone() -> None:
    W, x, y = normal(3, 4), normal(1, 4, seed=5), np.array([[0.0, 1.0, 0.0]])
    dream = lenses.dream(lenses.descent, lenses.linear, lenses.cross_entropy, lenses.cap(0.1))
    losses = []
    for _ in range(50):
        losses.append(lenses.cross_entropy.fwd((lenses.linear.fwd((W, x)), y)))
        (_, (_, x)), _ = dream.rev(((W, ((), x)), y), ())
    assert losses[-1] < 0.1 * losses[0]
