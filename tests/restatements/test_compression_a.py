"""TernGrad, 1-bit Adam, Distributed Lion, DeMo, Just One Byte, FedZip and FedVote against closed forms and by hand.

Independent sources: integrals over a grid of the draws, SciPy's cosine transform, the inequality of prefix codes,
the restatements of Adam and Lion, and steps worked out on paper.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.fft import dctn

from .compression import demo, distributed_lion, fedvote, fedzip, just_one_byte, onebit_adam, terngrad
from .optimizers.adam import Adam
from .optimizers.lion import Lion

Array = NDArray[np.float64]


def draw(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def uniform(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).uniform(size=shape)


def grid(n: int) -> Array:
    """The midpoints of n equal parts of [0, 1): a mean over them is an integral over the draw, to 1 / n."""
    return (np.arange(n) + 0.5) / n


def close(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


# TernGrad


def test_terngrad_clips_at_population_deviations_about_zero() -> None:
    g = np.array([1.0, 2.0, 3.0, -10.0])  # mean -1, squared deviations 4, 9, 16, 81: sigma^2 = 27.5
    sigma = np.sqrt(27.5)
    close(terngrad.clip(g, 0.5), [1.0, 2.0, 0.5 * sigma, -0.5 * sigma])
    close(terngrad.clip(g, 2.5), g)
    close(terngrad.clip(g, None), g)


@pytest.mark.parametrize("entry", [0.75, -0.25, 1.0, 0.0])
def test_terngrad_is_unbiased_with_the_stated_variance(entry: float) -> None:
    s, n = 2.0, 4000
    trits = terngrad.ternarise(np.full(n, entry), s, grid(n))
    close(s * trits.mean(), entry)
    close((s * trits).var(), terngrad.variance(np.array(entry), s))
    shares = [np.mean(trits == value) for value in (-1, 0, 1)]
    close(terngrad.probabilities(np.array(entry), s), shares)


def test_terngrad_squared_norm_is_scale_times_first_norm() -> None:
    g = draw(1, 7)
    s = terngrad.shared_scale([g])
    close(np.sum(terngrad.variance(g, s) + g**2), s * np.abs(g).sum())


def test_terngrad_sends_the_largest_entry_with_certainty_and_zero_never() -> None:
    g = np.array([2.0, 0.0, -2.0])
    for u in (0.0, 1 - 2.0**-53):
        assert terngrad.ternarise(g, 2.0, np.full(3, u)).tolist() == [1, 0, -1]
    assert terngrad.ternarise(np.array([1.0]), 2.0, np.array([0.5])).tolist() == [0]
    assert terngrad.ternarise(np.zeros(3), 0.0, np.zeros(3)).tolist() == [0, 0, 0]
    close(terngrad.probabilities(np.zeros(1), 0.0), [[0.0], [1.0], [0.0]])
    close(terngrad.probabilities(np.array([-0.1]), 0.4), [[0.25], [0.75], [0.0]])


def test_terngrad_step_of_two_workers_by_hand() -> None:
    rule = terngrad.TernGrad([np.zeros(2), np.zeros(2)], lr=0.5, momentum=0.5, c=None, full_precision=[1])
    gradients = [[np.array([4.0, -1.0]), np.array([1.0, 2.0])], [np.array([0.5, 2.0]), np.array([3.0, 6.0])]]
    draws = [[np.array([0.9, 0.3]), np.zeros(2)], [np.array([0.1, 0.4]), np.zeros(2)]]
    messages = rule.step(gradients, draws)
    # s = 4: worker 0 sends 4 (1) and -1 (0.25 <= 0.3: no); worker 1 sends 0.5 (0.125 > 0.1) and 2 (0.5 > 0.4)
    assert [m[0].values.tolist() for m in messages] == [[1, 0], [1, 1]]
    assert [m[0].scale for m in messages] == [4.0, 4.0]
    close(rule.params[0], [-2.0, -1.0])
    close(rule.params[1], [-1.0, -2.0])
    rule.step([[np.zeros(2), np.zeros(2)]] * 2, draws)
    close(rule.params[0], [-3.0, -1.5])


def test_terngrad_without_shared_scales_gives_each_worker_its_own() -> None:
    gradients = [[np.array([4.0, 0.0])], [np.array([0.0, -1.0])]]
    messages = terngrad.push(gradients, [[np.zeros(2)]] * 2, c=None, shared=False)
    assert [m[0].scale for m in messages] == [4.0, 1.0]
    close(terngrad.pull(messages)[0], [2.0, -0.5])
    close(terngrad.pull(messages[1:]), [[0.0, -1.0]])


def test_terngrad_takes_the_scale_after_clipping() -> None:
    g = np.concatenate([np.ones(99), [100.0]])
    (message,) = terngrad.push([[g]], [[np.zeros(100)]])[0]
    assert message.scale == pytest.approx(2.5 * g.std())


@pytest.mark.parametrize("size", [1, 3, 4, 5, 11, 20])
def test_terngrad_packings_lose_nothing_and_have_their_size(size: int) -> None:
    trits = np.random.default_rng(size).integers(-1, 2, size)
    two, three = terngrad.pack_two_bits(trits), terngrad.pack_base_three(trits)
    assert terngrad.unpack_two_bits(two, size).tolist() == trits.tolist()
    assert terngrad.unpack_base_three(three, size).tolist() == trits.tolist()
    assert 8 * len(two) + 32 == terngrad.two_bit_push(size)
    assert 8 * len(three) + 32 == terngrad.base_three_push(size)
    assert terngrad.least_bits(size, 3) == int(np.ceil(size * np.log2(3)))
    assert terngrad.least_bits(size, 3) <= 8 * len(three)


def test_terngrad_sum_of_trits_reaches_all_and_only_2n_plus_1_levels() -> None:
    sums = {sum(t) for t in product((-1, 0, 1), repeat=4)}
    assert len(sums) == 9
    assert terngrad.least_bits(1, 9) == 4
    assert terngrad.least_bits(100, 9) == int(np.ceil(100 * np.log2(9)))


# 1-bit Adam


def test_onebit_keeps_signs_and_the_norm_of_every_piece() -> None:
    u = np.array([3.0, -4.0, 0.0, 0.0, -6.0])
    close(onebit_adam.one_bit(u, [2]), [np.sqrt(12.5), -np.sqrt(12.5), np.sqrt(12), np.sqrt(12), -np.sqrt(12)])
    close(np.linalg.norm(onebit_adam.one_bit(u)), np.linalg.norm(u))


def test_onebit_warmup_is_adam_on_the_mean_gradient() -> None:
    rule = onebit_adam.OneBitAdam(draw(0, 4), 3, lr=0.02, warmup=6)
    adam = Adam([draw(0, 4)], lr=0.02)
    for t in range(6):
        grads = draw(10 + t, 3, 4)
        rule.step(grads)
        adam.step([grads.mean(axis=0)])
        close(rule.x, adam.params[0])
    close(rule.v, adam.v[0] / (1 - 0.999**6))


def test_onebit_without_bias_correction_starts_like_the_released_code() -> None:
    rule = onebit_adam.OneBitAdam(np.zeros(1), 1, lr=1.0, warmup=2, betas=(0.5, 0.75), eps=0.0, bias_correction=False)
    rule.step(np.array([[2.0]]))  # m = 1, v = 1
    close(rule.x, [-1.0])
    rule.step(np.array([[0.0]]))  # m = 1/2, v = 3/4
    close(rule.x, [-1.0 - 0.5 / np.sqrt(0.75)])
    close(rule.v, [0.75])


def test_onebit_with_the_identity_is_adam_with_frozen_second_moment() -> None:
    rule = onebit_adam.OneBitAdam(draw(0, 5), 3, lr=0.02, warmup=2, compress=onebit_adam.identity)
    for t in range(2):
        rule.step(draw(10 + t, 3, 5))
    x, m, v = rule.x, rule.m, rule.v
    for t in range(5):
        grads = draw(20 + t, 3, 5)
        rule.step(grads)
        m = 0.9 * m + 0.1 * grads.mean(axis=0)
        x = x - 0.02 * m / (np.sqrt(v) + 1e-8)
        close(rule.x, x)
    close(rule.worker_error, 0.0)


def test_onebit_second_phase_by_hand() -> None:
    rule = onebit_adam.OneBitAdam(np.zeros(2), 2, lr=0.5, warmup=0, betas=(0.5, 0.999), eps=0.0)
    rule.v = np.array([4.0, 1.0])
    sent, answer = rule.step(np.array([[6.0, 8.0], [2.0, -2.0]]))
    # u = (3, 4) and (1, -1): norms 5 and sqrt 2, so q = (5, 5) / sqrt 2 and (1, -1)
    a = 5 / np.sqrt(2)
    close(sent, [[a, a], [1, -1]])
    close(rule.worker_error, [[3 - a, 4 - a], [0, 0]])
    # s = ((a + 1) / 2, (a - 1) / 2), |s|^2 = (a^2 + 1) / 2 = 6.75, scale sqrt(6.75 / 2)
    scale = np.sqrt(3.375)
    close(answer, [scale, scale])
    close(rule.server_error, [(a + 1) / 2 - scale, (a - 1) / 2 - scale])
    close(rule.x, [-0.5 * scale / 2, -0.5 * scale])
    inputs = rule.step(np.zeros((2, 2)))[0] + rule.worker_error
    close(inputs, [[scale / 2 + 3 - a, scale / 2 + 4 - a], [scale / 2, scale / 2]])


def test_onebit_errors_telescope_at_workers_and_server() -> None:
    rule = onebit_adam.OneBitAdam(draw(0, 6), 3, lr=0.02, warmup=3, worker_cuts=[2], server_cuts=[4])
    inputs, sent, means, answers = np.zeros((3, 6)), np.zeros((3, 6)), np.zeros(6), np.zeros(6)
    for t in range(20):
        grads = draw(t, 3, 6)
        momentum = rule.m
        q, answer = rule.step(grads)
        if t >= 3:
            inputs += 0.9 * momentum + 0.1 * grads
            sent, means, answers = sent + q, means + q.mean(axis=0), answers + answer
    assert np.abs(rule.worker_error).max() > 1e-3
    close(sent, inputs - rule.worker_error)
    close(answers, means - rule.server_error)


def test_onebit_mask_holds_coordinates_without_second_moment() -> None:
    rule = onebit_adam.OneBitAdam(np.ones(3), 2, lr=0.01, warmup=2)
    for t in range(8):
        rule.step(draw(t, 2, 3) * np.array([1.0, 1.0, 0.0]))
    assert rule.x[2] == 1.0
    assert np.all(np.abs(rule.x - 1) < 1)
    assert rule.m[2] == 0
    assert np.all(rule.m[:2] != 0)


def test_onebit_feedback_off_leaves_no_error() -> None:
    rule = onebit_adam.OneBitAdam(np.ones(3), 2, lr=0.01, warmup=1, feedback=False)
    for t in range(3):
        rule.step(draw(t, 2, 3))
    close(rule.worker_error, 0.0)
    close(rule.server_error, 0.0)


def test_onebit_ratio_of_variances_exceeds_one_while_the_average_fills_up() -> None:
    rule = onebit_adam.OneBitAdam(np.zeros(1), 1, lr=0.1, warmup=99, betas=(0.9, 0.5), bias_correction=False)
    history = []
    for _ in range(3):
        rule.step(np.ones((1, 1)))
        history.append(rule.v)
    assert onebit_adam.variance_ratio(history[2], history[0]) == pytest.approx((7 / 8) / (1 / 2))


def test_onebit_sizes() -> None:
    assert onebit_adam.message_bits(1000, 4) == 1128
    assert onebit_adam.total_bits(1000, 10, 4) == 4 * 32000 + 6 * 1032
    assert onebit_adam.total_bits(1000, 3, 4) == 96000


# Distributed Lion


@pytest.mark.parametrize("aggregation", ["majority", "average"])
@pytest.mark.parametrize("workers", [1, 4])
def test_distributed_lion_with_one_gradient_is_lion_bit_for_bit(aggregation: Any, workers: int) -> None:
    settings: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3}
    rule = distributed_lion.DistributedLion(draw(0, 5), workers, aggregation=aggregation, **settings)
    lion = Lion([draw(0, 5)], **settings)
    for t in range(12):
        g = draw(10 + t, 5)
        g[0] = 0.0
        rule.step(np.tile(g, (workers, 1)))
        lion.step([g])
        assert np.array_equal(rule.x, lion.params[0])


def test_distributed_lion_two_steps_of_three_workers_by_hand() -> None:
    rules = [
        distributed_lion.DistributedLion(np.ones(2), 3, lr=0.1, betas=(0.5, 0.25), weight_decay=0.5, aggregation=how)
        for how in ("majority", "average")
    ]
    first = np.array([[4.0, 1.0], [4.0, -1.0], [-4.0, -1.0]])
    for rule, answer in zip(rules, ([1.0, -1.0], [1 / 3, -1 / 3]), strict=True):
        signs, got = rule.step(first)
        close(signs, np.sign(first))
        close(got, answer)
        close(rule.x, 1 - 0.1 * (np.array(answer) + 0.5))
        close(rule.m, 0.75 * first)
    # delta = sign(m / 2 + g / 2) with m = 0.75 first = (+-3, +-0.75): 2 does not turn 3, but turns 0.75
    signs, _ = rules[0].step(np.array([[-2.0, -2.0], [2.0, 2.0], [2.0, 2.0]]))
    close(signs, [[1, -1], [1, 1], [-1, 1]])


def test_distributed_lion_zeros_and_ties() -> None:
    deltas = np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    close(distributed_lion.aggregate(deltas, "majority"), [0, 1, 0])
    close(distributed_lion.aggregate(deltas, "majority", tie=-1), [-1, 1, -1])
    close(distributed_lion.sign(np.array([0.0, -2.0, 3.0]), -1), [-1, -1, 1])
    rule = distributed_lion.DistributedLion(np.zeros(1), 2, lr=1.0, zero=-1, tie=1)
    assert rule.step(np.zeros((2, 1)))[0].tolist() == [[-1], [-1]]
    assert rule.x.tolist() == [1.0]


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("zero", [0.0, -1.0])
@pytest.mark.parametrize("tie", [0.0, -1.0])
def test_distributed_lion_counts_the_symbols_that_occur(workers: int, zero: float, tie: float) -> None:
    symbols = (-1.0, 0.0, 1.0) if zero == 0 else (-1.0, 1.0)
    assert distributed_lion.levels_up(zero) == len(symbols)
    deltas = np.array(list(product(symbols, repeat=workers))).T
    for how in ("majority", "average"):
        answers = set(np.round(distributed_lion.aggregate(deltas, how, tie), 9).tolist())
        assert distributed_lion.levels_down(workers, how, zero=zero, tie=tie) == len(answers)


def test_distributed_lion_sizes() -> None:
    assert distributed_lion.fixed_width(100, 2) == 100
    assert distributed_lion.fixed_width(100, 5) == 300
    assert distributed_lion.least_bits(100, 5) == int(np.ceil(100 * np.log2(5)))
    assert distributed_lion.least_bits(100, 4) == 200


def test_distributed_lion_keeps_zeros_and_the_published_rates_unless_told() -> None:
    assert distributed_lion.sign(np.zeros(1)).tolist() == [0.0]
    assert (distributed_lion.levels_up(), distributed_lion.levels_down(2, "majority")) == (3, 3)
    rule = distributed_lion.DistributedLion(np.ones(1), 2, lr=1.0)
    rule.step(np.array([[1.0], [-1.0]]))
    assert rule.x.tolist() == [1.0]
    rule.step(np.zeros((2, 1)))
    close(rule.m, [[0.0099], [-0.0099]])


# DeMo


@pytest.mark.parametrize(("n", "target", "length"), [(128, 64, 64), (10, 64, 10), (96, 64, 48), (67, 64, 1), (6, 4, 3)])
def test_demo_chunk_is_the_largest_divisor(n: int, target: int, length: int) -> None:
    assert demo.chunk_length(n, target) == length


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_demo_matrix_of_cosines_is_orthonormal_and_the_published_transform(n: int) -> None:
    close(demo.dct_matrix(n) @ demo.dct_matrix(n).T, np.eye(n))
    x = draw(n, n)
    close(demo.dct_matrix(n) @ x, dctn(x, type=2, norm="ortho"))
    close(demo.dct_matrix(2), np.array([[1, 1], [1, -1]]) / np.sqrt(2))


def test_demo_transforms_chunk_by_chunk_in_rows_of_chunks() -> None:
    x = draw(0, 4, 6)
    coefficients = demo.transform(x, 3)
    assert coefficients.shape == (4, 6)  # chunks of 2 x 3
    for number, (i, j) in enumerate(product((0, 2), (0, 3))):
        close(coefficients[number], dctn(x[i : i + 2, j : j + 3], norm="ortho").ravel())
    vector = draw(1, 10)
    close(demo.transform(vector, 5)[1], dctn(vector[5:], norm="ortho"))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (12,), (4, 6), (5, 7), (4, 3, 2, 2)])
def test_demo_inverse_undoes_the_transform(shape: tuple[int, ...]) -> None:
    x = draw(3, *shape)
    close(demo.inverse(demo.transform(x, 4), shape, 4), x)
    close(np.sum(demo.transform(x, 4) ** 2), np.sum(x**2))


def test_demo_merges_only_over_those_who_sent() -> None:
    messages = [
        demo.Message(np.array([[0, 2]]), np.array([[4.0, 1.0]])),
        demo.Message(np.array([[2, 3]]), np.array([[3.0, -5.0]])),
    ]
    close(demo.merged(messages, 4), [[4.0, 0.0, 2.0, -5.0]])


def test_demo_top_k_takes_magnitudes_and_lower_indices_first() -> None:
    message = demo.top_k(np.array([[1.0, -3.0, 3.0, 2.0]]), 2)
    assert message.indices.tolist() == [[1, 2]]
    assert message.values.tolist() == [[-3.0, 3.0]]
    assert demo.top_k(np.array([[1.0, 2.0]]), 9).indices.tolist() == [[1, 0]]


def test_demo_step_of_two_workers_by_hand() -> None:
    r = np.sqrt(2)
    rule = demo.DeMo([np.array([10.0, 20.0])], 2, lr=0.5, decay=0.5, k=1, chunk=2, weight_decay=0.2)
    messages = rule.step([[np.array([6.0, 2.0])], [np.array([-1.0, 5.0])]])
    # delta (3, 1) and (-0.5, 2.5); coefficients (4, 2) / r and (2, -3) / r: 0 by the first, 1 by the second
    assert [m[0].indices.tolist() for m in messages] == [[[0]], [[1]]]
    close([m[0].values[0, 0] for m in messages], [4 / r, -3 / r])
    close(rule.delta[0][0], [1.0, -1.0])  # what is left of (3, 1) without its mean 2
    close(rule.delta[1][0], [1.0, 1.0])
    close(rule.Q[0], [2 - 1.5, 2 + 1.5])
    close(rule.params[0], [0.9 * 10 - 0.5, 0.9 * 20 - 0.5])
    messages = rule.step([[np.zeros(2)], [np.zeros(2)]])
    close([m[0].values[0, 0] for m in messages], [1 / r, 1 / r])  # halves of (1, -1) and (1, 1)
    close(rule.Q[0], [1.0, 0.0])


def test_demo_stays_where_nothing_was_sent() -> None:
    rule = demo.DeMo([np.ones(4)], 2, lr=0.1, k=1, chunk=2)
    rule.step([[np.array([0.0, 0.0, 1.0, 1.0])]] * 2)
    close(rule.params[0], [1.0, 1.0, 0.9, 0.9])


def test_demo_momentum_is_what_was_sent_and_what_is_left_at_right_angles() -> None:
    rule = demo.DeMo([draw(0, 4, 6)], 3, lr=0.1, decay=0.9, k=2, chunk=3)
    for t in range(5):
        grads = [[draw(10 * t + i, 4, 6)] for i in range(3)]
        before = [0.9 * d[0] + 0.1 * g[0] for d, g in zip(rule.delta, grads, strict=True)]
        messages = rule.step(grads)
        for i in range(3):
            q = demo.inverse(demo.merged([messages[i][0]], 6), (4, 6), 3)
            close(before[i], q + rule.delta[i][0])
            close(np.sum(q * rule.delta[i][0]), 0.0)
            assert np.all(np.count_nonzero(np.abs(demo.transform(q, 3)) > 1e-12, axis=1) == 2)


def test_demo_that_sends_everything_is_sign_descent_without_momentum() -> None:
    rule = demo.DeMo([np.zeros((4, 4))], 1, lr=0.1, k=16, chunk=4)
    x = np.zeros((4, 4))
    for t in range(4):
        g = draw(t, 4, 4)
        rule.step([[g]])
        x = x - 0.1 * np.sign(g)
        close(rule.params[0], x)
        close(rule.delta[0][0], 0.0)


def test_demo_learning_rate_in_the_momentum_cancels_under_the_sign() -> None:
    rules = [demo.DeMo([draw(0, 6)], 2, lr=0.25, decay=0.9, k=2, chunk=6, lr_in_momentum=inside) for inside in (1, 0)]
    for t in range(6):
        grads = [[draw(10 + 2 * t + i, 6)] for i in range(2)]
        for rule in rules:
            rule.step(grads)
    close(rules[0].params[0], rules[1].params[0])
    close(rules[0].delta[0][0], 0.25 * rules[1].delta[0][0])


def test_demo_lost_messages_are_left_out_of_the_mean_alone() -> None:
    grads = [[draw(i, 6)] for i in range(3)]
    some, alone = demo.DeMo([np.zeros(6)], 3, lr=1.0, k=2), demo.DeMo([np.zeros(6)], 1, lr=1.0, k=2)
    everyone = demo.DeMo([np.zeros(6)], 3, lr=1.0, k=2)
    some.step(grads, received=[1])
    alone.step([grads[1]])
    everyone.step(grads)
    close(some.Q[0], alone.Q[0])
    assert not np.allclose(some.Q[0], everyone.Q[0])
    close(some.delta[0][0], everyone.delta[0][0])


def test_demo_sizes() -> None:
    assert demo.message_bits((128, 256), 64, 32) == 8 * 32 * (12 + 32)
    assert demo.message_bits((10,), 64, 3) == 3 * (4 + 32)
    assert demo.least_message_bits((10,), 64, 3) == 7 + 3 * 32  # 120 subsets
    assert demo.least_message_bits((6, 6), 6, 99) == 36 * 32
    assert demo.message_bits((67,), 64, 1) == 67 * 32  # 67 chunks of one entry


# Just One Byte


def test_byte_is_within_half_a_step_and_keeps_the_sign() -> None:
    for rho in np.concatenate([np.exp(np.linspace(-63.4 / 16, 63.4 / 16, 301)), [1.0]]):
        for signed in (rho, -rho):
            back = just_one_byte.decode(just_one_byte.encode(float(signed)))
            assert np.sign(back) == np.sign(signed)
            assert abs(np.log(abs(back)) - np.log(rho)) <= 1 / 32 + 1e-12


def test_byte_by_hand() -> None:
    assert just_one_byte.encode(1.0) == 0
    assert just_one_byte.encode(-1.0) == 128
    assert just_one_byte.encode(float(np.exp(1))) == 16
    assert just_one_byte.encode(-float(np.exp(-1 / 16))) == 128 + 127
    assert just_one_byte.encode(0.0) == 64
    assert just_one_byte.decode(64) == just_one_byte.decode(192) == 0.0
    assert just_one_byte.decode(just_one_byte.encode(1e9)) == pytest.approx(np.exp(63 / 16))
    assert just_one_byte.decode(just_one_byte.encode(-1e-9)) == pytest.approx(-np.exp(-63 / 16))
    assert just_one_byte.decode(just_one_byte.encode(0.0, lowest=-64), lowest=-64) == pytest.approx(np.exp(-4))


def test_all_bytes_come_back_but_the_second_zero() -> None:
    for byte in range(256):
        assert just_one_byte.encode(just_one_byte.decode(byte)) == (64 if byte == 192 else byte)
        back = just_one_byte.encode(just_one_byte.decode(byte, lowest=-64), lowest=-64)
        assert back == byte


@pytest.mark.parametrize("rho", [np.nan, np.inf])
def test_byte_refuses_what_is_no_number(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        just_one_byte.encode(rho)


CURVATURE = np.diag([1.0, 3.0, 0.5])


def bowl(theta: Array, *which: int) -> float:
    return float(theta @ CURVATURE @ theta / 2 + sum(which) * theta.sum())


def test_central_difference_of_a_quadratic_is_the_projection_and_averages_to_the_gradient() -> None:
    theta = np.array([1.0, -2.0, 4.0])
    estimates = []
    for z in np.sqrt(3) * np.eye(3):
        rho = just_one_byte.projected_gradient(bowl, theta, z, 0.1)
        close(rho, z @ CURVATURE @ theta, 1e-10)
        estimates.append(rho * z)
    close(np.mean(estimates, axis=0), CURVATURE @ theta, 1e-10)


def test_second_moment_of_the_estimate_by_quadrature() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    g, total = np.array([2.0, -0.5]), 0.0
    for (a, wa), (b, wb) in product(zip(nodes, weights, strict=True), repeat=2):
        z = np.array([a, b])
        total += wa * wb / (2 * np.pi) * float((g @ z) ** 2 * (z @ z))
    close(just_one_byte.second_moment(g), total, 1e-10)


def direction(t: int, machine: int, sample: int) -> Array:
    return np.random.default_rng([5, t, machine, sample]).normal(size=3)


def test_bytes_are_applied_by_time_of_joining_then_sample() -> None:
    entry = just_one_byte.in_order({1: [0], 2: [128, 16], 3: [0]}, {1: 9.0, 2: 3.0, 3: 9.0})
    assert entry == [(2, [128, 16]), (1, [0]), (3, [0])]
    moves = [-direction(7, 2, 0), np.e * direction(7, 2, 1), direction(7, 1, 0), direction(7, 3, 0)]
    theta = np.array([1.0, 2.0, 3.0])
    close(just_one_byte.apply(theta, 7, entry, direction, 0.8), theta - 0.2 * sum(moves))
    close(just_one_byte.apply(theta, 7, entry, direction, 0.8, root=True), theta - 0.4 * sum(moves))
    assert just_one_byte.apply(theta, 7, [], direction, 0.8) is theta


def test_run_uses_what_was_sent_and_only_of_those_present() -> None:
    present = [[0, 1], [0, 1, 2], [1, 2], []]
    trajectory, log = just_one_byte.run(
        np.array([1.0, -1.0, 0.5]), present, {0: 0.0, 1: 0.0, 2: 1.0}, direction, bowl, lr=0.05, samples_each=2
    )
    for t, machines in enumerate(present):
        theta = trajectory[t]
        assert [a for a, _ in log[t]] == machines
        estimates = []
        for a, j in product(machines, range(2)):
            z = direction(t, a, j)
            rho = float(z @ (CURVATURE @ theta + t + a + j))
            rounded = np.sign(rho) * np.exp(np.clip(np.round(16 * np.log(abs(rho))), -63, 63) / 16)
            estimates.append(rounded * z)
        close(trajectory[t + 1], theta - 0.05 * np.mean(estimates, axis=0) if estimates else theta, 1e-10)


def test_newcomer_replays_the_log_or_its_end_to_the_same_bits() -> None:
    trajectory, log = just_one_byte.run(
        np.array([1.0, -1.0, 0.5]), [[0], [0, 1], [0, 1], [1]], {0: 1.0, 1: 0.0}, direction, bowl, lr=0.05
    )
    assert [a for a, _ in log[1]] == [1, 0]
    for start in range(4):
        theta = just_one_byte.replay(trajectory[start], log[start:], direction, 0.05, start=start)
        assert just_one_byte.digest(theta) == just_one_byte.digest(trajectory[-1])
    wrong = just_one_byte.replay(trajectory[1], log[1:], direction, 0.05)
    assert just_one_byte.digest(wrong) != just_one_byte.digest(trajectory[-1])


def test_digest_sees_every_entry() -> None:
    theta = np.zeros(5000)
    changed = theta.copy()
    changed[2500] = 1e-9
    assert just_one_byte.digest(theta) != just_one_byte.digest(changed)
    assert str(theta) == str(changed)  # what a hash of the printed tensor would compare


def test_just_one_byte_sizes() -> None:
    assert just_one_byte.bits_sent(3, 5) == 120
    assert just_one_byte.bits_sent(3, 5, links=True) == 240


# FedZip


def test_top_z_keeps_so_many_of_largest_magnitude() -> None:
    x = np.array([[1.0, -5.0, 2.0], [5.0, -2.0, 0.5]])
    close(fedzip.top_z(x, 3), [[0, -5, 2], [5, 0, 0]])
    assert [fedzip.kept(n, z) for n, z in ((10, 0.2), (100, 0.01), (10, 0.01), (7, 1.0))] == [2, 1, 1, 7]


def test_k_means_by_hand() -> None:
    x = np.array([0.0, 1.0, 4.0, 10.0])  # centroids 0, 5, 10: labels 0, 0, 1, 2; then 0.5, 4, 10
    labels, centroids = fedzip.k_means(x, iterations=1)
    assert labels.tolist() == [0, 0, 1, 2]
    close(centroids, [0.5, 4.0, 10.0])
    labels, centroids = fedzip.k_means(np.array([0.0, 3.0, 5.6, 10.0]), iterations=4)
    # 0 | 3, 5.6 | 10, of centroids 0, 4.3, 10: nothing moves
    assert labels.tolist() == [0, 1, 1, 2]
    close(centroids, [0.0, 4.3, 10.0])


def test_k_means_keeps_the_centroid_of_an_empty_cluster() -> None:
    labels, centroids = fedzip.k_means(np.array([0.0, 0.0, 8.0]))
    assert labels.tolist() == [0, 0, 2]
    close(centroids, [0.0, 4.0, 8.0])
    labels, centroids = fedzip.k_means(np.full(4, 2.0))
    assert labels.tolist() == [0, 0, 0, 0]
    close(centroids, 2.0)


def test_k_means_at_its_fixed_point_has_means_and_nearest_centroids() -> None:
    x = draw(0, 10, 20) ** 3
    labels, centroids = fedzip.k_means(x, iterations=200)
    close(centroids, [x[labels == c].mean() for c in range(3)])
    assert np.array_equal(labels, np.argmin([np.abs(x - c) for c in centroids], axis=0))
    assert np.all(np.diff(centroids) > 0)


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [
        ((1, 7, 2), [2, 1, 2]),
        ((0, 3, 5), [0, 1, 1]),
        ((4, 0, 0), [0, 0, 0]),
        ((1, 1, 2, 4), [3, 3, 2, 1]),
        ((3, 3, 4, 4), [2] * 4),
    ],
)
def test_huffman_lengths(counts: tuple[int, ...], lengths: list[int]) -> None:
    assert fedzip.code_lengths(counts) == lengths
    if max(lengths):
        assert sum(2.0**-length for length in lengths if length) == 1.0
    codes = list(fedzip.canonical_codes(lengths).values())
    assert not any(a != b and b.startswith(a) for a in codes for b in codes)


def test_lengths_of_the_released_huffman_size_are_of_no_prefix_code() -> None:
    assert sum(2.0**-length for length in (2, 1, 1)) > 1


LABELS = [
    [1],
    [2, 2, 2],
    [0, 1, 0, 1, 1],
    [1, 1, 0, 1, 2, 2, 1, 1, 1, 0],
    [2, *[0] * 15, 1],
    [1, *[2] * 14, 0],
    *(np.random.default_rng(s).choice(3, 60, p=[0.05, 0.9, 0.05]).tolist() for s in range(3)),
]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("method", fedzip.METHODS)
def test_labels_come_back_from_their_bits(labels: list[int], method: Any) -> None:
    bits = fedzip.encode(np.array(labels), method)
    assert fedzip.decode(bits, len(labels), method).tolist() == labels


@pytest.mark.parametrize("labels", LABELS)
def test_sizes_are_those_of_the_bits_without_side_information(labels: list[int]) -> None:
    x, n = np.array(labels), len(labels)
    counts = sorted(labels.count(c) for c in range(3))
    assert len(fedzip.encode(x, "huffman")) == 6 + fedzip.huffman_bits(x)
    if counts[0]:
        assert fedzip.huffman_bits(x) == n + counts[0] + counts[1]
    lists = 2 + 2 * n.bit_length()
    assert len(fedzip.encode(x, "positions")) == lists + fedzip.position_bits(x)
    assert fedzip.position_bits(x) == (counts[0] + counts[1]) * int(np.ceil(np.log2(n)))
    assert len(fedzip.encode(x, "gaps")) == lists + 12 + fedzip.gap_bits(x)


def test_gaps_by_hand() -> None:
    labels = np.array([1, 1, 0, 1, 2, 2, 1, 1, 1, 0])
    assert fedzip.rarer(labels) == [[2, 9], [4, 5]]
    assert fedzip.skipped([2, 9]) == [2, 6]
    assert fedzip.gap_bits(labels) == 2 * 3 + 2 * 3  # 2 and 6; 4 and 0
    assert fedzip.length_coded_gap_bits(labels) == (2 * 2 + 2 + 3) + (2 * 2 + 3 + 0)
    assert fedzip.undecodable_gap_bits(labels) == (2 + 3) + (3 + 1)  # 2, 7; 4, 1
    assert fedzip.encode(labels, "gaps") == "01" + "0010" + "000011" + "010110" + "0010" + "000011" + "100000"


def test_least_widths_without_delimiters_stand_for_several_messages() -> None:
    messages: dict[str, int] = {}
    for gaps in product(range(1, 4), repeat=2):
        text = "".join(format(g, "b") for g in gaps)
        messages[text] = messages.get(text, 0) + 1
    assert messages["111"] == 2  # 1, 3 and 3, 1


def test_message_is_the_shortest_and_stands_for_the_centroids() -> None:
    delta = draw(4, 20, 30) ** 5
    message = fedzip.compress(delta, 0.05)
    labels, centroids = fedzip.k_means(fedzip.top_z(delta, 30))
    close(message.decoded(delta.shape), centroids[labels])
    assert message.size() == 98 + min(len(fedzip.encode(labels, method)) for method in fedzip.METHODS)
    zeroed = fedzip.compress(delta, 0.05, zero=True).decoded(delta.shape)
    middle = np.argmin(np.abs(centroids))
    close(zeroed, np.where(labels == middle, 0.0, centroids[labels]))


def test_fedzip_round_by_hand() -> None:
    first, second = np.array([0.0, 0.0, 9.0, -6.0, 1.0]), np.array([3.0, 0.0, 0.0, 0.0, 0.0])
    sent, none = fedzip.client([first], None, 0.4)
    assert none is None
    close(sent[0].decoded((5,)), [0, 0, 9, -6, 0])
    other, _ = fedzip.client([second], None, 0.4)
    (params,) = fedzip.server([np.ones(5)], [sent, other], [1, 3])
    close(params, 1 + np.array([9, 0, 9, -6, 0]) / 4)


def test_fedzip_feedback_telescopes_and_biases_are_not_pruned() -> None:
    total, sent = np.zeros(40), np.zeros(40)
    error: Any = [np.zeros(40), np.zeros(3)]
    bias = np.array([1.0, 2.0, 3.0])
    for t in range(6):
        delta = draw(t, 40)
        messages, error = fedzip.client([delta, bias], error, 0.1, biases=[1])
        total, sent = total + delta, sent + messages[0].decoded((40,))
        close(messages[1].decoded((3,)), bias)
    assert np.abs(error[0]).max() > 0.1
    close(total, sent + error[0])


# FedVote


@pytest.mark.parametrize("kind", ["binary", "ternary"])
def test_fedvote_votes_have_the_stated_law_and_moments(kind: Any) -> None:
    n = 4000
    for w in (-0.8, -0.25, 0.0, 0.5):
        votes = fedvote.sample(np.full(n, w), grid(n), kind)
        close(fedvote.probabilities(np.array(w), kind), [np.mean(votes == value) for value in (-1, 0, 1)])
        mean, variance = fedvote.soft_vote_moments(np.array([[w]]), kind)
        close(mean, votes.mean())
        close(variance, votes.var())


def test_fedvote_variance_falls_with_the_squares_of_the_weights() -> None:
    w, weights = np.array([[0.5, 0.0], [-0.5, 0.8]]), np.array([0.25, 0.75])
    mean, variance = fedvote.soft_vote_moments(w, "binary", weights)
    close(mean, [-0.25, 0.6])
    close(variance, [(0.0625 + 0.5625) * 0.75, 0.0625 + 0.5625 * 0.36])


def test_fedvote_boundaries_and_uniform_weights() -> None:
    assert fedvote.sample(np.array([0.5]), np.array([0.75]), "binary").tolist() == [-1]
    assert fedvote.sample(np.array([0.5]), np.array([0.5]), "ternary").tolist() == [0]
    w = np.array([[0.5], [-0.5], [0.0]])
    mean, variance = fedvote.soft_vote_moments(w, "ternary")
    close(mean, [0.0])
    close(variance, [(0.25 + 0.25) / 9])
    close(fedvote.soft_vote(np.array([[1.0], [1.0], [-1.0]])), [1 / 3])


def test_fedvote_inverse_undoes_phi_and_is_bounded_by_the_clip() -> None:
    h = np.linspace(-2, 2, 9)
    close(fedvote.phi_inverse(fedvote.phi(h)), h, 1e-10)
    close(fedvote.phi_inverse(np.array([1.0, -1.0])), np.array([1, -1]) * np.log(1.9999 / 1e-4) / 3)
    close(fedvote.phi_inverse(np.array([0.5]), a=0.5), np.log(3))


def test_fedvote_round_by_hand() -> None:
    rule = fedvote.FedVote(np.zeros(3), 4)
    votes = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    close(rule.round(votes), 0.25)
    close(rule.p, [1 - 1e-4, 0.5, 0.0])
    close(fedvote.phi(rule.h), rule.p)
    close(rule.h[1], np.log(3) / 3)
    assert rule.deployed().tolist() == [1, 1, -1]
    rule.round(-votes)
    close(rule.p, [-1 + 1e-4, -0.5, 0.0])


def test_fedvote_client_votes_by_its_own_latent_weights() -> None:
    rule = fedvote.FedVote(np.zeros(2), 1, a=0.5)
    h = np.arctanh(np.array([0.5, -0.5])) / 0.5
    assert rule.vote(h, np.array([0.74, 0.26])).tolist() == [1, -1]
    assert rule.vote(h, np.array([0.76, 0.24])).tolist() == [-1, 1]


def test_fedvote_local_gradient_goes_through_phi() -> None:
    target = np.array([0.6, -0.3])

    def loss(h: Array) -> float:
        return float(np.sum((fedvote.phi(h) - target) ** 2) / 2)

    h = np.array([0.2, 0.4])
    after = fedvote.local_update(h, lambda w, _: w - target, steps=3, lr=0.01)
    adam = Adam([h], lr=0.01)
    for _ in range(3):
        at = adam.params[0]
        slope = [(loss(at + 1e-6 * e) - loss(at - 1e-6 * e)) / 2e-6 for e in np.eye(2)]
        adam.step([np.array(slope)])
    close(after, adam.params[0], 1e-6)
    long = fedvote.local_update(h, lambda w, _: w - target, steps=3000, lr=0.01)
    close(fedvote.phi(long), target, 1e-4)


def test_fedvote_plurality_and_deployed_weights() -> None:
    votes = np.array([[1.0, 0.0, -1.0, 1.0], [0.0, 0.0, -1.0, -1.0], [1.0, -1.0, 0.0, 0.0]])
    assert fedvote.plurality(votes, "ternary").tolist() == [1, 0, -1, -1]
    assert fedvote.plurality(np.array([[1.0, 1.0], [-1.0, 1.0]]), "binary").tolist() == [-1, 1]
    p = np.array([0.4, -0.6, 0.51, -0.5])
    assert fedvote.deployed(p, "ternary").tolist() == [0, -1, 1, 0]
    for value in p[:3]:  # the most probable of -1, 0, 1
        likely = np.argmax(fedvote.probabilities(np.array(value), "ternary")) - 1
        assert fedvote.deployed(np.array(value), "ternary") == likely
    assert fedvote.deployed(np.array([0.4, -0.1, 0.0]), "binary").tolist() == [1, -1, -1]


def test_fedvote_reputation_by_hand() -> None:
    rule = fedvote.FedVote(np.zeros(4), 3, reputation=True, beta=0.75)
    votes = np.array([[1.0, 1.0, -1.0, 1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, -1.0]])
    weights = rule.round(votes)  # plurality 1, 1, -1, -1: agreement 3/4, 1, 1/4
    close(rule.nu, [0.75 + 0.25 * 0.75, 1.0, 0.75 + 0.25 * 0.25])
    close(weights, rule.nu / 2.75)
    close(rule.p, weights @ votes)
    before = rule.nu.copy()
    weights = rule.round(votes[:2], present=[0, 2])  # a tie is -1: agreement 3/4 and 1
    close(rule.nu, [0.75 * before[0] + 0.1875, 1.0, 0.75 * before[2] + 0.25])
    close(weights, rule.nu[[0, 2]] / rule.nu[[0, 2]].sum())


def test_fedvote_inverting_attackers_lose_weight_and_fall_below_the_mean() -> None:
    honest = np.tile(np.where(draw(0, 50) > 0, 1.0, -1.0), (3, 1))
    votes = np.concatenate([honest, -honest[:2]])
    rule = fedvote.FedVote(np.zeros(50), 5, reputation=True)
    for t in range(4):
        weights = rule.round(votes)
        lost = 0.5 ** (t + 1)
        close(weights, np.array([1, 1, 1, lost, lost]) / (3 + 2 * lost))
    close(fedvote.vote_weights(rule.nu, below_mean_out=True), [1 / 3, 1 / 3, 1 / 3, 0, 0])
    close(fedvote.vote_weights(np.full(7, 0.1), below_mean_out=True), 1 / 7)


def test_fedvote_sizes() -> None:
    assert fedvote.bits_up(100, "binary") == 100
    assert fedvote.bits_up(100, "ternary") == int(np.ceil(100 * np.log2(3)))
    assert fedvote.bits_down(100, 3, "binary") == 200
    assert [fedvote.bits_down(1, m, "binary") for m in (1, 4, 7, 8)] == [1, 3, 3, 4]
    assert [fedvote.bits_down(1, m, "ternary") for m in (1, 3, 4, 8)] == [2, 3, 4, 5]
    assert fedvote.bits_down(100, 4, "binary", uniform=False) == 3200
