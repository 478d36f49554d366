"""Comparisons of optimizers: the same for all, honest, exact, and usable whatever happens."""

from __future__ import annotations

import itertools
import math
import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.learning import Comparison, Contender, Span, Task, around, compare, squared_error
from shoal.learning.comparison import Interrupted, Progress, _best, _edge, _split
from shoal.learning.contenders import outside, points
from shoal.learning.data import Data, Dataset
from shoal.learning.results import Trial
from shoal.optim import SGD, Adam, AdamW, Optimizer, Rule, Transform
from shoal.optim.cautious import Cautious, cautious
from shoal.optim.coordinate_clip import CoordinateClip, coordinate_clip
from shoal.optim.core import Scalars, State
from shoal.optim.core.transform import Granularity
from shoal.optim.large_batch import warmup_polynomial
from shoal.optim.lookahead import Lookahead, lookahead
from shoal.optim.rotated import Rotated, rotated
from shoal.optim.schedules import warmup_cosine
from shoal.optim.xgrad import XGrad, xgrad
from shoal.tensors.random import key, normal
from tests.optim.catalogue import SETTINGS, optimizers

GRID = {"rates": [0.001, 0.01, 0.1], "steps": 12, "batch": 8, "seeds": [0, 1], "tuning_seeds": [7, 8], "workers": 1}
RANDOM = {"AdaHessian", "APOLLO", "APOLLOMini", "UPGD"}  # stacked peers draw numbers of their own


def learnable(samples: int = 160, width: int = 9, classes: int = 4, seed: int = 0) -> Dataset:
    """Blobs with a little overlap, in float64."""
    total = 2 * samples
    labels = torch.arange(total) % classes
    centres = normal(key(seed, "centres"), (classes, width), dtype=torch.float64)
    inputs = centres[labels] + 0.9 * normal(key(seed, "noise"), (total, width), dtype=torch.float64)
    parts = [Data(inputs[i : i + samples], labels[i : i + samples]) for i in (0, samples)]
    return Dataset("blobs", *parts, classes=classes)


def mlp_task(activation: type[nn.Module] = nn.Tanh) -> Task:
    """Blobs and a small network; with nn.Identity it diverges where rates are too high."""
    dataset = learnable()
    return Task("blobs", lambda: nn.Sequential(nn.Linear(9, 7), activation(), nn.Linear(7, 4)).double(), dataset)


