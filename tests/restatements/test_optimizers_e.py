"""The restatements of preconditioned, parameter-free and theory's optimizers against closed forms and identities."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit

from .optimizers import adafisher, nino
from .optimizers.adafisher import AdaFisher, AdaFisherW
from .optimizers.adahessian import AdaHessian, spatial_average
from .optimizers.blockwise_adam import AdaSGD, BlockwiseAdam, Turned, rotated_adam
from .optimizers.clipping import ClippedAdam, ClippedSGD, clip, threshold
from .optimizers.d_adaptation import DAdaptAdam, DAdaptSGD, DualAveraging
from .optimizers.dog import DoG, LDoG, PolynomialAverage
from .optimizers.generalized_smooth import Adam, RMSProp, scaling
from .optimizers.momo import MoMo, MoMoAdam
from .optimizers.sania import SANIA
from .optimizers.soap import SOAP, Shampoo

Array = NDArray[np.float64]
close = np.testing.assert_allclose


def normal(*shape: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(n: int, seed: int) -> Array:
    return np.asarray(np.linalg.qr(normal(n, n, seed=seed))[0])


def adam(p: Array, grads: Sequence[Array], lr: float, betas=(0.9, 0.999), eps=1e-8) -> Array:
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


# SOAP and Shampoo


@pytest.mark.parametrize("frequency", [1, 7])
def test_soap_turns_with_the_weights_and_adam_does_not(frequency: int) -> None:
    left, right, w = orthogonal(6, 1), orthogonal(6, 2), normal(6, 6)

    def gradient(t: int, w: Array) -> Array:
        a, b = normal(9, 6, seed=100 + t), normal(9, 6, seed=200 + t)
        return a.T @ (a @ w - b)

    plain, other = SOAP([w], lr=0.01, frequency=frequency), SOAP([left @ w @ right], lr=0.01, frequency=frequency)
    for t in range(60):
        plain.step([gradient(t, plain.params[0])])
        other.step([left @ gradient(t, left.T @ other.params[0] @ right.T) @ right])
    assert np.linalg.norm(plain.params[0] - w) > 0.5
    close(other.params[0], left @ plain.params[0] @ right, rtol=0, atol=1e-9)
    gs = [gradient(t, w) for t in range(2)]
    gap = adam(left @ w @ right, [left @ g @ right for g in gs], 0.1) - left @ adam(w, gs, 0.1) @ right
    assert np.abs(gap).max() > 0.01


@pytest.mark.parametrize(("shape", "max_dim"), [((5, 3), 0), ((4,), 10000), ((), 10000)])
def test_soap_without_a_basis_is_adamw_one_gradient_later(shape: tuple[int, ...], max_dim: int) -> None:
    p, gs, betas, eps = normal(*shape), normal(20, *shape, seed=6), (0.9, 0.99), 1e-6
    opt = SOAP([p], lr=0.1, betas=betas, eps=eps, weight_decay=0.3, max_dim=max_dim)
    opt.step([gs[0]])
    close(opt.params[0], p, rtol=0, atol=0)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gs[1:], 1):
        opt.step([g])
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        p = p - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + eps / np.sqrt(1 - 0.99**t))
        p = p - 0.1 * 0.3 * p
    close(opt.params[0], p, rtol=0, atol=1e-13)


def test_soap_learns_the_eigenvectors_by_power_iteration() -> None:
    left, right = orthogonal(5, 1), orthogonal(4, 2)
    scales = np.outer([5.0, 4, 3, 2, 1], [4.0, 3, 2, 1])
    opt = SOAP([np.zeros((5, 4))], betas=(0.9, 0.999), frequency=1)
    for t in range(1000):
        opt.step([left @ (scales * normal(5, 4, seed=t)) @ right.T])
    exact = np.linalg.eigh(opt.factors[0][0])[1][:, ::-1]
    close(np.abs(left.T @ opt.q[0][0]), np.eye(5), rtol=0, atol=0.1)
    close(np.abs(exact.T @ opt.q[0][0]), np.eye(5), rtol=0, atol=0.01)


def test_soap_permutes_v_and_does_not_turn_it() -> None:
    opt = SOAP([np.zeros((2, 2))], frequency=1, betas=(0.0, 0.5), bases=[[np.eye(2), np.eye(2)]])
    opt.step([np.diag([2.0, 1.0])])
    opt.step([np.diag([1.0, 9.0])])
    assert opt.q[0] is not None
    close(np.abs(opt.q[0][0]), [[0, 1], [1, 0]], rtol=0, atol=1e-15)
    close(opt.v[0], np.diag([40.5, 0.5]), rtol=0, atol=1e-15)


def test_shampoo_is_adagrad_on_a_diagonal_matrix() -> None:
    opt, d, s = Shampoo([np.zeros((3, 3))], lr=0.1, eps=1e-3), np.zeros(3), np.full(3, 1e-3)
    for g in normal(20, 3, seed=6):
        opt.step([np.diag(g)])
        s = s + g**2
        d = d - 0.1 * g / np.sqrt(s)
    close(opt.params[0], np.diag(d), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_shampoo_is_a_kronecker_product_of_roots(shape: tuple[int, ...]) -> None:
    gs, eps, k = normal(3, *shape, seed=6), 1e-2, len(shape)
    opt = Shampoo([np.zeros(shape)], lr=1.0, eps=eps)
    for g in gs:
        before = opt.params[0]
        opt.step([g])
    product = np.eye(1)
    for axis, n in enumerate(shape):
        factor = eps * np.eye(n)
        for g in gs:
            rest = [other for other in range(k) if other != axis]
            factor = factor + np.tensordot(g, g, axes=(rest, rest))
        product = np.kron(product, factor)
    w, q = np.linalg.eigh(product)
    step = (q * w ** (-1 / (2 * k))) @ q.T @ gs[-1].ravel()
    close((before - opt.params[0]).ravel(), step, rtol=1e-10)


def test_shampoo_as_moving_average_starts_from_nothing_and_adds_eps_at_the_root() -> None:
    g = normal(4, seed=6)
    opt = Shampoo([np.zeros(4)], lr=1.0, eps=1e-2, beta2=0.9, vectors="diagonal")
    opt.step([g])
    close(opt.params[0], -g / np.sqrt(0.1 * g**2 + 1e-2), rtol=1e-12)


# AdaHessian


def test_adahessian_lands_on_the_minimum_of_a_separable_quadratic_at_once() -> None:
    h, x = np.array([1e-3, 1.0, 1e4]), normal(3)
    z = np.array([1.0, -1.0, -1.0])
    opt = AdaHessian([x], lr=1.0, betas=(0.0, 0.999), eps=0.0)
    opt.step([h * x], [z * h * z])
    close(opt.params[0], 0, rtol=0, atol=1e-14)
    same = AdaHessian([x], lr=1.0, betas=(0.0, 0.999), eps=0.0)
    same.step([h * x], [h * z])
    close(same.params[0], opt.params[0], rtol=0, atol=0)


def test_adahessian_averages_magnitudes_over_a_window_before_it_squares() -> None:
    h = normal(2, 3, 2, 2)
    close(spatial_average(h)[1, 2], np.abs(h[1, 2]).mean(), rtol=1e-14)
    close(spatial_average(h[0, 0]), np.abs(h[0, 0]), rtol=0, atol=0)
    close(spatial_average(h[0, 0], rows=True)[1], np.abs(h[0, 0, 1]).mean(), rtol=1e-14)
    opt = AdaHessian([np.zeros((1, 1, 1, 2))], lr=1.0)
    opt.step([np.ones((1, 1, 1, 2))], [np.array([[[[3.0, -1.0]]]])])
    close(opt.params[0], -1 / (2 + 1e-4), rtol=1e-12)


def test_adahessian_with_power_zero_is_momentum_and_decays_apart() -> None:
    p, gs = normal(4), normal(10, 4, seed=6)
    opt, m, q = AdaHessian([p], lr=0.1, eps=0.0, power=0.0, weight_decay=0.2), np.zeros(4), p
    for t, g in enumerate(gs, 1):
        opt.step([g], [g])
        m = 0.9 * m + 0.1 * g
        q = q - 0.1 * (m / (1 - 0.9**t) + 0.2 * q)
    close(opt.params[0], q, rtol=0, atol=1e-14)


def test_adahessian_is_adam_when_the_products_are_the_gradients() -> None:
    p, gs = normal(4), normal(10, 4, seed=6)
    opt = AdaHessian([p], lr=0.1, eps=1e-3)
    for g in gs:
        opt.step([g], [g])
    close(opt.params[0], adam(p, gs, 0.1, eps=1e-3), rtol=0, atol=1e-14)


# AdaFisher


def test_adafisher_of_one_sample_has_the_squared_gradient_for_its_factors() -> None:
    h, s = normal(1, 4), normal(1, 3, seed=6)
    H, S = adafisher.linear_factors(h, s)
    close(np.outer(S, H), np.hstack([s.T @ h, s.T]) ** 2, rtol=1e-14)


@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0)), ((2, 1), (1, 2))])
def test_adafisher_windows_are_ordered_as_the_weights(stride: tuple[int, int], padding: tuple[int, int]) -> None:
    h = torch.tensor(normal(2, 3, 6, 5))
    conv = torch.nn.Conv2d(3, 4, (3, 2), stride, padding, dtype=torch.float64)
    out = conv(h)
    s = torch.tensor(normal(*out.shape, seed=6))
    (out * s).sum().backward()
    rows = adafisher.with_one(adafisher.windows(h.numpy(), (3, 2), stride, padding), True)
    # `windows` lists position by position, each with the whole batch
    outs = s.permute(2, 3, 0, 1).reshape(-1, 4).numpy()
    gradient = outs.T @ rows
    assert conv.weight.grad is not None
    assert conv.bias is not None
    assert conv.bias.grad is not None
    close(gradient[:, :-1].reshape(4, 3, 3, 2), conv.weight.grad.numpy(), rtol=0, atol=1e-12)
    close(gradient[:, -1], conv.bias.grad.numpy(), rtol=0, atol=1e-12)
    H, S = adafisher.conv_factors(h.numpy(), s.numpy(), (3, 2), stride, padding)
    close(H, np.mean(rows**2, axis=0), rtol=1e-14)
    close(S, np.mean(outs**2, axis=0), rtol=1e-14)


def test_adafisher_fisher_is_the_outer_product_of_running_factors() -> None:
    h, s = normal(8, 4), normal(8, 3, seed=6)
    opt = AdaFisher([np.zeros((3, 4)), np.zeros(3), np.zeros(2)], {"layer": (0, 1)}, t_cov=2)
    grads = [np.ones((3, 4)), np.ones(3), np.ones(2)]
    measured = adafisher.linear_factors(h, s)
    opt.step(grads, {"layer": measured})
    H, S = (0.08 + 0.008 * (x - x.min()) / (x.max() - x.min() + 1e-6) for x in measured)
    close(opt.fisher[0], S[:, None] * H[None, :4] + 1e-3, rtol=1e-13)
    close(opt.fisher[1], S * H[4] + 1e-3, rtol=1e-13)
    close(opt.params[2], -1e-3, rtol=1e-13)
    close(opt.params[1], -1e-3 / opt.fisher[1], rtol=1e-13)
    opt.step(grads)
    with pytest.raises(ValueError, match="measured"):
        opt.step(grads)


@pytest.mark.parametrize("kind", [AdaFisher, AdaFisherW])
def test_adafisher_with_huge_damping_is_momentum_sgd(kind: type[AdaFisher]) -> None:
    p, gs, lam = normal(3, 4), normal(10, 3, 4, seed=6), 1e9
    opt = kind([p], {"layer": (0, None)}, lr=0.1 * lam, lam=lam, t_cov=100)
    m, q = np.zeros((3, 4)), p
    for t, g in enumerate(gs):
        opt.step([g], {"layer": adafisher.linear_factors(normal(8, 4), normal(8, 3), bias=False)} if t == 0 else None)
        m = 0.9 * m + 0.1 * g
        q = q - 0.1 * m / (1 - 0.9 ** (t + 1))
    close(opt.params[0], q, rtol=0, atol=1e-8)


def test_adafisher_decays_through_the_gradient_and_adafisherw_apart() -> None:
    p, g = normal(2), normal(2, seed=6)
    coupled, apart = AdaFisher([p], {}, lr=0.1, weight_decay=0.5), AdaFisherW([p], {}, lr=0.1, weight_decay=0.5)
    for opt in (coupled, apart):
        opt.fisher = [np.full(2, 4.0)]
        opt.step([g], {})
    close(coupled.params[0], p - 0.1 * (g + 0.5 * p) / 4, rtol=1e-13)
    close(apart.params[0], p - 0.1 * (g / 4 + 0.5 * p), rtol=1e-13)


def test_adafisher_norm_factors_on_constant_inputs() -> None:
    h, s = np.full((4, 3, 2, 5), 2.0), normal(4, 3, 2, 5)
    H, S = adafisher.batch_norm_factors(h, s)
    close(H, [3 * (2 * 4 * 10 / 100) ** 2 / 16, 3 / 16], rtol=1e-13)
    close(S, s.sum(axis=(0, 2, 3)) ** 2 / 4, rtol=1e-13)
    H, S = adafisher.layer_norm_factors(np.full((4, 7, 5), 2.0), normal(4, 7, 5))
    close(H, [7 * (2 * 4 * 5 / 25) ** 2 / 16, 7 / 16], rtol=1e-13)
    close(S, normal(4, 7, 5).sum(axis=(0, 1)) ** 2 / 4, rtol=1e-13)


# Coordinate-wise clipping


def test_clipping_has_one_threshold_for_all_tensors() -> None:
    grads = [np.array([5.0, -4.0, 0.1]), np.array([[-3.0, 2.0], [1.0, 0.0]])]
    assert threshold(grads, 0.3) == 3.0
    a, b = clip(grads, 0.3)
    close(a, [3, -3, 0.1], rtol=0, atol=0)
    close(b, [[-3, 2], [1, 0]], rtol=0, atol=0)


def test_clipping_none_and_all() -> None:
    g = normal(10)
    close(clip([g], 0.0)[0], g, rtol=0, atol=0)
    close(clip([g], 1.0)[0], np.abs(g).min() * np.sign(g), rtol=1e-15)
    for rho in (0.1, 0.25, 0.5):
        assert np.sum(np.abs(g) > threshold([g], rho)) == int(10 * rho)


def test_clipping_commutes_with_scale_and_signs() -> None:
    g, signs = normal(30), np.sign(normal(30, seed=6))
    close(clip([7 * signs * g], 0.2)[0], 7 * signs * clip([g], 0.2)[0], rtol=1e-15)


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_clipped_sgd_is_sgd_and_clipped_adam_is_adam_of_clipped_gradients(rho: float) -> None:
    p, gs = normal(20), normal(8, 20, seed=6)
    sgd, opt, q, b = ClippedSGD([p], lr=0.1, rho=rho), ClippedAdam([p], lr=0.1, rho=rho), p, np.zeros(20)
    m, v, x = np.zeros(20), np.zeros(20), p
    for t, g in enumerate(gs, 1):
        sgd.step([g])
        opt.step([g])
        c = np.sort(np.abs(g))[::-1][6] if rho else np.inf
        b = 0.9 * b + np.clip(g, -c, c)
        q = q - 0.1 * b
        m, v = 0.9 * m + 0.1 * np.clip(g, -c, c), 0.999 * v + 0.001 * g**2
        x = x - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    close(sgd.params[0], q, rtol=0, atol=1e-14)
    close(opt.params[0], x, rtol=0, atol=1e-14)


# DoG, L-DoG, polynomial average


def noisy_gradients(opt, h: Array, steps: int, scale: float = 1.0) -> list[Array]:
    """Feed an optimizer of one vector the gradients of a quadratic with noise; returns its points."""
    points = []
    for t in range(steps):
        opt.step([scale * (h * opt.params[0] + 0.1 * normal(len(h), seed=t))])
        points.append(opt.params[0])
    return points


@pytest.mark.parametrize("kind", [DoG, LDoG])
def test_dog_does_not_see_the_scale_of_the_loss(kind: type[DoG]) -> None:
    h, x = np.array([1.0, 10.0, 0.1]), normal(3)
    plain = noisy_gradients(kind([x], eps=0.0), h, 200)
    scaled = noisy_gradients(kind([x], eps=0.0), h, 200, scale=1000.0)
    close(scaled, plain, rtol=1e-10)
    assert np.abs(plain[-1] - x).max() > 0.1


def test_dog_first_step_goes_the_stated_way() -> None:
    x, g = [np.array([3.0]), np.array([4.0])], [np.array([0.6]), np.array([0.8])]
    opt = DoG(x, r_rel=0.01, eps=0.0)
    opt.step(g)
    close(np.concatenate(opt.params), [3 - 0.06 * 0.6, 4 - 0.06 * 0.8], rtol=1e-14)
    opt.step(g)
    close(opt.eta[0], 0.06 / np.sqrt(2), rtol=1e-13)
    layered = LDoG(x, r_rel=0.01, eps=0.0)
    layered.step(g)
    close(np.concatenate(layered.params), [3 - 0.04, 4 - 0.05], rtol=1e-14)


def test_ldog_is_dog_for_each_tensor_and_dog_the_same_for_any_cut() -> None:
    x, gs = normal(2, 3), normal(30, 2, 3, seed=6)
    layered, alone = LDoG(list(x), r_rel=0.1), [DoG([row], r_rel=0.1) for row in x]
    cut, whole = DoG(list(x), r_rel=0.1, weight_decay=0.1), DoG([x], r_rel=0.1, weight_decay=0.1)
    for g in gs:
        layered.step(list(g))
        cut.step(list(g))
        whole.step([g])
        for one, row in zip(alone, g, strict=True):
            one.step([row])
    close(layered.params, [one.params[0] for one in alone], rtol=0, atol=0)
    close(cut.params, whole.params[0], rtol=1e-12)


def test_polynomial_average_has_its_closed_form_weights() -> None:
    average, points = PolynomialAverage(gamma=1.0), normal(7, 2)
    for p in points:
        average.update([p])
    weights = np.arange(1.0, 8) / 28  # gamma = 1: proportional to t
    close(average.average[0], weights @ points, rtol=1e-13)
    average = PolynomialAverage(gamma=0.0)
    for p in points:
        average.update([p])
    close(average.average[0], points.mean(axis=0), rtol=1e-12)


# MoMo


def test_momo_without_momentum_and_cap_is_the_polyak_step() -> None:
    h, x = np.array([1.0, 10.0, 0.1]), normal(3)
    opt = MoMo([x], beta=0.0, lr=np.inf)
    for _ in range(20):
        x = opt.params[0]
        f, g = 0.5 * h @ x**2 + 0.3, h * x
        opt.lower_bound = 0.3
        opt.step([g], f)
        close(opt.params[0], x - (f - 0.3) / (g @ g) * g, rtol=1e-12)


def test_momo_below_its_cap_is_sgd_with_momentum_and_proximal_decay() -> None:
    x, gs = normal(3), normal(10, 3, seed=6)
    opt, q, d = MoMo([x], lr=1e-3, weight_decay=0.5), x, gs[0]
    for g in gs:
        opt.step([g], 100.0)
        d = 0.9 * d + 0.1 * g
        q = (q - 1e-3 * d) / (1 + 1e-3 * 0.5)
    assert opt.tau == 1e-3
    close(opt.params[0], q, rtol=1e-12)


def test_momo_adam_below_its_cap_is_adam() -> None:
    x, gs = normal(3), normal(10, 3, seed=6)
    opt = MoMoAdam([x], lr=1e-3)
    for g in gs:
        opt.step([g], 100.0)
    close(opt.params[0], adam(x, gs, 1e-3), rtol=1e-12)


@pytest.mark.parametrize("lr", [0.1, 1.0, 100.0])
def test_momo_solves_interpolating_least_squares_for_any_large_cap(lr: float) -> None:
    a = normal(300, 50)
    b = a @ normal(50, seed=6)
    opt, rng = MoMo([np.zeros(50)], lr=lr), np.random.default_rng(0)
    for _ in range(400):
        rows = rng.integers(0, 300, 20)
        r = a[rows] @ opt.params[0] - b[rows]
        opt.step([a[rows].T @ r / 20], float(r @ r) / 40)
    assert np.mean((a @ opt.params[0] - b) ** 2) / 2 < 1e-6


def test_momo_steps_to_the_zero_of_its_model_and_estimates_half_of_the_way() -> None:
    x, g = normal(3), normal(3, seed=6)
    opt = MoMo([x], lr=1e9)
    opt.step([g], 2.0)
    close(2.0 + g @ (opt.params[0] - x), 0.0, rtol=0, atol=1e-12)
    opt = MoMo([x], lr=0.1, estimate=True, lower_bound=-5.0)
    opt.step([g], 2.0)
    close(opt.lower_bound, 2.0 - 0.05 * (g @ g), rtol=1e-12)
    opt = MoMo([x], lr=1e9, estimate=True, lower_bound=3.0)  # above the loss: kept, nothing moves
    opt.step([g], 2.0)
    assert opt.lower_bound == 3.0
    assert opt.tau == 0.0


# D-Adaptation


def test_d_never_exceeds_the_distance_and_the_value_is_near_that_of_the_true_distance() -> None:
    a, solution = normal(60, 10), 5 * normal(10, seed=6)
    b, m = a @ solution, 60

    def run(d0: float, adapt: bool) -> tuple[float, float]:
        opt = DualAveraging(np.zeros(10), d0=d0, adapt=adapt)
        for _ in range(10_000):
            opt.step(a.T @ np.sign(a @ opt.x - b) / m)
            assert opt.d <= np.linalg.norm(solution) * (1 + 1e-12)
        return float(np.abs(a @ opt.output - b).mean()), opt.d

    known, _ = run(float(np.linalg.norm(solution)), adapt=False)
    for d0 in (1e-4, 1e-2):
        value, d = run(d0, adapt=True)
        assert value < 1.5 * known
        assert d > 0.1 * np.linalg.norm(solution)


def test_d_adaptation_first_steps_in_closed_form() -> None:
    x, g = normal(3), normal(3, seed=6)
    sgd, opt, dual = DAdaptSGD([x], d0=0.1), DAdaptAdam([x], d0=0.1, eps=1e-15), DualAveraging(x, d0=0.1)
    sgd.step([g])
    close(sgd.params[0], x - 0.1 * g / np.linalg.norm(g), rtol=1e-12)
    opt.step([g])
    close(opt.params[0], x - 0.1 * 0.1 / np.sqrt(0.001) * np.sign(g), rtol=1e-12)
    dual.step(g)
    close(dual.x, x - 0.1 * g / np.linalg.norm(g), rtol=1e-12)
    for method in (sgd, opt, dual):
        assert method.d == 0.1
    sgd.step([g])  # num = lam^2 |g|^2, s = 2 lam g, lam = 0.1 / |g|: dhat = 0.1
    close(sgd.d, 0.1, rtol=1e-12)
    sgd.step([g])  # num = 3 lam^2 |g|^2, s = 3 lam g: dhat = 0.2
    close(sgd.d, 0.2, rtol=1e-12)


def test_d_adapted_sgd_with_constant_d_is_sgd_and_adam_is_adam_with_the_step_inside_the_momentum() -> None:
    x, gs = normal(3), normal(10, 3, seed=6)
    sgd, opt = DAdaptSGD([x], d0=0.5, growth=1.0), DAdaptAdam([x], d0=0.01, growth=1.0, bias_correction=True)
    for g in gs:
        sgd.step([g])
        opt.step([g])
    close(sgd.params[0], x - 0.5 / np.linalg.norm(gs[0]) * gs.sum(axis=0), rtol=1e-12)
    m, v, q = np.zeros(3), np.zeros(3), x
    for t, g in enumerate(gs, 1):
        lam = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        m, v = 0.9 * m + 0.1 * lam * g, 0.999 * v + 0.001 * g**2
        q = q - m / (np.sqrt(v) + 1e-8)
    close(opt.params[0], q, rtol=1e-12)
    assert (sgd.d, opt.d) == (0.5, 0.01)


# SANIA


def logistic(x: Array, y: Array, w: Array) -> tuple[float, Array]:
    margin = y * (x @ w)
    return float(np.mean(np.logaddexp(0, -margin))), -x.T @ (y * expit(-margin)) / len(y)


@pytest.mark.parametrize("kind", ["adagrad_sqr", "adam_sqr"])
def test_sania_without_roots_does_not_see_the_scale_of_the_features(kind) -> None:
    draw = np.random.default_rng(0)
    x, scale = draw.normal(size=(500, 20)), np.exp(draw.uniform(-6, 6, 20))
    y = np.sign(x @ draw.normal(size=20))

    def losses(features: Array) -> list[float]:
        opt, rng, out = SANIA([np.zeros(20)], kind, eps=0.0), np.random.default_rng(0), []
        for _ in range(300):
            rows = rng.integers(0, 500, 32)
            f, g = logistic(features[rows], y[rows], opt.params[0])
            opt.step([g], f)
            out.append(logistic(features, y, opt.params[0])[0])
        return out

    plain = losses(x)
    close(losses(x * scale), plain, rtol=0, atol=1e-10)
    assert plain[-1] < 0.05


def test_sania_steps_solve_the_second_order_polyak_model() -> None:
    for kind, b in (("adagrad", lambda g: np.abs(g)), ("adam", lambda g: np.abs(g)), ("adagrad_sqr", lambda g: g**2)):
        x, g = normal(4), normal(4, seed=6)
        opt = SANIA([x], kind, eps=0.0)  # type: ignore[arg-type]
        opt.step([g], 0.3)
        u = opt.params[0] - x
        close(0.3 + g @ u + 0.5 * u @ (b(g) * u), 0.0, rtol=0, atol=1e-12)
        assert 0 < opt.lam < 1


def test_sania_newton_and_hutchinson_reach_the_minimum_of_a_quadratic_at_once() -> None:
    x, h = normal(4), np.array([1.0, 1e4, 1e-2, 3.0])
    f = 0.5 * h @ x**2
    z = np.array([1.0, -1.0, 1.0, -1.0])
    opt = SANIA([x], "hutchinson", eps=0.0)
    opt.step([h * x], f * (1 + 1e-12), products=[z * h * z])
    close(opt.params[0], 0, rtol=0, atol=1e-5)
    a = normal(6, 4, seed=8)
    hessian = a.T @ a
    opt = SANIA([x[:2], x[2:]], "newton")
    g = hessian @ x
    opt.step([g[:2], g[2:]], 0.5 * x @ g * (1 + 1e-12), hessian=hessian)
    close(np.concatenate(opt.params), 0, rtol=0, atol=1e-5)


def test_sania_newton_does_not_see_any_linear_change_of_coordinates() -> None:
    x, y, change = normal(40, 4), np.sign(normal(40, seed=6)), normal(4, 4, seed=7)

    def run(features: Array) -> list[float]:
        opt, out = SANIA([np.zeros(4)], "newton"), []
        for _ in range(8):
            f, g = logistic(features, y, opt.params[0])
            p = 1 / (1 + np.exp(-features @ opt.params[0]))
            opt.step([g], f, hessian=(features.T * (p * (1 - p))) @ features / len(y))
            out.append(f)
        return out

    close(run(x @ change), run(x), rtol=1e-8)


def test_sania_floor_is_under_the_root() -> None:
    opt = SANIA([np.zeros(1)], "adam", eps=0.25)
    opt.step([np.array([0.1])], 1.0)
    close(opt.params[0], -0.1 / 0.5, rtol=1e-12)
    assert opt.lam == 1.0


# NiNo


def test_nino_horizons_are_those_of_the_paper() -> None:
    assert nino.horizons(40, 10_000, 1000) == [40, 33, 26, 21, 16, 11, 8, 5, 3, 1]
    assert nino.horizons(40, 500, 1000) == [40]


def test_nino_scales_have_mean_zero_and_deviation_one_over_entries_and_states() -> None:
    states = [[3 + 2 * normal(4, 3, seed=t), normal(5, seed=10 + t)] for t in range(5)]
    out, scales = nino.scaled(states)
    for i in range(2):
        entries = np.stack([state[i] for state in out])
        close(entries.mean(), 0, rtol=0, atol=1e-14)
        close(entries.std(ddof=1), 1, rtol=2e-6)
    for new, old in zip(nino.unscaled(out[-1], scales), states[-1], strict=True):
        close(new, old, rtol=1e-13)


def test_nino_jumps_at_the_end_of_a_period_and_a_forecast_of_zero_changes_nothing() -> None:
    seen: list[list[float]] = []

    def forecast(states: list[list[Array]], k: int) -> list[Array]:
        seen.append([float(state[0][0]) for state in states])
        return [np.zeros_like(x) for x in states[-1]]

    opt = nino.NiNo([np.zeros(3)], forecast, total_steps=200, period=50)
    for _ in range(230):
        opt.step(lambda params: [p + 1 for p in params])
    assert opt.jumps == [(50, 40), (100, 21), (150, 8), (200, 1)]
    close(opt.params[0], 226, rtol=1e-12)
    spacing = np.diff(seen[0])
    close(spacing, spacing[0], rtol=1e-12)
    assert len(seen[0]) == 5


def test_nino_sees_weights_before_the_steps_and_extrapolates_a_line_exactly() -> None:
    def forecast(states: list[list[Array]], k: int) -> list[Array]:
        return nino.linear_extrapolation(states, k / 10)

    opt = nino.NiNo([np.zeros(2)], forecast, total_steps=50, period=50)
    for _ in range(50):
        opt.step(lambda params: [p + np.array([1.0, -2.0]) for p in params])
    close(opt.params[0], [49 + 40, -2 * (49 + 40)], rtol=1e-12)  # 49 base steps, then 40 steps ahead


# AdaSGD, blockwise and turned Adam


def test_blockwise_adam_lies_between_adam_and_adasgd() -> None:
    x, gs = normal(2, 3), normal(10, 2, 3, seed=6)
    single = BlockwiseAdam(list(x), np.arange(6), lr=0.1)
    scalar, same = AdaSGD(list(x), lr=0.1), BlockwiseAdam([x], np.zeros(6, np.int64), lr=0.1)
    m, v, q = np.zeros((2, 3)), 0.0, x
    for t, g in enumerate(gs, 1):
        for opt in (single, scalar):
            opt.step(list(g))
        same.step([g])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * np.mean(g**2)
        q = q - 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    close(single.params, adam(x, gs, 0.1), rtol=1e-12)
    close(scalar.params, q, rtol=1e-12)
    close(same.params[0], q, rtol=1e-12)


def test_turning_changes_adam_and_not_adasgd() -> None:
    d, r = 30, orthogonal(30, 1)
    h, x = np.where(np.arange(d) < 3, 100.0, 0.01), np.ones(d)
    plain, turned = AdaSGD([x], lr=0.01), Turned([x], r, lambda p: AdaSGD(p, lr=0.01))
    axis, away = rotated_adam([x], np.eye(d), lr=0.1), rotated_adam([x], r, lr=0.1)
    for t in range(300):
        for opt in (plain, turned, axis, away):
            if opt in (axis, away):
                opt.inner.lr = 0.1 * (1 - t / 300)
            opt.step([h * opt.params[0]])
    close(turned.params[0], plain.params[0], rtol=0, atol=1e-8)
    loss = [0.5 * h @ opt.params[0] ** 2 for opt in (axis, away)]
    assert loss[1] > 100 * loss[0]


# RMSProp and Adam of the theory


def test_theory_s_adam_without_momentum_is_rmsprop_and_has_zeta_inside_the_root() -> None:
    x, gs = normal(3), normal(10, 3, seed=6)
    rms, none = RMSProp([x], lr=0.1, beta2=0.9), Adam([x], lr=0.1, betas=(0.0, 0.9))
    v, q = np.ones(3), x
    for g in gs:
        rms.step([g])
        none.step([g])
        v = 0.9 * v + 0.1 * g**2
        q = q - 0.1 * g / np.sqrt(v + 1e-8)
    close(rms.params[0], q, rtol=1e-13)
    close(none.params[0], q, rtol=1e-13)
    first = RMSProp([np.zeros(1)], lr=1.0, beta2=0.5, zeta=0.75, v0=0.25)
    first.step([np.array([0.5])])
    close(first.params[0], -0.5, rtol=1e-14)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_theory_s_scaling_rule_brings_the_gradient_down_with_e(beta1: float) -> None:
    means = []
    for e in (0.4, 0.28):
        eta, beta2, steps = scaling(e)
        opt, rng, norms = Adam([np.full(4, 3.0)], lr=eta, betas=(beta1, beta2)), np.random.default_rng(0), []
        for _ in range(steps):
            gradient = opt.params[0] ** 3
            norms.append(np.linalg.norm(gradient))
            opt.step([gradient * (1 + rng.choice([-1.0, 1.0])) + 0.1 * rng.normal(size=4)])
        means.append(np.mean(norms))
    assert means[1] / 0.28 <= means[0] / 0.4
