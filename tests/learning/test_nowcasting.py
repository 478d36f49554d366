"""Recording runs and training nowcasters on them: what is in the files, targets by hand, learning, Ctrl-C."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import parameters_to_vector

from shoal.learning.nowcasting import Meta, Recording, record, train, trajectories
from shoal.learning.nowcasting.recording import KEY, trajectory
from shoal.learning.nowcasting.training import Slice, cut, linear
from shoal.learning.nowcasting.zoo import FAMILIES, task
from shoal.optim.nino import Shape, load, neural_graph
from shoal.optim.nino.files import about

DIGITS = {"dataset": "digits", "model": "mlp", "hidden": 4}
SHORT = Recording(steps=40, every=2, families=("digits-mlp",))
SHAPE = Shape(states=3, horizon=4, width=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Three runs."""
    path: Path = tmp_path_factory.mktemp("runs")
    record(path, 3, SHORT)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_models_with_a_graph(family: str) -> None:
    work = task(FAMILIES[family](random.Random(0)))
    graph = neural_graph(work.initial(0), work.dataset.train.inputs[:1])
    assert sum(graph.sizes) == sum(p.numel() for p in work.initial(0).parameters())


def test_states_are_those_of_torch_s_adam_every_few_steps() -> None:
    how = Recording(steps=12, every=5, batch=16)
    states, losses = trajectory(DIGITS, 3e-3, 8, how)
    work = task(DIGITS)
    model = work.initial(8)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    draw, data = torch.Generator().manual_seed(8), work.dataset.train
    expected = []
    for step in range(12):
        if step % 5 == 0:
            expected.append(parameters_to_vector(model.parameters()).detach())
        rows = torch.randint(len(data), (16,), generator=draw)
        loss = work.loss(model(data.inputs[rows]), data.targets[rows]).mean()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-4)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert states.shape[0] == 3
    torch.testing.assert_close(states, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_a_run_is_the_same_however_many_there_are_and_stays_when_it_is_there(folder: Path, tmp_path: Path) -> None:
    first = record(tmp_path, 1, SHORT)[0]
    assert first.read_bytes() == (folder / first.name).read_bytes()
    changed = first.stat().st_mtime_ns
    assert len(record(tmp_path, 2, SHORT)) == 2
    assert first.stat().st_mtime_ns == changed
    about = [run.about for run in trajectories(tmp_path)]
    assert about[0]["seed"] != about[1]["seed"]
    assert about[0]["how"]["every"] == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 42}, "steps 40, not 42"),
        ({"every": 4}, "every 2, not 4"),
        ({"batch": 8}, "batch 64, not 8"),
        ({"rates": (1e-3, 1e-1)}, r"rates \[0.001, 0.01\], not \[0.001, 0.1\]"),
        ({"families": ("digits-mlp", "digits-cnn")}, r"families \['digits-mlp'\], not \['digits-mlp', 'digits-cnn'\]"),
        ({"seed": 1}, "seed 0, not 1"),
    ],
)
@pytest.mark.parametrize("runs", [1, 3, 4])
def test_a_folder_has_runs_of_one_setting(folder: Path, runs: int, change: dict[str, Any], told: str) -> None:
    """Also where no more are asked for than there are."""
    before = sorted(folder.iterdir())
    with pytest.raises(
        ValueError,
        match=rf"^folder: .*00000\.safetensors was recorded with {told}; the same settings, or another folder",
    ):
        record(folder, runs, replace(SHORT, **change))
    assert sorted(folder.iterdir()) == before


def test_other_files_of_the_folder_are_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"^folder: .*other\.safetensors is no recorded run"):
        record(tmp_path, 1, SHORT)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_diverges_leaves_no_file(tmp_path: Path) -> None:
    assert record(tmp_path, 1, replace(SHORT, rates=(1e30, 1e30))) == []
    with pytest.raises(ValueError, match=r"^folder: there is no recorded run in "):
        trajectories(tmp_path)


def test_targets_are_differences_from_the_last_state_in_units_of_the_spread(folder: Path) -> None:
    run = trajectories(folder)[0]
    one = cut(run, 1, 2, 3, SHAPE)
    states = run.states(0, run.length).double()
    at = 0
    for size in one.graph.sizes:
        for b in range(3):
            past = states[at : at + size, [1 + 2 * (b + i) for i in range(3)]]
            spread = past.std() + 1e-6
            torch.testing.assert_close(
                one.states[at : at + size, b].double(), (past - past.mean()) / spread, rtol=1e-3, atol=1e-4
            )
            for k in range(1, 5):
                column = 1 + 2 * (b + 2 + k)
                ahead = (states[at : at + size, column] - past[:, -1]) / spread
                torch.testing.assert_close(one.ahead[at : at + size, b, k - 1].double(), ahead, rtol=1e-3, atol=1e-3)
        at += size
    assert bool(one.there.all())