def parabola(curvature: float = 1.0) -> Task:
    """One number w with loss curvature (w - b)^2 / 2, b nearly 0, from w = 1: SGD is best at 1 / curvature."""

    class Number(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return math.sqrt(curvature) * self.w + 0.0 * x

    data = Data(torch.zeros(20, 1, dtype=torch.float64), torch.zeros(20, 1, dtype=torch.float64))
    return Task("parabola", Number, Dataset("parabola", data, data), squared_error, metrics={})


def scores(comparison: Comparison, name: str) -> list[float]:
    entry = comparison[name]
    values = [value for trial in entry.trials for value in (*trial.scores, *trial.losses)]
    return [*values, *entry.scores, *(test.loss for test in entry.tests), *entry.train_losses, *entry.curve]


# -- fair ----------------------------------------------------------------------------------------------------


def test_what_a_contender_gets_does_not_depend_on_who_else_takes_part() -> None:
    task = mlp_task()
    alone = compare({"a": AdamW}, task, **GRID)
    others = {"sgd": SGD, "a": AdamW, "again": lambda lr: AdamW.rule(lr), "bad": lambda lr: SGD.rule(1e30 * lr)}
    together = compare(others, task, **GRID)
    assert together["a"] == alone["a"]
    assert scores(together, "again") == scores(together, "a")


def test_a_torch_optimizer_in_a_loop_gets_what_a_stacked_rule_gets() -> None:
    contenders = {
        "rule": lambda lr: AdamW.rule(lr, weight_decay=0.1),
        "class": Contender(AdamW, {"weight_decay": 0.1}, stacked=False),
        "torch": lambda params, lr: torch.optim.AdamW(params, lr, weight_decay=0.1),
        "torch class": Contender(torch.optim.AdamW, {"weight_decay": 0.1}),
    }
    found = compare(contenders, mlp_task(), **GRID, schedule=partial(warmup_cosine, warmup_steps=3))
    for name in ("class", "torch", "torch class"):
        assert scores(found, name) == pytest.approx(scores(found, "rule"), rel=1e-9)
        assert found[name].path == "one by one"
        assert found[name].lr == found["rule"].lr
        assert found[name].state_bytes == found["rule"].state_bytes == 16
    assert found["rule"].path == "batched"


@pytest.mark.parametrize("name", sorted(set(optimizers()) - RANDOM))
def test_each_optimizer_does_stacked_what_it_does_in_a_torch_loop(name: str) -> None:
    cls: type[Optimizer] = optimizers()[name]
    own = {k: v for k, v in SETTINGS.get(name, {}).items() if k != "lr"}
    own |= {"blocks": "row"} if name == "AdamMini" else {}
    own |= {"max_precond_dim": 4} if name == "SOAP" else {}  # longer sides have a null space, of no certain basis
    contenders = {"stacked": Contender(cls, own), "loop": Contender(cls, own, stacked=False)}
    found = compare(contenders, mlp_task(), **{**GRID, "rates": [0.003, 0.02]}, schedule=partial(warmup_cosine))
    assert found["loop"].path == "one by one"
    assert found["stacked"].path == ("one by one" if name == "BAdam" else "batched")
    assert scores(found, "stacked") == pytest.approx(scores(found, "loop"), rel=1e-5)


@pytest.mark.parametrize("name", ["AdamW", "LAMB", "APOLLO", "LOMO"])  # element, tensor, random, model
def test_threads_and_who_is_stacked_with_whom_do_not_show(name: str) -> None:
    contenders = {"x": optimizers()[name]}
    alone, shared = (compare(contenders, mlp_task(), **{**GRID, "workers": workers}) for workers in (1, 4))
    assert alone == shared
    some = compare({"x": Contender(optimizers()[name], rates=[0.01, 0.1, 0.7])}, mlp_task(), **GRID)
    assert some["x"].trials[:2] == alone["x"].trials[1:]


@pytest.mark.parametrize(
    ("stacked", "wrapper"),
    [
        (xgrad, XGrad),
        (lookahead, Lookahead),
        (cautious, Cautious),
        (coordinate_clip, CoordinateClip),
        (lambda rule: rotated(lookahead(rule)), lambda optimizer: Rotated(Lookahead(optimizer))),
    ],
    ids=["xgrad", "lookahead", "cautious", "clipped", "rotated lookahead"],
)
def test_wrapped_optimizers_are_judged_by_the_weights_they_show(stacked: Any, wrapper: Any) -> None:
    contenders = {
        "stacked": lambda lr: stacked(AdamW.rule(lr)),
        "loop": lambda named_parameters, lr: wrapper(AdamW(named_parameters, lr)),
        "foreign": lambda params, lr: wrapper(torch.optim.AdamW(params, lr)),
        "bare": AdamW,
    }
    found = compare(contenders, mlp_task(), **GRID)
    assert scores(found, "stacked") == pytest.approx(scores(found, "loop"), rel=1e-9)
    assert scores(found, "foreign") == pytest.approx(scores(found, "loop"), rel=1e-6)
    assert scores(found, "stacked") != pytest.approx(scores(found, "bare"), rel=1e-3)


def test_an_optimizer_that_needs_a_closure_gets_one() -> None:
    newton = partial(torch.optim.LBFGS, max_iter=8, line_search_fn="strong_wolfe")
    found = compare(
        {"lbfgs": Contender(lambda params, lr: newton(params, lr), rates=[1.0]), "sgd": Contender(SGD, rates=[1e-9])},
        mlp_task(),
        **{**GRID, "batch": None},
    )
    assert found["lbfgs"].train_losses[-1] < 0.2 < found["sgd"].train_losses[-1]
    assert found["lbfgs"].train_losses[0] == pytest.approx(found["sgd"].train_losses[0], rel=1e-6)


def test_a_function_may_make_more_or_less_of_a_rate() -> None:
    contenders = {
        "tenth": Contender(SGD, rates=[0.001, 0.01]),
        "rule": Contender(lambda lr: SGD.rule(0.1 * lr), rates=[0.01, 0.1]),
        "torch": Contender(lambda params, lr: torch.optim.SGD(params, 0.1 * lr), rates=[0.01, 0.1]),
        "made": Contender(SGD.rule(123.0), rates=[0.001, 0.01]),
    }
    found = compare(contenders, mlp_task(), **GRID, schedule=warmup_cosine)
    for name in ("rule", "torch", "made"):
        assert scores(found, name) == pytest.approx(scores(found, "tenth"), rel=1e-9)


def test_test_data_is_not_looked_at_while_tuning() -> None:
    task = mlp_task()
    data = task.dataset
    other = Data(data.test.inputs.flip(0), data.test.targets.roll(1))
    changed = replace(task, dataset=Dataset("blobs", data.train, other, classes=4))
    one, two = (compare({"a": AdamW, "s": SGD}, each, **GRID) for each in (task, changed))
    for a, b in zip(one.entries, two.entries, strict=True):
        assert a.trials == b.trials
        assert a.lr == b.lr
        assert a.scores != b.scores


@given(samples=st.integers(2, 60), share=st.floats(0.02, 0.98))
@settings(deadline=None)
def test_validation_data_and_the_rest_are_all_the_training_data(samples: int, share: float) -> None:
    data = Data(torch.arange(samples), torch.arange(samples))
    held_count = round(share * samples)
    if not 0 < held_count < samples:
        with pytest.raises(ValueError, match="validation"):
            _split(data, share)
        return
    rest, held = _split(data, share)
    assert len(held) == held_count
    assert sorted([*rest.inputs.tolist(), *held.inputs.tolist()]) == list(range(samples))


def test_test_runs_train_on_all_training_data() -> None:
    """A model that can only remember: the loss of what was held out falls in test runs, and not in tuning."""
    inputs = torch.eye(10, dtype=torch.float64)
    data = Data(inputs, torch.arange(10))
    task = Task("memory", lambda: nn.Linear(10, 10, bias=False).double(), Dataset("memory", data, data, classes=10))
    grid = {**GRID, "rates": [1.0, 3.0], "steps": 400, "batch": None}
    found = compare({"sgd": SGD}, task, **grid, validation=0.2)
    assert found["sgd"].chosen.mean == 0.0
    assert found["sgd"].mean == 1.0


# -- tuning --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whitened(Transform):
    """The update over the length of its projection on the largest eigenvector: torch has no eigenvectors of NaN."""

    granularity: ClassVar[Granularity] = "tensor"

    def apply(self, u: Tensor, p: Tensor, g: Tensor, s: State, c: Scalars) -> Tensor:
        square = torch.outer(u.flatten(), u.flatten())
        return u / (1.0 + torch.linalg.eigvalsh(square)[-1])


def test_an_optimizer_that_fails_on_what_is_no_number_diverges_alone() -> None:
    rule = Rule("whitened", 0.1, lambda param: (Whitened(),))
    rates = {"rates": [0.01, 0.1, 1e305]}
    found = compare({"white": lambda lr: replace(rule, lr=lr)}, mlp_task(nn.Identity), **{**GRID, **rates})
    same = compare({"white": lambda lr: replace(rule, lr=lr)}, mlp_task(nn.Identity), **{**GRID, "rates": [0.01, 0.1]})
    assert found["white"].trials[2].diverged == 2
    assert found["white"].trials[:2] == same["white"].trials
    assert found["white"].tests == same["white"].tests


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.1, 2.0, math.inf])), min_size=1))
def test_the_best_score_wins_then_the_lower_loss_then_the_lower_rate(found: list[tuple[float, float]]) -> None:
    trials = [Trial(0.1 * (i + 1), {}, (score,), (loss,)) for i, (score, loss) in enumerate(found)]
    best = trials[_best(trials, "accuracy")]
    assert all(trial.mean <= best.mean for trial in trials)
    ties = [trial for trial in trials if trial.mean == best.mean]
    assert best.loss == min(trial.loss for trial in ties)
    assert best.lr == min(trial.lr for trial in ties if trial.loss == best.loss)
    assert trials[_best(trials, "loss")].mean == min(trial.mean for trial in trials)


