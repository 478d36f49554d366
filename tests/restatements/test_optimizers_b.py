"""Restatements of optimizers against closed forms and exact identities; no code of the library is used."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from .optimizers.adam_atan2 import AdamAtan2
from .optimizers.adopt import ADOPT
from .optimizers.cautious import Cautious, CautiousAdamW, CautiousLion, cautious_mask
from .optimizers.diffgrad import DiffGrad
from .optimizers.exadam import EXAdam
from .optimizers.laprop import LaProp
from .optimizers.lion import Lion
from .optimizers.lookahead import Lookahead
from .optimizers.mars import MARS, newton_schulz
from .optimizers.upgd import UPGD, sigmoid

Array = NDArray[np.float64]
SHAPES = [(3, 4), (5,), (4, 2)]


class HeavyBall:
    def __init__(self, params: Sequence[Array], lr: float, momentum: float = 0.0) -> None:
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.lr, self.momentum = lr, momentum
        self.m = [np.zeros_like(p) for p in self.params]

    def step(self, grads: Sequence[Array | None]) -> None:
        for i, g in enumerate(grads):
            if g is not None:
                self.m[i] = self.momentum * self.m[i] + g
                self.params[i] = self.params[i] - self.lr * self.m[i]


def adam(
    w: Array, grads: Sequence[Array], lr: float, beta1: float, beta2: float, eps: float, lam: float = 0.0
) -> Array:
    """AdamW with eps beside the corrected root."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w = w - lr * lam * w - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w


def start(seed: int) -> tuple[np.random.Generator, list[Array]]:
    rng = np.random.default_rng(seed)
    return rng, [rng.normal(size=s) for s in SHAPES]


def draw(rng: np.random.Generator, scale: float = 1.0) -> list[Array]:
    return [scale * rng.normal(size=s) for s in SHAPES]


def close(a: Sequence[Array], b: Sequence[Array], tolerance: float = 1e-13) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


# All


MAKERS: dict[str, Callable[[list[Array]], object]] = {
    "adam-atan2": lambda p: AdamAtan2(p, lr=0.1, weight_decay=0.1),
    "adopt": lambda p: ADOPT(p, lr=0.1, weight_decay=0.1, decouple=True),
    "cautious-adamw": lambda p: CautiousAdamW(p, lr=0.1, weight_decay=0.1),
    "cautious-lion": lambda p: CautiousLion(p, lr=0.1, weight_decay=0.1),
    "cautious": lambda p: Cautious(LaProp(p, lr=0.1), weight_decay=0.1),
    "diffgrad": lambda p: DiffGrad(p, lr=0.1, weight_decay=0.1),
    "exadam": lambda p: EXAdam(p, lr=0.1, weight_decay=0.1),
    "laprop": lambda p: LaProp(p, lr=0.1, weight_decay=0.1, amsgrad=True, centered=True),
    "lion": lambda p: Lion(p, lr=0.1, weight_decay=0.1),
    "lookahead": lambda p: Lookahead(Lion(p, lr=0.1, weight_decay=0.1), k=2),
    "mars": lambda p: MARS(p, lr=0.1, weight_decay=0.1),
    "mars-lion": lambda p: MARS(p, lr=0.1, form="lion", optimize_1d=True),
    "mars-shampoo": lambda p: MARS(p, lr=0.1, form="shampoo"),
    "upgd": lambda p: UPGD(p, lr=0.1, sigma=0.0, local=True),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_tensor_without_gradient_is_as_if_the_step_had_not_been(name: str) -> None:
    # The middle tensor skips two steps; it must end where it ends without these steps.
    rng, params = start(11)
    steps = [draw(rng) for _ in range(6)]
    original = [p.copy() for p in params]
    whole = MAKERS[name](params)
    for t, grads in enumerate(steps):
        whole.step([g if i != 1 or t not in (1, 4) else None for i, g in enumerate(grads)])
    alone = MAKERS[name](params[1:2])
    for t in (0, 2, 3, 5):
        alone.step(steps[t][1:2])
    if name != "lookahead":  # counts steps of all tensors together
        close(whole.params[1:2], alone.params)
    close(params, original, 0.0)
    assert all(np.isfinite(p).all() for p in whole.params)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(whole.params, params, strict=True))


@pytest.mark.parametrize("name", [n for n in MAKERS if n != "lookahead"])
def test_gradients_are_not_kept_by_reference(name: str) -> None:
    rng, params = start(12)
    steps = [draw(rng) for _ in range(4)]
    a, b = MAKERS[name](params), MAKERS[name](params)
    buffer = [np.empty_like(p) for p in params]
    for grads in steps:
        a.step(grads)
        for place, g in zip(buffer, grads, strict=True):
            place[...] = g
        b.step(buffer)
    close(a.params, b.params, 0.0)


