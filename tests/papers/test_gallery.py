"""The page of all results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.papers import gallery
from shoal.papers.catalogue import publications
from shoal.papers.ledger import stored


def test_the_page_has_every_stored_result_once_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    page = gallery.write_gallery(tmp_path, lambda done, total: told.append((done, total))).read_text(encoding="utf-8")
    there = {p.slug for p in publications() if stored(p)}
    assert re.findall(r'<section class="paper" id="([\w-]+)">', page) == [
        p.slug for p in publications() if p.slug in there
    ]
    assert not re.search(r"<script|<img|<link|@import|url\((?!#)", page)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gallery.html"]
    assert told == [(done, len(there)) for done in range(len(there) + 1)]


def test_what_comes_from_a_result_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {
        "verdict": "partly",
        "findings": [{"criterion": "<b>a & b</b>", "measured": "<i>", "holds": False}],
        "note": "<u>short</u>",
        "figures": {"<b>": 1.0},
        "published": {"<u>": "<s>"},
        "date": "2026-01-01",
        "commit": "abc",
        "seconds": 1.0,
    }
    monkeypatch.setattr(gallery, "stored", lambda p: result if p.slug == "fedavg" else None)
    page = gallery.write_gallery(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    assert "&lt;u&gt;short&lt;/u&gt;" in page
    assert not re.search(r"<(b|i|u|s)>", page)


def test_the_page_counts_the_criteria_that_hold_beside_each_verdict(tmp_path: Path) -> None:
    page = gallery.write_gallery(tmp_path).read_text(encoding="utf-8")
    results = [result for p in publications() if (result := stored(p))]
    held = [sum(finding["holds"] for finding in result["findings"]) for result in results]
    assert re.findall(r"<strong[^>]*>(.*)</strong></p>", page) == [
        f"{result['verdict']} {count}/{len(result['findings'])}" for result, count in zip(results, held, strict=True)
    ]


def test_an_empty_ledger_is_said_to_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "stored", lambda p: None)
    with pytest.raises(ValueError, match="ledger is empty"):
        gallery.write_gallery(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_contest_is_drawn_with_the_best_on_top_and_a_dot_for_each_seed() -> None:
    figures = {
        f"test accuracy, {who}, seed {seed}": score for who, score in (("A", 0.8), ("B", 0.9)) for seed in (1, 2)
    }
    drawn = gallery.picture({**figures, "learning rate, A": 0.1})
    assert 'aria-label="test accuracy: A, B"' in drawn
    losses = gallery.picture({name.replace("accuracy", "loss"): value for name, value in figures.items()})
    assert 'aria-label="test loss: B, A"' in losses


def test_each_quantity_has_an_axis_of_its_own_and_only_what_spans_much_a_logarithmic_one() -> None:
    figures = {
        **{f"tuning, {who}, lr {lr}: loss": 10.0**-lr for who in "AB" for lr in (1, 5)},
        **{f"accuracy, {who}, seed {seed}": 0.7 + 0.1 * seed for who in "AB" for seed in (1, 2)},
        "learning rate, A": 0.1,
    }
    drawn = gallery.picture(figures)
    assert 'aria-label="accuracy: B, A; loss: tuning, B, lr 5, tuning, B, lr 1, ' in drawn
    assert ">1e-05<" in drawn
    assert ">0.80<" in drawn
    assert "learning rate" not in drawn


def test_without_a_contest_the_positive_figures_are_drawn() -> None:
    assert 'aria-label="value: b, a"' in gallery.picture({"a": 1e-9, "b": 2.0, "none": None, "zero": 0.0})
    assert gallery.picture({"zero": 0.0}) == ""
