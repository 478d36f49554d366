"""muP against a restatement of its tables, figures of the authors' package (PyPI: mup 1.0.0), and among its forms."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shoal.learning import Task
from shoal.learning.data import load
from shoal.learning.models import mlp, transformer
from shoal.optim import (
    APOLLO,
    LAMB,
    SGD,
    SGDW,
    SOAP,
    AdaFactor,
    AdaFisher,
    AdaFisherW,
    AdaHessian,
    Adam,
    AdamW,
    AdaSGD,
    AMSGrad,
    ClippedAdam,
    LaProp,
    Lion,
    NAdam,
    Param,
    RMSProp,
    Shampoo,
    WeightDecay,
    chain,
    mup,
)
from shoal.optim.rotated import rotated
from shoal.optim.ttur import ttur
from shoal.optim.widths import attention_scale, redraw, rescale, widths
from shoal.simulation import simulate
from tests.restatements.instruments import mup as restated

N0, N = 64, 512


def perceptron(n: int) -> nn.Module:
    return nn.Sequential(nn.Linear(12, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 5))


class Convolutional(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, n, 3), nn.Conv2d(n, 2 * n, 3)
        self.out = nn.Linear(2 * n * 16, 5)


class Attentive(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, n), nn.LayerNorm(n)
        self.qkv, self.proj = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.up, self.down = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)
        self.out = nn.Linear(n, 11)


MODELS: dict[str, Any] = {"mlp": perceptron, "cnn": Convolutional, "transformer": Attentive}
PACKAGE = {
    ("mlp", "0.weight"): (1, 1, 8),
    ("mlp", "0.bias"): (1, 1, 8),
    ("mlp", "2.weight"): (1, 0.125, 1),
    ("mlp", "2.bias"): (2.82843, 1, 8),
    ("mlp", "4.weight"): (0.353553, 0.125, 0.125),
    ("mlp", "4.bias"): (2.82843, 1, 1),
    ("cnn", "first.weight"): (1, 1, 8),
    ("cnn", "first.bias"): (1, 1, 8),
    ("cnn", "second.weight"): (1, 0.125, 1),
    ("cnn", "second.bias"): (2.82843, 1, 8),
    ("cnn", "out.weight"): (0.353553, 0.125, 0.125),
    ("cnn", "out.bias"): (2.82843, 1, 1),
    ("transformer", "embed.weight"): (1, 1, 8),
    ("transformer", "norm.weight"): (1, 1, 8),
    ("transformer", "norm.bias"): (1, 1, 8),
    ("transformer", "qkv.weight"): (1, 0.125, 1),
    ("transformer", "qkv.bias"): (2.82843, 1, 8),
    ("transformer", "proj.weight"): (1, 0.125, 1),
    ("transformer", "proj.bias"): (2.82843, 1, 8),
    ("transformer", "up.weight"): (1, 0.125, 1),
    ("transformer", "up.bias"): (2.82843, 1, 8),
    ("transformer", "down.weight"): (1, 0.125, 1),
    ("transformer", "down.bias"): (2.82843, 1, 8),
    ("transformer", "out.weight"): (0.353553, 0.125, 0.125),
    ("transformer", "out.bias"): (2.82843, 1, 1),
}
"""By mup 1.0.0 with MuReadout as the last layer, base width 64, width 512: factor of torch's first values, and rates
of MuAdam and MuSGD at lr = 1, with the readout's multiplier 1 / 8 taken into its weights (rates times 1 / 8, 1 / 64).
"""


def rates(optimizer: torch.optim.Optimizer, setting: str = "lr") -> dict[str, float]:
    return {name: group[setting] for group in optimizer.param_groups for name in group["param_names"]}


@pytest.mark.parametrize("kind", MODELS)
def test_initialisation_and_rates_are_those_of_the_authors_package(kind: str) -> None:
    theirs = {name: figures for (model, name), figures in PACKAGE.items() if model == kind}
    for column, make in ((1, torch.optim.Adam), (2, torch.optim.SGD)):
        torch.manual_seed(0)
        model = MODELS[kind](N)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        found = rates(mup(model, MODELS[kind](N0), make, lr=1.0))
        assert found.keys() == theirs.keys()
        for name, p in model.named_parameters():
            assert found[name] == pytest.approx(theirs[name][column], rel=1e-6), name
            torch.testing.assert_close(p.detach(), before[name] * theirs[name][0], rtol=1e-5, atol=0)


@pytest.mark.parametrize(("grown_in", "grown_out"), [(4, 4), (2, 8), (1, 3), (5, 1), (1, 1)])
@pytest.mark.parametrize("family", ["adam", "sgd"])
def test_factors_are_those_of_the_restated_tables(grown_in: int, grown_out: int, family: Any) -> None:
    base, wide = nn.Linear(6, 10), nn.Linear(6 * grown_in, 10 * grown_out)
    found = widths(wide, base)
    role: Any = {(True, True): "hidden", (True, False): "output"}.get((grown_in > 1, grown_out > 1), "input")
    theirs = restated.mup(role, family, 6 * grown_in, grown_in, grown_out)
    assert found["weight"].lr(family) == pytest.approx(theirs.rate)
    variance_at_base = restated.mup(role, family, 6, 1, 1).variance
    assert found["weight"].std ** 2 == pytest.approx(theirs.variance / variance_at_base)
    bias = restated.mup("bias" if grown_out > 1 else "output_bias", family, 1, grown_in, grown_out)
    assert found["bias"].lr(family) == pytest.approx(bias.rate)


def test_variances_that_are_drawn_anew_are_the_tables() -> None:
    model, again = (Attentive(N) for _ in range(2))
    redraw(model, Attentive(N0), 3)
    redraw(again, Attentive(N0), 3)
    drawn = dict(model.named_parameters())
    for name, p in again.named_parameters():
        assert torch.equal(p, drawn[name])
    for name, role, fan_in in (("qkv", "hidden", N), ("down", "hidden", 4 * N), ("out", "output", N)):
        expected = restated.mup(role, "adam", fan_in, N / N0, 1 if role == "output" else N / N0).variance  # type: ignore[arg-type]
        assert float(drawn[f"{name}.weight"].detach().var()) == pytest.approx(expected, rel=0.06)
        assert not drawn[f"{name}.bias"].any()
    assert float(drawn["embed.weight"].detach().var()) == pytest.approx(1.0, rel=0.06)
    assert torch.equal(drawn["norm.weight"], torch.ones(N))
    other = Attentive(N)
    redraw(other, Attentive(N0), 4, zero_output=True)
    assert not torch.equal(other.qkv.weight, model.qkv.weight)
    assert not other.out.weight.any()


def test_positions_are_as_large_as_in_the_base_model() -> None:
    text = load("text", context=8)
    model, base = (transformer(text, width, 1, 4)() for width in (128, 32))
    rms = {name: float(m.position.detach().square().mean().sqrt()) for name, m in (("own", model), ("base", base))}  # type: ignore[union-attr, operator]
    assert rms["own"] < 0.6 * rms["base"]
    rescale(model, base)
    assert float(model.position.detach().square().mean().sqrt()) == pytest.approx(rms["base"], rel=1e-5)  # type: ignore[union-attr, operator]


def test_eps_goes_with_the_size_of_the_gradient() -> None:
    eps = rates(mup(perceptron(N), perceptron(N0), Adam, lr=1.0, eps=1e-4), "eps")
    assert eps == pytest.approx(
        {
            "0.weight": 1e-4 / 8,
            "0.bias": 1e-4 / 8,
            "2.weight": 1e-4 / 8,
            "2.bias": 1e-4 / 8,
            "4.weight": 1e-4,
            "4.bias": 1e-4,
        }
    )
    squared = mup(perceptron(N), perceptron(N0), RMSProp, lr=1.0, eps=1e-4, eps_in_root=True, v0=1e-2)
    assert rates(squared, "eps")["2.weight"] == pytest.approx(1e-4 / 64)
    assert rates(squared, "v0")["2.weight"] == pytest.approx(1e-2 / 64)
    assert rates(squared, "v0")["4.weight"] == pytest.approx(1e-2)


def test_gradients_are_as_small_as_the_table_says() -> None:
    """Of a loss that is linear in the output, so that the errors are the same at every width; mean of 12 draws."""
    random = torch.Generator().manual_seed(1)
    x, errors = torch.randn(64, 12, generator=random), torch.randn(64, 5, generator=random)
    sizes: dict[int, dict[str, float]] = {N0: {}, 16 * N0: {}}
    for n, found in sizes.items():
        for seed in range(12):
            model = perceptron(n)
            redraw(model, perceptron(N0), seed)
            (model(x) * errors).sum().backward()
            for name, p in model.named_parameters():
                assert p.grad is not None
                found[name] = found.get(name, 0.0) + float(p.grad.abs().mean())
    for name, width in widths(perceptron(16 * N0), perceptron(N0)).items():
        assert sizes[16 * N0][name] / sizes[N0][name] == pytest.approx(width.gradient, rel=0.2), name


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (Adam, {"eps": 1e-3}),
        (AdamW, {"weight_decay": 0.3}),
        (AdamW, {"weight_decay": 0.3, "decay_times_lr": False}),
        (AdamW, {"weight_decay": 0.3, "decay_times_lr": False, "base_lr": 0.05}),
        (NAdam, {"weight_decay": 0.3, "decoupled_weight_decay": True}),
        (AMSGrad, {}),
        (RMSProp, {"momentum": 0.8, "eps_in_root": True, "v0": 0.1}),
        (Lion, {"weight_decay": 0.3}),
        (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3}),
        (SGDW, {"weight_decay": 0.3}),
    ],
)
def test_a_rule_takes_the_steps_of_the_torch_form(cls: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(2)
    model, base = perceptron(32).double(), perceptron(8)
    optimizer = mup(model, base, cls, lr=0.02, **settings)
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    rule = mup(model, base, cls.rule(lr=0.02, **settings), init="keep")
    params = [Param(name, tuple(p.shape)) for name, p in own.items()]
    stacked = [torch.stack([p, p]) for p in own.values()]
    memory = {name: torch.stack([value, value]) for name, value in rule.memory(own).items()}
    random = torch.Generator().manual_seed(5)
    for t in range(1, 6):
        gradients = [torch.randn(p.shape, generator=random, dtype=torch.float64) for p in own.values()]
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g.clone()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()
        times = torch.full((2,), t, dtype=torch.float64)
        pair = [torch.stack([g, g]) for g in gradients]
        rule.step(params, stacked, pair, rule.views(memory, params), times, torch.full_like(times, 0.02 * 0.9**t))
    for p, rows in zip(model.parameters(), stacked, strict=True):
        for row in rows:
            torch.testing.assert_close(row, p.detach(), rtol=1e-9, atol=1e-12)


def test_the_product_of_rate_and_decay_is_the_same_at_every_width() -> None:
    for make in (AdamW, partial(torch.optim.AdamW, betas=(0.8, 0.9)), partial(SGD, momentum=0.5)):
        optimizer = mup(perceptron(N), perceptron(N0), make, lr=0.01, weight_decay=0.2)
        assert {round(group["lr"] * group["weight_decay"], 12) for group in optimizer.param_groups} == {0.002}
        assert len({group["lr"] for group in optimizer.param_groups}) > 1


def test_peers_of_a_simulation_train_by_the_rule() -> None:
    data = load("digits")
    base = mlp(data, 8)()

    def build() -> nn.Module:
        model = mlp(data, 64)()
        rescale(model, base)
        return model

    rule = mup(build(), base, Adam.rule(lr=0.02), init="keep")
    common = {"task": Task("digits", build, data), "peers": 3, "rounds": 2, "seed": 4}
    runs = [simulate("gossip:steps=5", optimizer=rule, batched=batched, **common) for batched in (True, False)]
    for i, vector in runs[0].models.items():
        torch.testing.assert_close(vector, runs[1].models[i], rtol=1e-4, atol=1e-5)
    plain = simulate("gossip:steps=5", optimizer=Adam.rule(lr=0.02), **common)
    assert not torch.allclose(plain.models[0], runs[0].models[0], atol=1e-3)
    assert runs[0].final("loss") < simulate("gossip:steps=0", **common).final("loss")


# -- shared embeddings -------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(7, n), nn.Linear(n, n), nn.Linear(n, 7)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(self.embed(x)))  # type: ignore[no-any-return]


def test_a_shared_embedding_is_an_input_and_its_readout_is_divided() -> None:
    model, base = Tied(32), Tied(8)
    assert widths(model, base)["embed.weight"].kind == "input"
    before, bias = model.out(torch.ones(1, 32)).detach(), model.out.bias.detach().clone()
    optimizer = mup(model, base, Adam, lr=1.0)
    assert rates(optimizer)["embed.weight"] == 1.0
    torch.testing.assert_close(model.out.bias.detach(), 2.0 * bias)
    torch.testing.assert_close(model.out(torch.ones(1, 32)).detach(), (before - bias) / 4.0 + 2.0 * bias)
    mup(model, base, Adam, lr=1.0, init="keep")
    assert len(model.out._forward_pre_hooks) == 1
    x = torch.tensor([[1, 2]])
    called = torch.func.functional_call(model, dict(model.named_parameters()), (x,))
    torch.testing.assert_close(called, model(x))


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [4, 16, 64])
def test_logits_are_divided_by_the_dimension_of_a_head(dim: int) -> None:
    assert attention_scale(dim, 16) == pytest.approx(restated.attention_scale(dim, 16))
    assert attention_scale(16, 16) == pytest.approx(1 / math.sqrt(16))


def test_a_transformer_has_the_usual_attention_at_its_base_width() -> None:
    data = load("digits")
    for width, same in ((16, True), (32, False)):
        torch.manual_seed(0)
        plain = transformer(data, width, 1, 4)()
        torch.manual_seed(0)
        scaled = transformer(data, width, 1, 4, base_width=16)()
        assert scaled.blocks[0].scale == pytest.approx(attention_scale(width // 4, 4))  # type: ignore[union-attr, index]
        x = data.train.inputs[:4]
        assert torch.allclose(plain(x), scaled(x), rtol=1e-5, atol=1e-6) is same


# -- what is refused ---------------------------------------------------------------------------------------------------


class Raw(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(n, 3))
        self.square = nn.Parameter(torch.ones(n, n))
        self.experts = nn.Parameter(torch.ones(2, n, n))


def test_parameters_outside_layers_are_vectors_or_matrices_unless_it_is_said() -> None:
    with pytest.raises(ValueError, match=r"model: experts is wider along axes \[1, 2\]; sums="):
        widths(Raw(4), Raw(2))
    found = widths(Raw(4), Raw(2), sums={"experts": 1, "table": 0})
    assert [found[name].kind for name in ("table", "square", "experts")] == ["output", "hidden", "hidden"]
    assert widths(Raw(4), Raw(2), sums={"experts": 1})["table"].kind == "vector"


def deep(width: int, depth: int = 2) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mup(perceptron(8), perceptron(4), LAMB, lr=0.1), r"optimizer: got LAMB, .*family="),
        (lambda: mup(perceptron(8), perceptron(4), LAMB.rule(lr=0.1)), "optimizer: got LAMB"),
        (lambda: mup(perceptron(8), perceptron(4), chain(WeightDecay(2.0), lr=0.1)), "optimizer: got "),
        (lambda: mup(perceptron(8), perceptron(4), Adam, lr=0.1, weight_decay=0.1), "weight_decay: got 0.1 for Adam"),
        (lambda: mup(perceptron(8), perceptron(4), torch.optim.SGD, lr=None), "lr: got none"),
        (lambda: mup(perceptron(8), perceptron(4), Adam, init="anew"), "init: got 'anew'"),
        (lambda: mup(perceptron(8), perceptron(4), Adam, family="lion"), "family: got 'lion'"),
        (lambda: mup(perceptron(8), perceptron(4), Adam.rule(), lr=0.1), "settings: got lr"),
        (lambda: mup(perceptron(8), perceptron(4), rotated(Adam.rule())), "adam in coordinates of its own"),
        (lambda: mup(perceptron(8), perceptron(4), ttur(Adam.rule())), "optimizer: got ttur"),
        (
            lambda: mup(perceptron(8), perceptron(4), replace(Adam.rule(), factor=lambda param: 2.0)),
            "optimizer: got the rule adam with rates of its own for parameters; one rate is allowed",
        ),
        (
            lambda: widths(perceptron(8), nn.Linear(2, 3)),
            "base_model: got parameters bias, weight that the model lacks",
        ),
        (lambda: widths(nn.Linear(2, 3), {"weight": (3,), "bias": (3,)}), r"base_model: got shape \(3,\) for weight"),
        (lambda: widths(nn.Linear(2, 3), 7), "base_model: got 7"),  # type: ignore[arg-type]
        (lambda: widths(nn.Linear(2, 3), nn.Linear(1, 3), sums={"w": 0}), "sums: got w"),
        (lambda: widths(nn.Linear(2, 3), nn.Linear(1, 3), sums={"weight": 2}), "sums: got axis 2 for weight"),
        (lambda: attention_scale(0, 4), "head_dim: got 0"),
        (
            lambda: widths(deep(8, 3), deep(4, 2)),
            r"^base_model: got a model of another depth: none for 2\.bias, 2\.weight; the same depth is allowed$",
        ),
        (
            lambda: mup(deep(8, 2), deep(4, 3), Adam, lr=0.1),
            r"^base_model: got a model of another depth: parameters 2\.bias, 2\.weight that the model lacks; the same",
        ),
        (
            lambda: mup(deep(8), deep(4), AdaFactor, lr=0.1, family="adam"),
            r"^eps: got \(1e-30, 0\.001\); a finite number, whose exponent is known, is allowed",
        ),
        (
            lambda: mup(deep(8), deep(4), AdaFactor.rule(), family="adam").plan(Param("0.bias", (8,))),
            r"^eps: got \(1e-30, 0\.001\)",
        ),
        (
            lambda: mup(deep(8), deep(4), torch.optim.Adafactor, lr=0.1, family="adam"),
            r"^eps: got \(None, 0\.001\)",
        ),
    ],
)
def test_what_is_not_understood_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, b: mup(m, b, AdamW, lr="1e-3"), "lr: got '1e-3'; a finite number >= 0 is allowed"),
        (lambda m, b: mup(m, b, partial(SGD, lr=[1.0])), r"lr: got \[1.0\]; a finite number >= 0"),
        (lambda m, b: mup(m, b, torch.optim.Adam, lr="1e-3"), "lr: got '1e-3'; a finite number >= 0"),
        (lambda m, b: mup(m, b, AdamW, lr=1.0, weight_decay="0.1"), "weight_decay: got '0.1'; a finite number >= 0"),
        (
            lambda m, b: mup(m, b, torch.optim.AdamW, weight_decay="0.1"),
            "weight_decay: got '0.1'; a finite number >= 0",
        ),
        (lambda m, b: mup(m, b, AdamW, lr=1.0, init="redraw", seed="0"), "seed: got '0'; a whole number >= 0"),
        (lambda m, b: widths(m, b, sums={"0.weight": "0"}), "sums: got axis '0' for 0.weight; one of 0 to 1"),
        (lambda m, b: attention_scale("16", 4), "head_dim: got '16'; a finite number >= 1"),
        (lambda m, b: attention_scale(16, math.nan), "base_head_dim: got nan; a finite number >= 1"),
    ],
)
def test_text_in_the_place_of_a_number_is_refused_and_the_model_stays(make: Any, message: str) -> None:
    model, before = deep(8), deep(8)
    before.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=f"^{message}"):
        make(model, deep(4))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


def test_a_model_is_rescaled_once() -> None:
    model, base = perceptron(8), perceptron(4)
    mup(model, base, Adam, lr=0.1)
    with pytest.raises(ValueError, match='model: got one that is in muP already; init="keep"'):
        mup(model, base, Adam, lr=0.1)


def test_an_unknown_optimizer_goes_by_the_family_it_is_given() -> None:
    found = rates(mup(perceptron(N), perceptron(N0), torch.optim.RAdam, family="adam", lr=1.0))
    assert found == rates(mup(perceptron(N), perceptron(N0), Adam, lr=1.0))


def test_shapes_by_name_do_for_a_base() -> None:
    shapes = {name: tuple(p.shape) for name, p in perceptron(N0).named_parameters()}
    assert widths(perceptron(N), shapes) == widths(perceptron(N), perceptron(N0))


@pytest.mark.parametrize("cls", [SOAP, APOLLO, AdaHessian, Shampoo, AdaFisherW, ClippedAdam, AdaSGD, LaProp])
@pytest.mark.parametrize("form", ["optimizer", "rule"])
def test_decoupled_decay_is_known_by_the_chain(cls: Any, form: str) -> None:
    """The product of rate and decay is the base model's, or where the rate does not matter the decay itself."""
    model, base = perceptron(N), perceptron(N0)
    kept = set()
    if form == "optimizer" or cls is LaProp:  # whose rule is no plain one
        optimizer = mup(model, base, cls, family="adam", lr=0.01, weight_decay=0.2)
        for group in optimizer.param_groups:
            kept.add(round(group["weight_decay"] * (1.0 if cls is LaProp else group["lr"]), 12))
    else:
        rule = mup(model, base, cls.rule(lr=0.01, weight_decay=0.2), family="adam")
        for name, p in model.named_parameters():
            plan = rule.plan(Param(name, tuple(p.shape)))
            lam = next(t.lam for t in plan.chain if hasattr(t, "lam") and "Decay" in type(t).__name__)
            kept.add(round(lam * 0.01 * plan.factor, 12))
    assert kept == {0.2 if cls is LaProp else 0.002}


def test_the_kind_of_decay_that_is_refused_is_named() -> None:
    model, base = perceptron(8), perceptron(4)
    with pytest.raises(ValueError, match=r"weight_decay: got 0\.1 for AdaFisher, which adds it to the gradient; 0 is"):
        mup(model, base, AdaFisher, family="adam", lr=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"weight_decay: got 0\.1 for LAMB, whose decay is not known; 0 is"):
        mup(model, base, LAMB, family="adam", lr=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"weight_decay: got 0\.1 for RAdam, which adds it to the gradient; 0 is"):
        mup(model, base, torch.optim.RAdam, family="adam", lr=0.1, weight_decay=0.1)
