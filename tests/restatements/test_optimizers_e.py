"""The restatements of preconditioned, parameter-free and theory's optimizers against closed forms and identities."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from .optimizers import adafisher
from .optimizers.adafisher import AdaFisher, AdaFisherW
from .optimizers.adahessian import AdaHessian, spatial_average
from .optimizers.clipping import ClippedAdam, ClippedSGD, clip, threshold
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
