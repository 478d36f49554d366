"""XGrad, FAdam, Coupled Adam, Adam+CM, NovoGrad, Ranger21, LOMO and AdaLomo against closed forms and identities."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .optimizers.adalomo import LOMO, AdaLomo
from .optimizers.adam import Adam, AdaMax
from .optimizers.adam_cm import AdamCM
from .optimizers.adamw import AdamW
from .optimizers.coupled_adam import CoupledAdam
from .optimizers.fadam import FAdam
from .optimizers.novograd import NovoGrad
from .optimizers.ranger21 import Ranger21, centralised, clipped, unit_norm
from .optimizers.xgrad import SGD, RMSProp, XGrad, adam_direction, adamax_direction, momentum_direction

Array = NDArray[np.float64]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def close(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def adam_trajectory(
    theta: Array, grads: Sequence[Array], *, lr: float, betas: tuple[float, float], eps: float = 1e-8
) -> list[Array]:
    beta1, beta2 = betas
    m, v, trajectory = np.zeros_like(theta), np.zeros_like(theta), []
    for t, g in enumerate(grads, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        theta = theta - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
        trajectory.append(theta)
    return trajectory


# All of them


@pytest.mark.parametrize(
    "make",
    [
        SGD,
        RMSProp,
        FAdam,
        lambda params: CoupledAdam(params, embeddings=[0]),
        AdamCM,
        NovoGrad,
        lambda params: Ranger21(params, t_max=10),
        LOMO,
        AdaLomo,
    ],
)
def test_a_tensor_without_gradient_stays_and_returns_with_the_step_it_would_have_taken(
    make: Callable[[list[Array]], Any],
) -> None:
    given = [draw(0, 3, 2), draw(1, 2)]
    late, prompt = make(given), make(given)
    late.step([None, draw(4, 2)])
    assert np.array_equal(late.params[0], draw(0, 3, 2))
    for rule in (late, prompt):
        rule.step([draw(2, 3, 2), None])
        rule.step([draw(3, 3, 2), None])
    close(late.params[0], prompt.params[0])
    close(prompt.params[1], draw(1, 2))
    assert not np.allclose(late.params[1], draw(1, 2))
    close(given[0], draw(0, 3, 2))


# XGrad

CURVATURE = np.array([1.0, 100.0])


def slope(params: list[Array]) -> list[Array]:
    return [CURVATURE * w for w in params]


def test_xgrad_with_momentum_steps_predicts_the_parameters_of_nesterov() -> None:
    lr, momentum = 0.01, 0.9
    rule = XGrad(SGD([np.ones(2)], lr=lr, momentum=momentum), momentum_direction, prediction_steps=momentum)
    w, b = np.ones(2), np.zeros(2)
    for _ in range(50):
        close(rule.predicted()[0], w)
        rule.step(slope)
        g = CURVATURE * w
        b = momentum * b + g
        w = w - lr * (g + momentum * b)


RULES = [
    (lambda p: SGD(p, lr=0.01, weight_decay=0.1), momentum_direction),
    (lambda p: RMSProp(p, lr=0.01, momentum=0.5), momentum_direction),
    (lambda p: RMSProp(p, lr=0.01), momentum_direction),
    (lambda p: Adam(p, lr=0.01), adam_direction),
    (lambda p: AdamW(p, lr=0.01, weight_decay=0.1, decay_times_lr=True), adam_direction),
    (lambda p: AdaMax(p, lr=0.01), adamax_direction),
]


@pytest.mark.parametrize(("make", "direction"), RULES)
def test_xgrad_without_prediction_is_the_rule_bit_for_bit(make: Callable[..., Any], direction: Any) -> None:
    rule, plain = XGrad(make([np.ones(2)]), direction, prediction_steps=0), make([np.ones(2)])
    for _ in range(20):
        rule.step(slope)
        plain.step(slope(plain.params))
        assert np.array_equal(rule.params[0], plain.params[0])


@pytest.mark.parametrize(("make", "direction"), RULES)
def test_xgrad_restores_the_weights_and_predicts_with_the_coming_learning_rate(
    make: Callable[..., Any], direction: Any
) -> None:
    rule, seen = XGrad(make([np.array([0.3, -0.7])]), direction, prediction_steps=3), []

    def gradient_at(params: list[Array]) -> list[Array]:
        seen.append(params[0])
        return slope(params)

    start = rule.params[0]
    rule.step(gradient_at)
    assert np.array_equal(seen[0], start)
    plain = make([start])
    plain.step(slope([start]))
    assert np.array_equal(rule.params[0], plain.params[0])

    move = rule.params[0] - (start if not isinstance(plain, AdamW) else start * (1 - 0.01 * 0.1))
    rule.lr = plain.lr = 0.002
    before = rule.params[0].copy()
    close(rule.predicted()[0], before + 3 * move / 5)
    assert np.array_equal(rule.params[0], before)
    rule.step(gradient_at)
    plain.step(slope([seen[1]]))
    assert np.array_equal(rule.params[0], plain.params[0])


def test_xgrad_directions_of_the_second_step_by_hand() -> None:
    g1, g2 = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    adam, adamax = Adam([np.zeros(2)], betas=(0.9, 0.99)), AdaMax([np.zeros(2)], betas=(0.9, 0.99))
    rmsprop = RMSProp([np.zeros(2)], alpha=0.9, momentum=0.5)
    assert adam_direction(adam, 0) is adamax_direction(adamax, 0) is momentum_direction(rmsprop, 0) is None
    for rule in (adam, adamax, rmsprop):
        rule.step([g1])
        rule.step([g2])
    m_hat = (0.09 * g1 + 0.1 * g2) / (1 - 0.81)
    v_hat = (0.0099 * g1**2 + 0.01 * g2**2) / (1 - 0.9801)
    close(adam_direction(adam, 0), m_hat / (np.sqrt(v_hat) + 1e-8))
    close(adamax_direction(adamax, 0), m_hat / np.array([3.0, 1.98]))
    first, second = g1 / (np.abs(g1) * np.sqrt(0.1) + 1e-8), g2 / (np.sqrt(0.09 * g1**2 + 0.1 * g2**2) + 1e-8)
    close(momentum_direction(rmsprop, 0), 0.5 * first + second)


@pytest.mark.parametrize(("s", "lr"), [(0.0, 0.01), (0.9, 0.01), (1.0, 0.01), (2.0, 0.01), (1.0, 0.015)])
def test_xgrad_on_a_quadratic_converges_where_its_linear_map_contracts(s: float, lr: float) -> None:
    rule = XGrad(SGD([np.ones(2)], lr=lr, momentum=0.9), momentum_direction, prediction_steps=s)
    radius = 0.0
    for h in CURVATURE:
        b_row = np.array([h, 0.9 - s * lr * h])  # b' from (w, b)
        step = np.array([[1.0, 0.0] - lr * b_row, b_row])
        radius = max(radius, float(np.abs(np.linalg.eigvals(step)).max()))
    for _ in range(400):
        rule.step(slope)
    assert (np.linalg.norm(rule.params[0]) < 1e-6) == (radius < 1)
    assert (radius < 1) == (s <= 1 and lr < 0.015)


# FAdam


def test_fadam_first_step_is_a_tenth_of_the_sign() -> None:
    g = draw(0, 4, 3)
    rule = FAdam([np.ones((4, 3))], lr=0.2, eps=0.0, weight_decay=0.0)
    rule.step([g])
    close(rule.params[0], 1 - 0.1 * 0.2 * np.sign(g))
    close(rule.f[0], g**2)


def test_fadam_fisher_information_is_the_corrected_second_moment_of_adam() -> None:
    rule, v = FAdam([np.zeros(5)], betas=(0.9, 0.99)), np.zeros(5)
    for t in range(1, 30):
        g = draw(t, 5) * t
        rule.step([g])
        v = 0.99 * v + 0.01 * g**2
        close(rule.f[0], v / (1 - 0.99**t))


def test_fadam_with_power_zero_is_sgd_with_averaged_gradients() -> None:
    rule = FAdam([np.zeros(3)], lr=0.1, eps=0.0, weight_decay=0.0, clip=np.inf, p=0.0)
    w, m = np.zeros(3), np.zeros(3)
    for t in range(10):
        g = draw(t, 3)
        m = 0.9 * m + 0.1 * g
        w = w - 0.1 * m
        rule.step([g])
        close(rule.params[0], w)


@pytest.mark.parametrize("clip", [0.25, 1.0, 2.0])
def test_fadam_clips_only_what_is_longer(clip: float) -> None:
    rule = FAdam([np.full(4, 0.01)], betas=(0.0, 0.999), lr=1.0, weight_decay=0.0, clip=clip)
    rule.step([np.full(4, 0.5)])
    close(rms(rule.m[0]), min(1.0, clip), 1e-7)
    rule.step([np.full(4, 500.0)])
    close(rms(rule.m[0]), min(500 / np.sqrt(rule.f[0][0]), clip), 1e-9)


def test_fadam_preconditions_and_clips_the_decay() -> None:
    theta, g = np.array([3.0, -4.0]), np.array([2.0, 10.0])
    rule = FAdam([theta], lr=0.1, eps=0.0, weight_decay=0.5)
    rule.step([g])
    w = theta / np.abs(g)
    assert rms(w) > 1
    close(rule.params[0], theta - 0.1 * (0.1 * np.sign(g) + 0.5 * w / rms(w)))


def test_fadam_epsilon_shrinks_with_small_gradients() -> None:
    for g, eps in ((np.full(2, 1e-3), 1e-4), (np.full(2, 5.0), 0.1)):
        rule = FAdam([np.zeros(2)], eps=0.1, betas=(0.0, 0.9))
        rule.step([g])
        close(rule.m[0], g / (g + eps))


def test_fadam_stays_without_any_gradient() -> None:
    rule = FAdam([np.ones(2)])
    rule.step([np.zeros(2)])
    close(rule.params[0], np.ones(2))
    rule.step([np.array([1.0, 0.0])])
    assert np.all(np.isfinite(rule.params[0]))


# Coupled Adam


def test_coupled_adam_keeps_the_mean_of_an_output_embedding() -> None:
    vocabulary, width = 12, 5
    start = draw(0, vocabulary, width)
    coupled = CoupledAdam([start], embeddings=[0], lr=0.05, weight_decay=0.0)
    plain = CoupledAdam([start], embeddings=[], lr=0.05, weight_decay=0.0)
    frequency = 1 / np.arange(1, vocabulary + 1)
    rng = np.random.default_rng(1)
    for _ in range(60):
        hidden, label = rng.normal(size=width) + 1, rng.choice(vocabulary, p=frequency / frequency.sum())
        for rule in (coupled, plain):
            logits = rule.params[0] @ hidden
            p = np.exp(logits - logits.max())
            p /= p.sum()
            p[label] -= 1
            rule.step([np.outer(p, hidden)])
    close(coupled.params[0].mean(axis=0), start.mean(axis=0), 1e-13)
    assert np.abs(plain.params[0].mean(axis=0) - start.mean(axis=0)).max() > 0.01


def test_coupled_adam_may_store_the_averaged_second_moment() -> None:
    rule, averaged = CoupledAdam([np.zeros((4, 3))], embeddings=[0]), np.zeros((4, 3))
    for t in range(1, 15):
        g = draw(t, 4, 3)
        rule.step([g])
        averaged = np.broadcast_to(np.mean(0.95 * averaged + 0.05 * g**2, axis=0), (4, 3))
        close(rule.second_moment(0), averaged[:1])


def test_coupled_adam_is_adamw_for_other_tensors_and_for_equal_rows() -> None:
    rule = CoupledAdam([np.ones((3, 2)), np.ones((3, 2))], embeddings={1}, lr=0.1)
    rule_of_equal_rows = CoupledAdam([np.ones((3, 2))], embeddings={0}, lr=0.1, weight_decay=0.0)
    row = [draw(t, 2) for t in range(8)]
    theta, m, v = np.ones((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    for t in range(1, 9):
        g = draw(10 + t, 3, 2)
        rule.step([g, g])
        rule_of_equal_rows.step([np.tile(row[t - 1], (3, 1))])
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        theta = (1 - 0.1 * 0.1) * theta - 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        close(rule.params[0], theta)
    assert not np.allclose(rule.params[0], rule.params[1])
    expected = adam_trajectory(np.ones((3, 2)), [np.tile(g, (3, 1)) for g in row], lr=0.1, betas=(0.9, 0.95))[-1]
    close(rule_of_equal_rows.params[0], expected)


def test_coupled_adam_scale_divides_the_step_by_its_root_at_every_step() -> None:
    moves = []
    for avg_scale in (1.0, 4.0):
        rule = CoupledAdam([np.zeros((4, 3))], embeddings=[0], eps=0.0, avg_scale=avg_scale)
        for t in range(10):
            before = rule.params[0] * (1 - rule.lr * rule.weight_decay)
            rule.step([draw(t, 4, 3)])
            moves.append(rule.params[0] - before)
    close(moves[:10], 2 * np.array(moves[10:]))


# Adam+CM


def test_adam_cm_without_buffer_and_first_moment_is_adam() -> None:
    grads = [draw(t, 4) for t in range(12)]
    rule = AdamCM([np.ones(4)], lr=0.1, betas=(0.0, 0.9), capacity=0)
    for g, theta in zip(grads, adam_trajectory(np.ones(4), grads, lr=0.1, betas=(0.0, 0.9)), strict=True):
        rule.step([g])
        close(rule.params[0], theta)


def test_adam_cm_without_buffer_builds_the_second_moment_from_the_first() -> None:
    rule, m, v = AdamCM([np.zeros(3)], capacity=0), np.zeros(3), np.zeros(3)
    for t in range(10):
        g = draw(t, 3)
        rule.step([g])
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * m**2
        close(rule.v[0], v)


def test_adam_cm_first_two_steps_by_hand() -> None:
    g1, g2 = np.array([2.0, -3.0]), np.array([1.0, 1.0])
    rule = AdamCM([np.zeros(2)], lr=0.01, eps=0.0)
    rule.step([g1])
    close(rule.params[0], -0.1 * np.sign(g1))
    close(rule.momenta[0], [0.1 * g1])
    close(rule.priorities[0], [0.7 * np.sqrt(13)])
    rule.step([g2])
    m = 0.09 * g1 + 0.1 * g2
    a = m + 0.1 * g1
    close(rule.m[0], m)
    v_hat = (0.999 * 0.001 * (0.1 * g1) ** 2 + 0.001 * a**2) / (1 - 0.999**2)
    close(rule.params[0], -0.1 * np.sign(g1) - 0.01 * a / (1 - 0.81) / np.sqrt(v_hat))
    close(rule.priorities[0], [0.49 * np.sqrt(13), 0.7 * np.sqrt(2)])


def test_adam_cm_keeps_copies_of_the_momenta_of_the_largest_decayed_norms() -> None:
    decay, capacity = 0.7, 3
    rule = AdamCM([np.zeros(4)], capacity=capacity, decay=decay)
    kept: list[tuple[float, Array]] = []
    m = np.zeros(4)
    replaced = ignored = 0
    for t in range(40):
        g = draw(t, 4) * np.exp(draw(100 + t, 1))
        mean = np.mean([x for _, x in kept], axis=0) if kept else np.zeros(4)
        close(rule.mean_momentum(0), mean)
        m = 0.9 * m + 0.1 * g
        norm = float(np.linalg.norm(g))
        if len(kept) == capacity:
            kept.sort(key=lambda entry: entry[0])
            if norm > kept[0][0]:
                replaced += 1
                kept.pop(0)
            else:
                ignored += 1
        if len(kept) < capacity:
            kept.append((norm, m))
        kept = [(decay * priority, x) for priority, x in kept]
        rule.step([g])
        close(sorted(rule.priorities[0]), sorted(priority for priority, _ in kept))
    assert replaced > 3
    assert ignored > 3


def test_adam_cm_priority_is_shared_by_the_tensors_or_their_own() -> None:
    grads = [np.array([3.0, 4.0]), np.array([12.0])]
    for synced, norms in ((True, [17.0, 17.0]), (False, [5.0, 12.0])):
        rule = AdamCM([np.zeros(2), np.zeros(1)], synced=synced, decay=1.0)
        rule.step(grads)
        close(rule.priorities, np.reshape(norms, (2, 1)))


def test_adam_cm_as_the_code_starts_it_stores_the_first_gradient_and_does_not_move() -> None:
    g1, g2 = np.array([2.0, -3.0]), np.array([1.0, 1.0])
    rule = AdamCM([np.ones(2)], lr=0.01, eps=1e-14, gradient_first=True)
    rule.step([g1])
    assert not np.any([rule.params[0] - 1, rule.m[0], rule.v[0]])
    close(rule.momenta[0], [g1])
    rule.step([g2])
    a = 0.1 * g2 + g1
    close(rule.params[0], 1 - 0.01 * np.sign(a) * np.sqrt(1 - 0.999**2) / np.sqrt(0.001) / (1 - 0.81))


# NovoGrad


def test_novograd_does_not_feel_the_scale_of_the_gradient_of_a_tensor() -> None:
    start = [draw(0, 3, 4), draw(1, 4)]
    plain, scaled = (NovoGrad(start, lr=0.05, eps=0.0, weight_decay=0.01) for _ in range(2))
    for t in range(50):
        grads = [draw(2 * t + 2, 3, 4), draw(2 * t + 3, 4)]
        plain.step(grads)
        scaled.step([1024.0 * grads[0], grads[1] / 1024.0])
    for a, b in zip(plain.params, scaled.params, strict=True):
        assert np.array_equal(a, b)


def test_novograd_without_memory_takes_steps_of_unit_norm() -> None:
    rule = NovoGrad([np.zeros((3, 4))], lr=0.3, betas=(0.0, 0.0), eps=0.0)
    for t in range(5):
        before, g = rule.params[0], draw(t, 3, 4)
        rule.step([g])
        close(rule.params[0], before - 0.3 * g / np.linalg.norm(g))


def test_novograd_first_two_steps_by_hand() -> None:
    w, g1, g2 = np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([0.0, 2.0])
    rule = NovoGrad([w], lr=0.1, eps=0.0, weight_decay=0.5)
    rule.step([g1])
    assert rule.v == [25.0]
    m = g1 / 5 + 0.5 * w
    close(rule.m[0], m)
    w = w - 0.1 * m
    rule.step([g2])
    close(rule.v[0], 0.98 * 25 + 0.02 * 4)
    close(rule.params[0], w - 0.1 * (0.95 * m + g2 / np.sqrt(0.98 * 25 + 0.02 * 4) + 0.5 * w))


def test_novograd_momentum_is_a_sum_unless_averaged() -> None:
    g = draw(0, 6)
    for grad_averaging, factor in ((False, 1.0), (True, 0.05)):
        rule = NovoGrad([np.zeros(6)], eps=0.0, grad_averaging=grad_averaging)
        for _ in range(9):
            rule.step([g])
        close(rule.m[0], factor * (1 - 0.95**9) / 0.05 * g / np.linalg.norm(g))


def test_novograd_with_amsgrad_divides_by_the_largest_moment() -> None:
    rule = NovoGrad([np.zeros(1)], betas=(0.0, 0.5), eps=0.0, amsgrad=True)
    for g in (1.0, 10.0, 0.0, 2.0):
        rule.step([np.array([g])])
    close(rule.v_max[0], 50.5)
    close(rule.m[0], 2.0 / np.sqrt(50.5))


def test_novograd_starts_with_the_first_gradient_that_is_not_zero() -> None:
    rule = NovoGrad([np.zeros(2)])
    rule.step([np.zeros(2)])
    close(rule.params[0], np.zeros(2))
    rule.step([np.array([3.0, 4.0])])
    assert rule.v == [25.0]


# Ranger21


def plain_ranger21(params: list[Array], **settings: Any) -> Ranger21:
    """Without clipping, noise, decay, lookahead and schedule."""
    flat = {"tau_clipping": np.inf, "beta0": 0.0, "weight_decay": 0.0, "k_lookahead": 10**9}
    return Ranger21(params, **{**flat, "t_max": 10**9, "t_warmup": 1e-9, "t_warmdown": 1e-9, **settings})


def test_ranger21_without_its_parts_is_adam() -> None:
    grads = [draw(0, 5) * 1.2**t for t in range(10)]  # v grows, so that the maximum is v
    rule = plain_ranger21([np.ones(5)], lr=0.1, betas=(0.0, 0.9))
    for g, theta in zip(grads, adam_trajectory(np.ones(5), grads, lr=0.1, betas=(0.0, 0.9)), strict=True):
        rule.step([g])
        close(rule.params[0], theta)


def test_ranger21_positive_negative_momentum_of_a_constant_gradient() -> None:
    g, beta0 = draw(0, 4), 0.9
    rule = plain_ranger21([np.zeros(4)], lr=1.0, beta0=beta0, eps=0.0)
    for t in range(1, 12):
        before = rule.params[0]
        rule.step([g])
        m, m_previous = (1 - 0.81 ** ((t + 1) // 2)), (1 - 0.81 ** (t // 2))
        close(rule.m[0], m * g)
        size = ((1 + beta0) * m - beta0 * m_previous) / (1 - 0.9**t) / np.sqrt((1 + beta0) ** 2 + beta0**2)
        close(rule.params[0] - before, -size * np.sign(g))


def test_ranger21_second_moment_does_not_fall() -> None:
    rule = plain_ranger21([np.zeros(1)], betas=(0.0, 0.5), lr=1.0, eps=0.0)
    for g in (4.0, 0.0, 0.0, 1.0):
        before = rule.params[0]
        rule.step([np.array([g])])
    close(rule.v_max[0], 8.0)
    close(rule.params[0] - before, -1.0 / np.sqrt(8.0 / (1 - 0.5**4)))


def test_ranger21_schedule_is_linear_up_flat_and_linear_to_zero() -> None:
    rule = Ranger21([np.zeros(1)], t_max=1000, lr=2.0)
    rates = np.array([rule.eta(t) for t in range(1, 1001)])
    close(rates[:220], 2.0 * np.arange(1, 221) / 220)
    close(rates[219:720], np.full(501, 2.0))
    close(rates[719:], 2.0 * np.arange(280, -1, -1) / 280)
    assert rule.eta(1001) == 0
    long = Ranger21([np.zeros(1)], t_max=100_000, lr=2.0)
    close([long.eta(t) for t in (1, 1000, 2000, 2001)], [0.001, 1.0, 2.0, 2.0])
    brief = Ranger21([np.zeros(1)], t_max=2, lr=2.0)
    close([brief.eta(t) for t in (1, 2)], [2.0, 0.0])


def test_ranger21_step_follows_the_schedule_and_ends_still() -> None:
    rule, moves = Ranger21([np.zeros((2, 2))], t_max=20, lr=0.1, k_lookahead=100, weight_decay=0.0), []
    g = np.array([[1.0, -1.0], [0.5, -0.5]])
    for _ in range(20):
        before = rule.params[0]
        rule.step([g])
        moves.append(rms(rule.params[0] - before))
    assert np.argmax(moves) not in (0, 19)
    assert moves[-1] == 0


def test_ranger21_clips_units_by_their_own_weights() -> None:
    theta, g = draw(0, 4, 3, 2), draw(1, 4, 3, 2)
    theta[0] = 0.0
    g[1] *= 1e-4
    out = clipped(g, theta, 0.01, 1e-3)
    limit = 0.01 * np.maximum(np.linalg.norm(theta.reshape(4, -1), axis=1), 1e-3)
    norm = np.linalg.norm(g.reshape(4, -1), axis=1)
    close(np.linalg.norm(out.reshape(4, -1), axis=1), np.minimum(norm, limit))
    assert np.array_equal(out[1], g[1])
    close(np.linalg.norm(clipped(draw(2, 5), np.ones(5), 0.01, 1e-3)), 0.01 * np.sqrt(5))
    assert np.array_equal(clipped(np.zeros((2, 2)), np.zeros((2, 2)), 0.01, 1e-3), np.zeros((2, 2)))


def test_ranger21_centralises_units_and_leaves_vectors() -> None:
    g = draw(0, 4, 3, 2)
    close(centralised(g).mean(axis=(1, 2)), np.zeros(4))
    assert np.array_equal(centralised(draw(1, 5)), draw(1, 5))
    rule = Ranger21([draw(2, 4, 3)], t_max=30, weight_decay=0.0)
    for t in range(12):
        rule.step([draw(3 + t, 4, 3)])
    close(rule.m[0].sum(axis=1), np.zeros(4))


def test_ranger21_decay_by_hand_with_one_mean_for_all_tensors() -> None:
    theta = [np.array([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]]), np.array([0.0, 0.5])]
    grads = [np.array([[1.0, -1.0], [2.0, -2.0], [0.0, 0.0]]), np.array([3.0, 1.0])]
    decayed = plain_ranger21(theta, lr=0.1, weight_decay=0.01)
    plain = plain_ranger21(theta, lr=0.1)
    decayed.step(grads)
    plain.step(grads)
    mean = (2 * 1 + 2 * 4 + 9 + 1) / 8  # v^ = g^2 at the first step
    factor = 0.1 / np.sqrt(mean) * 0.01
    close(plain.params[0] - decayed.params[0], factor * np.array([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]]), 1e-14)
    close(plain.params[1] - decayed.params[1], factor * np.array([0.0, -0.5]), 1e-14)
    close(unit_norm(theta[0]), [[5.0], [1.0], [0.0]])


def test_ranger21_without_any_gradient_stays() -> None:
    rule = Ranger21([np.full((2, 3), 2.0)], t_max=100)
    rule.step([np.zeros((2, 3))])
    rule.step([None])
    close(rule.params[0], np.full((2, 3), 2.0))


def test_ranger21_lookahead_returns_half_way_every_fifth_step() -> None:
    start = draw(0, 4)
    slow, fast = plain_ranger21([start], lr=0.1, k_lookahead=5), plain_ranger21([start], lr=0.1)
    for t in range(1, 6):
        g = draw(t, 4)
        slow.step([g])
        fast.step([g])
        if t < 5:
            close(slow.params[0], fast.params[0])
    close(slow.params[0], (start + fast.params[0]) / 2)
    close(slow.slow[0], slow.params[0])


# LOMO and AdaLomo


def test_lomo_is_gradient_descent_with_decoupled_decay() -> None:
    w, g = draw(0, 3, 2), draw(1, 3, 2)
    rule = LOMO([w], lr=0.1, weight_decay=0.5)
    rule.step([g])
    close(rule.params[0], 0.95 * w - 0.1 * g)


def test_lomo_clips_by_the_norm_over_all_tensors() -> None:
    grads = [np.array([3.0, 0.0]), np.array([[4.0]])]
    for limit, factor in ((1.0, 1 / (5 + 1e-6)), (10.0, 1.0)):
        rule = LOMO([np.zeros(2), np.zeros((1, 1))], lr=1.0, clip_grad_norm=limit)
        rule.step(grads)
        close(rule.params[0], -factor * grads[0])
        close(rule.params[1], -factor * grads[1])
    rule = LOMO([np.zeros(2)], lr=1.0, clip_grad_norm=1.5, clip_grad_value=1.0)
    rule.step([np.array([3.0, 0.0])])
    close(rule.params[0], [-1.5 / (3 + 1e-6), 0.0])


def test_adalomo_first_step_of_a_rank_one_gradient_is_its_sign() -> None:
    theta, g = draw(0, 4, 3), np.outer(draw(1, 4), draw(2, 3))
    rule = AdaLomo([theta], lr=0.1, weight_decay=0.2)
    rule.step([g])
    close(rule.second_moment(0), g**2)
    eta = 0.1 * rms(theta)
    close(rule.params[0], (1 - 0.2 * eta) * theta - eta * np.sign(g))


def test_adalomo_update_is_at_most_the_learning_rate_times_the_size_of_the_tensor() -> None:
    shapes = [(4, 3), (5,), (2, 3, 4), ()]
    rule = AdaLomo([np.asarray(draw(i, *shape)) for i, shape in enumerate(shapes)], lr=0.1)
    for t in range(12):
        before = [p.copy() for p in rule.params]
        rule.step([np.asarray(draw(10 * t + i, *shape)) * 10.0 ** (t % 4) for i, shape in enumerate(shapes)])
        for old, new in zip(before, rule.params, strict=True):
            assert rms(new - old) <= 0.1 * max(1e-3, rms(old)) * (1 + 1e-9)


def test_adalomo_second_moment_has_the_means_of_its_rows_and_columns() -> None:
    rule, r, c, v = AdaLomo([draw(0, 4, 3), draw(1, 5)]), np.zeros(4), np.zeros(3), np.zeros(5)
    for t in range(1, 10):
        g, h = draw(t, 4, 3), draw(20 + t, 5)
        rule.step([g, h])
        beta = 1 - t**-0.8
        r, c = beta * r + (1 - beta) * (g**2).mean(axis=1), beta * c + (1 - beta) * (g**2).mean(axis=0)
        v = beta * v + (1 - beta) * h**2
        close(rule.second_moment(0).mean(axis=1), r)
        close(rule.second_moment(0).mean(axis=0), c)
        close(rule.second_moment(1), v)


def test_adalomo_moves_zero_tensors_a_thousandth_of_the_learning_rate() -> None:
    rule = AdaLomo([np.zeros(4)], lr=0.5)
    rule.step([np.array([1.0, -2.0, 3.0, -4.0])])
    close(rule.params[0], 0.5e-3 * np.array([-1.0, 1.0, -1.0, 1.0]))
    rule = AdaLomo([np.ones((2, 2))])
    rule.step([np.zeros((2, 2))])
    close(rule.params[0], np.ones((2, 2)))


@pytest.mark.parametrize("make", [LOMO, AdaLomo])
def test_lomo_one_tensor_after_another_is_all_at_once(make: Callable[..., Any]) -> None:
    start = [draw(0, 3, 2), draw(1, 4), draw(2, 2, 2)]
    fused, whole = make(start, weight_decay=0.1), make(start, weight_decay=0.1)
    for t in range(5):
        grads = [draw(10 * t + i, *p.shape) for i, p in enumerate(start)]
        whole.step(grads)
        for i in (2, 1, 0):
            fused.step([grads[i] if i == j else None for j in range(3)])
    for a, b in zip(fused.params, whole.params, strict=True):
        assert np.array_equal(a, b)
