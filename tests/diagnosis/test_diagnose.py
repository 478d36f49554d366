"""A diagnosis: its figures are those of the instruments, it is the same every time, and what cannot be is told."""

from __future__ import annotations

import json
import math
import os
import signal
import sys

import pytest
import torch

from shoal.diagnosis import MEASURES, Interrupted, diagnose
from shoal.diagnosis.subject import own
from shoal.instruments import Surface, sharpness
from shoal.instruments_by_name import INSTRUMENTS
from shoal.optim import SGD, AdamW
from shoal.report.diagnosis import summary
from shoal.simulation.tasks import digits, quadratic
from shoal.tensors.random import integers, key

HERE = "tests.diagnosis.own"
QUICK = {"steps": 6, "samples": 24, "batch": 16}


def test_every_instrument_that_is_named_is_there() -> None:
    assert dict.fromkeys(MEASURES) == dict.fromkeys(INSTRUMENTS)


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("digits", "mlp:hidden=8"),
        ("digits", "cnn:channels=2"),
        ("text:characters=4000,context=8", "transformer:width=8,layers=1"),
    ],
)
def test_all_instruments_say_something_of_every_kind_of_model(task: str, model: str, tmp_path) -> None:
    found = diagnose(task, model=model, optimizer="adam", out=tmp_path, **QUICK)
    assert list(found.found) == list(INSTRUMENTS)
    assert found.finished
    assert not found.skipped
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    curves = content["found"]["frequencies"]
    assert curves["own"] == 0.001
    assert curves["rates"]["yours: adam"] / 0.001 in (1.0, pytest.approx(10**0.5), pytest.approx(10**-0.5))
    page = (tmp_path / "report.html").read_text()
    assert all(
        title in page for title in ("Sharpness", "Along the updates", "Smoothness", "Gradient noise", "Opposing")
    )
    assert {path.name for path in tmp_path.iterdir()} == {"diagnosis.json", "report.html"}


def test_the_same_arguments_give_the_same_bytes() -> None:
    first, second = (
        diagnose("digits", optimizer="sgd", only=["noise", "opposing"], **QUICK).to_json() for _ in range(2)
    )
    assert first == second


