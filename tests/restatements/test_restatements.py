"""The restatements against closed forms and exact identities; no code of the library is used."""

from collections.abc import Callable
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from . import disrupted_dfl as disrupted
from . import dsgd_sam, modest
from . import fedavg as fed
from . import linear_scaling_warmup as scaling
from . import variance_corrected_averaging as vca

Array = NDArray[np.float64]


# FederatedAveraging


def squares_gradient(w: Array, x: Array, y: Array) -> Array:
    return x.T @ (x @ w - y) / len(x)


@pytest.fixture
def clients() -> list[fed.ClientData]:
    rng = np.random.default_rng(0)
    return [fed.ClientData(rng.normal(size=(n, 4)), rng.normal(size=n)) for n in (3, 10, 1, 6, 20)]


def whole(clients: list[fed.ClientData]) -> list[list[NDArray[np.int64]]]:
    return [[np.arange(len(client))] for client in clients]


def test_one_full_batch_epoch_of_all_clients_is_a_gradient_step_on_the_pooled_data(
    clients: list[fed.ClientData],
) -> None:
    rounds, lr = 7, 0.1
    x, y = np.concatenate([c.x for c in clients]), np.concatenate([c.y for c in clients])
    w = np.ones(4)
    trajectory = fed.fedavg(w, clients, squares_gradient, [range(5)] * rounds, [whole(clients)] * rounds, lr)
    for got in trajectory[1:]:
        w = w - lr * squares_gradient(w, x, y)
        np.testing.assert_allclose(got, w, rtol=0, atol=1e-14)


def test_fedavg_with_one_full_batch_epoch_is_fedsgd_also_on_sampled_clients(
    clients: list[fed.ClientData],
) -> None:
    sampled = [[0, 4], [1, 2, 3], [2]]
    a = fed.fedavg(np.ones(4), clients, squares_gradient, sampled, [whole(clients)] * 3, 0.2)
    b = fed.fedsgd(np.ones(4), clients, squares_gradient, sampled, 0.2)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_local_epochs_contract_each_client_towards_its_own_mean_before_the_weighted_average() -> None:
    # F_k(w) = |w - mu_k|^2 / 2 in one dimension: E full-batch steps leave (1 - lr)^E (w - mu_k).
    means, sizes, lr, epochs = np.array([2.0, -1.0, 5.0]), [1, 3, 6], 0.3, 4
    data = [fed.ClientData(np.full((n, 1), mu), np.zeros(n)) for n, mu in zip(sizes, means, strict=True)]
    batches = [[np.arange(n)] * epochs for n in sizes]
    sampled = [[0, 2], [1, 2], [0, 1, 2]]
    trajectory = fed.fedavg(np.array([10.0]), data, lambda w, x, y: w - x.mean(axis=0), sampled, [batches] * 3, lr)
    w = 10.0
    for chosen, got in zip(sampled, trajectory[1:], strict=True):
        n = np.array([sizes[k] for k in chosen])
        w = float(n / n.sum() @ (means[chosen] + (1 - lr) ** epochs * (w - means[chosen])))
        assert got[0] == pytest.approx(w, abs=1e-13)


def test_averages_of_a_sample_fix_a_model_at_which_all_gradients_vanish(
    clients: list[fed.ClientData],
) -> None:
    w = np.arange(4.0)
    perfect = [fed.ClientData(c.x, c.x @ w) for c in clients]
    for got in fed.fedavg(w, perfect, squares_gradient, [[1, 3]] * 3, [whole(perfect)] * 3, 0.1):
        np.testing.assert_allclose(got, w, rtol=0, atol=1e-13)


def test_a_client_applies_its_batches_in_order_and_keeps_the_short_last_one() -> None:
    order = np.array([4, 0, 3, 1, 2])
    batches = fed.epoch_batches(order, 2)
    assert [b.tolist() for b in batches] == [[4, 0], [3, 1], [2]]
    assert [b.tolist() for b in fed.epoch_batches(order, None)] == [order.tolist()]
    x = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]])
    got = fed.client_update(
        np.zeros(1), fed.ClientData(x, np.zeros(5)), lambda w, x, y: w - x.mean(axis=0), batches, 0.5
    )
    assert got[0] == ((0.5 * 8.5) * 0.5 + 0.5 * 5.0) * 0.5 + 0.5 * 4.0


@pytest.mark.parametrize(
    ("fraction", "clients", "expected"),
    [(0.0, 100, 1), (0.1, 100, 10), (0.29, 100, 29), (0.25, 10, 2), (1.0, 7, 7)],
)
def test_clients_per_round_floors_the_exact_product_and_is_at_least_one(
    fraction: float, clients: int, expected: int
) -> None:
    assert fed.clients_per_round(fraction, clients) == expected


