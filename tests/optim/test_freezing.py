"""Freezing: which layers are embeddings, and that nothing moves what is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shoal.learning import Task
from shoal.learning.data import load
from shoal.learning.models import SmallCNN, transformer, vit
from shoal.optim import LARS, SGD, AdamW, GradualUnfreezing, Lion, freeze_embeddings, unfreeze
from shoal.optim.freezing import blocks, embedding_names
from shoal.simulation import simulate
from shoal.tensors import flatten_module


class ConvNeXt(nn.Module):
    """The names and order of a stem, a block and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(1, 8))
        self.stage = nn.Sequential(nn.Conv2d(8, 8, 7, groups=8), nn.GroupNorm(1, 8), nn.Linear(8, 8))
        self.head = nn.Linear(8, 5)


class Patches(nn.Module):
    """A convolution over patches, with a norm that is the first block's and not the stem's."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 8)), nn.Parameter(torch.zeros(5, 8))
        self.conv_proj = nn.Conv2d(3, 8, 4, 4)
        self.encoder = nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))])


class Words(nn.Module):
    """A text model with tables of words, of types and of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings, self.token_type = nn.Embedding(9, 8), nn.Embedding(2, 8)
        self.position_embeddings, self.wpe = nn.Embedding(5, 8), nn.Embedding(5, 8)
        self.out = nn.Linear(8, 9)