def test_training_and_sharpness_are_those_of_the_plain_loop() -> None:
    task = digits(model="mlp:hidden=4")
    found = diagnose(task, optimizer=SGD.rule(0.5), only=["sharpness"], steps=4, batch=16, samples=5000)
    model, data = task.initial(0), task.dataset.train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for t in range(4):
        rows = data[integers(key(0, "batch", t), len(data), 16)]
        loss = task.loss(model(rows.inputs), rows.targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert found.training["losses"] == pytest.approx(losses, rel=1e-5)
    value = sharpness(Surface(model, task.loss, data.inputs, data.targets))
    measured = found.found["sharpness"]
    assert measured["steps"] == [0, 1, 2, 3, 4]
    assert measured["stability"] == {"edge": 4.0, "formula": "2 / lr"}
    # Both looked at all of a curvature that barely differs between all samples and the 2,048 it is measured on.
    assert measured["eigenvalues"][-1] == pytest.approx(value, rel=0.02)


def test_the_noise_of_a_quadratic_is_known() -> None:
    task = quadratic(dimension=4, samples=200, noise=1.0)
    found = diagnose(task, optimizer=SGD.rule(1e-9), only=["noise"], steps=2, samples=200).found["noise"]
    b, a = task.dataset.train.inputs.double(), task.dataset.train.targets[0].double()
    rows = -a * b  # the model stays at 0
    trace, squared = float(rows.var(0).sum()), float(rows.mean(0).square().sum())
    assert found["looks"][-1]["simple"] == pytest.approx(trace / squared, rel=1e-4)
    g = rows.mean(0)
    assert found["looks"][-1]["sgd"]["peak"] == pytest.approx(float(g @ g / (a * g * g).sum()), rel=1e-4)
    # A diagonal Hessian has no entries beside its diagonal: no peak.
    assert found["looks"][-1]["sign"]["noise"] > 1e6
    slope = (torch.erf(math.sqrt(0.5) * g / rows.std(0)) * g).sum()
    assert found["looks"][-1]["sign"]["rates"][0] == pytest.approx(float(slope / a.sum()), rel=1e-4)


def test_what_an_instrument_cannot_look_at_is_left_out_with_the_reason(tmp_path) -> None:
    found = diagnose(own(f"{HERE}:fine"), optimizer="sgd", only=["frequencies", "noise"], out=tmp_path, **QUICK)
    assert "no classes" in found.skipped["frequencies"]
    assert list(found.found) == ["noise"]
    assert "no classes" in (tmp_path / "report.html").read_text()


def test_ones_own_model_data_and_loss_are_diagnosed() -> None:
    found = diagnose(f"{HERE}:fine", optimizer="sgd", only=["sharpness", "opposing"], **QUICK)
    assert found.subject["parameters"] == 4
    assert found.subject["samples"] == 64
    assert found.found["opposing"]["output"] == "output"
    assert diagnose(f"{HERE}:a_task", only=["sharpness"], **QUICK).subject["classes"] == 10


def test_a_training_that_diverges_is_told_and_looked_at_before(tmp_path) -> None:
    found = diagnose("digits", optimizer="sgd", lr=1e30, only=["sharpness"], out=tmp_path, **QUICK)
    assert found.training["diverged"]
    assert found.finished
    assert found.found["sharpness"]["steps"] == [0]
    assert "diverged" in (tmp_path / "report.html").read_text()


def test_a_training_whose_loss_grows_is_told_on_the_page_and_in_the_summary(tmp_path) -> None:
    found = diagnose("digits", optimizer="sgd", lr=300.0, only=["sharpness", "directions"], out=tmp_path, **QUICK)
    assert found.training["grew"]
    assert not found.training["diverged"]
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    assert summary(content)[0][1].startswith("The training does not converge: the loss grew from ")
    assert (
        '<strong class="flag">diverged</strong> The training does not converge'
        in (tmp_path / "report.html").read_text()
    )


def test_what_fails_after_a_training_that_grew_is_left_out(monkeypatch) -> None:
    def fails(bench):
        raise ValueError("product: got a result that is not finite")

    monkeypatch.setitem(MEASURES, "smoothness", fails)
    arguments = {"task": "digits", "optimizer": "sgd", "only": ["smoothness"], **QUICK}
    found = diagnose(lr=300.0, **arguments)
    assert "diverged (product: got a result" in found.skipped["smoothness"]
    with pytest.raises(ValueError, match="product: got a result"):
        diagnose(lr=0.1, **arguments)


def test_the_decrease_that_is_measured_is_that_of_the_loss(tmp_path) -> None:
    task = quadratic(dimension=4, samples=64, noise=0.1)
    found = diagnose(task, optimizer=SGD.rule(0.01), only=["directions"], steps=4, batch=16).found["directions"]
    assert found["steps"] == 4
    for update in found["updates"].values():  # the quadratic model of a quadratic is exact
        assert update["measured"] == pytest.approx(update["decrease"], rel=1e-3)
        assert update["decrease"] <= found["loss"]


def test_ones_own_module_without_a_dot_is_found_in_the_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minefield.py").write_text("from tests.diagnosis.own import fine as setup\n")
    assert diagnose("minefield:setup", optimizer="sgd", only=["sharpness"], **QUICK).subject["samples"] == 64
    monkeypatch.delitem(sys.modules, "minefield")


@pytest.mark.parametrize("out", ["file", "file/below/it"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(out: str, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    told: list[object] = []
    with pytest.raises(ValueError, match=r"out: cannot write .*file.*: Not a directory"):
        diagnose("digits", out=tmp_path / out, tell=told.append, **QUICK)
    assert told == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interruption_draws_nothing_more(tmp_path, monkeypatch) -> None:
    def stop(progress) -> None:
        if progress.stage == "noise":
            monkeypatch.setattr(module, "write_diagnosis", pytest.fail)
            raise KeyboardInterrupt

    module = sys.modules["shoal.diagnosis.diagnose"]
    with pytest.raises(Interrupted):
        diagnose("digits", only=["sharpness", "noise"], out=tmp_path, tell=stop, **QUICK)
    assert {path.name for path in tmp_path.iterdir()} == {"diagnosis.json", "report.html"}


def test_ctrl_c_while_a_page_is_drawn_is_not_put_off(tmp_path, monkeypatch) -> None:
    def draws(*arguments) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on drawing")

    monkeypatch.setattr(sys.modules["shoal.diagnosis.diagnose"], "write_diagnosis", draws)
    with pytest.raises(Interrupted) as caught:
        diagnose("digits", only=["sharpness"], out=tmp_path, **QUICK)
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    assert content["training"]["losses"] == caught.value.diagnosis.training["losses"]
    assert {path.name for path in tmp_path.iterdir()} == {"diagnosis.json"}


def test_an_interruption_leaves_what_was_found_until_then(tmp_path) -> None:
    def stop(progress) -> None:
        if progress.stage == "noise":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        diagnose("digits", only=["sharpness", "noise"], out=tmp_path, tell=stop, **QUICK)
    assert list(caught.value.diagnosis.found) == ["sharpness"]
    content = json.loads((tmp_path / "diagnosis.json").read_text())
    assert content["finished"] is False
    assert list(content["found"]) == ["sharpness"]
    assert "interrupted" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("digit", {}, "task: 'digit' is unknown; did you mean 'digits'"),
        ("game", {}, "task: got 'game'"),
        ("digits", {"only": ["nois"]}, "only: 'nois' is unknown; did you mean 'noise'"),
        ("digits", {"only": []}, "only: got none; allowed are sharpness"),
        ("digits", {"steps": 1}, "steps: got 1; a whole number >= 2 is allowed"),
        ("digits", {"steps": "9"}, "steps: got '9'; a whole number >= 2 is allowed"),
        ("digits", {"only": "noise"}, "only: got 'noise'; a list of names is allowed"),
        (
            "digits",
            {"optimizer": AdamW},
            "optimizer: got <class 'shoal.optim.adamw.AdamW'>; a name or a Rule, as of Ad",
        ),
        ("digits", {"lr": "0.1"}, "lr: got '0.1'; a finite number > 0 is allowed"),
        ("digits", {"samples": 2}, "samples: got 2; a whole number >= 8"),
        ("digits", {"optimizer": "adma"}, "optimizer: 'adma' is unknown"),
        ("digits", {"lr": -1.0}, "lr: got -1.0; a finite number > 0"),
        ("digits", {"model": "mpl"}, "model: 'mpl' is unknown"),
        ("digits", {"device": "tpu"}, "device: got 'tpu'"),
        ("digits", {"optimizer": "badam"}, "optimizer: badam"),
        ("digits", {"optimizer": "adahessian"}, r"got adahessian, whose steps need more than gradients \(curvature\)"),
        ("digits", {"optimizer": "adafisher"}, "got adafisher, .* are allowed, such as adamw"),
        ("digits", {"optimizer": "ttur+sgd:fast=1.w"}, "optimizer: got ttur.*which is no game"),
        ("digitz:setup", {}, "cannot import digitz:setup: ModuleNotFoundError.*did you mean 'digits'"),
        (f"{HERE}:missing", {}, "task: cannot import tests.diagnosis.own:missing: AttributeError"),
        ("no.such.module:f", {}, "task: cannot import no.such.module:f: ModuleNotFoundError"),
        (f"{HERE}:broken", {}, "task: tests.diagnosis.own:broken raised RuntimeError: no luck today"),
        (
            f"{HERE}:dictionary",
            {},
            "task: tests.diagnosis.own:dictionary: the model puts out dict; one tensor is allowed",
        ),
        (f"{HERE}:nothing", {}, "returned 3; a Task, or a triple"),
        (f"{HERE}:scalar_loss", {}, r"loss: got a result of shape \(\) for 2 samples"),
        (f"{HERE}:wrong_shapes", {}, "model, data and loss do not fit: RuntimeError"),
        (f"{HERE}:frozen", {}, "model: got no trainable parameter"),
        (f"{HERE}:fine", {"model": "mlp"}, "model: got 'mlp'; tests.diagnosis.own:fine brings its own"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(task: str, settings: dict, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        diagnose(task, out=tmp_path / "here", **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "here").exists()
