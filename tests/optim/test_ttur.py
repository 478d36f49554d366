"""TTUR: against two optimizers stepped by hand, its two forms against each other, and the theory's rates."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from shoal import names, simulate
from shoal.learning import Task
from shoal.learning.data import Data, Dataset
from shoal.learning.games import QuadraticGame, game_loss, quadratic_game
from shoal.learning.gans import gan_loss, mixture_gan
from shoal.optim import (
    APOLLO,
    SANIA,
    SGD,
    TTUR,
    AdaFisher,
    AdaHessian,
    Adam,
    AdamW,
    DoG,
    Lookahead,
    MoMo,
    Param,
    Rule,
    two_time_scales,
)
from shoal.optim.coordinate_clip import coordinate_clip
from shoal.optim.lookahead import lookahead
from shoal.optim.saving import load, save
from shoal.optim.ttur import ttur
from shoal.tensors.random import normal
from tests.restatements.instruments import fid as restated

F64 = torch.float64


def players(seed: int = 0) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    return nn.Linear(3, 4, dtype=F64), nn.Linear(4, 1, dtype=F64)


def losses(g: nn.Module, d: nn.Module, seed: int = 0) -> tuple[Any, Any]:
    random = torch.Generator().manual_seed(seed)
    z, x = torch.randn(16, 3, generator=random, dtype=F64), torch.randn(16, 4, generator=random, dtype=F64)
    softplus = nn.functional.softplus
    return lambda: softplus(-d(g(z))).mean(), lambda: (softplus(-d(x)) + softplus(d(g(z)))).mean()


def by_hand(order: str, discriminator_steps: int, steps: int = 6) -> list[Tensor]:
    """torch's Adam twice, gradients by autograd.grad."""
    g, d = players()
    first, second = losses(g, d)
    adam = [torch.optim.Adam(m.parameters(), lr, betas=(0.5, 0.9)) for m, lr in ((g, 0.02), (d, 0.05))]

    def give(module: nn.Module, loss: Tensor) -> None:
        for p, grad in zip(module.parameters(), torch.autograd.grad(loss, list(module.parameters())), strict=True):
            p.grad = grad

    for _ in range(steps):
        for _ in range(discriminator_steps - (order == "simultaneous")):
            give(d, second())
            adam[1].step()
        give(g, first())
        if order == "simultaneous":
            give(d, second())
            adam[1].step()
        adam[0].step()
    return [p.detach() for m in (g, d) for p in m.parameters()]


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("discriminator_steps", [1, 3])
def test_steps_are_those_of_two_optimizers_by_hand(order: Any, discriminator_steps: int) -> None:
    g, d = players()
    optimizer = TTUR.of(
        torch.optim.Adam, g.parameters(), d.parameters(), generator_lr=0.02, discriminator_lr=0.05,
        betas=(0.5, 0.9), order=order, discriminator_steps=discriminator_steps,
    )  # fmt: skip
    for _ in range(6):
        optimizer.step(*losses(g, d))
    found = [p.detach() for m in (g, d) for p in m.parameters()]
    for a, b in zip(found, by_hand(order, discriminator_steps), strict=True):
        assert torch.equal(a, b)


def test_losses_come_from_before_the_step_and_gradients_stay_with_their_player() -> None:
    g, d = players()
    first, second = losses(g, d)
    expected = first().item(), second().item()
    optimizer = TTUR(SGD(g.parameters(), lr=0.1), SGD(d.parameters(), lr=0.0))
    before = copy.deepcopy(d.state_dict())
    found = optimizer.step(first, second)
    assert found is not None
    assert (found[0].item(), found[1].item()) == expected
    assert all(torch.equal(before[name], value) for name, value in d.state_dict().items())


