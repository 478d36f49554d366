"""The restatements of the memory-saving optimizers against closed forms and exact identities; NumPy only."""

from collections.abc import Callable, Sequence
from math import inf, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from .optimizers import adafactor, microadam, subset_norm
from .optimizers.adafactor import Adafactor
from .optimizers.adam_mini import AdamMini, published_partition, published_weight_decay
from .optimizers.apollo import APOLLO, APOLLOMini
from .optimizers.badam import BAdam, descending
from .optimizers.microadam import MicroAdam
from .optimizers.subset_norm import AdamSNSM, SubsetNorm, SubspaceMomentum

Array = NDArray[np.float64]
close = np.testing.assert_allclose


def normal(*shape: int, seed: int = 3) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def adamw(p: Array, grads: Sequence[Array], lr: float, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0) -> Array:
    """AdamW with eps beside the corrected root and the decay of the old parameters."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        p = p - lr * weight_decay * p - lr * step
    return p


def adam_uncorrected_eps(p: Array, grads: Sequence[Array], lr: float, betas, eps, weight_decay=0.0) -> Array:
    """Adam with the bias correction in the step size and the decay of the new parameters."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p = p - lr * sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) * m / (np.sqrt(v) + eps)
        p = p - lr * weight_decay * p
    return p


OPTIMIZERS: list[Callable[[list[Array]], object]] = [
    AdamMini,
    lambda p: MicroAdam(p, density=0.5, window=2),
    SubsetNorm,
    lambda p: SubspaceMomentum(p, rank=1),
    lambda p: AdamSNSM(p, rank=1),
    lambda p: BAdam(p, blocks=[range(len(p))]),
    lambda p: APOLLO(p, rank=2, projection=lambda i, t, shape: np.ones(shape)),
    lambda p: APOLLOMini(p, projection=lambda i, t, shape: np.ones(shape)),
    Adafactor,
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_missing_gradient_leaves_a_tensor_and_its_state_as_if_the_step_had_not_been(make) -> None:
    a, b, gs = normal(4, 3), normal(4, 3, seed=4), normal(5, 4, 3, seed=5)
    both, alone = make([a, b]), make([a, b])
    for t, g in enumerate(gs):
        both.step([g, g if t % 2 else None])
    for g in gs[1::2]:
        alone.step([g, g])
    close(both.params[1], alone.params[1], rtol=0, atol=0)
    assert np.all(both.params[0] != alone.params[0])
    close(a, normal(4, 3), rtol=0, atol=0)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_the_learning_rate_may_change_between_steps(make) -> None:
    opt, g = make([normal(4, 3)]), normal(4, 3, seed=5)
    opt.step([g])
    before, opt.lr = opt.params[0], 0.0
    opt.step([g])
    close(opt.params[0], before, rtol=0, atol=0)


# Adam-mini

NAMES = {"tok_embed.weight": (65, 64), "norm.weight": (64,), "lm_head.weight": (65, 64)}
for layer in range(2):
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        NAMES[f"layers.{layer}.attn.{part}.weight"] = (64, 64)
    NAMES[f"layers.{layer}.mlp.up.weight"] = (256, 64)
    NAMES[f"layers.{layer}.mlp.up.bias"] = (256,)
    NAMES[f"layers.{layer}.mlp.down.weight"] = (64, 256)


def test_adam_mini_with_blocks_of_one_coordinate_is_adamw() -> None:
    p, gs = normal(3, 5), normal(20, 3, 5, seed=6)
    opt = AdamMini([p], lr=0.1, weight_decay=0.3, partition=[np.arange(15).reshape(3, 5)])
    for g in gs:
        opt.step([g])
    close(opt.params[0], adamw(p, gs, 0.1, weight_decay=0.3), rtol=0, atol=1e-13)


def test_adam_mini_with_one_block_steps_along_the_momentum_at_the_root_mean_square() -> None:
    p, g = normal(3, 5), normal(3, 5, seed=6)
    opt = AdamMini([p], lr=0.1)
    opt.step([g])
    close(opt.params[0], p - 0.1 * g / (np.sqrt(np.mean(g * g)) + 1e-8), rtol=0, atol=1e-14)
    opt.step([-g])
    m_hat, rms = (0.9 * 0.1 - 0.1) * g / (1 - 0.81), np.sqrt(np.mean(g * g))
    close(opt.params[0], p - 0.1 * g / (rms + 1e-8) - 0.1 * m_hat / (rms + 1e-8), rtol=0, atol=1e-14)


def test_adam_mini_takes_the_mean_of_a_block_so_that_repeating_its_entries_changes_nothing() -> None:
    p, gs = normal(6), normal(5, 6, seed=6)
    once, twice = AdamMini([p]), AdamMini([np.concatenate([p, p])])
    for g in gs:
        once.step([g])
        twice.step([np.concatenate([g, g])])
    close(twice.params[0][6:], once.params[0], rtol=0, atol=1e-15)


def test_adam_mini_adds_eps_outside_the_root() -> None:
    opt = AdamMini([np.zeros(4)], lr=1.0, eps=1e-3)
    opt.step([np.full(4, 1e-3)])
    close(opt.params[0], -0.5, rtol=1e-12)


def test_adam_mini_keeps_a_number_a_coordinate_and_a_number_a_block() -> None:
    partition = [published_partition(name, shape, dim=64, n_heads=4) for name, shape in NAMES.items()]
    opt = AdamMini([np.zeros(shape) for shape in NAMES.values()], partition=partition)
    d = sum(m.size for m in opt.m)
    blocks = dict(zip(NAMES, [v.size for v in opt.v], strict=True))
    assert blocks["layers.0.attn.q_proj.weight"] == blocks["layers.1.attn.k_proj.weight"] == 4
    assert blocks["layers.0.attn.v_proj.weight"] == blocks["layers.0.attn.o_proj.weight"] == 64
    assert blocks["layers.0.mlp.up.weight"] == blocks["layers.0.mlp.up.bias"] == 256
    assert blocks["layers.0.mlp.down.weight"] == 64
    assert blocks["norm.weight"] == 1
    assert blocks["tok_embed.weight"] == blocks["lm_head.weight"] == 65
    assert d == sum(int(np.prod(s)) for s in NAMES.values())
    assert (d + sum(blocks.values())) / (2 * d) < 0.51


def test_the_published_partition_cuts_heads_from_consecutive_output_rows() -> None:
    labels = published_partition("Attn.WQ.weight", (8, 8), dim=8, n_heads=4)
    assert labels.tolist() == [[row // 2] * 8 for row in range(8)]
    grouped = published_partition("attn.wk.weight", (4, 8), dim=8, n_heads=4)
    assert grouped.max() + 1 == 2
    stack = published_partition("attn.in_proj_weight", (24, 8), dim=8, n_heads=4)
    parts = [published_partition(f"{n}_proj.weight", (8, 8), dim=8, n_heads=4) for n in "qkv"]
    assert np.array_equal(stack, np.concatenate([parts[0], 4 + parts[1], 8 + parts[2]]))


def test_norms_and_biases_do_not_decay_in_adam_mini() -> None:
    decay = [published_weight_decay(name, 0.1) for name in NAMES]
    assert {n for n, w in zip(NAMES, decay, strict=True) if w == 0} == {n for n in NAMES if "norm" in n or "bias" in n}
    opt = AdamMini([np.ones(2), np.ones(2)], lr=0.5, weight_decay=[0.0, 0.2])
    opt.step([np.zeros(2), np.zeros(2)])
    close(np.concatenate(opt.params), [1, 1, 0.9, 0.9])


# MicroAdam


def test_microadam_with_everything_sent_and_a_long_window_is_adamw_without_error() -> None:
    p, gs = normal(4, 5), normal(12, 4, 5, seed=7)
    opt = MicroAdam([p], lr=0.05, density=1.0, window=12, weight_decay=0.2, topk_block_size=7)
    for g in gs:
        opt.step([g])
        assert not opt.error(0).any()
    close(opt.params[0], adamw(p, gs, 0.05, weight_decay=0.2), rtol=0, atol=1e-13)


@pytest.mark.parametrize("bucket", [1, 3, 10, 100])
def test_a_quantised_value_is_off_by_half_a_unit_at_most_and_the_ends_of_a_bucket_are_exact(bucket: int) -> None:
    a = normal(40)
    codes, low, high = microadam.quantize(a, bucket, 4)
    assert 0 <= codes.min() <= codes.max() <= 15
    back = microadam.dequantize(codes, low, high, bucket, 4)
    for b, start in enumerate(range(0, 40, bucket)):
        part = slice(start, start + bucket)
        unit = (a[part].max() - a[part].min()) / 15
        assert np.all(np.abs(back[part] - a[part]) <= unit / 2 + 1e-15)
        close([back[part].min(), back[part].max()], [low[b], high[b]], rtol=0, atol=1e-15)


def test_halves_of_a_unit_are_rounded_up() -> None:
    codes, _, _ = microadam.quantize(np.array([0.0, 0.5, 1.5, 2.5, 15.0]), 5, 4)
    assert codes.tolist() == [0, 1, 2, 3, 15]


def test_without_quantisation_what_was_sent_and_the_error_are_the_sum_of_the_gradients() -> None:
    gs = normal(30, 17, seed=8)
    opt, sent = MicroAdam([np.zeros(17)], density=0.2, window=3, quant_bits=None), np.zeros(17)
    for t, g in enumerate(gs):
        opt.step([g])
        sent[opt.I[0][t % 3]] += opt.V[0][t % 3]
        close(sent + opt.error(0), gs[: t + 1].sum(axis=0), rtol=0, atol=1e-13)


def test_error_feedback_moves_a_coordinate_whose_gradient_is_never_the_largest() -> None:
    g = np.array([1.0, 0.4])
    fed, unfed = (MicroAdam([np.zeros(2)], density=0.5) for _ in range(2))
    for _ in range(40):
        fed.step([g])
        unfed.step([g])
        unfed.e[0][:], unfed.low[0][:], unfed.high[0][:] = 0, 0, 0
    assert unfed.params[0][1] == 0
    assert fed.params[0][1] < -1e-3


def test_a_coordinate_moves_for_as_long_as_the_window_remembers_it() -> None:
    lr, window, b1, b2 = 0.1, 4, 0.9, 0.99
    opt = MicroAdam([np.zeros(2)], lr=lr, betas=(b1, b2), eps=0, density=0.5, window=window)
    want = 0.0
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was ever sent and eps is 0
        opt.step([np.array([3.0, 0.0])])
    opt.params[0][1] = 0.0
    want -= lr
    for t in range(2, 9):
        with np.errstate(invalid="ignore"):
            opt.step([np.array([0.0, 1.0])])
        if t <= window:
            m = (1 - b1) / (1 - b1**t) * b1 ** (t - 1) * 3
            v = (1 - b2) / (1 - b2**t) * b2 ** (t - 1) * 9
            want -= lr * m / sqrt(v)
            close(opt.params[0][0], want, rtol=1e-13)
            last = opt.params[0][0]
        else:
            opt.params[0][0] = last


def test_only_coordinates_in_the_window_move() -> None:
    opt, p = MicroAdam([normal(50)], density=0.04, window=3), normal(50)
    for g in normal(8, 50, seed=9):
        before = opt.params[0]
        opt.step([g])
        moved = np.flatnonzero(opt.params[0] != before)
        assert set(moved) <= set(opt.I[0].ravel())
    assert np.sum(opt.params[0] == p) >= 50 - 8 * 2


def test_the_largest_are_taken_in_every_block_also_in_the_short_last_one() -> None:
    a = np.array([0, 9, -8, 0, 1, 0, 0, -2, 0, 3, 0.0])
    assert sorted(microadam.top_k(a, 0.25, 4)) == [1, 7, 9]
    assert sorted(microadam.top_k(a, 0.26, None)) == [1, 2, 9]
    opt = MicroAdam([np.zeros((5, 5))], topk_block_size=10, window=6)
    assert opt.I[0].shape == opt.V[0].shape == (6, 3)


# Subset-Norm and Subspace-Momentum


def test_subsets_of_one_are_adam() -> None:
    p, gs, kw = normal(4, 3), normal(15, 4, 3, seed=10), {"betas": (0.8, 0.95), "eps": 1e-3}
    opt = SubsetNorm([p, p[0]], lr=0.1, subset_size=1, weight_decay=0.2, **kw)
    for g in gs:
        opt.step([g, g[0]])
    close(opt.params[0], adam_uncorrected_eps(p, gs, 0.1, weight_decay=0.2, **kw), rtol=0, atol=1e-14)
    close(opt.params[1], opt.params[0][0], rtol=0, atol=1e-15)


def test_one_subset_and_beta2_one_are_adagrad_with_norms() -> None:
    p, gs = normal(4, 3), normal(10, 4, 3, seed=10)
    opt = SubsetNorm([p], lr=0.1, betas=(0.0, 1.0), eps=0, subset_size=12, correct_bias=False)
    total = 0.0
    for g in gs:
        opt.step([g])
        total += np.sum(g * g)
        p = p - 0.1 * g / sqrt(total)
    close(opt.params[0], p, rtol=0, atol=1e-14)
    assert opt.v[0].shape == (1,)
    with pytest.raises(ValueError, match="correct_bias"):
        SubsetNorm([p], betas=(0.0, 1.0))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_by_rows_or_columns_the_longer_side_is_kept_and_squares_are_summed(shape: tuple[int, int]) -> None:
    g = normal(*shape, seed=11)
    opt = SubsetNorm([np.zeros(shape)], lr=0.1, eps=0)
    opt.step([g])
    assert opt.v[0].shape == (max(shape),)
    axis = 1 if shape[0] >= shape[1] else 0
    close(opt.params[0], -0.1 * g / np.sqrt(np.sum(g * g, axis=axis, keepdims=True)), rtol=1e-13)


def test_subset_norm_commutes_with_transposition() -> None:
    a, b = SubsetNorm([np.zeros((5, 3))]), SubsetNorm([np.zeros((3, 5))])
    for g in normal(6, 5, 3, seed=11):
        a.step([g])
        b.step([g.T])
    close(a.params[0], b.params[0].T, rtol=0, atol=1e-16)


@pytest.mark.parametrize(
    ("entries", "wanted", "size"), [(64, -2, 4), (60, -2, 3), (7, -2, 1), (2, -2, 1), (12, 5, 4), (12, 50, 12)]
)
def test_chunks_are_rounded_down_to_a_divisor(entries: int, wanted: int, size: int) -> None:
    assert subset_norm.chunk_size(entries, wanted) == size


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_momentum_in_the_whole_space_is_plain_momentum(shape: tuple[int, int]) -> None:
    p, gs = normal(*shape), normal(6, *shape, seed=12)
    opt = SubspaceMomentum([p, p[0]], lr=0.1, momentum=0.7, rank=128, weight_decay=0.3)
    m = np.zeros(shape)
    for g in gs:
        opt.step([g, g[0]])
        m = 0.7 * m + 0.3 * g
        p = (1 - 0.1 * 0.3) * (p - 0.1 * m)
    close(opt.params[0], p, rtol=0, atol=1e-14)
    close(opt.params[1], p[0], rtol=0, atol=1e-14)
    assert opt.m[0].shape == (3, 5)[:: 1 if shape == (3, 5) else -1]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_outside_of_the_subspace_it_is_sgd_and_inside_momentum(shape: tuple[int, int]) -> None:
    p = np.linalg.qr(normal(4, 4))[0][:, :2]
    inside = (lambda x: x @ p @ p.T) if shape == (6, 4) else (lambda x: p @ p.T @ x)
    gs = normal(5, *shape, seed=13)
    opt = SubspaceMomentum([np.zeros(shape)], lr=1.0, momentum=0.6, projection=lambda i, t, g: p)
    m = total = 0.0
    for g in gs:
        opt.step([g])
        m = 0.6 * m + 0.4 * inside(g)
        total = total - m
    close(inside(opt.params[0]), total, rtol=0, atol=1e-14)
    close(opt.params[0] - inside(opt.params[0]), -(gs.sum(axis=0) - inside(gs.sum(axis=0))), rtol=0, atol=1e-14)


def test_a_refresh_takes_the_singular_vectors_of_the_new_gradient_and_forgets_the_momentum_but_not_the_step() -> None:
    gs = normal(5, 6, 4, seed=14)
    opt = AdamSNSM([np.zeros((6, 4))], rank=2, update_proj_gap=4)
    for g in gs:
        opt.step([g])
    right = np.linalg.svd(gs[4])[2][:2]
    close(opt.P[0] @ opt.P[0].T, right.T @ right, rtol=0, atol=1e-14)
    close(opt.m[0], 0.1 * gs[4] @ opt.P[0], rtol=0, atol=1e-15)
    assert opt.t == [5]


def test_the_gradient_of_rank_r_lies_in_its_own_subspace() -> None:
    g = np.outer(normal(6), normal(4, seed=4))
    opt = SubspaceMomentum([np.zeros((6, 4))], lr=1.0, rank=1)
    opt.step([g])
    close(opt.params[0], -0.1 * g, rtol=0, atol=1e-14)


def test_adam_snsm_of_full_rank_is_subset_norm_and_its_state_is_small() -> None:
    p, gs, kw = normal(6, 4), normal(7, 6, 4, seed=15), {"lr": 0.1, "weight_decay": 0.1}
    full, sn = AdamSNSM([p, p[0]], rank=4, **kw), SubsetNorm([p, p[0]], **kw)
    low = AdamSNSM([p], rank=2, **kw)
    for g in gs:
        full.step([g, g[0]])
        sn.step([g, g[0]])
        low.step([g])
    for got, want in zip(full.params, sn.params, strict=True):
        close(got, want, rtol=0, atol=1e-13)
    assert low.m[0].size == 2 * 6
    close(low.v[0], sn.v[0], rtol=1e-14)  # the whole gradient is squared


def test_the_first_step_of_adam_snsm_enlarges_the_complement_by_the_bias_correction() -> None:
    g = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    opt = AdamSNSM([np.zeros((3, 2))], lr=1.0, eps=1e-9, rank=1)
    opt.step([g])
    close(opt.params[0], [[-1, 0], [0, -10], [0, 0]], rtol=1e-6)


# BAdam


def test_badam_with_one_block_and_no_end_is_adamw() -> None:
    p, gs = [normal(3, 2), normal(4)], normal(9, 10, seed=16)
    opt = BAdam(p, lr=0.1, weight_decay=0.2, blocks=[[0, 1]], switch_block_every=inf)
    split = [[g[:6].reshape(3, 2), g[6:]] for g in gs]
    for grads in split:
        opt.step(grads)
    for i in range(2):
        close(opt.params[i], adamw(p[i], [g[i] for g in split], 0.1, weight_decay=0.2), rtol=0, atol=1e-14)


def test_badam_moves_one_block_at_a_time_and_keeps_state_for_it_alone() -> None:
    p = [normal(3), normal(2, 2), normal(5), normal(1)]
    opt = BAdam(p, lr=0.1, weight_decay=0.5, blocks=[[0, 1], [2], [3]], switch_block_every=2)
    for t in range(14):
        before = opt.params.copy()
        active = [[0, 1], [2], [3]][t // 2 % 3]
        assert opt.active == active
        assert set(opt.m) == set(opt.v) == set(active)
        assert sum(x.size for x in [*opt.m.values(), *opt.v.values()]) <= 2 * 7
        opt.step([np.ones_like(x) for x in opt.params])
        for i in range(4):
            assert np.all((opt.params[i] != before[i]) == (i in active))


def test_every_block_of_badam_starts_anew() -> None:
    g = normal(4)
    opt = BAdam([np.zeros(4)], lr=0.1, eps=0, switch_block_every=3)
    for k in range(9):
        before = opt.params[0]
        sign = 1 if k % 3 == 0 else -1
        opt.step([sign * g])
        if k % 3 == 0:
            close(opt.params[0] - before, -0.1 * np.sign(g), rtol=1e-13)


def test_badam_asks_for_an_order_in_every_block_epoch() -> None:
    asked = []

    def order(epoch: int, blocks: int) -> list[int]:
        asked.append((epoch, blocks))
        return [[2, 0, 1], [1, 2, 0]][epoch]

    opt = BAdam([np.zeros(1)] * 3, block_order=order, switch_block_every=1)
    seen = []
    for _ in range(6):
        seen.append(opt.block)
        if len(seen) < 6:
            opt.step([np.ones(1)] * 3)
    assert seen == [2, 0, 1, 1, 2, 0]
    assert asked == [(0, 3), (1, 3)]
    assert BAdam([np.zeros(1)] * 3, block_order=descending).block == 2


# APOLLO


def identity(i: int, t: int, shape: tuple[int, int]) -> Array:
    return np.eye(*shape)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_apollo_in_the_whole_space_scales_channels_as_adam_does(shape: tuple[int, int]) -> None:
    gs, axis = normal(4, *shape, seed=17), 1 if shape[0] >= shape[1] else 0
    opt = APOLLO([np.zeros(shape)], lr=1.0, rank=min(shape), projection=identity, norm_growth=None)
    for t in range(1, 5):
        before = opt.params[0]
        opt.step([gs[t - 1]])
        adam = adam_uncorrected_eps(np.zeros(shape), gs[:t], 1.0, (0.9, 0.999), 1e-6)
        if t > 1:
            adam = adam - adam_uncorrected_eps(np.zeros(shape), gs[: t - 1], 1.0, (0.9, 0.999), 1e-6)
        norms = [np.sqrt(np.sum(x * x, axis=axis, keepdims=True)) for x in (adam, gs[t - 1])]
        close(opt.params[0] - before, -gs[t - 1] * norms[0] / norms[1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_apollo_asks_for_projections_of_the_shorter_side_and_keeps_its_moments(shape: tuple[int, int]) -> None:
    asked = []

    def projection(i: int, t: int, wanted: tuple[int, int]) -> Array:
        asked.append((i, t, wanted))
        return normal(*wanted, seed=t)

    opt, g = APOLLO([np.zeros(shape), np.zeros(4)], rank=2, projection=projection, update_proj_gap=3), normal(*shape)
    r = []
    for _ in range(4):
        opt.step([g, np.ones(4)])
        r.append(g @ opt.P[0].T if shape == (5, 3) else opt.P[0].T @ g)
    assert asked == [(0, t, (2, 3) if shape == (5, 3) else (3, 2)) for t in (1, 4)]
    assert opt.M[0].size + opt.V[0].size == 2 * 5 * 2
    close(opt.M[0], sum(0.1 * 0.9 ** (3 - t) * r[t] for t in range(4)), rtol=0, atol=1e-14)
    assert np.all(r[3] != r[0])


def test_apollo_gives_other_tensors_adam() -> None:
    p, gs = normal(4), normal(6, 4)
    opt = APOLLO([p, p.reshape(2, 2)], projection=identity, weight_decay=0.1, compressed=[False, False])
    for g in gs:
        opt.step([g, g.reshape(2, 2)])
    close(opt.params[0], adam_uncorrected_eps(p, gs, 0.01, (0.9, 0.999), 1e-6, 0.1), rtol=0, atol=1e-15)
    close(opt.params[1].ravel(), opt.params[0], rtol=0, atol=1e-15)


def test_the_limiter_lets_the_update_grow_by_a_hundredth_a_step_of_what_it_let_through_before() -> None:
    opt = APOLLO([np.zeros((5, 3))], lr=1.0, betas=(0.0, 0.999), projection=identity, rank=3)
    g, norms = normal(5, 3), []
    for t in range(1, 12):
        before = opt.params[0]
        opt.step([g * 10.0 ** max(t - 3, 0)])
        norms.append(np.linalg.norm(opt.params[0] - before) / sqrt(1 - 0.999**t))
        close(norms[-1], opt.limited_norm[0], rtol=1e-12)
    close(np.divide(norms[3:], norms[2:-1]), 1.01, rtol=1e-7)
    assert norms[0] > norms[1] > norms[2]  # shrinking is free


def test_the_place_of_the_scale_is_of_no_matter_to_the_limiter() -> None:
    front, back = (APOLLOMini([np.zeros((5, 3))], projection=identity, scale_front=f) for f in (True, False))
    for t, g in enumerate(normal(6, 5, 3), 1):
        front.step([t * t * g])
        back.step([t * t * g])
    close(front.params[0], back.params[0], rtol=1e-7)


def test_the_first_step_of_apollo_mini_is_along_the_gradient() -> None:
    g, p = normal(5, 3), normal(1, 3, seed=18)
    opt = APOLLOMini([np.zeros((5, 3))], lr=0.1, eps=0, projection=lambda i, t, shape: p)
    opt.step([g])
    assert opt.M[0].shape == opt.V[0].shape == (5, 1)
    close(opt.params[0], -0.1 * sqrt(128) * g * sqrt(5) / np.linalg.norm(g @ p.T), rtol=1e-7)


# Adafactor


def test_the_first_step_on_squares_of_rank_one_is_the_sign() -> None:
    g = np.outer(normal(4), normal(6))
    opt = Adafactor([2 * np.ones((4, 6)), np.zeros(5)])
    opt.step([g, normal(5)])
    close(opt.params[0], 2 - 2 * 0.01 * np.sign(g), rtol=1e-13)
    close(opt.params[1], -1e-3 * 0.01 * np.sign(normal(5)), rtol=1e-13)


def test_the_factored_moment_has_the_row_and_column_sums_of_the_whole_one() -> None:
    opt, squares = Adafactor([np.zeros((4, 6))]), normal(5, 4, 6) ** 2
    whole = np.zeros((4, 6))
    for t, square in enumerate(squares, 1):
        opt.t[0] = t
        v = opt.second_moment(0, square)
        beta = 1 - t**-0.8
        whole = beta * whole + (1 - beta) * square
        close(v.sum(axis=0), whole.sum(axis=0), rtol=1e-13)
        close(v.sum(axis=1), whole.sum(axis=1), rtol=1e-13)
    assert np.linalg.matrix_rank(v) == 1


def test_a_decay_of_minus_one_takes_the_mean_of_all_squares() -> None:
    gs = normal(7, 5)
    opt = Adafactor([np.zeros(5)], beta2_decay=-1.0)
    for g in gs:
        opt.step([g])
    close(opt.V[0], np.mean(gs**2, axis=0), rtol=1e-13)


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 4), ()])
def test_an_update_is_no_larger_than_the_clipping_allows(shape: tuple[int, ...]) -> None:
    opt, d = Adafactor([normal(*shape) * np.ones(shape)], d=1.5), 1.5
    for t in range(1, 150):
        before = opt.params[0]
        opt.step([normal(*shape, seed=t) * 10 ** (t % 5) * np.ones(shape)])
        size = max(1e-3, adafactor.rms(before)) * min(0.01, 1 / sqrt(t))
        assert adafactor.rms(opt.params[0] - before) <= d * size * (1 + 1e-9)


def test_adafactor_does_not_see_the_scale_of_the_gradients_and_scales_with_the_parameters() -> None:
    p = normal(3, 4)
    a, b, c = Adafactor([p]), Adafactor([p]), Adafactor([5 * p])
    for g in normal(6, 3, 4):
        a.step([g])
        b.step([1000 * g])
        c.step([g])
    close(b.params[0], a.params[0], rtol=1e-12)
    close(c.params[0], 5 * a.params[0], rtol=1e-12)


def test_adafactor_factors_every_matrix_of_a_stack_on_its_own() -> None:
    opt, square = Adafactor([np.zeros((2, 3, 4))]), normal(2, 3, 4) ** 2
    opt.t[0] = 1
    stack = opt.second_moment(0, square)
    for k in range(2):
        one = Adafactor([np.zeros((3, 4))])
        one.t[0] = 1
        close(stack[k], one.second_moment(0, square[k]), rtol=1e-14)


def test_the_relative_step_falls_and_a_given_rate_bounds_it() -> None:
    g = np.ones(3)
    opt = Adafactor([np.full(3, 2.0)], lr=0.6)
    for t in range(1, 8):
        before = opt.params[0]
        opt.step([g])
        close(before - opt.params[0], np.abs(before) * min(0.6, 1 / sqrt(t)), rtol=1e-12)
    absolute = Adafactor([np.full(3, 2.0)], lr=0.6, relative_step=False, weight_decay=0.1)
    absolute.step([g])
    close(absolute.params[0], 2 * (1 - 0.06) - 0.6, rtol=1e-12)
    with pytest.raises(ValueError, match="lr"):
        Adafactor([g], relative_step=False)


def test_a_zero_gradient_does_not_move_adafactor() -> None:
    opt = Adafactor([np.ones((2, 2)), np.ones(2)])
    opt.step([np.zeros((2, 2)), np.zeros(2)])
    close(opt.params[0], 1, rtol=0, atol=0)
    close(opt.params[1], 1, rtol=0, atol=0)