def test_expected_updates_are_those_of_the_second_table() -> None:
    rows = [
        (1, np.inf, 1),
        (5, np.inf, 5),
        (1, 50, 12),
        (20, np.inf, 20),
        (1, 10, 60),
        (20, 50, 240),
        (5, 10, 300),
    ]
    for epochs, batch, u in rows:
        assert fed.expected_updates(epochs, 60_000, 100, batch) == u


def test_label_shards_hold_contiguous_labels_and_all_examples_once() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 20))
    shards = fed.label_shards(labels, 20)
    assert sorted(np.concatenate(shards).tolist()) == list(range(200))
    assert [set(labels[s]) for s in shards] == [{i // 2} for i in range(20)]
    with pytest.raises(ValueError, match="shards"):
        fed.label_shards(labels, 30)


# D-SGD and average-direction SAM


def random_cubic(d: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    A, T = rng.normal(size=(d, d)), rng.normal(size=(d, d, d))
    symmetric = sum(T.transpose(p) for p in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    return rng.normal(size=d), A + A.T, np.asarray(symmetric) / 6


def test_the_mean_gradient_of_a_cubic_is_its_gaussian_smoothed_gradient() -> None:
    rng = np.random.default_rng(2)
    for d, m in [(1, 2), (3, 5), (6, 16)]:
        b, H, T = random_cubic(d, rng)
        W = rng.normal(size=(m, d))
        wa, Xi = dsgd_sam.averaged_model(W), dsgd_sam.consensus_covariance(W)
        real = dsgd_sam.mean_gradient(W, partial(dsgd_sam.cubic_gradient, b=b, H=H, T=T))
        smooth = dsgd_sam.smoothed_gradient_cubic(dsgd_sam.cubic_gradient(wa, b, H, T), T, Xi)
        np.testing.assert_allclose(real, smooth, rtol=0, atol=1e-12)


def test_one_step_moves_the_average_down_the_smoothed_gradient_for_any_doubly_stochastic_mixing() -> None:
    rng = np.random.default_rng(3)
    b, H, T = random_cubic(4, rng)
    W = rng.normal(size=(6, 4))
    mixed = 0.5 * np.eye(6)[rng.permutation(6)] + 0.5 * dsgd_sam.ring(6)
    wa, Xi = dsgd_sam.averaged_model(W), dsgd_sam.consensus_covariance(W)
    expected = wa - 0.1 * dsgd_sam.smoothed_gradient_cubic(dsgd_sam.cubic_gradient(wa, b, H, T), T, Xi)
    for P in (np.eye(6), dsgd_sam.ring(6), dsgd_sam.fully_connected(6), mixed):
        after = dsgd_sam.dsgd(W, P, lambda i, w, t: dsgd_sam.cubic_gradient(w, b, H, T), 0.1, 1)[1]
        np.testing.assert_allclose(dsgd_sam.averaged_model(after), expected, rtol=0, atol=1e-12)


def test_the_sampled_smoothed_gradient_of_a_cubic_tends_to_the_exact_one() -> None:
    rng = np.random.default_rng(4)
    b, H, T = random_cubic(3, rng)
    w, Xi = rng.normal(size=3), dsgd_sam.consensus_covariance(rng.normal(size=(9, 3)))
    # Antithetic draws are exact for their own second moment, and whitened draws have the identity.
    z = rng.normal(size=(50, 3))
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / 50)).T
    sampled = dsgd_sam.smoothed_gradient_sampled(w, Xi, lambda u: dsgd_sam.cubic_gradient(u, b, H, T), z)
    exact = dsgd_sam.smoothed_gradient_cubic(dsgd_sam.cubic_gradient(w, b, H, T), T, Xi)
    np.testing.assert_allclose(sampled, exact, rtol=0, atol=1e-12)


def test_the_sharpness_term_of_a_cubic_is_the_mean_rise_over_symmetric_deviations() -> None:
    rng = np.random.default_rng(5)
    b, H, T = random_cubic(3, rng)
    w, D = rng.normal(size=3), rng.normal(size=(4, 3))
    W = np.concatenate([w + D, w - D])
    rise = np.mean([dsgd_sam.cubic_loss(u, b, H, T) for u in W]) - dsgd_sam.cubic_loss(w, b, H, T)
    term = dsgd_sam.sharpness(dsgd_sam.consensus_covariance(W), dsgd_sam.cubic_hessian(w, H, T))
    assert rise == pytest.approx(term, abs=1e-12)


def slope(residual: Callable[[float], float]) -> float:
    return float(np.log2(residual(0.02) / residual(0.01)))


def test_beyond_cubics_the_residual_is_third_order_or_fourth_if_symmetric_against_second_for_plain() -> None:
    # L = sum sin w: the smoothed gradient is cos(w) exp(-Xi_ii / 2).
    rng = np.random.default_rng(6)
    w, D = rng.normal(size=5), rng.exponential(size=(7, 5))
    D -= D.mean(axis=0)

    def residuals(D: Array) -> tuple[Callable[[float], float], Callable[[float], float]]:
        def smooth(s: float) -> float:
            Xi = dsgd_sam.consensus_covariance(w + s * D)
            return float(
                np.linalg.norm(dsgd_sam.mean_gradient(w + s * D, np.cos) - np.cos(w) * np.exp(-np.diag(Xi) / 2))
            )

        def plain(s: float) -> float:
            return float(np.linalg.norm(dsgd_sam.mean_gradient(w + s * D, np.cos) - np.cos(w)))

        return smooth, plain

    skewed, plain = residuals(D)
    symmetric, _ = residuals(np.concatenate([D, -D]))
    assert slope(skewed) == pytest.approx(3.0, abs=0.1)
    assert slope(symmetric) == pytest.approx(4.0, abs=0.1)
    assert slope(plain) == pytest.approx(2.0, abs=0.1)


def test_gradients_are_taken_at_the_unmixed_models() -> None:
    # On a |w|^2 / 2 the step is (P - lr a I) W; at the mixed models it would be (1 - lr a) P W.
    W, P, a, lr = np.random.default_rng(7).normal(size=(5, 2)), dsgd_sam.ring(5), 0.7, 0.2
    trajectory = dsgd_sam.dsgd(W, P, lambda i, w, t: a * w, lr, 4)
    assert trajectory.shape == (5, 5, 2)
    for t in range(5):
        step = np.linalg.matrix_power(P - lr * a * np.eye(5), t)
        np.testing.assert_allclose(trajectory[t], step @ W, rtol=0, atol=1e-14)


def test_momentum_sums_past_unmixed_gradients_and_is_not_mixed() -> None:
    rng = np.random.default_rng(8)
    W, P, G, m, lr = rng.normal(size=(4, 3)), dsgd_sam.ring(4), rng.normal(size=(3, 4, 3)), 0.9, 0.1
    got = dsgd_sam.dsgd(W, [P, np.eye(4), P], lambda i, w, t: G[t, i], [lr, 2 * lr, lr], 3, m)[-1]
    v1, v2, v3 = G[0], m * G[0] + G[1], m**2 * G[0] + m * G[1] + G[2]
    np.testing.assert_allclose(got, P @ (P @ W - lr * v1 - 2 * lr * v2) - lr * v3, rtol=0, atol=1e-13)


def test_consensus_distance_orders_ring_above_full_mixing_which_leaves_one_step_of_noise() -> None:
    rng = np.random.default_rng(9)
    m, d, lr, steps = 16, 3, 0.1, 200
    noise = rng.normal(size=(steps, m, d))

    def grads(i: int, w: Array, t: int) -> Array:
        return np.asarray(noise[t, i])

    ringed = dsgd_sam.dsgd(np.zeros((m, d)), dsgd_sam.ring(m), grads, lr, steps)[-1]
    full = dsgd_sam.dsgd(np.zeros((m, d)), dsgd_sam.fully_connected(m), grads, lr, steps)[-1]
    central = dsgd_sam.csgd(np.zeros(d), grads, m, lr, steps)[-1]
    one_step = lr**2 * dsgd_sam.consensus_distance(noise[-1])
    assert dsgd_sam.consensus_distance(full) == pytest.approx(one_step, rel=1e-10)
    assert dsgd_sam.consensus_distance(ringed) > dsgd_sam.consensus_distance(full) > 0
    np.testing.assert_allclose(dsgd_sam.averaged_model(ringed), central, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dsgd_sam.averaged_model(full), central, rtol=0, atol=1e-12)


def test_the_covariance_is_normalised_by_the_workers_and_its_trace_is_the_consensus_distance() -> None:
    W = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    np.testing.assert_array_equal(dsgd_sam.consensus_covariance(W), np.diag([0.5, 4.5]))
    assert dsgd_sam.consensus_distance(W) == 5.0
    mean, spread = dsgd_sam.predictive_spread(W)
    np.testing.assert_array_equal(mean, [0.0, 0.0])
    np.testing.assert_array_equal(spread, [0.5, 4.5])


def test_with_different_losses_the_average_feels_a_first_order_term() -> None:
    # L_j = h_j w^2 / 2: the mean gradient is h w_a + (1/m) sum (h_j - h)(w_j - w_a), linear in deviations.
    W, h = np.array([[1.0], [2.0], [6.0]]), np.array([1.0, 5.0, 3.0])
    after = dsgd_sam.dsgd(W, dsgd_sam.ring(3), lambda i, w, t: h[i] * w, 0.1, 1)[1]
    covariance = float(np.mean((h - 3.0) * (W[:, 0] - 3.0)))
    assert covariance != 0.0
    assert after.mean() == pytest.approx(3.0 - 0.1 * (3.0 * 3.0 + covariance))


def test_rings_are_doubly_stochastic_and_need_three_workers() -> None:
    for m in (3, 4, 16):
        P = dsgd_sam.ring(m)
        np.testing.assert_allclose(P.sum(axis=0), 1.0)
        np.testing.assert_array_equal(P, P.T)
        assert np.count_nonzero(P) == 3 * m
    with pytest.raises(ValueError, match="workers"):
        dsgd_sam.ring(2)


# Variance-corrected averaging


def xavier(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    bound = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, size=(fan_out, fan_in))


def test_averaging_independent_layers_divides_the_variance_and_the_correction_restores_it() -> None:
    rng = np.random.default_rng(10)
    for count in (2, 5, 10):
        layers = [xavier(rng, 300, 200) for _ in range(count)]
        V = np.mean([vca.variance(w) for w in layers])
        plain = vca.merged(np.zeros((200, 300)), layers, 0.0)
        assert vca.variance(plain) / V == pytest.approx(1 / count, rel=0.05)
        own, received = {"w": xavier(rng, 300, 200)}, [{"w": w} for w in layers]
        corrected = vca.corrected_average(own, received, "follow_others", 0.0, 0.0)["w"]
        assert vca.variance(corrected) == pytest.approx(V, rel=1e-12)
        assert corrected.mean() == pytest.approx(plain.mean(), abs=1e-15)


@pytest.mark.parametrize("rule", ["follow_others", "conservative", "follow_self"])
@pytest.mark.parametrize("e", [0.0, 1e-8, 1e-4])
def test_identical_models_are_left_as_they_are(rule: vca.Rule, e: float) -> None:
    state = {"w": xavier(np.random.default_rng(11), 20, 30), "b": np.zeros(30)}
    for c in (0.0, 0.3, 1.0):
        after = vca.corrected_average(state, [state] * 4, rule, c, e)
        for name in state:
            np.testing.assert_allclose(after[name], state[name], rtol=0, atol=1e-14)


def test_each_rule_reaches_its_target_and_keeps_the_merged_mean() -> None:
    rng = np.random.default_rng(12)
    own, others = 3.0 + 2.0 * rng.normal(size=(6, 7)), [rng.normal(size=(6, 7)) for _ in range(3)]
    c = 0.25
    V_others = np.mean([np.var(w, ddof=1) for w in others])
    V_own = np.var(own, ddof=1)
    targets = {
        "follow_others": V_others,
        "conservative": c * V_own + (1 - c) * V_others,
        "follow_self": V_own,
    }
    m = c * own + (1 - c) * sum(others) / 3
    for rule, V in targets.items():
        got = vca.corrected_average({"w": own}, [{"w": w} for w in others], rule, c, 0.0)["w"]  # type: ignore[arg-type]
        assert np.var(got, ddof=1) == pytest.approx(V, rel=1e-12)
        assert got.mean() == pytest.approx(m.mean(), rel=1e-12)
        ratio = (got - got.mean()) / (m - m.mean())
        np.testing.assert_allclose(ratio, np.sqrt(V / np.var(m, ddof=1)), rtol=1e-9)


def test_a_positive_e_weakens_the_correction_as_the_closed_form_says() -> None:
    rng = np.random.default_rng(13)
    layers = [xavier(rng, 2000, 2000) for _ in range(10)]  # V = 1/2000 and Var(m) = 1/20000, about e / 2
    V, v = float(np.mean([vca.variance(w) for w in layers])), vca.variance(vca.merged(layers[0], layers, 0.0))
    for e, reached in [(0.0, 1.0), (1e-8, 1.0), (1e-4, 0.4)]:
        got = vca.variance(vca.rescale(vca.merged(layers[0], layers, 0.0), V, e))
        assert got == pytest.approx(vca.corrected_variance(v, V, e), rel=1e-10)
        assert got / V == pytest.approx(reached, rel=0.02)


def test_single_entries_are_merged_only_and_batchnorm_statistics_stay_the_own_ones() -> None:
    def state(value: float) -> dict[str, Any]:
        return {
            "scale": np.array([value]),
            "bn.weight": np.array([value, 2 * value]),
            "bn.running_mean": np.array([value, -value]),
            "bn.running_var": np.array([value, value]),
            "bn.num_batches_tracked": np.array(int(value)),
        }

    after = vca.corrected_average(state(1.0), [state(3.0), state(5.0)], "follow_others", 0.5, 0.0)
    assert after["scale"].tolist() == [0.5 * 1.0 + 0.5 * 4.0]
    for name in ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        np.testing.assert_array_equal(after[name], state(1.0)[name])
        assert after[name].dtype == state(1.0)[name].dtype
    assert vca.variance(after["bn.weight"]) == pytest.approx((4.5 + 12.5) / 2)


def test_constant_tensors_stay_constant_without_e() -> None:
    own, received = {"b": np.zeros(4)}, [{"b": np.full(4, 2.0)}, {"b": np.arange(4.0)}]
    zero = vca.corrected_average({"b": np.zeros(4)}, [own, own], "follow_others", 0.0, 0.0)["b"]
    np.testing.assert_array_equal(zero, np.zeros(4))
    self_led = vca.corrected_average(own, received, "follow_self", 0.5, 0.0)["b"]
    np.testing.assert_allclose(self_led, 0.5 * 1.75, rtol=0, atol=1e-15)  # own variance 0: deviations vanish


def test_gossip_merges_the_trained_neighbours_synchronously() -> None:
    states = [{"w": np.array([float(i), -float(i)])} for i in range(3)]
    path = [[1], [0, 2], [1]]

    def train(i: int, state: vca.State, t: int) -> vca.State:
        return {"w": state["w"] + (i + 1) * (t + 1)}

    after = vca.gossip(states, path, train, 1, "plain", 0.5, 0.0)
    trained = [states[i]["w"] + (i + 1) for i in range(3)]
    np.testing.assert_allclose(after[1][0]["w"], (trained[0] + trained[1]) / 2)
    np.testing.assert_allclose(after[1][1]["w"], trained[1] / 2 + (trained[0] + trained[2]) / 4)
    alone = vca.gossip(states, [[], [], []], train, 2, "follow_others", 0.0, 0.0)
    np.testing.assert_allclose(alone[2][2]["w"], states[2]["w"] + 3 + 6)


# DecAvg under disruption


def barabasi_albert(n: int = 30, m: int = 2, seed: int = 0) -> Array:
    return np.asarray(nx.to_numpy_array(nx.barabasi_albert_graph(n, m, seed=seed)))


def no_gradient(i: int, w: Array, batch: NDArray[np.int64]) -> Array:
    return np.zeros_like(w)


@pytest.mark.parametrize("kind", ["uniform", "sized"])
def test_mixing_alone_reaches_the_closed_form_consensus_of_each_component(kind: str) -> None:
    A, rng = barabasi_albert(), np.random.default_rng(14)
    weights = np.ones(30) if kind == "uniform" else rng.uniform(0.5, 3.0, 30)
    removed = disrupted.hubs(A, 8)
    alive = disrupted.survivors(30, removed)
    W0 = rng.normal(size=(30, 2))
    empty: list[list[list[NDArray[np.int64]]]] = [[[] for _ in range(30)]] * 3000
    got = disrupted.disrupted_decavg(W0, A, weights, no_gradient, empty, 0.1, removed=removed, at=0)[-1]
    parts = disrupted.components(A, alive)
    assert len(parts) > 1
    np.testing.assert_allclose(got, disrupted.consensus_limit(W0, A, weights, alive), rtol=0, atol=1e-10)
    for part in parts:
        np.testing.assert_allclose(got[part], got[part[0]] + np.zeros((len(part), 2)), rtol=0, atol=1e-10)
    assert np.isnan(got[removed]).all()


def test_uniform_consensus_weighs_a_node_by_its_degree_plus_one() -> None:
    star = np.zeros((4, 4))
    star[0, 1:] = star[1:, 0] = 1.0
    W = np.diag([1.0, 2.0, 3.0, 4.0])
    limit = disrupted.consensus_limit(W, star, np.ones(4), np.ones(4, bool))
    np.testing.assert_allclose(limit, np.tile([4 / 10, 4 / 10, 6 / 10, 8 / 10], (4, 1)))


def test_components_and_hubs_agree_with_networkx() -> None:
    for seed in range(4):
        A = barabasi_albert(40, 2, seed)
        removed = disrupted.hubs(A, 10)
        degrees = A.sum(axis=1)
        assert min(degrees[removed]) >= max(np.delete(degrees, removed))
        G = nx.from_numpy_array(A)
        G.remove_nodes_from(removed)
        alive = disrupted.survivors(40, removed)
        ours = {frozenset(c) for c in disrupted.components(A, alive)}
        assert ours == {frozenset(c) for c in nx.connected_components(G)}
        assert disrupted.giant_component_size(A, alive) == max(map(len, ours))


def test_rows_of_survivors_renormalise_and_isolated_nodes_keep_their_model() -> None:
    path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], float)
    weights = np.array([1.0, 2.0, 3.0])
    full = disrupted.decavg_matrix(path, weights, np.ones(3, bool))
    np.testing.assert_allclose(full, [[1 / 3, 2 / 3, 0], [1 / 6, 2 / 6, 3 / 6], [0, 2 / 5, 3 / 5]])
    cut = disrupted.decavg_matrix(path, weights, disrupted.survivors(3, [1]))
    np.testing.assert_array_equal(cut, np.diag([1.0, 0.0, 1.0]))
    silent = disrupted.decavg_matrix(path, np.zeros(3), np.ones(3, bool))
    np.testing.assert_array_equal(silent, np.eye(3))