# Lion


def test_lion_moves_every_coordinate_by_lr_whatever_the_scale_of_the_gradient() -> None:
    rng, params = start(21)
    a, b = Lion(params, lr=0.03), Lion(params, lr=0.03)
    for _ in range(7):
        before = [p.copy() for p in a.params]
        grads = draw(rng)
        a.step(grads)
        b.step([1e-6 * g for g in grads])
        close([np.abs(x - y) for x, y in zip(a.params, before, strict=True)], [np.full(s, 0.03) for s in SHAPES])
    close(a.params, b.params, 0.0)


def test_lion_takes_the_direction_before_it_updates_the_average() -> None:
    # g = 1, then -0.5, with betas (0.5, 0.9): m_1 = 0.1, c_2 = 0.05 - 0.25 < 0; zero gradients stay at 0.
    lion = Lion([np.array([0.0, 0.0])], lr=1.0, betas=(0.5, 0.9))
    lion.step([np.array([1.0, 0.0])])
    np.testing.assert_allclose(lion.params[0], [-1.0, 0.0])
    np.testing.assert_allclose(lion.m[0], [0.1, 0.0])
    lion.step([np.array([-0.5, 0.0])])
    np.testing.assert_allclose(lion.params[0], [0.0, 0.0])
    np.testing.assert_allclose(lion.m[0], [0.04, 0.0])


def test_lion_with_equal_betas_is_the_sign_of_momentum_and_decays_the_old_weights() -> None:
    rng, params = start(22)
    lion = Lion(params, lr=0.1, betas=(0.8, 0.8), weight_decay=0.5)
    m, w = [np.zeros(s) for s in SHAPES], params
    for _ in range(5):
        grads = draw(rng)
        lion.step(grads)
        m = [0.8 * a + 0.2 * g for a, g in zip(m, grads, strict=True)]
        w = [0.95 * x - 0.1 * np.sign(a) for x, a in zip(w, m, strict=True)]
    close(lion.params, w)


# Lookahead


def test_lookahead_with_alpha_1_is_the_inner_method_and_with_k_1_sgd_of_another_rate() -> None:
    rng, params = start(31)
    plain, wrapped = HeavyBall(params, 0.1, 0.7), Lookahead(HeavyBall(params, 0.1, 0.7), k=3, alpha=1.0)
    slow, short = Lookahead(HeavyBall(params, 0.1), k=1, alpha=0.3), HeavyBall(params, 0.03)
    for _ in range(8):
        grads = draw(rng)
        for method in (plain, wrapped, slow, short):
            method.step(grads)
    close(plain.params, wrapped.params, 1e-12)
    close(slow.params, short.params, 1e-12)


def test_lookahead_takes_the_slow_weights_before_the_first_step_and_keeps_momentum() -> None:
    # Constant gradient 1, momentum 1, lr 1: fast 0, -1, -3; half the way back to 0; momentum 2 stays.
    la = Lookahead(HeavyBall([np.zeros(1)], 1.0, 1.0), k=2, alpha=0.5)
    path = []
    for _ in range(4):
        la.step([np.ones(1)])
        path.append((la.params[0][0], la.slow[0][0]))
    assert path == [(-1.0, 0.0), (-1.5, -1.5), (-4.5, -1.5), (-5.0, -5.0)]
    assert la.slow[0] is not la.params[0]


@pytest.mark.parametrize(("inner_state", "momenta"), [("reset", [0.0, 0.0]), ("interpolate", [1.0, 2.0])])
def test_lookahead_resets_or_interpolates_named_buffers(inner_state: str, momenta: list[float]) -> None:
    la = Lookahead(HeavyBall([np.zeros(1)], 1.0, 1.0), k=2, alpha=0.5, inner_state=inner_state, buffers=("m",))
    got = []
    for _ in range(2):
        la.step([np.ones(1)])
        la.step([np.ones(1)])
        got.append(la.inner.m[0][0])
    assert got == momenta


def test_lookahead_has_the_variance_of_the_noisy_quadratic() -> None:
    a, lr, sigma, alpha, k, chains = 2.0, 0.12, 1.5, 0.35, 4, 30_000
    rng = np.random.default_rng(32)
    la = Lookahead(HeavyBall([np.zeros(chains)], lr), k=k, alpha=alpha)
    for _ in range(60 * k):
        la.step([a * (la.params[0] - sigma * rng.normal(size=chains))])
    r = 1 - lr * a
    v_sgd = (lr * a * sigma) ** 2 / (1 - r**2)
    top = alpha**2 * (1 - r ** (2 * k))
    v_la = top / (top + 2 * alpha * (1 - alpha) * (1 - r**k)) * v_sgd
    assert v_la < 0.6 * v_sgd
    assert np.var(la.slow[0]) == pytest.approx(v_la, rel=0.03)