class Toy(nn.Module):
    """(1 + x^2)(100 - y^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Parameter(torch.tensor(0.4, dtype=F64)), nn.Parameter(torch.tensor(-0.7, dtype=F64))

    def forward(self) -> Tensor:
        return (1.0 + self.x**2) * (100.0 - self.y**2)


def test_the_toys_path_is_the_restatements() -> None:
    toy = Toy()
    optimizer = TTUR(SGD([toy.x], lr=0.003), SGD([toy.y], lr=0.04))
    for x, y in restated.two_time_scales(0.4, -0.7, 0.003, 0.04, 50)[1:]:
        optimizer.step(toy, lambda: -toy())
        assert toy.x.item() == pytest.approx(x, rel=1e-12)
        assert toy.y.item() == pytest.approx(y, rel=1e-12)


@pytest.mark.parametrize("cls", [SGD, Adam, AdamW])
def test_the_rule_on_stacked_games_is_two_optimizers_on_each(cls: Any) -> None:
    """float64, with the ratio of rates not a power of two: to 1e-12."""
    settings = {"weight_decay": 0.1} if cls is AdamW else {"momentum": 0.5} if cls is SGD else {}
    data = quadratic_game(3, dimension=4, seed=3, dtype=F64).dataset.train
    rule = TTUR.rule(cls.rule(lr=0.02, **settings), cls.rule(lr=0.07, **settings))
    params = [Param("min.point", (4,)), Param("max.point", (4,))]
    stacked = [torch.zeros(3, 4, dtype=F64) + 0.1, torch.zeros(3, 4, dtype=F64) - 0.2]
    memories = [rule.memory({p.name: s[0] for p, s in zip(params, stacked, strict=True)}) for _ in range(3)]
    memory = {name: torch.stack([m[name] for m in memories]) for name in memories[0]}
    games, optimizers = [], []
    for _ in range(3):
        game = QuadraticGame(4, 4, F64)
        with torch.no_grad():
            game.min["point"] += 0.1
            game.max["point"] -= 0.2
        games.append(game)
        optimizers.append(
            TTUR(cls(game.min.parameters(), lr=0.02, **settings), cls(game.max.parameters(), lr=0.07, **settings))
        )
    for t in range(1, 9):
        for i, (game, optimizer) in enumerate(zip(games, optimizers, strict=True)):
            optimizer.zero_grad()
            game_loss(game(data.inputs[i : i + 1]), data.targets[i : i + 1]).sum().backward()
            optimizer.step()

        def operator(x: Tensor, y: Tensor, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
            gradient = matrix @ torch.cat([x, y]) + shift
            return gradient[:4], -gradient[4:]

        gradients = torch.func.vmap(operator)(*stacked, data.inputs, data.targets)
        number = torch.full((3,), float(t), dtype=F64)
        rates = torch.full((3,), 0.02, dtype=F64)
        rule.step(params, stacked, list(gradients), rule.views(memory, params), number, rates)
        for i, game in enumerate(games):
            torch.testing.assert_close(stacked[0][i], game.min["point"].detach(), rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(stacked[1][i], game.max["point"].detach(), rtol=1e-12, atol=1e-13)


def test_simulated_peers_play_with_two_rates() -> None:
    """Peers alone on their games, by the command line's words, against descent-ascent written out."""
    rule = names.call(names.parse("optimizer", "ttur+sgd:lr=0.05,ratio=4"))
    task = quadratic_game(3, dimension=3, seed=1, dtype=F64)
    run = simulate("isolated:steps=5", task=task, peers=3, partition="contiguous", optimizer=rule, batch=0, rounds=2)
    rates = torch.tensor([0.05] * 3 + [0.2] * 3, dtype=F64)
    turn = torch.tensor([1.0] * 3 + [-1.0] * 3, dtype=F64)
    for i, found in run.models.items():
        z = torch.zeros(6, dtype=F64)
        for _ in range(10):
            z = z - rates * turn * (task.dataset.train.inputs[i] @ z + task.dataset.train.targets[i])
        torch.testing.assert_close(torch.as_tensor(found).to(F64), z, rtol=1e-10, atol=1e-12)