def quadratic_run(removed: list[int], at: int | None, weights: Array, holders: list[int]) -> Array:
    rng = np.random.default_rng(15)
    targets = rng.normal(size=(30, 3))
    batches = [[[np.array([t])] * 2 if i in holders else [] for i in range(30)] for t in range(6)]
    return disrupted.disrupted_decavg(
        np.zeros((30, 3)),
        barabasi_albert(),
        weights,
        lambda i, w, batch: w - targets[i],
        batches,
        0.2,
        removed=removed,
        at=at,
        momentum=0.5,
    )


def test_nothing_differs_before_the_disruption_and_the_dead_are_not_a_number_after_it() -> None:
    everyone = list(range(30))
    calm = quadratic_run([], None, np.ones(30), everyone)
    removed = disrupted.hubs(barabasi_albert(), 6)
    hit = quadratic_run(removed, 2, np.ones(30), everyone)
    np.testing.assert_array_equal(hit[:3], calm[:3])
    assert np.isnan(hit[3:, removed]).all()
    rest = np.flatnonzero(disrupted.survivors(30, removed))
    assert np.isfinite(hit[:, rest]).all()
    assert not np.allclose(hit[-1, rest], calm[-1, rest])


def test_relays_of_zero_weight_carry_nothing_and_of_positive_weight_do() -> None:
    relays = disrupted.hubs(barabasi_albert(), 6)
    holders = [i for i in range(30) if i not in relays]
    sizes = [0 if i in relays else 10 for i in range(30)]
    for relay_weight, same in [(0.0, True), (10.0, False)]:
        weights = disrupted.node_weights(sizes, relay_weight)
        calm = quadratic_run([], None, weights, holders)
        hit = quadratic_run(relays, 0, weights, holders)
        assert np.allclose(calm[:, holders], hit[:, holders], rtol=0, atol=1e-15) is same