def test_lookahead_at_its_best_alpha_has_no_slope_left_along_the_step() -> None:
    rng = np.random.default_rng(33)
    h, w_best, phi = np.array([0.3, 2.0, 5.0]), rng.normal(size=3), rng.normal(size=3)
    sgd = HeavyBall([phi], 0.1)
    for _ in range(5):
        sgd.step([h * (sgd.params[0] - w_best)])
    d = phi - sgd.params[0]
    la = Lookahead(HeavyBall([phi], 0.1), alpha=(phi - w_best) @ (h * d) / (d @ (h * d)))
    for _ in range(5):
        la.step([h * (la.params[0] - w_best)])
    assert abs((h * (la.slow[0] - w_best)) @ d) < 1e-13


# Cautious


def test_cautious_masks_by_hand() -> None:
    u, g = np.array([1.0, -2.0, 3.0, 0.0]), np.array([2.0, 5.0, 1e-9, 4.0])
    np.testing.assert_allclose(cautious_mask(u, g), np.array([1, 0, 1, 0]) * 4 / 3)
    np.testing.assert_allclose(cautious_mask(u, g, scaling="mean"), np.array([1, 0, 1, 0]) * 2.0)
    np.testing.assert_allclose(cautious_mask(u, -u, scaling="mean"), np.zeros(4))
    one = np.zeros(5000)
    one[7] = 1.0
    assert cautious_mask(one, one, scaling="mean").max() == pytest.approx(1000.0)
    with pytest.raises(ValueError, match="scaling"):
        cautious_mask(u, g, scaling="none")


@pytest.mark.parametrize("scaling", ["count", "mean"])
def test_cautious_steps_never_go_against_the_gradient(scaling: str) -> None:
    rng, params = start(41)
    methods = [CautiousAdamW(params, lr=0.1, scaling=scaling), CautiousLion(params, lr=0.1, scaling=scaling)]
    masked = 0
    for _ in range(12):
        grads = draw(rng)
        for method in methods:
            before = list(method.params)
            method.step(grads)
            for x, y, g in zip(before, method.params, grads, strict=True):
                assert ((x - y) * g >= 0).all()
                masked += int((x == y).sum())
    assert masked > 20


def test_cautious_without_momentum_masks_nothing() -> None:
    rng, params = start(42)
    steps = [draw(rng) for _ in range(5)]
    mean = CautiousAdamW(params, lr=0.1, betas=(0.0, 0.9), weight_decay=0.2, scaling="mean")
    count = CautiousAdamW(params, lr=0.1, betas=(0.0, 0.9))
    for grads in steps:
        mean.step(grads)
        count.step(grads)
    for i, w in enumerate(params):
        gs = [grads[i] for grads in steps]
        np.testing.assert_allclose(mean.params[i], adam(w, gs, 0.1, 0.0, 0.9, 1e-6, 0.2), rtol=1e-12)
        d = w.size
        np.testing.assert_allclose(count.params[i], adam(w, gs, 0.1 * d / (d + 1), 0.0, 0.9, 1e-6), rtol=1e-12)


@pytest.mark.parametrize("scaling", ["count", "mean"])
def test_cautious_wrapped_lion_is_cautious_lion(scaling: str) -> None:
    rng, params = start(43)
    exact = CautiousLion(params, lr=0.1, weight_decay=0.3, scaling=scaling)
    wrapped = Cautious(Lion(params, lr=0.1, betas=(0.95, 0.98)), weight_decay=0.3, scaling=scaling)
    for t in range(9):
        exact.lr = wrapped.lr = 0.1 / (1 + t)
        grads = draw(rng)
        exact.step(grads)
        wrapped.step(grads)
    close(exact.params, wrapped.params, 1e-12)
    close(exact.m, wrapped.inner.m)


def test_cautious_wrapper_refuses_a_method_that_decays_itself() -> None:
    with pytest.raises(ValueError, match="weight_decay"):
        Cautious(Lion([np.zeros(2)], weight_decay=0.1))


