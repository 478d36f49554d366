"""Restatements of compression, local-update and privacy methods against closed forms and steps by hand; NumPy only."""

from dataclasses import replace
from itertools import product
from math import comb, inf, log, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from .compression_b import (
    async_local_sgd,
    blockwise,
    l_greco,
    local_sgd_scaling,
    masha,
    powersgd,
    proxskip_vip,
    qsgd,
    rqm,
    savic,
    sign_error_feedback,
    sparsifiers,
)

Array = NDArray[np.float64]
close = np.testing.assert_allclose


def normal(*shape: int, seed: int = 31) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def uniform(*shape: int, seed: int = 32) -> Array:
    return np.random.default_rng(seed).random(shape)


def midpoints(n: int) -> Array:
    """n numbers that stand for the uniform distribution: k / n of them are below k / n."""
    return (np.arange(n) + 0.5) / n


# --- RQM and PBM


MECHANISMS = [(1.0, 1.0, 8, 0.3), (0.5, 0.2, 6, 0.8), (2.0, 5.0, 9, 0.45), (1.0, 0.3, 3, 0.6), (1.0, 0.5, 2, 0.5)]


@pytest.mark.parametrize("settings", MECHANISMS)
def test_rqm_pmf_is_that_of_all_sets_of_levels_and_decodes_to_x(settings):
    c, delta, m, _ = settings
    for x in [-c, -0.31 * c, 0.0, rqm.levels(c, delta, m)[m // 2], 0.77 * c, c]:
        if abs(x) > c:
            continue
        p = rqm.pmf(x, *settings)
        close(p, rqm.pmf_by_enumeration(x, *settings), atol=1e-15)
        assert p.sum() == pytest.approx(1.0, abs=1e-14)
        assert p @ rqm.levels(c, delta, m) == pytest.approx(x, abs=1e-14)
        close(p[::-1], rqm.pmf(-x, *settings), atol=1e-14)


def test_rqm_of_two_levels_is_unbiased_rounding_and_of_three_by_hand():
    # X = 2; x = 1 between -2 and 2: 3/4 up. Levels -2, 0, 2 with q = 1/4: kept -> 1/2, 1/2; dropped -> 1/4, 3/4.
    close(rqm.pmf(1.0, 1.0, 1.0, 2, 0.9), [0.25, 0.75])
    close(rqm.pmf(1.0, 1.0, 1.0, 3, 0.25), [0.75 * 0.25, 0.25 * 0.5, 0.75 * 0.75 + 0.25 * 0.5])
    assert rqm.variance(0.0, 1.0, 1.0, 2, 0.9) == pytest.approx(4.0)


def test_rqm_draws_have_the_exact_frequencies():
    c, delta, m, q, x = 1.0, 1.0, 4, 0.25, 0.4
    keep = np.array(list(product(midpoints(4), midpoints(4), midpoints(1000))))
    z = rqm.quantise(np.full(len(keep), x), keep[:, :2], keep[:, 2], c, delta, m, q)
    close(np.bincount(z, minlength=m) / len(z), rqm.pmf(x, c, delta, m, q), atol=5e-4)


def test_rqm_server_decodes_the_mean_and_clips():
    # Kept levels only at the ends, no rounding up for the first client, up for the second: z = 0 and 3.
    keep, rounding = np.ones((2, 1, 2)), np.array([[0.99], [0.0]])
    theta, codes = rqm.federated_step(np.array([1.0]), np.array([[-9.0], [9.0]]), keep, rounding, 0.5, 1.0, 1.0, 4, 0.5)
    assert codes.tolist() == [[0], [3]]
    close(theta, [1.0])
    close(rqm.decode(np.array([3]), 2, 1.0, 1.0, 4), [0.0])
    close(rqm.decode(np.array([0, 6]), 2, 1.0, 1.0, 4), [-2.0, 2.0])
    # x = 9 is clipped to 1, where up has probability 3/4 of the ends alone, not 1.
    assert rqm.quantise(np.array([9.0]), np.ones((1, 2)), np.array([0.76]), 1.0, 1.0, 4, 0.5).tolist() == [0]


def test_rqm_bits():
    assert rqm.bits_per_client(10, 16) == 40
    assert rqm.bits_per_client(10, 17) == 50
    assert rqm.bits_of_sum(1, 16, 40) == 10  # 601 values


@pytest.mark.parametrize("settings", [*MECHANISMS, (1.0, 1.0, 16, 0.2), (1.0, 0.05, 32, 0.05), (1.0, 0.1, 4, 0.1)])
def test_rqm_exact_epsilon_is_the_supremum_and_below_the_bound(settings):
    c = settings[0]
    table = np.array([rqm.pmf(x, *settings) for x in np.linspace(-c, c, 301)])
    on_grid = float(np.max(np.log(table.max(axis=0) / table.min(axis=0))))
    exact = rqm.exact_epsilon(*settings)
    assert on_grid <= exact + 1e-12
    assert on_grid > 0.99 * exact
    assert exact <= rqm.epsilon_bound(*settings)


def test_rqm_worst_inputs_are_not_always_the_ends():
    settings = (1.0, 1.0, 16, 0.2)
    ends = float(np.max(np.abs(np.log(rqm.pmf(1.0, *settings) / rqm.pmf(-1.0, *settings)))))
    assert ends == pytest.approx(2.8655, abs=1e-4)
    assert rqm.exact_epsilon(*settings) == pytest.approx(2.9106, abs=1e-4)


def test_rqm_bound_is_nearly_reached():
    assert rqm.exact_epsilon(1.0, 0.02, 4, 0.02) > rqm.epsilon_bound(1.0, 0.02, 4, 0.02) - 0.03


def test_rqm_is_private_only_with_room_beyond_the_clip():
    assert rqm.exact_epsilon(1.0, 1e-9, 8, 0.4) > 20
    assert rqm.exact_epsilon(1.0, 4.0, 8, 0.4) < rqm.exact_epsilon(1.0, 1.0, 8, 0.4)
    assert rqm.exact_epsilon(1.0, 1.0, 8, 0.3) < rqm.exact_epsilon(1.0, 1.0, 8, 0.4)
    assert rqm.variance(0.0, 1.0, 4.0, 8, 0.4) > rqm.variance(0.0, 1.0, 1.0, 8, 0.4)
    assert rqm.variance(0.0, 1.0, 1.0, 8, 0.3) > rqm.variance(0.0, 1.0, 1.0, 8, 0.4)


def test_sums_convolve_and_keep_tiny_probabilities():
    p = np.array([0.2, 0.5, 0.3])
    close(np.exp(rqm.log_pmf_of_sum([np.log(p)] * 3)), np.convolve(np.convolve(p, p), p))
    far = rqm.log_pmf_of_sum([np.log(np.array([1e-20, 1.0 - 1e-20]))] * 40)
    assert far[0] == pytest.approx(-800 * log(10))


def test_renyi_divergences():
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    lp, lq = np.log(p), np.log(q)
    assert rqm.renyi(lp, lq, 2) == pytest.approx(log(0.25 / 0.25 + 0.25 / 0.75))
    assert rqm.renyi(lp, lq, 1) == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3))
    assert rqm.renyi(lp, lq, inf) == pytest.approx(log(2))
    assert rqm.renyi(lp, lq, 0.5) == pytest.approx(-2 * log(sqrt(0.125) + sqrt(0.375)))
    assert rqm.renyi(lp, lq, 1 + 1e-7) == pytest.approx(rqm.renyi(lp, lq, 1), rel=1e-5)
    assert rqm.renyi(lp, np.array([0.0, -inf]), 2) == inf
    # Bernoulli products: the divergence of independent pairs adds.
    pair, other = np.outer(p, p).ravel(), np.outer(q, q).ravel()
    assert rqm.renyi(np.log(pair), np.log(other), 3) == pytest.approx(2 * rqm.renyi(lp, lq, 3))