def test_a_round_mixes_then_takes_momentum_steps_with_a_fresh_or_a_carried_buffer() -> None:
    pair, W0, lr, m = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0], [4.0]]), 0.1, 0.5
    batches = [[[np.array([0]), np.array([1])], []]] * 2  # node 1 is a relay

    def run(carry: bool) -> Array:
        return disrupted.disrupted_decavg(
            W0, pair, np.ones(2), lambda i, w, b: np.ones(1), batches, lr, momentum=m, carry_momentum=carry
        )

    two_fresh = lr * (1 + 1.5)
    two_carried = lr * (m * 1.5 + 1 + m * (m * 1.5 + 1) + 1)
    for carry, second in [(False, two_fresh), (True, two_carried)]:
        got = run(carry)
        np.testing.assert_allclose(got[1], [[2 - two_fresh], [2.0]])
        mixed = 2 - two_fresh / 2
        np.testing.assert_allclose(got[2], [[mixed - second], [mixed]])


def test_equal_shares_cover_the_data_once_and_leave_relays_empty() -> None:
    shares = disrupted.equal_shares(np.random.default_rng(16).permutation(23), [0, 2, 3], 5)
    assert [len(s) for s in shares] == [8, 0, 8, 7, 0]
    assert sorted(np.concatenate(shares).tolist()) == list(range(23))


