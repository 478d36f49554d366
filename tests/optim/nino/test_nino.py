"""NiNo around optimizers: against a restatement written without looking at it, and what an optimizer has to do."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal.optim import Adam, AdamW, Cautious, CoordinateClip, Lookahead, NiNo, XGrad
from shoal.optim.nino import (
    GraphNowcaster,
    NeuralGraph,
    Nowcaster,
    Shape,
    SingleNowcaster,
    horizons,
    load,
    save,
    scaled,
    unscaled,
)
from shoal.optim.nino.files import SHIPPED, SHIPPED_SINGLE, about
from shoal.optim.saving import load as load_optimizer
from shoal.optim.saving import save as save_optimizer
from shoal.optimizers import WRAPPERS
from tests.optim.nino.models import perceptron
from tests.restatements.optimizers import nino as restated

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EXAMPLE = torch.zeros(1, 4)
SHAPE = Shape(states=5, horizon=40, width=6)


class Line(Nowcaster):
    """Residuals along the last two states, as the restatement's baseline."""

    def forward(self, graph: NeuralGraph, states: Tensor, k: int | None = None, signs: Tensor | None = None) -> Tensor:
        assert k is not None
        return k * (states[..., -1] - states[..., -2])


class Times(Nowcaster):
    """Residuals of one size."""

    def __init__(self, size: float) -> None:
        super().__init__(SHAPE)
        self.size = size

    def forward(self, graph: NeuralGraph, states: Tensor, k: int | None = None, signs: Tensor | None = None) -> Tensor:
        return torch.full_like(states[..., 0], self.size)