def test_a_sum_hides_a_client():
    settings = (1.0, 1.5, 8, 0.4)
    alone = rqm.renyi_of_sum(1.0, -1.0, [], 2, *settings)
    assert alone == pytest.approx(rqm.renyi(np.log(rqm.pmf(1.0, *settings)), np.log(rqm.pmf(-1.0, *settings)), 2))
    hidden = rqm.renyi_of_sum(1.0, -1.0, [1.0] * 20, 2, *settings)
    assert rqm.renyi_of_sum(-1.0, 1.0, [1.0] * 20, 2, *settings) < hidden < 0.5 * alone


def against_pbm(delta: float, m: int, q: float, others: int) -> float:
    """D_2 of RQM over that of PBM with as many values and the same variance at 0, all others at c = 1."""
    theta = rqm.pbm_theta(rqm.variance(0.0, 1.0, delta, m, q), 1.0, m - 1)
    assert rqm.pbm_variance(0.0, 1.0, m - 1, theta) == pytest.approx(rqm.variance(0.0, 1.0, delta, m, q))
    ours = rqm.renyi_of_sum(1.0, -1.0, [1.0] * others, 2, 1.0, delta, m, q)
    return ours / rqm.pbm_renyi_of_sum(1.0, -1.0, [1.0] * others, 2, 1.0, m - 1, theta)


def test_rqm_reveals_less_than_pbm_at_equal_variance_in_some_settings_only():
    assert against_pbm(2.0, 16, 0.5, 30) < 0.95
    assert against_pbm(1.0, 16, 0.2, 30) > 1.2
    assert against_pbm(1.5, 8, 0.4, 20) > 1.1


def test_rqm_figures_of_forty_clients():
    # The divergences that others measured at equal variance: 0.486 against 0.588 with theta = 0.262.
    assert rqm.renyi_of_sum(1.0, -1.0, [1.0] * 39, 2, 1.0, 1.0, 16, 0.42) == pytest.approx(0.486, abs=5e-4)
    theta = rqm.pbm_theta(rqm.variance(0.0, 1.0, 1.0, 16, 0.42), 1.0, 15)
    assert theta == pytest.approx(0.262, abs=5e-4)
    assert rqm.pbm_renyi_of_sum(1.0, -1.0, [1.0] * 39, 2, 1.0, 15, theta) == pytest.approx(0.588, abs=5e-4)


def test_pbm_counts_trials_and_decodes_without_bias():
    assert rqm.pbm_quantise(np.array([0.5]), np.array([[0.1, 0.6, 0.63, 0.9]]), 1.0, 0.25).tolist() == [2]  # p = 5/8
    p = rqm.pbm_pmf(0.5, 1.0, 4, 0.25)
    close(p, [comb(4, z) * 5**z * 3 ** (4 - z) / 8**4 for z in range(5)])
    decoded = rqm.pbm_decode(np.arange(5), 1, 1.0, 4, 0.25)
    assert p @ decoded == pytest.approx(0.5)
    assert p @ (decoded - 0.5) ** 2 == pytest.approx(rqm.pbm_variance(0.5, 1.0, 4, 0.25))


# --- L-GreCo


def layers() -> list[Array]:
    rng = np.random.default_rng(71)
    shapes = [(12, 9), (7, 20), (16, 8), (10, 10)]
    return [
        scale * rng.normal(size=(n, m)) @ np.diag(decay ** np.arange(m))
        for (n, m), scale, decay in zip(shapes, [1.0, 3.0, 0.3, 2.0], [0.9, 0.6, 0.75, 0.95], strict=True)
    ]


def test_ranks_around_the_default():
    assert l_greco.candidate_ranks(4) == [2, 3, 4, 5, 6, 7, 8]
    assert l_greco.candidate_ranks(1) == [1, 2]


def test_errors_of_low_rank_approximations():
    G = normal(9, 6)
    U, sigma, V = np.linalg.svd(G, full_matrices=False)
    for rank in (1, 3, 6):
        best = (U[:, :rank] * sigma[:rank]) @ V[:rank]
        assert l_greco.singular_tail(G, rank) == pytest.approx(np.linalg.norm(G - best), abs=1e-12)
        power = l_greco.power_error(G, normal(6, rank, seed=2))
        assert power >= l_greco.singular_tail(G, rank) - 1e-12
        assert l_greco.power_error(G, normal(6, rank, seed=2), 400) == pytest.approx(
            l_greco.singular_tail(G, rank), abs=1e-9
        )
    errors, sizes = l_greco.rank_table([G], [2, 6, 7])
    assert sizes.tolist() == [[30, 90, inf]]
    assert errors[0, 2] == inf
    close(l_greco.error_table([G], [lambda x: x, lambda x: 0 * x]), [[0.0, np.linalg.norm(G)]])


def test_discretisation_rounds_up():
    e = l_greco.discretise(np.array([[0.0, 0.1, 0.1001, 1.0, 1.0001]]), 1.0, 10)
    assert e.tolist() == [[1, 1, 2, 10, 11]]


def test_knapsack_by_hand():
    # Budget 4: layer 0 costs 1 or 3, layer 1 costs 1 or 3; one of them may be cheap, better the second.
    e, sizes = np.array([[1, 3], [1, 3]]), np.array([[10.0, 8.0], [10.0, 1.0]])
    assert l_greco.knapsack(e, sizes, 4) == (11.0, [0, 1])
    assert l_greco.knapsack(e, sizes, 6) == (9.0, [1, 1])
    assert l_greco.knapsack(e, sizes, 1) == (inf, [])


@pytest.mark.parametrize("buckets", [40, 400])
def test_knapsack_is_the_brute_force_of_the_discretised_errors_and_between_two_of_the_true_ones(buckets):
    ranks = l_greco.candidate_ranks(4)
    errors, sizes = l_greco.rank_table(layers(), ranks)
    budget = float(errors[:, ranks.index(4)].sum())
    e = l_greco.discretise(errors, budget, buckets)
    size, chosen = l_greco.knapsack(e, sizes, buckets)
    assert size == l_greco.brute_force(e.astype(float), sizes, buckets)[0]
    assert size == sum(sizes[place] for place in enumerate(chosen))
    assert sum(errors[place] for place in enumerate(chosen)) <= budget
    assert l_greco.brute_force(errors, sizes, budget)[0] <= size
    assert size <= l_greco.brute_force(errors, sizes, budget * (1 - len(errors) / buckets))[0]
    assert size < sizes[:, ranks.index(4)].sum()
    # Brute force really prefers another place than the uniform one.
    assert chosen != [ranks.index(4)] * 4