# Linear scaling and warm-up


def summed_gradient(x: Array, y: Array) -> Callable[[Array, NDArray[np.int64]], Array]:
    return lambda w, batch: x[batch].T @ (x[batch] @ w - y[batch])


def test_workers_gradients_aggregate_to_that_of_the_large_batch() -> None:
    rng = np.random.default_rng(17)
    grad_sum, w = summed_gradient(rng.normal(size=(64, 5)), rng.normal(size=64)), rng.normal(size=5)
    equal = scaling.split_epoch(rng.permutation(64), 4, 16)[0]
    expected = scaling.global_gradient(w, np.concatenate(equal), grad_sum)
    np.testing.assert_allclose(scaling.allreduce_scaled_losses(w, equal, grad_sum), expected, rtol=1e-13)
    np.testing.assert_allclose(scaling.allreduce_mean_of_means(w, equal, grad_sum), expected, rtol=1e-13)
    unequal = [np.arange(3), np.arange(3, 64)]
    expected = scaling.global_gradient(w, np.arange(64), grad_sum)
    np.testing.assert_allclose(scaling.allreduce_scaled_losses(w, unequal, grad_sum), expected, rtol=1e-12)
    assert not np.allclose(scaling.allreduce_mean_of_means(w, unequal, grad_sum), expected, rtol=1e-2)


