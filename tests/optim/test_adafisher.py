"""AdaFisher against a float64 restatement with inputs and output gradients of its own, and its hooks."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.optim import AdaFisher, AdaFisherW
from shoal.optim.factors import Watch, inputs, layers, normalised, of_parameters, outputs
from shoal.tensors.random import key, normal
from tests.restatements.optimizers import adafisher as restated


def draw(*shape: int, name: str = "x", step: int = 0) -> Tensor:
    return normal(key(0, name, step), shape, dtype=torch.float64)


def filled(model: nn.Module) -> nn.Module:
    """In double precision, with values that depend on names alone."""
    model = model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.4 * draw(*p.shape, name=name))
    return model


def mlp(inplace: bool = False) -> nn.Module:
    return filled(nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3, bias=False)))


def loss_of(model: nn.Module, step: int) -> Tensor:
    return (model(draw(7, 5, step=step)) - draw(7, 3, name="y", step=step)).square().mean()


def train(model: nn.Module, optimizer: Any, steps: range, of: Callable[..., Tensor] = loss_of) -> None:
    for step in steps:
        optimizer.zero_grad()
        of(model, step).backward()
        optimizer.step()


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# -- the update -----------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A convolution in groups, a linear layer, and a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2)
        self.linear = nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps what goes in and out."""
        self.h = (x, (y := self.conv(x)).tanh().mean((2, 3)))
        self.y = (y, self.linear(self.h[1]))
        return self.y[1] * self.scale


@pytest.mark.parametrize("cls", [AdaFisher, AdaFisherW])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_goes_the_way_of_the_restatement(cls: type[AdaFisher] | type[AdaFisherW], decay: float) -> None:
    model = filled(Mixed())
    ours = cls(model, lr=0.003, lam=0.01, gamma=0.7, t_cov=3, weight_decay=decay)
    places = {"conv": (1, 2), "linear": (3, 4)}  # the parameter of no layer comes first
    theirs = getattr(restated, cls.__name__)(
        [p.detach().numpy() for p in model.parameters()],
        places,
        lr=0.003,
        lam=0.01,
        gamma=0.7,
        t_cov=3,
        weight_decay=decay,
    )
    for step in range(8):
        ours.zero_grad()
        loss = (model(draw(5, 4, 6, 5, step=step)) - draw(5, 3, name="y", step=step)).square().mean()
        s = [x.numpy() for x in torch.autograd.grad(loss, model.y, retain_graph=True)]
        h = [x.detach().numpy() for x in model.h]
        ours.zero_grad()  # the line above was a backward pass, too
        loss.backward()
        measured = {
            "conv": restated.conv_factors(h[0], s[0], (3, 2), (2, 1), (1, 0), groups=2),
            "linear": restated.linear_factors(h[1], s[1]),
        }
        gradients = [p.grad.numpy().copy() for p in model.parameters()]  # type: ignore[union-attr]
        ours.step()
        theirs.step(gradients, measured if step % 3 == 0 else None)
        for p, q in zip(model.parameters(), theirs.params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q, rtol=1e-9, atol=1e-12)


def test_parameters_of_other_modules_have_momentum_alone() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            e = self.table(x)
            return self.head(self.attention(e, e, e)[0])  # type: ignore[no-any-return]

    model = filled(Attentive())
    assert layers(model) == [model.head]  # the output projection is one by its class, but nobody calls it
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match=r"^AdaFisher: attention: the projections of nn\.MultiheadAttention pass thr"):
        optimizer = AdaFisher(model, lr=0.1)
    model(torch.arange(6).view(2, 3)).square().sum().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert p.grad is not None
        plain = before[name] - 0.1 * p.grad
        assert torch.allclose(p.detach(), plain, rtol=1e-12, atol=1e-14) is not name.startswith("head")


def test_a_model_of_nothing_but_torchs_attention_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"give no factors \(nothing passes through those of nn.MultiheadAttention\); "
    ):
        AdaFisher(nn.MultiheadAttention(4, 2))