def test_uniform_setting_is_kept_where_rounding_up_refuses_it():
    # Errors 1/3 and 2/3 of the budget: 4 + 7 > 10 buckets, and every other level is worse.
    errors, sizes = np.array([[1.0, 9.0], [2.0, 9.0]]), np.array([[5.0, 1.0], [5.0, 1.0]])
    e = l_greco.discretise(errors, 3.0, 10)
    assert l_greco.knapsack(e, sizes, 10) == (inf, [])
    assert l_greco.choose(errors, sizes, [0, 0], 1.0, 10) == [0, 0]
    # A dearer answer of the knapsack (levels of no error) is not taken either.
    exact = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 8.0], [5.0, 8.0]])
    assert l_greco.knapsack(l_greco.discretise(exact[0], 3.0, 10), exact[1], 10)[0] == 13.0
    assert l_greco.choose(*exact, [0, 0], 1.0, 10) == [0, 0]


def test_a_single_layer_may_not_break_the_budget_and_no_budget_takes_exact_levels():
    assert l_greco.choose(np.array([[1.0, 9.0]]), np.array([[5.0, 1.0]]), [0], 1.0, 10) == [0]
    assert l_greco.choose(np.array([[0.0, 0.0, 1.0]]), np.array([[5.0, 4.0, 1.0]]), [0], 1.0, 10) == [1]


# --- games


def matrices(M: int = 4, half: int = 3, seed: int = 51) -> Array:
    rng = np.random.default_rng(seed)

    def positive(low: float, high: float) -> Array:
        Q, _ = np.linalg.qr(rng.normal(size=(half, half)))
        return (Q * rng.uniform(low, high, half)) @ Q.T

    return np.stack(
        [masha.game(positive(0.1, 1), rng.normal(size=(half, half)) / 2, positive(0.1, 1)) for _ in range(M)]
    )


def affine_game(M: int = 4, half: int = 3, seed: int = 51):
    Ms, offsets = matrices(M, half, seed), normal(M, 2 * half, seed=seed + 1)
    solution = -np.linalg.solve(Ms.mean(axis=0), offsets.mean(axis=0))
    return Ms, [masha.affine(A, b) for A, b in zip(Ms, offsets, strict=True)], solution


def test_game_matrix_is_the_gradient_of_the_saddle_function():
    A, B, C = np.diag([1.0, 2.0]), np.array([[0.0, 3.0], [4.0, 0.0]]), np.diag([5.0, 6.0])
    x, y = np.array([1.0, -1.0]), np.array([2.0, 0.5])
    close(masha.game(A, B, C) @ np.concatenate([x, y]), np.concatenate([A @ x + B @ y, C @ y - B.T @ x]))


def sets_for(M: int, d: int, k: int, steps: int, seed: int = 5):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield np.stack([rng.permutation(d)[:k] for _ in range(M)]), rng.permutation(d)[:k], rng.random()


def test_both_methods_are_extragradient_when_nothing_is_dropped_and_w_follows():
    _, operators, _ = affine_game()
    d, full = 6, np.arange(6)
    z, one, two = normal(d), masha.start(normal(d), operators), masha.start(normal(d), operators)
    for _ in range(5):
        z = masha.extragradient_step(z, operators, 0.3)
        one, _ = masha.masha1_step(one, operators, 0.3, 0.0, np.tile(full, (4, 1)), full, True)
        two, _ = masha.masha2_step(two, operators, 0.3, 0.0, d, d, True)
        close(one.z, z, atol=1e-14)
        close(two.z, z, atol=1e-14)
    assert (one.floats_up, one.floats_down, one.indices_up) == (6 + 5 * 12, 6 + 5 * 12, 0)


def test_masha1_step_by_hand():
    # F_1(z) = z, F_2(z) = 3 z; F(z) = 2 z; z = (1, 2), w = (3, 0), tau = 1/4: z_bar = (2.5, 0.5).
    operators = [lambda z: z, lambda z: 3 * z]
    s = replace(masha.start(np.array([3.0, 0.0]), operators), z=np.array([1.0, 2.0]))
    s, messages = masha.masha1_step(s, operators, 0.1, 0.25, np.array([[0], [1]]), np.array([1]), False)
    # z_half = z_bar - (6, 0) / 10 = (1.9, 0.5); differences (-1.1, 0.5) and (-3.3, 1.5);
    # kept times 2: (-2.2, 0), (0, 3); mean (-1.1, 1.5) -> (0, 3).
    close(messages, [[-2.2, 0.0], [0.0, 3.0]])
    close(s.z, [1.9, 0.5 - 0.3])
    close(s.w, [3.0, 0.0])
    assert (s.floats_up, s.floats_down) == (3, 3)
    s = masha.refresh(s, operators, True)
    close(s.w, s.z)
    close(s.F_w, 2 * s.z)
    close(s.Fm_w, [s.z, 3 * s.z])
    assert (s.floats_up, s.floats_down) == (5, 5)


def test_masha2_step_by_hand():
    operators = [lambda z: z, lambda z: 3 * z]
    s = replace(
        masha.start(np.array([3.0, 0.0]), operators),
        z=np.array([1.0, 2.0]),
        errors=np.array([[0.0, 0.2], [0.0, 0.3]]),
        server_error=np.array([0.3, 0.0]),
    )
    s, messages = masha.masha2_step(s, operators, 0.1, 0.25, 1, 1, False)
    # Wanted (-0.11, 0.05 + 0.2) -> second; (-0.33, 0.15 + 0.3) -> second; mean (0, 0.35) plus (0.3, 0) -> second.
    close(messages, [[0.0, 0.25], [0.0, 0.45]])
    close(s.errors, [[-0.11, 0.0], [-0.33, 0.0]])
    close(s.server_error, [0.3, 0.0])
    close(s.z, [1.9, 0.5 - 0.35])
    assert (s.floats_up, s.floats_down, s.indices_up, s.indices_down) == (3, 3, 1, 1)


def test_masha1_message_is_unbiased_over_all_sets():
    x = normal(5)
    mean = np.mean([masha.rand_k(x, np.array([i, j])) for i in range(5) for j in range(5) if i != j], axis=0)
    close(mean, x)


def test_masha_converges_linearly_and_plain_compression_does_not():
    _, operators, solution = affine_game()
    d, k, M = 6, 2, 4
    one = two = masha.start(np.zeros(d), operators)
    plain, whole = np.zeros(d), masha.start(np.zeros(d), operators)
    for sets, server, u in sets_for(M, d, k, 1200):
        one, _ = masha.masha1_step(one, operators, 0.1, 1 - k / d, sets, server, u < k / d)
        two, _ = masha.masha2_step(two, operators, 0.1, 1 - k / d, k, k, u < k / d)
        plain = masha.compressed_descent_ascent_step(plain, operators, 0.02, sets, server)
        whole = masha.top_k_descent_ascent_step(whole, operators, 0.1, k, k)
    assert np.linalg.norm(one.z - solution) < 1e-8
    assert np.linalg.norm(two.z - solution) < 1e-8
    assert np.linalg.norm(plain - solution) > 1e-3
    assert np.linalg.norm(whole.z - solution) > 1e-3