def test_a_data_parallel_run_is_the_large_batch_run_with_momentum_and_decay() -> None:
    rng = np.random.default_rng(18)
    grad_sum, w0 = summed_gradient(rng.normal(size=(48, 3)), rng.normal(size=48)), rng.normal(size=3)
    steps = scaling.split_epoch(rng.permutation(48), 4, 3)
    lrs, decay = np.linspace(0.05, 0.2, len(steps)), np.array([1e-2, 1e-2, 0.0])
    got = scaling.data_parallel_sgd(w0, steps, grad_sum, lrs, 0.9, decay)
    one = scaling.momentum_sgd(
        w0, lambda w, t: scaling.global_gradient(w, np.concatenate(steps[t]), grad_sum), lrs, 0.9, decay
    )
    np.testing.assert_allclose(got, one, rtol=0, atol=1e-13)


def test_an_epoch_is_one_shuffle_dealt_in_parts_to_the_workers() -> None:
    order = np.random.default_rng(19).permutation(26)
    steps = scaling.split_epoch(order, 4, 2)
    assert len(steps) == 3
    for j in range(4):
        np.testing.assert_array_equal(np.concatenate([s[j] for s in steps]), order[6 * j : 6 * (j + 1)])


def test_sixteen_small_steps_with_a_constant_gradient_are_one_step_at_sixteen_times_the_rate() -> None:
    g, w0 = np.array([1.0, -2.0, 0.5]), np.ones(3)
    small = scaling.momentum_sgd(w0, lambda w, t: g, [0.1] * 16, 0.0)[-1]
    large = scaling.momentum_sgd(w0, lambda w, t: g, [scaling.reference_lr(16 * 256)], 0.0)[-1]
    np.testing.assert_allclose(small, large, rtol=0, atol=1e-14)


