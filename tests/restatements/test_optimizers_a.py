"""The restatements of Adam and its near relatives against closed forms and first steps done by hand."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .optimizers import radam
from .optimizers.adabound import AdaBound, AMSBound
from .optimizers.adam import Adam, AdaMax
from .optimizers.adamod import AdaMod
from .optimizers.adamp import SGDP, AdamP
from .optimizers.adamw import SGDW, AdamW, normalised_weight_decay, restart_multiplier
from .optimizers.amsgrad import AMSGrad
from .optimizers.large_batch_reality import LAMB, LARS, NesterovMomentum, learning_rate
from .optimizers.radam import RAdam
from .optimizers.swats import SWATS

Array = NDArray[np.float64]
MAKERS: dict[str, Callable[[Sequence[Array]], Any]] = {
    "Adam": Adam,
    "AdaMax": AdaMax,
    "AMSGrad": AMSGrad,
    "AdamW": lambda params: AdamW(params, weight_decay=0.01),
    "SGDW": lambda params: SGDW(params, weight_decay=0.01),
    "RAdam": lambda params: RAdam(params, weight_decay=0.01),
    "AdaBound": AdaBound,
    "AMSBound": AMSBound,
    "AdaMod": AdaMod,
    "AdamP": lambda params: AdamP(params, weight_decay=0.01),
    "SGDP": lambda params: SGDP(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "LARS": lambda params: LARS(params, lr=1.0),
    "LAMB": lambda params: LAMB(params, lr=0.1),
    "NesterovMomentum": lambda params: NesterovMomentum(params, lr=0.1),
}


def gradients(seed: int, steps: int, shape: tuple[int, ...] = (3, 4)) -> list[Array]:
    return list(np.random.default_rng(seed).normal(size=(steps, *shape)))


def run(optimizer: Any, grads: Sequence[Array]) -> list[Array]:
    """The iterates of the first tensor."""
    path = [optimizer.params[0]]
    for g in grads:
        optimizer.step([g])
        path.append(optimizer.params[0])
    return path


@pytest.mark.parametrize("name", MAKERS)
def test_missing_gradient_leaves_tensor_and_state(name: str) -> None:
    start = gradients(71, 2)
    both = MAKERS[name](start)
    first, second = MAKERS[name](start[:1]), MAKERS[name](start[1:])
    before = start[0].copy()
    for k, g in enumerate(gradients(72, 6)):
        mine = [g if k != 2 else None, 2 * g if k % 2 else None]
        both.step(mine)
        first.step(mine[:1])
        second.step(mine[1:])
    skipped = MAKERS[name](start[1:])
    for k, g in enumerate(gradients(72, 6)):
        if k % 2:
            skipped.step([2 * g])
    np.testing.assert_array_equal(both.params[0], first.params[0])
    np.testing.assert_array_equal(both.params[1], second.params[0])
    np.testing.assert_array_equal(both.params[1], skipped.params[0])
    np.testing.assert_array_equal(start[0], before)  # the caller's arrays are copied
    assert np.any(both.params[0] != start[0])


class TestAdam:
    def test_first_step_is_the_sign(self) -> None:
        g = np.array([3.0, -0.2, 70.0, -1e-3])
        x = run(Adam([np.zeros(4)], lr=0.03), [g])[-1]
        np.testing.assert_allclose(x, -0.03 * np.sign(g), rtol=2e-5)

    def test_second_step_by_hand(self) -> None:
        adam = Adam([np.array([1.0])], lr=0.1, betas=(0.5, 0.75), eps=0.5)
        adam.step([np.array([2.0])])
        assert adam.params[0][0] == pytest.approx(1 - 0.1 * 2 / 2.5, rel=1e-14)
        adam.step([np.array([0.0])])  # m = 0.5, v = 0.75; corrections 3/4 and 7/16
        step = 0.1 * (0.5 / 0.75) / (sqrt(0.75 / 0.4375) + 0.5)
        assert adam.params[0][0] == pytest.approx(1 - 0.08 - step, rel=1e-14)

    def test_scale_of_the_loss(self) -> None:
        grads = gradients(5, 30)
        plain = run(Adam([np.ones((3, 4))], eps=0), grads)
        for p, q in zip(plain, run(Adam([np.ones((3, 4))], eps=0), [2.0**12 * g for g in grads]), strict=True):
            np.testing.assert_array_equal(p, q)
        for p, q in zip(plain, run(Adam([np.ones((3, 4))], eps=0), [0.37 * g for g in grads]), strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-12)

    def test_constant_gradient(self) -> None:
        g = np.array([0.7, -5.0])
        for optimizer in (Adam([np.zeros(2)], lr=0.01, eps=0), AdaMax([np.zeros(2)], lr=0.01)):
            path = run(optimizer, [g] * 40)
            np.testing.assert_allclose(path[-1], -0.4 * np.sign(g), rtol=1e-12)
            np.testing.assert_allclose(path[17], -0.17 * np.sign(g), rtol=1e-12)

    def test_without_correction_the_first_step_is_too_large(self) -> None:
        adam = Adam([np.zeros(3)], betas=(0.9, 0.9999))
        adam.step([np.array([1.0, -2.0, 5.0])])
        np.testing.assert_allclose(np.abs(adam.m[0]) / np.sqrt(adam.v[0]), 10, rtol=1e-10)

    def test_form_with_one_rate(self) -> None:
        (beta1, beta2), eps, lr = (0.8, 0.95), 1e-2, 0.2
        x, m, v = np.ones((3, 4)), np.zeros((3, 4)), np.zeros((3, 4))
        path = run(Adam([x], lr=lr, betas=(beta1, beta2), eps=eps), gradients(6, 25))
        for t, g in enumerate(gradients(6, 25), start=1):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            root = sqrt(1 - beta2**t)
            x = x - lr * root / (1 - beta1**t) * m / (np.sqrt(v) + eps * root)
            np.testing.assert_allclose(path[t], x, rtol=1e-12)

    def test_adamax_by_hand(self) -> None:
        adamax = AdaMax([np.zeros(2)], lr=1.0, betas=(0.5, 0.8))
        adamax.step([np.array([4.0, 0.0])])
        np.testing.assert_allclose(adamax.params[0], [-1, 0], rtol=1e-14)  # u = 0 moves nothing
        adamax.step([np.array([1.0, -2.0])])
        np.testing.assert_allclose(adamax.u[0], [3.2, 2.0], rtol=1e-14)
        np.testing.assert_allclose(adamax.params[0], [-1 - 1.5 / 0.75 / 3.2, 1 / 0.75 / 2], rtol=1e-14)


class TestAMSGrad:
    def test_counterexample(self) -> None:
        c, lr, steps = 4.0, 0.4, 3000
        betas = (0.0, 1 / (1 + c * c))
        ams = AMSGrad([np.array([0.0])], lr=lr, betas=betas, box=(-1, 1))
        adam = Adam([np.array([0.0])], lr=lr, betas=betas, eps=0)
        growth = {"ams": [], "adam": []}
        roots = {"ams": 0.0, "adam": 0.0}
        for t in range(1, steps + 1):
            g = np.array([c if t % 3 == 1 else -1.0])
            adam.lr = lr / sqrt(t)
            ams.step([g])
            adam.step([g])
            adam.params[0] = np.clip(adam.params[0], -1, 1)
            now = {"ams": sqrt(ams.v_hat[0][0] * t) / lr, "adam": sqrt(adam.v[0][0] * t) / lr}
            for name in now:
                growth[name].append(now[name] - roots[name])
            roots = now
        assert ams.params[0][0] < -0.9
        assert adam.params[0][0] > 0.9
        assert min(growth["ams"]) >= 0
        assert min(growth["adam"]) < 0

    def test_by_hand(self) -> None:
        ams = AMSGrad([np.array([5.0, 0.0])], lr=1.0, betas=(0.5, 0.75))
        ams.step([np.array([4.0, 0.0])])  # m = 2, v = 4
        np.testing.assert_allclose(ams.params[0], [4, 0], rtol=1e-14)
        ams.step([np.array([0.0, 0.0])])  # m = 1, v = 3, the maximum stays 4
        np.testing.assert_allclose(ams.v_hat[0], [4, 0], rtol=1e-14)
        np.testing.assert_allclose(ams.params[0], [4 - 0.5 / sqrt(2), 0], rtol=1e-14)

    def test_corrected_form(self) -> None:
        g = gradients(8, 40)
        options: dict[str, Any] = {"lr": 0.02, "betas": (0.6, 0.5), "eps": 1e-3}
        ams = AMSGrad([np.zeros((3, 4))], sqrt_decay=False, bias_correction=True, **options)
        adam = Adam([np.zeros((3, 4))], **options)
        for k, x in enumerate(g):
            growing = 1.2**k * np.sign(x)  # v grows, so the maximum is v itself
            ams.step([growing])
            adam.step([growing])
            np.testing.assert_array_equal(ams.v_hat[0], adam.v[0])
            np.testing.assert_allclose(ams.params[0], adam.params[0], rtol=1e-12)
        first = AMSGrad([np.zeros((3, 4))], lr=0.02, sqrt_decay=False, bias_correction=True)
        np.testing.assert_allclose(run(first, g[:1])[-1], -0.02 * np.sign(g[0]), rtol=1e-12)

    def test_beta1_decay(self) -> None:
        ams = AMSGrad([np.zeros(1)], betas=(0.8, 0.9), beta1_decay=0.5)
        ams.step([np.array([1.0])])
        ams.step([np.array([3.0])])
        assert ams.m[0][0] == pytest.approx(0.4 * 0.2 + 0.6 * 3, rel=1e-14)


class TestAdamW:
    def test_decay_alone(self) -> None:
        zero = [np.zeros(3)] * 12
        start = np.array([2.0, -1.0, 0.5])
        paper = run(AdamW([start], lr=0.3, weight_decay=0.02), zero)[-1]
        np.testing.assert_allclose(paper, start * 0.98**12, rtol=1e-13)
        times_lr = run(AdamW([start], lr=0.3, weight_decay=0.02, decay_times_lr=True), zero)[-1]
        np.testing.assert_allclose(times_lr, start * (1 - 0.006) ** 12, rtol=1e-13)
        penalty = Adam([start], lr=1e-3)
        for _ in range(5):
            penalty.step([0.02 * penalty.params[0]])
        np.testing.assert_allclose(penalty.params[0], start - 5e-3 * np.sign(start), rtol=1e-3)

    def test_the_two_conventions(self) -> None:
        """lr_t = eta_t lr with lambda = lr weight_decay: the same path."""
        paper = AdamW([np.ones((3, 4))], lr=0.05, weight_decay=0.05 * 0.2)
        other = AdamW([np.ones((3, 4))], lr=0.05, weight_decay=0.2, decay_times_lr=True)
        for k, g in enumerate(gradients(9, 30)):
            paper.eta = 1 / (1 + k)
            other.lr = 0.05 / (1 + k)
            paper.step([g])
            other.step([g])
            np.testing.assert_allclose(paper.params[0], other.params[0], rtol=1e-12)

    def test_no_decay_is_adam(self) -> None:
        for p, q in zip(
            run(AdamW([np.ones((3, 4))]), gradients(10, 20)),
            run(Adam([np.ones((3, 4))]), gradients(10, 20)),
            strict=True,
        ):
            np.testing.assert_allclose(p, q, rtol=1e-14)

    def test_sgdw_without_momentum_is_l2(self) -> None:
        lr, decay = 0.25, 0.01
        sgdw, x = SGDW([np.ones((3, 4))], lr=lr, momentum=0, weight_decay=decay), np.ones((3, 4))
        for g in gradients(11, 20):
            sgdw.step([g])
            x = x - lr * (g + decay / lr * x)
            np.testing.assert_allclose(sgdw.params[0], x, rtol=1e-12)

    def test_sgdw_has_the_rate_in_its_buffer(self) -> None:
        sgdw = SGDW([np.array([1.0])], lr=0.5, momentum=0.9, weight_decay=0.125)
        sgdw.step([np.array([2.0])])
        assert sgdw.params[0][0] == pytest.approx(1 - 1 - 0.125, rel=1e-14)
        sgdw.eta = 0.5
        sgdw.step([np.array([0.0])])
        assert sgdw.params[0][0] == pytest.approx(-0.125 - 0.9 + 0.5 * 0.125 * 0.125, rel=1e-14)

    def test_nesterov(self) -> None:
        ours = run(SGDW([np.ones((3, 4))], lr=0.3, momentum=0.7, nesterov=True), gradients(12, 20))
        theirs = run(NesterovMomentum([np.ones((3, 4))], lr=0.3, momentum=0.7), gradients(12, 20))
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-12)
        assert ours[1] == pytest.approx(1 - 0.3 * 1.7 * gradients(12, 1)[0])

    def test_schedule(self) -> None:
        multipliers = [restart_multiplier(e, first_period=2, period_multiplier=3) for e in (0, 1, 2, 5, 8, 17)]
        np.testing.assert_allclose(multipliers, [1, 0.5, 1, 0.5, 1, 0.5], rtol=1e-12)
        assert normalised_weight_decay(0.05, batch_size=100, points=10_000, epochs=4) == pytest.approx(0.05 * 0.05)


class TestRAdam:
    def test_lengths(self) -> None:
        lengths = [radam.length(t, 0.999) for t in range(1, 6)]
        np.testing.assert_allclose(lengths, [1, 1.9995, 2.9987, 3.9975, 4.996], atol=6e-5)
        assert radam.rectification(5, 0.999) == pytest.approx(0.01731, abs=5e-6)
        assert radam.rectification(6, 0.999) == pytest.approx(0.02582, abs=5e-6)
        factors = [radam.rectification(t, 0.999) for t in range(5, 20_000, 50)]
        assert np.all(np.diff(factors) > 0)
        assert factors[-1] == pytest.approx(1, abs=1e-4)

    @pytest.mark.parametrize(("threshold", "first"), [(4.0, 5), (5.0, 6)])
    def test_where_it_becomes_adaptive(self, threshold: float, first: int) -> None:
        g = np.array([2.0, -8.0])
        path = run(RAdam([np.zeros(2)], lr=0.1, eps=0, rho_threshold=threshold), [g] * 8)
        for t in range(1, 9):
            size = radam.rectification(t, 0.999) * np.sign(g) if t >= first else g
            np.testing.assert_allclose(path[t] - path[t - 1], -0.1 * size, rtol=1e-9)

    def test_short_memory_is_momentum(self) -> None:
        path = run(RAdam([np.ones((3, 4))], lr=0.2, betas=(0.8, 0.6)), gradients(13, 60))
        x, m = np.ones((3, 4)), np.zeros((3, 4))
        for t, g in enumerate(gradients(13, 60), start=1):
            m = 0.8 * m + 0.2 * g
            x = x - 0.2 * m / (1 - 0.8**t)
            np.testing.assert_allclose(path[t], x, rtol=1e-12)

    def test_skipped_steps_and_decay(self) -> None:
        start = np.array([1.0, 2.0])
        path = run(RAdam([start], weight_decay=0.5, lr=0.1, degenerated_to_sgd=False), [np.zeros(2)] * 6)
        for t in range(5):
            np.testing.assert_array_equal(path[t], start)
        np.testing.assert_allclose(path[6], start * 0.95**2, rtol=1e-14)
        np.testing.assert_allclose(
            run(RAdam([start], weight_decay=0.5, lr=0.1), [np.zeros(2)] * 3)[-1], start * 0.95**3
        )


class TestAdaBound:
    @pytest.mark.parametrize("kind", [AdaBound, AMSBound])
    def test_closed_band_is_sgd(self, kind: type[AdaBound]) -> None:
        path = run(kind([np.ones((3, 4))], final_lr=0.3, gamma=1e12, betas=(0.7, 0.99)), gradients(14, 30))
        x, m = np.ones((3, 4)), np.zeros((3, 4))
        for t, g in enumerate(gradients(14, 30), start=1):
            m = 0.7 * m + (1 - 0.7) * g
            x = x - 0.3 * m
            np.testing.assert_allclose(path[t], x, rtol=1e-9)

    def test_open_band_is_adam(self) -> None:
        """With eps beside the root of the uncorrected v."""
        (beta1, beta2), eps = (0.7, 0.9), 0.1
        path = run(AdaBound([np.ones((3, 4))], lr=0.2, gamma=1e-200, betas=(beta1, beta2), eps=eps), gradients(15, 20))
        x, m, v = np.ones((3, 4)), np.zeros((3, 4)), np.zeros((3, 4))
        for t, g in enumerate(gradients(15, 20), start=1):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            root = sqrt(1 - beta2**t)
            x = x - 0.2 * (m / (1 - beta1**t)) / (np.sqrt(v) / root + eps / root)
            np.testing.assert_allclose(path[t], x, rtol=1e-12)

    def test_rates_stay_in_the_band_and_the_band_follows_lr(self) -> None:
        ada = AdaBound([np.zeros((3, 4))], lr=0.01, final_lr=0.2, gamma=0.5)
        assert ada.bounds(2) == pytest.approx((0.1, 0.4))
        for k, g in enumerate(gradients(16, 30)):
            ada.lr = 0.01 if k < 15 else 0.001
            before = ada.params[0]
            ada.step([10.0 ** (k % 5 - 2) * g])
            rate = (before - ada.params[0]) / ada.m[0]
            t = k + 1
            f = 0.2 if k < 15 else 0.02
            assert np.all(rate >= f * (1 - 1 / (0.5 * t + 1)) * (1 - 1e-9))
            assert np.all(rate <= f * (1 + 1 / (0.5 * t)) * (1 + 1e-9))

    def test_amsbound_keeps_the_maximum(self) -> None:
        ams = AMSBound([np.zeros(1)], betas=(0.0, 0.5), lr=1.0, eps=0, gamma=1e-200)
        ams.step([np.array([4.0])])
        ams.step([np.array([1.0])])  # v = 4.5, the maximum stays 8; correction 3/4
        assert ams.v_max[0][0] == 8
        assert ams.params[0][0] == pytest.approx(-1 - sqrt(0.75 / 8), rel=1e-12)

    def test_alternating_problem(self) -> None:
        """f_t = 4x every third step, else -x on [-1, 1]: Adam goes up, the bounded rate goes down."""
        options: dict[str, Any] = {"lr": 0.3, "betas": (0.0, 0.05)}
        adam, ada = Adam([np.zeros(1)], **options), AdaBound([np.zeros(1)], gamma=0.05, theory_form=True, **options)
        for t in range(1, 3001):
            g = np.array([4.0 if t % 3 == 1 else -1.0])
            adam.lr = 0.3 / sqrt(t)
            for optimizer in (adam, ada):
                optimizer.step([g])
                optimizer.params[0] = np.clip(optimizer.params[0], -1, 1)
        assert adam.params[0][0] > 0.9
        assert ada.params[0][0] < -0.9


class TestAdaMod:
    def test_no_memory_is_adam(self) -> None:
        adam = run(Adam([np.ones((3, 4))], lr=0.01, eps=0), gradients(17, 30))
        for paper_form in (False, True):
            mod = run(AdaMod([np.ones((3, 4))], lr=0.01, eps=0, beta3=0, paper_form=paper_form), gradients(17, 30))
            for p, q in zip(mod, adam, strict=True):
                np.testing.assert_allclose(p, q, rtol=1e-12)

    def test_first_two_steps(self) -> None:
        g, beta1, beta3 = np.array([2.0, -5.0]), 0.75, 0.875
        for paper_form, second in ((True, 1 + beta3), (False, 1 + beta3 * (1 + beta1))):
            options: dict[str, Any] = {"lr": 0.1, "betas": (beta1, 0.99), "eps": 0}
            path = run(AdaMod([np.zeros(2)], beta3=beta3, paper_form=paper_form, **options), [g, g])
            np.testing.assert_allclose(path[1], -0.1 * (1 - beta3) * np.sign(g), rtol=1e-12)
            np.testing.assert_allclose(path[2] - path[1], -0.1 * (1 - beta3) * second * np.sign(g), rtol=1e-12)

    def test_bound_holds(self) -> None:
        mod = AdaMod([np.zeros((3, 4))], lr=0.1, beta3=0.9)
        for k, g in enumerate(gradients(18, 40)):
            before = mod.params[0]
            mod.step([g * 3.0 ** (k % 4)])
            rate = (before - mod.params[0]) / mod.m[0]
            assert np.all(rate <= np.minimum(mod.s[0], mod.eta[0]) * (1 + 1e-9))
            assert np.all(rate >= np.minimum(mod.s[0], mod.eta[0]) * (1 - 1e-9))

    def test_decay(self) -> None:
        path = run(AdaMod([np.array([2.0])], lr=0.1, weight_decay=0.5), [np.zeros(1)] * 4)
        assert path[-1][0] == pytest.approx(2 * 0.95**4, rel=1e-14)


def directions(w: Array, c: Array) -> Array:
    """Gradient of -sum over rows of <w, c> / |w|."""
    n = np.linalg.norm(w, axis=1, keepdims=True)
    return -c / n + w * np.sum(w * c, axis=1, keepdims=True) / n**3


class TestAdamP:
    @pytest.mark.parametrize("nesterov", [False, True])
    def test_scale_invariant_rows(self, nesterov: bool) -> None:
        w, c = gradients(19, 2, (4, 6))
        sgdp = SGDP([w], lr=0.1, momentum=0.9, nesterov=nesterov)
        plain, v = w.copy(), np.zeros_like(w)
        for _ in range(30):
            before = sgdp.params[0]
            g = directions(before, c)
            sgdp.step([g])
            move = sgdp.params[0] - before
            np.testing.assert_allclose(np.sum(move * before, axis=1), 0, atol=1e-7)
            p = g + 0.9 * sgdp.m[0] if nesterov else sgdp.m[0]
            unit = before / np.linalg.norm(before, axis=1, keepdims=True)
            p = p - unit * np.sum(unit * p, axis=1, keepdims=True)
            grown = np.sum(before**2, axis=1) + 0.01 * np.sum(p**2, axis=1)
            np.testing.assert_allclose(np.sum(sgdp.params[0] ** 2, axis=1), grown, rtol=1e-7)
            g = directions(plain, c)
            v = 0.9 * v + g
            plain = plain - 0.1 * (g + 0.9 * v if nesterov else v)
        assert np.all(np.linalg.norm(plain, axis=1) > np.linalg.norm(sgdp.params[0], axis=1))

    def test_adamp_projects_its_direction(self) -> None:
        w, c = gradients(20, 2, (3, 5))
        adamp = AdamP([w], lr=0.1, eps=1e-15)
        for _ in range(10):
            before = adamp.params[0]
            adamp.step([directions(before, c)])
            np.testing.assert_allclose(np.sum((adamp.params[0] - before) * before, axis=1), 0, atol=1e-12)

    def test_otherwise_it_is_adamw(self) -> None:
        options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.3}
        for shape, delta in (((3, 4), 0.0), ((12,), 1e9)):
            adamp = run(AdamP([np.ones(shape)], delta=delta, **options), gradients(21, 20, shape))
            adamw = run(AdamW([np.ones(shape)], decay_times_lr=True, **options), gradients(21, 20, shape))
            for p, q in zip(adamp, adamw, strict=True):
                np.testing.assert_allclose(p, q, rtol=1e-12)

    def test_second_view(self) -> None:
        """Radial gradients in the rows that cancel over the whole tensor."""
        w = np.array([[1.0, 0.0], [0.0, 1.0]])
        g = np.array([[1.0, 0.0], [0.0, -1.0]])
        sgdp = SGDP([w], lr=0.5, weight_decay=0.25, wd_ratio=0.5, momentum=0.5)
        sgdp.step([g])  # the whole is orthogonal to w: nothing to project away, less decay
        np.testing.assert_allclose(sgdp.params[0], (1 - 0.5 * 0.25 * 0.5 / 0.5) * w - 0.5 * g, rtol=1e-12)
        radial = SGDP([w], lr=0.5, weight_decay=0.25, momentum=0.5)
        radial.step([w])
        np.testing.assert_allclose(radial.params[0], (1 - 0.5 * 0.25 / 0.5) * w - 0.5 * w, rtol=1e-12)

    def test_largest_cosine_decides(self) -> None:
        w = np.array([[1.0, 0.0], [0.0, 1.0]])
        g = np.array([[0.0, 1.0], [0.0, 1.0]])  # orthogonal in the first row, radial in the second
        path = run(SGDP([w], lr=0.5), [g])
        np.testing.assert_array_equal(path[-1], w - 0.5 * g)

    def test_first_buffer(self) -> None:
        sgdp = SGDP([np.zeros(2)], lr=1.0, momentum=0.5, dampening=0.25)
        sgdp.step([np.array([4.0, 8.0])])
        np.testing.assert_array_equal(sgdp.params[0], [-3, -6])


class TestSWATS:
    def test_projection(self) -> None:
        p, g = gradients(22, 2, (7,))
        gamma = p @ p / -(p @ g)
        q = -gamma * g
        np.testing.assert_allclose(p * (p @ q) / (p @ p), p, rtol=1e-12)

    def test_constant_gradient(self) -> None:
        g = [np.array([0.5, -2.0, 1.0]), np.array([[4.0, -0.5]])]
        swats = SWATS([np.zeros(3), np.zeros((1, 2))], lr=0.02)
        swats.step(g)
        np.testing.assert_allclose(swats.params[0], -0.02 * np.sign(g[0]), rtol=1e-5)
        assert swats.phase == "adam"
        assert swats.gamma == pytest.approx(0.02 * 5 / 8, rel=1e-6)
        swats.step(g)
        assert swats.phase == "sgd"
        assert swats.sgd_lr == pytest.approx(0.02 * 5 / 8, rel=1e-6)

    def test_sgd_phase(self) -> None:
        swats = SWATS([np.zeros(3)], lr=0.02, betas=(0.8, 0.99))
        for _ in range(2):
            swats.step([np.array([1.0, 2.0, -3.0])])
        x, v = swats.params[0], np.zeros(3)
        assert swats.sgd_lr is not None
        lr = (1 - 0.8) * swats.sgd_lr
        for g in gradients(23, 5, (3,)):
            swats.step([g])
            v = 0.8 * v + g
            x = x - lr * v
            np.testing.assert_array_equal(swats.params[0], x)
        swats.lr = 0.002
        swats.step([np.zeros(3)])
        np.testing.assert_allclose(swats.params[0], x - 0.1 * lr * 0.8 * v, rtol=1e-12)

    def test_adam_before(self) -> None:
        swats = run(SWATS([np.ones((3, 4))], eps=0), gradients(24, 15))
        adam = run(Adam([np.ones((3, 4))], eps=0), gradients(24, 15))
        for p, q in zip(swats, adam, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-12)

    def test_no_switch_to_climbing(self) -> None:
        """Against the momentum gamma is negative, however close its average is."""
        swats = SWATS([np.zeros(1)], tolerance=1e9)
        swats.step([np.array([10.0])])
        swats.step([np.array([-0.1])])
        assert swats.gamma is not None
        assert swats.gamma < 0
        assert swats.phase == "adam"
        assert swats.lambda_ < 0

    def test_missing_gradients(self) -> None:
        swats = SWATS([np.ones(2), np.ones(3)], lr=0.02)
        g = np.array([1.0, -3.0])
        swats.step([None, None])
        assert swats.k == 0
        swats.step([g, None])
        swats.step([g, None])
        assert swats.sgd_lr == pytest.approx(0.02 * 2 / 4, rel=1e-6)
        np.testing.assert_array_equal(swats.params[1], np.ones(3))
        assert swats.t == [2, 0]


class TestLargeBatch:
    def test_lars_by_hand(self) -> None:
        w, g = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])
        lars = LARS([w, w[0]], lr=0.5, momentum=0.9, weight_decay=0.1, trust_coefficient=0.01)
        lars.step([g, g[0]])
        r = 0.01 * 5 / (2 + 0.5)
        np.testing.assert_allclose(lars.params[0], w - 0.5 * r * (g + 0.1 * w), rtol=1e-14)
        np.testing.assert_array_equal(lars.params[1], [3, 3])  # one dimension: neither ratio nor decay

    def test_lars_scale_of_the_gradient(self) -> None:
        options: dict[str, Any] = {"lr": 0.7, "weight_decay": 0, "trust_coefficient": 0.02}
        w = gradients(25, 1)[0]
        plain = run(LARS([w], **options), gradients(26, 20))
        scaled = run(LARS([w], **options), [37.0 * g for g in gradients(26, 20)])
        np.testing.assert_allclose(plain[-1], scaled[-1], rtol=1e-12)
        assert np.linalg.norm(plain[1] - w) == pytest.approx(0.7 * 0.02 * np.linalg.norm(w), rel=1e-12)

    def test_lars_rate_and_buffer(self) -> None:
        w = gradients(27, 1)[0]
        outside, inside = LARS([w], lr=0.7), LARS([w], lr=0.7, lr_in_buffer=True)
        for g in gradients(28, 5):
            outside.step([g])
            inside.step([g])
            np.testing.assert_allclose(outside.params[0], inside.params[0], rtol=1e-12)
        moves = []
        for lars in (outside, inside):
            before = lars.params[0]
            lars.lr = 0.0
            lars.step([np.ones((3, 4))])
            moves.append(np.linalg.norm(lars.params[0] - before))
        assert moves[0] == 0
        assert moves[1] > 0

    def test_zero_norms(self) -> None:
        w = np.array([[1.0, 2.0]])
        lars = run(LARS([w], lr=0.5, weight_decay=0.1), [np.zeros((1, 2))])[-1]
        np.testing.assert_allclose(lars, 0.95 * w, rtol=1e-14)
        lars = run(LARS([0 * w], lr=0.5), [w])[-1]
        np.testing.assert_array_equal(lars, -0.5 * w)
        lamb = run(LAMB([0 * w], lr=0.5, eps=0), [w])[-1]
        np.testing.assert_allclose(lamb, [[-0.5, -0.5]], rtol=1e-14)
        lamb = run(LAMB([w], lr=0.5, weight_decay=0), [0 * w])[-1]
        np.testing.assert_array_equal(lamb, w)

    def test_lamb_moves_by_lr_times_the_norm(self) -> None:
        path = run(LAMB([gradients(29, 1)[0]], lr=0.03), gradients(30, 20))
        for before, after in pairwise(path):
            assert np.linalg.norm(after - before) == pytest.approx(0.03 * np.linalg.norm(before), rel=1e-12)

    def test_lamb_of_a_bias_is_adam(self) -> None:
        for p, q in zip(
            run(LAMB([np.ones(4)], lr=0.03), gradients(31, 20, (4,))),
            run(Adam([np.ones(4)], lr=0.03, eps=1e-6), gradients(31, 20, (4,))),
            strict=True,
        ):
            np.testing.assert_allclose(p, q, rtol=1e-12)
        w = np.array([3.0, 4.0])
        adapted = run(LAMB([w], lr=0.1, eps=0, weight_decay=0.5, adapt=[True]), [np.array([1.0, -7.0])])[-1]
        u = np.array([1.0, -1.0]) + 0.5 * w
        np.testing.assert_allclose(adapted, w - 0.1 * 5 / np.linalg.norm(u) * u, rtol=1e-12)

    def test_schedule(self) -> None:
        rates = [learning_rate(t, steps=10, warmup_steps=4, peak=8, final=2, power=2) for t in range(1, 11)]
        np.testing.assert_allclose(rates[:4], [2, 4, 6, 8])
        np.testing.assert_allclose([rates[6], rates[9]], [2 + 6 / 4, 2])