def test_cautious_heavy_ball_seldom_climbs() -> None:
    h = np.array([1.0, 25.0])
    ups = []
    for caution in (False, True):
        ball = HeavyBall([np.array([1.0, 1.0])], 0.006, 0.9)
        method = Cautious(ball) if caution else ball
        losses = []
        for _ in range(150):
            losses.append(0.5 * float(h @ method.params[0] ** 2))
            method.step([h * method.params[0]])
        ups.append(int((np.diff(losses) > 0).sum()))
    assert 10 * ups[1] < ups[0]


# LaProp


def test_laprop_without_momentum_is_adam_without_momentum() -> None:
    rng, params = start(51)
    steps = [draw(rng) for _ in range(6)]
    laprop = LaProp(params, lr=0.1, betas=(0.0, 0.9), eps=1e-8)
    for grads in steps:
        laprop.step(grads)
    close(laprop.params, [adam(w, [s[i] for s in steps], 0.1, 0.0, 0.9, 1e-8) for i, w in enumerate(params)])


def test_laprop_forgets_a_spike_as_fast_as_its_momentum() -> None:
    mu, nu, lr = 0.8, 0.3, 0.1
    laprop = LaProp([np.zeros(1)], lr=lr, betas=(mu, nu))
    for t in range(1, 30):
        before = laprop.params[0][0]
        laprop.step([np.array([1.0 if t == 1 else 0.0])])
        expected = lr * mu ** (t - 1) * (1 - mu) / (1 - mu**t)
        assert before - laprop.params[0][0] == pytest.approx(expected, rel=1e-12)


def test_laprop_without_adaptivity_averages_signs() -> None:
    rng, params = start(52)
    laprop = LaProp(params, lr=0.1, betas=(0.7, 0.0))
    m, w = [np.zeros(s) for s in SHAPES], params
    for t in range(1, 6):
        grads = draw(rng)
        laprop.step(grads)
        m = [0.7 * a + 0.3 * np.sign(g) for a, g in zip(m, grads, strict=True)]
        w = [x - 0.1 * a / (1 - 0.7**t) for x, a in zip(w, m, strict=True)]
    close(laprop.params, w, 1e-11)


@pytest.mark.parametrize("mu", [0.5, 0.99])
def test_laprop_steps_are_bounded_whatever_the_momentum(mu: float) -> None:
    rng = np.random.default_rng(53)
    laprop = LaProp([np.zeros(50)], lr=0.1, betas=(mu, 0.6))
    for _ in range(40):
        before = laprop.params[0]
        laprop.step([np.exp(4 * rng.normal(size=50)) * rng.choice([-1, 1], size=50)])
        assert np.abs(laprop.params[0] - before).max() <= 0.1 / math.sqrt(0.4) * (1 + 1e-12)


def test_laprop_step_is_lr_times_an_average_weighted_by_past_rates() -> None:
    rates, mu = [0.1, 0.4, 0.0, 0.2], 0.6
    rng = np.random.default_rng(54)
    laprop = LaProp([np.zeros(3)], betas=(mu, 0.0))
    signs = []
    for t, rate in enumerate(rates):
        laprop.lr = rate
        signs.append(rng.choice([-1.0, 1.0], size=3))
        before = laprop.params[0]
        laprop.step([5.0 * signs[-1]])
        weights = [mu ** (t - s) * rates[s] for s in range(t + 1)]
        expected = rate * sum(a * s for a, s in zip(weights, signs, strict=True)) / sum(weights)
        np.testing.assert_allclose(before - laprop.params[0], expected, atol=1e-14)


def test_laprop_decay_is_not_scaled_by_the_rate_and_comes_after_the_step() -> None:
    laprop = LaProp([np.array([2.0])], lr=0.5, weight_decay=0.1)
    laprop.step([np.array([7.0])])
    np.testing.assert_allclose(laprop.params[0], [0.9 * (2.0 - 0.5)], rtol=1e-12)


def test_laprop_centered_and_amsgrad_second_moments() -> None:
    nu, g = 0.5, [3.0, *[1.0, -1.0] * 6]
    centered, largest = LaProp([np.zeros(1)], betas=(0.0, nu), centered=True), LaProp([np.zeros(1)], betas=(0.0, nu))
    largest.amsgrad = True
    n = a = peak = 0.0
    for t, x in enumerate(g, 1):
        n, a = nu * n + (1 - nu) * x * x, nu * a + (1 - nu) * x
        peak = max(peak, n)
        for method, second in ((centered, n - a * a if t > 10 else n), (largest, peak)):
            before = method.params[0][0]
            method.step([np.array([x])])
            step = 4e-4 * x / math.sqrt(second / (1 - nu**t))
            assert before - method.params[0][0] == pytest.approx(step, rel=1e-12)


# ADOPT