def noisy(rng: np.random.Generator, steps: int) -> Callable[[Array, int], Array]:
    noise = rng.normal(size=(steps, 4))
    return lambda w, t: np.array([1.0, 2.0, 0.5, 3.0]) * w + noise[t]


def test_the_corrected_form_gives_the_weights_of_the_other_and_the_uncorrected_only_at_a_constant_rate() -> None:
    rng = np.random.default_rng(20)
    grad, w0 = noisy(rng, 60), rng.normal(size=4)
    moving = scaling.gradual_warmup(60, 6, 0.01, 0.16, milestones=(7, 9))
    outside = scaling.momentum_sgd(w0, grad, moving, 0.9, 1e-2)
    corrected = scaling.momentum_sgd_corrected(w0, grad, moving, 0.9, 1e-2)
    inside = scaling.momentum_sgd_lr_inside(w0, grad, moving, 0.9, 1e-2)
    np.testing.assert_allclose(corrected, outside, rtol=0, atol=1e-12)
    assert np.abs(inside - outside).max() > 1e-2
    constant = [0.05] * 60
    outside = scaling.momentum_sgd(w0, grad, constant, 0.9, 1e-2)
    for form in (scaling.momentum_sgd_lr_inside, scaling.momentum_sgd_corrected):
        np.testing.assert_allclose(form(w0, grad, constant, 0.9, 1e-2), outside, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="lrs"):
        scaling.momentum_sgd_corrected(w0, grad, [0.0, 0.1], 0.9)


def test_scaling_the_loss_is_scaling_the_rate_without_decay_at_a_constant_factor_and_not_otherwise() -> None:
    rng = np.random.default_rng(21)
    grad, w0, s = noisy(rng, 20), rng.normal(size=4), 3.0
    forms = (
        scaling.momentum_sgd,
        scaling.nesterov_sgd,
        scaling.momentum_sgd_lr_inside,
        scaling.momentum_sgd_corrected,
    )
    for form in forms:
        for decay, same in [(0.0, True), (0.1, False)]:
            loss = form(w0, lambda w, t: s * grad(w, t), [0.02] * 20, 0.9, decay)
            rate = form(w0, grad, [0.02 * s] * 20, 0.9, decay)
            assert np.allclose(loss, rate, rtol=0, atol=1e-10) is same
    lrs = np.linspace(0.01, 0.1, 20)
    loss = scaling.momentum_sgd(w0, lambda w, t: lrs[t] * grad(w, t), [1.0] * 20, 0.9)
    np.testing.assert_allclose(loss, scaling.momentum_sgd_lr_inside(w0, grad, lrs, 0.9), rtol=0, atol=1e-12)


def test_nesterov_is_plain_momentum_seen_from_the_point_ahead() -> None:
    # With y = w - lr m u the update is u <- m u + g(y'), the classical form w' = w - lr u with g taken ahead.
    rng = np.random.default_rng(22)
    a, lr, m, w = rng.uniform(0.5, 2.0, 4), 0.1, 0.9, rng.normal(size=4)
    got = scaling.nesterov_sgd(w, lambda v, t: a * v, [lr] * 15, m)
    u, ahead = np.zeros(4), [w]
    for _ in range(15):
        u = m * u + a * (w - lr * m * u)
        w = w - lr * u
        ahead.append(w - lr * m * u)
    np.testing.assert_allclose(got, ahead, rtol=0, atol=1e-13)