def test_solution_is_a_fixed_point_of_masha_and_not_of_compressed_descent():
    _, operators, solution = affine_game()
    s = masha.start(solution, operators)
    sets, server, _ = next(sets_for(4, 6, 2, 1))
    close(masha.masha1_step(s, operators, 0.3, 0.5, sets, server, False)[0].z, solution, atol=1e-14)
    close(masha.masha2_step(s, operators, 0.3, 0.5, 2, 2, False)[0].z, solution, atol=1e-14)
    moved = masha.compressed_descent_ascent_step(solution, operators, 0.3, sets, server)
    assert np.linalg.norm(moved - solution) > 1e-3


# --- ProxSkip-VIP


def test_cocoercivity_of_normal_matrices_and_of_one_by_hand():
    # a I + b J: <Mu, u> = a |u|^2, |Mu|^2 = (a^2 + b^2) |u|^2.
    M = np.array([[2.0, 3.0], [-3.0, 2.0]])
    for function in (proxskip_vip.cocoercivity, proxskip_vip.cocoercivity_by_inverse, proxskip_vip.eigenvalue_estimate):
        assert function(M) == pytest.approx(13 / 2)
    assert proxskip_vip.cocoercivity(np.diag([1.0, 4.0, 0.0])) == pytest.approx(4.0)
    assert proxskip_vip.cocoercivity(np.array([[0.0, 1.0], [-1.0, 0.0]])) == inf
    assert proxskip_vip.cocoercivity(np.diag([1.0, -1.0])) == inf
    assert proxskip_vip.strong_monotonicity(np.array([[2.0, 1.0], [-3.0, 5.0]])) == pytest.approx(
        3.5 - sqrt(1.5**2 + 1)
    )


def test_eigenvalues_underestimate_the_cocoercivity_constant():
    for M in matrices():
        l = proxskip_vip.cocoercivity(M)
        assert l == pytest.approx(proxskip_vip.cocoercivity_by_inverse(M), rel=1e-9)
        for u in normal(200, 6):
            assert u @ M @ u >= np.sum((M @ u) ** 2) / l - 1e-12
        gap = np.linalg.eigvalsh((M + M.T) / 2 - M.T @ M / l)[0]
        assert gap == pytest.approx(0.0, abs=1e-12)
        estimate = proxskip_vip.eigenvalue_estimate(M)
        assert estimate < l
        assert np.linalg.eigvalsh((M + M.T) / 2 - M.T @ M / estimate)[0] < -1e-3


def test_proxskip_step_by_hand():
    x, h = np.array([[1.0], [3.0]]), np.array([[0.5], [-0.1]])
    g = np.array([[2.0], [4.0]])
    # x_hat = (1 - 0.1 * 1.5, 3 - 0.1 * 4.1) = (0.85, 2.59); gamma / p = 0.4; minus 0.4 h: (0.65, 2.63), mean 1.64.
    moved, same, sent = proxskip_vip.step(x, h, g, 0.1, 0.25, False)
    close(moved, [[0.85], [2.59]])
    close(same, h)
    assert sent == 0
    met, shifted, sent = proxskip_vip.step(x, h, g, 0.1, 0.25, True)
    close(met, [[1.64], [1.64]])
    close(shifted, [[0.5 + 2.5 * 0.79], [-0.1 - 2.5 * 0.95]])
    assert sent == 1
    clipped, shifted, _ = proxskip_vip.step(x, h, g, 0.1, 0.25, True, lambda mean: np.minimum(mean, 1.0))
    close(clipped, [[1.0], [1.0]])
    close(shifted, [[0.5 + 2.5 * 0.15], [-0.1 - 2.5 * 1.59]])


def test_proxskip_with_certain_communication_is_gda():
    _, operators, _ = affine_game()
    x, h, y = np.tile(normal(6), (4, 1)), np.zeros((4, 6)), normal(6)
    for _ in range(20):
        x, h, _ = proxskip_vip.step(x, h, proxskip_vip.whole(x, operators), 0.2, 1.0, True)
        y = proxskip_vip.gda_step(y, operators, 0.2)
        close(x, np.tile(y, (4, 1)), atol=1e-13)


def test_proxskip_finds_the_solution_with_its_controls_and_local_gda_stalls():
    Ms, operators, solution = affine_game()
    gamma = 1 / (2 * max(proxskip_vip.cocoercivity(M) for M in Ms))
    p = sqrt(gamma * proxskip_vip.strong_monotonicity(Ms.mean(axis=0)))
    rng = np.random.default_rng(13)
    x, h, floats, rounds = np.zeros((4, 6)), np.zeros((4, 6)), 0, 0
    for _ in range(6000):
        coin = bool(rng.random() < p)
        x, h, sent = proxskip_vip.step(x, h, proxskip_vip.whole(x, operators), gamma, p, coin)
        floats, rounds = floats + sent, rounds + coin
        assert np.abs(h.sum(axis=0)).max() < 1e-12
    close(x, np.tile(solution, (4, 1)), atol=1e-10)
    close(h, [F(solution) for F in operators], atol=1e-10)
    assert floats == 6 * rounds
    y = np.zeros(6)
    for _ in range(400):
        y = proxskip_vip.local_gda_round(y, operators, gamma, round(1 / p))
    assert np.linalg.norm(y - solution) > 1e-2


def test_local_gda_of_one_step_is_gda_and_of_alike_clients_is_many_steps():
    _, operators, _ = affine_game()
    y = normal(6)
    close(proxskip_vip.local_gda_round(y, operators, 0.2, 1), proxskip_vip.gda_step(y, operators, 0.2))
    many = y
    for _ in range(3):
        many = proxskip_vip.gda_step(many, operators[:1], 0.2)
    close(proxskip_vip.local_gda_round(y, [operators[0]] * 3, 0.2, 3), many)


def test_stochastic_operators():
    Ms, offsets = matrices(12), normal(12, 6)
    samples = [[masha.affine(Ms[4 * i + j], offsets[4 * i + j]) for j in range(4)] for i in range(3)]
    x, w = normal(3, 6), normal(3, 6, seed=8)
    operators = [
        masha.affine(Ms[4 * i : 4 * i + 4].mean(axis=0), offsets[4 * i : 4 * i + 4].mean(axis=0)) for i in range(3)
    ]
    everything = np.tile(np.arange(4), (3, 1))
    close(proxskip_vip.minibatch(x, samples, everything), proxskip_vip.whole(x, operators), atol=1e-14)
    estimates = [proxskip_vip.loopless_svrg(x, w, samples, np.full((3, 1), j), np.zeros(3, bool))[0] for j in range(4)]
    close(np.mean(estimates, axis=0), proxskip_vip.whole(x, operators), atol=1e-13)
    g, moved = proxskip_vip.loopless_svrg(x, x, samples, np.array([[0], [2], [1]]), np.array([True, False, True]))
    close(g, proxskip_vip.whole(x, operators), atol=1e-14)
    _, moved = proxskip_vip.loopless_svrg(x, w, samples, np.array([[0], [2], [1]]), np.array([True, False, True]))
    close(moved, [x[0], w[1], x[2]])