def test_adopt_only_looks_at_the_first_gradient() -> None:
    _, params = start(61)
    adopt = ADOPT(params, lr=0.1, weight_decay=0.2, decouple=True)
    grads = [np.full(s, 3.0) for s in SHAPES]
    adopt.step(grads)
    close(adopt.params, params, 0.0)
    close(adopt.v, [g**2 for g in grads], 0.0)
    coupled = ADOPT(params, lr=0.1, weight_decay=0.2)
    coupled.step(grads)
    close(coupled.v, [(g + 0.2 * w) ** 2 for g, w in zip(grads, params, strict=True)])
    close(coupled.params, params, 0.0)


def test_adopt_averages_signs_under_a_constant_gradient() -> None:
    g = np.array([1e-3, -40.0])
    adopt = ADOPT([np.zeros(2)], lr=0.1, betas=(0.75, 0.9))
    position = np.zeros(2)
    adopt.step([g])
    for t in range(1, 12):
        adopt.step([g])
        position = position - 0.1 * (1 - 0.75**t) * np.sign(g)
        np.testing.assert_allclose(adopt.params[0], position, rtol=1e-12)


def test_adopt_normalises_by_the_past_and_clips_by_the_fourth_root_of_the_step() -> None:
    # v_0 = 4; n_1 = 3 / 2 clipped to 1; v_1 = (4 + 9) / 2; n_2 = 0.5 / sqrt(6.5) unclipped; m from 0.
    adopt = ADOPT([np.zeros(1)], lr=1.0, betas=(0.5, 0.5))
    for g in (2.0, 3.0, 0.5):
        adopt.step([np.array([g])])
    m_2 = 0.25 + 0.25 / math.sqrt(6.5)
    np.testing.assert_allclose(adopt.m[0], [m_2])
    np.testing.assert_allclose(adopt.params[0], [-0.5 - m_2])
    np.testing.assert_allclose(adopt.v[0], [0.5 * 6.5 + 0.125])
    for _ in range(14):  # t = 16 is the next
        adopt.step([np.zeros(1)])
    before = adopt.m[0].copy()
    assert adopt.t[0] == 17
    adopt.step([np.array([1e6])])
    np.testing.assert_allclose(adopt.m[0] - 0.5 * before, [0.5 * 17**0.25])


def test_adopt_bounds_the_denominator_by_a_maximum() -> None:
    adopt = ADOPT([np.zeros(2)], lr=1.0, betas=(0.0, 0.5), eps=0.1, clip_lambda=None)
    adopt.step([np.array([0.0, 0.3])])
    adopt.step([np.array([2.0, 3.0])])
    np.testing.assert_allclose(adopt.params[0], [-20.0, -10.0])


def test_adopt_goes_down_on_average_where_adam_goes_up() -> None:
    # E[g] = +1, but g is rarely large: the present gradient in Adam's denominator takes the rare one's weight away.
    k, chains, rng = 8, 400, np.random.default_rng(62)
    steps = [np.where(rng.random(chains) < 1 / k, float(k * k), -float(k)) for _ in range(500)]
    adopt = ADOPT([np.zeros(chains)], lr=0.01, betas=(0.9, 0.2), clip_lambda=None)
    for g in steps:
        adopt.step([g])
    assert adopt.params[0].mean() < -0.1
    assert adam(np.zeros(chains), steps, 0.01, 0.9, 0.2, 1e-6).mean() > 0.1


# MARS


def test_mars_without_correction_and_clipping_is_adamw() -> None:
    rng, params = start(71)
    steps = [draw(rng, 0.01) for _ in range(8)]
    mars = MARS(params, lr=0.02, weight_decay=0.1, gamma=0.0)
    for grads in steps:
        mars.step(grads)
    expected = [
        adam(w, [s[i] for s in steps], 0.02, 0.95, 0.99, 1e-8, 0.1)
        if w.ndim == 2
        else adam(w, [s[i] for s in steps], 3e-3, 0.9, 0.95, 1e-8, 0.1)
        for i, w in enumerate(params)
    ]
    close(mars.params, expected, 1e-12)


def test_mars_corrects_from_a_zero_gradient_at_first_and_clips_each_tensor() -> None:
    _, params = start(72)
    small, large = np.full((3, 4), 0.01), np.full((4, 2), 2.0)
    mars = MARS(params, form="lion")
    mars.step([small, None, large])
    np.testing.assert_allclose(mars.m[0], 0.05 * 1.475 * small, rtol=1e-12)
    np.testing.assert_allclose(mars.m[2], 0.05 * large / np.linalg.norm(large), rtol=1e-12)
    mars.step([2 * small, None, None])
    np.testing.assert_allclose(mars.m[0], (0.95 * 0.05 * 1.475 + 0.05 * (2 + 0.475)) * small, rtol=1e-12)


