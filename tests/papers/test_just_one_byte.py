"""The claim's own arithmetic."""

from __future__ import annotations

import pytest

from shoal.papers import just_one_byte as paper
from shoal.papers.measures import some_of


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.equal(figures).holds
    assert paper.one_machine(figures).holds
    assert paper.message(figures).holds
    assert paper.precision(figures).holds
    assert 0.03 < figures["error of a slope's logarithm, worst"] <= 1 / 32 + 1e-12


def test_the_machine_with_floats_sees_the_same_batches_and_directions_as_the_peers() -> None:
    """With bytes it is the run, but for float32 rounding that may change a byte."""
    setting = paper.Setting(300, 4, 5, {8: (0.01,)}, (1,))
    dataset = some_of("fashion-mnist", 300)
    run = paper.run_with(setting, dataset, 8, 0.01, 1)
    shards = [paper.Shard(dataset.train, rows) for rows in paper.iid(dataset.train, 3, seed=paper.key(1, "data"))[1]]
    task = paper.Task("images", paper.mlp(dataset, 4), dataset)
    found = paper.descend(task, shards, 8, 0.01, 1, 5)
    (start, _) = paper.flatten_module(task.initial(paper.key(1, "init")))
    moved = float((run.models[0] - start).norm())
    assert float((found - run.models[0]).norm()) < 0.02 * moved


@pytest.mark.parametrize(
    ("many", "one", "floats", "expected"),
    [(1.0, 1.5, 0.99, [True, True]), (1.0, 0.9, 1.0, [False, True]), (1.0, 1.1, 1.03, [True, False])],
)
def test_losses_are_judged(many: float, one: float, floats: float, expected: list[bool]) -> None:
    found = paper.judge({"8": many, "1": one, "floats": floats}, "data")
    assert [finding.holds for finding in found] == expected


def test_rates_are_tuned_on_another_seed() -> None:
    for setting in (paper.CHECK, paper.FULL):
        assert setting.tuning_seed not in setting.seeds