class Training:
    """A perceptron in float64 that is pulled towards what moves with the step."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = perceptron().double()

    def backward(self, step: int) -> float:
        for p in self.model.parameters():
            p.grad = None
        loss = (self.model(X) - torch.sin(torch.tensor(0.3 * step, dtype=torch.float64))).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def run(self, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            self.backward(step)
            optimizer.step()

    def values(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


def network() -> Nowcaster:
    torch.manual_seed(3)
    return GraphNowcaster(SHAPE).requires_grad_(False)


def make(training: Training, inner: Callable[[Any], Any] | None = None, **settings: Any) -> NiNo:
    inner = inner or (lambda params: Adam(params, lr=0.01))
    given = {"max_steps": 40, "period": 10, "nowcaster": network()} | settings
    return NiNo(inner(training.model.parameters()), training.model, EXAMPLE, **given)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# -- against the restatement ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "period"), [(10_000, 1000), (600, 60), (500, 1000), (1000, 300)])
def test_the_schedule_is_the_restatement_s(steps: int, period: int) -> None:
    assert horizons(steps, period) == restated.horizons(40, steps, period)
    assert horizons(steps, period, 12, 3.0) == restated.horizons(12, steps, period, 3.0)


def test_scaling_is_the_restatement_s_and_comes_back() -> None:
    torch.manual_seed(0)
    shapes = [(3, 2), (4,), (1,)]
    states = [[torch.randn(s, dtype=torch.float64) * 5 + 1 for s in shapes] for _ in range(5)]
    flat = torch.stack([torch.cat([p.flatten() for p in state]) for state in states], 1)[:, None]
    inputs, means, spreads = scaled(flat, [6, 4, 1])
    expected, scales = restated.scaled([[p.numpy() for p in state] for state in states])
    for i, state in enumerate(expected):
        np.testing.assert_allclose(inputs[:, 0, i], np.concatenate([p.ravel() for p in state]), rtol=1e-10, atol=1e-12)
    sizes = [6, 4, 1]
    np.testing.assert_allclose(means[:, 0], np.repeat([mu for mu, _ in scales], sizes), rtol=1e-12)
    np.testing.assert_allclose(spreads[:, 0], np.repeat([sigma for _, sigma in scales], sizes), rtol=1e-12)
    torch.testing.assert_close(unscaled(inputs, means, spreads), flat, rtol=1e-12, atol=1e-12)
    single = scaled(flat.float(), sizes)
    assert float((unscaled(*single) - flat).abs().max()) < 1e-5


@pytest.mark.parametrize("forecast", ["line", "graph"])
def test_a_training_is_the_restatement_s(forecast: str) -> None:
    training, other = Training(), Training()
    nowcaster = Line(SHAPE) if forecast == "line" else network().double()
    optimizer = make(training, lambda p: torch.optim.SGD(p, lr=0.1), period=15, max_steps=60, nowcaster=nowcaster)
    shapes = [p.shape for p in other.model.parameters()]

    def delta(states: Any, k: int) -> Any:
        if forecast == "line":
            return restated.linear_extrapolation(states, k)
        flat = torch.stack([torch.cat([torch.from_numpy(p).flatten() for p in state]) for state in states], 1)
        parts = nowcaster(optimizer.graph, flat[:, None], k)[:, 0].split([s.numel() for s in shapes])
        return [part.view(s).numpy() for part, s in zip(parts, shapes, strict=True)]

    start = [p.numpy() for p in other.values()]
    reference = restated.NiNo(start, delta, total_steps=60, period=15)
    for step in range(64):

        def base(params: Any, step: int = step) -> Any:
            for p, value in zip(other.model.parameters(), params, strict=True):
                p.data = torch.from_numpy(np.array(value))
            other.backward(step)
            return [(p - 0.1 * p.grad).detach().numpy() for p in other.model.parameters() if p.grad is not None]

        training.run(optimizer, range(step, step + 1))
        reference.step(base)
        for p, value in zip(training.values(), reference.params, strict=True):
            np.testing.assert_allclose(p, value, rtol=1e-7, atol=1e-9)
    assert [i for i, _ in reference.jumps] == [15, 30, 45, 60]
    assert optimizer.last is not None
    assert (optimizer.last.step, optimizer.last.k) == reference.jumps[-1]


# -- what a forecast does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_residual_of_zero_leaves_the_weights_bit_for_bit(dtype: torch.dtype) -> None:
    training = Training()
    training.model.to(dtype)
    optimizer = make(training, nowcaster=Times(0.0))
    for _ in range(9):
        for p in training.model.parameters():
            p.grad = p.detach().sin()
        optimizer.step()
    before = training.values()
    optimizer.step()
    assert optimizer.last is not None
    assert optimizer.last.taken
    assert same(training.values(), before)


def test_a_forecast_uses_no_gradient_and_keeps_the_state_of_the_optimizer() -> None:
    ends = []
    for gradient in (1.0, torch.nan, None):
        training = Training()
        optimizer = make(training)
        training.run(optimizer, range(9))
        assert optimizer.forecasts_next
        state = copy.deepcopy(optimizer.inner.state_dict())
        for p in training.model.parameters():
            p.grad = None if gradient is None else torch.full_like(p, gradient)
        before = training.values()
        optimizer.step()
        ends.append(training.values())
        assert not same(before, ends[-1])
        assert not optimizer.forecasts_next
        after = optimizer.inner.state_dict()
        for own, kept in zip(after["state"].values(), state["state"].values(), strict=True):
            assert all(torch.equal(torch.as_tensor(own[name]), torch.as_tensor(kept[name])) for name in kept)
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_all_other_steps_are_those_of_the_optimizer() -> None:
    training, other = Training(), Training()
    training.run(make(training), range(9))
    other.run(Adam(other.model.parameters(), lr=0.01), range(9))
    assert same(training.values(), other.values())


@pytest.mark.parametrize("size", [torch.nan, torch.inf])
def test_a_forecast_that_is_not_finite_is_refused_and_told(size: float) -> None:
    training = Training()
    optimizer = make(training, nowcaster=Times(size))
    training.run(optimizer, range(9))
    before = training.values()
    with pytest.warns(UserWarning, match=r"^NiNo: the forecast at step 10 is not finite; the weights stay") as told:
        training.run(optimizer, range(9, 10))
    assert told[0].filename == __file__  # the line that called `step`
    assert same(training.values(), before)
    assert optimizer.last is not None
    assert not optimizer.last.taken
    optimizer.nowcaster = Times(0.1)
    training.run(optimizer, range(10, 20))
    assert optimizer.last.taken


def test_parameters_that_the_optimizer_does_not_hold_stay() -> None:
    training = Training()
    first, rest = [*training.model.parameters()][:1], [*training.model.parameters()][1:]
    frozen = [p.detach().clone() for p in first]
    optimizer = NiNo(Adam(rest, lr=0.01), training.model, EXAMPLE, max_steps=20, period=5, nowcaster=Times(1.0))
    training.run(optimizer, range(10))
    assert same(frozen, first)


def test_the_horizon_falls_and_stays_at_the_last() -> None:
    training = Training()
    optimizer, seen = make(training, nowcaster=Times(0.0), max_steps=30), []
    for step in range(50):
        training.run(optimizer, range(step, step + 1))
        if optimizer.last and (not seen or seen[-1] != optimizer.last):
            seen.append(optimizer.last)
    assert [(f.step, f.k) for f in seen] == [(10, 40), (20, 13), (30, 1), (40, 1), (50, 1)]


def test_a_closure_is_evaluated_in_every_step() -> None:
    training, other, count = Training(), Training(), 0
    optimizer, plain = make(training), make(other)
    for step in range(25):

        def closure(step: int = step) -> float:
            nonlocal count
            count += 1
            return training.backward(step)

        assert optimizer.step(closure) == pytest.approx(other.backward(step))
        plain.step()
        assert same(training.values(), other.values())
    assert count == 25


def test_schedulers_and_groups_are_those_of_the_optimizer() -> None:
    training = Training()
    parameters = list(training.model.parameters())
    inner = torch.optim.AdamW([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.5}], lr=0.1)
    optimizer = NiNo(inner, training.model, EXAMPLE, period=5, nowcaster=network())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    assert optimizer.param_groups is inner.param_groups
    for step in range(6):
        training.run(optimizer, range(step, step + 1))
        scheduler.step()
    assert [group["lr"] for group in inner.param_groups] == [0.1 / 8, 0.5 / 8]


def test_a_parameter_that_comes_in_the_middle_of_a_period_is_forecast_from_the_next_on() -> None:
    training = Training()
    parameters = list(training.model.parameters())
    optimizer = NiNo(torch.optim.SGD(parameters[1:], lr=0.01), training.model, EXAMPLE, period=10, nowcaster=Times(1.0))
    training.run(optimizer, range(5))
    optimizer.add_param_group({"params": [parameters[0]], "lr": 0.0})
    before = parameters[0].detach().clone()
    training.run(optimizer, range(5, 10))
    assert optimizer.last is not None
    assert torch.equal(parameters[0], before)
    training.run(optimizer, range(10, 20))
    assert not torch.equal(parameters[0], before)


# -- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [lambda p: Adam(p, lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)])
@pytest.mark.parametrize("steps", [0, 3, 7, 10, 13])
@pytest.mark.parametrize("way", ["dictionary", "torch", "file", "copy", "pickle"])
def test_a_saved_optimizer_goes_on_bit_for_bit(inner: Any, steps: int, way: str, tmp_path: Path) -> None:
    training, other = Training(), Training(seed=1)
    optimizer = make(training, inner)
    training.run(optimizer, range(steps))
    if way in ("copy", "pickle"):
        pair = training.model, optimizer
        other.model, resumed = copy.deepcopy(pair) if way == "copy" else pickle.loads(pickle.dumps(pair))
    else:
        other.model.load_state_dict(training.model.state_dict())
        resumed = make(other, inner)
        if way == "file":
            save_optimizer(optimizer, tmp_path / "o")
            load_optimizer(resumed, tmp_path / "o")
        else:
            state = copy.deepcopy(optimizer.state_dict())
            if way == "torch":
                file = io.BytesIO()
                torch.save(state, file)
                file.seek(0)
                state = torch.load(file, weights_only=True)
            resumed.load_state_dict(state)
    for one, run in ((optimizer, training), (resumed, other)):
        run.run(one, range(steps, steps + 12))
    assert same(training.values(), other.values())
    assert optimizer.last == resumed.last


def test_a_state_of_the_inner_optimizer_alone_begins_a_new_period() -> None:
    training = Training()
    optimizer = make(training)
    training.run(optimizer, range(7))
    optimizer.load_state_dict(optimizer.inner.state_dict())
    assert optimizer.steps == 0
    training.run(optimizer, range(9))
    assert optimizer.last is None
    training.run(optimizer, range(9, 10))
    assert optimizer.last is not None


# -- other wrappers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_other_wrappers_rest_during_a_forecast_in_any_order(order: str) -> None:
    training = Training()

    def around(o: torch.optim.Optimizer) -> NiNo:
        return NiNo(o, training.model, EXAMPLE, period=10, nowcaster=network())

    base = Cautious(torch.optim.AdamW(training.model.parameters(), lr=0.01))
    optimizer = around(Lookahead(base, k=3)) if order == "outside" else Lookahead(around(base), k=3)
    training.run(optimizer, range(9))
    slow = copy.deepcopy(optimizer.state_dict())
    before = training.values()
    training.run(optimizer, range(9, 10))
    assert not same(training.values(), before)
    for i, own in optimizer.state_dict()["state"].items():
        assert torch.equal(own["lookahead.slow"], slow["state"][i]["lookahead.slow"])
        assert own["lookahead.steps"] == slow["state"][i]["lookahead.steps"]


def test_xgrad_is_refused_inside_and_outside() -> None:
    training = Training()
    message = r"^optimizer: got one with XGrad, whose gradients are not taken at the weights"
    with pytest.raises(ValueError, match=message):
        make(training, lambda p: XGrad(AdamW(p)))
    with pytest.raises(ValueError, match=message):
        XGrad(make(training)).step()


def test_clipped_gradients_go_together_with_forecasts() -> None:
    """Clipping by rho = 0 changes nothing, and so the way is that of Adam alone."""
    plain, clipped = Training(), Training()
    plain.run(make(plain), range(25))
    clipped.run(make(clipped, lambda p: CoordinateClip(Adam(p, lr=0.01), rho=0.0)), range(25))
    for a, b in zip(plain.values(), clipped.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    training = Training()
    optimizer = make(training, lambda p: CoordinateClip(Adam(p, lr=0.01), rho=0.5))
    training.run(optimizer, range(10))
    assert optimizer.last is not None
    assert not same(training.values(), clipped.values())


def test_frozen_parameters_stay_bit_for_bit() -> None:
    training = Training()
    frozen, *others = training.model.parameters()
    frozen.requires_grad_(False)
    before = [p.detach().clone() for p in training.model.parameters()]
    optimizer = make(training)
    training.run(optimizer, range(20))
    assert optimizer.last is not None
    assert torch.equal(frozen, before[0])
    assert not any(torch.equal(p, q) for p, q in zip(others, before[1:], strict=True))


# -- arguments, files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": 12}, r"^period: got 12; a multiple of 5, the nowcaster's states, is allowed"),
        ({"period": 0}, r"^period: got 0; "),
        ({"max_steps": 0}, r"^max_steps: got 0; a whole number >= 1 is allowed"),
        ({"power": 0.0}, r"^power: got 0.0; a number > 0 is allowed"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Training(), **settings)


def test_what_is_no_model_or_not_its_optimizer_is_refused() -> None:
    training, other = Training(), Training()
    with pytest.raises(ValueError, match=r"^model: got list; a torch.nn.Module is allowed"):
        NiNo(Adam(training.model.parameters()), [], EXAMPLE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^optimizer: got one with a tensor \[6, 4\] that is no parameter"):
        NiNo(Adam(other.model.parameters()), training.model, EXAMPLE, nowcaster=network())
    model = nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 3))
    with pytest.raises(ValueError, match=r"^model: module '1' \(LSTM\)"):
        NiNo(Adam(model.parameters()), model, EXAMPLE, nowcaster=network())


@pytest.mark.parametrize("cls", [GraphNowcaster, SingleNowcaster])
def test_a_network_that_is_not_of_its_shape_or_gets_other_states_is_refused(cls: Any) -> None:
    narrow: Nowcaster = cls(Shape(states=4, horizon=40, width=6))
    with pytest.raises(ValueError, match=r"^states: got 5 of each parameter; 4 are allowed"):
        narrow(make(Training()).graph, torch.zeros(51, 1, 5), 1)
    narrow.shape = SHAPE
    with pytest.raises(
        ValueError, match=r"^nowcaster: got one with .*weight \(6, \d+\); \(6, \d+\) is allowed for Shape"
    ):
        make(Training(), nowcaster=narrow)
    with pytest.raises(ValueError, match=r"^nowcaster: got Linear; a Nowcaster, a file or None is allowed"):
        make(Training(), nowcaster=nn.Linear(5, 40))


def test_more_states_than_the_network_looks_at_are_refused() -> None:
    """Which would never be as many as it looks at."""
    training = Training()
    optimizer = make(training, nowcaster=Line(SHAPE), period=10)
    training.run(optimizer, range(1, 9))
    other = make(training, nowcaster=Line(Shape(states=2, horizon=40, width=6)), period=10)
    other.load_state_dict(optimizer.state_dict())
    with pytest.raises(
        ValueError, match=r"^state_dict: got 4 states kept for a forecast from 2; that of a nowcaster of"
    ):
        other.step()


def test_there_is_no_rule_and_the_reason_is_given() -> None:
    with pytest.raises(
        ValueError, match=r"^rule: got adam for nino, which forecasts .*; shoal\.optim\.NiNo .* is allowed"
    ):
        WRAPPERS["nino"].load()(Adam.rule(0.1))


@pytest.mark.parametrize("cls", [GraphNowcaster, SingleNowcaster])
def test_a_nowcaster_comes_back_from_its_file(cls: Any, tmp_path: Path) -> None:
    made = cls(Shape(width=5, horizon=3, vocabulary=4))
    save(made, tmp_path / "n", {"steps": 3})
    again = load(tmp_path / "n")
    assert type(again) is cls
    assert again.shape == made.shape
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True))
    assert not any(p.requires_grad for p in again.parameters())
    assert about(tmp_path / "n")["training"] == {"steps": 3}


def test_files_that_hold_no_nowcaster_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^path: there is no file"):
        load(tmp_path / "none")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match=r"^path: .* is not a whole safetensors file"):
        load(tmp_path / "text")
    save_optimizer(Adam([nn.Parameter(torch.zeros(2))]), tmp_path / "o")
    with pytest.raises(ValueError, match=r"^path: .* holds tensors, but no nowcaster"):
        load(tmp_path / "o")
    whole = tmp_path / "whole"
    save(network(), whole)
    (tmp_path / "half").write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"^path: "):
        load(tmp_path / "half")


@pytest.mark.parametrize("path", [SHIPPED, SHIPPED_SINGLE])
def test_the_nowcasters_of_the_package_say_how_they_were_trained(path: Path) -> None:
    told = about(path)
    assert told["training"]["step"] == told["training"]["settings"]["steps"]
    assert told["training"]["recorded"]["every"] == 5
    assert told["shape"]["states"] == 5
    assert told["shape"]["horizon"] == 40
    assert path.stat().st_size < 2 << 20
    load(path)