def test_loopless_svrg_reaches_the_solution_where_sgda_keeps_its_noise():
    Ms, offsets = matrices(12, seed=60), normal(12, 6)
    samples = [[masha.affine(Ms[4 * i + j], offsets[4 * i + j]) for j in range(4)] for i in range(3)]
    solution = -np.linalg.solve(Ms.mean(axis=0), offsets.mean(axis=0))
    rng = np.random.default_rng(21)
    gamma, p = 0.05, 0.2
    x, h = np.zeros((3, 6)), np.zeros((3, 6))
    w, y, k = x, x, h
    for _ in range(2500):
        batches, coin, bit = rng.integers(0, 4, (3, 1)), bool(rng.random() < p), bool(rng.random() < 0.1)
        g, w = proxskip_vip.loopless_svrg(x, w, samples, batches, np.full(3, bit))
        x, h, _ = proxskip_vip.step(x, h, g, gamma, p, coin)
        y, k, _ = proxskip_vip.step(y, k, proxskip_vip.minibatch(y, samples, batches), gamma, p, coin)
    assert np.linalg.norm(x - solution) < 1e-6
    assert np.linalg.norm(y.mean(axis=0) - solution) > 1e-3


# --- SAVIC


def test_adam_rule_is_the_corrected_average_of_squares():
    beta, estimates = 0.9, normal(6, 3)
    D, v = np.zeros(3), np.zeros(3)
    for t, H in enumerate(estimates):
        D = savic.refresh(D, H, t, beta, "adam")
        v = beta * v + (1 - beta) * H**2
        close(D**2, v / (1 - beta ** (t + 1)))


def test_rules_by_hand():
    D, H = np.array([2.0, -2.0]), np.array([1.0, 4.0])
    close(savic.refresh(D, H, 5, 0.5, "rmsprop"), np.sqrt([2.5, 10.0]))
    close(savic.refresh(D, H, 5, 0.5, "oasis"), [1.5, 1.0])
    close(savic.refresh(D, H, 1, 0.5, "adam"), np.sqrt([(4 + 2 * 1) / 3, (4 + 2 * 16) / 3]))
    for rule in ("adam", "rmsprop", "oasis"):
        close(np.abs(savic.refresh(D, H, 0, 0.999, rule)), H)
    close(savic.clamp(np.array([-3.0, 1e-9, 0.5]), 0.1), [3.0, 0.1, 0.5])


def test_hutchinson_averages_to_the_diagonal_and_is_exact_for_a_diagonal_hessian():
    Q = normal(3, 3)
    Q = Q + Q.T
    signs = [np.array(v) for v in product((-1.0, 1.0), repeat=3)]
    close(np.mean([savic.hutchinson(lambda v: Q @ v, v) for v in signs], axis=0), np.diag(Q), atol=1e-14)
    close(savic.hutchinson(lambda v: np.array([2.0, 5.0, 7.0]) * v, signs[3]), [2.0, 5.0, 7.0])


def test_oasis_solves_a_diagonal_quadratic_at_once_and_local_sgd_does_not():
    a, best = np.geomspace(0.01, 10.0, 5), normal(5)
    signs = np.where(uniform(9, 4, 5) < 0.5, -1.0, 1.0)
    options = {"clients": 4, "rounds": 9, "steps": 1, "rule": "oasis", "beta": 0.9}

    def gradient(r, m, x, s):
        return a * (x - best)

    trajectory, D, up, down = savic.run(
        np.zeros(5), gradient, lambda r, m, x: savic.hutchinson(lambda v: a * v, signs[r, m]), gamma=1.0, **options
    )
    close(trajectory[1], best, atol=1e-14)
    close(D, np.tile(a, (4, 1)))
    assert (up, down) == (9 * 10, 9 * 10)
    plain, _, up, _ = savic.run(
        np.zeros(5), gradient, lambda r, m, x: np.ones(5), gamma=0.2, **(options | {"scaling": "local"})
    )
    close(plain[-1] - best, (1 - 0.2 * a) ** 9 * -best)  # D = 1: local SGD
    assert np.linalg.norm(plain[-1] - best) > 0.1
    assert up == 9 * 5


def test_scaling_is_frozen_between_communications_and_squares_the_mean_gradient():
    # Two clients with estimates 1 and 3 (global D: 2), constant gradients 2 and 6, two local steps of gamma = 1.
    def run(scaling):
        return savic.run(
            np.zeros(1),
            lambda r, m, x, s: np.array([[2.0], [6.0]])[m],
            lambda r, m, x: np.array([[1.0], [3.0]])[m],
            clients=2,
            rounds=1,
            steps=2,
            gamma=1.0,
            rule="rmsprop",
            scaling=scaling,
        )

    trajectory, D, up, _ = run("global")
    close(D, [[2.0], [2.0]])
    close(trajectory[1], [-(2 * 1 + 2 * 3) / 2])
    assert up == 2
    trajectory, D, up, _ = run("local")
    close(D, [[1.0], [3.0]])
    close(trajectory[1], [-(2 * 2 + 2 * 2) / 2])
    assert up == 1


def test_a_given_scaling_enters_the_first_refresh():
    _, D, _, _ = savic.run(
        np.zeros(1),
        lambda r, m, x, s: np.zeros(1),
        lambda r, m, x: np.array([2.0]),
        clients=2,
        rounds=1,
        steps=1,
        gamma=1.0,
        rule="oasis",
        beta=0.75,
        D0=np.array([6.0]),
    )
    close(D, [[5.0], [5.0]])


# --- asynchronous local SGD


def test_delayed_nesterov_of_one_worker_is_nesterov():
    s = t = async_local_sgd.outer_start(normal(4))
    for g in normal(7, 4, seed=9):
        s = async_local_sgd.delayed_nesterov(s, g, 1, 0.3, 0.8)
        t = async_local_sgd.nesterov(t, g, 0.3, 0.8)
        close(s.theta, t.theta)
        close(s.m, t.m)
    # torch's recursion by hand: buffer 1, 1.8; steps 1.8, 1 + 0.8 * 1.8.
    u = async_local_sgd.outer_start(np.zeros(1))
    u = async_local_sgd.nesterov(async_local_sgd.nesterov(u, np.ones(1), 1.0, 0.8), np.ones(1), 1.0, 0.8)
    close(u.theta, [-(1.8 + 2.44)])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_delayed_nesterov_makes_one_step_on_the_mean(order):
    g = normal(6, 4)
    s = t = async_local_sgd.outer_start(normal(4, seed=3))
    for block in (g[:3], g[3:]):
        for i in order:
            s = async_local_sgd.delayed_nesterov(s, block[i], 3, 0.5, 0.9)
        t = async_local_sgd.nesterov(t, block.mean(axis=0), 0.5, 0.9)
        close(s.theta, t.theta)
        close(s.m, t.m)
        close(s.buffer, 0.0)