def test_a_rates_factor_survives_wrappers_and_large_parameters() -> None:
    """Rows above the size at which stacked peers are stepped one by one, beside small ones with the same chain."""
    rule = ttur(SGD.rule(lr=0.5), ratio=3.0).then()
    params = [Param("min.w", (9000,)), Param("max.w", (9000,)), Param("max.b", (2,))]
    stacked = [torch.zeros(2, *p.shape, dtype=F64) for p in params]
    gradients = [torch.ones_like(s) for s in stacked]
    one = torch.ones(2, dtype=F64)
    rule.step(params, stacked, gradients, [{}, {}, {}], one, torch.tensor([0.5, 0.25], dtype=F64))
    for s, factor in zip(stacked, (1.0, 3.0, 3.0), strict=True):
        assert torch.equal(s, -factor * torch.tensor([0.5, 0.25], dtype=F64)[:, None].expand_as(s))
    alone = [torch.zeros(p.shape, dtype=F64) for p in params]
    rule.step(params, alone, [g[0] for g in gradients], [{}, {}, {}], 1.0, 0.5)
    assert [s[0].item() for s in alone] == [-0.5, -1.5, -1.5]
    assert [lookahead(rule).plan(p).factor for p in params] == [1.0, 3.0, 3.0]


def test_a_gan_as_a_task_gives_each_player_its_own_gradient() -> None:
    task = mixture_gan(samples=64, hidden=8)
    model, data = task.initial(0), task.dataset.train
    gan_loss(model(data.inputs), data.targets).mean().backward()
    x, z = data.inputs[:, :2], data.inputs[:, 2:]
    softplus, d, g = nn.functional.softplus, model.discriminator, model.generator
    second = (softplus(-d(x)) + softplus(d(g(z)))).mean()
    for player, loss in ((d, second), (g, softplus(-d(g(z))).mean())):
        own = list(player.parameters())
        for p, expected in zip(own, torch.autograd.grad(loss, own), strict=True):
            torch.testing.assert_close(p.grad, expected, rtol=1e-5, atol=1e-7)


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_saved_game_goes_on_bit_for_bit(tmp_path: Path, wrapped: bool) -> None:
    def make(g: nn.Module, d: nn.Module) -> TTUR:
        slow = Adam(g.parameters(), lr=0.01)
        return TTUR(Lookahead(slow, k=2) if wrapped else slow, torch.optim.SGD(d.parameters(), lr=0.1, momentum=0.9))

    g, d = players()
    optimizer = make(g, d)
    for _ in range(3):
        optimizer.step(*losses(g, d))
    save(optimizer, tmp_path / "o.safetensors")
    others = [copy.deepcopy(m) for m in (g, d)]
    again = make(*others)
    load(again, tmp_path / "o.safetensors")
    for _ in range(3):
        optimizer.step(*losses(g, d))
        again.step(*losses(*others))
    for a, b in zip([*g.parameters(), *d.parameters()], [p for m in others for p in m.parameters()], strict=True):
        assert torch.equal(a, b)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    g, d = players()
    optimizer = TTUR(Adam(g.parameters(), lr=0.01), Adam(d.parameters(), lr=0.02))
    optimizer.step(*losses(g, d))
    before = copy.deepcopy(optimizer.state_dict())
    other = TTUR(Adam(g.parameters(), lr=0.5), Adam([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]))
    other.generator.step()
    stranger = other.state_dict()
    stranger["param_groups"][1]["params"] = [2]
    with pytest.raises(ValueError, match="parameter"):
        optimizer.load_state_dict(stranger)
    with pytest.raises(ValueError, match="groups of the generator"):
        optimizer.load_state_dict(Adam(g.parameters()).state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, own in before["state"].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(after["state"][i][k])) for k, v in own.items())


def test_copies_have_players_of_their_own() -> None:
    g, d = players()
    optimizer = TTUR(Adam(g.parameters()), Adam(d.parameters()))
    other = copy.deepcopy(optimizer)
    assert other.generator is not optimizer.generator
    assert other.discriminator_steps == 1


# -- rates -----------------------------------------------------------------------------------------------------------


