"""Coordinate checks as files: every number, and a picture that is whole."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.instruments.coordinates import Coordinate, CoordinateCheck
from shoal.report.coordinates import save_coordinates, write_coordinates

ROWS = tuple(
    Coordinate(width, 0, step, layer, 1.0, 0.1 * step * (width if layer == "b" else 1))
    for width in (4, 8)
    for step in (0, 1)
    for layer in ("a", "b")
)
CHECK = CoordinateCheck(ROWS)


def test_the_table_has_every_number(tmp_path: Path) -> None:
    picture = write_coordinates({"muP": CHECK, "standard": CHECK}, tmp_path / "new")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "new" / "coordinates.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["parametrisation"] for row in rows] == ["muP"] * 8 + ["standard"] * 8
    read = [
        Coordinate(int(r["width"]), int(r["seed"]), int(r["step"]), r["layer"], float(r["size"]), float(r["moved"]))
        for r in rows[:8]
    ]
    assert tuple(read) == ROWS


def test_a_drawing_names_layers_widths_and_parametrisations_and_is_the_same_each_time(tmp_path: Path) -> None:
    texts = [
        save_coordinates({"muP": CHECK, "standard": CHECK}, tmp_path / name).read_text(encoding="utf-8")
        for name in ("a.svg", "b.svg")
    ]
    for word in ("muP: mean movement after 1 steps", "standard: mean", ">a<", ">b<", ">4<", ">8<"):
        assert word in texts[0] or word.strip("><") in texts[0]
    assert texts[0] == texts[1]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: got a.bmp; names that end in .png, .svg, .pdf"):
        save_coordinates({"muP": CHECK}, tmp_path / "a.bmp")
    with pytest.raises(ValueError, match="checks: got none"):
        save_coordinates({}, tmp_path / "a.png")


@pytest.mark.parametrize("pair", [("muP", "standard"), ("standard", "muP")])
def test_where_every_training_diverged_the_panel_says_so(tmp_path: Path, pair: tuple[str, str]) -> None:
    lost = CoordinateCheck(tuple(replace(row, moved=math.nan if row.step else 0.0) for row in ROWS))
    assert lost.diverged == [4, 8]
    assert CHECK.diverged == []
    for checks, times in (({"muP": lost, "standard": lost}, 2), (dict(zip(pair, (lost, CHECK), strict=True)), 1)):
        text = save_coordinates(checks, tmp_path / "a.svg").read_text(encoding="utf-8")
        assert text.count("every training diverged") == times
    still = CoordinateCheck(tuple(replace(row, moved=0.0) for row in ROWS))
    assert "nothing moved" in save_coordinates({"muP": still}, tmp_path / "a.svg").read_text(encoding="utf-8")