def test_mars_exact_with_gamma_1_is_storm() -> None:
    rng = np.random.default_rng(73)
    H = np.diag([0.02, 0.1, 0.3])
    mars = MARS([0.1 * rng.normal(size=(3, 2))], lr=1e-3, gamma=1.0, is_approx=False, form="lion")
    before, d = mars.params[0], np.zeros((3, 2))
    for t in range(10):
        offset = 0.01 * rng.normal(size=(3, 2))
        g = H @ mars.params[0] + offset
        h = g if t == 0 else H @ before + offset
        before = mars.params[0]
        mars.step([g], [h])
        d = 0.05 * g if t == 0 else g + 0.95 * (d - h)
        np.testing.assert_allclose(mars.m[0], d, rtol=1e-10)
        np.testing.assert_allclose(mars.params[0], before - 1e-3 * np.sign(d), rtol=1e-12)


def test_mars_says_which_gradients_it_needs() -> None:
    g = [np.ones((2, 2))]
    with pytest.raises(ValueError, match="previous_grads"):
        MARS(g).step(g, g)
    exact = MARS(g, is_approx=False)
    exact.step(g)
    with pytest.raises(ValueError, match="previous_grads"):
        exact.step(g)
    with pytest.raises(ValueError, match="form"):
        MARS(g, form="muon")


