"""The claim's own arithmetic: its exact criteria on a model that was not trained, and how accuracies are judged."""

from __future__ import annotations

import torch

from shoal.papers import sgd_freeze_embed as paper
from tests.restatements.instruments.layer_norms import training_bytes


def test_the_exact_criteria_hold_and_bytes_are_the_restated_ones() -> None:
    figures: dict[str, float] = {}
    start = paper.task(0).initial(0)
    assert paper.untouched(start).holds
    assert paper.memory(start, figures).holds
    for name, theirs in (("AdamW", "adamw"), ("SGD with momentum", "momentum"), ("SGD", "sgd")):
        assert figures[f"bytes a trained parameter, {name}"] == training_bytes(theirs, 1)


def test_a_new_head_is_drawn_and_the_rest_is_kept() -> None:
    start = paper.task(0).initial(0)
    made = paper.with_new_head(start, 1)
    moved = [
        name for (name, p), q in zip(start.named_parameters(), made.parameters(), strict=True) if not torch.equal(p, q)
    ]
    assert moved == ["head.weight", "head.bias"]


def test_classes_are_apart_and_held_out_images_are_not_trained_on() -> None:
    assert sorted(paper.task(5).dataset.train.targets.unique().tolist()) == [0, 1, 2, 3, 4]
    held = paper.tuning().dataset
    assert (len(held.train), len(held.test)) == (paper.TRAINED, paper.HELD)
    assert not any(torch.equal(held.test.inputs[0], x) for x in held.train.inputs)


def test_accuracies_are_judged_against_each_other() -> None:
    found = {"AdamW": 0.6, "SGD": 0.55, "SGD, frozen embedding": 0.595, "SGD, layers normalised": 0.54}
    assert [finding.holds for finding in paper.compared(found)] == [True, True, False]
    assert [f.holds for f in paper.compared({**found, "SGD": 0.6, "AdamW": 0.61})] == [False, False, False]
