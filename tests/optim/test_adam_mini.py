"""Adam-mini against its restatement, AdamW, and the published partition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shoal.optim.adam_mini import KINDS, AdamMini, BlockScaling, blocks_of, published_blocks
from shoal.optim.core import Param, Rule
from tests.optim.following import follow, missing, quadratic, torch_gradients
from tests.optim.stacking import assert_stacks
from tests.restatements.optimizers import adam_mini as restated

DIM, HEADS = 8, 2
TRANSFORMER: dict[str, tuple[int, ...]] = {
    "tok_embeddings.embed.weight": (11, DIM),
    "layers.0.attn.q_proj.weight": (DIM, DIM),
    "layers.0.attn.k_proj.weight": (DIM // 2, DIM),
    "layers.0.attn.v_proj.weight": (DIM // 2, DIM),
    "layers.0.attn.o_proj.weight": (DIM, DIM),
    "layers.0.attn.o_proj.bias": (DIM,),
    "layers.1.self_attn.in_proj_weight": (3 * DIM, DIM),
    "layers.1.self_attn.in_proj_bias": (3 * DIM,),
    "layers.1.self_attn.out_proj.weight": (DIM, DIM),
    "layers.1.query_scale": (3, 2, 7),
    "layers.1.mlp.conv.weight": (3, 2, 2),
    "layers.1.norm.weight": (DIM,),
    "layers.1.gate": (),
    "lm_head.weight": (11, DIM),
}
NAMES, SHAPES = list(TRANSFORMER), tuple(TRANSFORMER.values())


def labels(blocks: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> np.ndarray:
    sizes = [size for count, size in blocks for _ in range(count)]
    return np.repeat(np.arange(len(sizes)), sizes).reshape(shape)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_the_published_ones(name: str) -> None:
    shape = TRANSFORMER[name]
    ours = labels(published_blocks(name, shape, dim=DIM, heads=HEADS), shape)
    assert np.array_equal(ours, restated.published_partition(name, shape, dim=DIM, n_heads=HEADS))


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "blocks.0.attn.qkv.weight", "a.in_proj_weight"])
def test_stacks_of_query_key_and_value_are_cut_into_heads_and_rows(name: str) -> None:
    assert published_blocks(name, (24, 8), dim=8, heads=2) == ((4, 32), (8, 8))
    with pytest.raises(ValueError, match=r"\(24, 8\)"):
        published_blocks(name, (8, 24), dim=8, heads=2)


@settings(max_examples=8)
@given(
    st.floats(1e-4, 0.1),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    st.floats(1e-10, 1e-2),
    st.sampled_from([0.0, 0.2]),
)
def test_adam_mini_goes_the_restated_way(lr: float, betas: tuple[float, float], eps: float, decay: float) -> None:
    partition = [restated.published_partition(n, s, dim=DIM, n_heads=HEADS) for n, s in TRANSFORMER.items()]
    decays = [restated.published_weight_decay(name, decay) for name in NAMES]
    chosen = {"lr": lr, "betas": betas, "eps": eps}
    follow(
        lambda p: AdamMini(zip(NAMES, p, strict=True), **chosen, weight_decay=decay, dim=DIM, n_heads=HEADS),  # type: ignore[arg-type]
        lambda p: restated.AdamMini(p, **chosen, weight_decay=decays, partition=partition),  # type: ignore[arg-type]
        missing(quadratic(SHAPES)),
        shapes=SHAPES,
        rates=lambda step: lr * 0.98**step,
    )


def run(optimizer: torch.optim.Optimizer, p: nn.Parameter, steps: int = 50) -> torch.Tensor:
    gradients = quadratic((tuple(p.shape),), condition=100.0)
    for step in range(steps):
        torch_gradients([p], gradients, step)
        optimizer.step()
    return p.detach()


def start(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.random.default_rng(2).normal(size=shape)))


def test_coordinates_as_blocks_are_adamw() -> None:
    p, q = start(6, 5), start(6, 5)
    ours = AdamMini([p], lr=0.02, weight_decay=0.3, blocks="coordinate")
    theirs = torch.optim.AdamW([q], lr=0.02, weight_decay=0.3)
    torch.testing.assert_close(run(ours, p), run(theirs, q), rtol=1e-12, atol=1e-12)


def test_blocks_of_one_entry_are_adam() -> None:
    p, q = start(6, 5), start(6, 5)
    rule, params = Rule("", 0.02, (BlockScaling(blocks=((12, 1), (18, 1))),)), [Param("", (6, 5))]
    state = rule.views(rule.memory({"": p.detach()}), params)
    other, gradients = torch.optim.Adam([q], lr=0.02), quadratic(((6, 5),))
    for step in range(50):
        torch_gradients([q], gradients, step)
        assert q.grad is not None
        rule.step(params, [p.detach()], [q.grad], state, step + 1.0, 0.02)
        other.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)


def test_a_single_block_is_a_momentum_step_of_one_rate() -> None:
    p = start(4, 5)
    before, g = p.detach().clone(), torch.from_numpy(np.random.default_rng(7).normal(size=(4, 5)))
    p.grad = g.clone()
    AdamMini([p], lr=0.1, eps=0.0, blocks="tensor").step()
    torch.testing.assert_close(before - p.detach(), 0.1 * g / g.square().mean().sqrt(), rtol=1e-12, atol=1e-14)


def test_a_block_moves_by_the_learning_rate_whatever_the_scale_of_its_gradient() -> None:
    p = start(3, 4)
    before = p.detach().clone()
    p.grad = torch.from_numpy(np.random.default_rng(8).normal(size=(3, 4))) * torch.tensor([[1e-6], [1.0], [1e6]])
    AdamMini([p], lr=0.1, eps=0.0, blocks="row").step()
    moved = (before - p.detach()).square().mean(1).sqrt()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=1e-9, atol=0)


@given(st.sampled_from(KINDS), st.lists(st.integers(1, 5), max_size=3), st.integers(1, 9))
def test_blocks_cover_every_entry_once(kind: str, sizes: list[int], head: int) -> None:
    shape = tuple(sizes)
    blocks = blocks_of(kind, shape, head=head)
    assert sum(count * size for count, size in blocks) == np.prod(shape, dtype=int)
    assert all(count > 0 and size > 0 for count, size in blocks)


def test_gradients_and_weights_in_other_memory_orders_go_the_same_way() -> None:
    p, q = start(6, 5), nn.Parameter(start(6, 5).detach().t().contiguous().t())
    assert not q.is_contiguous()
    runs = [run(AdamMini([x], lr=0.02, blocks="row"), x) for x in (p, q)]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-14, atol=0)


def test_state_of_a_transformer_is_half_of_adams() -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, bias=False)
    model = nn.ModuleDict(
        {"embedding": nn.Embedding(100, 64), "layers": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)}
    )
    optimizer = AdamMini(model.named_parameters(), dim=64, n_heads=4)
    weights, blocks = 0, 0
    for name, p in model.named_parameters():
        p.grad = torch.ones_like(p)
        partition = restated.published_partition(name, tuple(p.shape), dim=64, n_heads=4)
        weights, blocks = weights + p.numel(), blocks + int(partition.max()) + 1
    optimizer.step()
    assert optimizer.state_bytes() == 4 * (weights + blocks)
    assert optimizer.state_bytes() < 0.51 * 8 * weights


def test_stacked_peers_go_the_way_of_separate_ones() -> None:
    chosen = {"lr": 0.05, "weight_decay": 0.1, "dim": DIM, "n_heads": HEADS}
    assert_stacks(AdamMini, chosen, shapes=SHAPES, names=tuple(NAMES))


@pytest.mark.parametrize(
    ("named", "options", "message"),
    [
        (None, {}, "^params: names are needed"),
        ("a.q_proj.weight", {}, "^dim: got None"),
        ("a.q_proj.weight", {"dim": 8}, "^n_heads: got None"),
        ("a.q_proj.weight", {"dim": 8, "n_heads": 3}, "^n_heads: got 3"),
        ("a.in_proj_weight", {"dim": 8, "n_heads": 2}, "^params: a.in_proj_weight has shape"),
        ("a.norm.weight", {"blocks": "neuron"}, "^blocks: got 'neuron'"),
        ("a.norm.weight", {"dim": 0}, "^dim: got 0"),
    ],
)
def test_what_is_missing_or_wrong_is_said_at_once(named: str | None, options: dict[str, object], message: str) -> None:
    p = nn.Parameter(torch.ones(8, 8))
    with pytest.raises(ValueError, match=message):
        AdamMini([p] if named is None else [(named, p)], **options)  # type: ignore[arg-type, list-item]


def test_biases_are_stepped_the_same_when_compiled() -> None:
    runs = []
    for compiled in (False, True):
        p = nn.Parameter(torch.linspace(-1, 2, 200))
        optimizer = AdamMini([("bias", p)], lr=0.05, compile=compiled)
        for step in range(20):
            p.grad = p.detach() * torch.linspace(0.1, 1, 200) + 0.01 * step
            optimizer.step()
        runs.append(p.detach())
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-6)
