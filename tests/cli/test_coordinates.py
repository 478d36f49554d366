"""`shoal optim coordinate-check`: what it prints and leaves, and what it refuses in one line."""

from __future__ import annotations

import csv

import pytest

QUICK = ("--widths", "8,32", "--seeds", 1, "--steps", 2, "--batch", 16)


def test_it_prints_a_table_of_each_parametrisation_and_leaves_numbers_and_a_plot(shoal, tmp_path) -> None:
    outcome = shoal("optim", "coordinate-check", "adam:lr=0.01", *QUICK, "--out", "here")
    assert outcome.code == 0
    assert "muP: mean movement after 2 steps" in outcome.out
    assert "standard: mean movement after 2 steps" in outcome.out
    assert outcome.value("plot") == ["here/coordinates.png"]
    assert (tmp_path / "here" / "coordinates.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "here" / "coordinates.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    moved = {
        name: {int(r["width"]): float(r["moved"]) for r in rows if (r["parametrisation"], r["step"]) == (name, "2")}
        for name in ("muP", "standard")
    }  # of the last layer
    assert moved["muP"][8] == pytest.approx(moved["standard"][8], rel=1e-5)
    assert moved["standard"][32] > 1.5 * moved["muP"][32]


def test_trainings_that_all_diverge_are_told_in_a_line_each(shoal, tmp_path) -> None:
    outcome = shoal("optim", "coordinate-check", "sgd:lr=1e30", *QUICK, "--steps", 4)
    assert outcome.code == 0
    for name in ("muP", "standard"):
        assert f"{name}: training diverged at every width; a smaller learning rate may not" in outcome.out.splitlines()
    assert "nan\n" not in outcome.out
    assert (tmp_path / "coordinates" / "coordinates.png").exists()


@pytest.mark.parametrize("model", ["cnn", "transformer:layers=1", "vit:layers=1,patch=2"])
def test_every_model_with_a_width_can_be_checked(shoal, model) -> None:
    outcome = shoal("optim", "coordinate-check", "sgd:lr=0.01", "--model", model, *QUICK)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lamb",), "optimizer: got LAMB, whose exponents are not known"),
        (("cautious+adamw",), "optimizer: 'cautious+adamw' is made of several"),
        (("adam", "--widths", "8,x"), "widths: got '8,x'"),
        (("adam", "--widths", "8"), "widths: got [8]; two or more"),
        (("adam", "--widths", "6,12", "--model", "vit"), "model: vit:width=6"),
        (("adam", "--model", "logistic"), "model: got logistic; mlp, cnn, transformer, vit are allowed"),
        (("adam", "--model", "mlp:hidden=3"), "model: mlp:hidden=3 has a width of its own"),
        (("adam", "--seeds", "0"), "seeds: got 0"),
        (("adam", "--steps", "0"), "steps: got 0"),
        (("adam:weight_decay=0.1",), "weight_decay: got 0.1 for Adam"),
        (("adam", "--task", "quadratic"), "task: "),
    ],
)
def test_what_cannot_be_is_refused(shoal, tmp_path, words, message) -> None:
    assert shoal("optim", "coordinate-check", *words).complaint.startswith(message)
    assert list(tmp_path.iterdir()) == []