def test_spread_momentum_is_applied_once_in_all():
    N, beta, c = 4, 0.9, 0.15
    s = async_local_sgd.outer_start(np.zeros(1))
    for _ in range(N):
        s = async_local_sgd.delayed_nesterov(s, np.ones(1), N, 1.0, beta, c)
    close(s.m, [1.0])
    close(s.theta, [-(1.0 + (1 - c * N + c) * beta)])
    for _ in range(N - 1):
        s = async_local_sgd.delayed_nesterov(s, np.zeros(1), N, 1.0, beta, c)
    close(s.theta, [-(1.0 + beta)])


def test_dynamic_local_updates():
    assert async_local_sgd.dylu_steps([4.0, 2.0, 1.5, 0.01], 20) == [20, 10, 7, 1]
    assert async_local_sgd.dylu_steps([3.0, 1.0], 9) == [9, 3]


def counting(worker, shard, theta, steps, done):
    """Each local step lowers the parameter by the number of the worker plus one."""
    return theta - steps * (worker + 1.0)


def plain(s, g):
    return async_local_sgd.nesterov(s, g, 1.0, 0.0)


def test_events_by_hand():
    # Steps 2 of 1 s and 1 of 3 s: arrivals at 2, 3, 4, 6, 6.
    run = async_local_sgd.simulate(np.zeros(1), [1.0, 3.0], [2, 1], counting, plain, arrivals=5)
    assert [(a.time, a.worker) for a in run.arrivals] == [(2, 0), (3, 1), (4, 0), (6, 0), (6, 1)]
    # Worker 1's first push is one update old; worker 0's at 4 has missed that of worker 1.
    assert [a.staleness for a in run.arrivals] == [0, 1, 1, 0, 2]
    close([a.theta[0] for a in run.arrivals], [-2, -4, -6, -8, -10])
    assert (run.floats_up, run.floats_down) == (5, 2 + 3)


def test_grace_serves_together_and_starts_from_the_newest_parameters():
    starts = []

    def local(worker, shard, theta, steps, done):
        starts.append((worker, float(theta[0])))
        return counting(worker, shard, theta, steps, done)

    run = async_local_sgd.simulate(np.zeros(1), [1.0, 1.5], [2, 2], local, plain, arrivals=4, grace=1.0)
    assert [(a.time, a.worker) for a in run.arrivals] == [(2, 0), (3, 1), (5, 0), (6, 1)]
    assert starts == [(0, 0.0), (1, 0.0), (0, -6.0), (1, -6.0)]


def test_dead_workers_send_nothing_more_and_nobody_waits():
    run = async_local_sgd.simulate(
        np.zeros(1), [1.0, 1.0], [2, 3], counting, plain, arrivals=5, deaths={1: 5.9, 0: 8.0}
    )
    assert [(a.time, a.worker) for a in run.arrivals] == [(2, 0), (3, 1), (4, 0), (6, 0), (8, 0)]
    alone = async_local_sgd.simulate(np.zeros(1), [1.0], [2], counting, plain, arrivals=9, deaths={0: 5.0})
    assert len(alone.arrivals) == 2


def test_least_visited_shards_and_their_step_counts():
    seen = []

    def local(worker, shard, theta, steps, done):
        seen.append((worker, shard, done))
        return theta

    async_local_sgd.simulate(np.zeros(1), [1.0, 3.0], [2, 1], local, plain, arrivals=4, shards=3)
    assert seen == [(0, 0, 0), (1, 1, 0), (0, 2, 0), (1, 0, 2), (0, 1, 1)]


def test_synchronous_waits_for_the_slowest():
    log, floats = async_local_sgd.synchronous(np.zeros(1), [1.0, 2.5], 4, counting, rounds=2, lr=1.0, beta=0.5)
    assert [time for time, _ in log] == [10.0, 20.0]
    # Mean push (4 + 8) / 2 = 6: steps 6 * 1.5, then m = 9: 6 + 4.5.
    close([theta[0] for _, theta in log], [-9.0, -19.5])
    assert floats == 4


def test_equal_speeds_with_grace_are_the_synchronous_run():
    targets = normal(3, 2)

    def local(worker, shard, theta, steps, done):
        for _ in range(steps):
            theta = theta - 0.1 * (theta - targets[worker])
        return theta

    def outer(s, g):
        return async_local_sgd.delayed_nesterov(s, g, 3, 0.7, 0.9)

    run = async_local_sgd.simulate(np.zeros(2), [1.0] * 3, [5] * 3, local, outer, arrivals=12)
    log, _ = async_local_sgd.synchronous(np.zeros(2), [1.0] * 3, 5, local, rounds=4, lr=0.7)
    close(run.outer.theta, log[-1][1])
    assert run.arrivals[-1].time == log[-1][0]


# --- local SGD and its laws


def quadratics(K: int = 3, d: int = 4):
    targets, curvature = normal(K, d), 0.5 + uniform(K, d)
    noise = 0.1 * normal(K, 40, d, seed=77)
    return [lambda theta, s, k=k: curvature[k] * (theta - targets[k]) + noise[k, s] for k in range(K)]


def test_plain_averaging_of_single_steps_is_data_parallel_sgd():
    gradients, start = quadratics(), normal(4, seed=5)
    local, sent = local_sgd_scaling.local_sgd(start, gradients, rounds=20, H=1, lr=0.1)
    parallel, per_step = local_sgd_scaling.data_parallel(start, gradients, steps=20, lr=0.1)
    close(local, parallel, atol=1e-14)
    assert sent == per_step == 80
    fewer, sent = local_sgd_scaling.local_sgd(start, gradients, rounds=2, H=10, lr=0.1)
    assert sent == 8
    assert np.abs(fewer[-1] - parallel[-1]).max() > 1e-3


def test_local_sgd_uses_each_gradient_once_and_one_worker_is_sgd():
    gradient = quadratics()[:1]
    local, _ = local_sgd_scaling.local_sgd(normal(4), gradient, rounds=4, H=5, lr=0.1)
    close(local[-1], local_sgd_scaling.data_parallel(normal(4), gradient, steps=20, lr=0.1)[0][-1])


def test_outer_step_by_hand():
    # theta 4, ends 1 and 3: Delta 2; m = 0.5 * 2 + 2 = 3; step 0.1 (2 + 0.5 * 3).
    theta, m = local_sgd_scaling.outer_step(np.array([4.0]), np.array([2.0]), [np.ones(1), 3 * np.ones(1)], 0.1, 0.5)
    close(m, [3.0])
    close(theta, [3.65])


