"""The claim's own arithmetic."""

from __future__ import annotations

import pytest
import torch

from shoal.learning.data import load
from shoal.papers import fedzip as paper
from shoal.tensors import Layout
from shoal.tensors.payload import encoded_size


def test_the_exact_criteria_hold() -> None:
    assert paper.exact().holds
    figures: dict[str, float] = {}
    assert paper.sizes(figures).holds
    assert all(value <= 32.0 for name, value in figures.items() if name.endswith("words alone"))


def test_pruning_alone_sends_the_largest_entries_as_they_are() -> None:
    layout = Layout.from_shapes({"weight": (20, 10), "bias": (20,)})
    x = paper.heavy_tailed(layout.size)
    codec = paper.Pruned(0.1)
    found = codec.decode(codec.encode(x, {}, 0, layout)[0], layout)
    assert int(found[:200].count_nonzero()) == 20
    assert torch.equal(found[200:], x[200:])
    assert torch.equal(found[:200][found[:200] != 0], x[:200][found[:200] != 0])
    assert 20 * 4 + 20 * 4 < codec.size(x, layout) < encoded_size(x) / 2


def test_pruning_alone_may_use_as_many_bytes_as_it_is_given_and_hardly_fewer() -> None:
    dataset = load("digits")
    layout = Layout.of(paper.mlp(dataset, paper.CHECK.hidden)())
    for limit in (500.0, 700.0):
        size = paper.same_size(paper.CHECK, dataset, limit).size(paper.heavy_tailed(layout.size), layout)
        assert 0.9 * limit < size <= limit


@pytest.mark.parametrize(
    ("zipped", "pruned", "ratio", "expected"),
    [
        (0.80, 0.70, 50.0, [True, True, True]),
        (0.78, 0.79, 40.0, [True, False, False]),
        (0.769, 0.7, 41.0, [False, True, True]),
    ],
)
def test_accuracies_and_bytes_are_judged(zipped: float, pruned: float, ratio: float, expected: list[bool]) -> None:
    scores = {"FedZip": zipped, "no codec": 0.80, "pruning alone": pruned, "FedZip with error feedback": 0.0}
    assert [finding.holds for finding in paper.judge(scores, ratio, "data")] == expected


def test_rates_are_tuned_on_another_seed() -> None:
    for setting in (paper.CHECK, paper.FULL):
        assert setting.tuning_seed not in setting.seeds
