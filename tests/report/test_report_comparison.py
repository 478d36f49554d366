"""Pictures and pages of comparisons of optimizers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from shoal.learning.results import Comparison, Entry, Trial
from shoal.learning.results import Tested as Outcome  # pytest takes what begins with Test for tests
from shoal.report.comparison import FEATURED, MANY, save_plot, write_comparison


def entry(name: str, level: float, *, diverged: bool = False, seeds: int = 2) -> Entry:
    """A contender that tried three rates, the middle one of which is best."""
    trials = tuple(Trial(10.0**-k, {}, (level - 0.1 * abs(k - 2), level), (0.5, 0.6)) for k in (1, 2, 3))
    score, loss = (0.0, math.inf) if diverged else (level, 1.0 - level)
    curve = () if diverged else (level - 0.2, level)
    tests = tuple(
        Outcome(seed, score, loss, diverged, (2.0, 1.0)[: 1 if diverged else 2], curve) for seed in range(seeds)
    )
    return Entry(name, {"eps": 1e-8}, "", trials, 1, "", tests, "batched", "vmap takes it", 8.0)


def of(*entries: Entry, **changes: object) -> Comparison:
    facts = {
        "task": "t<a>sk",
        "source": "thin air",
        "metric": "accuracy",
        "steps": 20,
        "batch": None,
        "schedule": "constant",
        "seeds": (0, 1),
        "tuning_seeds": (7, 8),
        "samples": {"train": 100, "validation": 10, "test": 50},
        "parameters": 1234,
        "evaluated": (10, 20),
    }
    return Comparison(**{**facts, **changes}, entries=entries)  # type: ignore[arg-type]


USUAL = of(entry("a", 0.8), entry("b<script>", 0.9), entry("lost", 0.5, diverged=True))


def page(comparison: Comparison, folder: Path) -> str:
    return write_comparison(comparison, folder).read_text()


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_the_page_holds_the_table_the_outcome_and_what_was_tried(tmp_path):
    html = page(USUAL, tmp_path)
    text = text_of(html)
    assert "Best test accuracy: b&lt;script&gt; with 90.0 ± 0.0 %" in text
    assert "2 of 2 runs diverged" in text
    assert "all samples" in text
    assert "t&lt;a&gt;sk" in html
    assert "<script" not in html
    for each in USUAL.entries:
        for trial in each.trials:
            assert f"{trial.lr:.3g}" in text
    assert Comparison.from_json((tmp_path / "comparison.json").read_text()) == USUAL


def test_what_became_of_each_try_stands_in_one_column(tmp_path):
    tried = Trial(0.1, {}, (0.8, 0.7), (0.5, 0.6)), Trial(9.0, {}, (0.1, 0.0), (2.0, math.inf), diverged=1)
    text = text_of(page(of(Entry("a", {}, "", tried, 0)), tmp_path))
    assert "learning rate validation accuracy (%) validation loss outcome" in text
    assert re.search(r" 0\.1 75\.0 ± 7\.1 0\.55 chosen 9 5\.0 ± 7\.1 inf 1 of 2 diverged ", text)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (of(entry("a", 0.8)), "1 optimizer on"),
        (of(entry("a", 0.8, seeds=1), entry("b", 0.7, seeds=1)), "a with 80.0 %, before b with 70.0 %."),
        (of(entry("a", 0.8), entry("b", 0.7)), "more than two standard errors apart"),
        (of(Entry("a"), Entry("b"), finished=False), "No test run is done yet."),
        (of(Entry("a"), Entry("b"), finished=False), "The comparison did not come to its end"),
        (of(entry("a", 0.8), metric="loss"), "Best test loss: a with 0.8 ± 0"),
    ],
)
def test_every_stage_has_a_page(tmp_path, comparison, words):
    assert words in text_of(page(comparison, tmp_path))


def test_among_many_the_best_have_colours_and_the_rest_is_grey(tmp_path):
    crowd = of(*(entry(f"m{i:02d}", 0.5 + i / 100) for i in range(MANY + 1)))
    legend = re.search(r'<ul class="legend">(.*?)</ul>', page(crowd, tmp_path), re.DOTALL)
    assert legend is not None
    best = [f"m{MANY - i:02d}" for i in range(FEATURED)]
    assert text_of(legend[1]).split() == [*best, "grey:", str(MANY + 1 - FEATURED), "others"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_comparison_gives_the_same_picture(tmp_path, suffix):
    one, two = (save_plot(USUAL, tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert one == two
    assert one != save_plot(of(entry("a", 0.8)), tmp_path / f"c{suffix}").read_bytes()


def test_the_picture_names_everybody_and_its_axes(tmp_path):
    svg = save_plot(of(entry("first", 0.8), entry("second", 0.7)), tmp_path / "x.svg").read_text()
    for word in ("first", "second", "learning rate", "step", "training loss", "test accuracy (%)"):
        assert f">{word}" in svg
    assert "var(" not in svg  # colours of its own


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path: got x.gif; names that end in .png, .svg, .pdf"):
        save_plot(USUAL, tmp_path / "x.gif")