def test_mars_squares_the_corrected_gradient_and_sends_vectors_to_adamw_unless_told() -> None:
    g = np.full(4, 0.1)
    mars = MARS([np.zeros(4)], lr=0.5, lr_1d=0.25, optimize_1d=True)
    mars.step([g])
    np.testing.assert_allclose(mars.v[0], 0.01 * (1.475 * g) ** 2, rtol=1e-12)
    plain = MARS([np.zeros(4)], lr=0.5, lr_1d=0.25, form="shampoo")
    plain.step([g])
    np.testing.assert_allclose(plain.params[0], -0.25 * np.ones(4), rtol=1e-6)
    plain.lr = 0.05  # a schedule of lr moves lr_1d along
    plain.step([g])
    np.testing.assert_allclose(plain.params[0], -0.25 + 0.0025 * 0.25 - 0.025 * np.ones(4), rtol=1e-6)
    kernel = MARS([np.zeros((2, 2, 1, 1))], lr=0.5, lr_1d=0.25)
    kernel.step([np.ones((2, 2, 1, 1))])
    np.testing.assert_allclose(kernel.params[0], -0.25 * np.ones((2, 2, 1, 1)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_newton_schulz_keeps_directions_and_moves_singular_values_near_1(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(74)
    M = rng.normal(size=shape)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    x = s / (np.linalg.norm(M) + 1e-7)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    X = newton_schulz(M)
    np.testing.assert_allclose(X, U @ np.diag(x) @ Vt, atol=1e-12)
    assert ((x > 0.6) & (x < 1.3)).all()
    close([newton_schulz(1e3 * M)], [X], 1e-5)


def test_mars_shampoo_step() -> None:
    rng = np.random.default_rng(75)
    w, g = rng.normal(size=(8, 2)), 0.01 * rng.normal(size=(8, 2))
    mars = MARS([w], lr=0.1, weight_decay=0.2, form="shampoo")
    mars.step([g])
    np.testing.assert_allclose(mars.params[0], w - 0.1 * (2.0 * newton_schulz(g) + 0.2 * w), atol=1e-4)
    mars = MARS([w.T], lr=0.1, form="shampoo")
    mars.step([g.T])
    np.testing.assert_allclose(mars.params[0], w.T - 0.1 * newton_schulz(g.T), atol=1e-4)


# diffGrad


def adam_old_eps(w: Array, grads: Sequence[Array], lr: float, beta1: float, beta2: float, eps: float) -> list[Array]:
    """The points of Adam with eps beside the uncorrected root."""
    m, v, path = np.zeros_like(w), np.zeros_like(w), [w]
    for t, g in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        path.append(path[-1] - lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps))
    return path


def test_diffgrad_steps_are_adams_times_the_sigmoid_of_the_change() -> None:
    rng = np.random.default_rng(81)
    grads = [3 * rng.normal(size=20) for _ in range(10)]
    path = adam_old_eps(np.zeros(20), grads, 0.1, 0.9, 0.999, 1e-8)
    diffgrad = DiffGrad([np.zeros(20)], lr=0.1)
    last = np.zeros(20)
    for t, g in enumerate(grads):
        before = diffgrad.params[0]
        diffgrad.step([g])
        ratio = (diffgrad.params[0] - before) / (path[t + 1] - path[t])
        np.testing.assert_allclose(ratio, sigmoid(np.abs(g - last)), rtol=1e-9)
        assert ((ratio > 0.5) & (ratio < 1 + 1e-9)).all()
        last = g


def test_diffgrad_is_adam_at_half_the_rate_under_a_constant_gradient() -> None:
    g = np.array([2.0, -0.1])
    diffgrad = DiffGrad([np.zeros(2)], lr=0.1)
    path = adam_old_eps(np.zeros(2), [g] * 9, 0.1, 0.9, 0.999, 1e-8)
    for _ in range(9):
        diffgrad.step([g])
    first = sigmoid(np.abs(g)) * (path[1] - path[0])
    np.testing.assert_allclose(diffgrad.params[0], first + 0.5 * (path[9] - path[1]), rtol=1e-12)


def test_diffgrad_decay_is_part_of_the_gradient() -> None:
    w, g = np.array([3.0]), np.array([-0.5])
    a, b = DiffGrad([w], weight_decay=0.1), DiffGrad([w])
    for _ in range(3):
        b.step([g + 0.1 * b.params[0]])
        a.step([g])
    close(a.params, b.params, 1e-15)


# EXAdam


def test_exadam_first_step_is_about_16_rates() -> None:
    for dynamic, factor in ((False, 1.0), (True, math.log(2.0))):
        exadam = EXAdam([np.zeros(2)], lr=0.01, dynamic_step_size=dynamic)
        exadam.step([np.array([500.0, -200.0])])
        size = 0.01 * factor * 11 * 1.999 / math.sqrt(1.9)
        np.testing.assert_allclose(exadam.params[0], [-size, size], rtol=1e-6)
        assert size / (0.01 * factor) == pytest.approx(15.95, abs=0.01)


def test_exadam_tends_to_momentum_plus_gradient_over_the_root() -> None:
    rng = np.random.default_rng(91)
    exadam = EXAdam([np.zeros(30)], lr=0.01, betas=(0.8, 0.9))
    for _ in range(600):
        before, g = exadam.params[0], rng.normal(size=30)
        exadam.step([g])
    step = 0.01 * (exadam.m[0] + g) / (np.sqrt(exadam.v[0]) + 1e-8)
    np.testing.assert_allclose(before - exadam.params[0], step, atol=1e-15)
    constant = EXAdam([np.zeros(1)], lr=0.01, betas=(0.8, 0.9), dynamic_step_size=True)
    for _ in range(399):
        before = constant.params[0]
        constant.step([np.full(1, 7.0)])
    np.testing.assert_allclose(before - constant.params[0], [0.02 * 0.5 * math.log(2 * 400)], rtol=1e-8)


def test_exadam_eps_switches_the_factors_off_for_tiny_gradients() -> None:
    g = 1e-7
    exadam = EXAdam([np.zeros(1)], lr=1.0)
    exadam.step([np.array([g])])
    np.testing.assert_allclose(exadam.params[0], [-11 * g / (g + 1e-8)], rtol=1e-5)


def test_exadam_decays_before_the_step() -> None:
    a, b = EXAdam([np.array([4.0])], lr=0.1, weight_decay=0.5), EXAdam([np.array([3.8])], lr=0.1)
    a.step([np.ones(1)])
    b.step([np.ones(1)])
    close(a.params, b.params)


# UPGD


def test_upgd_moves_a_weight_without_utility_as_sgd_and_the_most_useful_one_0_538_as_far() -> None:
    # Second weight: u = -g w = 1 in every step, by setting it back; first weight 0: u = 0.
    upgd = UPGD([np.zeros(1), np.array([[0.5]])], lr=0.1, weight_decay=0.0, beta_utility=0.9, sigma=0.0)
    for _ in range(400):
        upgd.params = [np.zeros(1), np.array([[0.5]])]
        upgd.step([np.array([3.0]), np.array([[-2.0]])])
    np.testing.assert_allclose(upgd.params[0], [-0.3], rtol=1e-12)
    share = 2 * (1 - 1 / (1 + math.exp(-1)))
    assert share == pytest.approx(0.538, abs=5e-4)
    np.testing.assert_allclose(upgd.params[1], [[0.5 + 0.2 * share]], rtol=1e-12)


def test_upgd_divides_a_corrected_by_an_uncorrected_utility_unless_told() -> None:
    w, g = np.array([1.0, 2.0]), np.array([-1.0, -1.0])
    for corrected, scale in ((False, 10.0), (True, 1.0)):
        upgd = UPGD([w], lr=0.1, weight_decay=0.5, beta_utility=0.9, sigma=0.0, corrected_maximum=corrected)
        upgd.step([g])
        share = 2 * (1 - sigmoid(scale * np.array([0.5, 1.0])))
        np.testing.assert_allclose(upgd.params[0], 0.95 * w + 0.1 * share, rtol=1e-12)


def test_upgd_takes_the_maximum_over_all_tensors_and_gates_the_noise() -> None:
    noise = {0: np.array([0.3, -1.0]), 1: np.array([2.0])}
    w, g = [np.array([1.0, -1.0]), np.array([4.0])], [np.array([-1.0, -1.0]), np.array([-1.0])]
    u_bar = [sigmoid(np.array([0.25, -0.25])), sigmoid(np.array([1.0]))]
    for protecting in (True, False):
        upgd = UPGD(
            w,
            lr=0.1,
            weight_decay=0.0,
            beta_utility=0.0,
            sigma=0.5,
            noise=lambda i, t, shape: noise[i].reshape(shape),
            protecting=protecting,
        )
        upgd.step(g)
        for i in (0, 1):
            gate = 1 - u_bar[i]
            move = 2 * (g[i] + 0.5 * noise[i]) * gate if protecting else g[i] + 0.5 * noise[i] * gate
            np.testing.assert_allclose(upgd.params[i], w[i] - 0.1 * move, rtol=1e-12)


def test_upgd_local_and_second_order_and_empty_utilities() -> None:
    w, g, h = np.array([[3.0, 4.0], [1.0, 0.0]]), -np.ones((2, 2)), np.full((2, 2), 2.0)
    local = UPGD([w], lr=0.1, weight_decay=0.0, sigma=0.0, local=True)
    local.step([g])
    np.testing.assert_allclose(local.params[0], w + 0.2 * (1 - sigmoid(np.array([[0.6, 0.8], [1.0, 0.0]]))))
    second = UPGD([w], lr=0.1, weight_decay=0.0, beta_utility=0.0, sigma=0.0)
    second.step([g], [h])
    np.testing.assert_allclose(second.params[0], w + 0.2 * (1 - sigmoid((w + w**2) / 20.0)))
    empty = UPGD([np.zeros(3)], lr=0.1, sigma=0.0)
    empty.step([np.ones(3)])
    np.testing.assert_allclose(empty.params[0], -0.1 * np.ones(3))
    with pytest.raises(ValueError, match="noise"):
        UPGD([w])


# Adam-atan2


def test_adam_atan2_does_not_see_the_scale_of_the_loss() -> None:
    h = np.array([0.1, 1.0, 7.0])
    a, b = AdamAtan2([np.ones(3)], lr=0.01, weight_decay=0.1), AdamAtan2([np.ones(3)], lr=0.01, weight_decay=0.1)
    for _ in range(150):
        a.step([h * a.params[0]])
        b.step([2.0**-50 * (h * b.params[0])])
    assert (a.params[0] == b.params[0]).all()


def test_adam_atan2_first_step_bound_and_zero() -> None:
    method = AdamAtan2([np.zeros(3)], lr=0.1, a=4 / math.pi)
    method.step([np.array([1e-30, -5.0, 0.0])])
    np.testing.assert_allclose(method.params[0], [-0.1, 0.1, 0.0], rtol=1e-12)
    wide = AdamAtan2([np.zeros(1)], lr=0.1, a=3.0, b=2.0)
    wide.step([np.array([5.0])])
    np.testing.assert_allclose(wide.params[0], [-0.3 * math.atan(0.5)], rtol=1e-12)
    spike = AdamAtan2([np.zeros(1)], lr=0.1, betas=(0.9, 0.1))
    before = 0.0
    for t in range(40):
        before = spike.params[0][0]
        spike.step([np.array([1.0 if t == 0 else 0.0])])
        assert abs(spike.params[0][0] - before) <= 0.1 * math.pi / 2
    assert before - spike.params[0][0] == pytest.approx(0.1 * math.pi / 2, rel=1e-6)


def test_adam_atan2_is_nearly_adam_where_the_ratio_is_small() -> None:
    rng = np.random.default_rng(101)
    steps = [rng.normal(size=6) + np.array([0, 0, 0, 50, 50, 50]) * (-1) ** t for t in range(60)]
    method = AdamAtan2([np.zeros(6)], lr=0.1, b=100.0, a=100.0, weight_decay=0.3)
    for g in steps:
        method.step([g])
    np.testing.assert_allclose(method.params[0], adam(np.zeros(6), steps, 0.1, 0.9, 0.999, 0.0, 0.3), rtol=1e-3)