def test_adamw_by_hand_and_its_moments_stay():
    zero = local_sgd_scaling.Moments(np.zeros(1), np.zeros(1))
    theta, moments = local_sgd_scaling.adamw_steps(np.ones(1), zero, lambda x, s: np.array([3.0]), 0.1, 0, 1)
    close(theta, [0.9], atol=1e-9)  # the first step is lr in the direction of the sign
    close([moments.first[0], moments.second[0], moments.t], [0.3, 0.009, 1])
    decayed, _ = local_sgd_scaling.adamw_steps(
        np.ones(1), zero, lambda x, s: np.array([3.0]), 0.1, 0, 1, weight_decay=0.5
    )
    close(decayed, [0.85], atol=1e-9)
    one = quadratics()[:1]
    halves, _ = local_sgd_scaling.local_adamw(normal(4), one, rounds=2, H=5, lr=0.05)
    through, _ = local_sgd_scaling.local_adamw(normal(4), one, rounds=1, H=10, lr=0.05)
    close(halves[-1], through[-1])


def test_law_is_recovered_and_extrapolates():
    sizes = [5e3, 2e4, 6e4, 1e5]
    law = local_sgd_scaling.fit_law(sizes, [(3e7 / n) ** 0.09 for n in sizes])
    assert law.alpha == pytest.approx(0.09)
    assert law.scale == pytest.approx(3e7)
    assert law.r_squared == pytest.approx(1.0)
    assert law(4e5) == pytest.approx((3e7 / 4e5) ** 0.09)
    off = local_sgd_scaling.fit_law([1.0, np.e, np.e**2], [1.0, np.e, 1.0])
    assert off.alpha == pytest.approx(0.0)
    assert off.r_squared == pytest.approx(0.0)
    assert np.isnan(local_sgd_scaling.fit_law([1.0, 2.0], [3.0, 3.0]).scale)


def test_time_model():
    # 4 workers, 8 bytes, 2 bytes a second: 2 * 3/4 * 4 = 6 seconds.
    assert local_sgd_scaling.all_reduce_seconds(4, 8.0, 2.0) == 6.0
    assert local_sgd_scaling.data_parallel_seconds(10, 1.0, 4, 8.0, 2.0) == 70.0
    assert local_sgd_scaling.local_sgd_seconds(10, 1.0, 4, 8.0, 2.0) == 16.0
    assert local_sgd_scaling.local_sgd_seconds(1, 1.0, 4, 8.0, 2.0) == 7.0
    assert local_sgd_scaling.two_stage_seconds(10, 1.0, 2, 8.0, 4, 2.0, 8.0) == 10 * 2.0 + 6.0
    assert local_sgd_scaling.all_reduce_seconds(1, 8.0, 2.0) == 0.0


# --- QSGD


def test_qsgd_by_hand():
    # Norm 5; s = 4: r = 2.4, 3.2, 0.
    v = np.array([3.0, -4.0, 0.0])
    norm, codes = qsgd.quantise(v, np.array([0.39, 0.21, 0.0]), 4)
    assert norm == 5.0
    assert codes.tolist() == [3, -3, 0]
    close(qsgd.decode(norm, codes, 4), [3.75, -3.75, 0.0])
    close(qsgd.probabilities(v, 4)[:2], [[0, 0, 0.6, 0.4, 0], [0, 0, 0, 0.8, 0.2]])
    close(qsgd.decode(*qsgd.quantise(np.zeros(3), np.zeros(3), 4), 4), np.zeros(3))
    assert qsgd.quantise(np.array([0.0, -7.0]), np.zeros(2), 3)[1].tolist() == [0, -3]


@pytest.mark.parametrize("s", [1, 2, 7])
def test_qsgd_is_unbiased_with_the_stated_variance(s):
    v = normal(6)
    close(qsgd.expectation(v, s), v)
    norm = np.linalg.norm(v)
    levels = norm * np.arange(s + 1) / s
    direct = float(np.sum(qsgd.probabilities(v, s) * (levels - np.abs(v)[:, None]) ** 2))
    assert qsgd.variance(v, s) == pytest.approx(direct)
    assert qsgd.variance(v, s) <= qsgd.variance_bound(v, s)
    draws = midpoints(20_000)
    decoded = np.array([qsgd.decode(*qsgd.quantise(v, np.full(6, u), s), s) for u in draws[::20]])
    close(decoded.mean(axis=0), v, atol=2e-3 * norm)


def test_qsgd_variance_bound_is_of_the_right_order():
    v = np.ones(100)
    assert qsgd.variance(v, 1) == pytest.approx(100 * 0.1 * 0.9 * 100)
    assert qsgd.variance_bound(v, 1) == pytest.approx(10 * 100)


def test_qsgd_bits():
    assert [qsgd.elias_bits(n) for n in (1, 2, 3, 4, 7, 8, 15, 16, 100)] == [1, 3, 3, 6, 6, 7, 7, 11, 13]
    assert qsgd.fixed_bits(10, 7) == 32 + 40
    # Places 1 and 5: distances 2 and 4; codes 1 and 3.
    assert qsgd.sparse_bits(np.array([0, -1, 0, 0, 0, 3])) == 32 + (3 + 1 + 1) + (6 + 1 + 3)


def test_qsgd_clients_are_averaged():
    mean, codes = qsgd.mean_of_clients(np.array([[3.0, 4.0], [0.0, 2.0]]), np.full((2, 2), 0.9), 5)
    assert codes.tolist() == [[3, 4], [0, 5]]
    close(mean, [1.5, 3.0])


# --- sparsifiers


def test_top_k_by_hand_and_ties():
    x = np.array([1.0, -3.0, 3.0, 2.0, -3.0])
    assert sparsifiers.top_k_places(x, 2).tolist() == [1, 2]
    close(sparsifiers.keep(x, sparsifiers.top_k_places(x, 4)), [0.0, -3.0, 3.0, 2.0, -3.0])
    close(masha.top_k(x, 2), sparsifiers.keep(x, np.array([1, 2])))


def test_top_k_contracts_with_equality_for_equal_magnitudes():
    for x, equal in ((normal(9), False), (np.where(normal(9) > 0, 2.0, -2.0), True)):
        error = np.sum((sparsifiers.keep(x, sparsifiers.top_k_places(x, 4)) - x) ** 2)
        assert error <= (1 - 4 / 9) * np.sum(x * x) + 1e-12
        assert bool(abs(error - (1 - 4 / 9) * np.sum(x * x)) < 1e-12) is equal


def test_rand_k_moments_over_all_sets():
    x = normal(6)
    mean, unbiased, contractive = sparsifiers.rand_k_moments(x, 2)
    close(mean, x)
    assert unbiased == pytest.approx((6 / 2 - 1) * np.sum(x * x))
    assert contractive == pytest.approx((1 - 2 / 6) * np.sum(x * x))


def test_error_feedback_loses_nothing():
    # After any number of steps: x + mean of the errors (as steps still owed) = x0 - gamma times all mean gradients.
    x, errors, total = normal(5), np.zeros((3, 5)), np.zeros(5)
    start = x
    for gradients in normal(8, 3, 5, seed=6):
        x, errors, messages = sparsifiers.top_k_step(x, errors, gradients, 0.1, 2)
        assert np.count_nonzero(messages) == 6
        total += 0.1 * gradients.mean(axis=0)
        close(x - errors.mean(axis=0), start - total)
    assert np.abs(errors).max() > 0.05
    assert sparsifiers.top_k_bits(5, 2) == 2 * 35
    assert sparsifiers.rand_k_bits(2) == 64