def test_an_edge_is_said_to_be_one_only_among_several_rates() -> None:
    trials = [Trial(lr, {}, (lr,)) for lr in (0.1, 0.2, 0.3)]
    assert [_edge(trials, i) for i in range(3)] == ["low", "", "high"]
    assert _edge([trials[0], replace(trials[0], settings={"x": 1})], 1) == ""


def test_a_grid_is_extended_for_all_alike_until_the_best_rates_lie_inside() -> None:
    grid = {**GRID, "rates": [1e-4, 1e-3], "steps": 5, "batch": None}
    slow = Contender(SGD, rates=[1e2, 1e3])
    short = compare({"low": SGD, "high": slow}, parabola(), **grid)
    assert (short["low"].at_edge, short["high"].at_edge) == ("high", "low")
    found = compare({"low": SGD, "high": slow}, parabola(), **grid, extend=True)
    for name in ("low", "high"):
        assert found[name].at_edge == ""
        assert found[name].lr == pytest.approx(1.0)
    assert len(found["low"].trials) == len(found["high"].trials)
    assert found["low"].trials[:2] == short["low"].trials
    assert {row[1] for row in found.lines()[1:]} == {"1"}
    assert {row[1] for row in short.lines()[1:]} == {"0.001 ↑", "100 ↓"}