def test_the_warm_up_rises_by_a_constant_amount_at_each_iteration_from_the_start_to_the_target() -> None:
    lrs = scaling.imagenet_schedule(8192, 10)
    assert lrs[0] == pytest.approx(0.1)
    assert lrs[50] == pytest.approx(3.2)
    np.testing.assert_allclose(np.diff(lrs[:51]), (3.2 - 0.1) / 50, rtol=1e-10)
    np.testing.assert_allclose(lrs[50:300], 3.2)
    np.testing.assert_allclose(lrs[300:600], 0.32)
    np.testing.assert_allclose(lrs[600:800], 0.032)
    np.testing.assert_allclose(lrs[800:], 0.0032)
    assert len(lrs) == 900
    held = scaling.constant_warmup(900, 10, 0.1, 3.2)
    np.testing.assert_array_equal(held[:50], 0.1)
    np.testing.assert_allclose(held[50:], lrs[50:])


def test_batches_up_to_the_reference_have_no_warm_up() -> None:
    for batch, lr in [(64, 0.025), (256, 0.1)]:
        np.testing.assert_allclose(scaling.imagenet_schedule(batch, 4)[:120], lr)
    assert scaling.imagenet_schedule(512, 4)[0] == pytest.approx(0.1)


# MoDeST


def nodes_view(*entries: modest.Entry) -> dict[int, modest.Entry]:
    return dict(enumerate(entries))


def test_merging_views_takes_the_latest_activity_and_the_membership_of_the_larger_counter() -> None:
    mine = nodes_view((3, 2, True), (9, 1, False))
    other = {0: (5, 1, False), 1: (2, 4, True), 7: (1, 1, True)}
    assert modest.merge(mine, other) == {0: (5, 2, True), 1: (9, 4, True), 7: (1, 1, True)}
    assert modest.merge(mine, mine) == mine


def test_merging_views_is_order_free_where_counters_name_one_membership() -> None:
    rng = np.random.default_rng(0)
    views = [
        {i: (int(rng.integers(9)), c, c % 2 == 0) for i in range(6) if (c := int(rng.integers(4))) or i}
        for _ in range(3)
    ]
    a, b, c = views
    assert modest.merge(a, b) == modest.merge(b, a)
    assert modest.merge(a, modest.merge(b, c)) == modest.merge(modest.merge(a, b), c)


def test_candidates_are_in_active_lately_or_oneself_and_in_the_order_of_their_digests() -> None:
    view = nodes_view((5, 0, True), (4, 0, True), (30, 3, False), (0, 0, True), (25, 2, True))
    assert sorted(modest.candidates(view, 25, 20)) == [0, 4]
    assert sorted(modest.candidates(view, 25, 20, own=2)) == [0, 2, 4]
    # `printf 0-1 | md5sum` begins with c2, 1-1 with ea, 2-1 with 8f
    assert modest.ordered([0, 1, 2], 1) == [2, 0, 1]


def test_a_sample_passes_over_those_who_do_not_answer() -> None:
    assert modest.sample([4, 1, 3, 0, 2], 2, lambda node: node not in (4, 3)) == [1, 0]
    assert modest.sample([4, 1], 5) == [4, 1]
    assert [modest.enough(10, sf) for sf in (1.0, 0.7, 0.29, 0.05)] == [10, 7, 2, 1]


def test_rounds_without_failures_follow_federated_averaging_over_the_same_samples() -> None:
    # training pulls node i halfway to i: w <- (w + i) / 2
    log, views = modest.trace((64.0,), 30, lambda i, k, w: ((w[0] + i) / 2,), 12, size=8, aggregators=3, window=12)
    w = 64.0
    for entry, after in zip(log, [*log[1:], None], strict=True):
        assert entry.start == (w,)
        w = sum((w + i) / 2 for i in entry.participants) / 8
        assert entry.average[0] == pytest.approx(w, rel=1e-15)
        w = entry.average[0]
        assert after is None or after.participants[:3] == entry.aggregators
        # who aggregates sends to itself for nothing, and what it trained too where it was in the sample before
        both = set(entry.participants) & set(entry.aggregators)
        assert entry.transfers == 2 * 3 * 8 - 3 - len(both)
    for j in log[-1].aggregators:
        assert all(views[j][i][0] == 13 for i in log[-1].participants)


def test_transfers_to_oneself_are_those_of_the_aggregators_that_take_part() -> None:
    log, _ = modest.trace((0.0,), 10, lambda i, k, w: w, 3, size=10, aggregators=2, window=3)
    assert [entry.transfers for entry in log] == [2 * 2 * 9] * 3  # everybody takes part, and skips itself