DIGITS, TEXT = load("digits"), load("text", context=8)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (ConvNeXt(), ["stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"]),
        (Patches(), ["conv_proj.weight", "conv_proj.bias"]),
        (Words(), ["word_embeddings.weight", "token_type.weight"]),
        (vit(DIGITS, 16, 1, 4)(), ["patch_embed.weight", "patch_embed.bias"]),
        (transformer(DIGITS, 16, 1, 4)(), ["embed.weight", "embed.bias"]),
        (transformer(TEXT, 16, 1, 4)(), ["embed.weight"]),
        (SmallCNN(8, 10, 4), ["first.weight", "first.bias"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_embedding_layer_is_found_and_can_be_thawed_again(model: nn.Module, names: list[str]) -> None:
    assert embedding_names(model) == names
    assert freeze_embeddings(model) == names
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == names
    assert freeze_embeddings(model) == []
    assert unfreeze(model, names) == names
    assert all(p.requires_grad for p in model.parameters())


def test_names_may_be_given_with_stars() -> None:
    model = Patches()
    assert freeze_embeddings(model, ["cls_token", "encoder.0.1.*"]) == [
        "cls_token",
        "encoder.0.1.weight",
        "encoder.0.1.bias",
    ]
    with pytest.raises(ValueError, match="names: got 'stem'; names of parameters are allowed, such as cls_token"):
        freeze_embeddings(model, ["stem"])
    with pytest.raises(ValueError, match="names: got 'x'"):
        unfreeze(model, ["x"])
    with pytest.raises(ValueError, match=r"model: got one without .* names= is needed"):
        freeze_embeddings(nn.Linear(2, 2))


MAKES: list[Any] = [
    lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda p: AdamW(p, lr=0.1, weight_decay=0.1),
    lambda p: Lion(p, lr=0.1, weight_decay=0.1),
    lambda p: LARS(p, lr=0.1, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
]


@pytest.mark.parametrize("make", MAKES)
def test_steps_and_decay_leave_what_is_frozen_bit_for_bit(make: Any) -> None:
    """Even in the middle of a training, when momenta and the last gradient are there."""
    torch.manual_seed(0)
    model = vit(DIGITS, 8, 1, 2)()
    optimizer = make([(name, p) for name, p in model.named_parameters()])

    def step() -> None:
        nn.functional.cross_entropy(model(DIGITS.train.inputs[:8]), DIGITS.train.targets[:8]).backward()
        optimizer.step()

    step()
    frozen = freeze_embeddings(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == frozen
    unfreeze(model, frozen)
    step()
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_stacked_peers_leave_frozen_segments_bit_for_bit() -> None:
    def build() -> nn.Module:
        model = vit(DIGITS, 8, 1, 2)()
        freeze_embeddings(model)
        return model

    task = Task("digits", build, DIGITS)
    run = simulate(
        "gossip:steps=3", task=task, peers=3, rounds=2, seed=1, optimizer=AdamW.rule(lr=0.05, weight_decay=0.5)
    )
    first, layout = flatten_module(task.initial(1))
    start, parts = layout.unflatten(first), {i: layout.unflatten(v) for i, v in run.models.items()}
    assert [s.name for s in layout if s.role == "frozen"] == ["patch_embed.weight", "patch_embed.bias"]
    for own in parts.values():
        assert torch.equal(own["patch_embed.weight"], parts[0]["patch_embed.weight"])
        assert not torch.equal(own["head.weight"], start["head.weight"])
    trained = simulate("gossip:steps=0", task=task, peers=3, rounds=1, seed=1)
    assert torch.equal(layout.unflatten(trained.models[0])["patch_embed.weight"], parts[0]["patch_embed.weight"])


def test_blocks_go_from_the_input_to_the_output() -> None:
    found = blocks(vit(DIGITS, 8, 2, 2)())
    assert [part[0] for part in found] == [
        "token",
        "blocks.0.norm1.weight",
        "blocks.1.norm1.weight",
        "norm.weight",
        "head.weight",
    ]
    assert "patch_embed.weight" in found[0]
    names = [name for part in found for name in part]
    assert sorted(names) == sorted(name for name, _ in vit(DIGITS, 8, 2, 2)().named_parameters())


def test_blocks_thaw_one_after_the_other_and_frozen_ones_stay() -> None:
    model = vit(DIGITS, 8, 2, 2)()
    frozen = freeze_embeddings(model)
    unfreezing = GradualUnfreezing(model, every=2)
    parts = blocks(model)

    def trained() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    for step in range(12):
        count = min(5, 1 + step // 2)
        assert trained() == {name for part in parts[-count:] for name in part} - set(frozen)
        thawed = unfreezing.step()
        assert bool(thawed) == (step % 2 == 1 and step < 8)
    with pytest.raises(ValueError, match=r"every: got 0"):
        GradualUnfreezing(model, every=0)
    with pytest.raises(ValueError, match="groups: got none"):
        GradualUnfreezing(model, every=1, groups=[])


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: freeze_embeddings([nn.Embedding(2, 2)]), "^model: got list; a torch.nn.Module is allowed"),
        (lambda: freeze_embeddings([nn.Embedding(2, 2)], ["weight"]), "^model: got list"),
        (lambda: unfreeze(None, ["weight"]), "^model: got NoneType"),
        (lambda: embedding_names("model"), "^model: got str"),
        (lambda: blocks([]), "^model: got list"),
        (lambda: GradualUnfreezing([], every=1), "^model: got list"),
        (lambda: freeze_embeddings(nn.Embedding(2, 2), [["weight"]]), r"^names: got \['weight'\]; strings are allowed"),
        (lambda: unfreeze(nn.Embedding(2, 2), 3), "^names: got 3; strings are allowed, such as weight"),
    ],
)
def test_what_is_no_model_and_what_are_no_names_is_refused(attempt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attempt()


@pytest.mark.parametrize("every", [1.5, float("nan"), True])
def test_stages_last_a_whole_number_of_steps(every: Any) -> None:
    with pytest.raises(ValueError, match=r"every: got .*; a whole number >= 1 is allowed"):
        GradualUnfreezing(nn.Linear(2, 2), every=every)


def test_groups_that_share_a_parameter_are_refused_and_nothing_is_frozen() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    with pytest.raises(ValueError, match=r"groups: got 0\.weight twice; a parameter in one group is allowed"):
        GradualUnfreezing(model, every=1, groups=[["0.*"], ["0.weight", "2.*"]])
    assert all(p.requires_grad for p in model.parameters())


def unfrozen(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, GradualUnfreezing]:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    freeze_embeddings(model, ["0.*"])
    return model, AdamW(model.parameters(), lr=0.01), GradualUnfreezing(model, every=3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, unfreezing: GradualUnfreezing, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        unfreezing.step()


@pytest.mark.parametrize("at", [0, 2, 3, 7, 11])
def test_a_training_with_gradual_unfreezing_is_resumed_bit_for_bit(at: int, tmp_path: Path) -> None:
    model, _, _ = whole = unfrozen(seed=0)
    train(*whole, range(at))
    torch.save([part.state_dict() for part in whole], tmp_path / "checkpoint")
    train(*whole, range(at, 14))
    resumed = unfrozen(seed=1)
    for part, state in zip(resumed, torch.load(tmp_path / "checkpoint", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert resumed[2].trained == min(4, 1 + at // 3)
    train(*resumed, range(at, 14))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), resumed[0].parameters(), strict=True))
    assert [p.requires_grad for p in resumed[0].parameters()] == [False] * 2 + [True] * 6


def test_an_earlier_state_freezes_again() -> None:
    model, _, unfreezing = unfrozen(seed=0)
    for _ in range(9):
        unfreezing.step()
    unfreezing.load_state_dict(unfrozen(seed=0)[2].state_dict())
    assert [p.requires_grad for p in model.parameters()] == [False] * 6 + [True] * 2
    assert unfreezing.steps == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": -1}, "state_dict: got steps -1; a whole number >= 0 is allowed"),
        ({"every": 2}, "state_dict: got every 2; 3 is allowed"),
        ({"groups": [["0.weight"]]}, r"state_dict: got groups \[\['0.weight'\]\]; \[\[\], \['1.weight', '1.bias'\], "),
        ({"groups": None}, "state_dict: got groups None; "),
    ],
)
def test_the_state_of_another_unfreezing_is_refused(changed: dict[str, Any], message: str) -> None:
    model, _, unfreezing = unfrozen(seed=0)
    with pytest.raises(ValueError, match=message):
        unfreezing.load_state_dict({**unfreezing.state_dict(), "steps": 7, **changed})
    assert unfreezing.steps == 0
    assert sum(p.requires_grad for p in model.parameters()) == 2