@given(st.floats(1e-6, 1e3), st.integers(1, 5))
def test_rates_outside_a_grid_go_on_in_its_ratio(low: float, count: int) -> None:
    rates = [low, 3 * low, 9 * low]
    assert outside(rates, "high", count) == pytest.approx([9 * low * 3.0**i for i in range(1, count + 1)], rel=1e-5)
    assert outside(rates, "low", count) == pytest.approx([low * 3.0**-i for i in range(1, count + 1)], rel=1e-5)


@given(st.floats(1e-6, 1e3), st.integers(1, 9))
def test_a_grid_around_a_rate_has_equal_ratios(lr: float, count: int) -> None:
    rates = around(lr, count, 2.0)
    assert len(rates) == count
    assert rates[(count - 1) // 2] == pytest.approx(lr, rel=5e-3)
    assert all(b / a == pytest.approx(2.0, rel=0.02) for a, b in itertools.pairwise(rates))


def test_further_settings_are_searched_with_every_rate() -> None:
    searched = Contender(SGD, {"nesterov": True}, search={"momentum": [0.5, 0.9, 0.99]}, rates=[0.01, 0.1])
    six = Contender(Adam, rates=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2])
    found = compare({"sgd": searched, "adam": six}, mlp_task(), **GRID)
    tried = [(trial.lr, trial.settings["momentum"]) for trial in found["sgd"].trials]
    assert tried == [(lr, momentum) for lr in (0.01, 0.1) for momentum in (0.5, 0.9, 0.99)]
    best = found["sgd"].chosen
    pinned = Contender(SGD, {"nesterov": True, **best.settings}, rates=[best.lr])
    assert compare({"sgd": pinned}, mlp_task(), **GRID)["sgd"].tests == found["sgd"].tests


def test_a_schedules_own_settings_can_be_searched() -> None:
    searched = Contender(SGD, search={"warmup_steps": [1, 6], "power": [1.0, 2.0]}, schedule=warmup_polynomial)
    found = compare({"sgd": searched}, mlp_task(), **{**GRID, "rates": [0.1]})
    losses = [trial.losses for trial in found["sgd"].trials]
    assert len(set(losses)) == 4
    for trial in found["sgd"].trials:
        fixed = Contender(SGD, schedule=partial(warmup_polynomial, **trial.settings), rates=[0.1, 1.0])
        assert compare({"sgd": fixed}, mlp_task(), **GRID)["sgd"].trials[0].losses == trial.losses


@given(st.integers(0, 2**40), st.integers(1, 30))
@settings(deadline=None)
def test_a_random_search_draws_the_same_for_all_and_stays_in_its_spans(seed: int, trials: int) -> None:
    spans = {"momentum": Span(0.5, 0.999, "log of 1 - x"), "weight_decay": Span(0.0, 0.1, "linear")}
    rates = Span(1e-3, 1e1)
    one = points(Contender(SGD, search=spans), rates, trials, seed)
    two = points(Contender(Adam, search={"weight_decay": spans["weight_decay"]}), rates, trials, seed)
    assert len(one) == len(two) == trials
    for a, b in zip(one, two, strict=True):
        assert (a.lr, a.settings["weight_decay"]) == (b.lr, b.settings["weight_decay"])
        assert rates.low <= a.lr <= rates.high
        assert all(span.low <= a.settings[name] <= span.high for name, span in spans.items())


@given(st.integers(0, 2**40), st.integers(1, 6))
@settings(deadline=None)
def test_a_random_search_of_a_grid_takes_different_points_of_it(seed: int, trials: int) -> None:
    contender = Contender(SGD, search={"momentum": [0.5, 0.9]})
    every = points(contender, [0.1, 0.2, 0.3], None, seed)
    some = points(contender, [0.1, 0.2, 0.3], trials, seed)
    assert len(some) == trials
    assert [point for point in every if point in some] == some