def test_what_was_not_recorded_does_not_count(folder: Path) -> None:
    run = trajectories(folder)[0]  # states 0 to 20
    one = cut(run, 14, 1, 2, SHAPE)
    assert one.there.tolist() == [[True] * 4, [True, True, True, False]]
    zero = torch.zeros_like(one.ahead)
    expected = one.ahead[:, one.there].abs().mean()
    torch.testing.assert_close(one.error(zero), expected)
    off = torch.where(one.there, zero, 100.0)
    assert torch.equal(one.error(off), one.error(zero))


def test_a_straight_run_is_forecast_exactly_by_the_line() -> None:
    speed = torch.randn(6, 1, 1)
    states = speed * torch.arange(3)
    ahead = speed * torch.arange(1, 5)
    graph: Any = None
    one = Slice(graph, states, ahead, torch.ones(1, 4, dtype=torch.bool))
    assert float(one.error(linear(states, 4))) < 1e-6


@pytest.mark.parametrize("network", ["graph", "single"])
def test_a_trained_nowcaster_is_better_than_the_last_state_on_the_runs_it_saw(
    folder: Path, tmp_path: Path, network: str
) -> None:
    how = Meta(network=network, steps=200, runs=1, slices=2, strides=(1,), lr=1e-2, held=0.0)
    told: list[int] = []
    made = train(folder, tmp_path / "n", SHAPE, how, lambda done, total, words: told.append(done))
    assert told == list(range(1, 201))
    found = about(tmp_path / "n")
    errors = found["training"]["errors"]
    assert errors["nowcaster"] < 0.9 * errors["last state"]
    assert found["training"]["step"] == 200
    assert found["training"]["settings"]["lr"] == 1e-2
    again = load(tmp_path / "n")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True))


def test_training_is_the_same_again(folder: Path, tmp_path: Path) -> None:
    how = Meta(steps=3, runs=1, slices=1, strides=(1, 2))
    ends = [train(folder, tmp_path / name, SHAPE, how) for name in "ab"]
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in ends), strict=True))


def test_ctrl_c_leaves_what_there_is(folder: Path, tmp_path: Path) -> None:
    def tell(done: int, total: int, words: str) -> None:
        if done == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "n", SHAPE, Meta(steps=50, runs=1, slices=1, strides=(1,)), tell)
    assert about(tmp_path / "n")["training"]["step"] == 4
    load(tmp_path / "n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recording(steps=0), r"^steps: got 0; "),
        (lambda: Recording(steps=3, every=5), r"^every: got 5; at most the 3 steps of a run are allowed$"),
        (lambda: Recording(families=("digits-mlp", "x")), r"^families: got x; allowed are digits-mlp, "),
        (lambda: Recording(rates=(0.1, 0.01)), r"^rates: got 0.1, 0.01; 0 < lowest <= highest"),
        (lambda: Meta(network="x"), r"^network: got 'x'; allowed are graph, single"),
        (lambda: Meta(strides=()), r"^strides: got \[\]; "),
        (lambda: Meta(held=1.0), r"^held: got 1.0; a share in \[0, 1\)"),
        (lambda: Meta(slices=0), r"^slices: got 0; "),
        (lambda: record("x", 0), r"^runs: got 0; "),
        (lambda: task({"dataset": "digits", "model": "x"}), r"^model: got 'x'; allowed are mlp, cnn, transformer"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_runs_that_are_too_short_or_too_large_or_none_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^folder: .* has 21 states; 40 at least are needed"):
        train(folder, tmp_path / "n", Shape(states=30), Meta(steps=1, slices=1))
    with pytest.raises(ValueError, match=r"^largest: got 10; every run in .* is of a larger model"):
        train(folder, tmp_path / "n", SHAPE, Meta(largest=10))
    save_file({"states": torch.zeros(3, 2)}, tmp_path / "other.safetensors", metadata={KEY + "s": json.dumps({})})
    with pytest.raises(ValueError, match=r"^folder: .*other.safetensors is no recorded run"):
        trajectories(tmp_path)