# --- blocks of 8 bits


def test_blockwise_by_hand():
    x = np.array([1.27, -0.64, 0.005, 0.0, 0.0, 25.4])
    codes, A = blockwise.quantise(x, 3)
    assert codes.tolist() == [127, -64, 0, 0, 0, 127]
    close(A, [1.27, 25.4])
    close(blockwise.decode(codes, A, 3), [1.27, -0.64, 0.0, 0.0, 0.0, 25.4])
    assert blockwise.quantise(np.zeros(4), 4)[0].tolist() == [0, 0, 0, 0]
    assert blockwise.bits(6, 4) == 48 + 64


def test_blockwise_error_is_half_a_level_of_its_own_block():
    x = np.concatenate([normal(50), 1e-3 * normal(37, seed=4)])
    codes, A = blockwise.quantise(x, 10)
    error = np.abs(blockwise.decode(codes, A, 10) - x)
    limit = np.repeat(A, 10)[:87] / 254
    assert np.all(error <= limit * (1 + 1e-12))
    assert error[50:].max() < 1e-4 < error[:50].max()
    assert np.abs(codes).max() == 127


def test_stochastic_rounding_has_the_stated_moments():
    x = normal(8)
    draws = np.array(
        [blockwise.decode(*blockwise.quantise_stochastically(x, np.full(8, u), 4), 4) for u in midpoints(4000)]
    )
    close(draws.mean(axis=0), x, atol=1e-5)
    close(draws.var(axis=0), blockwise.variance(x, 4), rtol=2e-3, atol=1e-9)
    assert blockwise.variance(x, 4).max() > 0


# --- PowerSGD


def test_orthonormal_columns_keep_their_order():
    P = normal(7, 3)
    O = powersgd.orthonormal(P)
    close(O.T @ O, np.eye(3), atol=1e-14)
    close(np.tril(O.T @ P, -1), 0.0, atol=1e-13)
    assert np.all(np.diag(O.T @ P) > 0)
    lost = powersgd.orthonormal(np.column_stack([P[:, 0], 2 * P[:, 0], P[:, 1]]))
    close(lost[:, 1], 0.0)
    assert np.linalg.norm(lost[:, 2]) == pytest.approx(1.0)


def test_powersgd_recovers_low_rank_means_in_one_step_and_converges_to_the_best_approximation():
    gradients = [normal(6, 2, seed=1) @ normal(2, 5, seed=2), np.zeros((6, 5))]
    U, errors, _, floats = powersgd.step(gradients, [np.zeros((6, 5))] * 2, normal(5, 2))
    close(U, gradients[0] / 2, atol=1e-13)
    close(errors[0] + errors[1], 0.0, atol=1e-13)
    assert floats == 2 * 11
    G, Q = normal(6, 5), normal(5, 2, seed=3)
    for _ in range(300):
        U, _, Q, _ = powersgd.step([G], [np.zeros((6, 5))], Q)
    A, sigma, B = np.linalg.svd(G)
    close(U, (A[:, :2] * sigma[:2]) @ B[:2], atol=1e-9)


def test_powersgd_by_hand():
    # M = diag(2, 1), Q = (3, 4): P = (6, 4) / sqrt(52); Q = M'P = (12, 4) / sqrt(52); U = (6, 4)(12, 4)' / 52.
    M = np.diag([2.0, 1.0])
    U, errors, Q, _ = powersgd.step([M], [np.zeros((2, 2))], np.array([[3.0], [4.0]]))
    close(U, np.outer([6, 4], [12, 4]) / 52)
    close(Q, np.array([[12.0], [4.0]]) / sqrt(52))
    close(errors[0], M - U)
    x, v = powersgd.momentum_step(np.zeros((2, 2)), np.ones((2, 2)), U, 0.1, 0.9)
    close(v, 0.9 + U)
    close(x, -0.1 * (2 * U + 0.9))


def test_basis_of_q_does_not_matter_and_both_kinds_of_error_agree_on_average():
    gradients, errors = [normal(6, 5, seed=s) for s in (1, 2, 3)], [normal(6, 5, seed=s) for s in (4, 5, 6)]
    Q = normal(5, 2)
    U, common, _, _ = powersgd.step(gradients, errors, Q)
    close(powersgd.step(gradients, errors, np.linalg.qr(Q)[0])[0], U, atol=1e-13)
    own = powersgd.own_errors(gradients, errors, Q)
    close(np.mean(own, axis=0), np.mean(common, axis=0), atol=1e-14)
    close(np.mean(common, axis=0), np.mean(gradients, axis=0) + np.mean(errors, axis=0) - U, atol=1e-14)
    assert np.abs(own[0] - common[0]).max() > 0.1


# --- signs with error feedback


def test_signs_by_hand():
    # p = 0.1 g + e = (0.3, -0.1, 0): scale 0.4 / 3.
    x, errors, messages = sign_error_feedback.step(
        np.ones(3), np.array([[0.1, 0.1, 0.0]]), np.array([[2.0, -2.0, 0.0]]), 0.1
    )
    scale = 0.4 / 3
    close(messages, [[scale, -scale, scale]])
    close(x, [1 - scale, 1 + scale, 1 - scale])
    close(errors, [[0.3 - scale, scale - 0.1, -scale]])
    assert sign_error_feedback.bits(3) == 35


def test_signs_contract_by_the_density():
    for p in (normal(9), np.array([0.0, 0.0, 5.0]), np.array([2.0, -2.0])):
        error = np.sum((sign_error_feedback.compress(p) - p) ** 2)
        phi = sign_error_feedback.density(p)
        assert error == pytest.approx((1 - phi) * np.sum(p * p), abs=1e-14)
        assert 1 / p.size <= phi + 1e-15
    assert sign_error_feedback.density(np.array([0.0, 0.0, 5.0])) == pytest.approx(1 / 3)
    assert sign_error_feedback.density(np.array([2.0, -2.0])) == 1.0


def test_error_feedback_saves_the_counterexample_of_signs():
    # The paper's: signs alone never leave the line x1 + x2 = 2 from (1, 1), whose minimum is 0; with memory they do.
    eps = 0.5
    a, b = np.array([1 + eps, -1 + eps]), np.array([-1 + eps, 1 + eps])
    rows, rng = np.array([a, b]), np.random.default_rng(3)
    x = y = np.ones(2)
    e = np.zeros((1, 2))
    for _ in range(4000):
        row = rows[rng.integers(2)]
        x = x - 0.01 * sign_error_feedback.signs(np.sign(row @ x) * row)
        y, e, _ = sign_error_feedback.step(y, e, (np.sign(row @ y) * row)[None], 0.01)
    assert x.sum() == pytest.approx(2.0)
    assert np.abs(rows @ y).max() < 0.1