# -- diverging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stacked", [True, False])
def test_a_run_that_diverges_counts_as_the_worst_and_stops_nobody(stacked: bool) -> None:
    contenders = {
        "good": Contender(SGD, rates=[0.01, 0.1], stacked=stacked),
        "wild": Contender(SGD, rates=[0.1, 1e200], stacked=stacked),
        "lost": Contender(SGD, rates=[1e200, 1e250], stacked=stacked),
    }
    found = compare(contenders, mlp_task(nn.Identity), **GRID)
    assert found["wild"].trials[1].diverged == 2
    assert found["wild"].trials[1].scores == (0.0, 0.0)
    assert found["wild"].lr == 0.1
    assert found["lost"].scores == (0.0, 0.0)
    assert found["lost"].loss == math.inf
    assert found["lost"].diverged == 2
    assert [entry.name for entry in found.ranked()][-1] == "lost"
    assert "2 of 2 runs diverged" in str(found.lines())


def test_by_loss_a_run_that_diverges_is_infinitely_bad() -> None:
    found = compare({"sgd": SGD}, parabola(), **{**GRID, "rates": [0.5, 1e3], "steps": 300, "batch": None})
    assert found["sgd"].trials[1].scores == (math.inf, math.inf)
    assert found["sgd"].lr == 0.5
    assert found["sgd"].mean < 1e-12


# -- results ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Comparison:
    contenders = {"a": AdamW, "s": Contender(SGD, {"momentum": 0.9}), "x": lambda lr: SGD.rule(lr * 1e200)}
    return compare(contenders, mlp_task(nn.Identity), **GRID, evaluate_every=5)


def test_the_same_arguments_give_the_same_bytes_with_any_number_of_threads(found: Comparison) -> None:
    contenders = {"a": AdamW, "s": Contender(SGD, {"momentum": 0.9}), "x": lambda lr: SGD.rule(lr * 1e200)}
    threads = torch.get_num_threads()
    again = compare(contenders, mlp_task(nn.Identity), **{**GRID, "workers": 3}, evaluate_every=5)
    assert again.to_json() == found.to_json()
    assert torch.get_num_threads() == threads


def test_a_comparison_comes_back_from_json(found: Comparison) -> None:
    assert Comparison.from_json(found.to_json()) == found
    assert math.inf in (test.loss for test in Comparison.from_json(found.to_json())["x"].tests)


@pytest.mark.parametrize("text", ["", "{}", '{"task": 3}', "[1, 2]"])
def test_other_texts_are_no_comparison(text: str) -> None:
    with pytest.raises(ValueError, match="not a comparison"):
        Comparison.from_json(text)


def test_means_errors_and_curves_are_those_of_the_runs(found: Comparison) -> None:
    entry = found["a"]
    a, b = entry.scores
    assert entry.mean == pytest.approx((a + b) / 2)
    assert entry.stderr == pytest.approx(abs(a - b) / 2)
    assert found.evaluated == (5, 10, 12)
    assert entry.curve[-1] == pytest.approx(entry.mean)
    for i in range(3):
        assert entry.train_losses[i] == pytest.approx(sum(test.train_losses[i] for test in entry.tests) / 2)
    assert found["x"].curve == ()