# -- factors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2), (5, 4, 8, 7)),
        (nn.Conv2d(3, 2, 3, padding="same", padding_mode="reflect"), (2, 3, 6, 5)),
        (nn.Conv1d(4, 4, 5, stride=3, padding=2, groups=4), (3, 4, 17)),
    ],
    ids=["2d", "reflect", "1d"],
)
def test_patches_are_those_of_unfold(layer: Any, shape: tuple[int, ...]) -> None:
    """And with the gradient of the output they give the weight's gradient, which shows that they are the layer's."""
    layer = filled(layer)
    x = draw(*shape)
    y = layer(x)
    s = draw(*y.shape, name="s")
    y.backward(s)
    flat = x if layer.padding_mode == "zeros" else nn.functional.pad(x, (1, 1, 1, 1), mode=layer.padding_mode)
    two = (lambda v: v) if x.dim() == 4 else (lambda v: (1, *v))
    padding = (0, 0) if layer.padding_mode != "zeros" else (*((0,) if x.dim() == 3 else ()), *layer.padding)
    patches = nn.functional.unfold(
        flat if x.dim() == 4 else flat[:, :, None],
        two(layer.kernel_size),
        dilation=two(layer.dilation),
        padding=padding,
        stride=two(layer.stride),
    )
    g, o = layer.groups, layer.out_channels
    split = patches.view(len(x), g, -1, patches.shape[-1])
    weight = torch.einsum("bgol,bgil->goi", s.reshape(len(x), g, o // g, -1), split).reshape(layer.weight.shape)
    torch.testing.assert_close(weight, layer.weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inputs(layer, x).flatten(), split.square().mean((0, 1, 3)), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(outputs(layer, s), s.transpose(0, 1).flatten(1).square().mean(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_for_one_sample_the_product_is_the_squared_gradient(bias: bool) -> None:
    layer = filled(nn.Linear(4, 3, bias=bias))
    h, s = draw(1, 4), draw(1, 3, name="s")
    layer(h).backward(s)
    product = torch.outer(outputs(layer, s), inputs(layer, h))
    torch.testing.assert_close(product, layer.weight.grad.square(), rtol=1e-12, atol=0)
    if bias:  # the appended 1
        torch.testing.assert_close(outputs(layer, s), layer.bias.grad.square(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("layer", "shape"), [(nn.LayerNorm(4), (3, 5, 4)), (nn.BatchNorm2d(4), (3, 4, 5, 2))])
def test_norms_have_a_number_for_each_channel(layer: Any, shape: tuple[int, ...]) -> None:
    layer, x, s = layer.double(), draw(*shape), draw(*shape, name="s")
    axes = tuple(i for i, size in enumerate(shape) if i != (2 if len(shape) == 3 else 1))
    H, S = x.square().mean(axes), s.square().mean(axes)
    torch.testing.assert_close(inputs(layer, x), H, rtol=1e-12, atol=0)
    torch.testing.assert_close(outputs(layer, s), S, rtol=1e-12, atol=0)
    found = of_parameters(layer, H, S)
    whole = normalised(torch.cat([H, torch.ones(1)]))
    assert torch.equal(found["weight"]["inputs"], whole[:4])
    assert torch.equal(found["bias"]["inputs"], whole[4].repeat(4))
    assert torch.equal(found["weight"]["outputs"], normalised(S))


def factors_of(model: nn.Module, *losses: Callable[[], Tensor]) -> dict[nn.Module, Any]:
    watch = Watch()
    handles = watch.attach(model)
    for loss in losses:
        loss().backward()
    for handle in handles:
        handle.remove()
    return {layer: (seen.H / seen.rows, seen.S / seen.rows, seen.rows) for layer, seen in watch.seen.items()}


def test_a_module_that_is_used_twice_has_the_mean_over_both_uses() -> None:
    layer = filled(nn.Linear(3, 3))
    x = draw(4, 3)
    y = layer(x)
    z = layer(y.tanh())
    s = torch.autograd.grad(z.square().mean(), (y, z))
    H, S, rows = factors_of(layer, lambda: layer(layer(x).tanh()).square().mean())[layer]
    torch.testing.assert_close(H, torch.cat([x, y.tanh()]).square().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(S, torch.cat(s).square().mean(0), rtol=1e-12, atol=0)
    assert rows == 8


def test_a_tied_weight_has_the_mean_of_its_layers() -> None:
    model = filled(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))
    model[2].weight = model[0].weight
    optimizer = AdaFisher(model, lr=1e-4)
    model(draw(5, 4)).square().mean().backward()
    H0, H2 = (normalised(torch.cat([seen.H / 5, torch.ones(1)])) for seen in optimizer._watch.seen.values())
    optimizer.step()
    both = torch.stack([H0, H2])[:, :4].mean(0)
    torch.testing.assert_close(optimizer.state[model[0].weight]["H"], 0.08 + 0.008 * both, rtol=1e-12, atol=0)


def test_accumulated_backward_passes_count_together() -> None:
    model = mlp()
    once = factors_of(model, lambda: loss_of(model, 0))
    both = factors_of(model, lambda: loss_of(model, 0), lambda: loss_of(model, 1))
    other = factors_of(model, lambda: loss_of(model, 1))
    for layer, (H, S, rows) in both.items():
        torch.testing.assert_close(H, (once[layer][0] + other[layer][0]) / 2, rtol=1e-12, atol=0)
        torch.testing.assert_close(S, (once[layer][1] + other[layer][1]) / 2, rtol=1e-12, atol=0)
        assert rows == 14


# -- hooks ------------------------------------------------------------------------------------------------------------


def test_other_passes_are_not_seen() -> None:
    """Under no_grad, in evaluation, without a backward pass, at steps that want none, and before zero_grad."""
    model = mlp()
    optimizer = AdaFisher(model, t_cov=2)
    with torch.no_grad():
        loss_of(model, 0)
    model.eval()
    loss_of(model, 0).backward()
    model.train()
    loss_of(model, 0)
    assert not optimizer._watch.seen
    loss_of(model, 0).backward()
    assert len(optimizer._watch.seen) == 2
    optimizer.zero_grad()
    assert not optimizer._watch.seen
    train(model, optimizer, range(1))
    loss_of(model, 1).backward()  # of the second step, where t_cov = 2 skips
    assert not optimizer._watch.seen


def test_relu_in_place_changes_nothing() -> None:
    ways = []
    for inplace in (False, True):
        model = mlp(inplace)
        train(model, AdaFisher(model, t_cov=2), range(5))
        ways.append(vector(model))
    assert torch.equal(*ways)


def hooks(model: nn.Module) -> int:
    return sum(len(layer._forward_hooks) for layer in model.modules())


def test_hooks_end_by_hand_with_a_block_and_with_the_optimizer() -> None:
    model = mlp()
    optimizer = AdaFisher(model)
    assert hooks(model) == 2
    optimizer.remove_hooks()
    assert hooks(model) == 0
    with AdaFisher(model) as optimizer:
        assert len(optimizer.watched) == 2
    assert hooks(model) == 0
    optimizer = AdaFisher(model)
    optimizer.watch(model)  # a second time: nothing happens
    assert hooks(model) == 2
    del optimizer
    gc.collect()
    assert hooks(model) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_of_a_model_are_free_and_copies_of_both_go_on_by_themselves(copied: Callable[[Any], Any]) -> None:
    model = mlp()
    optimizer = AdaFisher(model, t_cov=2)
    train(model, optimizer, range(3))
    free = copied(model)
    loss_of(free, 3).backward()
    assert not optimizer._watch.seen
    again, other = copied((model, optimizer))
    train(model, optimizer, range(3, 8))
    assert not torch.equal(vector(model), vector(again))
    train(again, other, range(3, 8))
    assert torch.equal(vector(model), vector(again))


@pytest.mark.parametrize("done", [3, 4])
def test_a_loaded_state_continues_bit_for_bit(done: int) -> None:
    model = mlp()
    optimizer = AdaFisher(model, t_cov=3)
    train(model, optimizer, range(done))
    again = copy.deepcopy(model)
    other = AdaFisher(again, t_cov=7)
    other.load_state_dict(optimizer.state_dict())
    train(model, optimizer, range(done, done + 5))
    train(again, other, range(done, done + 5))
    assert torch.equal(vector(model), vector(again))


def test_groups_are_watched_when_asked_to() -> None:
    model, reference = mlp(), mlp()
    groups = [{"params": list(part.named_parameters())} for part in (model[0], model[2])]  # type: ignore[index]
    optimizer = AdaFisher(groups, t_cov=2)
    optimizer.watch(model)
    train(model, optimizer, range(4))
    train(reference, AdaFisher(reference, t_cov=2), range(4))
    assert torch.equal(vector(model), vector(reference))


def test_without_a_model_it_says_so() -> None:
    model = mlp()
    optimizer = AdaFisher(model.parameters())
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match=r"AdaFisher sees no layers: AdaFisher\(model\), or watch\(model\)"):
        optimizer.step()


def test_low_precision_has_wide_factors() -> None:
    model = mlp().to(torch.bfloat16)
    optimizer = AdaFisher(model)
    model(torch.ones(2, 5, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    p = model[0].weight  # type: ignore[index]
    assert {name: optimizer.state[p][name].dtype for name in ("m", "H", "S")} == dict.fromkeys("mHS", torch.float32)
    assert bool(torch.isfinite(p).all())


# -- what is never seen -----------------------------------------------------------------------------------------------


class Parted(nn.Module):
    """A parameter of no layer, and two layers of which any may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, use: str = "first second") -> Tensor:
        """Only the layers that are named."""
        for name in use.split():
            x = getattr(self, name)(x)
        return x * self.scale[: x.shape[-1]]


@pytest.mark.parametrize("cls", [AdaFisher, AdaFisherW])
def test_a_model_that_can_give_no_factors_is_refused(cls: Any) -> None:
    model, other = mlp(), mlp()
    table = nn.Embedding(3, 2)
    with pytest.raises(
        ValueError, match=r"^model: got Embedding, whose layers give no factors; one with Linear, Conv1d"
    ):
        cls(table)
    optimizer = cls(model.parameters())
    for attempt, message in (
        (table, "got Embedding, whose layers give no factors"),
        (other, f"got Sequential, whose layers have no parameter of this {cls.__name__}"),
        (None, "got NoneType; a torch.nn.Module is allowed"),
    ):
        with pytest.raises(ValueError, match=f"^model: {message}"):
            optimizer.watch(attempt)
    assert not optimizer.watched
    assert hooks(other) == 0
    both = nn.ModuleList([table, other])
    with pytest.raises(ValueError, match="whose layers have no parameter of this"):
        cls(table.parameters()).watch(both)
    with pytest.raises(ValueError, match=r"^params: got NoneType; parameters, .* allowed"):
        cls(None)


def in_evaluation(model: nn.Module, optimizer: Any) -> Tensor:
    model.eval()
    return loss_of(model, 0)


def by_a_copy(model: nn.Module, optimizer: Any) -> Tensor:
    values = dict(model.named_parameters())
    return torch.func.functional_call(copy.deepcopy(model), values, (draw(7, 5),)).square().mean()  # type: ignore[no-any-return]


def paused(model: nn.Module, optimizer: Any) -> Tensor:
    with optimizer.paused():
        return loss_of(model, 0)


@pytest.mark.parametrize("loss", [in_evaluation, by_a_copy, paused])
def test_a_step_that_wants_factors_and_has_never_seen_a_layer_is_refused(loss: Callable[..., Tensor]) -> None:
    model = mlp()
    optimizer = AdaFisher(model, lr=0.01, t_cov=2)
    before = vector(model)
    loss(model, optimizer).backward()
    with pytest.raises(RuntimeError, match="AdaFisher has seen none of its layers, though they have gradients"):
        optimizer.step()
    assert torch.equal(vector(model), before)
    assert not optimizer.state
    model.train()
    train(model, optimizer, range(2))
    optimizer.zero_grad()
    loss(model, optimizer).backward()  # there are factors from before
    optimizer.step()


def test_layers_that_a_batch_leaves_out_are_no_error() -> None:
    """Not even if that is all of them at first; what is left out has F = 1 until it is seen."""
    model = filled(Parted())
    optimizer = AdaFisher(model, lr=0.01, t_cov=1)
    seen = []
    for use in ("", "second", "first second", "first"):
        optimizer.zero_grad()
        model(draw(7, 5), use).square().mean().backward()
        optimizer.step()
        held = [optimizer.state[p].get("seen") for p in (model.scale, model.first.weight, model.second.weight)]
        seen.append([x is not None and bool(x) for x in held])
    assert seen == [[False] * 3, [False, False, True], [False, True, True], [False, True, True]]


@pytest.mark.parametrize("frozen", [("first",), ("first", "second")])
def test_frozen_layers_are_no_error(frozen: tuple[str, ...]) -> None:
    model = filled(Parted())
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, AdaFisher(model, lr=0.01), range(3))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) is (not p.requires_grad), name