def test_two_time_scales_meet_the_conditions() -> None:
    a, b = two_time_scales(0.3, 0.2, slow_power=0.9, fast_power=0.6, steps=5)
    assert (a(0), b(0)) == (0.3, 0.2)
    ratios = [a(10.0**k) / b(10.0**k) for k in range(1, 12)]
    assert all(x > y for x, y in itertools.pairwise(ratios))
    assert ratios[-1] / ratios[-2] == pytest.approx(10.0**-0.3, rel=1e-6)  # so that it goes to 0
    assert math.log10(b(1e9) / b(1e10)) == pytest.approx(0.6, rel=1e-6)


@pytest.mark.parametrize(
    ("powers", "message"),
    [
        ((0.6, 0.9), "slow_power: got 0.6; a number above fast_power = 0.9"),
        ((0.8, 0.8), "does not vanish"),
        ((0.9, 0.5), "fast_power: got 0.5; .* squared rates is infinite"),
        ((1.2, 0.8), "slow_power: got 1.2; .* sum of rates is finite"),
    ],
)
def test_rates_outside_the_theory_are_refused(powers: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_time_scales(0.1, 0.1, slow_power=powers[0], fast_power=powers[1])


def test_one_scheduler_moves_both_rates() -> None:
    g, d = players()
    optimizer = TTUR(SGD(g.parameters(), lr=1.0), SGD(d.parameters(), lr=1.0))
    a, b = two_time_scales(0.1, 0.3)
    scheduler = LambdaLR(optimizer, [a, b])
    for n in range(4):
        assert [group["lr"] for group in optimizer.param_groups] == [a(n), b(n)]
        assert optimizer.generator.param_groups[0]["lr"] == a(n)
        optimizer.step(*losses(g, d))
        scheduler.step()


# -- what is refused -------------------------------------------------------------------------------------------------


def test_each_player_is_told_its_own_loss() -> None:
    g, d = players()
    optimizer = TTUR(MoMo(g.parameters(), lr=1.0), MoMo(d.parameters(), lr=1.0))
    first, second = losses(g, d)
    optimizer.step(first, second)
    g2, d2 = players()
    for module, loss in ((g2, 0), (d2, 1)):
        alone = MoMo(module.parameters(), lr=1.0)
        pair = losses(*players()) if loss else losses(g2, players()[1])
        if loss:
            pair = losses(players()[0], d2)
        value = pair[loss]()
        value.backward()
        alone.step(loss=value.item())
    for a, b in zip([*g.parameters(), *d.parameters()], [*g2.parameters(), *d2.parameters()], strict=True):
        assert torch.equal(a, b)


def test_bad_arguments_are_named() -> None:
    g, d = players()
    a, b = SGD(g.parameters(), lr=0.1), SGD(d.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="discriminator: got Linear"):
        TTUR(a, d)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a parameter that both have"):
        TTUR(a, SGD(g.parameters(), lr=0.2))
    with pytest.raises(ValueError, match="discriminator_steps: got 0"):
        TTUR(a, b, discriminator_steps=0)
    with pytest.raises(ValueError, match="order: got 'first'"):
        TTUR(a, b, order="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="generator_lr: got -1"):
        TTUR.of(SGD, g.parameters(), d.parameters(), generator_lr=-1, discriminator_lr=1.0)
    with pytest.raises(ValueError, match="got one loss"):
        TTUR(a, b).step(losses(g, d)[0])
    with pytest.raises(ValueError, match="got no losses"):
        TTUR(a, b, order="alternating").step()
    with pytest.raises(ValueError, match="add it to"):
        TTUR(a, b).add_param_group({"params": []})
    with pytest.raises(ValueError, match="ratio: got 0"):
        ttur(SGD.rule(0.1), 0)
    with pytest.raises(ValueError, match="generator: got"):
        TTUR.rule(SGD.rule(0.0), SGD.rule(0.1))
    with pytest.raises(ValueError, match="sums over all parameters"):
        TTUR.rule(DoG.rule(1.0), SGD.rule(0.1)).plan(Param("min.x", (2,)))


@pytest.mark.parametrize(
    ("number", "loss", "message"),
    [
        (0, torch.ones(()), "generator: got Tensor; a function that works out the loss is allowed"),
        (1, torch.ones(()), "discriminator: got Tensor; a function that works out the loss is allowed"),
        (0, lambda: torch.ones(()), "generator: got a loss that depends on no parameter of the generator's"),
        (1, lambda: torch.ones(()), "discriminator: got a loss that depends on no parameter of the discriminator's"),
        (0, lambda: nn.Parameter(torch.ones(())).square(), "generator: got a loss that depends on no parameter"),
        (0, lambda: 1.0, "generator: got a loss that is float; a tensor of one number is allowed"),
        (1, lambda: torch.ones(3), r"discriminator: got a loss that is a tensor of shape \(3,\); a tensor of one"),
    ],
)
@pytest.mark.parametrize("make", [SGD, AdaHessian])
def test_what_is_no_loss_of_its_player_is_refused(number: int, loss: Any, message: str, make: Any) -> None:
    g, d = players()
    before = [p.detach().clone() for module in (g, d) for p in module.parameters()]
    own: list[Any] = list(losses(g, d))
    own[number] = loss
    optimizer = TTUR(make(g.parameters(), lr=0.1), SGD(d.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=f"^{message}"):
        optimizer.step(*own)
    after = [p for module in (g, d) for p in module.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(after, before, strict=True))


@pytest.mark.parametrize("make", [SGD, AdaHessian])
def test_a_player_that_is_frozen_whole_stays(make: Any) -> None:
    g, d = players()
    g.requires_grad_(False)
    before, moved = [p.clone() for p in g.parameters()], [p.detach().clone() for p in d.parameters()]
    TTUR(make(g.parameters(), lr=0.1), SGD(d.parameters(), lr=0.1)).step(*losses(g, d))
    assert all(torch.equal(p, q) for p, q in zip(g.parameters(), before, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(d.parameters(), moved, strict=True))


def test_a_player_that_can_be_paused_is_so_while_the_other_s_loss_is_worked_out() -> None:
    """Whatever its class."""
    entered: list[str] = []

    class Watching(torch.optim.SGD):
        @contextlib.contextmanager
        def paused(self) -> Iterator[None]:
            entered.append("in")
            yield
            entered.append("out")

    g, d = players()
    first, second = losses(g, d)
    optimizer = TTUR(Lookahead(Watching(g.parameters(), lr=0.1)), SGD(d.parameters(), lr=0.1))
    optimizer.step(lambda: (entered.append("G"), first())[1], lambda: (entered.append("D"), second())[1])
    assert entered == ["in", "D", "out", "G"]


def test_a_plain_rules_factor_is_one() -> None:
    assert Rule("plain", 0.1).plan(Param("x", ())).factor == 1.0


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: Lookahead(o, k=2)])
@pytest.mark.parametrize("who", [0, 1])
def test_factors_of_a_player_are_of_its_own_loss(order: Any, wrap: Any, who: int) -> None:
    """Beside a player that stands still, AdaFisher goes the way that it goes without one."""
    ends = []
    for together in (True, False):
        modules = players()
        own = wrap(AdaFisher(modules[who], lr=0.05, t_cov=2))
        both: list[Any] = [own, torch.optim.SGD(modules[1 - who].parameters(), lr=0.0)]
        optimizer = TTUR(*(both if who == 0 else both[::-1]), order=order)
        for step in range(5):
            if together:
                optimizer.step(*losses(*modules, step))
                continue
            own.zero_grad()
            losses(*modules, step)[who]().backward()
            own.step()
        ends.append(torch.cat([p.detach().flatten() for p in modules[who].parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("order", "graphed"), [("simultaneous", [0]), ("simultaneous", [1]), ("alternating", [0, 1]), ("alternating", [1])]
)
@pytest.mark.parametrize("make", [AdaHessian, lambda p: SANIA(p, preconditioner="newton")])
def test_players_that_need_a_graph_step_as_by_themselves(order: Any, graphed: list[int], make: Any) -> None:
    """In a game where each player's Hessian holds the other's weights; against steps of each beside constants."""

    def first(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).square().sum() + x.square().sum()

    def second(x: Tensor, y: Tensor) -> Tensor:
        return (x * y - 1.0).square().sum() + y.square().sum()

    ends = []
    for by_hand in (False, True):
        x, y = (nn.Parameter(normal(i, 3, dtype=F64)) for i in range(2))
        own = [make([p]) if i in graphed else SGD([p], lr=0.1) for i, p in enumerate((x, y))]
        optimizer = TTUR(*own, order=order)

        def alone(i: int, loss: Tensor, own: Any = own, players: Any = (x, y)) -> None:
            if i not in graphed:
                players[i].grad = torch.autograd.grad(loss, players[i])[0]
            own[i].step(**({"loss": loss} if i in graphed else {}))

        for _ in range(4):
            if not by_hand:
                optimizer.step(lambda x=x, y=y: first(x, y), lambda x=x, y=y: second(x, y))  # type: ignore[misc]
                continue
            before = x.detach().clone(), y.detach().clone()
            alone(1, second(before[0], y))
            alone(0, first(x, before[1] if order == "simultaneous" else y.detach().clone()))
        ends.append(torch.cat([x.detach(), y.detach()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    assert bool(ends[0].isfinite().all())


def test_two_players_that_need_a_graph_of_one_point_are_refused() -> None:
    g, d = players()
    message = "order: got 'simultaneous' for two players that need a graph; 'alternating' is allowed"
    with pytest.raises(ValueError, match=message):
        TTUR(AdaHessian(g.parameters()), AdaHessian(d.parameters()))
    optimizer = TTUR(AdaHessian(g.parameters()), SANIA(d.parameters()))
    optimizer.param_groups[1]["preconditioner"] = "newton"
    with pytest.raises(ValueError, match=message):
        optimizer.step(*losses(g, d))


def test_rules_of_different_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="generator, discriminator: got rules of the seeds 2 and 3; one seed"):
        TTUR.rule(APOLLO.rule(seed=2), APOLLO.rule(seed=3))
    rule = TTUR.rule(replace(SGD.rule(0.1), seed=3), APOLLO.rule(seed=3))
    assert rule.seed == 3


def test_a_task_that_is_no_game_is_refused_though_a_name_begins_with_the_prefix() -> None:
    data = Data(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    dataset = Dataset("nothing", data, data, classes=2)
    task = Task("pooled", lambda: nn.Sequential(OrderedDict(max=nn.Linear(3, 2))), dataset)
    assert next(iter(task.initial(0).named_parameters()))[0].startswith("max.")
    message = r"optimizer: got ttur\(sgd, sgd\), .* for pooled, which is no game; game, gan and tasks that say"
    settings = {"peers": 2, "rounds": 1, "seed": 0}
    with pytest.raises(ValueError, match=message):
        simulate("gossip", optimizer=ttur(SGD.rule(0.1), 3.0), task=task, **settings)
    with pytest.raises(ValueError, match=message):
        simulate("gossip", optimizer=lookahead(ttur(SGD.rule(0.1), 3.0)), task=task, **settings)
    simulate("gossip", optimizer=ttur(SGD.rule(0.1), 3.0), task=replace(task, players=("min.", "max.")), **settings)
    with pytest.raises(ValueError, match=r"which is no game"):
        simulate("gossip", optimizer="ttur+sgd:lr=0.1,fast=1.w", task="digits", **settings)


@pytest.mark.parametrize("wrap", [lambda rule: rule, lookahead, lambda rule: coordinate_clip(rule, 0.2)])
def test_a_prefix_that_no_parameter_has_is_refused(wrap: Any) -> None:
    rule = wrap(ttur(SGD.rule(0.1), 3.0, fast="disc."))
    one = {"generator.w": torch.zeros(2), "discriminator.w": torch.zeros(2)}
    message = r"'disc\.', with which no parameter begins: generator\.w, discriminator\.w; the beginning of one's name"
    with pytest.raises(ValueError, match=message):
        rule.memory(one)
    wrap(ttur(SGD.rule(0.1), 3.0, fast="discriminator.")).memory(one)