def test_a_line_for_each_contender_the_best_first(found: Comparison) -> None:
    heads, *rows = found.lines()
    assert [row[0] for row in rows] == [entry.name for entry in found.ranked()]
    assert {len(row) for row in rows} == {len(heads)}
    means = [entry.mean for entry in found.ranked()]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_where_it_can(found: Comparison, width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(found.table(width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert ("state" in text) == (width == 200)


# -- on the way ------------------------------------------------------------------------------------------------


def test_progress_rises_to_its_end() -> None:
    told: list[Progress] = []
    compare({"a": AdamW, "s": SGD}, mlp_task(), **GRID, tell=told.append)
    done = [state.done for state in told]
    assert done == sorted(done)
    assert told[-1].done == told[-1].total == 2 * 12 * (3 * 2 + 2)
    assert [state.stage for state in told] == sorted((state.stage for state in told), key="tuning testing".index)


def test_ctrl_c_leaves_what_is_done() -> None:
    told: list[Progress] = []

    def press(state: Progress) -> None:
        told.append(state)
        if state.stage == "testing" and state.contender == "s":
            os.kill(os.getpid(), signal.SIGINT)

    whole = compare({"a": AdamW, "s": SGD}, mlp_task(), **GRID)
    with pytest.raises(Interrupted) as caught:
        compare({"a": AdamW, "s": SGD}, mlp_task(), **GRID, tell=press)
    left = caught.value.comparison
    assert not left.finished
    assert left["a"] == whole["a"]
    assert left["s"].trials == whole["s"].trials
    assert left["s"].tests == ()
    assert Comparison.from_json(left.to_json()) == left
    assert "not tested" in str(left.lines())
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_at_the_very_end_still_hands_over_everything() -> None:
    def press(state: Progress) -> None:
        if state.done == state.total:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        compare({"a": AdamW}, mlp_task(), **GRID, tell=press)
    assert caught.value.comparison == compare({"a": AdamW}, mlp_task(), **GRID)


# -- refused ---------------------------------------------------------------------------------------------------


def refused(contenders: Any = None, **changed: Any) -> Any:
    compare(contenders or {"a": AdamW}, mlp_task(), **{**GRID, **changed})


SHORT = Contender(SGD, rates=[0.1])


@pytest.mark.parametrize(
    ("contenders", "changed", "message"),
    [
        ({"a": AdamW, "s": SHORT}, {}, r"rates: all contenders have to try equally many points; got a 3, s 1"),
        (None, {"seeds": [7, 9]}, r"tuning_seeds: \[7\] are among the seeds of the test as well"),
        (None, {"seeds": [1, 1]}, r"seeds: got \[1, 1\]"),
        (None, {"seeds": []}, r"seeds: got \[\]"),
        (None, {"tuning_seeds": []}, r"tuning_seeds: got none"),
        (None, {"rates": []}, r"rates: got no values"),
        (None, {"rates": [0.1, -1.0]}, r"rates: got -1.0; finite numbers above 0"),
        (None, {"rates": Span(0.1, 1.0)}, r"trials: got None; a number is needed"),
        (None, {"trials": 4}, r"trials: got 4; there are only 3"),
        (None, {"trials": 2, "extend": True}, r"extend: got a random search"),
        (None, {"validation": 0.0}, r"validation: got 0.0; a share in \(0, 1\)"),
        (None, {"metric": "acuracy"}, r"metric: got 'acuracy'; allowed are loss, accuracy"),
        (None, {"steps": 0}, r"steps: got 0; a whole number >= 1 is allowed"),
        (None, {"steps": "3"}, r"steps: got '3'; a whole number >= 1 is allowed"),
        (None, {"rates": "1e-3"}, r"rates: got '1e-3'; a list of rates, or a Span, is allowed"),
        (None, {"rates": 1e-3}, r"rates: got 0.001; a list of rates, or a Span, is allowed"),
        (None, {"seeds": 3}, r"seeds: got 3; a list of whole numbers is allowed"),
        ([AdamW], {}, r"contenders: got \[<class .*; optimizers by name, as in \{'AdamW': AdamW\}, is allowed"),
        (None, {"workers": -1}, r"workers: got -1"),
        ({"f": lambda lr: 3}, {}, r"make: .* gave 3; a Rule is needed"),
        ({"f": lambda params, lr: 3}, {}, r"make: .* gave 3; a torch.optim.Optimizer is needed"),
        ({"f": Contender(AdamW, {"wd": 1})}, {}, r"AdamW: .*'wd'"),
        ({"f": 3}, {}, r"make: got 3"),
        (None, {"schedule": "cosine"}, r"schedule: got 'cosine'; a function from the peak rate to a schedule"),
        (None, {"schedule": lambda peak: 0.1}, r"schedule: .* gave 0.1; a function from the peak rate to a schedule"),
    ],
)
def test_what_cannot_be_is_refused(contenders: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refused(contenders, **changed)


def test_one_value_to_search_is_a_list_of_it() -> None:
    with pytest.raises(ValueError, match=r"search: got momentum = 0.5; a list of values, or a Span, is allowed"):
        Contender(SGD, search={"momentum": 0.5})  # type: ignore[dict-item]


def test_the_name_of_a_task_is_none() -> None:
    with pytest.raises(ValueError, match="task: got 'digits'; a Task, such as "):
        compare({"a": AdamW}, "digits", **GRID)  # type: ignore[arg-type]


def test_a_setting_cannot_be_both_fixed_and_searched() -> None:
    with pytest.raises(ValueError, match="search: momentum is among the settings"):
        Contender(SGD, {"momentum": 0.9}, search={"momentum": [0.5]})


@pytest.mark.parametrize(
    ("low", "high", "scale"), [(0.0, 1.0, "log"), (2.0, 1.0, "linear"), (0.5, 1.0, "log of 1 - x")]
)
def test_a_span_has_its_ends_in_order_and_in_range(low: float, high: float, scale: Any) -> None:
    with pytest.raises(ValueError, match="low, high"):
        Span(low, high, scale)
